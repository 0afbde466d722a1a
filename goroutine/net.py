"""TCP: connections that park a goroutine, not a thread. Go: package net.

A connection is received for by one machine, its *home*, for as long as it lives. A
goroutine that reads it may run anywhere; when it has to wait, it goes on at home, where the
data arrives. So a handler stays with its connection's machine without being pinned to it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import types
from _thread import get_ident
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from os import write as os_write
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

from .errors import ConnClosed
from .io.address import Address, family_of, format_address, literal, parse
from .io.desc import PollDesc, close_fd
from .io.poller import POLLOUT, Wait
from .runtime.goroutine import Commit, Goroutine
from .runtime.machine import Machine
from .runtime.offload import blocking
from .runtime.park import ready
from .runtime.shared import current, flags
from .runtime.spawn import spawners
from .runtime.timers import Timer

__all__ = ["Conn", "Listener", "dial", "listen"]

_log = logging.getLogger("goroutine.net")

CLOSED = "use of closed network connection"
WRITE_MOST = 1 << 18  # bytes per write(2) once a socket has been full: others want a turn
BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn


class Conn(PollDesc):
    """A connection. Reads and writes may overlap; reads are serialised, and so are writes.

    Usable as ``async with conn:``, which closes it.
    """

    __slots__ = ("_local", "_remote")

    def __init__(self, fd: int, home: Machine, key: int) -> None:
        super().__init__(fd, home, key)
        self._local = self._remote = ""

    # -- reading --------------------------------------------------------------------------

    @types.coroutine
    def read(self, n: int = 65536) -> Generator[Commit, None, bytes]:
        """Up to ``n`` bytes, as soon as there are any; ``b""`` at the end of the stream.

        ``ConnectionResetError`` if the peer reset it, `ConnClosed` if it was closed here,
        also while this read waits. Cancel safety: a cancelled read has taken no data.
        Go: Conn.Read.
        """
        if n < 1:
            return self.nothing(n)
        try:
            self.take_read()
        except IndexError:
            yield from self.wait_to_read()
        try:
            if not self.news:
                # The usual case, short; all others are behind the flag.
                yield self.park
                data: bytes | None = self.data
                if data is not None:
                    self.data = None
                    if len(data) <= n:
                        return data
                    self.chunks.insert(0, data)
            return (yield from self.receive(n))
        finally:
            self.put_read(True)
            if self.turns:
                self.serve_turns()

    def receive(self, n: int) -> Generator[Commit, None, bytes]:
        """read() for who holds the token."""
        chunks = self.chunks
        direct = self.home.poller.direct
        data: bytes
        while True:
            self.news = False  # then look: news that come now set it again
            if self.closed:
                return self.ended()
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
            yield self.park
            if self.data is not None:
                data, self.data = self.data, None
                break
        if len(data) > n:
            chunks.insert(0, data[n:])
            data = data[:n]
        if chunks or self.eof or self.error or self.paused:
            self.news = True
        return data

    def nothing(self, n: int) -> bytes:
        """What a read of no bytes gives, at once; fewer are an error."""
        if n < 0:
            raise ValueError("read of a negative number of bytes")
        if self.closed:
            raise ConnClosed(errno.EBADF, CLOSED)
        return b""

    def wait_to_read(self) -> Generator[Commit]:
        """The read token, or `ConnClosed`: closing has it for good."""
        if not (yield from self.wait_turn(False)):
            raise ConnClosed(errno.EBADF, CLOSED)

    def ended(self) -> bytes:
        """What a read gives when nothing is left and nothing more will come."""
        self.news = True  # for ever
        if self.closed:
            raise ConnClosed(errno.EBADF, CLOSED)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return b""

    @types.coroutine
    def read_exactly(self, n: int) -> Generator[Commit, None, bytes]:
        """Exactly ``n`` bytes. ``EOFError`` if the stream ends before (what came is lost).

        Other readers are not served in between. Go: io.ReadFull.
        """
        if n < 1:
            return self.nothing(n)
        try:
            self.take_read()
        except IndexError:
            yield from self.wait_to_read()
        try:
            data = yield from self.receive(n)
            if len(data) == n:
                return data
            parts = [data]
            missing = n - len(data)
            while missing:
                data = yield from self.receive(missing)
                if not data:
                    raise EOFError(f"unexpected EOF: {missing} of {n} bytes missing")
                parts.append(data)
                missing -= len(data)
            return b"".join(parts)
        finally:
            self.put_read(True)
            if self.turns:
                self.serve_turns()

    async def read_into(self, buffer: bytearray | memoryview) -> int:
        """Fill the beginning of ``buffer``; how many bytes, 0 at the end of the stream."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("read_into() needs a buffer that is not read-only")
        data = await self.read(len(view))
        view[: len(data)] = data
        return len(data)

    # -- writing --------------------------------------------------------------------------

    @types.coroutine
    def write(self, data: bytes | bytearray | memoryview) -> Generator[Commit, None, int]:
        """Write all of ``data``; waits while the peer takes no more. Returns len(data).

        ``BrokenPipeError`` or ``ConnectionResetError`` if the peer is gone, `ConnClosed` if
        the connection was closed here. After an error some of the data may have been sent.
        Go: Conn.Write.
        """
        if type(data) is not bytes:
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
            if n == len(data):
                return n
        try:
            self.take_write()
        except IndexError:
            yield from self.wait_to_write()
        try:
            if not n:
                try:
                    n = os_write(self.fd, data)
                except BlockingIOError:
                    pass
                except OSError as failure:
                    raise self.write_failed(failure) from None
            if n != len(data):
                yield from self.write_rest(data, n)
        finally:
            self.put_write(True)
            if self.turns:
                self.serve_turns()
        return len(data)

    def wait_to_write(self) -> Generator[Commit]:
        """The write token, or `ConnClosed`: closing has it for good."""
        if not (yield from self.wait_turn(True)):
            raise ConnClosed(errno.EBADF, CLOSED)

    def write_failed(self, failure: OSError) -> OSError:
        """What a write is told: that we closed the connection explains every error."""
        return ConnClosed(errno.EBADF, CLOSED) if self.closed else failure

    def write_rest(self, data: bytes | memoryview, n: int) -> Generator[Commit]:
        """The part the socket had no room for. Blocked writes wait for readiness, and the
        bytes stay with the goroutine: a write that another machine can take over."""
        view = memoryview(data)
        while n < len(view):
            yield Wait(self.fd, POLLOUT).park
            if self.closed:
                raise ConnClosed(errno.EBADF, CLOSED)
            try:
                n += os_write(self.fd, view[n : n + WRITE_MOST])
            except BlockingIOError:
                pass
            except OSError as failure:
                raise self.write_failed(failure) from None

    async def writev(self, buffers: Iterable[bytes | bytearray | memoryview]) -> int:
        """Write all buffers, one after the other, with nothing in between. Go: net.Buffers."""
        return await self.write(b"".join(buffers))

    @types.coroutine
    def _shut(self) -> Generator[Commit]:
        try:
            self.take_write()
        except IndexError:
            yield from self.wait_to_write()
        try:
            shutdown(self.fd, socket.SHUT_WR)
        except OSError as failure:
            raise self.write_failed(failure) from None
        finally:
            self.put_write(True)
            if self.turns:
                self.serve_turns()

    async def close_write(self) -> None:
        """Send the end of the stream; reading goes on. Go: TCPConn.CloseWrite."""
        await self._shut()

    # -- the rest -------------------------------------------------------------------------

    def close(self) -> None:
        """Close it. What has been written is still sent; who reads or writes it gets
        `ConnClosed`. More than once does no harm. Go: Conn.Close."""
        if not self.start_close():
            return
        # The peer learns at once, and both a receive that the kernel holds the socket for
        # and a blocked writer come to an end.
        with_socket_errors_ignored(self.fd)
        self.end_close()

    @property
    def local_address(self) -> str:
        """Our end, as "host:port"."""
        if not self._local:
            self._local = self._name(socket.socket.getsockname)
        return self._local

    @property
    def remote_address(self) -> str:
        """The peer's end, as "host:port"."""
        if not self._remote:
            self._remote = self._name(socket.socket.getpeername)
        return self._remote

    def _name(self, ask: Callable[[socket.socket], Any]) -> str:
        if self.closed:
            raise ConnClosed(errno.EBADF, CLOSED)
        with borrowed(self.fd) as s:
            return format_address(ask(s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


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


def with_socket_errors_ignored(fd: int) -> None:
    """shutdown(2) of a socket that may be gone already."""
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    except OSError:
        return
    try:
        s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        s.detach()


def new_conn(fd: int, home: Machine) -> Conn:
    """A connection for a connected, non-blocking socket, polled by ``home``."""
    conn = Conn(fd, home, next(current().poller.keys))
    conn.at_home(home.poller.attach)
    return conn


# -- listening -------------------------------------------------------------------------------


class Listener(PollDesc):
    """Accepts connections. ``async with`` closes it; ``async for conn in listener`` accepts.

    One machine accepts; the connections are spread over all (runtime.placement), which
    balances exactly: the kernel's own split of SO_REUSEPORT is random (perf/NOTES.md).
    """

    accepting = True

    __slots__ = ("_delay", "_lock", "_waiting", "address")

    def __init__(self, fd: int, home: Machine, key: int, address: str) -> None:
        super().__init__(fd, home, key)
        self.address = address
        """Where it listens, as "host:port", with the port that was found for port 0."""
        self._lock = threading.Lock()
        self._waiting: deque[Goroutine[Any]] = deque()
        self._delay = 0.0

    # -- from the poller, on the home machine -----------------------------------------------

    def accepted(self, result: int) -> None:
        """An fd, or a negative errno, from a multishot accept."""
        if result >= 0:
            self._delay = 0.0
            with self._lock:
                if self.closed:
                    close_fd(result)
                    return
                if not self._waiting:
                    self.chunks.append(result)
                    return
                g = self._waiting.popleft()
            g.value = result
            ready(g)
            return
        code = -result
        if self.closed or code in (errno.ECANCELED, errno.EBADF, errno.EINVAL):
            return
        if code in _RETRY_NOW:
            self._resume(None)
            return
        # Out of fds or memory: it may pass. Go's Serve waits 5 ms, doubling up to 1 s.
        self._delay = min(1.0, self._delay * 2 or 0.005)
        why = os.strerror(code)
        _log.warning("accept on %s: %s; again in %g s", self.address, why, self._delay)
        self.home.p.timers.add(Timer(monotonic() + self._delay, self._resume, None))

    def _resume(self, _: None) -> None:
        if not self.closed:
            if self.home.poller.direct:
                self.accept_all()
            else:
                self.at_home(self.home.poller.resume)

    def accept_all(self) -> None:
        """The epoll way: until there are no more."""
        with borrowed(self.fd) as s:
            while not self.closed:
                try:
                    fd, _ = s._accept()  # type: ignore[attr-defined]
                except BlockingIOError:
                    return
                except OSError as failure:
                    self.accepted(-(failure.errno or errno.EIO))
                    if failure.errno not in _RETRY_NOW:
                        return
                else:
                    os.set_blocking(fd, False)
                    self.accepted(fd)

    # -- accepting ------------------------------------------------------------------------

    @types.coroutine
    def _accept_fd(self) -> Generator[Commit, None, int]:
        g = current().g
        if g is None:
            raise RuntimeError("not in a goroutine, or in one that is being closed")
        self._lock.acquire()
        if self.chunks:
            fd: int = self.chunks.pop(0)
            self._lock.release()
            return fd
        if self.closed:
            self._lock.release()
            raise ConnClosed(errno.EBADF, CLOSED)
        g.value = None
        self._waiting.append(g)
        try:
            # Released after the frame has stopped, as in channel.py.
            yield cast(Commit, self._lock.__exit__)
        except BaseException:
            if g.value is not None:  # handed over, and nobody will take it
                close_fd(g.value)
            raise
        fd = g.value
        g.value = None
        if fd < 0:
            raise ConnClosed(errno.EBADF, CLOSED)
        return fd

    async def accept(self) -> Conn:
        """The next connection. `ConnClosed` once the listener is closed, also meanwhile.

        Cancel safety: a cancelled accept has accepted nothing. Go: Listener.Accept.
        """
        fd = await self._accept_fd()
        return new_conn(fd, self.home.runtime.placement.take())

    async def serve(self, handler: Callable[[Conn], Awaitable[object]]) -> None:
        """Call ``handler(conn)`` in a goroutine of its own for every connection.

        Returns when the listener is closed; handlers go on. The connection is closed when
        its handler returns or fails; a failure is logged and concerns nobody else.
        Go: http.Server.Serve.
        """
        while True:
            try:
                fd = await self._accept_fd()
            except ConnClosed:
                return
            m = self.home.runtime.placement.take()
            if m is current():
                _begin(fd, m, handler)
            else:
                m.post(lambda fd=fd, m=m: _begin(fd, m, handler))  # type: ignore[misc]

    def close(self) -> None:
        """Stop listening. Connections that nobody has accepted are closed. Go: Close."""
        with self._lock:
            if not self.start_close():
                return
            waiting, self._waiting = list(self._waiting), deque()
            fds, self.chunks = list(self.chunks), []
        for fd in fds:
            close_fd(fd)
        for g in waiting:
            g.value = -1
            ready(g)
        with_socket_errors_ignored(self.fd)
        self.end_close()

    def abandon(self) -> None:
        """With the connections that nobody has accepted."""
        super().abandon()
        for fd in self.chunks:
            close_fd(fd)

    def __aiter__(self) -> AsyncIterator[Conn]:
        return self

    async def __anext__(self) -> Conn:
        try:
            return await self.accept()
        except ConnClosed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_RETRY_NOW = (errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ENETDOWN)


class _Handler(Goroutine[Any]):
    """A goroutine of serve(): closes its connection at its end, and survives its failure.

    Hooks instead of a coroutine around the handler: that would cost 80 ns a step.
    """

    __slots__ = ("conn",)

    conn: Conn

    def wake_joiners(self) -> None:
        self.conn.close()
        super().wake_joiners()

    def failed(self, failure: BaseException) -> bool:
        if not isinstance(failure, Exception):
            return False
        if self.conn.closed or isinstance(failure, ConnectionError):
            # The peer went away, or somebody closed the connection under the handler.
            _log.debug("connection of %s: %s", self.name, failure)
        else:
            _log.error("%s failed; its connection is closed", self.name, exc_info=failure)
        return True


def _begin(fd: int, m: Machine, handler: Callable[[Conn], Awaitable[object]]) -> None:
    """On machine m: make the connection and its goroutine, here where both will live."""
    if flags["stop"]:
        m.runtime.placement.give_back(m)
        close_fd(fd)
        return
    conn = new_conn(fd, m)
    g = _Handler()
    g.conn = conn
    try:
        steps = handler(conn).__await__()
    except Exception as failure:
        g.fn = handler
        g.failed(failure)
        conn.close()
        return
    g.it = steps
    g.joiners = []  # not None: wake_joiners is called at the end
    spawners[get_ident()](g, handler)


async def listen(network: str, address: Address) -> Listener:
    """Listen on ``address``: "127.0.0.1:8080", "[::1]:0", ":8080" or (host, port).

    ``network`` is "tcp", "tcp4" or "tcp6"; an empty host listens everywhere ("tcp": IPv6
    and IPv4). Port 0 finds a free one: see `Listener.address`. ``OSError`` names the
    address. Go: net.Listen.
    """
    current()
    family = family_of(network)
    host, port = parse(address)
    if not host:
        if family == socket.AF_UNSPEC and socket.has_dualstack_ipv6():
            family, host = socket.AF_INET6, "::"
        else:
            host = "::" if family == socket.AF_INET6 else "0.0.0.0"
    family, where = (await resolve(network, host, port, family))[0]
    try:
        s = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it, which saves a system call for each.
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                dual = network == "tcp" and host == "::"
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
            s.bind(where)
            s.listen(BACKLOG)
            name = format_address(s.getsockname())
        except BaseException:
            s.close()
            raise
    except OSError as failure:
        raise OSError(failure.errno, f"listen {network} {address}: {failure.strerror}") from None
    m = current()
    m.runtime.placement.count(m)
    listener = Listener(s.detach(), m, next(m.poller.keys), name)
    m.poller.attach(listener)
    return listener


async def dial(network: str, address: Address) -> Conn:
    """Connect to ``address``; its addresses are tried one after the other.

    ``OSError`` (``ConnectionRefusedError``, …) names the network and address. Go: net.Dial.
    """
    current()
    family = family_of(network)
    host, port = parse(address)
    last: OSError | None = None
    for family_, where in await resolve(network, host or "localhost", port, family):
        try:
            return await _connect(family_, where)
        except OSError as failure:
            last = failure
    assert last is not None
    raise OSError(last.errno, f"dial {network} {address}: {last.strerror}") from None


@types.coroutine
def _parked(wait: Wait) -> Generator[Commit, None, int]:
    yield wait.park
    return wait.result


async def _connect(family: int, where: Any) -> Conn:
    s = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = s.connect_ex(where)
        if code in (errno.EINPROGRESS, errno.EINTR, errno.EAGAIN):
            wait = Wait(s.fileno(), POLLOUT)
            await _parked(wait)
            code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        m = current()
        m.runtime.placement.count(m)
        return new_conn(s.detach(), m)
    except BaseException:
        s.close()
        raise


async def resolve(network: str, host: str, port: int, family: int) -> list[tuple[int, Any]]:
    """(family, sockaddr) candidates, IPv4 first; never empty. Names block a pool thread."""
    known = literal(host)
    if known is not None and "%" not in host:
        if family not in (socket.AF_UNSPEC, known):
            raise OSError(errno.EAFNOSUPPORT, f"{network} {host}: no suitable address")
        where: Any = (host, port) if known == socket.AF_INET else (host, port, 0, 0)
        return [(known, where)]
    try:
        infos = await blocking(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
    except OSError as failure:
        raise OSError(failure.errno, f"lookup {host}: {failure.strerror}") from None
    except UnicodeError:
        raise OSError(errno.EINVAL, f"lookup {host}: not a valid host name") from None
    found = [(int(info[0]), info[4]) for info in infos]
    found.sort(key=lambda pair: pair[0] != socket.AF_INET)
    return found
