"""The scheduler as a whole: how a run begins and how it ends.

The thread that calls `start` is not a machine. It makes the machines' threads, watches
over them (sysmon.py) and takes signals, so that Ctrl-C never lands inside the runtime.
"""

from __future__ import annotations

import os
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVar, cast

from ..errors import Deadlock, GoroutinePanic
from ..io import backend
from . import panic, sysmon
from .collector import Collector
from .context import InContext
from .dump import dump
from .errand import Errands
from .exit import GoExit
from .fork import module_lock
from .forked import abandon, leave
from .gate import Gate
from .globalq import GlobalQueue
from .goroutine import Goroutine, close_steps
from .halt import Halt
from .idle import wakep
from .machine import Machine
from .offload import Pool
from .placement import Placement
from .processor import Processor
from .settings import check_gil, machine_count_of
from .shared import bubbles, find, flags, idle, machines, scoped, spinning
from .spawn import make_spawner, spawners
from .thread import holds

__all__ = ["Runtime", "inject", "machine_count", "num_goroutine", "running", "start"]

T = TypeVar("T")

_starting = module_lock()
_running: Runtime | None = None  # the run of this process, if there is one

SIGNALS_AT_LATEST = 0.1
"""Seconds until a Ctrl-C is seen that has come while machines are waited for."""


