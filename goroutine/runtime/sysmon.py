"""sysmon: watches the machines from the thread that called start(). Go: sysmon.

It is needed for what a machine cannot do while it is inside one long step: let another
machine have the work that piled up behind it. At every look it compares each machine's pass
counter and running goroutine with those of the time before; one that stands still while
work waits and others sleep gets a thief sent, and its connections are served from here
(rescuer.py). Timers that a machine is late for are fired from here. When nothing has moved
for a while, all being asleep, sysmon sleeps too, without a timeout; it is called again by
the end of the run, and by the first machine to see ``flags["sysmon"]`` unset.
"""

from __future__ import annotations

import ctypes
import threading
from time import monotonic
from typing import TYPE_CHECKING

from .idle import wakep
from .rescuer import Rescuer
from .shared import flags, idle, machines
from .since import Rounds
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .scheduler import Runtime

__all__ = ["Sysmon", "interrupt"]

PERIOD = 0.01
"""Seconds between two looks. Go's is 20 us growing to 10 ms; its look costs less."""

SOON = 0.005
"""The same while some machine has nothing to do: it could help one that is stuck."""

ALONE = 0.1
"""Seconds after which the timers of a single machine are fired from here."""

SIGNALS = 1.0
"""Seconds until a Ctrl-C is seen that has come while sysmon sleeps."""

QUIET = 8
"""Looks without any movement after which sysmon sleeps until it is called."""


class Sysmon:
    """The supervisor of one run."""

    __slots__ = ("_called", "_rescuer", "_rounds", "_runtime", "_watchdog", "asleep_since")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._rescuer = Rescuer(runtime.machines)
        self._watchdog = Watchdog()
        self._rounds = Rounds(runtime)
        # While sysmon sleeps, since nothing moves: since when, and in which passes all are.
        self.asleep_since: tuple[float, list[int]] | None = None
        # Released by whoever wants sysmon's attention; at most one release is pending.
        self._called = threading.Lock()
        self._called.acquire()

    def patience(self, seconds: float) -> None:
        """For so long a goroutine may keep a machine before it is named. Before the run."""
        self._watchdog.most = seconds

    def call(self) -> None:
        """Wake sysmon from its long sleep. From any thread; more than once does no harm."""
        try:
            self._called.release()
        except RuntimeError:
            pass  # called already

    def quiet_since(self) -> float | None:
        """While nothing moves: since when at the latest. From any thread.

        (Who wakes up begins a new pass before it does anything; sysmon may not know yet.)
        """
        asleep = self.asleep_since
        return asleep[0] if asleep is not None and asleep[1] == self._passes() else None

    def _passes(self) -> list[int]:
        return [m.tick for m in self._runtime.machines]

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._rescuer.close()

    def run(self) -> None:
        """Watch until the run is over."""
        try:
            self.watch()
        finally:
            self._rescuer.close()

    def watch(self) -> None:
        over, called = self._runtime.over, self._called
        errands = self._runtime.errands
        seen: dict[int, _Seen] = {}
        rescuer = self._rescuer
        several = self._runtime.count > 1
        quiet = 0
        while True:
            if quiet < QUIET:
                pause = SOON if idle and several else PERIOD
                if rescuer:
                    rescuer.serve(SOON)
                    pause = 0
                if over.acquire(timeout=pause):
                    if self._runtime.outcome is not None:
                        return
                    errands.serve()
                    continue
                quiet = 0 if self.look(seen) else quiet + 1
                if quiet == 2 and self._runtime.asleep():  # and once more before the long sleep
                    self._runtime.deadlocked()
            else:
                # Announce, then look once more, then sleep: as idle.py does. A machine that
                # leaves its sleep after the announcement sees the flag and calls.
                flags["sysmon"] = False
                if not self.look(seen):
                    if self._runtime.asleep():
                        self._runtime.deadlocked()
                    self.asleep_since = monotonic(), self._passes()
                    while not called.acquire(timeout=SIGNALS):
                        pass  # a signal need not end this wait: see Runtime.await_machines
                    self.asleep_since = None
                flags["sysmon"] = True
                quiet = 0

    def look(self, seen: dict[int, _Seen]) -> bool:
        """One look at every machine; whether anything moved or runs."""
        moved = False
        machines_ = self._runtime.machines
        alone = len(machines_) == 1
        now = monotonic()
        if self._runtime.halt.active():
            return True  # they stand still on our account
        self._rounds.look(now)
        self._runtime.collector.adapt(sum(len(m.p.goroutines) for m in machines_))
        for m in machines_:
            number = m.id
            tick, running = m.tick, m.g
            id_ = 0 if running is None else running.id
            before = seen.get(number)
            if before is None:
                before = seen[number] = _Seen()
            same_pass = before.tick == tick
            stuck = same_pass and before.id == id_
            asleep = number in idle
            if not stuck or not asleep:
                moved = True
            if not stuck:
                before.tick, before.id, before.since = tick, id_, now
            # (In the same pass it has not polled, whichever goroutine it runs now.)
            before.looks = before.looks + 1 if same_pass and id_ and not asleep else 0
            if not alone:
                self._rescuer.look(m, tick, before.looks)
            if asleep:
                continue
            p = m.p
            if stuck and running is not None:
                if idle and (p.runnext or p.length()):
                    wakep()
                if now - before.since > self._watchdog.most:
                    self._watchdog.bark(m, running, now - before.since)
            when = p.timers.next_when()
            if when is not None:
                # It is in a long step, or in a pass of many. (A single machine has nobody to
                # run what its timers wake, and better keeps their order.)
                late = ALONE if alone else 0.0 if stuck else PERIOD
                if when <= now - late:
                    p.timers.run_due()
        return moved


class _Seen:
    """What the last look saw of one machine."""

    __slots__ = ("id", "looks", "since", "tick")

    def __init__(self) -> None:
        self.tick = -1
        self.id = 0  # of the goroutine it ran
        self.since = 0.0  # when this was seen first
        self.looks = 0  # how often in a row it was in the same pass


def interrupt(runtime: Runtime) -> None:
    """Raise KeyboardInterrupt in goroutines that don't come to an end of their step.

    For a second Ctrl-C: the machines have been told to stop, and who is still running is
    inside a step of the user's code.
    """
    for thread in runtime.threads:
        if thread.is_alive() and thread.ident in machines:  # else it has left its loop
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
            )
