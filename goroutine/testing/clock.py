"""The virtual clock, for all of the package that asks what time it is.

While bubbles run, the name ``monotonic`` in the modules that read the clock for goroutines is
that of a function that knows bubbles by their thread; on every other thread it gives what it
always gave. At all other times those modules have the real function: the clock of a program
that runs no bubble costs not a look-up more.

Inside a bubble ``monotonic()`` begins at 0 and there is no offset but `EPOCH`, so that every run
counts in the very same numbers. Sums of floats being what they are, three sleeps of 0.1 and
one of 0.3 don't end at the same float, and a deadline, which is a time of day, is rounded to an
eighth of a microsecond. What ends within the same microsecond is therefore one instant to a
bubble: see `instant`.
"""

from __future__ import annotations

import time
from _thread import get_ident
from math import inf
from typing import Any

from ..context import cancel
from ..io import deadline
from ..runtime import clock, sleep, timers
from ..runtime.shared import bubbles
from ..sync import mutex
from ..time import channel

__all__ = ["EPOCH", "instant", "real_clock", "virtual_clock"]

EPOCH = 946684800.0
"""Midnight UTC, 2000-01-01."""

_READERS = (clock, sleep, timers, channel, cancel, mutex, deadline)


def instant(when: float) -> float:
    """The microsecond that a point in time belongs to; ``inf`` for never."""
    return when if when == inf else round(when * 1e6)


def _monotonic() -> float:
    try:
        virtual: float = bubbles[get_ident()].clock
    except KeyError:
        return time.monotonic()
    return virtual


class _Offset(float):
    """What is added to `_monotonic` to get the time of day."""

    def __radd__(self, other: float) -> float:
        return other + (EPOCH if get_ident() in bubbles else float(self))

    def __rsub__(self, other: float) -> float:
        return other - (EPOCH if get_ident() in bubbles else float(self))


_real_offset: float = clock._OFFSET


def virtual_clock() -> None:
    """Have bubbles see their own clock."""
    for module in _READERS:
        _set(module, "monotonic", _monotonic)
    _set(clock, "_OFFSET", _Offset(_real_offset))


def real_clock() -> None:
    """The last bubble is over."""
    for module in _READERS:
        _set(module, "monotonic", time.monotonic)
    _set(clock, "_OFFSET", _real_offset)


def _set(module: Any, name: str, value: object) -> None:
    setattr(module, name, value)
