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
from collections.abc import Awaitable, Callable
from math import inf, isnan
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

from .channel import Chan
from .errors import Canceled, ChanClosed, DeadlineExceeded
from .runtime.clock import from_monotonic, to_monotonic
from .runtime.scheduler import running
from .runtime.spawn import go
from .runtime.timers import Timer, from_now, set_timer
from .runtime.wait import Hook, Scope
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

    Any number of goroutines and threads may use one at the same time. A type of the
    program's own may be a parent, too, if it has these four methods; it should have this
    one as its base to be given as ``ctx=``. Go: context.Context.

    >>> ctx = context.with_value(context.background(), "user", "gopher")
    >>> ctx.value("user"), ctx.err(), ctx.deadline(), ctx.done()
    ('gopher', None, None, None)
    """

    __slots__ = ()

    def done(self) -> Chan[None] | None:
        """A channel that is closed when the context is cancelled, for `select`; None if that
        never happens. (A deadline needs a run: call this in the one that waits.) Go: Done."""
        return None

    def err(self) -> Canceled | None:
        """Why it was cancelled: `Canceled`, or `DeadlineExceeded` (a ``TimeoutError``), with
        the cause, if one was given, as ``__cause__``. None while it is not. Go: Err."""
        return None

    def deadline(self) -> float | None:
        """When it ends by itself, on `goroutine.time.now`; None if never. Go: Deadline."""
        return None

    def value(self, key: Any) -> Any:
        """What the nearest `with_value` up the tree has for the key, else None. Go: Value."""
        return None

    def _scope(self) -> Scope | None:
        """What `runtime.wait` has to do with: None if this can't be cancelled."""
        node = _node(self)
        return node if node is None or isinstance(node, CancelContext) else _Foreign(node)


class _Root(Context):
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


class _Child(Context):
    """What is made from a parent. Trees may be deep: nothing here goes up by recursion."""

    __slots__ = ("_parent",)

    _parent: Any  # a Context, or what looks like one

    def done(self) -> Chan[None] | None:
        node: Any = _node(self)
        return None if node is None else node.done()

    def err(self) -> Canceled | None:
        node: Any = _node(self)
        return None if node is None else node.err()

    def deadline(self) -> float | None:
        node: Any = _node(self)
        return None if node is None else node.deadline()

    def value(self, key: Any) -> Any:
        ctx: Any = self
        while isinstance(ctx, _Child):
            if isinstance(ctx, _Value) and (ctx.key is key or ctx.key == key):
                return ctx.its
            ctx = ctx._parent
        return ctx.value(key)

    def _kind(self) -> str:
        return ""

    def __repr__(self) -> str:
        kinds = []
        ctx: Any = self
        while isinstance(ctx, _Child):
            kinds.append(ctx._kind())
            ctx = ctx._parent
        return f"<{', '.join([f'{ctx!r}'.strip('<>'), *reversed(kinds)])}>"


class _Value(_Child):
    __slots__ = ("its", "key")

    def __init__(self, parent: Any, key: Any, its: Any) -> None:
        self._parent = parent
        self.key = key
        self.its = its

    def _kind(self) -> str:
        return repr(self.key)


class _WithoutCancel(_Child):
    __slots__ = ()

    def __init__(self, parent: Any) -> None:
        self._parent = parent

    def _kind(self) -> str:
        return "without cancel"


