"""os.fork() while goroutines run: what the child finds.

The child has one thread, the copy of the one that forked. The other machines are not there, and
what is there of the run is not the child's: its rings are memory that the parent uses, its
epolls and eventfds are the parent's very own, and its goroutines would do a second time what
they do in the parent. So nothing of the run is left there but the stack that fork returns into:

- `start` may be called anew, as in a process that never had goroutines. (multiprocessing, where
  it forks, calls its target on that stack and then ends the process.)
- Everything else finds itself in no goroutine: ``RuntimeError``.
- The runtime's own fds are closed. Those of connections stay open, as all others that are
  not closed on fork, but the child has no use of them: `ConnClosed`.
- A goroutine that goes on in the child, and awaits, is told so where it awaits, by a
  ``RuntimeError``. When it has ended the process does, with the status that a program ends
  with: 0, 2 after a panic, 1 if it was main that failed, or what sys.exit() wants. A call of
  `blocking` that returns in the child ends it, too; where a signal handler has forked, on the
  starting thread, `start` raises in the child.

The parent notices nothing.
"""

from __future__ import annotations

import os
import sys
import traceback
from _thread import get_ident
from typing import TYPE_CHECKING, Any

from ..errors import GoroutinePanic
from . import panic
from .fork import in_child, locks
from .shared import flags, idle, machines, scoped, spinning
from .spawn import spawners
from .thread import holds, pools

if TYPE_CHECKING:
    from .goroutine import Goroutine
    from .scheduler import Runtime

__all__ = ["REFUSED", "abandon", "leave"]

REFUSED = "goroutines don't go on in a forked child (goroutine.start() may be called there anew)"

_kept: list[Any] = []  # to free a goroutine would run its finally blocks


def abandon(runtime: Runtime | None) -> Goroutine[Any] | None:
    """In the child: let go of everything. The goroutine that forked, if it was one."""
    for lock in locks:
        lock._at_fork_reinit()
    if runtime is None:
        return None
    m = machines.get(get_ident())
    starting = runtime.errands.ident == get_ident()
    everything = (list(runtime.machines), set(runtime.foreign), list(runtime.threads))
    _kept.append((runtime, everything))
    for table in (machines, spawners, idle, spinning, scoped, pools, holds.held):
        table.clear()
    flags.update(stop=True, runq=False, forked=True)
    for other in runtime.machines:
        # No machine steps anything: this one looks at "stop" when these two are empty.
        other.p.batch.clear()
        other.p.runnext.clear()
        other.poller.abandon()
    # Nobody is waited for, and nobody woken (by what is the parent's), when this run ends.
    runtime.machines.clear()
    runtime.threads.clear()
    runtime.foreign.clear()
    runtime.at_end.clear()
    runtime.pool.abandon()
    runtime.errands.abandon()
    runtime.sysmon.abandon()
    runtime.collector.end()
    for call in in_child:
        call()
    if starting:
        runtime.outcome = (None, RuntimeError(REFUSED))
        runtime.want()
        return None
    return None if m is None else m.g


def leave(runtime: Runtime, g: Goroutine[Any]) -> None:
    """The machine has left the goroutine that forked, in the child: end them both."""
    status = 1
    try:
        failure = _refuse(g)
        if failure is not None:
            runtime.panicked(g, failure)
        failure = None if runtime.outcome is None else runtime.outcome[1]
        if failure is None:
            status = 0
        elif isinstance(failure, SystemExit):
            status = _status(failure)
        elif isinstance(failure, GoroutinePanic):
            status = 2  # reported already
        else:
            failure.__traceback__ = panic.clean(failure)
            traceback.print_exception(failure)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _refuse(g: Goroutine[Any]) -> BaseException | None:
    """Tell it where it awaits, as often as it does; what it ends with."""
    steps, g.it = g.it, None
    if steps is None:
        return None  # it has ended
    refused = RuntimeError(REFUSED)
    for _ in range(100):
        try:
            steps.throw(RuntimeError(REFUSED))
        except StopIteration:
            return None
        except BaseException as failure:
            return failure
    return refused


def _status(failure: SystemExit) -> int:
    """What sys.exit() asked for."""
    code = failure.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1
