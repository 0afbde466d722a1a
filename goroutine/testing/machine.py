"""The machine of a bubble: one thread, no clock but its own, and every choice asked for.

To the package it is a machine like any other: it stands in ``machines`` for the thread that
called `run`, which is the only one that steps its goroutines, and has what park, ready, go,
timers and select use of a machine. It has no poller, no pool and no other machines; who asks
for one is told that a bubble has none.

Who is asked what comes next. A step ends in one of four ways:

    parked, or ended    next: any timer that is due, any that can run
    at a `point`        the same goroutine goes on, or is interrupted for one of those
    given way           any of those; itself only if there are none

A timer that is due is an option like a goroutine, since what it does (a deadline that ends a
wait, say) may come before or after what others do at that instant. One that only wakes a
sleeper goes off at once: the sleeper is the option.

When nothing can run and nothing is due, all are blocked for good but for time itself: then
`Bubble.wait` returns; where nobody is in it, the clock jumps to the next timer, but not once
the main goroutine has ended.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from itertools import count
from typing import TYPE_CHECKING, Any

from ..errors import Deadlock, GoroutinePanic
from ..runtime import panic
from ..runtime.dump import dump, look
from ..runtime.exit import GoExit
from ..runtime.goroutine import Goroutine, close_steps
from ..runtime.machine import _FOREIGN, LOOPS, _Throwing
from ..runtime.park import ready
from ..runtime.scheduler import inject
from ..runtime.shared import bubbles, machines
from ..runtime.spawn import spawners, steps_for
from ..runtime.timers import Timer
from ..runtime.wait import check
from .border import Steps
from .choice import NEXT, POINT, YIELD, Chooser
from .timers import Timers

if TYPE_CHECKING:
    from .network import Network

__all__ = ["Machine", "point"]

MOST_STEPS = 1_000_000
"""Steps after which a run is given up: it would hardly ever end."""

BLOCKED = "deadlock: all goroutines in bubble are blocked"
REMAIN = "deadlock: main bubble goroutine has exited but blocked goroutines remain"


def point(g: Goroutine[Any]) -> None:
    """Yielded where a goroutine may be interrupted, though it could go on."""


class Machine:
    """M, P and runtime of one bubble, for one run."""

    id = 0
    count = 1
    outcome: Any = None  # for those who ask whether the run is over

    def __init__(self, chooser: Chooser, seed: int) -> None:
        self.ident = get_ident()
        self.seed = seed
        self.chooser = chooser
        self.choose = chooser.choose
        self.random = chooser.random
        self.clock = 0.0
        self.g: Goroutine[Any] | None = None
        self.context = Context()  # of the one that runs
        self.runnable: list[Any] = []  # in the order they became so
        self.timers = Timers(self)
        self.goroutines: set[Goroutine[Any]] = set()
        self.foreign: set[Goroutine[Any]] = set()
        self.ids = count(1)
        self.waiter: Goroutine[Any] | None = None  # who is in Bubble.wait
        self.main: Goroutine[Any] | None = None
        self.failure: BaseException | None = None
        self.remarks: list[str] = []  # on what went wrong in the end
        self.left = ""  # if it has failed: a dump of those that had not ended
        self.told: Callable[[Any], object] | None = None  # of each that goes on, before it does
        self.tick = 0
        self.over = object()  # unique to this run
        self._network: Network | None = None
        # For debug.dump:
        self.halt = self.sysmon = self.globalq = self.ring = _AtRest(self)
        self.batch = self.runnable
        self.runnext = self.yielded = ()

    @property
    def network(self) -> Network:
        """Made when it is first asked for, and so inside."""
        if self._network is None:
            from .network import Network  # network needs this module

            self._network = Network(self, self.seed)
        return self._network

    @property
    def p(self) -> Machine:
        return self

    @property
    def runtime(self) -> Machine:
        return self

    @property
    def machines(self) -> list[Machine]:
        return [self]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            "not in a bubble: blocking calls, files, processes and the real network"
            " are neither durable nor deterministic"
        )

    # -- what the package wants of a machine --------------------------------------------------

    def ready(self, g: Goroutine[Any]) -> None:
        """g can run."""
        if g._owner is not self.goroutines:
            inject([g])  # it waited from outside for one of ours to end
        elif g.it is not None:
            self.runnable.append(g)

    def spawn(self, g: Goroutine[Any], fn: Any) -> None:
        """The rest of go()."""
        g.fn = fn
        g.id = next(self.ids)
        parent = self.g
        if parent is None:
            g._parent = None
        else:
            try:
                g._parent = parent.origin
            except AttributeError:
                g._parent = parent.origin = (parent.id, parent.fn)
        g.context = self.context.copy()
        g.it = Steps(self, g.it)
        g._owner = self.goroutines
        self.goroutines.add(g)
        self.runnable.append(g)

    def homes(self) -> list[set[Goroutine[Any]]]:
        """The sets that keep the goroutines alive."""
        return [self.goroutines]

    # -- a run ------------------------------------------------------------------------------

    def run(self, fn: Callable[[Any], Any], bubble: Any) -> Any:
        """fn(bubble) as the main goroutine, until all have ended. What it returns or raises."""
        ident = self.ident
        machines[ident] = self  # type: ignore[assignment]
        spawners[ident] = self.spawn
        bubbles[ident] = self
        try:
            try:
                self.begin(fn, bubble)
                self.loop()
                if self.failure is None and self.goroutines:
                    assert self.main is not None
                    self.failure = Deadlock(BLOCKED if self.main.it is not None else REMAIN)
                    self.remarks.append(dump(self.goroutines).rstrip())
                elif self.failure is not None:
                    self.left = dump(self.goroutines).rstrip()
            except BaseException:
                self.left = dump(self.goroutines).rstrip()
                raise
            finally:
                self.close()
        finally:
            machines.pop(ident, None)
            spawners.pop(ident, None)
            bubbles.pop(ident, None)
        failure, self.failure = self.failure, None
        if failure is not None:
            for remark in self.remarks:
                failure.add_note(remark)
            try:
                raise failure
            finally:
                del failure  # else this frame and the traceback keep each other alive
        return getattr(self.main, "value", None)

    def begin(self, fn: Callable[[Any], Any], bubble: Any) -> None:
        self.context = copy_context()
        steps = fn(bubble)
        if not isinstance(steps, Coroutine):
            raise TypeError(
                f"run() takes an async def function, not one that returns {type(steps).__name__}"
            )
        g: Goroutine[Any] = Goroutine()
        g.joiners = g.scope = None
        g.it = steps_for(g, steps, (), {})
        self.main = g
        self.spawn(g, fn)

    def loop(self) -> None:
        """Step goroutines until none can go on any more, or one has failed."""
        runnable, due = self.runnable, self.timers.due
        current: Any = None  # who ran last and can go on
        kind = NEXT
        while self.failure is None:
            options = [*due, *runnable]
            if kind is POINT:
                options.insert(0, current)
            elif not options:
                if current is not None:
                    options.append(current)
                elif self.advance():
                    continue
                else:
                    return
            picked = options[self.choose(kind, options, current) if len(options) > 1 else 0]
            if picked in due:
                self.timers.take(picked)
                self.fire(picked)
                continue
            if picked is not current:
                runnable.remove(picked)
                if current is not None:
                    runnable.append(current)
            if self.told is not None:
                self.told(picked)
            self.tick += 1
            if self.tick > MOST_STEPS:
                raise RuntimeError(f"still running after {MOST_STEPS} steps: will this ever end?")
            kind = self.step(picked)
            current = None if kind is NEXT else picked

    def fire(self, timer: Timer) -> None:
        self.g = None
        self.context = Context()
        if timer.fire is not None:
            timer.fire(timer.arg)

    def advance(self) -> bool:
        """All are blocked: whether something comes next all the same."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self.ready(waiter)
            return True
        if self.main is None or self.main.it is None:
            return False
        when = self.timers.next_instant()
        if when is None:
            return False
        self.clock = max(self.clock, when)
        for timer in [timer for timer in self.timers.due if timer.fire is ready]:
            self.timers.take(timer)
            self.fire(timer)
        return True

    # -- a step ---------------------------------------------------------------------------------

    def step(self, g: Goroutine[Any]) -> str:
        """One step of g, which is not in ``runnable``: how it ended."""
        self.g = g
        context = self.context = g.context or Context()
        try:
            commit = context.run(_advance, g)
            if commit is point:
                return POINT
            if commit is None:
                if g.scope is not None:
                    self.tell(g)
                return YIELD
            if commit is _ENDED:
                g.it = None
                self.goroutines.discard(g)
                if g.joiners is not None:
                    g.wake_joiners()
            elif callable(commit):
                commit(g)
            else:  # it awaited an object of another library: it is told, where it awaits
                g.it = _Throwing(g, g.it, RuntimeError(_FOREIGN))
                self.runnable.append(g)
        except BaseException as failure:
            self.escaped(g, failure)
        return NEXT

    def tell(self, g: Goroutine[Any]) -> None:
        """g, which may be cancelled, gives way: if it has been, that is where it is told."""
        try:
            check(g)
        except BaseException as failure:
            g.it = _Throwing(g, g.it, failure)

    def escaped(self, g: Goroutine[Any], failure: BaseException) -> None:
        """An exception has left g."""
        if isinstance(failure, KeyboardInterrupt) and look(g).frames:
            self.failure = failure  # not g, but us, after its step
            return
        g.it = None
        self.goroutines.discard(g)
        if isinstance(failure, GoExit):
            if g.joiners is not None:
                g.wake_joiners()
            return
        if g.failed(failure):
            g.wake_joiners()
            return
        failure.__traceback__ = _clean(failure)
        if g is self.main or isinstance(failure, (SystemExit, KeyboardInterrupt)):
            self.failure = failure
            return
        self.failure = GoroutinePanic(
            f"panic in goroutine {g.id} ({g.name}): {panic.title(failure)}"
        )
        self.failure.__cause__ = failure
        if g.creator:
            self.remarks.append(g.creator)

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Close what is left, as at the end of every run: GeneratorExit where it waits."""
        for _ in range(100):
            left = sorted(self.goroutines, key=lambda g: g.id)
            if not left:
                break
            for g in left:
                it, g.it = g.it, None
                self.goroutines.discard(g)
                if it is not None:
                    self.close_one(g, it)
        self.runnable.clear()
        self.timers.due.clear()

    def close_one(self, g: Goroutine[Any], it: Any) -> None:
        self.g = None  # who must wait in a finally block then fails
        self.context = g.context or Context()
        try:
            self.context.run(close_steps, it)
        except GoExit:
            pass
        except BaseException as failure:
            self.remarks.append(f"while closing goroutine {g.id}: {panic.title(failure)}")


LOOPS.add(Machine.step.__code__)


class _AtRest:
    """What there is of a run's halt, sysmon and other queues: nothing else runs, ever."""

    def __init__(self, m: Machine) -> None:
        self._m = m

    def call(self, fn: Callable[[dict[int, Any]], Any] = len) -> Any:
        return fn({id(self._m.g): self._m})

    def quiet_since(self) -> None:
        return None

    def snapshot(self) -> tuple[()]:
        return ()


def _advance(g: Goroutine[Any]) -> Any:
    for commit in g.it:
        return commit
    return _ENDED


def _ENDED(g: Goroutine[Any]) -> None:
    """Stands for what a goroutine yields that has ended."""


def _clean(failure: BaseException) -> Any:
    """The traceback without our own frames at its head."""
    tb = failure.__traceback__
    while tb is not None and tb.tb_frame.f_globals.get("__name__") in _OURS:
        tb = tb.tb_next
    return tb or failure.__traceback__


_OURS = {__name__, "goroutine.testing.points", "goroutine.runtime.spawn"}
