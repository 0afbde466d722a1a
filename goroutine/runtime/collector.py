"""The garbage collector's threshold while goroutines run.

A collection stops every thread for a time proportional to all that lives: 17 ms at 100,000
parked goroutines. CPython's default threshold (2,000 new objects, or a quarter of those
that survived a full collection) makes growing to 1,000,000 goroutines spend 58 % of its
time in collections. While a run lasts the threshold is therefore at least FLOOR, and grows
with the goroutines: a collection comes when about as many objects have been made since the
last one as goroutines hold, so collecting costs a constant part of allocating.

Left alone: a collector that is off or whose threshold the program has set itself, and
everything when GOROUTINE_GC=off.
"""

from __future__ import annotations

import gc
import os

__all__ = ["FLOOR", "Collector"]

FLOOR = 200_000

PER_GOROUTINE = 3  # collectable objects: the handle, the coroutine, its iterator

_DEFAULTS = {(2000, 10, 10), (2000, 10, 0), (700, 10, 10)}


class Collector:
    """Sets the threshold for one run and puts it back."""

    __slots__ = ("_before", "_now")

    def __init__(self) -> None:
        self._before: tuple[int, ...] | None = None
        self._now = 0

    def begin(self) -> None:
        """At the start of a run."""
        before = gc.get_threshold()
        if gc.isenabled() and before in _DEFAULTS and os.environ.get("GOROUTINE_GC") != "off":
            self._before = before
            self._set(FLOOR)

    def adapt(self, goroutines: int) -> None:
        """Now and then, from sysmon: so many goroutines live."""
        if self._before is None:
            return
        wanted = max(FLOOR, PER_GOROUTINE * goroutines)
        if not self._now // 2 < wanted <= self._now:
            self._set(2 * wanted if wanted > FLOOR else FLOOR)

    def end(self) -> None:
        """At the end of a run."""
        if self._before is not None:
            if gc.get_threshold()[0] == self._now:  # else the program has set its own
                gc.set_threshold(*self._before)
            self._before = None

    def _set(self, threshold: int) -> None:
        if self._now and gc.get_threshold()[0] != self._now:
            self._before = None  # the program sets its own from here on
            return
        assert self._before is not None
        self._now = threshold
        gc.set_threshold(threshold, *self._before[1:])
