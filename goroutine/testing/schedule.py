"""A schedule as a word: the choices of a run that were not the default, for a command line.

``12:1,40:2`` says that choice 12 took option 1 and choice 40 option 2; ``-`` that all took
their default.
"""

from __future__ import annotations

from collections.abc import Iterable

from .choice import Decision

__all__ = ["deviations", "parse", "text"]


def deviations(trace: Iterable[Decision]) -> dict[int, int]:
    """The choices that were not the default, by their number."""
    return {at: index for at, (_, _, index) in enumerate(trace) if index}


def text(choices: dict[int, int]) -> str:
    """See above."""
    return ",".join(f"{at}:{index}" for at, index in sorted(choices.items())) or "-"


def parse(schedule: str) -> dict[int, int]:
    """The choices of a schedule; ValueError for what is none."""
    choices = {}
    if schedule != "-":
        for part in schedule.split(","):
            at, _, index = part.partition(":")
            if not (at.isdecimal() and index.isdecimal()):
                raise ValueError(f"a schedule is like '12:1,40:2', or '-': not {schedule!r}")
            choices[int(at)] = int(index)
    return choices
