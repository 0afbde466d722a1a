"""M: a machine, one OS thread that steps goroutines. The only loop that touches frames.

A pass of the loop: stop? timers, the global queue's turn, one poll (which submits and
reaps with one system call), then up to SLICE steps. All that a step touches is local to
the loop or made in this thread; nothing in it is shared, locked or compared-and-swapped.

Contexts (contextvars). Copying a context for every goroutine and entering it for every
step would double the price of both, and hardly any goroutine sets a variable. So all run
in their machine's *base* context, which is kept empty: when a step leaves something in it,
that context object becomes the goroutine's own, and the machine goes on in a new empty one.
From then on that goroutine is stepped inside its own (`InContext`), and its children get
copies.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import cache
from itertools import count, repeat
from math import gcd
from time import monotonic
from typing import TYPE_CHECKING, Any

from .context import InContext
from .exit import GoExit
from .goroutine import Commit, Goroutine, close_steps
from .idle import may_spin, wakep
from .processor import Processor, Stealer
from .shared import flags, idle, spinning
from .wait import check

if TYPE_CHECKING:
    from ..io.poller import Poller
    from .probe import Probe
    from .scheduler import Runtime

__all__ = ["LOOPS", "Machine"]

SLICE = 61
"""Steps between two looks at the global queue, the timers and the poller. Go: schedtick % 61."""

TURNS = tuple(range(SLICE))

INHERIT = 16
"""How often in a row runnext may go before the queue: a ping-pong pair cannot starve it.
(Go bounds this by a 10 ms time slice; reading the clock each step would cost more.)"""

BACKLOG = 200e-6
"""Seconds of waiting work (by the measure of the last passes) for which a sleeper is woken."""

MANY = 4
"""A poll that delivers so many is worth repeating before anything is done about sleeping."""

_OWN, _SHARED = "own", "shared"  # what spin() found

SPIN_MOST = 50e-6
"""The longest a machine looks around for work before it goes to sleep, in seconds: about
what a sleep and a wake-up cost, so that spinning at most doubles the price of waiting."""

SPIN_LEAST = 2e-6

LATE = 0.001
"""Seconds after which the timers of a machine are anybody's who looks for work."""


