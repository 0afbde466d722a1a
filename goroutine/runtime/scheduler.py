"""The scheduler as a whole: starting and ending a run, starting goroutines.

The thread that calls `start` is not a machine. It makes the machines' threads, watches
over them (sysmon.py) and takes signals, so that Ctrl-C never lands inside the runtime.
"""

from __future__ import annotations

import os
import sys
import threading
import types
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import copy_context
from inspect import CO_COROUTINE, CO_ITERABLE_COROUTINE
from itertools import count
from typing import Any, TypeVar, cast

from ..errors import GoroutinePanic
from ..io import backend
from . import panic, sysmon
from .globalq import GlobalQueue
from .goroutine import Goroutine
from .idle import wakep
from .machine import GoExit, Machine, _InContext
from .offload import Pool
from .processor import Processor
from .shared import current, flags, idle, machine_or_none, machines, shared_dict, spinning

__all__ = ["Runtime", "adopt", "go", "inject", "machine_count", "num_goroutine", "start"]

T = TypeVar("T")

_starting = threading.Lock()
_running: Runtime | None = None  # the run of this process, if there is one


class Runtime:
    """One run: the machines, the global queue, and how it ends."""

    def __init__(self, count_: int, io: str, blocking_threads: int) -> None:
        self.count = count_
        self.io = io
        self.globalq = GlobalQueue()
        self.machines: list[Machine] = []
        self.pollers: list[Any] = []
        self.threads: list[threading.Thread] = []
        # Goroutines started by threads that are no machine, and their ids.
        self.foreign: set[Goroutine[Any]] = set()
        self.foreign_lock = threading.Lock()
        self.foreign_ids = count(2 + count_, count_ + 1)
        # Released when the run is over; the starting thread waits for it.
        self.over = threading.Lock()
        self.over.acquire()
        self.end_lock = threading.Lock()
        self.outcome: tuple[Any, BaseException | None] | None = None
        self.pool = Pool(blocking_threads)
        self.sysmon = sysmon.Sysmon(self)

    # -- the end of a run -------------------------------------------------------------

    def end(self, value: Any, failure: BaseException | None) -> None:
        """The first caller decides how the run ends. From any thread."""
        with self.end_lock:
            if self.outcome is not None:
                return
            self.outcome = (value, failure)
        self.stop()
        self.over.release()
        self.sysmon.call()

    def stop(self) -> None:
        """Have every machine leave its loop at its next look at the flag.

        The store comes before the look at ``idle``, as in every submission: a machine about
        to sleep announces itself and then reads the flag.
        """
        flags["stop"] = True
        while True:
            try:
                _, m = idle.popitem()
            except KeyError:
                return
            m.wake()

    def panicked(self, g: Goroutine[Any], failure: BaseException) -> None:
        """An exception escaped g."""
        if g.id == 1:
            failure.__traceback__ = panic.clean(failure)
            self.end(None, failure)
            return
        text = f"{type(failure).__qualname__}: {failure}".rstrip(": ")
        report = panic.report(g, failure)
        error = GoroutinePanic(f"panic in goroutine {g.id} ({g.name}): {text}")
        error.__cause__ = failure
        failure.__traceback__ = panic.clean(failure)
        with self.end_lock:
            first = self.outcome is None
        if first:
            panic.print_report(report)
        self.end(None, error)

    def main_exited(self) -> None:
        """Main called goexit: the others go on."""

    # -- the machines' threads ----------------------------------------------------------

    def machine_thread(self, number: int, gate: Gate) -> None:
        """The life of one machine. Everything it uses is made here, in its own thread."""
        try:
            try:
                m = self.make_machine(number)
                ident = threading.get_ident()
                machines[ident] = m
            except BaseException as failure:
                gate.failed(failure)
                return
            try:
                if not gate.arrive():
                    return
                for other in self.machines:
                    if other is not m:
                        m.stealers.append((other.p.stealer(), other))
                m.run()
            finally:
                machines.pop(ident, None)
                idle.pop(number, None)
        except BaseException as failure:  # an error of the runtime itself
            failure.add_note(f"goroutine: machine {number} failed; this is a bug in goroutine")
            self.end(None, failure)

    def make_machine(self, number: int) -> Machine:
        p = Processor(number, self.count, self.globalq, wakep)
        append = p.batch.append
        poller = backend.make(self.io, append, number, self.count)
        self.pollers.append(poller)
        m = Machine(number, self, poller, p)
        self.machines.append(m)
        return m

    def run(self, main: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run main on fresh machines; returns or raises what the run ended with."""
        flags["stop"] = False
        flags["sysmon"] = True
        idle.clear()
        spinning.clear()
        gate = Gate(self.count)
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
            gate.open(abandon=True)
            self.stop()
            self.join()
            self.pool.close()
            self.close_goroutines()
            for poller in self.pollers:
                poller.close()
        assert self.outcome is not None
        value, failure = self.outcome
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # else this frame and the traceback keep each other alive
        return value

    def watch(self) -> None:
        """The starting thread's part: sysmon, until the run is over or Ctrl-C."""
        try:
            self.sysmon.run()
        except BaseException as failure:  # KeyboardInterrupt, or what a signal handler raised
            self.end(None, failure)

    def join(self) -> None:
        """Wait for the machines' threads; a second Ctrl-C meanwhile is passed on to them."""
        for thread in self.threads:
            while thread.is_alive():
                try:
                    thread.join()
                except KeyboardInterrupt:
                    sysmon.interrupt(self)

    def close_goroutines(self) -> None:
        """Close what still waits: GeneratorExit at its park point, so ``finally`` runs.

        All machines have ended, so every frame is this thread's. It poses as machine 0, so
        that closing a connection or a channel works in these blocks.
        """
        ident = threading.get_ident()
        homes = [m.p.goroutines for m in self.machines] + [self.foreign]
        if self.machines:
            machines[ident] = self.machines[0]
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

    def close_one(self, g: Goroutine[Any], it: Any) -> None:
        self.machines[0].g = g
        try:
            it.close()
        except BaseException as failure:
            if isinstance(failure, RuntimeError) and "ignored GeneratorExit" in str(failure):
                panic.print_report(
                    f"goroutine {g.id} ({g.name}): awaited in a finally block while the"
                    " program was ending; the rest of the block did not run"
                )
            elif not isinstance(failure, GoExit):
                panic.print_report(
                    f"while closing goroutine {g.id}:\n{panic.report(g, failure)}"
                )
        finally:
            self.machines[0].g = None


class Gate:
    """Lets the machines begin together, once all of them could be made."""

    def __init__(self, count_: int) -> None:
        self._missing = count_
        self._condition = threading.Condition()
        self._failure: BaseException | None = None
        self._open = False
        self._abandoned = False

    def arrive(self) -> bool:
        """A machine is made; wait for the others. False: go home again."""
        with self._condition:
            self._missing -= 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._open)
            return not self._abandoned

    def failed(self, failure: BaseException) -> None:
        with self._condition:
            self._failure = failure
            self._condition.notify_all()

    def wait(self) -> None:
        """The starting thread: until all are made; raises what one of them failed with."""
        with self._condition:
            self._condition.wait_for(lambda: self._failure is not None or not self._missing)
            if self._failure is not None:
                raise self._failure

    def open(self, abandon: bool = False) -> None:
        with self._condition:
            if not self._open:
                self._open = True
                self._abandoned = abandon
                self._condition.notify_all()


