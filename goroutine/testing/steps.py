"""Printed: a run as it goes, step by step: who goes on, and from which line of whose code."""

from __future__ import annotations

import linecache
import os
from typing import TYPE_CHECKING, Any

from ..runtime.dump import look, ours
from ..runtime.frames import line_of

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Printed"]


class Printed:
    """Prints a line for each step of a bubble: which goroutine goes on, and where it stands.

    In front of it the choice that led to it, if that was not the default: as in a schedule.
    """

    def __init__(self) -> None:
        self._m: Machine | None = None
        self._seen = 0  # choices
        self._begun: set[int] = set()

    def __call__(self, m: Machine, g: Any) -> None:
        if m is not self._m:
            if self._m is not None:
                print()
            self._m, self._seen = m, 0
            self._begun.clear()
        trace = m.chooser.trace
        chosen = [f"{at}:{trace[at][2]}" for at in range(self._seen, len(trace)) if trace[at][2]]
        self._seen = len(trace)
        place = _place(g) if g.id in self._begun else f"begins {g.name}"
        self._begun.add(g.id)
        print(f"{','.join(chosen):>6}  goroutine {g.id}  {place}", flush=True)


def _place(g: Any) -> str:
    """The innermost line that is not ours."""
    for code, index in reversed(look(g).frames):
        if not ours(code):
            line = line_of(code, index)
            source = linecache.getline(code.co_filename, line).strip()
            file = os.path.basename(code.co_filename)
            return f"{file}:{line}  {code.co_qualname}: {source}"
    return f"in {g.name}"
