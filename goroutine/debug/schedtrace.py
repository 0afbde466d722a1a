"""GOROUTINE_DEBUG=schedtrace=1000: Go's line about the scheduler on stderr, every so often.

By a thread of its own, so that it comes also while all machines compute, or sleep. The fields
are Go's; those that mean nothing here say 0, false or nil. A thread is a machine, sysmon, or one
for blocking calls.
"""

from __future__ import annotations

import threading
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..runtime.dump import RUNNABLE, RUNNING
from ..runtime.panic import print_report
from .dumping import looks
from .stats import Stats, of

if TYPE_CHECKING:
    from ..runtime.scheduler import Runtime

__all__ = ["Tracer", "detail", "line"]


class Tracer:
    """Prints while it is entered."""

    def __init__(self, runtime: Runtime, period: float, detail: int) -> None:
        self._runtime = runtime
        self._period = period
        self._detail = detail
        self._began = monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="goroutine-schedtrace", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        # (The first one at once, as in Go; by then the machines may not be there.)
        when = self._began
        while not self._over.wait(max(0.0, when - monotonic())):
            when = max(when + self._period, monotonic())
            milliseconds = int((monotonic() - self._began) * 1000)
            print_report((detail if self._detail else line)(self._runtime, milliseconds))


def _head(runtime: Runtime, stats: Stats, milliseconds: int) -> str:
    blocking = stats.blocking
    asleep = sum(m.asleep for m in stats.machines)
    return (
        f"SCHED {milliseconds}ms: gomaxprocs={runtime.count} idleprocs={asleep}"
        f" threads={runtime.count + 1 + blocking.threads}"
        f" spinningthreads={sum(m.spinning for m in stats.machines)} needspinning=0"
        f" idlethreads={asleep + blocking.free} runqueue={stats.queue}"
    )


def line(runtime: Runtime, milliseconds: int) -> str:
    """Go: schedtrace(false)."""
    stats = of(runtime)
    queues = " ".join(str(m.queue) for m in stats.machines)
    return f"{_head(runtime, stats, milliseconds)} [{queues}]"


_STATUS = {RUNNABLE: 1, RUNNING: 2}
_WAITING = 4
_IDLE, _BUSY = 0, 1


def detail(runtime: Runtime, milliseconds: int) -> str:
    """Go: schedtrace(true): each P, M and G has a line. Here a P and its M are one."""
    stats = of(runtime)
    quiet = runtime.sysmon.asleep_since is not None
    lines = [
        f"{_head(runtime, stats, milliseconds)} gcwaiting=false nmidlelocked=0 stopwait=0"
        f" sysmonwait={_bool(quiet)}"
    ]
    lines += [
        f"  P{m.number}: status={_IDLE if m.asleep else _BUSY} schedtick={m.steps}"
        f" syscalltick={m.polls} m={m.number} runqsize={m.queue} gfreecnt=0 timerslen={m.timers}"
        for m in stats.machines
    ]
    lines += [
        f"  M{m.number}: p={m.number} curg={'nil' if m.running is None else m.running}"
        f" mallocing=0 throwing=0 preemptoff= locks=0 dying=0 spinning={_bool(m.spinning)}"
        f" blocked={_bool(m.asleep)} lockedg=nil"
        for m in stats.machines
    ]
    at = {m.running: m.number for m in stats.machines}
    for seen in sorted(looks(runtime), key=lambda seen: seen.id):
        status = _STATUS.get(seen.state, _WAITING)
        reason = "" if status in _STATUS.values() else seen.state
        m = at.get(seen.id, "nil") if status == _STATUS[RUNNING] else "nil"
        lines.append(f"  G{seen.id}: status={status}({reason}) m={m} lockedm=nil")
    return "\n".join(lines)


def _bool(value: bool) -> str:
    return "true" if value else "false"
