"""Semaphore: a number of units that goroutines take and give back. Go: x/sync/semaphore.

One lock guards the count and the queue. Strictly FIFO: while anybody waits nobody else gets
a unit, so a large request at the head is not starved by small ones behind it.

Who releases, grants: it takes the units for the head of the queue, claims its Waiter and
marks it (``index``), all under the lock. A waiter that leaves for another reason (cancelled,
or closed at the end of the run) looks at that mark under the lock, too. If it was granted
meanwhile, it gives back; in any case it then grants for the queue behind it, which may have
waited for nothing but its being the head.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.wait import Waiter, WaitQueue, cancelable, check, check_ctx
from .waiting import running_goroutine

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Semaphore"]


class Semaphore:
    """``n`` units, taken by `acquire` and given back by `release`.

    ``async with semaphore:`` holds one. ``TypeError`` if n is no int, ``ValueError`` if it is
    negative. Go: semaphore.NewWeighted.

    >>> from goroutine.sync import Semaphore
    >>> async def main():
    ...     semaphore = Semaphore(3)
    ...     await semaphore.acquire(2)
    ...     async with semaphore:
    ...         print(semaphore.try_acquire())
    ...     semaphore.release(2)
    >>> goroutine.start(main)
    False
    """

    __slots__ = ("_free", "_lock", "_queue", "_release", "_size")

    def __init__(self, n: int) -> None:
        self._size = _count(n)
        self._free = self._size
        self._queue = WaitQueue()  # Waiters, each with the units it wants in ``value``
        self._lock = threading.Lock()
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._release = cast(Commit, self._lock.__exit__)

    @types.coroutine
    def _wait(self, k: int, ctx: Context | None) -> Generator[Commit]:
        g = running_goroutine()
        check(g, ctx)
        waiter = Waiter(g, k)
        if k > self._size:
            yield from cancelable(waiter, _nothing, g, ctx)
        self._lock.acquire()
        if k <= self._free and not self._queue:
            self._free -= k
            self._lock.release()
            return
        self._queue.append(waiter)
        try:
            yield from cancelable(waiter, self._release, g, ctx)
        except BaseException:
            with self._lock:
                if waiter.index:
                    self._free += k
                else:
                    self._queue.leave(waiter)
                granted = self._grant()
            for waiter in granted:
                waiter.wake()
            raise

    async def acquire(self, k: int = 1, *, ctx: Context | None = None) -> None:
        """Take ``k`` units; waits, in the order of the calls, until so many are free.

        More than the semaphore has are never free: such a call waits until it is cancelled,
        and no other waits behind it. `Canceled` if ``ctx`` is or meanwhile gets cancelled;
        ``ValueError`` for a negative k. Cancel safety: a cancelled acquire holds nothing.
        Go: Weighted.Acquire.
        """
        if type(k) is not int or k < 0:
            k = _count(k)
        if ctx is not None:
            check_ctx(ctx)
        with self._lock:
            if k <= self._free and not self._queue:
                self._free -= k
                return
        await self._wait(k, ctx)

    def try_acquire(self, k: int = 1) -> bool:
        """Take ``k`` units if so many are free and nobody waits. On any thread.

        Go: Weighted.TryAcquire.
        """
        if type(k) is not int or k < 0:
            k = _count(k)
        with self._lock:
            if k <= self._free and not self._queue:
                self._free -= k
                return True
        return False

    def release(self, k: int = 1) -> None:
        """Give ``k`` units back. On any thread.

        ``RuntimeError("semaphore: released more than held")``, and nothing has changed then;
        ``ValueError`` for a negative k. Go: Weighted.Release.
        """
        if type(k) is not int or k < 0:
            k = _count(k)
        with self._lock:
            free = self._free + k
            if free > self._size:
                raise RuntimeError("semaphore: released more than held")
            self._free = free
            granted = self._grant() if self._queue else ()
        for waiter in granted:
            waiter.wake()

    def _grant(self) -> list[Waiter]:
        """Take units for those at the head, who are to be woken then. With the lock held."""
        queue, granted = self._queue, []
        while queue:
            waiter: Waiter = queue[0]
            # (One without a token has been cancelled; its value may be gone.)
            if waiter.token and waiter.value > self._free:
                break
            queue.popleft()
            if waiter.claim():
                waiter.index = 1
                self._free -= waiter.value
                granted.append(waiter)
        return granted

    async def __aenter__(self) -> None:
        with self._lock:
            if self._free and not self._queue:
                self._free -= 1
                return
        await self._wait(1, None)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Semaphore {self._free}/{self._size} free, {len(self._queue)} waiting>"


def _count(k: Any) -> int:
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"a semaphore counts in ints, not {type(k).__name__}")
    if k < 0:
        raise ValueError(f"a semaphore counts from 0, not {k}")
    return k


def _nothing(_: object) -> None:
    """Commit of who waits for nothing but being cancelled."""


waits_for("semacquire", Semaphore._wait)
