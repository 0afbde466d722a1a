"""profile: where goroutines spend their time, running and waiting, by function and place.

Nothing is kept of single events. Each machine adds up its own: what a goroutine's function ran,
and for how long it waited, in the place where it parked, until somebody woke it, and then until a
machine had time for it. Where a goroutine has parked and when is kept by the machine on which
it did; one that goes on elsewhere is asked for there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from time import monotonic_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import trace_run
from .profile_sum import MachineSums

if TYPE_CHECKING:
    from ..runtime.machine import Machine
    from ..runtime.probe import Names, Place, Sink
    from ..runtime.scheduler import Runtime

__all__ = ["FunctionProfile", "Profile", "Wait", "profile"]


@dataclass(frozen=True, slots=True)
class Wait:
    """What goroutines of a function waited for, in one place; times are in seconds.

    >>> async def main():
    ...     with debug.profile() as p:
    ...         await goroutine.sleep(0.01)
    ...     return p.functions()[0].waits[0]
    >>> wait = goroutine.start(main)
    >>> wait.reason, wait.count, wait.seconds > 0.009
    ('sleep', 1, True)
    """

    reason: str
    """As in a dump: "chan receive"; "" if that is not known."""
    function: str
    """The innermost function of the program's own that waited."""
    file: str
    line: int
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FunctionProfile:
    """All goroutines that were started with one function; times are in seconds.

    >>> async def main():
    ...     with debug.profile() as p:
    ...         await goroutine.go(goroutine.gosched)
    ...     return p.functions()
    >>> found = goroutine.start(main, machines=1)
    >>> [f.steps for f in found if f.name.endswith("gosched")]
    [2]
    """

    name: str
    goroutines: int
    """How many were begun meanwhile."""
    steps: int
    """How often one ran, until it waited, gave way or ended."""
    running: float
    """Seconds in which they ran, computing or held up by the operating system."""
    runnable: float
    """Seconds in which they could have run, and no machine had time."""
    waiting: float
    """Seconds from parking until somebody woke them; those that still wait included."""
    waits: tuple[Wait, ...]
    """Where, longest first."""


