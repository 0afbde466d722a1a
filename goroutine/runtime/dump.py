"""What all goroutines are doing, as text: Go's dump of stacks.

Only the frames of goroutines that are parked are read: to read the frame of one that runs
on another thread is a use after free in free-threaded CPython. So a dump is made while no
machine steps anything.

Why a goroutine waits is found when somebody asks, from the code in which its innermost
generator stands (`waits_for`): parking costs nothing for it.
"""

from __future__ import annotations

import gc
import linecache
import os
import types
from collections.abc import Callable, Iterable
from typing import Any

from .goroutine import Goroutine

__all__ = ["dump", "stack", "waits_for"]

# Code object -> what a goroutine that waits in it waits for. Go: waitReason.
_reasons: dict[Any, str] = {}

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def waits_for(reason: str, *functions: Callable[..., Any]) -> None:
    """Declare what a goroutine waits for that is parked in one of the functions."""
    for fn in functions:
        _reasons[fn.__code__] = reason


def chain(steps: Any) -> list[tuple[Any, int]]:
    """(code, line) of the suspended coroutines below the steps of a goroutine, outermost first."""
    places: list[tuple[Any, int]] = []
    it: Any = steps
    frame: Any
    while it is not None and len(places) < 100:
        it = getattr(it, "_it", it)  # InContext and its like
        if type(it).__name__ == "coroutine_wrapper":  # what coroutine.__await__() gives
            inside = gc.get_referents(it)
            it = inside[0] if inside else None
        if isinstance(it, types.CoroutineType):
            frame, inner = it.cr_frame, it.cr_await
        elif isinstance(it, types.GeneratorType):
            frame, inner = it.gi_frame, it.gi_yieldfrom
        elif isinstance(it, types.AsyncGeneratorType):
            frame, inner = it.ag_frame, it.ag_await
        elif type(it).__name__.startswith("async_generator_"):  # asend() and athrow()
            it = next(
                (a for a in gc.get_referents(it) if isinstance(a, types.AsyncGeneratorType)), None
            )
            continue
        else:
            break
        if frame is None:
            break
        places.append((frame.f_code, frame.f_lineno))
        it = inner
    return places


def stack(g: Goroutine[Any], state: str = "") -> str:
    """Header, frames and creator of a goroutine that does not run now."""
    places = chain(g.it)
    reason = state or "runnable"
    for code, _ in reversed(places):
        if code in _reasons:
            reason = state or _reasons[code]
            break
    lines = [f"goroutine {g.id} [{reason}]:"]
    own = [place for place in places if not place[0].co_filename.startswith(_PACKAGE)]
    for code, line in own or places:
        lines.append(f'  File "{code.co_filename}", line {line}, in {code.co_qualname}')
        text = linecache.getline(code.co_filename, line).strip()
        if text:
            lines.append(f"    {text}")
    if g.creator:
        lines.append(g.creator)
    return "\n".join(lines)


def dump(goroutines: Iterable[Goroutine[Any]]) -> str:
    """The stacks of these goroutines, none of which runs, by number."""
    return "\n\n".join(stack(g) for g in sorted(goroutines, key=lambda g: g.id)) + "\n"
