"""contextvars: a goroutine that has a context of its own is stepped inside it (machine.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .goroutine import Goroutine, close_steps
from .shared import machine_or_none

__all__ = ["InContext"]


class InContext:
    """Steps a goroutine inside its own context. Stands in for its iterator."""

    __slots__ = ("_g", "_it", "_next")

    def __init__(self, g: Goroutine[Any], it: Any) -> None:
        self._g = g
        self._it = it
        self._next = it.__next__

    def __iter__(self) -> InContext:
        return self

    def __next__(self) -> Any:
        return self._enter(self._next)

    def throw(self, failure: BaseException) -> Any:
        return self._enter(self._it.throw, failure)

    def close(self) -> None:
        self._enter(close_steps, self._it)

    def _enter(self, call: Callable[..., Any], *args: Any) -> Any:
        context = self._g.context
        assert context is not None
        m = machine_or_none()
        if m is None:
            return context.run(call, *args)
        before, m.context = m.context, context
        try:
            return context.run(call, *args)
        finally:
            m.context = before
