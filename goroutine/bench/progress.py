"""What is shown while a run goes on: one line, rewritten a few times a second, on standard error.

With `rich` (the extra `goroutine[bench]`) it is a bar; without, plain text; and where standard
error is no terminal, one line at the end of each run. No thread is used: a line is drawn when there
is something new, so drawing costs the measured machine a few milliseconds a second.
"""

import sys
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Progress", "Snapshot", "open_progress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a run goes: the rate since its start, the latencies since the last snapshot.

    The last one, of the whole run, has the latencies of the whole run.
    """

    elapsed: float
    seconds: float
    requests_per_second: float
    p50_us: float
    p99_us: float

    def __str__(self) -> str:
        return (
            f"{self.elapsed:.1f}/{self.seconds:.1f} s"
            f"  {self.requests_per_second:9,.0f} requests/s"
            f"  p50 {self.p50_us:,.1f} µs  p99 {self.p99_us:,.1f} µs"
        )


class Progress(Protocol):
    def update(self, snapshot: Snapshot) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_progress(label: str, *, live: bool, color: bool, stream: TextIO | None = None) -> Progress:
    """`live`: the stream is a terminal that can rewrite a line."""
    stream = stream if stream is not None else sys.stderr
    if not live:
        return _Quiet(label, stream)
    try:
        return _Rich(label, stream, color)
    except ImportError:
        return _Plain(label, stream)


class _Quiet:
    """Says how a run ended that went well; one that failed has an error message."""

    def __init__(self, label: str, stream: TextIO) -> None:
        self._label, self._stream = label, stream
        self._last: Snapshot | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._last is not None:
            print(f"{self._label}: {self._last}", file=self._stream)

    def update(self, snapshot: Snapshot) -> None:
        self._last = snapshot


class _Plain:
    """Rewrites its line by a carriage return; the line is gone at the end."""

    def __init__(self, label: str, stream: TextIO) -> None:
        self._label, self._stream = label, stream
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw("")

    def update(self, snapshot: Snapshot) -> None:
        self._draw(f"{self._label}: {snapshot}")

    def _draw(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
        self._stream.flush()
        self._width = len(text)


class _Rich:
    """A bar by `rich`, gone at the end."""

    def __init__(self, label: str, stream: TextIO, color: bool) -> None:
        # An optional extra, and no small import: only where it is used.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(file=stream, force_terminal=True, no_color=not color, highlight=False)
        self._bar: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task(label, figures="connecting")

    def __enter__(self) -> Self:
        self._bar.start()
        self._bar.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, snapshot: Snapshot) -> None:
        self._bar.update(
            self._task,
            total=snapshot.seconds,
            completed=snapshot.elapsed,
            figures=str(snapshot),
            refresh=True,
        )
