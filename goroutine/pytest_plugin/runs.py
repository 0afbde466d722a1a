"""One run for one test: it begins with the test, and what is left at its end is looked at.

How a run ends otherwise (a panic, a deadlock, its time-out), the test's failure says, with
pytest's means: without frames of ours where there is nothing to see in a traceback.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

import pytest_goroutine

from ..debug.dumping import looks
from ..debug.leaks import report
from ..errors import Deadlock, GoroutinePanic
from ..runtime.dump import Look, look, render
from ..runtime.park import gosched
from ..runtime.scheduler import Runtime, num_goroutine, running, start
from ..runtime.sleep import sleep
from ..runtime.sysmon import interrupt

if TYPE_CHECKING:
    from ..runtime.goroutine import Goroutine

__all__ = ["End", "in_run", "as_text", "leaked", "left_over", "named", "panicked", "verdict"]

GRACE = 1.0
"""Seconds that goroutines have to end by themselves when the test has."""

PATIENCE = 1.0
"""Seconds that machines have to leave their steps after a time-out, before they are interrupted."""

GROUP_ABOVE = 50
"""More goroutines than a failed test shows one by one."""

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
PACKAGES = (
    _PACKAGE,
    os.path.join(os.path.dirname(os.path.abspath(pytest_goroutine.__file__)), ""),
)
"""How the paths of our own files begin."""

Body = Callable[[], Coroutine[Any, Any, Any]]


class Alarm:
    """Ends a run that takes too long."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self.failure = TimeoutError(f"timed out after {seconds:g} s")
        self.dump = ""
        self._runtime = runtime
        self._stopped = threading.Event()
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.name = "goroutine test timeout"
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        self.dump = as_text(looks(self._runtime))
        if not self._runtime.end(None, self.failure) or self._stopped.wait(PATIENCE):
            return
        interrupt(self._runtime)
        if not self._stopped.wait(10 * PATIENCE) and sys.__stderr__ is not None:
            # Nothing in the process can end a call of C.
            print(f"{self.failure}, and can't be ended\n\n{self.dump}", file=sys.__stderr__)

    def stop(self) -> None:
        """The run is over."""
        self._stopped.set()
        self._timer.cancel()
        self._timer.join()


class End:
    """What was seen when all machines had stopped, before the goroutines were closed."""

    def __init__(self) -> None:
        self.left = 0  # how many have not ended
        self.dump = ""  # where they wait, by creator; if the run has failed, where all do
        self.dead = False

    def watch(
        self, runtime: Runtime, whose: Callable[[Goroutine[Any]], bool] = lambda g: g.id != 1
    ) -> None:
        """Have it look, in the end, and count those for which ``whose(g)``: all but main."""

        def at_end() -> None:
            gs = [g for home in runtime.homes() for g in list(home) if not g.done]
            left = [g for g in gs if whose(g)]
            assert runtime.outcome is not None
            failed = runtime.outcome[1] is not None
            self.left, self.dead = len(left), runtime.dead
            self.dump = as_text(map(look, gs)) if failed else left_over(left)

        runtime.at_end.append(at_end)


def as_text(looks: Iterable[Look]) -> str:
    """A dump without those goroutines of ours that only wait for what pytest does next."""
    shown = [seen for seen in looks if not _waits_for_pytest(seen)]
    return render(shown, len(shown) > GROUP_ABOVE)


def _waits_for_pytest(seen: Look) -> bool:
    return getattr(seen.fn, "of_the_plugin", False) and all(
        code.co_filename.startswith(_PACKAGE) for code, _ in seen.frames
    )


def left_over(gs: list[Goroutine[Any]]) -> str:
    """Where these wait, by creator. Nobody runs them meanwhile."""
    return report(gs).partition("\n\n")[2]


def leaked(count: int, text: str, what: str = "the test") -> str:
    were = "goroutines were" if count > 1 else "goroutine was"
    return (
        f"{count} {were} left when {what} had ended\n"
        "(have them end, or allow it: @pytest.mark.goroutine(leaks=True))\n\n" + text
    )


async def _alone() -> None:
    """Until all other goroutines have ended, or had their time."""
    await gosched()
    pause, until = 0.0005, monotonic() + GRACE
    while num_goroutine() > 1 and monotonic() < until:
        await sleep(pause)
        pause = min(2 * pause, 0.02)


def named(main: Any, fn: Any) -> None:
    """Have main stand in dumps as fn, which it runs."""
    main.__module__ = getattr(fn, "__module__", None)
    main.__qualname__ = getattr(fn, "__qualname__", type(fn).__qualname__)


def in_run(
    body: Body,
    fn: Any,
    *,
    machines: int,
    timeout: float,
    leaks: bool,
    ended: Callable[[str], object],
) -> Any:
    """What ``await body()`` gives, as the main goroutine of a run of its own.

    It is named after fn. ``ended`` is called with a dump if it fails, for the report.
    """
    __tracebackhide__ = True
    end = End()
    alarm: Alarm | None = None

    async def main() -> Any:
        nonlocal alarm
        runtime = running()
        assert runtime is not None
        end.watch(runtime)
        if timeout:
            alarm = Alarm(runtime, timeout)
        value = await body()
        if not leaks:
            await _alone()
        return value

    named(main, fn)
    failure: BaseException | None = None
    value = None
    try:
        value = start(main, machines=machines)
    except BaseException as raised:
        failure = raised
    if alarm is not None:
        alarm.stop()
    try:
        if failure is None:
            if end.left and not leaks:
                pytest.fail(leaked(end.left, end.dump), pytrace=False)
            return value
        if alarm is not None and failure is alarm.failure:
            pytest.fail(f"{failure}\n\n{alarm.dump}", pytrace=False)
        if not (end.dead and isinstance(failure, Deadlock)):
            ended(end.dump)
        raise verdict(failure, end)
    finally:
        del failure  # else it and this frame keep each other alive


def panicked(failure: GoroutinePanic) -> str:
    """In which goroutine."""
    return str(failure).partition("): ")[0] + ")"


def verdict(failure: BaseException, end: End) -> BaseException:
    """What the test fails with when its run has ended with this."""
    if isinstance(failure, Deadlock) and end.dead:
        return pytest.fail.Exception(f"{failure}\n\n{end.dump}", pytrace=False)
    cause = failure.__cause__
    if isinstance(failure, GoroutinePanic) and cause is not None:
        if not isinstance(cause, (pytest.fail.Exception, pytest.skip.Exception)):
            cause.add_note(panicked(failure))
        return cause
    failure.__traceback__ = theirs(failure.__traceback__)
    return failure


def theirs(tb: TracebackType | None) -> TracebackType | None:
    """A traceback without our own frames at its head."""
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(PACKAGES):
        tb = tb.tb_next
    return tb
