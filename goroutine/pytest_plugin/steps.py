"""The second half of a fixture: what comes after its yield."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["abandon", "take_down"]


async def take_down(name: str, steps: Any) -> None:
    """The rest of a fixture, after its yield."""
    try:
        if inspect.isasyncgen(steps):
            await anext(steps)
        else:
            next(steps)
    except (StopIteration, StopAsyncIteration):
        return
    raise RuntimeError(f"the fixture {name!r} yields more than once")


def abandon(steps: Any) -> None:
    """Have the ``finally`` blocks of a fixture run, as far as they don't wait."""
    if not inspect.isasyncgen(steps):
        steps.close()
        return
    closing = steps.aclose()
    try:
        closing.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    try:
        closing.throw(GeneratorExit)
    except BaseException:
        pass  # it goes on waiting, and nobody will wake it
