"""run: bubbles, one after the other, until one fails or enough have not."""

from __future__ import annotations

import os
import random
import shlex
import sys
from _thread import get_ident
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

from ..errors import Deadlock, GoroutinePanic
from ..runtime.fork import module_lock
from ..runtime.shared import bubbles, machines
from .border import bubble_locks, plain_locks
from .bubble import Bubble
from .choice import Chooser, Decision, Replay, Strategy, strategy_of
from .clock import real_clock, virtual_clock
from .machine import Machine
from .points import no_points, points
from .replaced import original_functions, other_functions
from .schedule import deviations, parse, text
from .shrink import Failed
from .shrink import shrink as simplest

__all__ = ["Runs", "note", "run", "target"]

T = TypeVar("T")

_lock = module_lock()
_inside = 0  # calls of run() that are under way, on all threads


@contextmanager
def _bubbles() -> Iterator[None]:
    """While inside, the package knows of bubbles."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            virtual_clock()
            bubble_locks()
            points()
            other_functions()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                original_functions()
                no_points()
                plain_locks()
                real_clock()


def run[T](
    fn: Callable[[Bubble], Coroutine[Any, Any, T]],
    *,
    seed: int | None = None,
    strategy: str | Strategy = "random",
    runs: int = 1,
    schedule: str | None = None,
    shrink: bool = True,
) -> T:
    """Run ``fn(bubble)`` in a bubble, and again; the result of the last run.

    A bubble is a run of its own on the calling thread: its clock begins in 2000 and jumps to
    the next timer when all goroutines are blocked; who runs next, which case of a select is
    taken, which of two timers for the same time goes off first, is chosen by ``strategy``:
    "random", "pct" or "exhaustive", or a `Random`, `PCT` or `Exhaustive` with settings of its
    own. All comes from ``seed``: the same seed is the same run. Without one it is that of the
    environment, $GOROUTINE_SEED, else a new one. Each of ``runs`` has the next seed.

    It ends when all goroutines of the bubble have. `Deadlock` if some never will: when all are
    blocked and no timer is set, or when fn has returned, with which time ends. What fn raises
    is raised; what another goroutine raises, as the cause of a `GoroutinePanic`. Each failure
    has a note that says how to repeat it: with that ``schedule``, which is made as short as can
    be by running fn some more (unless ``shrink`` is false).

    ``RuntimeError`` in a goroutine, and so in a bubble; and where something that was made in
    the bubble is used outside. Go: synctest.Test.

    >>> async def main(bubble):
    ...     await goroutine.sleep(3600)
    ...     return goroutine.time.now()
    >>> testing.run(main)
    946688400.0
    """
    __tracebackhide__ = True
    runs_of = Runs(fn, seed=seed, strategy=strategy, runs=runs, schedule=schedule, shrink=shrink)
    return runs_of.make()  # type: ignore[no-any-return]


class Runs:
    """What `run` does; with what the command line and the pytest plugin want to know beside."""

    def __init__(
        self,
        fn: Callable[[Bubble], Any],
        *,
        seed: int | None,
        strategy: str | Strategy,
        runs: int,
        schedule: str | None,
        shrink: bool = True,
    ) -> None:
        _check_thread()
        if not callable(fn):
            raise TypeError(f"run() takes an async def function, not {type(fn).__name__}")
        if runs < 1:
            raise ValueError(f"runs must be at least 1, not {runs}")
        self.strategy = strategy_of(strategy) if schedule is None else Replay(parse(schedule))
        self.seed = _any_seed() if seed is None else seed
        self.left = ""  # if it has failed: a dump of the goroutines that had not ended
        self.told: Callable[[Machine, Any], object] | None = None  # of each step, before it
        self._fn = fn
        self._runs = runs
        self._once = schedule is not None
        self._shrink = shrink

    def make(self) -> Any:
        """Make them: the result of the last one."""
        __tracebackhide__ = True
        strategy = self.strategy
        strategy.reset()
        result: Any = None
        with _bubbles():
            for number in count() if strategy.one_seed else range(self._runs):
                seed = self.seed if strategy.one_seed else self.seed + number
                if not strategy.begin(seed):
                    break
                result, trace, failed = self._run(seed, strategy)
                if failed is None:
                    strategy.end(trace)
                    if self._once:
                        break
                    continue
                if self._shrink and isinstance(failed.failure, Exception):
                    failed = self._shrunken(seed, failed)
                failure, self.left = failed.failure, failed.left
                failure.add_note(note(self._fn, seed, strategy, number, failed))
                try:
                    raise failure
                finally:
                    del failure, failed  # else the traceback and this frame keep each other alive
        return result

    def _run(self, seed: int, strategy: Strategy) -> tuple[Any, list[Decision], Failed | None]:
        """One bubble: its result, its choices, its failure."""
        chooser = Chooser(strategy)
        m = Machine(chooser, seed)
        if self.told is not None:
            m.told = partial(self.told, m)
        try:
            return m.run(self._fn, Bubble(m, seed)), chooser.trace, None
        except BaseException as failure:
            failure.__traceback__ = _clean(failure)
            return None, chooser.trace, Failed(failure, chooser.trace, m.left)

    def _shrunken(self, seed: int, failed: Failed) -> Failed:
        def again(choices: dict[int, int]) -> Failed | None:
            replay = Replay(choices)
            replay.begin(seed)
            _, _, failed = self._run(seed, replay)
            if failed is not None and isinstance(failed.failure, (KeyboardInterrupt, SystemExit)):
                self.left = failed.left
                raise failed.failure
            return failed

        return simplest(failed, again)


def _check_thread() -> None:
    ident = get_ident()
    if ident in bubbles:
        raise RuntimeError("synctest.Run called from within a synctest bubble")
    if ident in machines:
        raise RuntimeError("goroutine.testing.run() in a goroutine: a bubble is a run of its own")


def _any_seed() -> int:
    word = os.environ.get("GOROUTINE_SEED")
    if not word:
        return random.SystemRandom().getrandbits(32)
    try:
        return int(word, 0)
    except ValueError:
        raise ValueError(f"GOROUTINE_SEED must be a number, not {word!r}") from None


def _clean(failure: BaseException) -> TracebackType | None:
    """Its traceback without our own frames at its head. (None are left of what a bubble itself
    has to say; an error of ours keeps them.)"""
    whole = tb = failure.__traceback__
    while tb is not None and tb.tb_frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        tb = tb.tb_next
    return tb if tb is not None or isinstance(failure, (Deadlock, GoroutinePanic)) else whole


_PACKAGE = __name__.rpartition(".")[0] + "."


# -- what is said about a failure ----------------------------------------------------------------


def note(fn: Any, seed: int, strategy: Strategy, number: int, failed: Failed) -> str:
    """How a failure came about, and how to see it again."""
    schedule = text(deviations(failed.trace))
    place = target(fn)
    if place is None:
        again = f"goroutine.testing.run(..., seed={seed}, schedule={schedule!r})"
    else:
        again = f"python -m goroutine.testing {place} --seed {seed} --schedule {schedule}"
    return f"in a bubble: seed {seed}, strategy {strategy.name}, run {number + 1}\nre-run: {again}"


def target(fn: Any) -> str | None:
    """``module:function`` or ``file.py:function``, as the command line wants it; None for what
    can't be found by a name."""
    name = getattr(fn, "__qualname__", "<")
    module = getattr(fn, "__module__", None)
    loaded = sys.modules.get(module or "")
    if "<" in name or loaded is None:
        return None
    file = getattr(loaded, "__file__", None)
    if file is None:
        return None
    spelled = str(module).replace(".", os.sep)
    for end in (".py", f"{os.sep}__init__.py"):
        if os.path.abspath(file) == os.path.abspath(spelled + end):
            return f"{module}:{name}"
    file = os.path.relpath(file)
    return shlex.quote(f"{file}:{name}")
