"""Async fixtures, and in which run they live.

Of function scope, for an async test: pytest gets a placeholder. The fixture is made when the test
runs, by the goroutine that runs the test, just before it, and taken down just after it: so it
is in the test's run or bubble, in its contextvars, within its time limit, and anew in each of
several runs and for each example of hypothesis. What depends on such a fixture is made there, too.
A plain fixture that asks for one by request.getfixturevalue() says so too late, when it has begun:
it is left by an exception (`_Later`), and begun anew in the run. There pytest is told the values
as they are made, and so gives them to whoever asks by name.

Of a wider scope, or for a plain test: it is made when pytest says so, as a goroutine of its own in
a run that lives as long (carrier.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from ..runtime.shared import machine_or_none
from . import carrier
from .steps import abandon, take_down

if TYPE_CHECKING:
    from .settings import State

__all__ = ["Deferred", "stand_in", "with_fixtures"]


class Deferred:
    """Stands for a fixture's value until the test runs."""

    __slots__ = ("_definition", "_fn", "_kwargs", "_name")

    def __init__(
        self,
        definition: pytest.FixtureDef[Any],
        fn: Callable[..., Any],
        kwargs: dict[str, Any],
    ) -> None:
        self._definition = definition
        self._name = definition.argname
        self._fn = fn
        self._kwargs = kwargs

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the async fixture {self._name!r} is made when the test runs: whoever uses it must"
            " have it as an argument, not by request.getfixturevalue()"
        )

    def become(self, value: Any) -> None:
        """Have pytest give that to whoever asks by name."""
        known = self._definition.cached_result
        if known is not None:
            self._definition.cached_result = (value, known[1], None)

    def refuse(self) -> None:
        """Have whoever asks by name be left by `_Later`."""
        known = self._definition.cached_result
        if known is not None:
            self._definition.cached_result = _Refusing((self, known[1], None))

    def __repr__(self) -> str:
        return f"<fixture {self._name!r}, made when the test runs>"


class _Later(BaseException):
    """Raised in a fixture that asks by name for one that is to be made first, in the run."""

    def __init__(self, wanted: Deferred) -> None:
        super().__init__(f"the fixture {wanted._name!r} is made when the test runs")
        self.wanted = wanted


class _Refusing(tuple[Any, Any, None]):
    """What pytest remembers of such a fixture, in a moment in which nobody may have it."""

    __slots__ = ()

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        if at == 0:
            raise _Later(found)
        return found


def later(state: State, value: Any) -> None:
    """A fixture was set up, and this is its value: may whoever wants it go on?"""
    if isinstance(value, Deferred) and state.making:
        raise _Later(value)


def stand_in(
    state: State,
    fixturedef: pytest.FixtureDef[Any],
    request: pytest.FixtureRequest,
    asynchronous: bool,
) -> Callable[..., Any] | None:
    """What pytest is to call in the place of the fixture's function; None: nothing else."""
    name, fn = fixturedef.argname, _bound(fixturedef.func, request)
    if machine_or_none() is not None:
        if not asynchronous:
            made = _within.get()
            if made is not None and fixturedef.scope == "function":
                made.append((name, _end_of(fixturedef, request)))
            return None
        return _refused(
            f"the async fixture {name!r} can't be made inside of a run: ask for it as an argument,"
            " not by request.getfixturevalue()"
        )
    if state.asynchronous and fixturedef.scope == "function":

        def placeholder(**kwargs: Any) -> Deferred:
            made = Deferred(fixturedef, fn, kwargs)
            state.deferred.append(made)
            return made

        if asynchronous or any(
            isinstance(request.getfixturevalue(argument), Deferred)
            for argument in fixturedef.argnames
        ):
            return placeholder
        if "request" in fixturedef.argnames:
            return _until_later(state, fn, placeholder)
        return None
    if not asynchronous:
        return None
    if state.bubble:
        scope = f" of scope {fixturedef.scope}" if fixturedef.scope != "function" else ""
        return _refused(
            f"the async fixture {name!r}{scope} would be outside of the bubble that the test runs"
            " in: an async fixture of function scope, in an async test, is inside"
        )

    def live(**kwargs: Any) -> Generator[Any]:
        with carrier.lent(state) as run:
            run.keep(fixturedef, request)
            made = carrier.Kept(run, name, fn, kwargs)
            yield made.begin(state)
            made.end(state)

    return live


