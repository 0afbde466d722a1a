"""Async fixtures, and in which run they live.

Of function scope, for an async test: pytest gets a placeholder. The fixture is made when the test
runs, by the goroutine that runs the test, just before it, and taken down just after it: so it
is in the test's run or bubble, in its contextvars, within its time limit, and anew in each of
several runs and for each example of hypothesis. What depends on such a fixture is made there, too.

Of a wider scope, or for a plain test: it is made when pytest says so, as a goroutine of its own in
a run that lives as long (carrier.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
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

    __slots__ = ("_fn", "_kwargs", "_name")

    def __init__(self, name: str, fn: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        self._name = name
        self._fn = fn
        self._kwargs = kwargs

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the async fixture {self._name!r} is made when the test runs: whoever uses it must"
            " have it as an argument, not by request.getfixturevalue()"
        )

    def __repr__(self) -> str:
        return f"<fixture {self._name!r}, made when the test runs>"


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
            return None
        return _refused(
            f"the async fixture {name!r} can't be made inside of a run: ask for it as an argument,"
            " not by request.getfixturevalue()"
        )
    if state.asynchronous and fixturedef.scope == "function":

        def placeholder(**kwargs: Any) -> Deferred:
            made = Deferred(name, fn, kwargs)
            state.deferred.append(made)
            return made

        if asynchronous or any(
            isinstance(request.getfixturevalue(argument), Deferred)
            for argument in fixturedef.argnames
        ):
            return placeholder
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


async def with_fixtures(
    deferred: list[Deferred], fn: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> Any:
    """``await fn(*args, **kwargs)``, with the fixtures around it."""
    if not deferred:
        return await fn(*args, **kwargs)
    values: dict[int, Any] = {}
    made: list[tuple[str, Any]] = []  # generators that have yielded

    def real(given: dict[str, Any]) -> dict[str, Any]:
        return {
            name: values[id(value)] if isinstance(value, Deferred) else value
            for name, value in given.items()
        }

    failure: BaseException | None = None
    value = None
    try:
        for fixture in deferred:
            values[id(fixture)] = await _make(fixture, real(fixture._kwargs), made)
        value = await fn(*args, **real(kwargs))
    except GeneratorExit:
        _abandon(made)
        raise
    except BaseException as raised:
        failure = raised
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
