"""Contexts: deadlines, cancellation and values that go along with a piece of work. Go: context.

A context is made from a parent. Cancelling one cancels those made from it, never its
parent. Operations that wait take one as ``ctx=``; a `Group` carries one for its members.

>>> from goroutine import context
>>> async def main():
...     with context.with_timeout(context.background(), 0.01) as ctx:
...         try:
...             await goroutine.chan().recv(ctx=ctx)
...         except TimeoutError as failure:
...             return failure
>>> goroutine.start(main)
DeadlineExceeded('context deadline exceeded')
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf, isnan
from time import monotonic
from types import TracebackType
from typing import Any, Self

from .channel import Chan
from .errors import Canceled, DeadlineExceeded
from .runtime.clock import now, to_monotonic
from .runtime.scheduler import running
from .runtime.shared import machine_or_none
from .runtime.spawn import go
from .runtime.timers import Timer
from .runtime.wait import Hook
from .select import recv, select

__all__ = [
    "CancelContext",
    "Context",
    "after_func",
    "background",
    "cause",
    "todo",
    "with_cancel",
    "with_deadline",
    "with_timeout",
    "with_value",
    "without_cancel",
]


class Context:
    """What a piece of work is done under. `background` is the root of all.

    Any number of goroutines and threads may use one at the same time. Go: context.Context.
    """

    __slots__ = ("_parent",)

    _parent: Any  # a Context, or what looks like one; None at the root

    def done(self) -> Chan[None] | None:
        """A channel that is closed when the context is cancelled, for `select`; None if that
        never happens. Go: Done."""
        return None if self._parent is None else self._parent.done()

    def err(self) -> Canceled | None:
        """Why it was cancelled: `Canceled`, or `DeadlineExceeded` (a ``TimeoutError``), with
        the cause, if one was given, as ``__cause__``. None while it is not. Go: Err."""
        return None if self._parent is None else self._parent.err()

    def deadline(self) -> float | None:
        """When it ends by itself, on `goroutine.time.now`; None if never. Go: Deadline."""
        return None if self._parent is None else self._parent.deadline()

    def value(self, key: Any) -> Any:
        """What the nearest `with_value` up the tree has for the key, else None. Go: Value."""
        ctx: Any = self
        while ctx is not None:
            if not isinstance(ctx, Context):
                return ctx.value(key)  # a type of the program's own
            if isinstance(ctx, _Value) and (ctx.key is key or ctx.key == key):
                return ctx.its
            ctx = ctx._parent
        return None

    def _scope(self) -> CancelContext | None:
        """The nearest context up the tree that can be cancelled: runtime/wait.py."""
        ctx: Any = self
        while isinstance(ctx, Context) and not isinstance(ctx, CancelContext):
            ctx = ctx._cancelable_parent()
        if ctx is None or isinstance(ctx, CancelContext):
            return ctx
        return with_cancel(ctx)  # of a type of the program's own

    def _cancelable_parent(self) -> Any:
        return self._parent

    def __repr__(self) -> str:
        return f"<{self._name()}>"

    def _name(self) -> str:
        return "background" if self._parent is None else f"{self._parent!r}".strip("<>")


class _Value(Context):
    __slots__ = ("its", "key")

    key: Any
    its: Any

    def _name(self) -> str:
        return f"{super()._name()}, {self.key!r}"


class _WithoutCancel(Context):
    __slots__ = ()

    def done(self) -> None:
        return None

    def err(self) -> None:
        return None

    def deadline(self) -> None:
        return None

    def _cancelable_parent(self) -> None:
        return None

    def _name(self) -> str:
        return f"{super()._name()} without cancel"


class CancelContext(Context):
    """A context that can be cancelled, by `cancel`, by its deadline, or with its parent.

    ``with`` and ``async with`` cancel it at their end, which frees what it holds.
    """

    # State, all under the lock: open, or ended with a kind and a cause. Ended is for ever.
    # ``_ended`` is stored last, and read without the lock. The hooks (runtime/wait.py) have
    # a protocol of their own: put in and look; end and take out.
    __slots__ = (
        "__weakref__",
        "_cause",
        "_children",
        "_done",
        "_ended",
        "_hooks",
        "_late",
        "_lock",
        "_run",
        "_timed",
        "_timer",
        "_when",
    )

    def __init__(self, parent: Any) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._ended = False
        self._late = False  # by its deadline
        self._cause: BaseException | None = None
        self._done: Chan[None] | None = None
        self._children: dict[CancelContext, None] = {}
        self._hooks: dict[Hook, None] = {}
        self._when: float | None = None  # the deadline of its own, on time.monotonic()
        self._timer: Timer | None = None
        self._run: Any = None  # the run whose timers have it
        # The nearest with a deadline of its own, which is the earliest of those above.
        self._timed: CancelContext | None = None

    def cancel(self, cause: BaseException | None = None) -> None:
        """Cancel it, and all made from it; only the first time counts.

        ``cause`` is what `goroutine.context.cause` gives then. Go: CancelCauseFunc.
        """
        if cause is not None and not isinstance(cause, BaseException):
            raise TypeError(f"a cause is an exception, not {type(cause).__name__}")
        self._end(False, cause)

    def done(self) -> Chan[None]:
        self._arm()
        with self._lock:
            if self._done is None:
                self._done = Chan()
                if self._ended:
                    self._done.close()
            return self._done

    def err(self) -> Canceled | None:
        self._arm()
        return self.failure()

    def failure(self) -> Canceled | None:
        """`err`, to be raised: a new exception each time."""
        if not self._ended:
            return None
        failure: Canceled
        if self._late:
            failure = DeadlineExceeded("context deadline exceeded")
        else:
            failure = Canceled("context canceled")
        failure.__cause__ = self._cause
        return failure

    def deadline(self) -> float | None:
        above: float | None = self._parent.deadline()
        if self._when is None:
            return above
        own = self._when + (now() - monotonic())
        return own if above is None else min(above, own)

    # -- ending ---------------------------------------------------------------------------

    def _end(self, late: bool, cause: BaseException | None) -> None:
        """End it and everything below it (by a list, not by recursion: trees are deep)."""
        ending = [self]
        for ctx in ending:
            with ctx._lock:
                if ctx._ended:
                    continue
                ctx._late = late
                ctx._cause = cause
                if ctx._done is not None:
                    ctx._done.close()
                ctx._ended = True
                children, ctx._children = ctx._children, {}
                timer, ctx._timer = ctx._timer, None
            if timer is not None:
                timer.stop()
            ending.extend(children)
            hooks = ctx._hooks
            while True:
                try:
                    hook, _ = hooks.popitem()
                except KeyError:
                    break
                hook.cancel(ctx)
        above = _node(self._parent)
        if above is not None:
            with above._lock:
                above._children.pop(self, None)

    def watch(self, hook: Hook) -> None:
        self._hooks[hook] = None
        if self._timed is not None:
            self._arm()
        if self._ended and self._hooks.pop(hook, self) is None:
            hook.cancel(self)

    def unwatch(self, hook: Hook) -> None:
        self._hooks.pop(hook, None)

    def _adopt(self, child: CancelContext) -> None:
        """Have the child end with this; at once if this has."""
        with self._lock:
            if not self._ended:
                self._children[child] = None
                return
        child._end(self._late, self._cause)

    # -- the deadline ---------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer of the deadline, if that is still to be done in this run; end the
        context if it is late (it may have been made while nothing ran that has timers)."""
        if self._timed is not self:
            if self._timed is not None and not self._ended:
                self._timed._arm()
            return
        if self._ended:
            return
        assert self._when is not None
        if self._when <= monotonic():
            self._end(True, self._cause)
            return
        run = running()
        if run is self._run or run is None:
            return
        with self._lock:
            if self._ended or run is self._run:  # type: ignore[redundant-expr]
                return
            self._run = run
            timer = self._timer = Timer(self._when, self._fire, None)
        m = machine_or_none()
        if m is None:
            m = run.machines[0]
            m.p.timers.add(timer)
            m.post(_look)
        else:
            m.p.timers.add(timer)

    def _fire(self, _: None) -> None:
        self._end(True, self._cause)

    # -- as a context manager -------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def _name(self) -> str:
        state = "" if not self._ended else " (late)" if self._late else " (canceled)"
        return f"{super()._name()}, {'cancel' if self._when is None else 'deadline'}{state}"


