"""Timers: one heap per processor, under a lock so that another machine may run a busy one's.

A timer fires once, exactly: whoever takes it off the heap under the lock runs it. Stopping
marks it; a marked timer is dropped when it comes up, and swept when such timers are the
majority. The clock is time.monotonic(); ``when`` is in its seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic
from typing import Any

__all__ = ["Timer", "TimerHeap"]


class Timer:
    """One entry: at ``when`` call ``fire(arg)``, outside every lock and frame.

    On its own machine; while that one is inside a long step, on sysmon's thread.
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
        return heap is not None and heap.stop(self)


class TimerHeap:
    """The timers of one processor."""

    __slots__ = ("_dead", "_heap", "_lock", "_serial")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # (when, serial, timer): the serial keeps equal times in the order they were set.
        self._heap: list[tuple[float, int, Timer]] = []
        self._serial = count()
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def add(self, timer: Timer) -> bool:
        """Set a timer; True if it is now the earliest (a sleeping machine must be told)."""
        with self._lock:
            entry = (timer.when, next(self._serial), timer)
            timer.heap = self
            heappush(self._heap, entry)
            return self._heap[0] is entry

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
            return True

    def next_when(self) -> float | None:
        """When the earliest is due. Read without the lock: late by one `add` at most, and
        `add` tells its caller to wake the machine then."""
        heap = self._heap
        try:
            return heap[0][0]
        except IndexError:
            return None

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
        return due

    def run_due(self) -> int:
        """Fire what is due; returns how many fired."""
        due = self.take_due(monotonic())
        for timer in due:
            fire = timer.fire
            if fire is not None:
                fire(timer.arg)
        return len(due)
