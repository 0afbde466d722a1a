"""Conn: a stream connection on a PollDesc. Made by net.listen and net.dial.

A connection is received for by one machine, its *home*, for as long as it lives. A
goroutine that reads it may run anywhere; when it has to wait, it goes on at home, where the
data arrives. So a handler stays with its connection's machine without being pinned to it.
"""

from __future__ import annotations

import errno
import os
import socket
import types
from collections.abc import Callable, Generator, Iterable
from os import write as os_write
from typing import TYPE_CHECKING, Any

from ..errors import Canceled, ConnClosed
from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit, Goroutine
from ..runtime.machine import Machine
from ..runtime.shared import current, scoped
from ..runtime.wait import cancelable, check, check_ctx
from .address import format_address
from .blocked import Blocked, Reading
from .deadline import Timed
from .desc import CLOSED, PollDesc
from .options import TCPOptions
from .sendfile import HasFd, sendfile

if TYPE_CHECKING:
    from ..context import Context

    type Under = tuple[Goroutine[Any], Context | None] | None

__all__ = ["CLOSED", "Conn", "borrowed", "new_conn", "shut_down"]

BUFFER = 4096  # one completion never brings more (uring.BUFFER_SHIFT)
_bytes, _type, _len = bytes, type, len  # found in one look-up instead of two
WRITE_MOST = 1 << 18  # bytes per write(2) once a socket has been full: others want a turn


