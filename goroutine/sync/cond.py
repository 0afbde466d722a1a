"""Cond: waiting, with a mutex released, for a state that others change. Go: sync.Cond."""

from __future__ import annotations

import threading
import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit, Goroutine
from ..runtime.wait import Waiter, WaitQueue, cancelable, check
from .mutex import Mutex
from .rwmutex import Reader, RWMutex
from .waiting import running_goroutine

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Cond"]


class Cond:
    """A queue of goroutines that wait for a change of what the mutex protects.

    ``mutex`` is a Mutex, an RWMutex or its ``reader()``. Go: sync.Cond.

    >>> from goroutine.sync import Cond, Mutex
    >>> async def main():
    ...     cond, items = Cond(Mutex()), []
    ...     async def consumer():
    ...         async with cond.mutex:
    ...             while not items:
    ...                 await cond.wait()
    ...             return items.pop()
    ...     g = goroutine.go(consumer)
    ...     async with cond.mutex:
    ...         items.append("hello")
    ...     cond.signal()
    ...     return await g
    >>> goroutine.start(main)
    'hello'
    """

    __slots__ = ("_guard", "_leave_guard", "_queue", "mutex")

    def __init__(self, mutex: Mutex | RWMutex | Reader) -> None:
        if not isinstance(mutex, (Mutex, RWMutex, Reader)):
            raise TypeError(f"a Cond's mutex is a Mutex or RWMutex, not {type(mutex).__name__}")
        self.mutex = mutex
        self._queue = WaitQueue()  # Waiters
        self._guard = threading.Lock()
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._leave_guard = cast(Commit, self._guard.__exit__)

    @types.coroutine
    def wait(self, *, ctx: Context | None = None) -> Generator[Commit]:
        """Unlock the mutex, wait for `signal` or `broadcast`, and lock the mutex again.

        The state may have changed once more by then, so wait in a loop. `Canceled` if ``ctx``
        is or meanwhile gets cancelled; the mutex is locked then, too. Cancel safety: a
        cancelled wait has taken nobody's signal. ``RuntimeError`` of the mutex if that is not
        locked. Go: Cond.Wait.
        """
        g = running_goroutine()
        check(g, ctx)
        waiter = Waiter(g)
        # Queued before the unlock: a signal that comes after that finds it. The guard is
        # released when the frame has stopped, and before that nobody can signal.
        self._guard.acquire()
        self._queue.append(waiter)
        try:
            self.mutex.unlock()
        except BaseException:
            self._queue.pop()
            self._guard.release()
            raise
        try:
            yield from cancelable(waiter, self._leave_guard, g, ctx)
        except BaseException as failure:
            with self._guard:
                self._queue.leave(waiter)
            if isinstance(failure, GeneratorExit):
                self.mutex._relock_now()
            else:
                yield from self._relock(g)
            raise
        yield from self._relock(g)

    def _relock(self, g: Goroutine[Any]) -> Generator[Commit]:
        """Lock the mutex, come what may: the blocks around the wait are going to unlock it."""
        if self.mutex.try_lock():
            return
        own, g.scope = g.scope, None  # a cancellation is told at the next wait
        try:
            yield from self.mutex.lock().__await__()
        except GeneratorExit:
            self.mutex._relock_now()
            raise
        finally:
            g.scope = own

    def signal(self) -> None:
        """Wake the goroutine that has waited longest, if any does. On any thread.

        The mutex may be locked, and need not. Go: Cond.Signal.
        """
        if not self._queue:
            return
        with self._guard:
            waiter = self._queue.take()
        if waiter is not None:
            waiter.wake()

    def broadcast(self) -> None:
        """Wake all that wait, in the order they came. On any thread. Go: Cond.Broadcast."""
        if not self._queue:
            return
        waiters = []
        with self._guard:
            while (waiter := self._queue.take()) is not None:
                waiters.append(waiter)
        for waiter in waiters:
            waiter.wake()

    def __repr__(self) -> str:
        return f"<Cond {len(self._queue)} waiting, {self.mutex!r}>"


waits_for("sync.Cond.Wait", Cond.wait)
