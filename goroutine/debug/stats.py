"""stats: what the machines have done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..runtime.scheduler import running
from ..runtime.shared import idle, spinning

if TYPE_CHECKING:
    from ..runtime.machine import Machine
    from ..runtime.scheduler import Runtime

__all__ = ["Blocking", "Counts", "MachineStats", "Stats", "of", "stats"]


@dataclass(frozen=True, slots=True)
class MachineStats:
    """One machine: counts since the run began, and what there is now.

    >>> async def main():
    ...     return debug.stats().machines[0]
    >>> m = goroutine.start(main, machines=1)
    >>> m.number, m.running, m.asleep
    (0, 1, False)
    """

    number: int
    running: int | None
    """The number of the goroutine that it runs."""
    asleep: bool
    """Waiting in the kernel, with nothing to do."""
    spinning: bool
    """Looking around for work, awake."""
    steps: int
    """How often it ran a goroutine until that waited, gave way or ended. (Counted when it has
    made 61, or has nothing to do.)"""
    passes: int
    """Rounds of its loop: up to 61 steps each, and a look at timers, queues and the kernel."""
    polls: int
    """System calls with which it asked the kernel for news (io_uring_enter, epoll_wait)."""
    events: int
    """What it was told: io_uring's completions, epoll's events."""
    parks: int
    """How often it went to sleep."""
    spins: int
    """How often it looked around for work for some time, before that."""
    steals: int
    """How often it took goroutines from another machine."""
    queue: int
    """Runnable goroutines that wait for it."""
    timers: int
    """Timers that are set, goroutines that sleep included."""
    waiters: int
    """Goroutines that wait for the kernel here."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Goroutines by state. Not of one instant: the others go on while this is counted.

    >>> async def main():
    ...     goroutine.go(print, end="")
    ...     return debug.stats().goroutines
    >>> goroutine.start(main, machines=1)
    Counts(running=1, runnable=1, waiting=0)
    """

    running: int
    runnable: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Blocking:
    """The threads for blocking calls.

    >>> async def main():
    ...     await goroutine.blocking(print, end="")
    ...     return debug.stats().blocking
    >>> goroutine.start(main)
    Blocking(threads=1, free=1, calls=0)
    """

    threads: int
    free: int
    """Threads that are not inside a call."""
    calls: int
    """Calls under way, or waiting for a thread."""


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot, as `stats` gives it.

    >>> async def main():
    ...     return len(debug.stats().machines)
    >>> goroutine.start(main, machines=2)
    2
    """

    machines: tuple[MachineStats, ...]
    goroutines: Counts
    queue: int
    """Length of the global queue."""
    blocking: Blocking

    @property
    def timers(self) -> int:
        """Timers that are set, on all machines."""
        return sum(m.timers for m in self.machines)


def stats() -> Stats:
    """Numbers about the scheduler. From any thread; outside a run there are no machines.

    Nobody is stopped for it: what is counted on one machine is a little older than on the next.
    Go: runtime/metrics, and what schedtrace prints.

    >>> async def main():
    ...     for _ in range(100):
    ...         await goroutine.gosched()
    ...     before = debug.stats().machines[0].steps
    ...     for _ in range(1000):
    ...         await goroutine.gosched()
    ...     return debug.stats().machines[0].steps - before
    >>> 900 <= goroutine.start(main, machines=1) <= 1100
    True
    """
    runtime = running()
    if runtime is None:
        return Stats((), Counts(0, 0, 0), 0, Blocking(0, 0, 0))
    return of(runtime)


def of(runtime: Runtime) -> Stats:
    """Those of a run."""
    machines = tuple(map(_machine, list(runtime.machines)))
    in_global = len(runtime.globalq)
    run = sum(m.running is not None for m in machines)
    runnable = in_global + sum(m.queue for m in machines)
    waiting = max(0, sum(map(len, runtime.homes())) - run - runnable)
    pool = runtime.pool
    blocking = Blocking(len(pool.threads), max(0, pool.free), max(0, pool.pending))
    return Stats(machines, Counts(run, runnable, waiting), in_global, blocking)


def _machine(m: Machine) -> MachineStats:
    p, g = m.p, m.g
    polls, events = m.poller.counts()
    return MachineStats(
        number=m.id,
        running=None if g is None else g.id,
        asleep=m.id in idle,
        spinning=m.id in spinning,
        steps=m.done,
        passes=m.tick,
        polls=polls,
        events=events,
        parks=m.parks,
        spins=m.searches,
        steals=m.steals,
        queue=len(p.runnext) + len(p.batch) + len(p.yielded) + p.ring.length(),
        timers=len(p.timers),
        waiters=m.poller.waiters(),
    )
