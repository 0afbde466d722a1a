"""Mutex: Go's, with its normal and its starvation mode. Go: internal/sync/mutex.go.

The state is a ``threading.Lock`` that is only ever tried, never waited for: it is held while
the mutex is. So locking and unlocking without contention is one atomic operation each. Who
finds it taken queues up; the guard protects the queue and the two flags.

Normal mode. Who unlocks releases the lock, *then* looks at the queue, and wakes its first.
Who waits queues up, *then* tries the lock once more, and parks if that fails (all under the
guard, which is released when the frame has stopped). Both sides publish, then look, with a
full fence in between: one of the two sees the other, and no wake-up is lost. A woken waiter
has not got the lock, it competes for it; newcomers run already and mostly win, which is what
makes a mutex cheap. If it loses it goes back to the front. While one is on its way
(``_woken``) no other is woken; so whoever clears that flag without taking the lock must look
whether it has become free meanwhile.

Starvation mode begins when a woken waiter loses and has waited for longer than a
millisecond. Unlocking then does not release the lock but hands it over, in FIFO order, and
newcomers, who find it taken, queue up. It ends when somebody gets it who waited for less, or
is the last. ``_release``, what unlocking calls, is the lock's own or `_hand_off`: so the fast
path need not ask for the mode.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Generator
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, cast

from ..runtime.atomic import TOTAL_STORE_ORDER
from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.wait import Waiter, WaitQueue, cancelable, check, check_ctx
from .waiting import running_goroutine

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Mutex"]

STARVING = 1e-3
"""Seconds of waiting after which newcomers stand back. Go: starvationThresholdNs."""

# In a Waiter's ``index``, what it was claimed for.
_WOKEN, _HANDED = 1, 2


class Mutex:
    """A lock for goroutines. ``async with mutex:`` holds it.

    It belongs to nobody: one goroutine may lock it and another, or a thread, unlock it. It is
    not reentrant. Go: sync.Mutex.

    >>> from goroutine.sync import Mutex
    >>> async def main():
    ...     mutex = Mutex()
    ...     async with mutex:
    ...         return mutex.try_lock()
    >>> goroutine.start(main)
    False
    """

    __slots__ = (
        "_acquire",
        "_guard",
        "_leave_guard",
        "_lock",
        "_owed",
        "_plain_release",
        "_queue",
        "_release",
        "_starving",
        "_woken",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acquire = self._lock.acquire
        self._plain_release: Callable[[], None] = self._lock.release
        if not TOTAL_STORE_ORDER:
            self._plain_release = _fenced(self._lock.release)
        self._release = self._plain_release
        # The guard's, and what it guards: Waiters in the order of their turn.
        self._guard = threading.Lock()
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._leave_guard = cast(Commit, self._guard.__exit__)
        self._queue = WaitQueue()
        self._woken = False  # a waiter has been woken and has not tried the lock yet
        self._starving = False
        self._owed = 0  # see _relock_now()

    @types.coroutine
    def _wait(self, ctx: Context | None) -> Generator[Commit]:
        """The rest of lock() when the lock is taken."""
        g = running_goroutine()
        check(g, ctx)
        queue = self._queue
        began = monotonic()
        woken = False  # this goroutine has been, and lost
        waiter = Waiter(g)
        while True:
            self._guard.acquire()
            if woken:
                # Out of the queue, and claimed: as good as new. (Not where a scope may know it.)
                if g.scope is None and ctx is None:
                    waiter.index = 0
                    waiter.token.append(True)
                else:
                    waiter = Waiter(g)
                self._woken = False
                queue.appendleft(waiter)
            else:
                queue.append(waiter)
            starts = woken and not self._starving and monotonic() - began > STARVING
            if starts:
                self._starve(True)
            if self._acquire(False):
                if woken:
                    queue.popleft()
                else:
                    queue.pop()
                if starts:
                    self._starve(False)
                self._guard.release()
                return
            try:
                yield from cancelable(waiter, self._leave_guard, g, ctx)
            except BaseException:
                self._give_up(waiter)
                raise
            if waiter.index == _HANDED:
                with self._guard:
                    if not queue or monotonic() - began < STARVING:
                        self._starve(False)
                return
            if self._acquire(False):
                self._woken = False  # from here on our unlock() looks at the queue
                return
            woken = True

    async def lock(self, *, ctx: Context | None = None) -> None:
        """Lock it; waits until it is free.

        `Canceled` if ``ctx`` is or meanwhile gets cancelled. Cancel safety: a cancelled lock
        holds nothing. (Nothing happens until the result is awaited.) Go: Mutex.Lock.
        """
        if ctx is not None:
            check_ctx(ctx)
        if not self._acquire(False):
            await self._wait(ctx)

    def try_lock(self) -> bool:
        """Lock it if it is free, and say whether that was so. On any thread. Go: TryLock."""
        return self._acquire(False)

    def unlock(self) -> None:
        """Unlock it. On any thread.

        ``RuntimeError("sync: unlock of unlocked mutex")``. Go: Mutex.Unlock, where that ends
        the program.
        """
        try:
            self._release()
        except RuntimeError:
            self._unlocked_already()
            return
        if self._queue:
            self._wake_next()

    async def __aenter__(self) -> None:
        if not self._acquire(False):
            await self._wait(None)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._release()
        except RuntimeError:
            self._unlocked_already()
            return
        if self._queue:
            self._wake_next()

    # -- slow paths -----------------------------------------------------------------------

    def _wake_next(self) -> None:
        """After a release: have the first that waits try for the lock."""
        with self._guard:
            # If somebody has it already, their unlock() comes after this, and looks, too.
            if self._woken or self._lock.locked():
                return
            if self._starving:
                # This release was begun before starvation mode was.
                if not self._acquire(False):
                    return
                waiter = self._hand()
            else:
                waiter = self._queue.take()
                if waiter is not None:
                    waiter.index = _WOKEN
                    self._woken = True
        if waiter is not None:
            waiter.wake()

    def _hand_off(self) -> None:
        """What unlock() calls in starvation mode, in the place of the lock's release."""
        with self._guard:
            if not self._lock.locked():
                raise RuntimeError
            waiter = self._hand()
        if waiter is not None:
            waiter.wake()

    def _hand(self) -> Waiter | None:
        """Give the lock, which is held, to the first that waits; release it if nobody does.

        With the guard held. Who gets it is to be woken then.
        """
        waiter: Waiter | None = self._queue.take()
        if waiter is None:
            self._starve(False)
            self._plain_release()
        else:
            waiter.index = _HANDED
        return waiter

    def _starve(self, starving: bool) -> None:
        """Change the mode. With the guard held."""
        self._starving = starving
        self._release = self._hand_off if starving else self._plain_release

    def _give_up(self, waiter: Waiter) -> None:
        """The waiter was cancelled, and so nobody's choice; or it is closed with the run, as
        all the others are, and had perhaps been woken or handed the lock before."""
        with self._guard:
            if waiter.index == _WOKEN:
                self._woken = False
            elif not waiter.index:
                self._queue.leave(waiter)
        if waiter.index == _HANDED:
            self.unlock()

    def _unlocked_already(self) -> None:
        if not self._owed:
            raise RuntimeError("sync: unlock of unlocked mutex") from None
        self._owed -= 1

    def _relock_now(self) -> None:
        """For a Cond's waiter that is closed at the end of a run: it must not wait for the
        mutex, but the blocks around it are going to unlock it.

        If somebody holds it, one unlock too many is owed. As everybody is closed, all those
        unlocks come, in whatever order, and then it is free.
        """
        if not self._acquire(False):
            self._owed += 1

    def __repr__(self) -> str:
        state = "locked" if self._lock.locked() else "unlocked"
        starving = ", starving" if self._starving else ""
        return f"<Mutex {state}, {len(self._queue)} waiting{starving}>"


def _fenced(release: Callable[[], None]) -> Callable[[], None]:
    """A release after which nothing is read that is older than it.

    On x86-64 the release itself is a locked instruction. Elsewhere it may be seen later than
    the look at the queue that follows. A dict's pop locks and unlocks the dict's own mutex,
    and two atomic operations in a row are a full fence (runtime/atomic.py).
    """
    none: dict[int, int] = {}

    def release_and_fence() -> None:
        release()
        none.pop(0, None)

    return release_and_fence


waits_for("sync.Mutex.Lock", Mutex._wait)
