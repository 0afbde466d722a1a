"""What all goroutines are doing, as text: Go's dump of stacks.

Only the frames of goroutines that are parked are read: to read the frame of one that runs
on another thread is a use after free in free-threaded CPython. So this is for a moment in which
no machine begins a step (halt.py), or when none runs any more.

Why a goroutine waits is found when somebody asks, from the code in which its innermost
generator stands (`waits_for`): parking costs nothing for it.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable, Iterable
from time import monotonic
from types import CodeType
from typing import Any

from .frames import chain, line_of
from .goroutine import Goroutine, describe
from .since import parked_since

__all__ = [
    "RUNNABLE",
    "RUNNING",
    "UNKNOWN",
    "Look",
    "dump",
    "look",
    "ours",
    "reason",
    "render",
    "stack",
    "waits_for",
]

# Code object -> what a goroutine that waits in it waits for. Go: waitReason.
_reasons: dict[Any, str] = {}

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")

RUNNING, RUNNABLE, UNKNOWN = "running", "runnable", "unknown"


def waits_for(reason: str, *functions: Callable[..., Any]) -> None:
    """Declare what a goroutine waits for that is parked in one of the functions."""
    for fn in functions:
        _reasons[fn.__code__] = reason


def reason(code: CodeType) -> str:
    """What is waited for in this code; "" if that was not declared."""
    return _reasons.get(code, "")


def ours(code: CodeType) -> bool:
    """Whether it is of this package."""
    return code.co_filename.startswith(_PACKAGE)


Frame = tuple[CodeType, int]
"""Code, and the index of the instruction."""


class Look:
    """What was seen of one goroutine."""

    __slots__ = ("creator", "fn", "frames", "id", "since", "state")

    def __init__(
        self, g: Goroutine[Any], state: str, frames: tuple[Frame, ...], since: float | None
    ) -> None:
        self.id = g.id
        self.fn = g.fn
        self.creator = g._parent
        self.state = state
        self.frames = frames
        self.since = since

    def header(self, now: float) -> str:
        return f"goroutine {self.id} [{self.state}{_minutes(self.since, now)}]:"


def look(g: Goroutine[Any], state: str = "", since: float | None = None) -> Look:
    """At a goroutine that nobody steps meanwhile.

    It is parked if no ``state`` is given, at the latest since ``since``.
    """
    it = g.it
    frames = chain(it)
    if not state:
        state = RUNNABLE
        for code, _ in reversed(frames):
            if code in _reasons:
                state = _reasons[code]
                marked = parked_since(it)
                if marked is not None and (since is None or marked < since):
                    since = marked
                break
    return Look(g, state, tuple(frames), None if state == RUNNABLE else since)


def _minutes(since: float | None, now: float) -> str:
    minutes = 0 if since is None else int(now - since) // 60
    return f", {minutes} minutes" if minutes >= 1 else ""


def _created_by(parent: tuple[int, Any] | None, number: bool = True) -> list[str]:
    if parent is None:
        return []
    return [f"created by {describe(parent[1])}" + (f" in goroutine {parent[0]}" if number else "")]


_UNREADABLE = {
    RUNNING: "  goroutine running on another thread: its stack can't be read",
    UNKNOWN: "  it can't be looked at: its machine doesn't come to a halt, or the run is ending",
}


class _Text:
    """Frames as text. The same ones again and again: 100,000 goroutines may wait in one place."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[bool, str]] = {}
        self._files: set[str] = set()

    def frame(self, code: CodeType, index: int) -> tuple[bool, str]:
        """Whether it is one of ours, and file, line and function, with the line itself."""
        key = id(code), index  # (the frames in the Look keep it alive)
        known = self._known.get(key)
        if known is None:
            file, line = code.co_filename, line_of(code, index)
            if file not in self._files:
                self._files.add(file)
                linecache.checkcache(file)
            text = f'  File "{file}", line {line}, in {code.co_qualname}'
            source = linecache.getline(file, line).strip()
            if source:
                text += f"\n    {source}"
            known = self._known[key] = file.startswith(_PACKAGE), text
        return known

    def stack(self, seen: Look) -> list[str]:
        if not seen.frames and seen.state in _UNREADABLE:
            return [_UNREADABLE[seen.state], f"  it began as {describe(seen.fn)}"]
        frames = [self.frame(*frame) for frame in seen.frames]
        return [text for ours, text in frames if not ours] or [text for _, text in frames]


def render(looks: Iterable[Look], group: bool = False) -> str:
    """The stacks by number; those that are alike once, if asked."""
    now = monotonic()
    text = _Text()
    looks = sorted(looks, key=lambda seen: seen.id)
    if group:
        return _grouped(looks, text, now)
    return "\n\n".join(
        "\n".join([seen.header(now), *text.stack(seen), *_created_by(seen.creator)])
        for seen in looks
    )


NAMED = 10
"""The most goroutines of a group that are named."""


def _grouped(looks: list[Look], text: _Text, now: float) -> str:
    groups: dict[Any, list[Look]] = {}
    for seen in looks:
        fn = None if seen.creator is None else id(seen.creator[1])
        frames = tuple((id(code), index) for code, index in seen.frames)
        began = 0 if frames else id(seen.fn)
        groups.setdefault((seen.state, frames, fn, began), []).append(seen)
    parts = []
    for alike in sorted(groups.values(), key=lambda alike: (-len(alike), alike[0].id)):
        first = alike[0]
        lines = [first.header(now)]
        if len(alike) > 1:
            longest = min((seen.since for seen in alike if seen.since is not None), default=None)
            names = ", ".join(str(seen.id) for seen in alike[:NAMED])
            if len(alike) > NAMED:
                names += ", ..."
            lines = [f"{len(alike)} goroutines [{first.state}{_minutes(longest, now)}]: {names}"]
        one = len({seen.creator and seen.creator[0] for seen in alike}) == 1
        parts.append("\n".join([*lines, *text.stack(first), *_created_by(first.creator, one)]))
    return "\n\n".join(parts)


def stack(g: Goroutine[Any], state: str = "") -> str:
    """Header, frames and creator of a goroutine that does not run now."""
    return render([look(g, state)])


def dump(goroutines: Iterable[Goroutine[Any]]) -> str:
    """The stacks of these goroutines, none of which runs, by number."""
    return render(look(g) for g in goroutines) + "\n"
