"""Carrier: a run on a thread of its own, which lives as long as somebody needs it.

Async fixtures of a wider scope need a run that is there before their test and after it, and
pytest goes on meanwhile. There can be only one run at a time in a process, so from then on our
tests are goroutines of that one, until the last such fixture has been taken down. It is also how
several threads (pytest-run-parallel) run a test at once: as goroutines of one run.

A thread of pytest's asks: something is done as a goroutine, and it waits for the answer. While
nobody asks, the carrier holds (runtime/thread.py), since whoever asks next will wake somebody;
while somebody asks, it doesn't, and a test that waits for ever is a deadlock as in any run. The
order is that of every hold: there is a goroutine to run before it is let go, and it is taken
again by the goroutine that answers, before it answers.

Whose a goroutine is, a contextvar says: goroutines hand it on to those they start.

A run that has ended early (a panic, a deadlock, a time-out, Ctrl-C) takes the fixtures in it
along. They are finished at the end of the test, and made anew for the next one that asks. The same
is done to a run in which a failed test has left goroutines: they would be the next test's trouble.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from ..channel import Chan, chan
from ..debug.dumping import looks
from ..runtime.goroutine import Goroutine
from ..runtime.halt import Running
from ..runtime.scheduler import Runtime, running, start
from ..runtime.spawn import go
from ..runtime.sysmon import interrupt
from ..runtime.thread import holds
from .runs import GRACE, PATIENCE, End, as_text, leaked, left_over, named, verdict
from .steps import abandon, take_down

if TYPE_CHECKING:
    from .settings import State

__all__ = ["Carrier", "Kept", "bury", "current", "lent"]

_whose: ContextVar[object] = ContextVar("goroutine_test")

_lock = threading.Lock()
_current: Carrier | None = None


class Answer:
    """What a thread waits for that has asked."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self.there = threading.Event()
        self.given = False
        self.value: Any = None
        self.failure: BaseException | None = None

    def give(self, value: Any, failure: BaseException | None) -> None:
        """By a goroutine of the carrier."""
        self.value, self.failure, self.given = value, failure, True
        self._carrier.answered(self)
        self.there.set()


