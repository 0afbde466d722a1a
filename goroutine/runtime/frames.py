"""Where a goroutine stands that is not being stepped: the chain of its suspended frames.

For whoever knows that nobody steps it meanwhile (halt.py), or that no machine runs any more.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import AsyncGenerator
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import Any

__all__ = ["DEPTH", "chain", "deeper", "inside", "line_of"]

DEPTH = 100
"""The most frames of one goroutine."""


async def _nothing() -> None:
    pass


async def _nothings() -> AsyncGenerator[None]:
    yield


def _look_inside() -> tuple[int, frozenset[type]]:
    """Where in the objects of these types is the coroutine or asynchronous generator they are
    for: what ``coroutine.__await__()`` gives, and the asend() and athrow() of the latter. The
    offset is 0 if it isn't where it is expected.

    Nothing in Python tells but gc.get_referents, which stops all threads, each time, and so
    waits for one that is inside a long call of some C library.
    """
    coroutine: Any = _nothing()
    generator = _nothings()
    pairs: list[tuple[Any, Any]] = [
        (coroutine.__await__(), coroutine),
        (generator.asend(None), generator),
        (generator.athrow(GeneratorExit), generator),
    ]
    try:
        at = ctypes.c_void_p.from_address
        offset = object.__basicsize__
        found = all(at(id(outer) + offset).value == id(inner) for outer, inner in pairs)
        return offset if found else 0, frozenset(type(outer) for outer, _ in pairs)
    finally:
        for outer, _ in pairs:
            outer.close()


_offset, _WRAPPERS = _look_inside()


def _inner(wrapper: Any) -> Any:
    """What a wrapper is for; it never changes."""
    if _offset:
        return ctypes.py_object.from_address(id(wrapper) + _offset).value
    inner = (CoroutineType, AsyncGeneratorType)
    return next((it for it in gc.get_referents(wrapper) if isinstance(it, inner)), None)


def deeper(it: Any) -> Any:
    """What is inside of steps that are neither a generator nor a coroutine; None if unknown."""
    return _inner(it) if type(it) in _WRAPPERS else getattr(it, "_it", None)


def inside(it: Any) -> Any:
    """The outermost generator or coroutine of a goroutine's steps, or whatever it is; no frame
    is touched."""
    while True:
        kind = type(it)
        if kind is GeneratorType or kind is CoroutineType:
            return it
        if kind in _WRAPPERS:
            return _inner(it)
        within = getattr(it, "_it", None)  # InContext and its like
        if within is None:
            return it
        it = within


def chain(steps: Any) -> list[tuple[CodeType, int]]:
    """(code, index of the instruction) of the suspended frames, outermost first.

    No reference to a frame object is kept: when its goroutine ends it must belong to nobody.
    """
    places: list[tuple[CodeType, int]] = []
    it = inside(steps)
    frame: Any
    while it is not None and len(places) < DEPTH:
        kind = type(it)
        if kind is CoroutineType:
            frame = it.cr_frame
            if frame is None:
                break
            places.append((it.cr_code, frame.f_lasti))
            it = it.cr_await
        elif kind is GeneratorType:
            frame = it.gi_frame
            if frame is None:
                break
            places.append((it.gi_code, frame.f_lasti))
            it = it.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            frame = it.ag_frame
            if frame is None:
                break
            places.append((it.ag_code, frame.f_lasti))
            it = it.ag_await
        else:
            it = deeper(it)
        frame = None
    return places


def line_of(code: CodeType, index: int) -> int:
    """The line of an instruction."""
    for start, end, line in code.co_lines():
        if start <= index < end and line is not None:
            return line
    return code.co_firstlineno
