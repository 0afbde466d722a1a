"""GOROUTINE_DEBUG: what is to be switched on. Go: GODEBUG."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ..runtime.panic import print_report

__all__ = ["Options", "read"]


class Options(NamedTuple):
    """What GOROUTINE_DEBUG says."""

    dump: int = 0
    leaks: int = 0
    scheddetail: int = 0
    schedtrace: int = 0
    """Milliseconds."""
    sigusr1: int = 0
    stuck: int = 100
    """Milliseconds that a goroutine may keep a machine before it is named; 0: for ever."""
    trace: str = ""
    """The file."""


_MOST = {"schedtrace": 86_400_000, "stuck": 86_400_000}
"""The others are switches: 0 or 1."""

_warned: set[str] = set()


def read() -> Options:
    """What the environment says now. Each thing wrong with it is told once, in a line."""
    text = os.environ.get("GOROUTINE_DEBUG", "")
    if not text.strip():
        return Options()
    options, complaints = parse(text)
    for complaint in complaints:
        if complaint not in _warned:
            _warned.add(complaint)
            print_report(f"goroutine: GOROUTINE_DEBUG: {complaint}")
    return options


def parse(text: str) -> tuple[Options, list[str]]:
    """Options, and what is wrong with the text."""
    options, complaints = Options(), []
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name or equals):
            continue
        if name not in Options._fields:
            known = ", ".join(Options._fields)
            complaints.append(f"there is no option {name!r}; there are {known}")
            continue
        if name == "trace":
            options = options._replace(trace=value)
            continue
        most = _MOST.get(name, 1)
        # (int() takes more than digits: signs, underscores, spaces.)
        if not (value.isascii() and value.isdigit()) or int(value) > most:
            wanted = "0 or 1" if most == 1 else f"a number of milliseconds, at most {most}"
            complaints.append(f"{name} must be {wanted}, not {value!r}")
            continue
        number: dict[str, Any] = {name: int(value)}
        options = options._replace(**number)
    return options, complaints
