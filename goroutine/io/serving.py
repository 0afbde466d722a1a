"""The handlers of a listener: a goroutine for each connection, and who waits for their end."""

from __future__ import annotations

import logging
import threading
import types
from _thread import get_ident
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit, Goroutine, describe
from ..runtime.machine import Machine
from ..runtime.shared import current, flags
from ..runtime.spawn import isgeneratorcoroutine, spawners
from ..runtime.timers import Timer, from_now, set_timer
from ..runtime.wait import Waiter, WaitQueue, cancelable, check
from .conn import Conn, new_conn
from .desc import close_fd

if TYPE_CHECKING:
    from ..context import Context
    from ..sync import Semaphore

__all__ = ["Handlers", "begin"]

_log = logging.getLogger("goroutine.net")


class Handlers:
    """Those of one listener that have been accepted for and have not ended.

    Whoever ends takes itself out, then looks for somebody who waits; who waits queues, then
    looks whether there are any. So one of the two sees the other.
    """

    __slots__ = ("closing", "lock", "running", "waiting")

    def __init__(self) -> None:
        self.running: dict[Handler, None] = {}
        self.closing = False  # connections are closed as they come
        self.lock = threading.Lock()  # of the next
        self.waiting = WaitQueue()

    def new(self, fn: Any, slots: Semaphore | None) -> Handler:
        """One that is to begin, on whatever machine."""
        g = Handler()
        g.fn = fn
        g.slots = slots
        g.among = self
        g.conn = None
        self.running[g] = None
        return g

    def ended(self, g: Handler) -> None:
        self.running.pop(g, None)
        if g.slots is not None:
            g.slots.release()
        if self.waiting:
            self.look()

    def look(self) -> None:
        """Wake who waits, if there is nothing left to wait for."""
        if not self.running:
            with self.lock:
                waiting, self.waiting = self.waiting, WaitQueue()
            for waiter in waiting:
                waiter.fire()

    @types.coroutine
    def wait(self, timeout: float | None, ctx: Context | None) -> Generator[Commit, None, bool]:
        """Wait until none is left; after so many seconds close what they have. See
        `Listener.shutdown`."""
        timer = None
        g = current().g
        if g is None:
            raise RuntimeError("not in a goroutine, or in one that is being closed")
        check(g, ctx)
        waiter = Waiter(g)
        if timeout is not None:
            timer = Timer(from_now(timeout), Waiter.fire, waiter)

        def commit(_: Goroutine[Any]) -> None:
            with self.lock:
                self.waiting.append(waiter)
            if timer is not None:
                set_timer(timer)
            self.look()

        try:
            yield from cancelable(waiter, commit, g, ctx)
        finally:
            if timer is not None:
                timer.stop()
            with self.lock:
                self.waiting.leave(waiter)
        left = list(self.running)
        self.closing = bool(left)  # then look for connections: see begin()
        for handler in left:
            conn = handler.conn
            if conn is not None:
                conn.close()
        return not left


class Handler(Goroutine[Any]):
    """A goroutine of serve(): closes its connection at its end, and survives its failure.

    Hooks instead of a coroutine around the handler: that would cost 80 ns a step.
    """

    __slots__ = ("among", "conn", "slots")

    conn: Conn | None  # None until it begins
    among: Handlers
    slots: Semaphore | None  # of which it has one

    def wake_joiners(self) -> None:
        conn = self.conn
        if conn is not None:
            conn.close()
        super().wake_joiners()
        self.among.ended(self)

    def failed(self, failure: BaseException) -> bool:
        if not isinstance(failure, Exception):
            return False
        conn = self.conn
        if isinstance(failure, ConnectionError) or (conn is not None and conn.closed):
            # The peer went away, or somebody closed the connection under the handler.
            _log.debug("connection of %s: %s", self.name, failure)
        else:
            _log.error("%s failed; its connection is closed", self.name, exc_info=failure)
        return True


def begin(g: Handler, fd: int, planned: Machine) -> None:
    """Make the connection and start its goroutine, on the machine where both will live: the
    planned one, or if that is stuck another."""
    placement = planned.runtime.placement
    if flags["stop"]:  # first: the planned one may have left by now, and is no current() any more
        placement.give_back(planned)
        close_fd(fd)
        return
    m = current()
    if m is not planned:
        placement.give_back(planned)
        placement.count(m)
    handler: Callable[[Conn], Awaitable[object]] = g.fn
    conn = g.conn = new_conn(fd, m)
    if g.among.closing:
        conn.close()
    try:
        called: Any = handler(conn)
        if isgeneratorcoroutine(called):  # conn.write(…) and the like
            steps = called
        elif isinstance(called, Awaitable):
            steps = called.__await__()
        else:
            raise TypeError(
                f"serve() takes an async def handler; {describe(handler)} returned"
                f" {type(called).__name__}"
            )
    except Exception as failure:
        g.failed(failure)
        conn.close()
        g.among.ended(g)
        return
    g.it = steps
    g.scope = None
    g.joiners = WaitQueue()  # not None: wake_joiners is called at the end
    spawners[get_ident()](g, handler)


waits_for("IO wait", Handlers.wait)
