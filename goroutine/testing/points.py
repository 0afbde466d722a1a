"""Points: the places at which a goroutine of a bubble may be interrupted, though it could go on.

An operation that need not wait does not suspend its goroutine, and so nobody else could run
before it. In a bubble that must be possible, for that is what happens on several machines. So
while bubbles run, the operations that may wait are replaced, on their classes, by ones that
suspend first: on the thread of a bubble they give its machine the choice, on every other they
do what they always do. When no bubble runs the classes are what they were: a program outside
of tests does not pay for it.

(select, which is no method, is in replaced.py.)
"""

from __future__ import annotations

import types
from _thread import get_ident
from collections.abc import Awaitable, Callable, Generator
from functools import wraps
from typing import Any

from ..channel import Chan
from ..runtime.goroutine import Goroutine
from ..runtime.shared import bubbles, find
from ..sync import Cond, Mutex, Once, RWMutex, Semaphore, WaitGroup
from ..sync.rwmutex import Reader
from ..time.channel import TimerChan
from .machine import point

__all__ = ["no_points", "points"]

_OPERATIONS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Chan, ("send", "recv")),
    (TimerChan, ("recv_ok",)),
    (Mutex, ("lock", "__aenter__")),
    (RWMutex, ("lock", "rlock")),  # (async with is by way of lock)
    (Reader, ("__aenter__",)),
    (Semaphore, ("acquire", "__aenter__")),
    (WaitGroup, ("wait",)),
    (Once, ("do",)),
    (Cond, ("wait",)),
    (Goroutine, ("__await__",)),
)


def _here() -> bool:
    """Whether the calling goroutine is one of a bubble, and can wait."""
    m = find(bubbles, get_ident())
    return m is not None and m.g is not None


def _generator(plain: Callable[..., Generator[Any, Any, Any]]) -> Any:
    @wraps(plain)
    def operation(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        if _here():
            yield point
        return (yield from plain(*args, **kwargs))

    return operation


def _coroutine(plain: Callable[..., Awaitable[Any]]) -> Any:
    @wraps(plain)
    async def operation(*args: Any, **kwargs: Any) -> Any:
        if _here():
            await _stop()  # type: ignore[misc]
        return await plain(*args, **kwargs)

    return operation


@types.coroutine
def _stop() -> Generator[Any]:
    yield point


def _with_point(plain: Any) -> Any:
    flags = plain.__code__.co_flags
    if flags & 0x80:  # CO_COROUTINE
        return _coroutine(plain)
    operation = _generator(plain)
    return types.coroutine(operation) if flags & 0x100 else operation  # CO_ITERABLE_COROUTINE


_PLAIN = [(cls, name, vars(cls)[name]) for cls, names in _OPERATIONS for name in names]
_POINTED = [(cls, name, _with_point(plain)) for cls, name, plain in _PLAIN]


def points() -> None:
    """From now on operations have points, in bubbles."""
    for cls, name, operation in _POINTED:
        setattr(cls, name, operation)


def no_points() -> None:
    """The last bubble is over."""
    for cls, name, operation in _PLAIN:
        setattr(cls, name, operation)
