"""A machine that is traced: of another class for so long, with a loop that calls its probe.

The usual loop asks nothing about tracing, and so pays nothing for it. A machine changes between
the two by itself, between two passes, when it is told to (`Halt.change`). Its loop is left after
that, and begun again.

The loop here is that of machine.py once more, with the lines that name the probe. (A test takes
them out and compares.)
"""

from __future__ import annotations

from time import monotonic, monotonic_ns
from typing import Any

from .goroutine import Commit, Goroutine
from .idle import wakep
from .machine import _FINISHED, BACKLOG, INHERIT, LOOPS, MANY, SLICE, Machine, drain
from .probe import SPIN, Probe
from .shared import flags, idle

__all__ = ["TracedMachine", "attach", "detach"]


class TracedMachine(Machine):
    """Made of a `Machine` by `attach`, never by itself."""

    __slots__ = ()

    def loop(self) -> tuple[Goroutine[Any] | None, Commit | None] | None:
        """As `Machine.loop`, line by line, but for the calls of the probe."""
        p, base = self.p, self.base
        batch, runnext, timers = p.batch, p.runnext, p.timers
        popleft, append, take_next = batch.popleft, batch.append, runnext.popleft
        rotate = p.rotate
        inbox, poll, due = self.inbox, self.poller.poll, timers.next_when
        globalq, machines = self.runtime.globalq, self.runtime.count
        yielded = p.yielded
        give_way = yielded.append
        turns, done = self.turns, self.done
        g: Goroutine[Any] | None
        probe = self.probe
        assert probe is not None
        probe_clock, probe_old, probe_was = monotonic_ns, probe.old, probe.was
        probe_stopped, probe_ended = probe.stopped, probe.ended
        probe_began = 0
        inherited = 0
        many = False  # whether the last poll delivered many: then the next one will, too
        began, steps, per_step = 0.0, 1, 0.0  # of the last pass, while others sleep

        while True:
            self.tick += 1
            if flags["stop"]:
                return None
            if inbox:
                self.drain_inbox()
            when = due()
            if when is not None and when <= monotonic() and timers.run_due() > 1 and runnext:
                # They run in the order of their times: the last one doesn't go first.
                try:
                    append(take_next())
                except IndexError:
                    pass  # a thief took it
            if yielded:
                globalq.put(drain(yielded))
            if flags["runq"]:
                batch.extend(globalq.take(1) if batch else globalq.share(machines))
            # With nothing to run, a single machine goes straight to the poll that waits. One
            # of several may steal first, over and over: its own I/O must not wait for that.
            if many or batch or runnext or machines > 1:
                many = poll(0) >= MANY
            if began:
                # Down at once, up slowly: one pass that was preempted says nothing.
                per_step = min((monotonic() - began) / steps, 1.25 * per_step + 1e-7)
                began = 0.0
            if not rotate() and not runnext:
                self.done = done
                if not self.find_runnable():
                    continue
                many = len(batch) >= MANY
            if idle and machines > 1:
                # What poll delivers wakes nobody: light steps are done before a sleeper is
                # awake. If those that wait here will take longer than that, one is woken.
                steps = min(len(batch), SLICE) or 1
                if steps > 1 and steps * per_step > BACKLOG:
                    wakep()
                began = monotonic()

            for turn in turns:
                # -- next
                if runnext:
                    try:
                        g = take_next()
                    except IndexError:
                        done -= 1
                        continue  # a thief took it
                    inherited += 1
                    if inherited > INHERIT:
                        inherited = 0
                        if batch:
                            append(g)
                            done -= 1
                            continue
                else:
                    inherited = 0
                    try:
                        g = popleft()
                    except IndexError:
                        done += turn
                        break
                # -- one step: from here to the end of the try block g is this machine's
                self.g = g
                try:
                    if probe_old:
                        probe_was(g)
                    probe_began = probe_clock()
                    for commit in g.it:
                        probe_stopped(g, commit, probe_began)
                        probe_began = 0
                        if base:
                            self.done = done + turn + 1
                            return g, commit
                        if commit is None:
                            if g.scope is not None:
                                self.tell(g)
                            if flags["runq"]:
                                give_way(g)
                            else:
                                append(g)
                        else:
                            commit(g)  # publishes g: not ours any more
                        break
                    else:
                        probe_ended(g, probe_began)
                        g.it = None
                        g._owner.discard(g)
                        if g.joiners is not None:
                            g.wake_joiners()
                        if base:
                            self.done = done + turn + 1
                            return g, _FINISHED
                except BaseException as failure:
                    probe_ended(g, probe_began)
                    self.escaped(g, failure)
                    if base:  # what a failed goroutine has set is not for the next one
                        self.done = done + turn + 1
                        return g, _FINISHED
            else:
                self.done = done = done + SLICE
            self.g = g = None
            if not turns:
                self.done = done
                self.runtime.halt.wait(self)
                return None, None

    def spin(self) -> str:
        began = monotonic_ns()
        found = super().spin()
        probe = self.probe
        if probe is not None:
            probe.other(SPIN, began, monotonic_ns(), bool(found), 0)
        return found


LOOPS.add(TracedMachine.loop.__code__)


def attach(m: Machine, probe: Probe) -> None:
    """Trace it from here on. Called by the machine itself, outside its passes."""
    detach(m)
    probe.attach()
    m.probe = probe
    m.__class__ = TracedMachine


def detach(m: Machine) -> None:
    """As it was. Called by the machine itself, outside its passes."""
    probe, m.probe = m.probe, None
    if probe is not None:
        m.__class__ = Machine
        probe.detach()
