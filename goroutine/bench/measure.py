"""One measured echo run: a server, its load, the window, and what came of it.

The order of things: the server listens; every load process brings its connections up; all of them
and this process agree on when the window starts, on the monotonic clock; at both ends of the window
the server's CPU time is read; the loads drain and report; everything is ended. Each step has a time
limit, and every child is gone when `measure` returns or raises.
"""

import compileall
import contextlib
import selectors
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .child import Child
from .errors import RunFailedError, UnavailableError
from .facts import busy_seconds, child_python, machine_facts
from .histogram import Histogram
from .load import CONNECT_SECONDS, DRAIN_SECONDS, ERRORS, LoadSpec
from .load_process import HARD_STOP_SECONDS
from .progress import Progress, Snapshot

__all__ = ["EchoResult", "EchoSpec", "measure", "server_command"]

_START_SECONDS = 20.0
"""For the server to listen, importing everything on a busy machine."""
_REPORT_SECONDS = 0.2
_BUSY = 0.9
_LOST = {
    "connect": "connections that didn't come up",
    "closed": "connections closed by the server",
    "socket": "connections that failed",
    "mismatch": "connections with wrong bytes",
    "unanswered": "messages that never came back",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoSpec:
    machines: int | None = None
    io: str = "auto"
    connections: int = 64
    size: int = 64
    seconds: float = 3.0
    load_processes: int = 1
    server_cpus: tuple[int, ...] = ()
    load_cpus: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class EchoResult:
    """What a run gave. Latencies are in microseconds, CPU in seconds of CPU."""

    spec: EchoSpec
    server: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=machine_facts)
    histogram: Histogram = field(default_factory=Histogram)
    seconds: float = 0.0
    server_cpu_seconds: float = 0.0
    other_cpu_seconds: float = 0.0
    """What programs that have no part in the run took meanwhile: it was missing to the run."""
    load_cpu_seconds: list[float] = field(default_factory=list)
    per_connection: list[int] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ERRORS, 0))
    first_error: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.histogram.total

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def server_cpu_us_per_request(self) -> float:
        return self.server_cpu_seconds * 1e6 / self.requests if self.requests else 0.0

    def percentile_us(self, fraction: float) -> float:
        return self.histogram.percentile(fraction) / 1000

    @property
    def load_bound(self) -> bool:
        """Whether a load process had hardly any time left: then the server could do more."""
        return bool(self.seconds) and max(self.load_cpu_seconds, default=0) > (_BUSY * self.seconds)

    def as_json(self) -> dict[str, Any]:
        seconds = self.seconds or 1.0
        return {
            **asdict(self.spec),
            "machines": self.server.get("machines", self.spec.machines),
            "backend": self.server.get("backend"),
            "seconds": round(self.seconds, 6),
            "requests": self.requests,
            "requests_per_second": round(self.requests_per_second, 1),
            "p50_us": round(self.percentile_us(0.5), 2),
            "p99_us": round(self.percentile_us(0.99), 2),
            "p999_us": round(self.percentile_us(0.999), 2),
            "max_us": round(self.histogram.maximum / 1000, 2),
            "server_cpu_us_per_request": round(self.server_cpu_us_per_request, 3),
            "server_cpus_used": round(self.server_cpu_seconds / seconds, 3),
            "load_cpus_used": [round(cpu / seconds, 3) for cpu in self.load_cpu_seconds],
            "other_cpus_used": round(self.other_cpu_seconds / seconds, 2),
            "load_bound": self.load_bound,
            "connection_min": min(self.per_connection, default=0),
            "connection_max": max(self.per_connection, default=0),
            "errors": self.errors,
            "first_error": self.first_error,
            "server": self.server,
            "facts": self.facts,
            "notes": self.notes,
        }


def server_command(spec: EchoSpec) -> list[str]:
    command = [*child_python(), "-m", "goroutine.bench.echo_server", "--io", spec.io]
    if spec.machines is not None:
        command += ["--machines", str(spec.machines)]
    if spec.server_cpus:
        command += ["--cpus", ",".join(map(str, spec.server_cpus))]
    return command


def measure(spec: EchoSpec, progress: Progress, server: Sequence[str] | None = None) -> EchoResult:
    """Runs the benchmark once. `server`: another server's command, with the same one line."""
    _compile_package()
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(Child("the server", server or server_command(spec)))
        listening = echo.expect(_START_SECONDS, "starting to listen")
        if "port" not in listening:
            reason = str(listening.get("reason", "the server can't run here"))
            raise UnavailableError(reason, {"unavailable": reason})
        result = EchoResult(spec=spec, server=listening)
        loads = _start_loads(stack, spec, listening["port"], result)
        try:
            _window(echo, loads, result, progress)
        except RunFailedError as error:
            if not echo.alive():
                raise RunFailedError(echo.obituary(), result.as_json()) from error
            raise
        _judge(echo, result)
        progress.update(_snapshot(result.histogram, result.requests, result.seconds, spec.seconds))
    return result


def _compile_package() -> None:
    """Makes the .pyc files: constants of a module compiled in the very process stay counted, which
    would make the first run slower than the second."""
    if not sys.dont_write_bytecode:
        compileall.compile_dir(Path(__file__).parent.parent, quiet=2)


