"""Halt: for a moment no machine begins a step, so that parked goroutines can be looked at.

The frames of a goroutine may be read only by whoever could also step it: to read a frame that
runs on another thread is a use after free. Who wants to look at parked goroutines while others
run must therefore know that they stay parked. Costs nothing while nobody asks:

A machine goes through a list of its own, ``turns``, one item for each step of a pass. Whoever
holds the lock here empties the lists: then each machine makes at most the step for which it
has already taken its turn, and comes to `wait` where it sleeps until the lock is free. The lists
are filled again before that. The machine in the middle of its pass goes on where it was.

That would be all if steps were short. One that computes for minutes keeps its machine away
from `wait`, and it need not come: it is enough to know that it is inside its step, for then
it has taken its last turn. So each machine has to be seen, *after* the lists were emptied, in
one of these places:

    waiting   It is in ``_waiting``. It gets out of there only with the lock.
    asleep    ``poller.asleep`` is set: it is in the kernel, outside a step.
    gone      The run is over and it has left its loop.
    self      It is the machine that asks. It is inside a step, of the one that asks.
    inside    The goroutine in its ``g`` is executing (its outermost generator says so; that is
              a byte in an object that we hold, no frame), and no other machine has it in its
              ``g``, but for those that were waiting before. Whoever executes a goroutine has
              it there from before the step until it has come to `wait` and got the lock; so
              of those who have it after it was seen to execute, one executed it.

In each case the next look at ``turns`` is ahead of it: coming out of a step it passes a full
fence (a commit takes a lock or stores into an attribute, ending a goroutine does the latter,
giving way takes the mutex of a deque), as we do in emptying the list; so it sees that.
The places between (polling, a commit, looking for work) are short, and waited out.

From then on nothing executes but the goroutines that were seen inside, which `call` names, and
those are left alone. Goroutines may still be made, and made ready, and the kernel and
timers go on. Only at the very end of a run does somebody else touch frames: the starting thread
closes what is left, after `finish`.

In the same way machines are told to change something about themselves, which is theirs alone to
touch: their lists are emptied, and are filled again by each itself, when it has come to `wait`
and made the change. Nobody waits for that.
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Callable
from time import monotonic, sleep
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from .frames import inside
from .shared import machines

if TYPE_CHECKING:
    from .goroutine import Goroutine
    from .machine import Machine
    from .scheduler import Runtime

__all__ = ["Halt", "Running"]

PATIENCE = 1.0
"""Seconds after which a machine that can't be seen anywhere makes it impossible. (Between its
steps it runs finalizers, and so whatever a program has put there.)"""

FAIR = 0.02
"""Seconds for which machines that were halted before get the chance to go on."""

Running = dict[int, "Machine"]
"""id() of a goroutine -> the machine that is inside its step. Everybody else stays put."""


class Halt:
    """Of one run."""

    __slots__ = ("_change", "_due", "_lock", "_looking", "_over", "_runtime", "_waiting")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._waiting: dict[int, bool] = {}  # numbers of machines
        self._over = False
        self._looking = False
        self._change: Callable[[Machine], object] | None = None
        self._due: set[int] = set()  # numbers of machines that have to make it

    def wait(self, m: Machine) -> None:
        """Until it is over. Called by a machine whose ``turns`` are empty, between passes."""
        self._waiting[m.id] = True
        change = None
        with self._lock:
            del self._waiting[m.id]
            if m.id in self._due:
                self._due.remove(m.id)
                m.turns.extend(_turns())  # nobody else has, under the lock
                change = self._change
        if change is not None:
            change(m)

    def begin(self, m: Machine) -> None:
        """The machine begins: in the way that the others were told to change to."""
        if self._change is not None:
            self._change(m)

    def change(self, change: Callable[[Machine], object]) -> None:
        """Have each machine call ``change(m)`` before its next step, outside its loop; those that
        are yet to come, when they begin. Of several such calls a machine may see the last alone.
        From any thread."""
        if get_ident() == threading.main_thread().ident:
            _elsewhere(lambda: self._tell(change))
        else:
            self._tell(change)

    def _tell(self, change: Callable[[Machine], object]) -> None:
        # Who sleeps is left asleep: it comes by when it has something to do.
        with self._lock:
            self._change = change
            for m in list(self._runtime.machines):
                self._due.add(m.id)
                m.turns.clear()

    def active(self) -> bool:
        """Whether machines may be standing still on this account."""
        return self._looking or bool(self._waiting)

    def call[T](self, look: Callable[[Running | None], T]) -> T:
        """``look(running)`` while all goroutines but the running ones stay where they are.

        With None if that can't be had: the run is at its end or its very beginning, or a
        machine doesn't show up. From any thread, and never called amid another call on the
        same thread: on Python's main thread, where a signal handler may run at any time, it
        is made by another.
        """
        if get_ident() == threading.main_thread().ident:
            return _elsewhere(lambda: self._call(look))
        return self._call(look)

    def _call[T](self, look: Callable[[Running | None], T]) -> T:
        asking = machines.get(get_ident())
        # Those that wait from the last time go first: the lock doesn't see to that.
        until = monotonic() + FAIR
        while self._waiting and monotonic() < until:
            sleep(50e-6)
        with self._lock:
            stopped = list(self._runtime.machines)
            if self._over or len(stopped) < self._runtime.count:
                return look(None)
            try:
                self._looking = True
                for m in stopped:
                    m.turns.clear()
                return look(self._settle(stopped, asking))
            finally:
                for m in stopped:
                    if m.id not in self._due:
                        m.turns.extend(_turns())
                self._looking = False

    def _settle(self, stopped: list[Machine], asking: Machine | None) -> Running | None:
        """Wait until each machine has been seen where it stays; who is inside of a step."""
        running: Running = {}
        if asking is not None and asking.g is not None:
            running[id(asking.g)] = asking
        others = missing = [m for m in stopped if m is not asking]
        until = monotonic() + PATIENCE
        while True:
            missing = [m for m in missing if not self._quiet(m)]
            # In this order: who waits, who executes, who has it.
            waiting = self._waiting.copy()
            executing = [(m, g) for m in missing if (g := m.g) is not None and executes(g)]
            has = [(m, m.g) for m in others if m.id not in waiting]
            for m, g in executing:
                if [other for other, its in has if its is g] == [m]:
                    running[id(g)] = m
                    missing.remove(m)
            if not missing:
                return running
            if monotonic() > until:
                return None
            sleep(50e-6)

    def _quiet(self, m: Machine) -> bool:
        return (
            m.id in self._waiting
            or m.poller.asleep[0]
            or (self._runtime.outcome is not None and m not in machines.copy().values())
        )

    def finish(self) -> None:
        """The machines have left, and frames will be touched from outside. At most once."""
        while True:
            try:
                with self._lock:
                    self._over = True
                return
            except KeyboardInterrupt:
                pass  # nobody runs who could be meant


def executes(g: Goroutine[Any]) -> bool:
    """Whether some thread is inside a step of g at this moment."""
    it = inside(g.it)
    if isinstance(it, GeneratorType):
        return it.gi_running
    return isinstance(it, CoroutineType) and it.cr_running


def _turns() -> tuple[int, ...]:
    from .machine import TURNS  # machine needs the scheduler's modules first

    return TURNS


def _elsewhere[T](call: Callable[[], T]) -> T:
    """``call()`` on a thread of its own, which no signal interrupts."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as raised:
            failure.append(raised)

    thread = threading.Thread(target=run, name="goroutine-halt", daemon=True)
    thread.start()
    thread.join()
    if failure:
        try:
            raise failure.pop()
        finally:
            failure.clear()
    return result.pop()