# -- starting goroutines ---------------------------------------------------------------------


@types.coroutine
def _with_result(g: Goroutine[Any], steps: Any) -> Generator[Any, Any, None]:
    """Steps of a coroutine whose result is wanted. (A for loop drops it: machine.py.)"""
    g.value = yield from steps


@types.coroutine
def _call(
    g: Goroutine[Any], fn: Callable[..., Any], args: Any, kwargs: Any
) -> Generator[Any, Any, None]:
    """One step that calls a plain function."""
    g.value = fn(*args, **kwargs)
    return
    yield


@types.coroutine
def _main(runtime: Runtime, g: Goroutine[Any], steps: Any) -> Generator[Any, Any, None]:
    g.value = yield from steps
    runtime.end(g.value, None)


def _main_goroutine(
    runtime: Runtime, main: Callable[..., Any], args: tuple[Any, ...]
) -> Goroutine[Any]:
    g: Goroutine[Any] = Goroutine()
    g.id = 1
    g.fn = main
    g._parent = 0
    g._parent_fn = None
    g.joiners = None
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
        g.it = _InContext(g, g.it)
    runtime.foreign.add(g)
    return g


_RESULT, _NO_RESULT, _PLAIN = 1, 2, 3


# How a function is started, by the id of its code object: looked up at every `go`. The code
# object is kept beside it, so that its id stays its own.
_kinds: dict[int, int] = shared_dict("goroutine kinds of functions")
_codes: dict[int, Any] = {}


