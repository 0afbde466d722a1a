"""Shrinking: of a schedule that fails, what is needed for it to fail.

Choices are put back to the default, many at once first, then fewer, as long as the program
fails in the same way: with an exception of the same kind. What is left are the few places at
which the order matters.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from ..errors import Deadlock, GoroutinePanic
from .choice import Decision
from .schedule import deviations

__all__ = ["Failed", "kind_of", "shrink"]

MOST = 500
"""Runs that are made to shrink one failure."""

SECONDS = 5.0
"""For how long at most, but for the run that is under way then."""


class Failed:
    """A run that failed."""

    def __init__(self, failure: BaseException, trace: list[Decision], left: str = "") -> None:
        self.failure = failure
        self.trace = trace
        self.left = left  # a dump of the goroutines that had not ended; "" if the failure has it


def kind_of(failure: BaseException) -> object:
    """What is the same for failures that have the same cause, by all we know."""
    if isinstance(failure, GoroutinePanic) and failure.__cause__ is not None:
        return GoroutinePanic, kind_of(failure.__cause__)
    if isinstance(failure, Deadlock):
        return Deadlock, str(failure)
    if isinstance(failure, BaseExceptionGroup):
        return type(failure), frozenset(map(kind_of, failure.exceptions))
    return type(failure)


def shrink(failed: Failed, run: Callable[[dict[int, int]], Failed | None]) -> Failed:
    """The simplest that was found of the runs that fail like this one.

    ``run(choices)`` makes one; None if it did not fail.
    """
    kind = kind_of(failed.failure)
    until = monotonic() + SECONDS
    left = MOST

    def try_(choices: dict[int, int]) -> bool:
        nonlocal failed, left
        left -= 1
        again = run(choices)
        if again is None or kind_of(again.failure) != kind:
            return False
        if _weight(again.trace) >= _weight(failed.trace):
            return False
        failed = again
        return True

    size = len(deviations(failed.trace))
    while size:
        at = 0
        while left and monotonic() < until:
            items = sorted(deviations(failed.trace).items())
            if at >= len(items):
                break
            if not try_(dict(items[:at] + items[at + size :])):
                at += size
        else:
            return failed
        size //= 2
    for at, index in sorted(deviations(failed.trace).items()):  # a lower option does it as well
        for lower in range(1, index):
            if not left or monotonic() >= until:
                return failed
            choices = deviations(failed.trace)
            if at in choices and try_(choices | {at: lower}):
                break
    return failed


def _weight(trace: list[Decision]) -> tuple[int, int, int]:
    choices = deviations(trace)
    return len(choices), sum(choices.values()), len(trace)
