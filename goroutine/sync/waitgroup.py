"""WaitGroup: waits for a number of goroutines to be done. Go: sync.WaitGroup.

One lock guards the counter and the queue. Who brings the counter to zero takes the waiters
out of the queue one by one; while any is left in it the counter must not leave zero again.
"""

from __future__ import annotations

import threading
import types
from _thread import get_ident
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ..runtime.dump import waits_for
from ..runtime.exit import GoExit
from ..runtime.goroutine import Commit, Goroutine
from ..runtime.shared import find
from ..runtime.spawn import foreign, spawners, steps_for
from ..runtime.wait import Waiter, WaitQueue, cancelable, check, check_ctx
from .waiting import running_goroutine

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["WaitGroup"]

T = TypeVar("T")


class WaitGroup:
    """Counts what is still to be done, and lets goroutines `wait` until that is nothing.

    It may be used anew once every `wait` has returned. Go: sync.WaitGroup.

    >>> from goroutine.sync import WaitGroup
    >>> async def main():
    ...     squares, group = {}, WaitGroup()
    ...     async def square(x):
    ...         squares[x] = x * x
    ...     for x in range(4):
    ...         group.go(square, x)
    ...     await group.wait()
    ...     return sorted(squares.values())
    >>> goroutine.start(main)
    [0, 1, 4, 9]
    """

    __slots__ = ("_lock", "_n", "_queue", "_release")

    def __init__(self) -> None:
        self._n = 0
        self._queue = WaitQueue()  # Waiters
        self._lock = threading.Lock()
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._release = cast(Commit, self._lock.__exit__)

    def add(self, delta: int = 1) -> None:
        """Change the counter; at zero all that wait go on. On any thread.

        ``RuntimeError("sync: negative WaitGroup counter")``, and nothing has changed then;
        ``RuntimeError("sync: WaitGroup misuse: Add called concurrently with Wait")`` if it
        leaves zero while waiters are still being woken. Go: WaitGroup.Add.
        """
        with self._lock:
            n = self._n + delta
            if n < 0:
                raise RuntimeError("sync: negative WaitGroup counter")
            if self._queue and n == delta and n:
                raise RuntimeError("sync: WaitGroup misuse: Add called concurrently with Wait")
            self._n = n
            if n or not self._queue:
                return
        self._wake_all()

    def done(self) -> None:
        """Count one less: ``add(-1)``. On any thread. Go: WaitGroup.Done."""
        self.add(-1)

    def _wake_all(self) -> None:
        # Not all at once: while some are left nobody may add (and so nobody newly waits).
        while True:
            with self._lock:
                waiter = self._queue.take()
            if waiter is None:
                return
            waiter.wake()

    @types.coroutine
    def _wait(self, ctx: Context | None) -> Generator[Commit]:
        g = running_goroutine()
        check(g, ctx)
        waiter = Waiter(g)
        self._lock.acquire()
        if not self._n:
            self._lock.release()
            return
        self._queue.append(waiter)
        try:
            yield from cancelable(waiter, self._release, g, ctx)
        except BaseException:
            with self._lock:
                self._queue.leave(waiter)
            raise
        if self._n:
            raise RuntimeError("sync: WaitGroup is reused before previous Wait has returned")

    async def wait(self, *, ctx: Context | None = None) -> None:
        """Wait until the counter is zero.

        `Canceled` if ``ctx`` is or meanwhile gets cancelled; ``RuntimeError("sync: WaitGroup
        is reused before previous Wait has returned")`` if it was zero, and is not any more.
        Cancel safety: whatever was counted goes on. Go: WaitGroup.Wait.
        """
        if ctx is not None:
            check_ctx(ctx)
        if self._n:
            await self._wait(ctx)

    @overload
    def go[**P, R](
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[R]: ...
    @overload
    def go[**P, R](
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[R]: ...
    @overload
    def go[R](self, fn: Coroutine[Any, Any, R], /) -> Goroutine[R]: ...
    def go(self, fn: Any, /, *args: Any, **kwargs: Any) -> Goroutine[Any]:
        """Start a goroutine, as `goroutine.go` does, that counts until it ends.

        By returning or by `goexit`; a panic in it ends the program, and those that wait for
        it don't go on before that. Go: WaitGroup.Go.
        """
        g: Goroutine[Any] = Goroutine()
        g.joiners = g.scope = None
        g.it = _counted(self, steps_for(g, fn, args, kwargs))
        self.add(1)
        spawn = find(spawners, get_ident())
        if spawn is not None:
            spawn(g, fn)
            return g
        try:
            return foreign(g, fn)
        except BaseException:
            self.done()
            raise

    def __repr__(self) -> str:
        return f"<WaitGroup {self._n}, {len(self._queue)} waiting>"


@types.coroutine
def _counted(group: WaitGroup, steps: Any) -> Generator[Any, Any]:
    """The steps of a goroutine that the group counts."""
    try:
        yield from steps
    except (GoExit, GeneratorExit):  # (the latter at the end of the run)
        group.done()
        raise
    group.done()


waits_for("sync.WaitGroup.Wait", WaitGroup._wait)