def _look() -> None:
    """Posted to a machine that may sleep: it looks at its timers again."""


def _node(ctx: Any) -> CancelContext | None:
    """The context whose end is that of ctx, if it is one of ours."""
    while isinstance(ctx, Context) and not isinstance(ctx, CancelContext):
        ctx = ctx._cancelable_parent()
    return ctx if isinstance(ctx, CancelContext) else None


# -- making them ------------------------------------------------------------------------------


_background = Context()
_background._parent = None


def background() -> Context:
    """The root: never cancelled, no values, no deadline. Go: context.Background."""
    return _background


def todo() -> Context:
    """`background`, where it isn't clear yet what context to use. Go: context.TODO."""
    return _background


def _parent(parent: Any) -> Any:
    if parent is None:
        raise TypeError("cannot create context from nil parent")
    if not isinstance(parent, Context) and not hasattr(parent, "done"):
        raise TypeError(f"a context's parent is a Context, not {type(parent).__name__}")
    return parent


def _follow(ctx: CancelContext) -> None:
    """Have ctx end with its parent."""
    above = ctx._parent
    while isinstance(above, Context) and not isinstance(above, CancelContext):
        above = above._cancelable_parent()
    if above is None:
        return
    if isinstance(above, CancelContext):
        above._arm()
        if ctx._timed is None:
            ctx._timed = above._timed
        above._adopt(ctx)
        return
    # A type of the program's own: told by its after_func, else a goroutine watches it.
    done = above.done()
    if done is None:
        return

    def end() -> None:
        failure = above.err()
        ctx._end(isinstance(failure, DeadlineExceeded), cause(above))

    if above.err() is not None:
        end()
    elif hasattr(above, "after_func"):
        stop = above.after_func(end)
        ctx.watch(_Call(stop))
    else:
        go(_watch_foreign, done, ctx, end)