class Machine:
    """M with its P. Made in its own thread, so that its reference counts are local to it."""

    __slots__ = (
        "arrivals",
        "base",
        "context",
        "done",
        "g",
        "id",
        "inbox",
        "p",
        "parks",
        "poller",
        "probe",
        "random",
        "ready",
        "runtime",
        "searches",
        "spins",
        "stealers",
        "steals",
        "stuck",
        "tick",
        "turns",
        "unused_spins",
    )

    def __init__(self, number: int, runtime: Runtime, poller: Poller, p: Processor) -> None:
        self.id = number
        self.runtime = runtime
        self.poller = poller
        self.p = p
        self.ready = p.ready
        self.random = random.Random().random  # of its own: a shared one is contended
        self.g: Goroutine[Any] | None = None
        self.base = Context()
        self.context = self.base  # what the running goroutine runs in
        # Calls for this machine from other threads; see post().
        self.inbox: deque[Callable[[], object]] = deque()
        self.arrivals: deque[Callable[[], object]] = deque()  # see offer()
        self.stealers: list[tuple[Stealer, Machine]] = []
        self.tick = 0  # passes; sysmon sees by it whether this machine gets on
        self.stuck = False  # inside one long step; set by sysmon
        self.steals = 0
        # What a pass goes through, a turn for each step: emptied from outside, by halt.py alone,
        # it lets no step begin after the one that is under way.
        self.turns = [*TURNS]
        # For debug.stats: steps (told to others when it goes idle and after a whole slice),
        # sleeps, and how often it looked around for work.
        self.done = self.parks = self.searches = 0
        self.spins = 10e-6  # seconds to spin: doubled when it pays, halved when it doesn't
        self.unused_spins = 0
        self.probe: Probe | None = None  # while it is traced: traced.py

    def wake(self) -> None:
        """Wake it from its sleep; only for whoever took it out of ``idle``."""
        self.poller.wake()

    def post(self, call: Callable[[], object]) -> None:
        """Have ``call()`` made by this machine soon, between two passes. From any thread.

        Published first, then the look at ``idle``: the submitter's half of the idle
        protocol, for this one machine.
        """
        self.inbox.append(call)
        if idle.pop(self.id, None) is not None:
            self.wake()

    def offer(self, call: Callable[[], object]) -> None:
        """`post` a call that another machine may make, if this one is stuck."""
        self.arrivals.append(call)
        self.post(self.take_arrival)

    def take_arrival(self) -> None:
        try:
            call = self.arrivals.popleft()
        except IndexError:
            return  # sysmon gave it to another machine
        call()

    def run(self) -> None:
        """Step goroutines until the run is over. Called once, by the machine's thread."""
        while True:
            base = self.base = self.context = Context()
            left = base.run(self.loop)  # another one while it is traced
            if left is None:
                return
            g, commit = left
            if g is None or commit is _FINISHED:
                continue
            # The step of g set a context variable: the context is g's own from here on. It
            # has been left by now, so that g may be stepped elsewhere once it is published.
            g.context = base
            g.it = InContext(g, g.it)
            if commit is None:
                self.p.batch.append(g)
            else:
                self.context = base
                try:
                    commit(g)
                except BaseException as failure:
                    self.escaped(g, failure)

    def loop(self) -> tuple[Goroutine[Any] | None, Commit | None] | None:
        """Passes, until the run is over (None), a step has dirtied the base context, or there
        was a halt (no goroutine). traced.py has a copy, which a test keeps alike."""
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
                    for commit in g.it:
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
                        g.it = None
                        g._owner.discard(g)
                        if g.joiners is not None:
                            g.wake_joiners()
                        if base:
                            self.done = done + turn + 1
                            return g, _FINISHED
                except BaseException as failure:
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

    # -- looking for work -----------------------------------------------------------------

    def find_runnable(self) -> bool:
        """Nothing local: global, steal, spin, sleep. True when the local queue has something.

        Go: findRunnable, from the global queue on.
        """
        if not self.stealers:
            if self.spins and self.spin():
                return True
        elif self.take_shared():
            return True
        elif self.spins and may_spin(self.runtime.count):
            spinning[self.id] = True
            try:
                found = self.spin()
            finally:
                # Out of ``spinning`` before the last look (in sleep): idle.py.
                spinning.pop(self.id, None)
            if found:
                # The baton: while we were looking nobody was woken. If there may be more than
                # we take, another one has to look. (Not for our own I/O: that woke us alone.)
                if found is _SHARED or flags["runq"] or self.others_have_work():
                    wakep()
                return True
        if not self.spins:
            self.unused_spins += 1
            if self.unused_spins >= 16:  # try again whether it pays now
                self.unused_spins = 0
                self.spins = 4 * SPIN_LEAST
        return self.sleep()

    def take_shared(self) -> bool:
        """Take from the global queue, else from another machine."""
        batch = self.p.batch
        if flags["runq"]:
            batch.extend(self.runtime.globalq.share(len(self.runtime.machines)))
            if batch:
                return True
        return self.steal()

    def steal(self) -> bool:
        """Half of somebody's queue: all others once, in a random order. Go: stealWork.

        The order is a random start and a random stride coprime to their number, so that
        thieves who set out together don't follow each other. Go: stealOrder.
        """
        stealers = self.stealers
        n = len(stealers)
        if not n:
            return False
        at = random.randrange(n) if n > 1 else 0
        stride = random.choice(coprimes(n)) if n > 2 else 1
        for _ in repeat(None, n):
            steal, victim = stealers[at]
            at = (at + stride) % n
            got = steal(False)
            if not got:
                # runnext belongs to whoever is about to run it, unless that machine is
                # inside a long step: then nobody else would.
                running = victim.g
                if running is not None and victim.p.runnext and self.stays(victim, running):
                    got = steal(True)
                del running
            if got:
                self.steals += 1
                self.p.batch.extend(got)
                return True
        return False

    def steal_timers(self) -> bool:
        """Fire what others are late for, being inside of a long step. Go: stealWork, too.

        Only before going to sleep: where nobody does that, sysmon finds them.
        """
        late = monotonic() - LATE
        for _, victim in self.stealers:
            when = victim.p.timers.first
            if when is not None and when <= late and victim.p.timers.run_due():
                return True
        return False

    @staticmethod
    def stays(victim: Machine, running: Goroutine[Any]) -> bool:
        """Whether the victim stays in one and the same step for a few microseconds."""
        tick = victim.tick
        return all(victim.g is running and victim.tick == tick for _ in repeat(None, 100))

    def spin(self) -> str:
        """Look around without sleeping; learn whether that pays. What was found, or ""."""
        poll, inbox, stealers = self.poller.poll, self.inbox, self.stealers
        batch, runnext = self.p.batch, self.p.runnext
        self.searches += 1
        budget = self.spins
        until = monotonic() + budget
        found = ""
        for i in count():
            # (What poll delivers by way of ready(), as a listener does, is in runnext.)
            if poll(0) or batch or runnext or inbox or flags["stop"]:
                found = _OWN
                break
            if (flags["runq"] or (stealers and not i & 7)) and self.take_shared():
                found = _SHARED
                break
            if monotonic() > until:
                break
        if found:
            self.spins = min(2 * budget, SPIN_MOST)
        else:
            self.spins = budget / 2 if budget > SPIN_LEAST else 0.0
        return found

    def others_have_work(self) -> bool:
        """Whether some other machine has more than it runs."""
        return any(other.p.batch or other.p.watch_ring() for _, other in self.stealers)

    def sleep(self) -> bool:
        """Announce, look again everywhere, block in the poller. Go: the end of findRunnable."""
        number = self.id
        idle[number] = self  # announce: a dict store is a full fence (shared.py)
        # The second look. Whoever published before our announcement became visible may have
        # seen no sleeper; whatever they published is visible to us here.
        p = self.p
        if (
            p.runnext
            or self.inbox
            or flags["stop"]
            or flags["runq"]
            or (self.stealers and (self.steal() or self.steal_timers()))
        ):
            idle.pop(number, None)
            return bool(p.batch)
        p.sweep()  # else slots that thieves emptied keep their goroutines alive
        when = p.timers.next_when()
        timeout = None if when is None else max(0.0, when - monotonic())
        self.parks += 1
        asleep = self.poller.asleep
        asleep[0] = True  # taken back by the poll, before it hands anything over
        self.poller.poll(timeout)
        asleep[0] = False  # (if it had nothing to ask the kernel)
        idle.pop(number, None)  # else somebody took us out: his wake-up is or was under way
        if not flags["sysmon"]:
            self.runtime.sysmon.call()
        return bool(p.batch)

    def drain_inbox(self) -> None:
        """Make the calls that other threads asked for."""
        popleft = self.inbox.popleft
        try:
            while True:
                popleft()()
        except IndexError:
            pass

    # -- the edges of a step --------------------------------------------------------------

    def tell(self, g: Goroutine[Any]) -> None:
        """g, which may be cancelled, gives way: if it has been, that is where it is told."""
        try:
            check(g)
        except BaseException as failure:
            g.it = _Throwing(g, g.it, failure)

    def escaped(self, g: Goroutine[Any], failure: BaseException) -> None:
        """Something left the step of g as an exception."""
        frame = failure.__traceback__
        if g.it is None and frame is not None and frame.tb_next is None:
            return  # it had ended: some thread woke it that had claimed it in an earlier run
        if frame is not None and frame.tb_next is None and g.it is not None:
            # It did not come out of g's frames but from calling what g yielded: g awaited
            # an object of another library. Tell g, where it awaits.
            g.it = _Throwing(g, g.it, RuntimeError(_FOREIGN))
            self.p.batch.append(g)
            return
        g.it = None
        g._owner.discard(g)
        if isinstance(failure, GoExit):
            if g.joiners is not None:
                g.wake_joiners()
            if g.id == 1:
                self.runtime.main_exited()
            return
        if g.failed(failure):
            g.wake_joiners()
            return
        self.runtime.panicked(g, failure)


