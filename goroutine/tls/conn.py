"""Conn: TLS over a connection of a stream, with the methods of one.

An `Engine` and two Mutexes: one goroutine at a time reads, and one writes. Who reads takes
plaintext out of the engine, and while there is none, feeds it what the connection brings. Who
writes has pieces sealed and sends them, and nobody else sends anything: so bytes are sent in
the order in which they were made. Reading never waits for writing. If it has made something
that is to be sent, a goroutine is started for that (`_answer`), which waits for its turn to
write. (Were the reader to wait, two peers that both write, and both have something to answer,
would wait for each other.)

Deadlines are the connection's own. Here they are only remembered for what needs no connection:
data that has been decrypted already is not given away after the deadline.

What ends a write in the middle leaves a part of a record at the peer, of a length that is not
known here, and no record can follow it. So that is the end of writing. Go has the same rule.

Closing. ``closed`` is set first, under the engine's lock; whoever gets a turn after that looks
at it. If nobody is writing, close_notify is sent, at once if there is room for it; then the
connection is closed, which wakes who waits there, and they look at ``closed`` to tell what
has happened. Only where there is no room a goroutine stays behind for some time (`_leave`);
who reads is woken then by a deadline in the past.

Locks are taken in this order: the engine's, then those of the connection.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from ..errors import Canceled
from ..io.deadline import timed_out
from ..io.options import Options, TCPOptions
from ..net.memory import PipeConn
from ..runtime.clock import now
from ..runtime.park import gosched
from ..runtime.sleep import sleep
from ..runtime.spawn import go
from ..runtime.wait import check_ctx
from .engine import PIECE
from .handshake import CHUNK, INTERRUPTED, Shaking
from .state import ConnectionState, state_of
from .stream import Stream, write_now

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Conn"]

T = TypeVar("T")

PIECES = 4  # of a long write between two turns of the others
LEAVING = 5.0  # seconds that close_notify may take. Go: the same
LINGER = 0.01  # of these, before what the peer sends is thrown away


class Conn(Shaking, TCPOptions):
    """A connection with TLS, with the methods of a `net.Conn`. Made by `client`, `server`,
    `dial`, and by a `Listener`, whose connections shake hands with the first read or write.

    Reads and writes may overlap; reads are serialised, and so are writes. Usable as
    ``async with conn:``, which closes it and waits until that is done. Go: tls.Conn.

    >>> import ssl
    >>> def context(side):  # with a shared key, so that the example needs no certificate
    ...     made = ssl.SSLContext(side)
    ...     made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    ...     made.maximum_version = ssl.TLSVersion.TLSv1_2
    ...     made.set_ciphers("PSK")
    ...     return made
    >>> async def main():
    ...     server, client = context(ssl.PROTOCOL_TLS_SERVER), context(ssl.PROTOCOL_TLS_CLIENT)
    ...     server.set_psk_server_callback(lambda identity: b"a shared key")
    ...     client.set_psk_client_callback(lambda hint: ("me", b"a shared key"))
    ...     a, b = net.pipe()
    ...     accepting = goroutine.go(tls.server, b, server)
    ...     async with await tls.client(a, client) as conn, await accepting as peer:
    ...         goroutine.go(conn.write, b"hello")
    ...         return await peer.read(), peer.connection_state().version
    >>> goroutine.start(main)
    (b'hello', 'TLSv1.2')
    """

    # -- reading --------------------------------------------------------------------------

    async def read(self, n: int = 65536, *, ctx: Context | None = None) -> bytes:
        """Up to ``n`` bytes, as soon as there are any; ``b""`` when the peer has announced the
        end of the stream (close_notify).

        ``ssl.SSLEOFError`` if the connection ends without that: what came may have been cut
        off. (``b""``, if the context has ``ssl.OP_IGNORE_UNEXPECTED_EOF``.) ``ssl.SSLError`` for
        what was changed on its way, and for the peer's alerts, from then on. `ConnClosed` if it
        was closed here, also while this read waits; ``TimeoutError`` after the deadline;
        `Canceled` if ``ctx`` is, or gets, cancelled. Cancel safety: a cancelled read has taken no
        data, nor has one that timed out. Go: Conn.Read.
        """
        if n < 1:
            return self._nothing(n)
        if ctx is not None:
            check_ctx(ctx)
        if not self._reading.try_lock():
            await self._reading.lock(ctx=ctx)
        try:
            return await self._receive(n, ctx)
        finally:
            self._reading.unlock()

    async def _receive(self, n: int, ctx: Context | None) -> bytes:
        """read() for whose turn it is."""
        if self.closed:
            raise self.closed_error()
        if self._read_until is not None and now() >= self._read_until:
            raise timed_out()
        if not self._shaken:
            await self.handshake(ctx=ctx)
        engine = self._engine
        fed = None
        while True:
            try:
                data = engine.take(n, fed)
            finally:
                if engine.answers:
                    self._answer_soon()
            if data is not None:
                return data
            try:
                fed = await self._raw.read(CHUNK, ctx=ctx)
            except OSError as failure:
                self._check_closed(failure)
                raise

    async def read_exactly(self, n: int, *, ctx: Context | None = None) -> bytes:
        """Exactly ``n`` bytes. ``EOFError`` if the stream ends before (what came is lost).

        Other readers are not served in between. Otherwise as `read`, also in cancel safety: a
        cancelled one, or one that timed out, has taken nothing. Go: io.ReadFull.
        """
        if n < 1:
            return self._nothing(n)
        if ctx is not None:
            check_ctx(ctx)
        if not self._reading.try_lock():
            await self._reading.lock(ctx=ctx)
        parts: list[bytes] = []
        missing = n
        try:
            while missing:
                data = await self._receive(missing, ctx)
                if not data:
                    raise EOFError(f"unexpected EOF: {missing} of {n} bytes missing")
                if len(data) == n:
                    return data
                parts.append(data)
                missing -= len(data)
            return b"".join(parts)
        except (Canceled, TimeoutError):
            self._engine.put_back(parts)
            raise
        finally:
            self._reading.unlock()

    async def read_into(self, buffer: bytearray | memoryview, *, ctx: Context | None = None) -> int:
        """Fill the beginning of ``buffer``; how many bytes, 0 at the end of the stream.

        ``TypeError`` for a buffer that can't be written to. Otherwise as `read`.
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("read_into() needs a buffer that is not read-only")
        data = await self.read(len(view), ctx=ctx)
        view[: len(data)] = data
        return len(data)

    def _nothing(self, n: int) -> bytes:
        if n < 0:
            raise ValueError("read of a negative number of bytes")
        if self.closed:
            raise self.closed_error()
        return b""

    def _answer_soon(self) -> None:
        """Reading has made something that is to be sent."""
        self._engine.answers = False
        try:
            go(self._answer)
        except RuntimeError:
            pass  # the run is over

    async def _answer(self) -> None:
        await self._writing.lock()
        try:
            late = self._write_until is not None and now() >= self._write_until
            # (If it is late, it goes with the next that is written.)
            if not (late or self.closed or self._broken or self._shut):
                await self._deliver(self._engine.outgoing(), None)
        except OSError:
            pass  # who writes next is told
        finally:
            self._writing.unlock()

    # -- writing --------------------------------------------------------------------------

    async def write(
        self, data: bytes | bytearray | memoryview, *, ctx: Context | None = None
    ) -> int:
        """Write all of ``data``; waits while the peer takes no more. Returns len(data).

        ``BrokenPipeError`` or ``ConnectionResetError`` if the peer is gone, ``BrokenPipeError``
        also after `close_write`; `ConnClosed` if it was closed here, ``TimeoutError`` after the
        deadline, `Canceled` if ``ctx`` is, or gets, cancelled. A write that failed while it
        waited, also by a time-out or being cancelled, may have sent some of the data; *after it
        nothing can be written any more*: ``BrokenPipeError``. (Reading goes on.) One that found
        the deadline passed, or ``ctx`` cancelled, has done nothing. Go: Conn.Write.
        """
        if ctx is not None:
            check_ctx(ctx)
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        if not self._writing.try_lock():
            await self._writing.lock(ctx=ctx)
        try:
            self._check_write()
            if not self._shaken:
                await self.handshake(ctx=ctx)
            if len(data) <= PIECE:
                if data:
                    await self._deliver(self._engine.seal(data), ctx)
            else:
                await self._write_long(memoryview(data), ctx)
            return len(data)
        finally:
            self._writing.unlock()

    def _check_write(self) -> None:
        """Whether anything can be written."""
        if self.closed:
            raise self.closed_error()
        if self._write_until is not None and now() >= self._write_until:
            raise timed_out()
        if self._broken:
            raise BrokenPipeError(errno.EPIPE, INTERRUPTED)
        if self._shut:
            raise BrokenPipeError(errno.EPIPE, "tls: write after close_write")

    async def _write_long(self, data: memoryview, ctx: Context | None) -> None:
        """In pieces, so that the machine has time for others, too. What ends it between two of
        them has cut the data just as well."""
        try:
            for i, at in enumerate(range(0, len(data), PIECE)):
                if i:
                    if i % PIECES == 0:
                        await gosched()
                    self._check_write()
                await self._deliver(self._engine.seal(data[at : at + PIECE]), ctx)
        except BaseException:
            self._broken = True
            raise

    async def _deliver(self, out: bytes, ctx: Context | None) -> None:
        """Send what the engine has made, for whose turn it is to write."""
        try:
            await self._raw.write(out, ctx=ctx)
        except BaseException as failure:
            self._broken = True
            self._check_closed(failure)
            raise

    async def writev(
        self, buffers: Iterable[bytes | bytearray | memoryview], *, ctx: Context | None = None
    ) -> int:
        """Write all buffers, one after the other, with nothing in between; how many bytes.

        Otherwise as `write`. Go: net.Buffers.
        """
        return await self.write(b"".join(buffers), ctx=ctx)

    async def close_write(self) -> None:
        """Announce the end of the stream to the peer (close_notify), after writes that are under
        way; reading goes on. The connection below stays open in both directions.

        If the deadline for writing has passed, it may take five seconds. `ConnClosed` if it was
        closed here. Cancel safety: as `write`. Go: Conn.CloseWrite.
        """
        async with self._writing:
            if not (self._shaken or self.closed):
                await self.handshake()
            with self._engine.lock:
                if self.closed:
                    raise self.closed_error()
                if self._shut:
                    return
                if self._write_until is not None and now() >= self._write_until:
                    self._raw.set_write_deadline(now() + LEAVING)
            if self._broken:
                raise BrokenPipeError(errno.EPIPE, INTERRUPTED)
            self._shut = True
            await self._deliver(self._engine.farewell(), None)

    # -- the rest -------------------------------------------------------------------------

    def set_read_deadline(self, when: float | None) -> None:
        """From ``when`` on, reads fail with ``TimeoutError("i/o timeout")``; None: never.

        As that of a `net.Conn`. Go: Conn.SetReadDeadline.
        """
        with self._engine.lock:
            if self.closed:
                raise self.closed_error()
            self._raw.set_read_deadline(when)
            self._read_until = when

    def set_write_deadline(self, when: float | None) -> None:
        """From ``when`` on, writes fail with ``TimeoutError``; None: never.

        A write that has begun when the deadline passes is the last: see `write`.
        Go: Conn.SetWriteDeadline.
        """
        with self._engine.lock:
            if self.closed:
                raise self.closed_error()
            self._raw.set_write_deadline(when)
            self._write_until = when

    def connection_state(self) -> ConnectionState:
        """What the two ends have agreed on: version, cipher, protocol (ALPN), certificates.
        Go: Conn.ConnectionState."""
        with self._engine.lock:
            return state_of(self._engine.object) if self._shaken else ConnectionState()

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later `client` can resume, with the same context. With TLS 1.3 there is one
        that can be resumed when something has been read."""
        with self._engine.lock:
            return self._engine.object.session

    @property
    def net_conn(self) -> Stream:
        """The connection below. To read or write it is an error that TLS is made to find.
        Go: Conn.NetConn."""
        return self._raw

    @property
    def local_address(self) -> str:
        """That of the connection below. Go: LocalAddr."""
        return self._raw.local_address

    @property
    def remote_address(self) -> str:
        """That of the connection below. Go: RemoteAddr."""
        return self._raw.remote_address

    def with_socket(self, call: Callable[[socket.socket], T]) -> T:
        """See io.options.Options: those of the connection below."""
        if not isinstance(self._raw, Options):
            raise OSError(errno.EOPNOTSUPP, "the connection below has no socket")
        return self._raw.with_socket(call)

    def close(self) -> None:
        """Close it, and the connection below; who reads or writes it gets `ConnClosed`. More
        than once does no harm. From any thread.

        The peer is sent close_notify before, unless somebody is just writing: then it is taken
        for a way to interrupt that. Where there is no room for it at once, this goes on without
        the caller, for at most five seconds. Go: Conn.Close, which waits.
        """
        with self._engine.lock:
            if self.closed:
                return
            self.closed = True
        rest = b""
        if self._shaken and self._writing.try_lock():
            try:
                if not (self._broken or self._shut):
                    rest = self._engine.farewell()
                    rest = rest[write_now(self._raw, rest) :]
            finally:
                self._writing.unlock()
        if rest:
            try:
                self._raw.set_read_deadline(0.0)  # who reads looks, and finds it closed
                self._raw.set_write_deadline(now() + LEAVING)
                self._leaving = go(self._leave, rest)
                return
            except (OSError, RuntimeError):
                pass  # it is closed; the run is over
        self._raw.close()

    async def _leave(self, rest: bytes) -> None:
        """The end of closing. If it takes long, what the peer still sends is read, for it may be
        that it only reads when that is done (as do two ends of a pipe that are both closed)."""
        try:
            go(self._drain)
            await self._raw.write(rest)
        except OSError:
            pass
        finally:
            self._raw.close()

    async def _drain(self) -> None:
        async with self._reading:
            pass  # who was woken has left
        await sleep(LINGER)
        try:
            self._raw.set_read_deadline(None)
            while await self._raw.read(CHUNK):
                pass
        except OSError:
            pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        leaving = self._leaving
        if leaving is None or not (failure is None or isinstance(failure, Exception)):
            return
        if not isinstance(self._innermost(), PipeConn):  # whose peer lives as long as this program
            await leaving

    def _innermost(self) -> Stream:
        """What all the TLS goes over."""
        conn = self._raw
        while isinstance(conn, Conn):
            conn = conn.net_conn
        return conn

    def __repr__(self) -> str:
        return f"<tls.Conn over {self._raw!r}{' closed' if self.closed else ''}>"
