"""What a goroutine's uncaught exception looks like: Go's report, with Python's traceback."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Any

from ..errors import Deadlock, GoroutinePanic
from .goroutine import Goroutine

__all__ = ["clean", "exit_with_2", "print_report", "report", "title"]

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.join(os.path.dirname(_HERE), "")


def clean(failure: BaseException) -> TracebackType | None:
    """The traceback of ``failure`` without the runtime's own frames at its head."""
    tb = failure.__traceback__
    while tb is not None and os.path.dirname(tb.tb_frame.f_code.co_filename) == _HERE:
        tb = tb.tb_next
    return tb


def title(failure: BaseException) -> str:
    """Kind and text of a failure, whose ``__str__`` may fail, too."""
    kind = type(failure).__qualname__
    try:
        text = str(failure)
    except Exception:
        text = "<exception str() failed>"  # as in Python's own tracebacks
    return f"{kind}: {text}" if text else kind


def report(g: Goroutine[Any], failure: BaseException) -> str:
    """The text a panic prints on stderr."""
    lines = [f"panic: {title(failure)}", ""]
    lines.append(f"goroutine {g.id} [running]:")
    told = traceback.TracebackException.from_exception(failure)
    _hide(told)
    lines.append("".join(told.format()).rstrip())
    if g.creator:
        lines.append(g.creator)
    return "\n".join(lines)


def _hide(told: traceback.TracebackException) -> None:
    """Take our own frames out, wherever a failure came through them: a call of `blocking`, a
    Group. (All of them are kept of one that never left them.)"""
    frames = [frame for frame in told.stack if not frame.filename.startswith(_PACKAGE)]
    if frames:
        told.stack[:] = frames
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _hide(other)


def print_report(text: str) -> None:
    """To stderr, whatever state it is in."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


_hooked = False


def exit_with_2() -> None:
    """From here on an uncaught `GoroutinePanic` or `Deadlock` ends the process with status 2.

    That is what sys.excepthook gets to see and nobody else; it may raise SystemExit. What
    happened has been reported by then and isn't printed again, but a hook that the program
    had installed is called as ever.
    """
    global _hooked
    if _hooked:
        return
    _hooked = True
    before = sys.excepthook

    def hook(kind: type[BaseException], failure: BaseException, tb: TracebackType | None) -> None:
        ours = issubclass(kind, (GoroutinePanic, Deadlock))
        if not ours or before is not sys.__excepthook__:
            before(kind, failure, tb)
        if ours:
            raise SystemExit(2)

    sys.excepthook = hook