def _classify(code: Any) -> int:
    """Whether code is a coroutine function's, and whether it can return anything but None."""
    if not code.co_flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE):
        kind = _PLAIN
    elif code.co_flags & CO_ITERABLE_COROUTINE:
        kind = _RESULT
    else:
        kind = _NO_RESULT if _returns_none(code) else _RESULT
    _codes[id(code)] = code
    _kinds[id(code)] = kind
    return kind


def _returns_none(code: Any) -> bool:
    """True only if every return of the code is provably ``return None``."""
    import dis

    previous = None
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name == "RETURN_CONST":
            if instruction.argval is not None:
                return False
        elif name == "RETURN_VALUE":
            if previous is None or previous.opname != "LOAD_CONST" or previous.argval is not None:
                return False
        previous = instruction
    return True


def go(
    fn: Callable[..., Coroutine[Any, Any, T]] | Callable[..., T] | Coroutine[Any, Any, T],
    /,
    *args: Any,
    **kwargs: Any,
) -> Goroutine[T]:
    """Start a goroutine; returns at once.

    ``fn`` is an ``async def`` function, a plain function (called once, on a machine, in
    parallel with the others) or a coroutine object. Works in any goroutine and, while the
    runtime runs, in any other thread; elsewhere ``RuntimeError``. The new goroutine gets a
    copy of the caller's contextvars. It is kept alive by the scheduler until it ends.

    An exception that escapes the goroutine ends the program: `GoroutinePanic`.
    Go: the ``go`` statement.
    """
    g: Goroutine[T] = Goroutine()
    try:
        code = fn.__code__  # type: ignore[union-attr]
        kind = _kinds.get(id(code)) or _classify(code)
    except AttributeError:
        g.it = _uncommon(g, fn, args, kwargs)
    else:
        if kind == _NO_RESULT:
            g.it = fn(*args, **kwargs).__await__()  # type: ignore[operator, union-attr]
        elif kind == _RESULT:
            g.it = _with_result(g, fn(*args, **kwargs))  # type: ignore[operator]
        else:
            g.it = _call(g, fn, args, kwargs)  # type: ignore[arg-type]
    g.joiners = None
    m = machine_or_none()
    if m is None:
        return _go_foreign(g, fn)
    return _begin(m, g, fn)


def adopt(g: Goroutine[Any], fn: Any, steps: Any) -> None:
    """Start a goroutine that somebody else has begun to build, on this very machine."""
    g.it = steps
    _begin(current(), g, fn)


def _begin(m: Machine, g: Goroutine[T], fn: Any) -> Goroutine[T]:
    """Name, register and queue a new goroutine on machine m, the caller's."""
    g.fn = fn
    g.value = None
    p = m.p
    g.id = next(p.ids)
    parent = m.g
    if parent is not None:
        g._parent = parent.id
        g._parent_fn = parent.fn
    else:
        g._parent = 0
        g._parent_fn = None
    if m.context:
        g.context = m.context.copy()
        g.it = _InContext(g, g.it)
    else:
        g.context = None
    g._owner = p.goroutines
    p.goroutines.add(g)
    p.ready(g)
    # Published, then the look at idle: Go's wakep in newproc.
    if idle:
        wakep()
    return g


def _uncommon(g: Goroutine[Any], fn: Any, args: Any, kwargs: Any) -> Any:
    """Steps for what isn't a Python function: coroutines, partials, builtins, callables."""
    if isinstance(fn, Coroutine):
        if args or kwargs:
            raise TypeError("go() of a coroutine object takes no further arguments")
        return _with_result(g, fn)
    if fn is None:
        raise TypeError("go of nil func value")
    if not callable(fn):
        raise TypeError(f"go() takes a function or a coroutine, not {type(fn).__name__}")
    wrapped = fn
    while hasattr(wrapped, "func"):  # functools.partial
        wrapped = wrapped.func
    call = wrapped if hasattr(wrapped, "__code__") else getattr(type(wrapped), "__call__", None)
    code = getattr(call, "__code__", None)
    if code is not None and _classify(code) != _PLAIN:
        return _with_result(g, fn(*args, **kwargs))
    return _call(g, fn, args, kwargs)