class CancelContext(_Child):
    """A context that can be cancelled, by `cancel`, by its deadline, or with its parent.

    ``with`` and ``async with`` cancel it at their end, which frees what it holds.

    >>> with context.with_cancel(context.background()) as ctx:
    ...     before = ctx.err()
    >>> before, ctx.err()
    (None, Canceled('context canceled'))
    """

    # ``ended`` is None, then for ever the lock of the ending (_end) that ended it: the same
    # for all that ended by it. It is stored under ``_lock``, after ``_late`` and ``_cause``,
    # and read without. The hooks (runtime/wait.py) have a protocol of their own: put in and
    # look; end and take out.
    __slots__ = (
        "__weakref__",
        "_cause",
        "_children",
        "_done",
        "_hooks",
        "_late",
        "_lock",
        "_run",
        "_timed",
        "_timer",
        "_when",
        "_why",
        "ended",
    )

    def __init__(self, parent: Any) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self.ended: Any = None
        self._late = False  # by its deadline
        self._cause: BaseException | None = None
        self._done: Chan[None] | None = None
        self._children: dict[CancelContext, None] = {}
        self._hooks: dict[Hook, None] = {}
        self._when: float | None = None  # the deadline of its own, on time.monotonic()
        self._why: BaseException | None = None  # its cause, if that comes true
        self._timer: Timer | None = None
        # What is unique to the run whose timers have it: a lock, since all else of an ended
        # run would be kept by this.
        self._run: Any = None
        # The nearest with a deadline of its own, which is the earliest of those above.
        self._timed: CancelContext | None = None

    def cancel(self, cause: BaseException | None = None) -> None:
        """Cancel it, and all made from it; only the first time counts.

        ``cause`` is what `goroutine.context.cause` gives then. From any goroutine or thread.
        Go: CancelCauseFunc.
        """
        _check_cause(cause)
        self._end(False, cause)

    def done(self) -> Chan[None]:
        """The channel that is closed when it is cancelled. Go: Done."""
        self._arm()
        with self._lock:
            if self._done is None:
                self._done = Chan()
            done = self._done
        if self.ended is not None:
            self._close_done()
        return done

    def _close_done(self) -> None:
        """(Without our lock: who holds the channel's may be about to ask for `failure`.)"""
        done = self._done
        if done is not None and not done.closed:
            try:
                done.close()
            except ChanClosed:
                pass  # by another thread, just now

    def err(self) -> Canceled | None:
        self._arm()
        failure = self.failure()
        if failure is not None:
            self._close_done()  # before anybody is told
        return failure

    def failure(self) -> Canceled | None:
        """`err`, to be raised: a new exception each time."""
        ended = self.ended
        if ended is None:
            return None
        with ended:
            pass  # see _end
        failure: Canceled
        if self._late:
            failure = DeadlineExceeded("context deadline exceeded")
        else:
            failure = Canceled("context canceled")
        if self._cause is not None:
            failure.__cause__ = self._cause
        return failure

    def deadline(self) -> float | None:
        if self._timed is not None:
            return from_monotonic(cast(float, self._timed._when))
        ctx: Any = self
        while isinstance(ctx, _Child):
            if isinstance(ctx, _WithoutCancel):
                return None
            ctx = ctx._parent
        above: float | None = ctx.deadline()  # a type of the program's own may have one
        return above

    # -- ending ---------------------------------------------------------------------------

    def _end(self, late: bool, cause: BaseException | None, ending: Any = None) -> None:
        """End it and everything below it (by a list, not by recursion: trees are deep).

        First all are marked, then those who wait are woken. Whoever sees a mark waits, by
        the lock that is the mark, until all are marked (`failure`): nobody sees a parent
        ended and its child not. (Reentrant, for a finalizer that runs amid this. Channels'
        locks are not taken inside: who holds one may be waiting for this one.)
        """
        if ending is None:
            ending = threading.RLock()
        tree = [self]
        ended = []
        with ending:
            for ctx in tree:
                with ctx._lock:
                    if ctx.ended is not None:
                        continue
                    ctx._late = late
                    ctx._cause = cause
                    ctx.ended = ending
                    children, ctx._children = ctx._children, {}
                tree.extend(children)
                ended.append(ctx)
        if not ended:
            with self.ended:
                return  # somebody else's; now all below is marked
        above = _node(self._parent)
        if isinstance(above, CancelContext):
            above._children.pop(self, None)
        for ctx in ended:
            timer, ctx._timer = ctx._timer, None
            if timer is not None:
                timer.stop()
            ctx._close_done()
            hooks = ctx._hooks
            while hooks:
                try:
                    hook, _ = hooks.popitem()
                except KeyError:
                    break
                hook.cancel(ctx)

    def watch(self, hook: Hook) -> None:
        """See `runtime.wait.Scope`."""
        self._hooks[hook] = None
        if self._timed is not None:
            self._arm()
        if self.ended is not None and self._hooks.pop(hook, self) is None:
            hook.cancel(self)

    def unwatch(self, hook: Hook) -> None:
        """See `runtime.wait.Scope`."""
        self._hooks.pop(hook, None)

    def _adopt(self, child: CancelContext) -> None:
        """Have the child end with this; at once if this has."""
        with self._lock:
            if self.ended is None:
                self._children[child] = None
                return
        child._end(self._late, self._cause, self.ended)

    # -- the deadline ---------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer of the deadline, if that is still to be done in this run; end the
        context if it is late (it may have been made while nothing ran that has timers)."""
        timed = self._timed
        if timed is None or self.ended is not None:
            return
        if timed is not self:
            timed._arm()
            return
        when = cast(float, self._when)
        if when <= monotonic():
            self._end(True, self._why)
            return
        runtime = running()
        if runtime is None or runtime.over is self._run:
            return
        with self._lock:  # also while it is put into a heap: _end takes it after that
            if runtime.over is not self._run and self.ended is None:
                timer = Timer(when, self._fire, None)
                if set_timer(timer):
                    self._run = runtime.over
                    self._timer = timer

    def _fire(self, _: None) -> None:
        self._end(True, self._why)

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

    def _kind(self) -> str:
        state = "" if self.ended is None else " (late)" if self._late else " (canceled)"
        return f"{'cancel' if self._when is None else 'deadline'}{state}"


def _node(ctx: Any) -> Any:
    """The nearest up the tree, ctx included, on which it depends whether ctx is cancelled: a
    CancelContext, or one of a type of the program's own. None if nothing ever cancels ctx."""
    while type(ctx) is _Value:
        ctx = ctx._parent
    return None if isinstance(ctx, (_Root, _WithoutCancel)) else ctx