class Profile:
    """A profile, as `profile` gives it; used by ``with``. ``str()`` is a table.

    It can be read while it goes on, from any thread, and afterwards.

    >>> async def main():
    ...     with debug.profile() as p:
    ...         await goroutine.sleep(0.01)
    ...     return str(p).split()[:5]
    >>> goroutine.start(main)
    ['running', 'runnable', 'waiting', 'steps', 'begun']
    """

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._machines: list[MachineSums] = []  # of all runs
        self._current: dict[int, MachineSums] = {}  # of this run, by number
        self._ended = 0

    def __enter__(self) -> Self:
        trace_run.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        trace_run.remove(self)

    # -- as a watcher: trace_run.py ------------------------------------------------------------

    def begin(self, runtime: Runtime) -> None:
        """For the runtime: a run is watched from now on."""
        if self._runtime is not runtime:
            self._runtime = runtime
            self._current = {}

    def sink(self, m: Machine, names: Names) -> Sink:
        """For the runtime: what a machine of it tells what it does."""
        known = self._current.get(m.id)
        if known is None:
            # (All of them see all: one that is not there yet has nobody's goroutines.)
            known = self._current[m.id] = MachineSums(names, self._current)
            self._machines.append(known)
        elif not known.begun():
            known.since = monotonic_ns()  # the step is over in which this was called first
        return known

    def end(self, runtime: Runtime) -> None:
        """For the runtime: it is watched no longer."""
        self._ended = monotonic_ns()
        for m in list(self._current.values()):
            m.close(self._ended)
        self._runtime = None
        self._current = {}

    # -- what came out ---------------------------------------------------------------------

    def functions(self) -> list[FunctionProfile]:
        """By function, those with the most running time first."""
        functions: dict[str, _Sum] = {}
        now = monotonic_ns()
        for m in list(self._machines):
            for name, numbers in m.steps():
                total = functions.setdefault(name, _Sum())
                total.numbers = [a + b for a, b in zip(total.numbers, numbers, strict=True)]
            for name, place, count, length in m.waits(now):
                sums = functions.setdefault(name, _Sum()).waits.setdefault(place, [0, 0])
                sums[0] += count
                sums[1] += length
        found = [function.profile(name) for name, function in functions.items()]
        return sorted(found, key=lambda f: (-f.running, -f.waiting, f.name))

    def __str__(self) -> str:
        lines = [f"{'running':>10} {'runnable':>10} {'waiting':>10} {'steps':>9} {'begun':>8}"]
        for f in self.functions():
            lines.append(
                f"{_time(f.running)} {_time(f.runnable)} {_time(f.waiting)}"
                f" {f.steps:>9} {f.goroutines:>8}  {f.name}"
            )
            for wait in f.waits:
                where = f" in {wait.function}, {_short(wait)}" if wait.file else ""
                lines.append(
                    f"{'':21} {_time(wait.seconds)} {wait.count:>9} {'':8}"
                    f"    {wait.reason or 'waits'}{where}"
                )
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a flame graph: JSON that https://speedscope.app opens.

        It holds two: the time in which goroutines ran and could have run, by function, and the
        time in which they waited, by function, reason and place. ``OSError`` if the file can't
        be written.

        >>> import json, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "profile.speedscope.json")
        >>> async def main():
        ...     with debug.profile() as p:
        ...         await goroutine.sleep(0.01)
        ...     p.save(path)
        >>> goroutine.start(main)
        >>> with open(path) as file:
        ...     [part["name"] for part in json.load(file)["profiles"]]
        ['running', 'waiting']
        """
        import json

        frames: dict[tuple[Any, ...], int] = {}

        def frame(*of: Any) -> int:
            return frames.setdefault(of, len(frames))

        running: list[tuple[list[int], float]] = []
        waiting: list[tuple[list[int], float]] = []
        for f in self.functions():
            function = frame(f.name)
            running.append(([function], f.running))
            running.append(([function, frame("runnable")], f.runnable))
            waiting.extend(
                (
                    [
                        function,
                        frame(w.reason or "waits"),
                        *([frame(w.function, w.file, w.line)] if w.file else []),
                    ],
                    w.seconds,
                )
                for w in f.waits
            )
        whole = {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "exporter": "goroutine.debug.profile",
            "name": "goroutines",
            "activeProfileIndex": 0,
            "profiles": [_sampled("running", running), _sampled("waiting", waiting)],
            "shared": {
                "frames": [dict(zip(("name", "file", "line"), of, strict=False)) for of in frames]
            },
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(whole, file)


def profile() -> Profile:
    """Add up where goroutines spend their time while the ``with`` block runs.

    By the function they were started with: how long they ran, how long they could have run while
    no machine had time, and how long they waited, by reason and place. In a goroutine, or around
    `start`: then all runs that are started inside are in it. Also beside a `trace`, or another
    profile. Only whole steps count: not those in the middle of which it begins or ends. Takes one
    or two microseconds for each step, and as much for each goroutine that is woken; in memory
    only what still waits.

    Go: the block and mutex profiles of runtime/pprof, and what its CPU profile says by goroutine.

    >>> async def waits(ch):
    ...     await ch.recv()
    >>> async def main():
    ...     with debug.profile() as p:
    ...         ch = goroutine.chan()
    ...         g = goroutine.go(waits, ch)
    ...         await goroutine.sleep(0.01)
    ...         await ch.send(1)
    ...         await g
    ...     return [f for f in p.functions() if f.name.endswith("waits")]
    >>> (found,) = goroutine.start(main)
    >>> found.goroutines, found.steps, found.waiting > 0.005
    (1, 2, True)
    >>> [(wait.reason, wait.count) for wait in found.waits]
    [('chan receive', 1)]
    """
    return Profile()


def _time(seconds: float) -> str:
    """In ten columns."""
    if seconds >= 1:
        return f"{seconds:>8.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:>7.2f} ms"
    return f"{seconds * 1e6:>7.1f} us"


def _short(wait: Wait) -> str:
    return f"{os.path.basename(wait.file)}:{wait.line}"


def _sampled(name: str, stacks: list[tuple[list[int], float]]) -> dict[str, Any]:
    stacks = [stack for stack in stacks if stack[1] > 0]
    return {
        "type": "sampled",
        "name": name,
        "unit": "seconds",
        "startValue": 0,
        "endValue": sum(weight for _, weight in stacks),
        "samples": [stack for stack, _ in stacks],
        "weights": [weight for _, weight in stacks],
    }


class _Sum:
    """Of one function, over all machines; nanoseconds."""

    def __init__(self) -> None:
        self.numbers = [0, 0, 0, 0]  # goroutines begun, steps, nanoseconds running and runnable
        self.waits: dict[Place, list[int]] = {}

    def profile(self, name: str) -> FunctionProfile:
        begun, steps, running, runnable = self.numbers
        waits = [_wait(place, *sums) for place, sums in self.waits.items()]
        waits.sort(key=lambda wait: (-wait.seconds, wait.reason, wait.file, wait.line))
        waiting = sum(wait.seconds for wait in waits)
        return FunctionProfile(
            name, begun, steps, running / 1e9, runnable / 1e9, waiting, tuple(waits)
        )


def _wait(place: Place, count: int, total: int) -> Wait:
    code = place.code
    if code is None:
        return Wait(place.reason, "", "", 0, count, total / 1e9)
    return Wait(place.reason, code.co_qualname, code.co_filename, place.line, count, total / 1e9)
