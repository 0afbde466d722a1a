"""What a goroutine's uncaught exception looks like: Go's report, with Python's traceback."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Any

from .goroutine import Goroutine

__all__ = ["clean", "report"]

_HERE = os.path.dirname(os.path.abspath(__file__))


def clean(failure: BaseException) -> TracebackType | None:
    """The traceback of ``failure`` without the runtime's own frames at its head."""
    tb = failure.__traceback__
    while tb is not None and os.path.dirname(tb.tb_frame.f_code.co_filename) == _HERE:
        tb = tb.tb_next
    return tb


def report(g: Goroutine[Any], failure: BaseException) -> str:
    """The text a panic prints on stderr."""
    text = str(failure)
    kind = type(failure).__qualname__
    lines = [f"panic: {kind}: {text}" if text else f"panic: {kind}", ""]
    lines.append(f"goroutine {g.id} [running]:")
    tb = clean(failure)
    lines.append("".join(traceback.format_exception(type(failure), failure, tb)).rstrip())
    if g.creator:
        lines.append(g.creator)
    return "\n".join(lines)


def print_report(text: str) -> None:
    """To stderr, whatever state it is in."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass
