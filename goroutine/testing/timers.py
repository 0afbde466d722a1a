"""The timers of a bubble: a heap on the virtual clock, taken off an instant at a time."""

from __future__ import annotations

from _thread import get_ident
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from ..runtime.shared import bubbles, find
from ..runtime.timers import Timer
from .clock import instant

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Timers"]


class Timers:
    """As runtime.timers.TimerHeap, for one thread."""

    def __init__(self, m: Machine) -> None:
        self._m = m
        self._heap: list[tuple[float, int, Timer]] = []
        self._serial = count()
        self.due: list[Timer] = []  # whose time has come, and which have not gone off yet

    def __len__(self) -> int:
        return sum(timer.fire is not None for _, _, timer in self._heap) + len(self.due)

    def add(self, timer: Timer) -> bool:
        timer.heap = self  # type: ignore[assignment]
        heappush(self._heap, (timer.when, next(self._serial), timer))
        return True

    def stop(self, timer: Timer) -> bool:
        """Prevent the firing; also of one that is due, as long as it has not gone off."""
        if find(bubbles, get_ident()) is not self._m:
            raise RuntimeError("stop of synctest timer from outside bubble")
        home: object = timer.heap
        if timer.fire is None or home is not self:
            return False
        timer.fire = timer.arg = timer.heap = None
        if timer in self.due:
            self.due.remove(timer)
        return True

    def take(self, timer: Timer) -> None:
        """It goes off now: out of ``due``."""
        self.due.remove(timer)
        timer.heap = None

    def next_instant(self) -> float | None:
        """Have what comes next be due: when that is; None if nothing will come."""
        heap = self._heap
        while heap and heap[0][2].fire is None:
            heappop(heap)
        if not heap or heap[0][0] == inf:
            return None
        when = heap[0][0]
        moment = instant(when)
        while heap and instant(heap[0][0]) == moment:
            when, _, timer = heappop(heap)
            if timer.fire is not None:
                self.due.append(timer)
        return when
