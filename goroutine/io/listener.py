"""Listener: accepts connections, and serves them over all machines. Made by net.listen."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from time import monotonic
from typing import TYPE_CHECKING, cast

from ..errors import Canceled, ConnClosed
from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.machine import Machine
from ..runtime.shared import current
from ..runtime.timers import Timer
from ..runtime.wait import Waiter, WaitQueue, cancelable, check, hand
from ..sync import Semaphore
from .bound import BoundPath
from .conn import Conn, borrowed, new_conn, shut_down
from .desc import PollDesc, close_fd
from .serving import Handlers, begin

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Listener"]

_log = logging.getLogger("goroutine.net")

MOST_PENDING = 256
"""Accepted connections that nobody has taken, after which accepting stops until all are. (The
kernel accepts all that wait at once, so there may be as many more as its queue has.)"""

WARN_EVERY = 10.0
"""Seconds between two warnings that accepting fails."""


class Listener(PollDesc):
    """Accepts connections. ``async with`` closes it; ``async for conn in listener`` accepts.

    Go: net.Listener.

    One machine accepts; the connections are spread over all (runtime.placement), which
    balances exactly: the kernel's own split of SO_REUSEPORT is random (perf/NOTES.md).

    >>> async def echo(conn):
    ...     while data := await conn.read():
    ...         await conn.write(data)
    >>> async def main():
    ...     async with await net.listen("tcp", "127.0.0.1:0") as listener:
    ...         goroutine.go(listener.serve, echo)
    ...         async with await net.dial("tcp", listener.address) as conn:
    ...             await conn.write(b"hello")
    ...             return await conn.read()
    >>> goroutine.start(main)
    b'hello'
    """

    accepting = True

    __slots__ = (
        "_delay",
        "_handlers",
        "_lock",
        "_path",
        "_retry",
        "_waiting",
        "_warned",
        "address",
        "most_pending",
    )

    def __init__(
        self,
        fd: int,
        home: Machine,
        key: int,
        address: str,
        path: BoundPath | None = None,
        backlog: int = 1 << 31,
    ) -> None:
        super().__init__(fd, home, key)
        self.address = address
        """Where it listens, as "host:port" with the port that was found for port 0, or a path."""
        self.most_pending = min(backlog, MOST_PENDING)
        self._path = path
        self._lock = threading.Lock()
        self._waiting = WaitQueue()
        self._handlers = Handlers()
        self._delay = 0.0
        self._retry = False  # a timer is set that accepts again
        self._warned = -WARN_EVERY

    # -- from the poller, on the home machine -----------------------------------------------

    def accepted(self, result: int) -> None:
        """An fd, or a negative errno, from a multishot accept."""
        if result >= 0:
            self._delay = 0.0
            full = False
            with self._lock:
                if self.closed:
                    close_fd(result)
                    return
                g = self._waiting.take()
                if g is None:
                    self.chunks.append(result)
                    full = len(self.chunks) >= self.most_pending and not self.paused
            if g is not None:
                hand(g, result)
            elif full:
                self.at_home(Listener._hold_back)
            return
        code = -result
        if self.closed or code in (errno.ECANCELED, errno.EBADF, errno.EINVAL):
            return
        if code in _RETRY_NOW:
            self._resume(None)
            return
        # Out of fds or memory: it may pass. Go's Serve waits 5 ms, doubling up to 1 s.
        self._delay = min(1.0, self._delay * 2 or 0.005)
        self._warn(os.strerror(code))
        self._retry = True
        self.home.p.timers.add(Timer(monotonic() + self._delay, self._resume, None))

    def _warn(self, why: str) -> None:
        """Once in a while: who floods us must not fill the disk as well."""
        now = monotonic()
        level = logging.DEBUG
        if now - self._warned >= WARN_EVERY:
            self._warned = now
            level = logging.WARNING
        _log.log(level, "accept on %s: %s; again in %g s", self.address, why, self._delay)

    def _resume(self, _: None) -> None:
        """From any thread: sysmon fires the timers of a machine that is late."""
        self._retry = False
        self.at_home(Listener._accept_again)

    def _accept_again(self) -> None:
        if not self.closed and not self.paused:
            if self.home.poller.direct:
                self.accept_all()
            else:
                self.at_home(self.home.poller.resume)

    def _hold_back(self) -> None:
        """Nobody takes what is accepted: leave the next ones to the kernel, whose queue has a
        bound. At home, as is `_go_on`; the lock, for those who take."""
        with self._lock:
            if self.closed or self.paused or len(self.chunks) < self.most_pending:
                return
            self.paused = True
        if not self.home.poller.direct:
            self.home.poller.pause(self)  # type: ignore[attr-defined]

    def _go_on(self) -> None:
        """All have been taken."""
        with self._lock:
            if not self.paused or self.chunks:
                return
            self.paused = False
        self._accept_again()

    def accept_all(self) -> None:
        """The epoll way: until there are no more. (Not while a timer is set to do that: every
        connection that comes is an edge, and would set another.)"""
        if self._retry:
            return
        with borrowed(self.fd) as s:
            while not self.closed and not self.paused:
                try:
                    fd, _ = s._accept()  # type: ignore[attr-defined]
                except BlockingIOError:
                    return
                except OSError as failure:
                    if failure.errno not in _RETRY_NOW:
                        self.accepted(-(failure.errno or errno.EIO))
                        return
                else:
                    os.set_blocking(fd, False)
                    self.accepted(fd)

    def waiting(self) -> int:
        return len(self._waiting)

    # -- accepting ------------------------------------------------------------------------

    @types.coroutine
    def _accept_fd(self, ctx: Context | None = None) -> Generator[Commit, None, int]:
        g = current().g
        if g is None:
            raise RuntimeError("not in a goroutine, or in one that is being closed")
        self._lock.acquire()
        if self.barred:
            self._lock.release()
            raise self.barred_error()
        if self.chunks:
            fd: int = self.chunks.pop(0)
            drained = self.paused and not self.chunks
            self._lock.release()
            if drained:
                self.at_home(Listener._go_on)
            return fd
        g.value = None
        # Released after the frame has stopped, as in channel.py.
        commit = cast(Commit, self._lock.__exit__)
        waiter: Waiter | None = None
        try:
            if ctx is None and g.scope is None:
                self._waiting.append(g)
                yield commit
            else:
                try:
                    check(g, ctx)
                except BaseException:
                    self._lock.release()
                    raise
                waiter = Waiter(g)
                self._waiting.append(waiter)
                yield from cancelable(waiter, commit, g, ctx)
        except Canceled:
            if waiter is not None:
                with self._lock:
                    self._waiting.leave(waiter)
            raise
        except BaseException:
            if g.value is not None:  # handed over, and nobody will take it
                close_fd(g.value)
            raise
        fd = g.value
        g.value = None
        if fd < 0:
            raise self.barred_error()
        return fd

    async def accept(self, *, ctx: Context | None = None) -> Conn:
        """The next connection. `ConnClosed` once the listener is closed, also meanwhile;
        ``TimeoutError`` after the deadline; `Canceled` if ``ctx`` is, or gets, cancelled.

        Cancel safety: a cancelled accept has accepted nothing. Go: Listener.Accept.
        """
        fd = await self._accept_fd(ctx)
        return new_conn(fd, self.home.runtime.placement.take())

    async def serve(
        self, handler: Callable[[Conn], Awaitable[object]], *, limit: int | None = None
    ) -> None:
        """Call ``handler(conn)`` in a goroutine of its own for every connection.

        Returns when the listener is closed; handlers go on (see `shutdown`). The connection is
        closed when its handler returns or fails; a failure is logged (``logging``,
        "goroutine.net") and concerns nobody else. At most ``limit`` handlers run at a time; more
        connections wait, and if the listener is closed then, this returns when a handler has
        ended. When there are no more fds or no memory it waits, and tries again.
        ``TimeoutError`` after the listener's deadline. Cancel safety: as `accept`.
        Go: http.Server.Serve.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        slots = None if limit is None else Semaphore(limit)
        while True:
            if slots is not None:
                await slots.acquire()
            try:
                fd = await self._accept_fd()
            except ConnClosed:
                return
            m = self.home.runtime.placement.take()
            g = self._handlers.new(handler, slots)
            if m is current():
                begin(g, fd, m)
            else:
                m.offer(lambda g=g, fd=fd, m=m: begin(g, fd, m))  # type: ignore[misc]

    async def shutdown(self, timeout: float | None = None, *, ctx: Context | None = None) -> bool:
        """Close the listener, and wait until the handlers that `serve` has begun have ended.

        After ``timeout`` seconds the connections of those that still run are closed under them.
        True if they all ended in time. `Canceled` if ``ctx`` is, or gets, cancelled; then they
        go on. Go: http.Server.Shutdown, and Close after its deadline.

        >>> async def main():
        ...     async def wait(conn):
        ...         await conn.read()
        ...     listener = await net.listen("tcp", "127.0.0.1:0")
        ...     serving = goroutine.go(listener.serve, wait)
        ...     async with await net.dial("tcp", listener.address) as conn:
        ...         await conn.write(b"hello")
        ...         await goroutine.sleep(0.01)
        ...         return await listener.shutdown(60)
        >>> goroutine.start(main)
        True
        """
        self.close()
        return await self._handlers.wait(timeout, ctx)

    def set_deadline(self, when: float | None) -> None:
        """From ``when`` on, `accept` fails with ``TimeoutError("i/o timeout")``; None: never.

        ``when`` is in seconds on `goroutine.time.now`; one in the past holds at once. It holds
        for who waits already, and until it is set anew; connections that come meanwhile are
        kept for later. From any goroutine or thread. `ConnClosed` if it is closed.
        Go: TCPListener.SetDeadline.
        """
        if not self.deadline(False).set(when):
            raise self.closed_error()

    def read_late(self) -> None:
        """The deadline has passed. (Who accepts looks and waits under the lock.)"""
        with self._lock:
            self.barred = True
            waiting, self._waiting = self._waiting, WaitQueue()
        self._refuse(waiting)

    @staticmethod
    def _refuse(waiting: WaitQueue) -> None:
        while (g := waiting.take()) is not None:
            hand(g, -1)

    def close(self) -> None:
        """Stop listening. Connections that nobody has accepted are closed, and the path of a
        Unix socket is removed. More than once does no harm. From any thread.
        Go: Listener.Close."""
        if self.foreign_close(Listener.close):
            return
        with self._lock:
            if not self.start_close():
                return
            waiting, self._waiting = self._waiting, WaitQueue()
            fds, self.chunks = list(self.chunks), []
        for fd in fds:
            close_fd(fd)
        if self._path is not None:
            self._path.remove()
        shut_down(self.fd, socket.SHUT_RDWR)
        self._refuse(waiting)  # nobody can connect any more when they are told
        self.end_close()

    def abandon(self) -> None:
        """With the connections that nobody has accepted."""
        if self._path is not None:
            self._path.remove()
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


# That one connection is gone; there may be others.
_RETRY_NOW = (errno.ECONNABORTED, errno.EINTR, errno.EPROTO)


waits_for("IO wait", Listener._accept_fd)