LOOPS = {Machine.loop.__code__}
"""Code of the loops: below them, on a machine's stack, are the frames of what it runs."""


@cache
def coprimes(n: int) -> tuple[int, ...]:
    """The strides with which a walk over n places visits each of them once."""
    return tuple(k for k in range(1, n + 1) if gcd(k, n) == 1)


def drain(queue: deque[Goroutine[Any]]) -> list[Goroutine[Any]]:
    """Take all out of a queue from which thieves may take, too."""
    got: list[Goroutine[Any]] = []
    try:
        while True:
            got.append(queue.popleft())
    except IndexError:
        return got


def _FINISHED(g: Goroutine[Any]) -> None:
    """Marks, in the result of loop(), a goroutine that has ended."""


_FOREIGN = (
    "a goroutine awaited an object that goroutine doesn't know"
    " (asyncio's are awaited by goroutine.aio.run)"
)


class _Throwing:
    """Steps of a goroutine that is to see a failure where it awaits."""

    __slots__ = ("_failure", "_g", "_it")

    def __init__(self, g: Goroutine[Any], it: Any, failure: BaseException) -> None:
        self._g = g
        self._it = it
        self._failure = failure

    def __iter__(self) -> _Throwing:
        return self

    def __next__(self) -> Any:
        self._g.it = self._it  # this once only
        return self._it.throw(self._failure)

    def throw(self, failure: BaseException) -> Any:
        return self._it.throw(failure)

    def close(self) -> None:
        close_steps(self._it)
