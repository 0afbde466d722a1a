"""Calls that block, on threads of their own. Go: what entersyscall does for a thread.

The pool grows to ``most`` threads as calls come while none is free, and a thread that had
nothing to do for IDLE seconds ends. Beyond ``most`` calls wait their turn.
"""

from __future__ import annotations

import threading
import types
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, TypeVar

from .dump import waits_for
from .goroutine import Commit, Goroutine
from .shared import current
from .thread import look_again, pools
from .wait import Waiter, cancelable, check

__all__ = ["Pool", "blocking", "offload"]

T = TypeVar("T")

IDLE = 5.0


class _Call(Waiter):
    """One call, the goroutine that waits for it, and what came of it."""

    __slots__ = ("args", "context", "failure", "fn", "kwargs", "pool", "result")

    def __init__(
        self, pool: Pool, context: Context, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        super().__init__(None)
        self.pool, self.context = pool, context
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.result: Any = None
        self.failure: BaseException | None = None

    def park(self, g: Goroutine[Any]) -> None:
        """Commit: from here on a pool thread may make g ready."""
        self.g = g
        self.pool.put(self)

    def run(self) -> None:
        try:
            if self.token:  # else it was cancelled before it has begun: not at all
                self.result = self.context.run(self.fn, *self.args, **self.kwargs)
        except BaseException as failure:
            self.failure = failure
        self.pool.finished(self)


class Pool:
    """The blocking threads of one run."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls: deque[_Call] = deque()
        self.condition = threading.Condition()
        self.threads: set[threading.Thread] = set()
        self.free = 0  # threads that are not inside a call; also one that is just beginning
        self.pending = 0  # calls made and not finished; see busy()
        self.away = 0  # threads inside a call that waits for a goroutine; see away()
        self.ended = False

    def put(self, call: _Call) -> None:
        with self.condition:
            self.calls.append(call)
            self.pending += 1
            if self.free >= len(self.calls):
                self.condition.notify()
                return
        self.grow()

    def grow(self) -> None:
        """One more thread, if calls wait and the limit allows it."""
        with self.condition:
            if self.free >= len(self.calls) or len(self.threads) >= self.most + self.away:
                return
            thread = threading.Thread(target=self.work, name="goroutine-blocking", daemon=True)
            self.threads.add(thread)
            self.free += 1
        try:
            thread.start()
        except RuntimeError:  # no more threads: those that run will get to it
            with self.condition:
                self.threads.discard(thread)
                self.free -= 1
                if self.threads:
                    return
            self.run_all()

    def busy(self) -> bool:
        """Whether a call is under way, or queued. (Under the lock: what a finished call has
        made ready can be seen by who sees that it is not pending any more.)"""
        with self.condition:
            return self.pending > 0

    def leave_for(self, wait: Callable[[], object]) -> None:
        """``wait()`` on a pool thread, for a goroutine: that may need a thread, too, so this
        one doesn't count against the limit meanwhile. (Else nested calls could deadlock.)"""
        with self.condition:
            self.away += 1
        try:
            self.grow()
            wait()
        finally:
            with self.condition:
                self.away -= 1

    def run_all(self) -> None:
        """Make the calls that wait on this very thread."""
        while True:
            with self.condition:
                if not self.calls:
                    return
                call = self.calls.popleft()
                self.free -= 1
            call.run()

    def finished(self, call: _Call) -> None:
        """Wake the goroutine of a finished call, unless the run has ended meanwhile: then
        it has been closed, and to make it ready would put it into the next run. (Nor if it
        was cancelled, and has gone on.)"""
        with self.condition:
            self.pending -= 1
            # Before g can make its next call, which this thread then takes, not a new one.
            self.free += 1
            if not self.ended and call.claim():
                call.wake()
                call.g = None
                return
        # Its g is, or soon will be, woken by whoever cancelled it; but for that nobody is, and
        # this may have been what all waited for.
        look_again()

    def work(self) -> None:
        pools[get_ident()] = self
        try:
            self.work_on()
        finally:
            pools.pop(get_ident(), None)

    def work_on(self) -> None:
        while True:
            with self.condition:
                while True:
                    if len(self.threads) > self.most + self.away:
                        return self.leave()
                    if self.calls:
                        break
                    if self.ended:
                        return self.leave()
                    called = self.condition.wait(IDLE)
                    if not called and not self.calls:
                        return self.leave()
                call = self.calls.popleft()
                self.free -= 1
            call.run()
            del call

    def leave(self) -> None:
        self.free -= 1
        self.threads.discard(threading.current_thread())
        if self.calls:
            self.condition.notify()  # that was meant for one that stays

    def abandon(self) -> None:
        """In a forked child: there are no threads, but for this one if it is of them."""
        self.condition = threading.Condition()
        self.calls.clear()
        self.threads.clear()
        self.ended = True

    def close(self) -> None:
        """End the threads. One inside a call that doesn't return is left behind (a daemon)."""
        with self.condition:
            self.ended = True
            self.calls.clear()
            threads = list(self.threads)
            self.condition.notify_all()
        deadline = monotonic() + 1.0
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))


@types.coroutine
def blocking[T](fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Generator[Commit, None, T]:
    """Run ``fn(*args, **kwargs)`` on a pool thread; returns or raises what it does.

    For calls that block their thread and know nothing of goroutines: files, databases,
    name look-ups. At most ``start(blocking_threads=)`` run at once; more wait. The caller's
    contextvars are carried along.

    Cancel safety: who is cancelled here goes on at once; the call runs to its end all the
    same, and its result is dropped. Go: a blocking system call or cgo.

    >>> async def main():
    ...     return await goroutine.blocking(sum, [1, 2, 3])
    >>> goroutine.start(main)
    6
    """
    return (yield from offload(None, fn, *args, **kwargs))


def offload[T](
    ctx: Any, fn: Callable[..., T], /, *args: Any, **kwargs: Any
) -> Generator[Commit, None, T]:
    """`blocking`, under ctx."""
    m = current()
    g = m.g
    call = _Call(m.runtime.pool, copy_context(), fn, args, kwargs)
    if g is None or (g.scope is None and ctx is None):
        yield call.park
    else:
        check(g, ctx)
        yield from cancelable(call, call.park, g, ctx)
    if call.failure is not None:
        try:
            raise call.failure
        finally:
            call.failure = None
    result: T = call.result
    return result


waits_for("blocking call", offload)