async def _watch_foreign(done: Chan[None], ctx: CancelContext, end: Callable[[], None]) -> None:
    chosen = await select(recv(done), recv(ctx.done()))
    if chosen.index == 0:
        end()


def with_cancel(parent: Context) -> CancelContext:
    """A context that ends by its ``cancel()`` or with its parent. Go: WithCancelCause.

    >>> ctx = context.with_cancel(context.background())
    >>> ctx.cancel(ValueError("enough"))
    >>> ctx.err(), context.cause(ctx)
    (Canceled('context canceled'), ValueError('enough'))
    """
    ctx = CancelContext(_parent(parent))
    _follow(ctx)
    return ctx


def with_timeout(
    parent: Context, seconds: float, *, cause: BaseException | None = None
) -> CancelContext:
    """A context that ends ``seconds`` from now, if not before. Go: WithTimeoutCause."""
    if isnan(seconds):
        raise ValueError("a timeout must not be NaN")
    return _with_deadline(parent, monotonic() + seconds, cause)


def with_deadline(
    parent: Context, when: float, *, cause: BaseException | None = None
) -> CancelContext:
    """A context that ends at ``when`` (on `goroutine.time.now`), if not before.

    One whose deadline has passed is cancelled already. Go: WithDeadlineCause.
    """
    if isnan(when):
        raise ValueError("a deadline must not be NaN")
    return _with_deadline(parent, to_monotonic(when), cause)


def _with_deadline(parent: Context, when: float, why: BaseException | None) -> CancelContext:
    if why is not None and not isinstance(why, BaseException):
        raise TypeError(f"a cause is an exception, not {type(why).__name__}")
    above = _parent(parent).deadline()
    ctx = CancelContext(parent)
    if when < inf and (above is None or when < to_monotonic(above)):
        ctx._when = when
        ctx._timed = ctx
    _follow(ctx)
    if ctx._when is not None:
        if when <= monotonic():
            ctx._end(True, why)
        elif not ctx._ended:
            ctx._cause = why  # until it ends otherwise
            ctx._arm()
    return ctx


def with_value(parent: Context, key: Any, value: Any) -> Context:
    """A context in which ``value(key)`` is ``value``; ends with its parent. Go: WithValue.

    >>> ctx = context.with_value(context.background(), "user", "gopher")
    >>> ctx.value("user")
    'gopher'
    """
    _parent(parent)
    if key is None:
        raise TypeError("nil key")
    try:
        hash(key)
    except TypeError:
        raise TypeError("key is not comparable") from None
    ctx = _Value()
    ctx._parent = parent
    ctx.key = key
    ctx.its = value
    return ctx


def without_cancel(parent: Context) -> Context:
    """A context with the values of its parent, that doesn't end with it. Go: WithoutCancel."""
    ctx = _WithoutCancel()
    ctx._parent = _parent(parent)
    return ctx


def cause(ctx: Context) -> BaseException | None:
    """Why ctx was cancelled: the cause given then, else its ``err()``. Go: Cause."""
    node = _node(ctx)
    if node is None:
        return ctx.err()
    if node.err() is None:
        return None
    return node._cause if node._cause is not None else node.err()


class _Call(Hook):
    """Calls a function when its scope ends, at most once."""

    __slots__ = ("call", "token")

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.call = call
        self.token = [True]

    def cancel(self, scope: Any) -> None:
        try:
            self.token.pop()
        except IndexError:
            return
        self.call()


def after_func(ctx: Context, fn: Callable[[], Any]) -> Callable[[], bool]:
    """Call ``fn()`` in a goroutine of its own once ctx is cancelled. Go: AfterFunc.

    Returns ``stop``: it gives up the call, and says whether that came in time. ``fn`` may
    be an ``async def``. Outside a run nothing is called.
    """
    _parent(ctx)
    if not callable(fn):
        raise TypeError(f"after_func() takes a function, not {type(fn).__name__}")

    def begin() -> None:
        if running() is not None:
            go(fn)

    hook = _Call(begin)
    node = ctx._scope()
    if node is not None:
        node.watch(hook)

    def stop() -> bool:
        try:
            hook.token.pop()
        except IndexError:
            return False
        if node is not None:
            node.unwatch(hook)
        return True

    return stop
