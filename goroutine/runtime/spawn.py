"""go: how goroutines come to be."""

from __future__ import annotations

import dis
import types
from _thread import get_ident
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .context import InContext
from .goroutine import Goroutine, close_steps
from .idle import wakep
from .processor import BATCH
from .shared import idle, shared_dict

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["foreign", "go", "isgeneratorcoroutine", "make_spawner", "spawners", "steps_for"]

T = TypeVar("T")


@types.coroutine
def _with_result(g: Goroutine[Any], steps: Any) -> Generator[Any, Any]:
    """Steps of a coroutine whose result is wanted. (A for loop drops it: machine.py.)"""
    g.value = yield from steps


@types.coroutine
def _call(g: Goroutine[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> Generator[Any, Any]:
    """One step that calls a plain function."""
    g.value = fn(*args, **kwargs)
    if _NEVER:
        yield  # makes it a generator


# Thread ident -> that machine's part of go().
spawners: dict[int, Callable[[Goroutine[Any], Any], None]] = shared_dict("goroutine spawners")

_NEVER = False

# As in inspect, whose import is a good part of that of all of this package.
CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR = 0x80, 0x100, 0x200

_RESULT, _NO_RESULT, _PLAIN = 1, 2, 3

# How a function is started, by the id of its code object: looked up at every `go`. The code
# object is kept beside it, so that its id stays its own.
_kinds: dict[int, int] = shared_dict("goroutine kinds of functions")
_codes: dict[int, Any] = {}


def _classify(code: Any) -> int:
    """Whether code is a coroutine function's, and whether it can return anything but None."""
    if code.co_flags & CO_ASYNC_GENERATOR:
        raise TypeError("go() of an async generator function: it would only make a generator")
    if not code.co_flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE):
        kind = _PLAIN
    elif code.co_flags & CO_ITERABLE_COROUTINE:
        kind = _RESULT
    else:
        kind = _NO_RESULT if _returns_none(code) else _RESULT
    _codes[id(code)] = code
    _kinds[id(code)] = kind
    return kind


def _returns_none(code: Any) -> bool:
    """True only if every return of the code is provably ``return None``."""
    previous = None
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name == "RETURN_CONST":
            if instruction.argval is not None:
                return False
        elif name == "RETURN_VALUE":
            if previous is None or previous.opname != "LOAD_CONST" or previous.argval is not None:
                return False
            if instruction.is_jump_target:  # `return x or None` comes here with x, too
                return False
        previous = instruction
    return True


# Overloads: from a union of the three, mypy infers no result for an ``async def``.
@overload
def go[**P, T](
    fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> Goroutine[T]: ...
@overload
def go[**P, T](fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Goroutine[T]: ...
@overload
def go[T](fn: Coroutine[Any, Any, T], /) -> Goroutine[T]: ...
def go(fn: Any, /, *args: Any, **kwargs: Any) -> Goroutine[Any]:
    """Start a goroutine; returns at once.

    ``fn`` is an ``async def`` function, a plain function (called once, on a machine, in
    parallel with the others) or a coroutine object. Works in any goroutine and, while the
    runtime runs, in any other thread; elsewhere ``RuntimeError``. The new goroutine gets a
    copy of the caller's contextvars. It is kept alive by the scheduler until it ends.

    An exception that escapes the goroutine ends the program: `GoroutinePanic`.
    ``TypeError`` for what can't be called, with None as "go of nil func value".
    Go: the ``go`` statement.

    >>> async def double(n, results):
    ...     await results.send(2 * n)
    >>> async def main():
    ...     results = goroutine.chan()
    ...     for n in range(3):
    ...         goroutine.go(double, n, results)
    ...     return sorted([await results.recv() for _ in range(3)])
    >>> goroutine.start(main)
    [0, 2, 4]
    """
    g: Goroutine[Any] = Goroutine()
    g.joiners = g.scope = None
    # steps_for(), in place: the call would cost a tenth of a spawn.
    try:
        code = fn.__code__
        kind = _kinds.get(id(code)) or _classify(code)
    except AttributeError:
        g.it = _uncommon(g, fn, args, kwargs)
    else:
        if kind == 3:  # _PLAIN
            g.it = _call(g, fn, args, kwargs)
        else:
            steps: Any = fn(*args, **kwargs) if kwargs else fn(*args)
            g.it = steps.__await__() if kind == 2 else _with_result(g, steps)
    spawn = spawners.get(get_ident())
    if spawn is None:
        return foreign(g, fn)
    spawn(g, fn)
    return g


def steps_for(g: Goroutine[Any], fn: Any, args: Any, kwargs: Any) -> Any:
    """The steps of fn(*args, **kwargs), whose result they leave in g."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return _uncommon(g, fn, args, kwargs)
    if (_kinds.get(id(code)) or _classify(code)) == _PLAIN:
        return _call(g, fn, args, kwargs)
    return _with_result(g, fn(*args, **kwargs))


def make_spawner(
    m: Machine, register: Callable[[Goroutine[Any]], None] | None = None
) -> Callable[[Goroutine[Any], Any], None]:
    """The part of go() that belongs to machine m, with all it touches in its own cells.
    ``register`` is called in place of the addition to m's goroutines, before anybody can run it."""
    p = m.p
    owner = p.goroutines
    own, next_id = register or owner.add, p.ids.__next__
    batch, runnext, spill = p.batch, p.runnext, p.spill
    put_next, take_next, append = runnext.append, runnext.popleft, batch.append
    most = 2 * BATCH

    def spawn(g: Goroutine[Any], fn: Any) -> None:
        """Name, register and queue a goroutine that has its steps."""
        g.fn = fn
        g.id = next_id()
        parent = m.g
        if parent is None:
            g._parent = None
        else:
            try:
                g._parent = parent.origin
            except AttributeError:
                g._parent = parent.origin = (parent.id, parent.fn)
        if m.context:
            g.context = m.context.copy()
            g.it = InContext(g, g.it)
        g._owner = owner
        own(g)
        # p.ready(g), in place: a call less for each goroutine.
        if runnext:
            try:
                append(take_next())
            except IndexError:
                pass  # a thief took it
            if len(batch) > most:
                spill()
        put_next(g)
        # Published, then the look at idle: Go's wakep in newproc.
        if idle:
            wakep()

    return spawn


def foreign[T](g: Goroutine[T], fn: Any) -> Goroutine[T]:
    """The rest of go() on a thread that is no machine."""
    from .scheduler import inject, running

    runtime = running()
    if runtime is None or runtime.outcome is not None:
        close_steps(g.it)
        raise RuntimeError("no goroutine runtime is running: call go() below goroutine.start(main)")
    g.fn = fn
    with runtime.foreign_lock:
        g.id = next(runtime.foreign_ids)
    g._parent = None
    context = copy_context()
    if context:
        g.context = context
        g.it = InContext(g, g.it)
    g._owner = runtime.foreign
    g._owner.add(g)
    inject([g])
    return g


def isgeneratorcoroutine(steps: Any) -> bool:
    """Whether this is what our own operations give when called: ``ch.send(v)``."""
    return isinstance(steps, types.GeneratorType) and bool(
        steps.gi_code.co_flags & CO_ITERABLE_COROUTINE
    )


def _uncommon(g: Goroutine[Any], fn: Any, args: Any, kwargs: Any) -> Any:
    """Steps for what isn't a Python function: coroutines, partials, builtins, callables."""
    if isinstance(fn, Coroutine) or isgeneratorcoroutine(fn):
        if args or kwargs:
            raise TypeError("go() of a coroutine object takes no further arguments")
        return _with_result(g, fn)
    if fn is None:
        raise TypeError("go of nil func value")
    if not callable(fn):
        raise TypeError(f"go() takes a function or a coroutine, not {type(fn).__name__}")
    wrapped = fn
    while isinstance(wrapped, partial):
        wrapped = wrapped.func
    call = wrapped if hasattr(wrapped, "__code__") else getattr(type(wrapped), "__call__", None)  # noqa: B004
    code = getattr(call, "__code__", None)
    if code is not None and _classify(code) != _PLAIN:
        return _with_result(g, fn(*args, **kwargs))
    return _call(g, fn, args, kwargs)
