"""The clock of deadlines: the monotonic clock, shifted once so that it looks like time.time().

A deadline is a number that programs compare with the time of day, send to others, print; a
wait must not end early or late because the time of day was set. Go's times carry both.
"""

from __future__ import annotations

import time
from time import monotonic

__all__ = ["from_monotonic", "now", "to_monotonic"]

_OFFSET = time.time() - monotonic()


def now() -> float:
    """The time in seconds since the epoch, by a clock that never jumps. Go: time.Now."""
    return monotonic() + _OFFSET


def to_monotonic(when: float) -> float:
    """The time.monotonic() of a point in time of `now`."""
    return when - _OFFSET


def from_monotonic(when: float) -> float:
    """The point in time of `now` of a time.monotonic()."""
    return when + _OFFSET
