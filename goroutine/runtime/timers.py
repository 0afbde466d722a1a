"""Timers: one heap per processor, under a lock so that another machine may run a busy one's.

A timer fires once, exactly: whoever takes it off the heap under the lock runs it. Stopping
marks it; a marked timer is dropped when it comes up, and swept when such timers are the
majority. The clock is time.monotonic(); ``when`` is in its seconds.

``first`` is what the owner reads without the lock, at every pass and before it sleeps. It is
stored as the last thing of each change, because the heap itself is out of order meanwhile
(a pop puts its last entry at the root for a while). Too early a value costs a look; too late
a one could only be that of before an `add`, which tells its caller to wake the owner then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf, isnan
from time import monotonic
from typing import TYPE_CHECKING, Any

from .shared import machine_or_none

if TYPE_CHECKING:
    from .scheduler import Runtime

__all__ = ["Timer", "TimerHeap", "from_now", "set_timer"]


class Timer:
    """One entry: at ``when`` call ``fire(arg)``, outside every lock and frame.

    On its own machine; while that one is inside a long step, on another or on sysmon's
    thread.
    """

    __slots__ = ("arg", "fire", "heap", "when")

    def __init__(self, when: float, fire: Callable[[Any], object], arg: Any) -> None:
        self.when = when
        self.fire: Callable[[Any], object] | None = fire
        self.arg = arg
        self.heap: TimerHeap | None = None

    def stop(self) -> bool:
        """Prevent the firing; True if that came in time."""
        heap = self.heap
        if heap is None or not heap.stop(self):
            return False
        if machine_or_none() is None:
            # It may have been what kept the run from being deadlocked, and all machines sleep.
            runtime = _running()
            if runtime is not None:
                runtime.sysmon.call()
        return True


class TimerHeap:
    """The timers of one processor."""

    __slots__ = ("_dead", "_heap", "_lock", "_serial", "first")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # (when, serial, timer): the serial keeps equal times in the order they were set.
        self._heap: list[tuple[float, int, Timer]] = []
        self._serial = count()
        self._dead = 0
        self.first: float | None = None  # when the earliest comes up, a stopped one too

    def __len__(self) -> int:
        with self._lock:
            return len(self._heap) - self._dead

    def add(self, timer: Timer) -> bool:
        """Set a timer; True if it is now the earliest (a sleeping machine must be told)."""
        with self._lock:
            when = timer.when
            timer.heap = self
            heappush(self._heap, (when, next(self._serial), timer))
            first = self.first
            if first is None or when < first:
                self.first = when
                return True
            return False

    def stop(self, timer: Timer) -> bool:
        """See `Timer.stop`."""
        with self._lock:
            if timer.fire is None or timer.heap is not self:
                return False
            timer.fire = timer.arg = timer.heap = None
            self._dead += 1
            if self._dead > 64 and self._dead * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].fire is not None]
                heapify(self._heap)
                self._dead = 0
                self.first = self._heap[0][0] if self._heap else None
            return True

    def next_when(self) -> float | None:
        """When the earliest is due; None if there is none. Without the lock."""
        return self.first

    def take_due(self, now: float) -> list[Timer]:
        """Take the timers that are due off the heap, earliest first."""
        due: list[Timer] = []
        with self._lock:
            heap = self._heap
            while heap and heap[0][0] <= now:
                timer = heappop(heap)[2]
                if timer.fire is None:
                    self._dead -= 1
                else:
                    timer.heap = None
                    due.append(timer)
            self.first = heap[0][0] if heap else None
        return due

    def run_due(self, now: float | None = None) -> int:
        """Fire what is due; returns how many fired."""
        due = self.take_due(monotonic() if now is None else now)
        for timer in due:
            fire = timer.fire
            if fire is not None:
                fire(timer.arg)
        return len(due)


def from_now(seconds: float) -> float:
    """The time.monotonic() of so many seconds from now; of now, if negative.

    ``inf`` beyond what a float can say; ValueError for NaN.
    """
    try:
        if isnan(seconds):
            raise ValueError("a time to wait must not be NaN")
        return monotonic() + seconds if seconds > 0 else monotonic()
    except OverflowError:  # of an int
        return inf if seconds > 0 else monotonic()


def set_timer(timer: Timer) -> bool:
    """Set it on the calling machine; from another thread on one of the run's, which is told.

    False outside a run: nobody would fire it.
    """
    m = machine_or_none()
    if m is not None:
        m.p.timers.add(timer)  # it is awake, and looks before it sleeps
        return True
    runtime = _running()
    try:
        m = None if runtime is None else runtime.machines[0]
    except IndexError:  # it is only beginning
        m = None
    if m is None:
        return False
    if m.p.timers.add(timer):
        m.post(_look)
    return True


def _running() -> Runtime | None:
    from .scheduler import running  # scheduler needs this module

    return running()


def _look() -> None:
    """Posted to a machine that may sleep: it looks at its timers again."""