def _start_loads(
    stack: contextlib.ExitStack, spec: EchoSpec, port: int, result: EchoResult
) -> list[Child]:
    """The load processes with all their connections up."""
    loads = []
    first = 0
    command = [*child_python(), "-m", "goroutine.bench.load_process"]
    for number in range(spec.load_processes):
        share = (spec.connections - first) // (spec.load_processes - number)
        order = LoadSpec(
            host="127.0.0.1",
            port=port,
            connections=share,
            size=spec.size,
            seconds=spec.seconds,
            first_connection=first,
            report_seconds=_REPORT_SECONDS,
        )
        load = stack.enter_context(Child(f"load process {number + 1}", command))
        load.send(**asdict(order), cpus=spec.load_cpus)
        loads.append(load)
        first += share
    up = 0
    for load in loads:
        ready = load.expect(_START_SECONDS + CONNECT_SECONDS, "connecting")
        up += ready["ready"]
        _add_errors(result, ready)
    if up < spec.connections or any(result.errors.values()):
        text = f"only {up} of {spec.connections} connections came up ({result.first_error})"
        raise RunFailedError(text, result.as_json())
    return loads


@dataclass(frozen=True, slots=True)
class _Used:
    """CPU seconds used so far, by the server, by this process, and on the whole machine."""

    server: float
    own: float
    machine: float

    @classmethod
    def now(cls, echo: Child) -> "_Used":
        return cls(echo.cpu_seconds() or 0.0, time.process_time(), busy_seconds())


def _window(echo: Child, loads: list[Child], result: EchoResult, progress: Progress) -> None:
    """Lets the loads run, reads the server's CPU time at both ends, and collects the results."""
    spec = result.spec
    # Far enough ahead for every load process to have been woken up.
    start = time.monotonic() + 0.05 + 0.01 * len(loads)
    end = start + spec.seconds
    limit = end + DRAIN_SECONDS + HARD_STOP_SECONDS + 1.0
    for load in loads:
        load.send(start_ns=int(start * 1e9))
    interval = Histogram()
    seen = 0
    before: _Used | None = None
    after: _Used | None = None
    next_look = start + _REPORT_SECONDS * 1.1
    waiting = set(loads)
    with selectors.DefaultSelector() as selector:
        for load in loads:
            selector.register(load, selectors.EVENT_READ)
        while waiting:
            now = time.monotonic()
            if before is None and now >= start:
                before = _Used.now(echo)
            if after is None and now >= end:
                after = _Used.now(echo)
            if now >= limit:
                names = ", ".join(sorted(load.name for load in waiting))
                raise RunFailedError(f"{names}: no result in time", result.as_json())
            if now >= next_look:
                next_look += _REPORT_SECONDS
                gained = interval.total
                seen += gained
                if gained and now < end:
                    progress.update(_snapshot(interval, seen, now - start, spec.seconds))
                    interval.clear()
            nearest = min(
                start if before is None else limit,
                end if after is None else limit,
                next_look,
            )
            for key, _ in selector.select(max(0.0, nearest - now)):
                load = next(load for load in loads if load is key.fileobj)
                for line in load.take():
                    if line["event"] == "progress":
                        interval.add(line["histogram"])
                    else:
                        selector.unregister(load)
                        waiting.discard(load)
                        _add_result(result, line)
    # Not yet there when every connection was lost before the window's end.
    after = after or _Used.now(echo)
    if before is not None:
        result.server_cpu_seconds = max(0.0, after.server - before.server)
        ours = result.server_cpu_seconds + sum(result.load_cpu_seconds) + after.own - before.own
        result.other_cpu_seconds = max(0.0, after.machine - before.machine - ours)


def _snapshot(interval: Histogram, seen: int, elapsed: float, seconds: float) -> Snapshot:
    return Snapshot(
        elapsed=elapsed,
        seconds=seconds,
        requests_per_second=seen / elapsed,
        p50_us=interval.percentile(0.5) / 1000,
        p99_us=interval.percentile(0.99) / 1000,
    )


def _add_result(result: EchoResult, line: dict[str, Any]) -> None:
    result.seconds = max(result.seconds, line["seconds"])
    result.histogram.add(line["histogram"])
    result.per_connection += line["per_connection"]
    result.load_cpu_seconds.append(line["cpu_seconds"])
    _add_errors(result, line)


def _add_errors(result: EchoResult, line: dict[str, Any]) -> None:
    for kind, count in line["errors"].items():
        result.errors[kind] += count
    result.first_error = result.first_error or line["first_error"]


def _judge(echo: Child, result: EchoResult) -> None:
    """Raises unless the figures can be trusted; notes what the reader should know about them."""
    lost = {kind: count for kind, count in result.errors.items() if count}
    if (lost or not result.requests) and echo.ended_within(0.5):
        raise RunFailedError(echo.obituary(), result.as_json())
    if lost:
        counts = ", ".join(f"{_LOST[kind]}: {count}" for kind, count in lost.items())
        raise RunFailedError(f"{counts} ({result.first_error})", result.as_json())
    if not result.requests:
        raise RunFailedError("not one request was answered in time", result.as_json())
    if result.load_bound:
        result.notes.append(
            "a load process was busy all the time: the server may do more than this;"
            " try more --load-processes (and CPUs)"
        )
    farewell = echo.finish()
    result.server |= {key: value for key, value in farewell.items() if key != "event"}
    if not farewell.get("in_order", False):
        result.notes.append("the server did not end in order")
    said = [line.strip() for line in echo.stderr().splitlines() if line.strip()]
    if said:
        result.notes.append(f"the server wrote to stderr ({len(said)} lines), the last: {said[-1]}")