class Carrier:
    """One run."""

    def __init__(self, machines: int) -> None:
        self.machines = machines
        self.users = 0
        self.over = False
        self.failure: BaseException | None = None  # what ended it
        self.reason = ""  # the same for those who come later
        self.end = End()
        self.fixtures: list[tuple[pytest.FixtureDef[Any], Any]] = []
        self._runtime: Runtime | None = None
        self._lock = threading.Lock()
        self._asked: set[Answer] = set()
        self._open: set[Answer] = set()  # of these, those for which a goroutine has been made ready
        self._key: object = None  # while it holds
        self._balance()
        self._begun = threading.Event()
        # (A thread begins with an empty context, and so do its goroutines.)
        self._thread = threading.Thread(target=self._run, name="goroutine-tests", daemon=True)
        self._thread.start()
        self._begun.wait()

    # -- its run --------------------------------------------------------------------------

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            start(_main, self, machines=self.machines)
        except BaseException as raised:
            failure = raised
        with self._lock:
            self.failure, self.over = failure, True
            asked = self._asked.copy()
            self._asked.clear()
            self._open.clear()
            self._balance()
        self._begun.set()
        for answer in asked:
            answer.there.set()

    def begin(self) -> None:
        """By the run's main goroutine."""
        self._runtime = runtime = running()
        assert runtime is not None
        self.end.watch(runtime, lambda g: g.id != 1 and _owner(g) is None)
        self._begun.set()

    def close(self, failure: BaseException | None = None) -> None:
        """End the run, and wait for that."""
        runtime = self._runtime
        if runtime is not None and runtime.end(None, failure):
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                interrupt(runtime)
        self._thread.join()

    def keep(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        """A fixture that lives in it."""
        self.fixtures.append((fixturedef, request))

    # -- asking -----------------------------------------------------------------------------

    def _balance(self) -> None:
        """Hold, or don't. With the lock."""
        idle = not self._open and not self.over
        if idle and self._key is None:
            self._key = holds.add()
        elif not idle and self._key is not None:
            key, self._key = self._key, None
            holds.drop(key)

    def answered(self, answer: Answer) -> None:
        """By the goroutine that answers, before it does."""
        with self._lock:
            self._asked.discard(answer)
            self._open.discard(answer)
            self._balance()

    def ask(self, state: State, begin: Callable[[Answer], object]) -> Any:
        """Have something done by goroutines of the run, and wait for what they answer.

        Fails if the run ends meanwhile, or the test's time.
        """
        __tracebackhide__ = True
        answer = Answer(self)
        with self._lock:
            if not self.over:
                self._asked.add(answer)
        if self.over:
            pytest.fail(self.why(), pytrace=False)
        try:
            begin(answer)
            with self._lock:
                if answer in self._asked:
                    self._open.add(answer)
                    self._balance()
            in_time = answer.there.wait(state.timeout or None)
        except BaseException as failure:  # Ctrl-C, or the time limit of another plugin
            state.dump = self._dump()
            self.reason = f"{type(failure).__name__} in {state.item.nodeid}"
            self.close()
            raise
        if not in_time:
            text = self._dump()
            late = TimeoutError(f"timed out after {state.timeout:g} s")
            self.reason = f"{state.item.nodeid} {late}"
            self.close(late)
            pytest.fail(f"{late}\n\n{text}", pytrace=False)
        if not answer.given:
            ending = self.failure
            if ending is None:
                pytest.fail(self.why(), pytrace=False)  # another thread has ended it
            self.reason = self.reason or f"{type(ending).__name__} in {state.item.nodeid}"
            if not self.end.dead:
                state.dump = self.end.dump
            raise verdict(ending, self.end)
        if answer.failure is not None:
            raise answer.failure
        return answer.value

    def _dump(self) -> str:
        return as_text(looks(self._runtime))

    def why(self) -> str:
        return f"the run that the async fixtures lived in has ended: {self.reason}"

    # -- tests --------------------------------------------------------------------------------

    def test(self, state: State, body: Callable[[], Coroutine[Any, Any, Any]], fn: Any) -> Any:
        """What ``await body()`` gives, as a goroutine of the run, named after fn."""
        __tracebackhide__ = True
        token = object()

        async def run(answer: Answer) -> None:
            value, failure = None, None
            try:
                value = await body()
            except GeneratorExit:
                raise
            except BaseException as raised:
                failure = raised
            answer.give(value, failure)

        named(run, fn)

        def begin(answer: Answer) -> None:
            _whose.set(token)
            go(run, answer)

        try:
            value = self.ask(state, lambda answer: copy_context().run(begin, answer))
        except BaseException as failure:
            if not self.over:
                count, state.dump = self._left(token)
                if count:
                    self._condemn(state, type(failure).__name__)
            raise
        if not state.leaks:
            count, text = self._left(token)
            if count:
                self._condemn(state, "leaked goroutines")
                pytest.fail(leaked(count, text), pytrace=False)
        return value

    def _left(self, token: object) -> tuple[int, str]:
        """How many goroutines of a test are left, after a while, and where they wait."""
        runtime = self._runtime
        assert runtime is not None

        def look(running: Running | None) -> tuple[int, str, bool]:
            gs = [g for home in runtime.homes() for g in list(home) if not g.done]
            if running is None:
                return 0, "", not self.over
            left = [g for g in gs if id(g) not in running and _owner(g) is token]
            return len(left), left_over(left), bool(running)

        pause, begun = 0.0005, monotonic()
        while True:
            # Nobody may read the context of one that runs. It will be seen when it parks; if it
            # computes for longer, it is let go.
            count, text, unknown = runtime.halt.call(look)
            passed = monotonic() - begun
            if passed > GRACE or not (count or (unknown and passed < GRACE / 10)):
                return count, text
            sleep(pause)
            pause = min(2 * pause, 0.02)

    def _condemn(self, state: State, what: str) -> None:
        self.reason = f"{what} in {state.item.nodeid}"
        self.close()


async def _main(run: Carrier) -> None:
    run.begin()
    nothing: Chan[None] = chan()
    await nothing.recv()


_main.of_the_plugin = True  # type: ignore[attr-defined]


def _owner(g: Goroutine[Any]) -> object:
    """Whose goroutine this is, which nobody runs; None for a fixture's."""
    context = getattr(g, "context", None)
    return None if context is None else context.get(_whose)


class Kept:
    """A fixture that lives in a carrier, as a goroutine, from its setup to its teardown."""

    def __init__(
        self, run: Carrier, name: str, fn: Callable[..., Any], kwargs: dict[str, Any]
    ) -> None:
        self._run = run
        self._name = name
        self._fn = fn
        self._kwargs = kwargs
        self._answer: Answer | None = None
        self._over: Chan[None] = chan()
        self._yielded = False

    def begin(self, state: State) -> Any:
        """Its value."""
        __tracebackhide__ = True

        async def life(answer: Answer) -> None:
            await self._live(answer)

        named(life, self._fn)
        life.of_the_plugin = True  # type: ignore[attr-defined]
        return self._run.ask(state, lambda answer: go(life, answer))

    def end(self, state: State) -> None:
        __tracebackhide__ = True
        if self._yielded and not self._run.over:
            self._run.ask(state, self._finish)

    def _finish(self, answer: Answer) -> None:
        self._answer = answer
        self._over.close()

    async def _live(self, answer: Answer) -> None:
        steps = self._fn(**self._kwargs)
        try:
            self._yielded = inspect.isasyncgen(steps)
            value = await (anext(steps) if self._yielded else steps)
        except GeneratorExit:
            raise
        except BaseException as failure:
            answer.give(None, failure)
            return
        answer.give(value, None)
        del value
        if not self._yielded:
            return
        try:
            await self._over.recv_ok()
        except GeneratorExit:
            abandon(steps)
            raise
        assert self._answer is not None
        try:
            await take_down(self._name, steps)
        except GeneratorExit:
            raise
        except BaseException as failure:
            self._answer.give(None, failure)
        else:
            self._answer.give(None, None)


# -- the one there is ----------------------------------------------------------------------------


def current() -> Carrier | None:
    """The one that is in use."""
    return _current


@contextmanager
def lent(state: State) -> Iterator[Carrier]:
    """The carrier, for as long as it is used here; it ends with the last use."""
    __tracebackhide__ = True
    global _current
    with _lock:
        run = _current
        if run is None:
            run = _current = Carrier(state.machines)
        run.users += 1
    try:
        if run.over and run.failure is not None and not run.reason:
            raise run.failure  # it could not begin
        if run.over:
            pytest.fail(run.why(), pytrace=False)
        if run.machines != state.machines:
            pytest.fail(
                f"the test is to run on {state.machines} machines, but the async fixtures that are"
                f" in use live in a run with {run.machines}",
                pytrace=False,
            )
        yield run
    except BaseException:
        _give_back(run)
        raise
    whole = _give_back(run) and run.failure is None and not run.reason
    if whole and run.end.left and not state.leaks:
        pytest.fail(leaked(run.end.left, run.end.dump, "the fixtures"), pytrace=False)


def _give_back(run: Carrier) -> bool:
    """Whether that was the last use."""
    global _current
    with _lock:
        run.users -= 1
        last = not run.users
        if last and _current is run:
            _current = None
    if last:
        run.close()
    return last


def bury() -> None:
    """After a test: the fixtures of a run that has ended early are finished, to be made anew."""
    run = _current
    if run is not None and run.over:
        while run.fixtures:
            fixturedef, request = run.fixtures.pop()
            fixturedef.finish(request)
