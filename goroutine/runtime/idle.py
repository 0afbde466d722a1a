"""How machines go to sleep without missing work, and how few are kept awake.

A sleeping machine blocks in its own poller (it alone can reap its ring), and is woken
through the poller's eventfd. ``idle`` (shared.py) holds the machines that sleep or are
about to; taking one out of it (dict.pop and popitem are atomic) is the right to wake it,
so every announcement is answered by at most one write to the eventfd.

No wake-up is lost. Two parties, two steps each, every step a store with a full fence:

    submitter:  publish the work (a queue's append)   then look into ``idle``
    machine:    announce itself in ``idle``           then look into every queue

Whichever order the four steps fall in, either the submitter sees the announcement or the
machine sees the work. (Leave out the second look and the stress test hangs.) A machine
that finds work at its second look takes its announcement back; if somebody has taken it
already, a write to its eventfd is on its way, which wakes it once for nothing later: the
work that write announced is found by the machine itself, which is awake and looks into
every queue before it sleeps again.

A machine that is out of work first *spins*: it looks around for a while, because a sleeper
costs its waker 4 us and 20 us of latency. While one spins nobody is woken: it will find
the work. So whoever stops spinning must look once more *after* it is out of ``spinning``,
which the second look above does, and one that finds work wakes the next (Go: resetspinning),
so that a burst wakes as many machines as it can feed. As in Go at most half of the busy
machines spin.
"""

from __future__ import annotations

from .shared import idle, spinning

__all__ = ["may_spin", "wakep"]


def wakep() -> None:
    """Work was published: wake one sleeper, unless somebody is looking already. Go: wakep."""
    if spinning:
        return
    try:
        _, machine = idle.popitem()
    except KeyError:
        return
    machine.wake()


def may_spin(machines: int) -> bool:
    """Go's limit: spinning machines are at most half of those that are not asleep."""
    return 2 * len(spinning) < machines - len(idle)
