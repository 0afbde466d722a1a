"""Functions that do something else in a bubble.

Programs import functions by their names, so that to put another one in the place of one would
come too late. Instead it stays the same function, and has other code as long as bubbles run: code
that calls what stands here, which on every thread but that of a bubble calls what the function was.
"""

from __future__ import annotations

import types
from _thread import get_ident
from collections.abc import Generator
from typing import Any

from ..net import dial, listen
from ..runtime.shared import bubbles, find
from ..select import select
from .machine import point

__all__ = ["original_functions", "other_functions"]


def _plain(fn: Any) -> Any:
    """A function that goes on doing what fn does now."""
    plain = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__)
    plain.__kwdefaults__ = fn.__kwdefaults__
    return plain


_plain_select, _plain_dial, _plain_listen = _plain(select), _plain(dial), _plain(listen)


@types.coroutine
def _bubble_select(*cases: Any, default: bool = False) -> Generator[Any, Any, Any]:
    m = find(bubbles, get_ident())
    if m is not None and m.g is not None:
        yield point
    return (yield from _plain_select(*cases, default=default))


async def _bubble_dial(*args: Any, **kwargs: Any) -> Any:
    m = find(bubbles, get_ident())
    if m is not None:
        return await m.network.dial(*args, **kwargs)
    return await _plain_dial(*args, **kwargs)


async def _bubble_listen(*args: Any, **kwargs: Any) -> Any:
    m = find(bubbles, get_ident())
    if m is not None:
        return await m.network.listen(*args, **kwargs)
    return await _plain_listen(*args, **kwargs)


# The other code. It runs among the names of the function's own module.


@types.coroutine
def _select(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
    return (yield from _bubble_select(*args, **kwargs))


async def _dial(*args: Any, **kwargs: Any) -> Any:
    return await _bubble_dial(*args, **kwargs)


async def _listen(*args: Any, **kwargs: Any) -> Any:
    return await _bubble_listen(*args, **kwargs)


_FUNCTIONS: tuple[tuple[Any, Any, Any, Any], ...] = (
    (select, _plain_select, _select, _bubble_select),
    (dial, _plain_dial, _dial, _bubble_dial),
    (listen, _plain_listen, _listen, _bubble_listen),
)


def other_functions() -> None:
    """From now on they are different in bubbles."""
    for fn, _, other, called in _FUNCTIONS:
        fn.__globals__[called.__name__] = called
        fn.__code__ = other.__code__


def original_functions() -> None:
    """The last bubble is over."""
    for fn, plain, _, _ in _FUNCTIONS:  # (A thread may just be calling what stands here.)
        fn.__code__ = plain.__code__
