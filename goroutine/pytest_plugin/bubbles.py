"""Tests that run in a bubble: virtual time, and all choices from the seed (goroutine.testing)."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import Deadlock, GoroutinePanic
from ..testing import Bubble
from ..testing.running import Runs
from .limit import Limit
from .runs import named, panicked

if TYPE_CHECKING:
    from .settings import State

__all__ = ["CurrentBubble", "in_bubble"]


class CurrentBubble:
    """What the fixture ``bubble`` gives to other fixtures: the bubble of the run that goes on.
    (The test itself gets that one.)"""

    __slots__ = ("_now",)

    def __init__(self) -> None:
        self._now: Bubble | None = None

    def __getattr__(self, name: str) -> Any:
        if self._now is None and hasattr(Bubble, name):
            raise RuntimeError("the bubble is there while the test runs, and not before")
        return getattr(self._now, name)


_SCHEDULE = re.compile(r"^re-run: .*schedule[= ]'?([^\s')]+).*$", re.MULTILINE)


def _without_command(state: State, notes: list[str]) -> list[str]:
    """How to see the failure again is not said as for a function without fixtures."""
    shown = []
    for note in notes:
        found = _SCHEDULE.search(note)
        if found is not None:
            state.shown = found[1]
        shown.append(_SCHEDULE.sub("", note).rstrip())
    return shown


def in_bubble(
    state: State,
    fn: Callable[..., Any],
    body: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    kwargs: dict[str, Any],
) -> Any:
    """Run it as often as was asked, each time in a bubble with the next seed."""
    __tracebackhide__ = True
    ours = [value for value in state.item.funcargs.values() if isinstance(value, CurrentBubble)]

    async def main(bubble: Bubble) -> Any:
        state.run = bubble.seed - state.seed + 1
        for placeholder in ours:
            placeholder._now = bubble
        given = dict(kwargs)
        if "bubble" in given:
            given["bubble"] = bubble
        if "goroutine_seed" in given:
            given["goroutine_seed"] = bubble.seed
        return await body(given)

    named(main, fn)
    failure: BaseException | None = None
    bubbles = Runs(
        main,
        seed=state.seed,
        strategy=state.strategy,
        runs=state.runs,
        schedule=state.schedule,
    )
    try:
        with Limit(state.timeout, lambda: bubbles.left):
            return bubbles.make()
    except BaseException as raised:
        failure = raised
    finally:
        for placeholder in ours:
            placeholder._now = None
    if not isinstance(failure, pytest.fail.Exception):  # (that has it, if it was ours)
        state.dump = bubbles.left
    notes = failure.__notes__ = _without_command(state, getattr(failure, "__notes__", []))
    cause = failure.__cause__
    try:
        if not isinstance(failure, (Deadlock, GoroutinePanic)):
            raise failure
        if isinstance(failure, GoroutinePanic) and cause is not None:
            for note in (panicked(failure), *notes):
                cause.add_note(note)
            raise cause
        pytest.fail("\n\n".join([str(failure), *notes]), pytrace=False)
    finally:
        del failure, cause