class Conn(PollDesc, TCPOptions, Timed):
    """A connection. Reads and writes may overlap; reads are serialised, and so are writes.

    Reads fail with ``TimeoutError`` after `set_read_deadline`, writes after
    `set_write_deadline`; what arrives is kept for reads under a later deadline. Usable as
    ``async with conn:``, which closes it. Go: net.Conn, net.TCPConn, net.UnixConn.

    >>> async def main():
    ...     listener = await net.listen("tcp", "127.0.0.1:0")
    ...     async with listener, await net.dial("tcp", listener.address) as conn:
    ...         async with await listener.accept() as peer:
    ...             await conn.write(b"hello")
    ...             await conn.close_write()
    ...             return await peer.read_exactly(2), await peer.read(), await peer.read()
    >>> goroutine.start(main)
    (b'he', b'llo', b'')
    """

    __slots__ = ("_local", "_remote")

    def __init__(self, fd: int, home: Machine, key: int) -> None:
        super().__init__(fd, home, key)
        self._local = self._remote = ""

    # -- reading --------------------------------------------------------------------------

    @types.coroutine
    def read(self, n: int = 65536, *, ctx: Context | None = None) -> Generator[Commit, None, bytes]:
        """Up to ``n`` bytes, as soon as there are any; ``b""`` at the end of the stream.

        ``ConnectionResetError`` if the peer reset it, `ConnClosed` if it was closed here,
        also while this read waits; ``TimeoutError`` after the deadline; `Canceled` if ``ctx``
        is, or gets, cancelled. Cancel safety: a cancelled read has taken no data, nor has one
        that timed out. Go: Conn.Read.
        """
        if n < BUFFER or ctx is not None or scoped:
            return (yield from self.read_under(n, ctx))
        try:
            self.take_read()
        except IndexError:
            yield from self.wait_to_read()
        try:
            if not self.news:
                # The usual case, short; all others are behind the flags.
                yield self.park
                data: bytes | None = self.data
                if data is not None:
                    self.data = None
                    return data
            return (yield from self.receive(n))
        finally:
            self.put_read(True)
            if self.turns:
                self.serve_turns()

    def read_under(self, n: int, ctx: Context | None) -> Generator[Commit, None, bytes]:
        """read() that may give less than has come, or that something may cancel."""
        if n < 1:
            return self.nothing(n)
        under = self.cancels(ctx)
        try:
            self.take_read()
        except IndexError:
            yield from self.wait_to_read(ctx)
        try:
            return (yield from self.receive(n, under))
        finally:
            self.put_read(True)
            if self.turns:
                self.serve_turns()

    def cancels(self, ctx: Context | None) -> Under:
        """The goroutine, and what ctx it waits under, if something can cancel it here."""
        g = current().g
        if g is None or (ctx is None and g.scope is None):
            return None
        if ctx is not None:
            check_ctx(ctx)
        return g, ctx

    def receive(self, n: int, under: Under = None) -> Generator[Commit, None, bytes]:
        """read() for who holds the token."""
        chunks = self.chunks
        direct = self.home.poller.direct
        data: bytes
        while True:
            self.news = False  # then look: news that come now set it again
            if self.barred:
                # (Not by ended(): the deadline may be lifted before that looks, and what it says
                # then is that the stream has ended.)
                self.news = True
                raise self.barred_error()
            if chunks:
                data = chunks.pop(0)
                break
            if self.eof or self.error:
                return self.ended()
            if direct:
                try:
                    data = os.read(self.fd, n)
                except BlockingIOError:
                    pass
                except OSError as failure:
                    self.error = failure.errno or errno.EIO
                    return self.ended()
                else:
                    if not data and n:
                        self.eof = True
                        return self.ended()
                    # A short read has drained the socket: the next one parks at once.
                    if len(data) == n or self.hup:
                        self.news = True
                    return data
            if self.paused:
                self.at_home(self.home.poller.resume)  # all is read: receive again
            if under is None:
                yield self.park
            else:
                yield from self.park_under(*under)
            if self.data is not None:
                data, self.data = self.data, None
                break
        if len(data) > n:
            chunks.insert(0, data[n:])
            data = data[:n]
        if chunks or self.eof or self.error or self.paused:
            self.news = True
        return data

    def park_under(self, g: Goroutine[Any], ctx: Context | None) -> Generator[Commit]:
        """Park, and be woken by a cancellation, too. Data that came with it stays here."""
        check(g, ctx)
        try:
            yield from cancelable(Reading(self), self.park, g, ctx)
        except Canceled:
            if self.data is not None:
                self.chunks.insert(0, self.data)  # only we take from there: the token is ours
                self.data = None
            self.news = True
            raise

    def nothing(self, n: int) -> bytes:
        """What a read of no bytes gives, at once; fewer are an error."""
        if n < 0:
            raise ValueError("read of a negative number of bytes")
        if self.closed:
            raise ConnClosed(errno.EBADF, CLOSED)
        return b""

    def ended(self) -> bytes:
        """What a read gives when nothing is left and nothing more will come."""
        self.news = True  # until it gives something else
        if self.closed:
            raise self.closed_error()
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return b""

    @types.coroutine
    def read_exactly(self, n: int, *, ctx: Context | None = None) -> Generator[Commit, None, bytes]:
        """Exactly ``n`` bytes. ``EOFError`` if the stream ends before (what came is lost).

        Other readers are not served in between. Cancel safety: a cancelled one, or one that
        timed out, has taken nothing. Go: io.ReadFull.
        """
        if n < 1:
            return self.nothing(n)
        under = self.cancels(ctx)
        try:
            self.take_read()
        except IndexError:
            yield from self.wait_to_read(ctx)
        parts: list[bytes] = []
        missing = n
        try:
            while missing:
                data = yield from self.receive(missing, under)
                if not data:
                    raise EOFError(f"unexpected EOF: {missing} of {n} bytes missing")
                if len(data) == n:
                    return data
                parts.append(data)
                missing -= len(data)
            return b"".join(parts)
        except (Canceled, TimeoutError):
            if parts:
                self.chunks.insert(0, b"".join(parts))
                self.news = True
            raise
        finally:
            self.put_read(True)
            if self.turns:
                self.serve_turns()

    async def read_into(self, buffer: bytearray | memoryview, *, ctx: Context | None = None) -> int:
        """Fill the beginning of ``buffer``; how many bytes, 0 at the end of the stream.

        ``TypeError`` for a buffer that can't be written to. Otherwise as `read`, also in
        cancel safety: a cancelled one has left the buffer as it was.
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("read_into() needs a buffer that is not read-only")
        data = await self.read(len(view), ctx=ctx)
        view[: len(data)] = data
        return len(data)

    # -- writing --------------------------------------------------------------------------

    @types.coroutine
    def write(
        self, data: bytes | bytearray | memoryview, *, ctx: Context | None = None
    ) -> Generator[Commit, None, int]:
        """Write all of ``data``; waits while the peer takes no more. Returns len(data).

        ``BrokenPipeError`` or ``ConnectionResetError`` if the peer is gone, `ConnClosed` if
        the connection was closed here, ``TimeoutError`` after the deadline, `Canceled` if
        ``ctx`` is, or gets, cancelled. After an error, also after a time-out or being cancelled
        while it waited, some of the data may have been sent. Go: Conn.Write.
        """
        if ctx is not None:
            check_ctx(ctx)
        if _type(data) is not _bytes:
            data = memoryview(data).cast("B")
        n = 0
        if self.free_write:
            # One machine only: nobody comes between this look at the token and the write.
            try:
                n = os_write(self.fd, data)
            except BlockingIOError:
                pass
            except OSError as failure:
                raise self.write_failed(failure) from None
            if n == _len(data):
                return n
        try:
            self.take_write()
        except IndexError:
            yield from self.wait_to_write(ctx)
        try:
            if not n:
                try:
                    n = os_write(self.fd, data)
                except BlockingIOError:
                    pass
                except OSError as failure:
                    raise self.write_failed(failure) from None
            if n != len(data):
                yield from self.write_rest(memoryview(data), n, ctx)
        finally:
            self.put_write(True)
            if self.turns:
                self.serve_turns()
        return len(data)

    def write_failed(self, failure: OSError) -> OSError:
        """What a write is told: that we closed the connection explains every error."""
        return ConnClosed(errno.EBADF, CLOSED) if self.closed else failure

    def write_rest(self, view: memoryview, n: int, ctx: Context | None) -> Generator[Commit]:
        """The part the socket had no room for. Blocked writes wait for readiness, and the
        bytes stay with the goroutine: a write that another machine can take over."""
        while n < len(view):
            yield from Blocked(self, True).pause(ctx)
            try:
                n += os_write(self.fd, view[n : n + WRITE_MOST])
            except BlockingIOError:
                pass
            except OSError as failure:
                raise self.write_failed(failure) from None

    async def writev(
        self, buffers: Iterable[bytes | bytearray | memoryview], *, ctx: Context | None = None
    ) -> int:
        """Write all buffers, one after the other, with nothing in between; how many bytes.

        Otherwise as `write`. Go: net.Buffers.
        """
        return await self.write(b"".join(buffers), ctx=ctx)

    @types.coroutine
    def sendfile(
        self,
        file: int | HasFd,
        offset: int = 0,
        count: int | None = None,
        *,
        ctx: Context | None = None,
    ) -> Generator[Commit, None, int]:
        """Write a regular file, or ``count`` bytes of it from ``offset`` on; how many bytes.

        ``file`` is an fd or a file object, whose position is neither used nor moved. The kernel
        reads it: where it isn't in memory, the machine waits for the disk. Otherwise as
        `write`. Go: TCPConn.ReadFrom of an os.File.

        >>> import tempfile
        >>> async def main():
        ...     listener = await net.listen("tcp", "127.0.0.1:0")
        ...     async with listener, await net.dial("tcp", listener.address) as conn:
        ...         async with await listener.accept() as peer:
        ...             with tempfile.TemporaryFile() as file:
        ...                 file.write(b"hello, world")
        ...                 file.flush()
        ...                 return await conn.sendfile(file, offset=7), await peer.read()
        >>> goroutine.start(main)
        (5, b'world')
        """
        return (yield from sendfile(self, file, offset, count, ctx))

    @types.coroutine
    def _shut(self) -> Generator[Commit]:
        try:
            self.write_token.pop()  # a deadline that has passed doesn't matter
        except IndexError:
            if not (yield from self.wait_turn(True)):
                raise ConnClosed(errno.EBADF, CLOSED) from None
        try:
            shutdown(self.fd, socket.SHUT_WR)
        except OSError as failure:
            raise self.write_failed(failure) from None
        finally:
            self.put_write(True)
            if self.turns:
                self.serve_turns()

    async def close_write(self) -> None:
        """Send the end of the stream; reading goes on. Waits for writes that are under way.

        ``OSError`` if the peer is gone, `ConnClosed` if it was closed here. Cancel safety: a
        cancelled one has sent nothing. Go: TCPConn.CloseWrite.
        """
        await self._shut()

    # -- the rest -------------------------------------------------------------------------

    def close(self) -> None:
        """Close it. What has been written is still sent; who reads or writes it gets
        `ConnClosed`. More than once does no harm. From any thread. Go: Conn.Close."""
        if self.foreign_close(Conn.close) or not self.start_close():
            return
        # The peer learns at once, and a blocked writer comes to an end. Only for writing: were
        # it shut down for reading, too, what the kernel still receives would not open the
        # window again, and a peer that is writing would wait for a minute.
        shut_down(self.fd)
        self.end_close()

    @property
    def local_address(self) -> str:
        """Our end, as "host:port", "[host]:port" or a path. `ConnClosed` once closed.
        Go: LocalAddr."""
        if not self._local:
            self._local = self._name(socket.socket.getsockname)
        return self._local

    @property
    def remote_address(self) -> str:
        """The peer's end, as "host:port", "[host]:port" or a path ("@": one without a name).
        ``OSError`` if it is gone and was not asked for before, `ConnClosed` if closed here.
        Go: RemoteAddr."""
        if not self._remote:
            self._remote = self._name(socket.socket.getpeername)
        return self._remote

    def _name(self, ask: Callable[[socket.socket], Any]) -> str:
        if self.closed:
            raise ConnClosed(errno.EBADF, CLOSED)
        with borrowed(self.fd) as s:
            return format_address(ask(s))


class borrowed:
    """A socket object for an fd that stays ours."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)

    def __enter__(self) -> socket.socket:
        return self.socket

    def __exit__(self, *_: object) -> None:
        self.socket.detach()


def shutdown(fd: int, how: int) -> None:
    with borrowed(fd) as s:
        s.shutdown(how)


def shut_down(fd: int, how: int = socket.SHUT_WR) -> None:
    """shutdown(2) of a socket that may be gone already."""
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    except OSError:
        return
    try:
        s.shutdown(how)
    except OSError:
        pass
    finally:
        s.detach()


def new_conn(fd: int, home: Machine) -> Conn:
    """A connection for a connected, non-blocking socket, polled by ``home``."""
    conn = Conn(fd, home, next(current().poller.keys))
    if current() is not home:
        home.poller.expect(conn)  # it may be stuck just now
    conn.at_home(home.poller.attach)
    return conn


waits_for("IO wait", Conn.read, Conn.receive)