class Runtime:
    """One run: the machines, the global queue, and how it ends."""

    def __init__(self, count_: int, io: str, blocking_threads: int) -> None:
        self.count = count_
        self.io = io
        self.globalq = GlobalQueue()
        self.machines: list[Machine] = []
        self.placement = Placement(self.machines)
        self.threads: list[threading.Thread] = []
        # Goroutines started by threads that are no machine, and their ids.
        self.foreign: set[Goroutine[Any]] = set()
        self.foreign_lock = threading.Lock()
        self.foreign_ids = count(2 + count_, count_ + 1)
        # Released when the run is over; the starting thread waits for it. Also to call that
        # thread for an errand: over it is only if there is an outcome.
        self.over = threading.Lock()
        self.over.acquire()
        self.errands = Errands(self.want)
        # The numbers of the machines that have left their loops, who ring then; for all, to end.
        self.left: list[int] = []
        self.bell = threading.Lock()
        self.bell.acquire()
        self.pressed = False  # Ctrl-C came when the run was over, and is yet to be passed on
        self.farewell = threading.Event()
        self.end_lock = threading.Lock()
        self.outcome: tuple[Any, BaseException | None] | None = None
        self.pool = Pool(blocking_threads)
        # Called in the end, on the starting thread, by then the only one that may touch a frame:
        # for what has a thread of its own that wakes goroutines (aio.py). The pool still works.
        self.at_end: list[Callable[[], object]] = []
        self.collector = Collector()
        self.halt = Halt(self)
        self.sysmon = sysmon.Sysmon(self)
        self.without_main = False  # main has ended by goexit
        self.dead = False  # it ended by deadlock
        self.forked: Goroutine[Any] | None = None  # in a forked child: who is its parent

    # -- the end of a run -------------------------------------------------------------

    def end(self, value: Any, failure: BaseException | None) -> bool:
        """The first caller, who is told so, decides how the run ends. From any thread."""
        with self.end_lock:
            if self.outcome is not None:
                return False
            self.outcome = (value, failure)
        self.stop()
        self.want()
        return True

    def want(self) -> None:
        """Have the starting thread look whether the run is over, and for errands."""
        try:
            self.over.release()
        except RuntimeError:
            pass  # somebody else wants it, too, and it has not looked yet
        self.sysmon.call()

    def stop(self) -> None:
        """Have every machine leave its loop at its next look at the flag.

        The store comes before the look at ``idle``, as in every submission: a machine about
        to sleep announces itself and then reads the flag. All are woken, not only those in
        ``idle``: a signal handler may have raised after taking one out and before waking it.
        """
        flags["stop"] = True
        idle.clear()
        for m in self.machines:
            m.wake()

    def panicked(self, g: Goroutine[Any], failure: BaseException) -> None:
        """An exception escaped g. Main's leaves `start` as it is; sys.exit() and Ctrl-C mean
        the program, wherever they are raised; all else is a panic."""
        if g.id == 1 or isinstance(failure, (SystemExit, KeyboardInterrupt)):
            failure.__traceback__ = panic.clean(failure)
            self.end(None, failure)
            return
        report = panic.report(g, failure)
        error = GoroutinePanic(f"panic in goroutine {g.id} ({g.name}): {panic.title(failure)}")
        error.__cause__ = failure
        failure.__traceback__ = panic.clean(failure)
        if self.end(None, error):
            # start() waits for this machine, so this comes before what it raises.
            panic.print_report(report)
            panic.exit_with_2()

    def main_exited(self) -> None:
        """Main called goexit: the others go on."""
        self.without_main = True

    # -- deadlock -----------------------------------------------------------------------

    def asleep(self) -> bool:
        """Whether nothing can ever happen again. Go: checkdead. Only sysmon asks.

        True if all machines are asleep, and nothing is left that could wake one: no work in
        a queue, no timer, nobody who waits for the kernel, no blocking call, no thread that
        holds (thread.py). These are looked at one after the other; that they hold at one
        instant follows from two things.

        What encloses the looks: every machine is seen asleep before and after them, in the
        same pass, and a pass sleeps once; so none has done anything in between. ``asleep``
        is set by a machine after its last look for work and unset when it comes back from
        the kernel, before it hands anything over; it is asleep with empty hands.

        Their order, which is the way work takes from the threads that are no machines. A
        call may leave somebody behind who holds, and stops being pending in one with making
        its goroutine ready. Who holds leaves work in a queue, an inbox or a heap before
        letting go. From there only a machine takes it, which is awake then. (Timers of a
        machine that is asleep are fired by others that are awake, or by sysmon itself.)
        """
        machines = self.machines
        ticks = [m.tick for m in machines]
        if not all(m.poller.asleep[0] for m in machines):
            return False
        if self.pool.busy() or holds.held or flags["runq"]:
            return False
        for m in machines:
            p = m.p
            if p.runnext or p.length() or m.inbox or len(p.timers) or m.poller.waiters():
                return False
        return all(m.poller.asleep[0] for m in machines) and ticks == [m.tick for m in machines]

    def deadlocked(self) -> None:
        """All are asleep for ever: end the run."""
        text = "all goroutines are asleep - deadlock!"
        if self.without_main and not any(self.homes()):
            text = "no goroutines (main called goexit) - deadlock!"
        self.dead = self.end(None, Deadlock(text))

    def report_deadlock(self) -> None:
        """Say where they all wait. All machines have left their loops: before that a thread
        that ought to hold, and doesn't, could wake somebody whose frames are being read."""
        assert self.outcome is not None
        left = [g for home in self.homes() for g in list(home)]
        panic.print_report(f"fatal error: {self.outcome[1]}\n\n{dump(left)}".rstrip())
        panic.exit_with_2()

    def homes(self) -> list[set[Goroutine[Any]]]:
        """The sets that keep the goroutines alive."""
        return [self.foreign, *(m.p.goroutines for m in self.machines)]

    # -- the machines' threads ----------------------------------------------------------

    def machine_thread(self, number: int, gate: Gate) -> None:
        """The life of one machine. Everything it uses is made, and given back, right here."""
        ident = threading.get_ident()
        try:
            m = self.make_machine(number)
            machines[ident] = m
            spawners[ident] = make_spawner(m)
        except BaseException as failure:
            gate.failed(failure)
            return
        try:
            if gate.arrive():
                for other in self.machines:
                    if other is not m:
                        m.stealers.append((other.p.stealer(), other))
                self.halt.begin(m)
                m.run()
        except BaseException as failure:  # an error of the runtime itself
            failure.add_note(f"goroutine: machine {number} failed; this is a bug in goroutine")
            self.end(None, failure)
        finally:
            if self.forked is not None:
                leave(self, self.forked)  # this is a forked child: it ends here
            idle.pop(number, None)
            spinning.pop(number, None)
            machines.pop(ident, None)
            spawners.pop(ident, None)
            self.left.append(number)
            try:
                self.bell.release()
            except RuntimeError:
                pass  # another one has just rung
            while not self.farewell.is_set():
                try:
                    self.farewell.wait()  # goroutines are being closed: they may close connections
                except KeyboardInterrupt:
                    pass  # meant for a step that this machine has left meanwhile
            m.drain_inbox()
            m.poller.close()

    def make_machine(self, number: int) -> Machine:
        p = Processor(number, self.count, self.globalq, wakep)
        append = p.batch.append
        poller = backend.make(self.io, append, number, self.count)
        m = Machine(number, self, poller, p)
        self.machines.append(m)
        return m

    def run(self, main: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run main on fresh machines; returns or raises what the run ended with."""
        flags["stop"] = flags["forked"] = False
        flags["sysmon"] = True
        idle.clear()
        spinning.clear()
        scoped.clear()
        gate = Gate(self.count)
        self.collector.begin()
        try:
            for number in range(self.count):
                thread = threading.Thread(
                    target=self.machine_thread, args=(number, gate), name=f"goroutine-M{number}"
                )
                thread.start()
                self.threads.append(thread)
            gate.wait()
            self.machines.sort(key=lambda m: m.id)
            g = _main_goroutine(self, main, args)
            gate.open()
            inject([g])
            self.watch()
        finally:
            self.await_machines(gate)
            self.halt.finish()
            if self.dead:
                self.report_deadlock()
            while self.at_end:
                self.at_end.pop()()
            self.pool.close()
            self.close_goroutines()
            self.farewell.set()
            for thread in self.threads:
                thread.join()
            self.collector.end()
        assert self.outcome is not None
        value, failure = self.outcome
        self.outcome = None, None  # this object has cycles: it must keep neither of them
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # else this frame and the traceback keep each other alive
        return value

    def watch(self) -> None:
        """The starting thread's part: sysmon, until the run is over or Ctrl-C."""
        try:
            try:
                self.sysmon.run()
            finally:
                # Before the machines are waited for: what took Ctrl-C away gives it back.
                self.errands.close()
        except BaseException as failure:  # KeyboardInterrupt, or what a signal handler raised
            if not self.end(None, failure) and isinstance(failure, KeyboardInterrupt):
                self.pressed = True  # it came just after the end

    def await_machines(self, gate: Gate) -> None:
        """Wait until all machines have left their loops; Ctrl-C is passed on to them.

        Each has told so in ``left`` before it rings: a ring is only a reason to look. That comes
        by itself, too, since a signal need not end a wait for a lock: the kernel may have given
        it to another thread, or to this one just before it began to wait.
        """
        while True:
            try:
                gate.open(abandon=True)  # if the run has not begun
                self.stop()
                self.errands.close()  # if that was interrupted
                if self.pressed:
                    sysmon.interrupt(self)
                    self.pressed = False
                while len(self.left) < len(self.machines):
                    self.bell.acquire(timeout=SIGNALS_AT_LATEST)
                return
            except KeyboardInterrupt:
                self.pressed = True

    def close_goroutines(self) -> None:
        """Close what still waits: GeneratorExit at its park point, so ``finally`` runs.

        All machines have ended, so every frame is this thread's. It poses as machine 0, so
        that closing a connection or a channel works in these blocks.
        """
        ident = threading.get_ident()
        homes = self.homes()
        if self.machines:
            machines[ident] = self.machines[0]
            spawners[ident] = make_spawner(self.machines[0])
        try:
            # Closing may start or ready others; what starts now is closed in the next round.
            for _ in range(100):
                left = sorted((g for home in homes for g in home), key=lambda g: g.id)
                if not left:
                    break
                for g in left:
                    it, g.it = g.it, None
                    g._owner.discard(g)
                    if it is not None:
                        self.close_one(g, it)
        finally:
            machines.pop(ident, None)
            spawners.pop(ident, None)

    def close_one(self, g: Goroutine[Any], it: Any) -> None:
        # Not g: what must wait in a finally block then fails, where it would yield a commit
        # that nobody calls, and so leave a channel locked for those closed after it.
        m = self.machines[0]
        m.g = None
        m.context = Context()  # what a finally block sets is not for the next, nor the caller
        try:
            m.context.run(close_steps, it)
        except BaseException as failure:
            if isinstance(failure, RuntimeError) and "ignored GeneratorExit" in str(failure):
                panic.print_report(
                    f"goroutine {g.id} ({g.name}): awaited in a finally block while the"
                    " program was ending; the rest of the block did not run"
                )
            elif not isinstance(failure, GoExit):
                panic.print_report(f"while closing goroutine {g.id}:\n{panic.report(g, failure)}")


@types.coroutine
def _main(runtime: Runtime, g: Goroutine[Any], steps: Any) -> Generator[Any, Any]:
    g.value = yield from steps
    runtime.end(g.value, None)


def _main_goroutine(
    runtime: Runtime, main: Callable[..., Any], args: tuple[Any, ...]
) -> Goroutine[Any]:
    g: Goroutine[Any] = Goroutine()
    g.id = 1
    g.fn = main
    g._parent = None
    g.joiners = g.scope = None
    g.value = None
    g._owner = runtime.foreign
    context = copy_context()
    g.context = context
    steps: Any = main(*args)
    if not isinstance(steps, Coroutine):
        raise TypeError(
            f"start() takes an async def function, not one that returns {type(steps).__name__}"
        )
    g.it = _main(runtime, g, steps)
    if context:
        g.it = InContext(g, g.it)
    runtime.foreign.add(g)
    return g


def inject(gs: Iterable[Goroutine[Any]]) -> None:
    """Runnable goroutines from a thread that is no machine: the global queue.

    Published, then the look at ``idle`` (in wakep): idle.py.
    """
    runtime = _running
    if runtime is not None:
        runtime.globalq.put(gs)
        wakep()


def running() -> Runtime | None:
    """The run of this process, if there is one; on the thread of a bubble, that."""
    if bubbles:
        bubble: Runtime | None = find(bubbles, threading.get_ident())
        if bubble is not None:
            return bubble
    return _running


def num_goroutine() -> int:
    """How many goroutines exist, main included; 0 outside a run. From any thread.

    Others may begin and end meanwhile. Go: runtime.NumGoroutine.

    >>> async def main():
    ...     for _ in range(3):
    ...         goroutine.go(goroutine.sleep(60))
    ...     return goroutine.num_goroutine()
    >>> goroutine.start(main)
    4
    """
    runtime = running()
    if runtime is None:
        return 0
    return len(runtime.foreign) + sum(len(m.p.goroutines) for m in runtime.machines)


def machine_count() -> int:
    """How many machines this run has: threads that run goroutines; 0 outside a run.

    It can't be changed during a run. Go: runtime.GOMAXPROCS(0).

    >>> async def main():
    ...     return goroutine.machines()
    >>> goroutine.start(main, machines=2)
    2
    """
    runtime = running()
    return 0 if runtime is None else runtime.count


def _in_child() -> None:
    """In a forked child: as if goroutines had never run."""
    global _running
    runtime, _running = _running, None
    g = abandon(runtime)
    if runtime is not None:
        runtime.forked = g
        if runtime.errands.ident == threading.get_ident():
            _starting.acquire(blocking=False)  # start() is still on this thread, to end it


os.register_at_fork(after_in_child=_in_child)


# -- start -----------------------------------------------------------------------------------


def start[T](
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    machines: int | None = None,
    io: str = "auto",
    blocking_threads: int = 64,
) -> T:
    """Run ``main(*args)`` as goroutine 1, and others it starts, until it returns.

    Returns what main returns and raises what main raises. ``machines`` is the number of OS
    threads that run goroutines (default: $GOROUTINE_MACHINES, else $GOMAXPROCS, else the
    CPUs this process may use); ``io`` is "auto", "io_uring" or "epoll" (auto: io_uring, or
    epoll where the kernel forbids that); ``blocking_threads`` is how many calls of `blocking`
    run at a time. ``ValueError`` for other values.

    When main has returned, the goroutines that still wait are closed where they wait
    (GeneratorExit: their ``finally`` blocks run, but may not await), and every thread and
    file descriptor of the runtime is given back. May be called again then; a call inside a
    running one is a ``RuntimeError``. A panic in another goroutine raises `GoroutinePanic`;
    `Deadlock` when nothing can ever go on; Ctrl-C raises ``KeyboardInterrupt``.

    Go: the start of a program's main goroutine.

    >>> async def main(name):
    ...     await goroutine.sleep(0.01)
    ...     return f"hello, {name}"
    >>> goroutine.start(main, "gopher")
    'hello, gopher'
    """
    global _running
    count_ = machine_count_of(machines)
    if io not in ("auto", "io_uring", "epoll"):
        raise ValueError(f"io must be 'auto', 'io_uring' or 'epoll', not {io!r}")
    if blocking_threads < 1:
        raise ValueError(f"blocking_threads must be at least 1, not {blocking_threads}")
    if not callable(main):
        raise TypeError(f"start() takes an async def function, not {type(main).__name__}")
    if threading.get_ident() in bubbles:
        raise RuntimeError("goroutine.start() in a bubble: that is a run of its own")
    if not _starting.acquire(blocking=False):
        raise RuntimeError("goroutine.start() is already running in this process")
    try:
        from ..debug.session import begin  # debug needs this module

        check_gil()
        runtime = _running = Runtime(count_, io, blocking_threads)
        try:
            with begin(runtime):
                return cast(T, runtime.run(main, args))
        finally:
            _running = None
    finally:
        _starting.release()
