"""The run queue of a processor: 256 slots, one owner, any number of thieves.

Go's ring, with batches: the owner claims many goroutines by one compare-and-swap, since from
Python that costs as much as running one.

    position   0 ... | clean ... | head ... | tail ...
    slot             | stolen    | queued   | None
                     | (stale)   |          |

Positions are 64-bit and only grow; position p lives in ``slots[p & 255]``.

Who writes what
---------------
``slots``   the owner alone.
``tail``    the owner alone, by a plain store after it has filled the slots.
``head``    anybody, and only by a compare-and-swap that moves it forward.
``clean``   the owner's own, not shared: below it all slots are None.

    clean <= head <= tail <= clean + SIZE

Invariant: the slots of all positions in [head, tail) hold what the owner put there.

Taking is the same for all: read head, read tail, *copy* the slots, then move head by a CAS from
what was read.  A CAS that succeeds proves the copy good:

* No ABA.  Head never returns to an old value.  If it is h at the CAS, it was h all the time since
  it was read.
* While head is h, nobody overwrites a position >= h.  The owner fills position p only if
  p < clean + SIZE, so what it overwrites lies below clean, and clean <= head: the owner makes
  clean larger only up to a head it has read or set.  (A head read too early makes the ring look
  fuller than it is, nothing worse.)
* So a thief that was descheduled between its copy and its CAS for however long either finds head
  where it was, and the slots it copied were untouched; or its CAS fails, and it throws the copy
  away.  Until then the copy keeps the goroutines in it alive, nothing else.
* The owner clears the slots that were taken: positions below head.  A thief that copied before
  has the goroutines and one that copied after has Nones, but either had read a head that is no
  longer there, and its CAS fails.  A thief that reads the new head doesn't look at those slots.
* Head is read before tail, and both only grow, so the difference never is too small.  If it is
  larger than SIZE, head was stale: read again.  If it's stale and plausible, the CAS fails.  (A
  machine that swaps the two loads may find too few, and leaves some for the next time.)

A failed CAS means that somebody else took something, so retrying is lock-free.  Not wait-free,
and the interpreter's own lock in the list is held for the length of a slice operation.  (That lock
is also why it costs nothing that the list's reference count is shared: both lie on one cache line.
An immortal list was no faster, with thieves or without.)

Order of memory
---------------
1. Slots before tail.  A thief that sees the new tail must see the slots.  On x86-64 stores are
   seen in order, so a plain store to tail is enough.  On other machines tail is stored by a
   sequentially consistent store and read by such a load.  (The list's lock would do there too:
   the owner's store to tail comes after it *took* the lock for the slots, the thief takes the
   same lock after it has read tail, so it gets it after the owner gave it back.  But that is the
   interpreter's business.)
2. Copy before CAS.  The CAS is sequentially consistent and thus a release: no earlier read of the
   thief is moved behind its write of head.
3. Head before overwriting.  The owner overwrites what lies below a head it has read.  The thief
   that moved head there had read its slots before (2), and the owner's writes depend on the value
   read: a store isn't made before the branch it depends on.
4. Not ordered by anything here: "put, then look whether an M is idle".  That is a store and a later
   load, and needs ``atomic.fence()`` between them, on x86-64 too.

Re-entrance
-----------
Dropping the last reference to a goroutine runs its ``finally`` blocks, which may wake another and
so call ``put`` in the middle of one of our functions; so does the collector, which may run after
any call.  Hence: nothing is called between reading ``end`` or ``clean`` and writing them back;
only Nones are overwritten by ``put``; stale slots are copied, cleared, accounted for, and only
then dropped; and the owner copies *before* its CAS too, since its own ``put`` may run before it
has looked at the result.

What isn't covered: an exception raised by a signal handler exactly after the CAS loses the batch.
A thread that owns a ring must not let handlers raise into it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from . import atomic
from .atomic import Raw, Ref, Word

__all__ = ["SIZE", "Owner", "Ring"]

SIZE: Final = 256
_MASK: Final = SIZE - 1


class Owner[T](NamedTuple):
    """What the owner does to its ring; the functions belong to the thread that made them."""

    put: Callable[[list[T]], int]
    """Append the first of these, as many as fit; returns how many.

    The list must be the caller's own: changed by another thread meanwhile, it would break the
    ring.
    """
    claim: Callable[[int], list[T]]
    """Take up to so many of the oldest; [] if there are none."""
    shed: Callable[[], list[T]]
    """Take the oldest half, rounded up."""
    length: Callable[[], int]
    """How many are queued; the true number may be smaller already."""
    sweep: Callable[[], None]
    """Drop the references left in slots that thieves emptied.

    ``put`` and ``claim`` do that too, by and by; an owner that goes idle must call it, or the
    ring keeps finished goroutines alive.
    """


class Ring[T]:
    """A queue of at most 256, first in, first out."""

    __slots__ = ("head", "slots", "tail")

    SIZE: Final = SIZE

    def __init__(self) -> None:
        self.slots: list[T] = [None] * SIZE  # type: ignore[list-item]
        self.head = Word()
        self.tail = Word()

    def owner(self) -> Owner[T]:
        """Binds the calling thread as the owner; the functions of an owner before it are void.

        Hand ownership over by a lock or the like: the ring itself doesn't order one owner's
        accesses with the next one's.
        """
        # Only these are shared by the functions below as variables of this one, which are cells
        # with locks.  All else is given to them as defaults, which are plain locals; constants
        # too, since a global is a look-up of 25 ns.
        end = self.tail.view()[0]
        clean = end - SIZE  # nothing known: what an owner before us left in there may be stale
        blank: list[Any] = []  # as many Nones as were needed last time, often as many as next time
        blanks = 0

        slots = self.slots
        head = self.head.view()
        tail = self.tail.view()
        nones: list[Any] = [None] * SIZE
        cas = atomic.raw("compare_and_swap")
        store = None if atomic.TOTAL_STORE_ORDER else atomic.raw("store")
        expected, expected_ref = atomic.operand()
        desired, desired_ref = atomic.operand()
        refs = self.head.ref(), expected_ref, desired_ref
        value, value_ref = atomic.operand()
        store_refs = self.tail.ref(), value_ref

        def sweep(
            slots: list[T] = slots,
            head: memoryview[int] = head,
            nones: list[Any] = nones,
        ) -> None:
            nonlocal clean
            first = head[0]
            n = first - clean
            if n <= 0:
                return
            a = clean & _MASK
            b = a + n
            if b <= SIZE:
                stale = slots[a:b]
                slots[a:b] = nones[:n]
            else:
                b -= SIZE
                stale = slots[a:] + slots[:b]
                slots[a:] = nones[a:]
                slots[:b] = nones[:b]
            clean = first
            del stale  # may run anything

        def put(
            gs: list[T],
            slots: list[T] = slots,
            tail: memoryview[int] = tail,
            store: Raw | None = store,
            store_refs: tuple[Ref, Ref] = store_refs,
            value: memoryview[int] = value,
            sweep: Callable[[], None] = sweep,
            length: Callable[[list[T]], int] = len,
            size: int = SIZE,
            mask: int = _MASK,
        ) -> int:
            nonlocal end
            n = length(gs)
            after = end + n
            if after - clean > size:
                sweep()
                after = end + n
                if after - clean > size:
                    after = clean + size
                    n = after - end
                    gs = gs[:n]
            a = end & mask
            b = a + n
            if b <= size:
                slots[a:b] = gs
            else:
                k = size - a
                slots[a:] = gs[:k]
                slots[: b - size] = gs[k:]
            end = after
            if store is None:
                tail[0] = end
            else:
                value[0] = end
                store(*store_refs)
            return n

        def claim(
            most: int,
            half: bool = False,
            slots: list[T] = slots,
            head: memoryview[int] = head,
            nones: list[Any] = nones,
            cas: Raw = cas,
            refs: tuple[Ref, Ref, Ref] = refs,
            expected: memoryview[int] = expected,
            desired: memoryview[int] = desired,
            sweep: Callable[[], None] = sweep,
            size: int = SIZE,
            mask: int = _MASK,
        ) -> list[T]:
            nonlocal clean, blank, blanks
            while True:
                h = head[0]
                n = end - h
                if half:
                    n -= n // 2
                elif n > most:
                    n = most
                if n <= 0:
                    return []
                a = h & mask
                b = a + n
                gs = slots[a:b] if b <= size else slots[a:] + slots[: b - size]
                expected[0] = h
                desired[0] = h + n
                if cas(*refs):
                    break
            if clean == h:
                # Nothing dies here: gs holds it all.
                if b <= size:
                    if n != blanks:
                        blank = nones[:n]
                        blanks = n
                    slots[a:b] = blank
                else:
                    slots[a:] = nones[a:]
                    slots[: b - size] = nones[: b - size]
                clean = h + n
            else:
                sweep()  # thieves took some before ours
            return gs

        def shed(claim: Callable[[int, bool], list[T]] = claim) -> list[T]:
            return claim(0, True)

        def length(head: memoryview[int] = head) -> int:
            return end - head[0]

        return Owner(put, claim, shed, length, sweep)

    def length(self) -> int:
        """How many are queued, from any thread; for dumps.  Loops use the bound functions."""
        return self.watcher()()

    def snapshot(self) -> list[T]:
        """What is queued, for dumps: from any thread, while neither owner nor thieves are busy."""
        first = self.head.view()[0]
        return [self.slots[at & _MASK] for at in range(first, first + self.length())]

    def thief(self) -> Callable[[], list[T]]:
        """A function for the calling thread: takes half of what is queued, rounded up, or []."""
        slots = self.slots
        head = self.head.view()
        tail = self.tail.view()
        load_tail = None if atomic.TOTAL_STORE_ORDER else atomic.load(self.tail)
        cas = atomic.raw("compare_and_swap")
        expected, expected_ref = atomic.operand()
        desired, desired_ref = atomic.operand()
        refs = self.head.ref(), expected_ref, desired_ref

        def steal(
            slots: list[T] = slots,
            head: memoryview[int] = head,
            tail: memoryview[int] = tail,
            load_tail: Callable[[], int] | None = load_tail,
            cas: Raw = cas,
            refs: tuple[Ref, Ref, Ref] = refs,
            expected: memoryview[int] = expected,
            desired: memoryview[int] = desired,
            size: int = SIZE,
            mask: int = _MASK,
        ) -> list[T]:
            while True:
                h = head[0]
                n = (tail[0] if load_tail is None else load_tail()) - h
                if n <= 0:
                    return []
                if n > size:
                    continue  # head is from before, tail from after somebody took some
                n -= n // 2
                a = h & mask
                b = a + n
                gs = slots[a:b] if b <= size else slots[a:] + slots[: b - size]
                expected[0] = h
                desired[0] = h + n
                if cas(*refs):
                    return gs

        return steal

    def watcher(self) -> Callable[[], int]:
        """A function for the calling thread: how many are queued, without taking any.

        May be too large, as some may be taken meanwhile.  Whatever was put before is counted:
        "before" as atomic.fence() and the like order the two threads.
        """
        head, tail = self.head.view(), self.tail.view()

        def length(
            head: memoryview[int] = head, tail: memoryview[int] = tail, size: int = SIZE
        ) -> int:
            h = head[0]  # before tail, see above
            n = tail[0] - h
            return n if n < size else size

        return length
