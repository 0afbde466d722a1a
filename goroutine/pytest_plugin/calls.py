"""A test's way into a run: which kind of run, and how often."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

from . import carrier
from .fixtures import with_fixtures
from .runs import in_run
from .settings import State, state_of

__all__ = ["run_test", "runner"]


def run_test(item: Any, fn: Callable[..., Any], kwargs: dict[str, Any], *args: Any) -> None:
    """Run the async test with these arguments of pytest's: once, or as often as was asked."""
    __tracebackhide__ = True
    state = state_of(item)
    alone = threading.current_thread() is threading.main_thread()

    def body(given: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        return with_fixtures(state.deferred, fn, args, given, alone)

    _repeat(state, fn, body, kwargs)


def runner(item: Any) -> Callable[..., Any]:
    """The fixture goroutine_run."""
    state = state_of(item)

    def goroutine_run(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True

        def body(given: dict[str, Any]) -> Coroutine[Any, Any, Any]:
            steps = fn(*args, **kwargs)
            if not isinstance(steps, Coroutine):
                raise TypeError(
                    f"goroutine_run() takes an async def function, not {type(steps).__name__}"
                )
            return steps

        return _repeat(state, fn, body, {})

    return goroutine_run


def _repeat(
    state: State,
    fn: Callable[..., Any],
    body: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    kwargs: dict[str, Any],
) -> Any:
    __tracebackhide__ = True
    if state.bubble:
        from .bubbles import in_bubble

        return in_bubble(state, fn, body, kwargs)  # its strategy says how often
    value = None
    for run in range(1, state.runs + 1):
        state.run = run
        given = kwargs
        if "goroutine_seed" in kwargs:
            given = kwargs | {"goroutine_seed": state.this_seed}
        value = _once(state, fn, body, given)
    return value


def _once(
    state: State,
    fn: Callable[..., Any],
    body: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    kwargs: dict[str, Any],
) -> Any:
    __tracebackhide__ = True
    alone = threading.current_thread() is threading.main_thread()
    if carrier.current() is None and alone:
        return in_run(
            lambda: body(kwargs),
            fn,
            machines=state.machines,
            timeout=state.timeout,
            leaks=state.leaks,
            ended=lambda text: setattr(state, "dump", text),
        )
    with carrier.lent(state) as run:
        return run.test(state, lambda: body(kwargs), fn)