class _Foreign:
    """The scope of a context of the program's own type: watched only while somebody waits."""

    ended = None  # unlike that of any group

    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx
        self.node: CancelContext | None = None

    def watch(self, hook: Hook) -> None:
        self.node = with_cancel(self.ctx)
        self.node.watch(hook)

    def unwatch(self, hook: Hook) -> None:
        if self.node is not None:
            self.node.unwatch(hook)
            self.node.cancel()

    def failure(self) -> BaseException | None:
        return None if self.ctx.err() is None else with_cancel(self.ctx).failure()


# -- making them ------------------------------------------------------------------------------


_background = _Root("background")
_todo = _Root("todo")


def background() -> Context:
    """The root: never cancelled, no values, no deadline. Go: context.Background.

    >>> context.background()
    <background>
    """
    return _background


def todo() -> Context:
    """Another root, for where it isn't clear yet what context to use. Go: context.TODO."""
    return _todo


def _check_parent(parent: Any) -> None:
    if parent is None:
        raise TypeError("cannot create context from nil parent")
    if not isinstance(parent, Context) and not hasattr(parent, "done"):
        raise TypeError(f"a context's parent is a Context, not {type(parent).__name__}")


def _check_cause(cause: Any) -> None:
    if cause is not None and not isinstance(cause, BaseException):
        raise TypeError(f"a cause is an exception, not {type(cause).__name__}")


def _follow(ctx: CancelContext) -> None:
    """Have ctx end with its parent."""
    above = _node(ctx._parent)
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
        ctx._end(isinstance(failure, TimeoutError), cause(above))

    if above.err() is not None:
        end()
    elif hasattr(above, "after_func"):
        ctx.watch(_Call(above.after_func(end)))
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
    _check_parent(parent)
    ctx = CancelContext(parent)
    _follow(ctx)
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
    _check_parent(parent)
    _check_cause(why)
    above = parent.deadline()
    ctx = CancelContext(parent)
    if when < inf and (above is None or when < to_monotonic(above)):
        ctx._when, ctx._why = when, why
        ctx._timed = ctx
    _follow(ctx)
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
    _check_parent(parent)
    if key is None:
        raise TypeError("nil key")
    try:
        hash(key)
    except TypeError:
        raise TypeError("key is not comparable") from None
    return _Value(parent, key, value)


def without_cancel(parent: Context) -> Context:
    """A context with the values of its parent, that doesn't end with it. Go: WithoutCancel.

    >>> parent = context.with_cancel(context.background())
    >>> ctx = context.without_cancel(parent)
    >>> parent.cancel()
    >>> ctx.err()
    """
    _check_parent(parent)
    return _WithoutCancel(parent)


def cause(ctx: Context) -> BaseException | None:
    """Why ctx was cancelled: the cause given then, else its ``err()``. Go: Cause.

    None while it is not.

    >>> ctx = context.with_cancel(context.background())
    >>> ctx.cancel()
    >>> context.cause(ctx)
    Canceled('context canceled')
    """
    node: Any = _node(ctx)
    if node is None:
        return None
    failure: BaseException | None = node.err()
    if failure is None or not isinstance(node, CancelContext):
        return failure
    return failure if node._cause is None else node._cause


class _Call(Hook):
    """Calls a function when its scope ends, at most once."""

    __slots__ = ("call", "token")

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.call = call
        self.token = [True]

    def claim(self) -> bool:
        try:
            return self.token.pop()
        except IndexError:
            return False

    def cancel(self, scope: Any) -> None:
        if self.claim():
            self.call()


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
    _check_parent(ctx)
    if not callable(fn):
        raise TypeError(f"after_func() takes a function, not {type(fn).__name__}")

    def begin() -> None:
        try:
            go(_begin, fn)
        except RuntimeError:
            pass  # there is no run, or it is over

    hook = _Call(begin)
    node = _node(ctx)
    scope = node if node is None or isinstance(node, CancelContext) else _Foreign(node)
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