def _go_foreign(g: Goroutine[T], fn: Any) -> Goroutine[T]:
    g.fn = fn
    g.value = None
    runtime = _running
    if runtime is None or flags["stop"]:
        g.it.close()
        raise RuntimeError("no goroutine runtime is running: call go() below goroutine.start(main)")
    with runtime.foreign_lock:
        g.id = next(runtime.foreign_ids)
    g._parent = 0
    g._parent_fn = None
    context = copy_context()
    if context:
        g.context = context
        g.it = _InContext(g, g.it)
    else:
        g.context = None
    g._owner = runtime.foreign
    runtime.foreign.add(g)
    inject([g])
    return g


def inject(gs: Iterable[Goroutine[Any]]) -> None:
    """Runnable goroutines from a thread that is no machine: the global queue.

    Published, then the look at ``idle`` (in wakep): idle.py.
    """
    runtime = _running
    if runtime is not None:
        runtime.globalq.put(gs)
        wakep()


def num_goroutine() -> int:
    """How many goroutines exist, main included. Go: runtime.NumGoroutine."""
    runtime = _running
    if runtime is None:
        return 0
    return len(runtime.foreign) + sum(len(m.p.goroutines) for m in runtime.machines)


def machine_count() -> int:
    """How many machines this run has. Go: GOMAXPROCS(0)."""
    runtime = _running
    return 0 if runtime is None else runtime.count


# -- start -----------------------------------------------------------------------------------


def start(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    machines: int | None = None,
    io: str = "auto",
    blocking_threads: int = 64,
) -> T:
    """Run ``main(*args)`` as goroutine 1, and others it starts, until it returns.

    Returns what main returns and raises what main raises. ``machines`` is the number of OS
    threads that run goroutines (default: $GOROUTINE_MACHINES, else $GOMAXPROCS, else the
    CPUs this process may use); ``io`` is "auto", "io_uring" or "epoll".

    When main has returned, the goroutines that still wait are closed where they wait
    (GeneratorExit: their ``finally`` blocks run, but may not await), and every thread and
    file descriptor of the runtime is given back. May be called again then; a call inside a
    running one is a ``RuntimeError``. A panic in another goroutine raises `GoroutinePanic`;
    Ctrl-C raises ``KeyboardInterrupt``.

    Go: the start of a program's main goroutine.
    """
    global _running
    count_ = _machine_count(machines)
    if io not in ("auto", "io_uring", "epoll"):
        raise ValueError(f"io must be 'auto', 'io_uring' or 'epoll', not {io!r}")
    if blocking_threads < 1:
        raise ValueError(f"blocking_threads must be at least 1, not {blocking_threads}")
    if not callable(main):
        raise TypeError(f"start() takes an async def function, not {type(main).__name__}")
    if not _starting.acquire(blocking=False):
        raise RuntimeError("goroutine.start() is already running in this process")
    try:
        _check_gil()
        runtime = _running = Runtime(count_, io, blocking_threads)
        try:
            return cast(T, runtime.run(main, args))
        finally:
            _running = None
    finally:
        _starting.release()


def _machine_count(machines: int | None) -> int:
    if machines is None:
        for name in ("GOROUTINE_MACHINES", "GOMAXPROCS"):
            text = os.environ.get(name)
            if text:
                try:
                    machines = int(text)
                except ValueError:
                    raise ValueError(f"{name} must be a whole number, not {text!r}") from None
                break
        else:
            return len(os.sched_getaffinity(0))
    if isinstance(machines, bool) or not isinstance(machines, int):
        raise TypeError(f"machines must be an int, not {type(machines).__name__}")
    if not 1 <= machines <= 1024:
        raise ValueError(f"machines must be between 1 and 1024, not {machines}")
    return machines


_warned = False


def _check_gil() -> None:
    """With the GIL on everything works, one thread at a time: say so, once."""
    global _warned
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return
    text = "the GIL is on, so goroutines don't run in parallel: " + _gil_cause()
    if os.environ.get("GOROUTINE_GIL") == "require-off":
        raise RuntimeError(text)
    if not _warned:
        _warned = True
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def _gil_cause() -> str:
    import sysconfig

    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this is not a free-threaded build of Python (python3.13t or newer)"
    option = sys._xoptions.get("gil", os.environ.get("PYTHON_GIL"))
    if option == "1":
        return "-X gil=1 or PYTHON_GIL=1 asks for it"
    if "_cffi_backend" in sys.modules:
        return "importing cffi switched it on; run with -X gil=0"
    return "an extension module that was imported switched it on; run with -X gil=0"
