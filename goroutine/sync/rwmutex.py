"""RWMutex: many readers or one writer; a waiting writer holds new readers off. Go: sync.RWMutex.

``_readers`` is a list with one entry per reader, so that to enter and to leave is one atomic
append and pop, without a lock. ``_writing`` says that a writer has it or waits for the
readers that are inside. Both sides publish, then look, and both stores are full fences (a
list's and an object's own mutex):

    reader    append                    then look: a writer? if so take it back, and queue
    writer    set ``_writing``          then look: any readers? if so wait for the last

A writer may thus find the entry of a reader who is about to take it back. All that take one
out while ``_writing`` is set therefore look, under the guard, whether that was the last, and
let the writer in. Writers exclude one another by a Mutex.

Readers on several machines share the list's mutex and cache line, and this object: 2 machines
that do nothing but rlock and runlock run at about half the speed each that one runs at alone.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, cast

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.wait import Waiter, WaitQueue, cancelable, check, check_ctx
from .mutex import Mutex
from .waiting import running_goroutine

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["RWMutex"]


class RWMutex:
    """A lock held by any number of readers or by one writer.

    ``async with m:`` holds it as the writer, ``async with m.reader():`` as a reader. While a
    writer waits no new readers get in; so a reader that locks it once more can wait for ever.
    Like Mutex it belongs to nobody. Go: sync.RWMutex.

    >>> from goroutine.sync import RWMutex
    >>> async def main():
    ...     m = RWMutex()
    ...     async with m.reader():
    ...         return m.try_rlock(), m.try_lock()
    >>> goroutine.start(main)
    (True, False)
    """

    __slots__ = (
        "_draining",
        "_guard",
        "_held",
        "_leave_guard",
        "_owed",
        "_queue",
        "_readers",
        "_writers",
        "_writing",
    )

    def __init__(self) -> None:
        self._readers: list[None] = []
        self._writing = False  # a writer has it, or waits for the readers inside
        self._held = False  # a writer has it
        self._writers = Mutex()  # held by the writer that is, or is to be, inside
        # The guard's, and what it guards: changes of the two flags, the readers that wait,
        # and the writer that waits for those inside.
        self._guard = threading.Lock()
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._leave_guard = cast(Commit, self._guard.__exit__)
        self._queue = WaitQueue()
        self._draining: Waiter | None = None
        self._owed = 0  # see Mutex._relock_now()

    # -- readers --------------------------------------------------------------------------

    @types.coroutine
    def _rwait(self, ctx: Context | None) -> Generator[Commit]:
        """The rest of rlock() when a writer is there; this reader has been counted."""
        if self._stay():
            return
        g = running_goroutine()
        check(g, ctx)
        waiter = Waiter(g)
        self._guard.acquire()
        if not self._writing:
            self._readers.append(None)
            self._guard.release()
            return
        self._queue.append(waiter)
        try:
            yield from cancelable(waiter, self._leave_guard, g, ctx)
        except BaseException:
            with self._guard:
                admitted = waiter.index
                if not admitted:
                    self._queue.leave(waiter)
            if admitted:
                self.runlock()
            raise

    async def rlock(self, *, ctx: Context | None = None) -> None:
        """Lock it as a reader; waits while a writer has it or waits for it.

        `Canceled` if ``ctx`` is or meanwhile gets cancelled. Cancel safety: a cancelled rlock
        holds nothing. Go: RWMutex.RLock.
        """
        if ctx is not None:
            check_ctx(ctx)
        self._readers.append(None)
        if self._writing:
            await self._rwait(ctx)

    def try_rlock(self) -> bool:
        """Lock it as a reader if no writer has it or waits. On any thread. Go: TryRLock."""
        self._readers.append(None)
        return not self._writing or self._stay()

    def runlock(self) -> None:
        """Undo one rlock. On any thread.

        ``RuntimeError("sync: RUnlock of unlocked RWMutex")``. Go: RWMutex.RUnlock, where that
        ends the program.
        """
        try:
            self._readers.pop()
        except IndexError:
            raise RuntimeError("sync: RUnlock of unlocked RWMutex") from None
        if self._writing:
            with self._guard:
                writer = self._last_out()
            if writer is not None:
                writer.wake()

    def reader(self) -> Reader:
        """A view of it whose ``lock`` and ``unlock`` are the reader's: for ``async with``, and
        for a Cond. Go: RWMutex.RLocker."""
        return Reader(self)

    def _stay(self) -> bool:
        """For a reader that saw a writer: whether that has left; else it is not counted now."""
        with self._guard:
            if not self._writing:
                return True
            self._readers.pop()
            writer = self._last_out()
        if writer is not None:
            writer.wake()
        return False

    def _last_out(self) -> Waiter | None:
        """A reader was taken out: the writer that waited for it, who has the lock now and is
        to be woken. With the guard held."""
        writer = self._draining
        if writer is None or self._readers:
            return None
        self._draining = None
        if not writer.claim():
            return None  # it was cancelled, and will let the readers in
        writer.index = 1
        self._held = True
        return writer

    # -- writers --------------------------------------------------------------------------

    @types.coroutine
    def _drain(self, ctx: Context | None) -> Generator[Commit]:
        """The rest of lock() when readers are inside, with other writers and new readers held
        off."""
        try:
            g = running_goroutine()
            check(g, ctx)
            waiter = Waiter(g)
            self._guard.acquire()
            if not self._readers:
                self._held = True
                self._guard.release()
                return
            self._draining = waiter
            yield from cancelable(waiter, self._leave_guard, g, ctx)
        except BaseException:
            with self._guard:
                self._draining = None
                readers = self._admit()
            _wake(readers)
            self._writers.unlock()
            raise

    async def lock(self, *, ctx: Context | None = None) -> None:
        """Lock it as the writer; waits until all readers and the writer before are out.

        `Canceled` if ``ctx`` is or meanwhile gets cancelled. Cancel safety: a cancelled lock
        holds nothing, and readers that waited behind it go on. Go: RWMutex.Lock.
        """
        if ctx is not None:
            check_ctx(ctx)
        if not self._writers._acquire(False):
            await self._writers._wait(ctx)
        with self._guard:
            self._writing = True
            if not self._readers:
                self._held = True
                return
        await self._drain(ctx)

    def try_lock(self) -> bool:
        """Lock it as the writer if it is free. On any thread. Go: RWMutex.TryLock."""
        if not self._writers.try_lock():
            return False
        with self._guard:
            self._writing = True
            if not self._readers:
                self._held = True
                return True
            # (Readers that saw the flag wait for the guard, and will find it unset.)
            self._writing = False
        self._writers.unlock()
        return False

    def unlock(self) -> None:
        """Undo lock: all readers that wait get in, and after them the next writer. On any thread.

        ``RuntimeError("sync: Unlock of unlocked RWMutex")``. Go: RWMutex.Unlock, where that
        ends the program.
        """
        with self._guard:
            if not self._held:
                if self._owed:
                    self._owed -= 1
                    return
                raise RuntimeError("sync: Unlock of unlocked RWMutex")
            readers = self._admit()
        _wake(readers)
        self._writers.unlock()

    def _admit(self) -> list[Waiter]:
        """The writer is out, or given up: count those readers in that wait, who are to be
        woken then. With the guard held."""
        self._writing = self._held = False
        readers: list[Waiter] = []
        while True:
            waiter: Waiter | None = self._queue.take()
            if waiter is None:
                return readers
            waiter.index = 1
            self._readers.append(None)
            readers.append(waiter)

    async def __aenter__(self) -> None:
        await self.lock()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unlock()

    def _relock_now(self) -> None:
        """See Mutex._relock_now()."""
        if not self.try_lock():
            self._owed += 1

    def __repr__(self) -> str:
        state = "a writer" if self._held else f"{len(self._readers)} readers"
        return f"<RWMutex {state} inside, {len(self._queue)} readers waiting>"


class Reader:
    """The reader's side of an RWMutex, as a lock: what `RWMutex.reader` gives. Go: RLocker."""

    __slots__ = ("_m",)

    def __init__(self, m: RWMutex) -> None:
        self._m = m

    async def lock(self, *, ctx: Context | None = None) -> None:
        """`RWMutex.rlock`."""
        await self._m.rlock(ctx=ctx)

    def try_lock(self) -> bool:
        """`RWMutex.try_rlock`."""
        return self._m.try_rlock()

    def unlock(self) -> None:
        """`RWMutex.runlock`."""
        self._m.runlock()

    async def __aenter__(self) -> None:
        m = self._m
        m._readers.append(None)
        if m._writing:
            await m._rwait(None)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._m.runlock()

    def _relock_now(self) -> None:
        """See Mutex._relock_now(). One reader more can always be counted."""
        self._m._readers.append(None)


def _wake(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()


waits_for("sync.RWMutex.RLock", RWMutex._rwait)
waits_for("sync.RWMutex.Lock", RWMutex._drain)
