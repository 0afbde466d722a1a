"""sleep: a goroutine's own timer."""

from __future__ import annotations

import types
from collections.abc import Generator
from math import isnan
from time import monotonic
from typing import Any

from .goroutine import Commit, Goroutine
from .park import ready
from .shared import current
from .timers import Timer

__all__ = ["sleep"]


class _Sleep(Timer):
    __slots__ = ()

    def park(self, g: Goroutine[Any]) -> None:
        """Commit: set the timer of this machine. It is awake, so it need not be told."""
        self.arg = g
        current().p.timers.add(self)


@types.coroutine
def sleep(seconds: float) -> Generator[Commit]:
    """Wait for at least so many seconds; zero or less returns at once.

    ``ValueError`` for NaN; infinity waits for ever. Go: time.Sleep.
    """
    if seconds <= 0:
        return
    if isnan(seconds):
        raise ValueError("sleep() of NaN seconds")
    current()
    yield _Sleep(monotonic() + seconds, ready, None).park
