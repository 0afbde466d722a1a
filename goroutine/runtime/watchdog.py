"""Watchdog: says which goroutine keeps a machine to itself. sysmon asks it to."""

from __future__ import annotations

import logging
from time import clock_gettime, pthread_getcpuclockid
from typing import TYPE_CHECKING, Any

from .goroutine import describe

if TYPE_CHECKING:
    from .goroutine import Goroutine
    from .machine import Machine

__all__ = ["Watchdog"]

MOST = 0.1
"""Seconds that a goroutine may compute without anybody being told."""

_log = logging.getLogger("goroutine")


class Watchdog:
    """Of one run. Names every function once.

    The goroutine's function, not the line: the frame belongs to the thread that runs it, and
    cannot be read from outside while it does.

    Nobody is named on account of other processes, which may keep the CPU from a machine in the
    shortest step. So what counts, from the first look on, is the CPU time that its thread has
    used, or that it waits in the kernel all the time.
    """

    __slots__ = ("_named", "_suspects", "most")

    def __init__(self) -> None:
        self.most = MOST
        self._named: set[str] = set()
        # By machine: its step; how long that had taken, the thread's CPU time, whether it waited.
        self._suspects: dict[int, tuple[tuple[int, int], float, float, bool]] = {}

    def keeps(self, m: Machine, g: Goroutine[Any], seconds: float) -> bool:
        thread = m.runtime.threads[m.id]
        assert thread.ident is not None
        step = m.tick, g.id
        used = clock_gettime(pthread_getcpuclockid(thread.ident))
        with open(f"/proc/self/task/{thread.native_id}/stat") as file:
            waits = not file.read().rpartition(") ")[2].startswith("R")
        before = self._suspects.get(m.id)
        if before is None or before[0] != step:
            self._suspects[m.id] = step, seconds, used, waits
            return False
        _, seconds_before, used_before, waited = before
        if used - used_before > self.most / 4:
            return True
        return waits and waited and seconds - seconds_before > self.most / 2

    def bark(self, m: Machine, g: Goroutine[Any], seconds: float) -> None:
        """It has been in the same step for so long, more than ``most``. Asked at every look."""
        place = describe(g.fn)
        if place in self._named or not self.keeps(m, g, seconds):
            return
        self._named.add(place)
        _log.warning(
            "goroutine %d (%s) has kept machine %d to itself for %.0f ms; call what takes long"
            " with goroutine.blocking(), or await goroutine.gosched() now and then",
            g.id,
            place,
            m.id,
            seconds * 1000,
        )
