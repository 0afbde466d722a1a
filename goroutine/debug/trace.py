"""trace: what every machine and goroutine does, and when, into a file. Go: runtime/trace."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from ..runtime.fork import module_lock
from ..runtime.panic import print_report
from . import trace_run
from .trace_record import Budget, RunRecord

if TYPE_CHECKING:
    from ..runtime.machine import Machine
    from ..runtime.probe import Names, Sink
    from ..runtime.scheduler import Runtime

__all__ = ["MOST", "Trace", "trace"]

MOST = 1_000_000

_one = module_lock()
_active: Trace | None = None


class Trace:
    """A trace under way, as `trace` gives it; used by ``with``.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "trace.json")
    >>> async def main():
    ...     with debug.trace(path) as trace:
    ...         await goroutine.gosched()
    ...     return trace.dropped
    >>> goroutine.start(main)
    0
    """

    def __init__(self, path: str | os.PathLike[str], events: int) -> None:
        self.path = os.fsdecode(path)
        self._budget = Budget(events)
        self._runs: list[RunRecord] = []
        self._file: IO[bytes] | None = None
        self._pid = os.getpid()

    @property
    def dropped(self) -> int:
        """Events that came after as many as there may be."""
        return sum(
            recorder.dropped[0] for run in self._runs for recorder in list(run.recorders.values())
        )

    def __enter__(self) -> Self:
        global _active
        trace_run.check()
        with _one:
            if _active is not None:
                raise RuntimeError(f"a trace is under way already, into {_active.path}")
            self._file = open(self.path, "wb")  # now: if it can't be, that is told now
            _active = self
        trace_run.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _active
        file, self._file = self._file, None
        if file is None or self._pid != os.getpid():
            return  # of a forked child: the file is its parent's
        try:
            trace_run.remove(self)
            with file:
                self._write(file)
        finally:
            with _one:
                _active = None
        if self.dropped:
            print_report(
                f"goroutine: {self.path} has the first {self._budget.most} events;"
                f" {self.dropped} more were dropped"
            )

    def _write(self, file: IO[bytes]) -> None:
        import gzip
        import io

        from .trace_write import write

        about = {
            "by": "goroutine.debug.trace",
            "python": sys.version.split()[0],
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "dropped": self.dropped,
        }
        raw = file
        if self.path.endswith(".gz"):
            raw = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3)  # type: ignore[assignment]
        with raw, io.TextIOWrapper(raw, "utf-8") as text:
            write(self._runs, text.write, about)

    # -- as a watcher: trace_run.py ------------------------------------------------------------

    def begin(self, runtime: Runtime) -> None:
        """For the runtime: a run is watched from now on."""
        if not self._runs or self._runs[-1].runtime is not runtime:
            self._runs.append(RunRecord(runtime, self._budget))
            self._runs[-1].begin()

    def sink(self, m: Machine, names: Names) -> Sink:
        """For the runtime: what a machine of it tells what it does."""
        return self._runs[-1].recorder(m, names)

    def end(self, runtime: Runtime) -> None:
        """For the runtime: it is watched no longer."""
        self._runs[-1].end()


def trace(path: str | os.PathLike[str], *, events: int = MOST) -> Trace:
    """Trace all machines and goroutines while the ``with`` block runs, into a file.

    In a goroutine, or around `start`: then each run that is started inside is traced. The file
    is JSON in the format of Chrome's trace events, which https://ui.perfetto.dev opens;
    ``python -m goroutine trace view FILE -o page.html`` makes a page of it. With a name that ends
    in ``.gz`` it is compressed. It is written when the block is left, however it is left; that
    takes some seconds for a million events, during which the calling thread does nothing else.

    At most ``events`` are kept, 32 bytes each; what comes after them is dropped, and how much that
    was is told on stderr. ``RuntimeError`` if a trace is under way; ``OSError`` if the file can't
    be written; ``ValueError`` if ``events`` is less than 1.

    It takes one to two microseconds an event: a step, a wake-up, a goroutine begun.
    Go: runtime/trace.Start and Stop.

    >>> import json, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "trace.json")
    >>> async def main():
    ...     with debug.trace(path):
    ...         await goroutine.go(goroutine.sleep, 0.01)
    >>> goroutine.start(main)
    >>> with open(path) as file:
    ...     found = json.load(file)["traceEvents"]
    >>> [event["name"] for event in found if event.get("cat") == "wait"]
    ['sleep', 'join']
    """
    if events < 1:
        raise ValueError(f"events must be at least 1, not {events}")
    return Trace(path, events)
