"""How contexts come to be, and what is done when one ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf, isnan
from typing import Any

from ..runtime.clock import to_monotonic
from ..runtime.spawn import go
from ..runtime.timers import from_now
from .cancel import Call, CancelContext, check_cause, follow
from .tree import Context, Root, Value, WithoutCancel, check_parent, node_of, scope_of

__all__ = [
    "after_func",
    "background",
    "todo",
    "with_cancel",
    "with_deadline",
    "with_timeout",
    "with_value",
    "without_cancel",
]

_background = Root("background")
_todo = Root("todo")


def background() -> Context:
    """The root: never cancelled, no values, no deadline. Go: context.Background.

    >>> context.background()
    <background>
    """
    return _background


def todo() -> Context:
    """Another root, for where it isn't clear yet what context to use. Go: context.TODO."""
    return _todo


def with_cancel(parent: Context) -> CancelContext:
    """A context that ends by its ``cancel()`` or with its parent. Go: WithCancelCause.

    >>> ctx = context.with_cancel(context.background())
    >>> ctx.cancel(ValueError("enough"))
    >>> ctx.err(), context.cause(ctx)
    (Canceled('context canceled'), ValueError('enough'))
    """
    check_parent(parent)
    ctx = CancelContext(parent)
    follow(ctx)
    return ctx


def with_timeout(
    parent: Context, seconds: float, *, cause: BaseException | None = None
) -> CancelContext:
    """A context that ends ``seconds`` from now, if not before. Go: WithTimeoutCause.

    Zero or less is now, infinity is never; ``ValueError`` for NaN.

    >>> async def main():
    ...     with context.with_timeout(context.background(), 0.01) as ctx:
    ...         try:
    ...             await goroutine.sleep(60, ctx=ctx)
    ...         except TimeoutError:
    ...             return "timed out"
    >>> goroutine.start(main)
    'timed out'
    """
    return _with_deadline(parent, from_now(seconds), cause)


def with_deadline(
    parent: Context, when: float, *, cause: BaseException | None = None
) -> CancelContext:
    """A context that ends at ``when`` (on `goroutine.time.now`), if not before.

    One whose deadline has passed is cancelled already. ``cause`` is what
    `goroutine.context.cause` gives when that is why it ended; ``ValueError`` for NaN.
    Go: WithDeadlineCause.

    >>> ctx = context.with_deadline(context.background(), goroutine.time.now() - 1)
    >>> ctx.err()
    DeadlineExceeded('context deadline exceeded')
    """
    if isnan(when):
        raise ValueError("a deadline must not be NaN")
    return _with_deadline(parent, to_monotonic(when), cause)


def _with_deadline(parent: Context, when: float, why: BaseException | None) -> CancelContext:
    check_parent(parent)
    check_cause(why)
    above = parent.deadline()
    ctx = CancelContext(parent)
    if when < inf and (above is None or when < to_monotonic(above)):
        ctx._when, ctx._why = when, why
        ctx._timed = ctx
    follow(ctx)
    if ctx._timed is ctx:
        ctx._arm()
    return ctx


def with_value(parent: Context, key: Any, value: Any) -> Context:
    """A context in which ``value(key)`` is ``value``; ends with its parent. Go: WithValue.

    ``TypeError`` for a key that is None or can't be hashed.

    >>> ctx = context.with_value(context.background(), "user", "gopher")
    >>> ctx.value("user")
    'gopher'
    """
    check_parent(parent)
    if key is None:
        raise TypeError("nil key")
    try:
        hash(key)
    except TypeError:
        raise TypeError("key is not comparable") from None
    return Value(parent, key, value)


def without_cancel(parent: Context) -> Context:
    """A context with the values of its parent, that doesn't end with it. Go: WithoutCancel.

    >>> parent = context.with_cancel(context.background())
    >>> ctx = context.without_cancel(parent)
    >>> parent.cancel()
    >>> ctx.err()
    """
    check_parent(parent)
    return WithoutCancel(parent)


def after_func(ctx: Context, fn: Callable[[], Any]) -> Callable[[], bool]:
    """Call ``fn()`` in a goroutine of its own once ctx is cancelled. Go: AfterFunc.

    Returns ``stop``: it gives up the call, and says whether that came in time. ``fn`` may
    be an ``async def``. If the cancellation comes while nothing runs, nothing is called.
    An exception that escapes fn is a panic, as in every goroutine.

    >>> async def main():
    ...     ch = goroutine.chan()
    ...     ctx = context.with_cancel(context.background())
    ...     stop = context.after_func(ctx, lambda: ch.close())
    ...     ctx.cancel()
    ...     return await ch.recv_ok(), stop()
    >>> goroutine.start(main)
    ((None, False), False)
    """
    check_parent(ctx)
    if not callable(fn):
        raise TypeError(f"after_func() takes a function, not {type(fn).__name__}")

    def begin() -> None:
        try:
            go(_begin, fn)
        except RuntimeError:
            pass  # there is no run, or it is over

    hook = Call(begin)
    scope = scope_of(node_of(ctx))
    if scope is not None:
        scope.watch(hook)

    def stop() -> bool:
        in_time = hook.claim()
        if in_time and scope is not None:
            scope.unwatch(hook)
        return in_time

    return stop


async def _begin(fn: Callable[[], Any]) -> None:
    """In a goroutine from the beginning, so that whatever is wrong with fn is its panic."""
    result = fn()
    if isinstance(result, Awaitable):
        await result