def _end_of(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None]:
    """The second half of a plain fixture that was asked for by name in the run, and ends with it:
    it may be built on others that do."""

    def steps() -> Generator[None]:
        try:
            yield
        finally:
            fixturedef.finish(request)

    begun = steps()
    next(begun)
    return begun


def _until_later(
    state: State, fn: Callable[..., Any], placeholder: Callable[..., Deferred]
) -> Callable[..., Any]:
    """fn, or the placeholder if it turns out to want something that is made when the test runs."""

    def plain(**kwargs: Any) -> Any:
        try:
            with _making(state):
                return fn(**kwargs)
        except _Later:
            return placeholder(**kwargs)

    def generator(**kwargs: Any) -> Generator[Any]:
        steps = fn(**kwargs)
        try:
            with _making(state):
                value = next(steps, _NOTHING)
        except _Later:
            value, steps = placeholder(**kwargs), ()
        if value is not _NOTHING:  # (else pytest says what is missing)
            yield value
            yield from steps

    return generator if inspect.isgeneratorfunction(fn) else plain


_NOTHING = object()


@contextmanager
def _making(state: State) -> Iterator[None]:
    """In here whoever asks for what is made when the test runs is left by `_Later`: when that is
    set up (`later`), or had been before."""
    state.making += 1
    for fixture in state.deferred:
        fixture.refuse()
    try:
        yield
    finally:
        state.making -= 1
        if not state.making:
            for fixture in state.deferred:
                fixture.become(fixture)


def _refused(why: str) -> Callable[..., Any]:
    """(pytest wants to hear it from the fixture.)"""

    def refused(**_: Any) -> None:
        pytest.fail(why, pytrace=False)

    return refused


def _bound(fn: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A fixture in a class belongs to the instance of this test."""
    instance = request.instance
    if instance is not None and inspect.ismethod(fn) and isinstance(instance, type(fn.__self__)):
        fn = fn.__func__.__get__(instance)
    return fn  # type: ignore[no-any-return]


# -- inside of the run ---------------------------------------------------------------------------


_within: ContextVar[list[tuple[str, Any]] | None] = ContextVar("goroutine_fixtures", default=None)
"""The second halves of the fixtures of this run."""


async def with_fixtures(
    deferred: list[Deferred],
    fn: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    alone: bool,
) -> Any:
    """``await fn(*args, **kwargs)``, with the fixtures around it.

    Not ``alone``: several threads run the test, and what pytest knows of it can't be that of one.
    """
    if not deferred:
        return await fn(*args, **kwargs)
    values: dict[int, Any] = {}
    made: list[tuple[str, Any]] = []  # generators that have yielded
    if alone:
        _within.set(made)

    def real(given: dict[str, Any]) -> dict[str, Any]:
        return {
            name: values[id(value)] if isinstance(value, Deferred) else value
            for name, value in given.items()
        }

    async def make(fixture: Deferred) -> None:
        while id(fixture) not in values:
            try:
                values[id(fixture)] = await _make(fixture, real(fixture._kwargs), made)
            except _Later as later:
                await make(later.wanted)
        if alone:
            fixture.become(values[id(fixture)])

    failure: BaseException | None = None
    value = None
    try:
        if alone:
            for fixture in deferred:
                fixture.refuse()
        for fixture in deferred:
            await make(fixture)
        value = await fn(*args, **real(kwargs))
    except GeneratorExit:
        _abandon(made)
        raise
    except BaseException as raised:
        failure = raised
    if alone:
        for fixture in deferred:
            fixture.become(fixture)
    try:
        while made:
            name, steps = made.pop()
            try:
                await take_down(name, steps)
            except GeneratorExit:
                _abandon(made)
                raise
            except BaseException as raised:
                if failure is None:
                    failure = raised
                else:
                    failure.add_note(f"and in taking down the fixture {name!r}: {raised!r}")
        if failure is not None:
            raise failure
        return value
    finally:
        del failure


async def _make(fixture: Deferred, kwargs: dict[str, Any], made: list[tuple[str, Any]]) -> Any:
    fn = fixture._fn
    steps = fn(**kwargs)
    if inspect.isasyncgen(steps):
        value = await anext(steps)
    elif inspect.isgenerator(steps):
        value = next(steps)
    else:
        return await steps if inspect.iscoroutine(steps) else steps
    made.append((fixture._name, steps))
    return value


def _abandon(made: list[tuple[str, Any]]) -> None:
    """The run is over, and nothing can wait any more."""
    while made:
        _, steps = made.pop()
        abandon(steps)
