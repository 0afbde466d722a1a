"""Which machine a new connection is served by.

The machine with the fewest connections, but counted in groups of GROUP: the first GROUP go
to one machine, the next to another, and from there on evenly. A machine that serves a few
connections at once pays one wake-up and one enter for all of them, so few connections are
served faster by one machine than by several (perf/NOTES.md); if they turn out to be much
work, the others steal it. One that is stuck in a long computation gets none.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["GROUP", "Placement"]

GROUP = 8


class Placement:
    """Counts the connections of each machine of a run. For any thread."""

    __slots__ = ("_counts", "_lock", "_machines")

    def __init__(self, machines: list[Machine]) -> None:
        self._lock = threading.Lock()
        self._machines = machines  # filled by the run, in the order of their numbers
        self._counts: defaultdict[int, int] = defaultdict(int)

    def take(self) -> Machine:
        """The home for one more connection, which is counted."""
        counts = self._counts
        with self._lock:
            m = min(self._machines, key=lambda m: (m.stuck, counts[m.id] // GROUP))
            counts[m.id] += 1
        return m

    def count(self, m: Machine) -> None:
        """One more that has its home already."""
        with self._lock:
            self._counts[m.id] += 1

    def give_back(self, m: Machine) -> None:
        """One less."""
        with self._lock:
            self._counts[m.id] -= 1
