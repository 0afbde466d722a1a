"""dump: what all goroutines are doing, while they go on doing it."""

from __future__ import annotations

import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from ..runtime.dump import RUNNABLE, RUNNING, UNKNOWN, Frame, Look, look, render
from ..runtime.machine import LOOPS
from ..runtime.scheduler import running as run
from ..runtime.shared import machine_or_none

if TYPE_CHECKING:
    from ..runtime.halt import Running
    from ..runtime.scheduler import Runtime

__all__ = ["dump", "looks"]

GROUP_ABOVE = 1000
"""More goroutines than anybody reads through one by one."""


def dump(*, group: bool | None = None) -> str:
    r"""The stacks of all goroutines, as text, by number; "" outside a run.

    Each has a header with its state, or what it waits for, and for how many minutes if it is
    one or more (known to within one); then its frames and who created it. A goroutine that
    runs, but for the calling one, has no frames here: they belong to the thread that runs them.
    ``group`` puts those that wait in the same place, and were created by the same function, into
    one, the largest group first; without it, that is done for more than 1,000 goroutines.

    Machines stand still for a moment, 10 us for each goroutine; only those inside a long step
    don't notice. From any goroutine, thread or signal handler.
    Go: runtime.Stack with all=true, and what a program prints on SIGQUIT.

    >>> async def main():
    ...     goroutine.go(goroutine.sleep(60))
    ...     await goroutine.gosched()
    ...     return debug.dump()
    >>> text = goroutine.start(main, machines=1)
    >>> [line for line in text.split("\n") if line.startswith("goroutine ")]
    ['goroutine 1 [running]:', 'goroutine 2 [sleep]:']
    """
    seen = looks(run())
    if not seen:
        return ""
    return render(seen, len(seen) > GROUP_ABOVE if group is None else group) + "\n"


def looks(runtime: Runtime | None) -> list[Look]:
    """At every goroutine of the run. From any thread."""
    if runtime is None:
        return []
    m = machine_or_none()
    frames = [] if m is None or m.g is None else _own_frames()
    return runtime.halt.call(partial(_look_at_all, runtime, tuple(frames)))


def _own_frames() -> list[Frame]:
    """Of the calling goroutine, outermost first."""
    frames: list[Frame] = []
    frame = sys._getframe(1)
    while frame.f_code not in LOOPS and frame.f_back is not None:
        frames.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    frames.reverse()
    return frames


def _look_at_all(
    runtime: Runtime, frames: tuple[Frame, ...], running: Running | None
) -> list[Look]:
    """Called with the machines halted."""
    gs = [g for home in runtime.homes() for g in list(home)]
    if running is None:
        return [Look(g, UNKNOWN, (), None) for g in gs if not g.done]
    own = machine_or_none()
    runnable = _queued(runtime)
    since = runtime.sysmon.quiet_since()
    seen = []
    for g in gs:
        key = id(g)
        if key in running:
            calling = running[key] is own
            seen.append(Look(g, RUNNING, frames if calling else (), None))
        elif not g.done:  # (else its machine was just about to forget it)
            seen.append(look(g, RUNNABLE if key in runnable else "", since))
    return seen


def _queued(runtime: Runtime) -> set[int]:
    """id() of the goroutines that are in some queue. What is inside a step may still make
    others ready."""
    queued = set(map(id, runtime.globalq.snapshot()))
    for m in runtime.machines:
        p = m.p
        for queue in (p.runnext, p.batch, p.yielded):
            queued.update(map(id, _copy(queue)))
        queued.update(map(id, p.ring.snapshot()))
    return queued


def _copy(queue: deque[Any]) -> list[Any]:
    """(Its own copy() takes 100 times as long, when threads are free.)"""
    while True:
        try:
            return list(queue)
        except RuntimeError:  # it was changed meanwhile, by what is inside a step
            pass
