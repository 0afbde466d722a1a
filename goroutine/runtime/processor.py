"""P: a processor, the right to run goroutines, with the queue of those it will run.

The queue has three parts, oldest first:

    runnext   one goroutine, just made ready by the one that runs: it goes next
    batch     what the owner has claimed and runs through: a deque
    ring      256 slots, lock-free on ``atomics`` (ring.py), behind the batch

and behind them all the global queue. (``yielded`` holds, until the end of the pass, those
that gave way while the global queue was not empty: they go to its tail in one batch.)

The owner claims up to BATCH goroutines from the ring with one compare-and-swap, never one a
step. While no more than BATCH goroutines are runnable the ring stays empty and nothing
needs a compare-and-swap at all; beyond that the surplus, half of the batch, goes to the
ring, and what the ring has no room for to the global queue. Nothing is ever dropped, and
the order of age is kept: batch, ring, global. (Go moves the older half of its ring to the
global queue; it has no batch in front of it.)

Everything in the queue can be stolen at every instant, also while the owner is inside one
long step: the ring by compare-and-swap, batch and runnext because deque.popleft is atomic (the
deque's own mutex). Each hands a goroutine out exactly once, and that is the whole ownership
argument: whoever got it out runs it. (runnext is a deque, too, because that keeps its memory
while it is empty: a dict or list that one thing goes into and out of allocates all the time.)

Why not the ring alone: one goroutine on one machine then pays a compare-and-swap a step
(900 ns a switch against 200, measured). Why not the deque alone: thieves then take one
goroutine per lock, and a deep queue is walked one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from .globalq import GlobalQueue
from .goroutine import Goroutine
from .ring import Ring
from .shared import idle
from .timers import TimerHeap

__all__ = ["BATCH", "Processor", "Stealer"]

BATCH = 64
"""The most goroutines an owner claims at once, and a thief takes from a batch."""

Stealer = Callable[[bool], list[Goroutine[Any]]]
"""steal(runnext_too) -> goroutines taken from one victim."""


class Processor:
    """One machine's run queue, timers and goroutines. Made in that machine's thread."""

    __slots__ = (
        "batch",
        "goroutines",
        "id",
        "ids",
        "ready",
        "ring",
        "rotate",
        "runnext",
        "spill",
        "sweep",
        "timers",
        "watch_ring",
        "yielded",
    )

    def __init__(self, number: int, machines: int, globalq: GlobalQueue, wakep: Callable[[], None]):
        self.id = number
        self.batch: deque[Goroutine[Any]] = deque()
        self.runnext: deque[Goroutine[Any]] = deque()  # one at most
        self.yielded: deque[Goroutine[Any]] = deque()
        self.ring: Ring[Goroutine[Any]] = Ring()
        self.watch_ring = self.ring.watcher()  # sysmon's
        self.timers = TimerHeap()
        # The scheduler owns every goroutine: this set is what keeps a parked one alive.
        self.goroutines: set[Goroutine[Any]] = set()
        # Ids without a shared counter: each machine has its residue class, and the threads
        # that are no machine share one more (scheduler.py). Main is 1.
        self.ids = count(2 + number, machines + 1)
        self.ready, self.rotate, self.sweep, self.spill = _owner(self, globalq, wakep)

    def length(self) -> int:
        """How many goroutines wait here, runnext left out (as in Go's schedtrace)."""
        return len(self.batch) + len(self.yielded) + self.watch_ring()

    def stealer(self) -> Stealer:
        """A thief's grip on this processor; call it in the thief's own thread."""
        return _thief(self)


def _owner(
    p: Processor, globalq: GlobalQueue, wakep: Callable[[], None]
) -> tuple[
    Callable[[Goroutine[Any]], None], Callable[[], bool], Callable[[], None], Callable[[], None]
]:
    """The operations of the owner, with all they touch in their own cells."""
    batch, runnext = p.batch, p.runnext
    append, popleft, extend, pop = batch.append, batch.popleft, batch.extend, batch.pop
    put_next, take_next = runnext.append, runnext.popleft
    ring = p.ring.owner()
    most = 2 * BATCH
    put, claim, ring_length = ring.put, ring.claim, ring.length

    def ready(g: Goroutine[Any]) -> None:
        """g runs next here; what was next goes to the tail. Go: runqput with next=true."""
        if runnext:  # nobody else puts one there, but a thief may take it
            try:
                append(take_next())
            except IndexError:
                pass
            if len(batch) > most:
                spill()
            # Publish (append took the deque's mutex), then look for sleepers: idle.py.
            if idle:
                wakep()
        put_next(g)

    def spill() -> None:
        """Move the newer half of the batch to the ring, or to global when the ring is full."""
        newer: list[Goroutine[Any]] = []
        try:
            while len(newer) < BATCH:
                newer.append(pop())
        except IndexError:
            pass  # thieves were quicker
        newer.reverse()
        to_ring(newer)

    def to_ring(gs: list[Goroutine[Any]]) -> None:
        done = put(gs)
        if done < len(gs):
            globalq.put(gs[done:])

    def rotate() -> bool:
        """Between passes: when the ring is in use, take turns strictly in order of age.

        What is left of the batch goes behind the ring and the oldest BATCH come to the
        front; so a busy pair in the batch cannot keep the ring waiting. True if the batch
        now has something.
        """
        if ring_length() or len(batch) > 2 * BATCH:
            rest: list[Goroutine[Any]] = []
            try:
                while True:
                    rest.append(popleft())
            except IndexError:
                pass
            if ring_length() == 0:
                extend(rest[:BATCH])
                rest = rest[BATCH:]
                to_ring(rest)
            else:
                to_ring(rest)
                extend(claim(BATCH))
        return bool(batch)

    return ready, rotate, ring.sweep, spill


def _thief(victim: Processor) -> Stealer:
    ring_steal = victim.ring.thief()
    batch, yielded, runnext = victim.batch, victim.yielded, victim.runnext

    def steal(runnext_too: bool) -> list[Goroutine[Any]]:
        """Half of the ring, else half of the batch, else (if asked) runnext. Go: runqgrab."""
        got = ring_steal()
        if got:
            return got
        for queue in (batch, yielded):
            n = len(queue)
            for _ in range(min(n - n // 2, BATCH)):
                try:
                    got.append(queue.popleft())
                except IndexError:
                    break
            if got:
                return got
        if runnext_too:
            try:
                got.append(runnext.popleft())
            except IndexError:
                pass
        return got

    return steal
