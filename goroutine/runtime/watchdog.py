"""Watchdog: says which goroutine keeps a machine to itself. sysmon asks it to."""

from __future__ import annotations

import logging
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
    """

    __slots__ = ("_named", "most")

    def __init__(self) -> None:
        self.most = MOST
        self._named: set[str] = set()

    def bark(self, m: Machine, g: Goroutine[Any], seconds: float) -> None:
        place = describe(g.fn)
        if place in self._named:
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
