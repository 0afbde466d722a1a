"""What can be cancelled: by hand, by a deadline, with its parent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

from ..channel import Chan
from ..errors import Canceled, ChanClosed, DeadlineExceeded
from ..runtime.clock import from_monotonic
from ..runtime.scheduler import running
from ..runtime.spawn import go
from ..runtime.timers import Timer, set_timer
from ..runtime.wait import Hook
from ..select import recv, select
from .tree import Child, Context, WithoutCancel, node_of

__all__ = ["Call", "CancelContext", "Foreign", "cause", "check_cause", "follow"]


def check_cause(cause: Any) -> None:
    if cause is not None and not isinstance(cause, BaseException):
        raise TypeError(f"a cause is an exception, not {type(cause).__name__}")


class CancelContext(Child):
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
        check_cause(cause)
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
        while isinstance(ctx, Child):
            if isinstance(ctx, WithoutCancel):
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
        above = node_of(self._parent)
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


def cause(ctx: Context) -> BaseException | None:
    """Why ctx was cancelled: the cause given then, else its ``err()``. Go: Cause.

    None while it is not.

    >>> ctx = context.with_cancel(context.background())
    >>> ctx.cancel()
    >>> context.cause(ctx)
    Canceled('context canceled')
    """
    node: Any = node_of(ctx)
    if node is None:
        return None
    failure: BaseException | None = node.err()
    if failure is None or not isinstance(node, CancelContext):
        return failure
    return failure if node._cause is None else node._cause


# -- ending with the parent -------------------------------------------------------------------


def follow(ctx: CancelContext) -> None:
    """Have ctx end with its parent."""
    above = node_of(ctx._parent)
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
        ctx.watch(Call(above.after_func(end)))
    else:
        go(_watch_foreign, done, ctx, end)


async def _watch_foreign(done: Chan[None], ctx: CancelContext, end: Callable[[], None]) -> None:
    chosen = await select(recv(done), recv(ctx.done()))
    if chosen.index == 0:
        end()


class Call(Hook):
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


class Foreign:
    """The scope of a context of the program's own type: watched only while somebody waits."""

    ended = None  # unlike that of any group

    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx
        self.node: CancelContext | None = None

    def watch(self, hook: Hook) -> None:
        self.node = under(self.ctx)
        self.node.watch(hook)

    def unwatch(self, hook: Hook) -> None:
        if self.node is not None:
            self.node.unwatch(hook)
            self.node.cancel()

    def failure(self) -> BaseException | None:
        return None if self.ctx.err() is None else under(self.ctx).failure()


def under(ctx: Any) -> CancelContext:
    """One that ends with ctx."""
    node = CancelContext(ctx)
    follow(node)
    return node
