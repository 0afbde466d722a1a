"""What the reader sees: where it goes, in colour or not, as text or as JSON."""

import os
import sys
from collections.abc import Sequence

from .progress import Progress, open_progress

__all__ = ["Terminal", "columns"]


class Terminal:
    """Results go to standard output, everything else to standard error."""

    def __init__(self, *, json: bool = False, color: bool = True) -> None:
        self.json = json
        allowed = color and not os.environ.get("NO_COLOR")
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        self.live = sys.stderr.isatty() and not dumb
        self._color_out = allowed and sys.stdout.isatty() and not dumb
        self._color_err = allowed and self.live
        self._warned: set[str] = set()

    def progress(self, label: str) -> Progress:
        return open_progress(label, live=self.live, color=self._color_err)

    def warn(self, text: str) -> None:
        """Once for each text, however many runs give it."""
        if text not in self._warned:
            self._warned.add(text)
            print(_paint("warning:", "33", self._color_err), text, file=sys.stderr)

    def error(self, program: str, text: str) -> None:
        print(f"{program}: {_paint('error:', '31', self._color_err)} {text}", file=sys.stderr)

    def bold(self, text: str) -> str:
        return _paint(text, "1", self._color_out)

    def dim(self, text: str) -> str:
        return _paint(text, "2", self._color_out)


def _paint(text: str, code: str, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text


def columns(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """The rows as lines of aligned columns; `align` has a `<` or `>` for each column."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(align))]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
