"""Group: goroutines that end together, and whose failures are handled. Go: errgroup.

A member's failure cancels the group's context and with it whatever the members and the
body of the ``async with`` wait for, once each (runtime/wait.py). Leaving the body waits for
all members, come what may, so nothing that was started in a group outlives it.
"""

from __future__ import annotations

import threading
import types
from _thread import get_ident
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from .context import CancelContext, Context, background, with_cancel
from .errors import Canceled, DeadlineExceeded
from .runtime.dump import waits_for
from .runtime.exit import GoExit
from .runtime.goroutine import Goroutine, close_steps
from .runtime.park import park, ready
from .runtime.shared import current, find, scoped
from .runtime.spawn import foreign, spawners, steps_for
from .runtime.wait import WaitQueue
from .sync import Semaphore

__all__ = ["Group", "Member"]

T = TypeVar("T")


class Member[T](Goroutine[T]):
    """A goroutine of a `Group`: what `Group.go` gives. ``await`` it, or ask for its result.

    Unlike a plain `Goroutine`, awaiting it raises its failure.

    >>> async def main():
    ...     async with goroutine.Group() as group:
    ...         member = group.go(sum, [1, 2, 3])
    ...         return await member
    >>> goroutine.start(main)
    6
    """

    __slots__ = ("_failure", "_group")

    _failure: BaseException | None
    _group: Group

    def result(self) -> T:
        """What its function returned; raises what it raised, `Canceled` if it was cancelled.

        ``RuntimeError`` while it has not ended. From any thread.
        """
        if not self.done:
            raise RuntimeError(f"goroutine {self.id} ({self.name}) has not ended yet")
        if self._failure is not None:
            raise self._failure
        result: T = getattr(self, "value", None)  # type: ignore[assignment]
        return result

    def __await__(self) -> Generator[Any, None, T]:
        yield from super().__await__()
        return self.result()

    def wake_joiners(self) -> None:
        super().wake_joiners()
        self._group._ended(self)


@types.coroutine
def _run(group: Group, g: Member[Any], steps: Any) -> Generator[Any, Any]:
    """The steps of a member around those of its function."""
    slots = group._slots
    if slots is not None:
        try:
            yield from slots.acquire().__await__()
        except BaseException as failure:
            close_steps(steps)
            if not isinstance(failure, Canceled):
                raise
            g._failure = failure
            return
    try:
        yield from steps  # which leave their result in g
    except (GeneratorExit, GoExit, SystemExit, KeyboardInterrupt):
        raise  # these end the run, or this goroutine: no failures
    except BaseException as failure:
        if failure.__traceback__ is not None:
            failure.__traceback__ = failure.__traceback__.tb_next  # without this frame
        g._failure = failure
    finally:
        if slots is not None:
            slots.release()


class Group:
    """Goroutines that are waited for together; the first failure cancels the others.

    ``async with Group() as group:`` leaves when all members have ended. If one failed, so
    does the ``async with``: with that failure, or an ``ExceptionGroup`` of several. When a
    member or the body fails, ``group.context`` is cancelled, with the failure as its cause,
    and so is what the other members and the body wait for: `Canceled` is raised there, once,
    and what follows (``finally``) can wait again. A member that ends by `Canceled` has not
    failed. `goexit` in a member just ends it.

    ``ctx``: the group is cancelled with it. A group inside another group's member or body is
    also cancelled with that. If somebody in the group was told of such a cancellation, and
    nothing else failed, leaving raises it: `Canceled`, or `DeadlineExceeded`. ``limit``: so
    many members run at a time, the others begin as those end. ``TypeError`` or ``ValueError``
    if it is no int, or less than 1. Go: errgroup.WithContext.

    >>> async def double(x):
    ...     return 2 * x
    >>> async def main():
    ...     async with goroutine.Group() as group:
    ...         members = [group.go(double, x) for x in range(3)]
    ...     return [member.result() for member in members]
    >>> goroutine.start(main)
    [0, 2, 4]

    >>> async def fail():
    ...     raise ValueError("no luck")
    >>> async def main():
    ...     try:
    ...         async with goroutine.Group() as group:
    ...             group.go(goroutine.sleep(60))  # cancelled
    ...             group.go(fail)
    ...     except ValueError as failure:
    ...         return failure
    >>> goroutine.start(main)
    ValueError('no luck')
    """

    def __init__(self, ctx: Context | None = None, limit: int | None = None) -> None:
        if limit is not None:
            if isinstance(limit, bool) or not isinstance(limit, int):
                raise TypeError(f"limit must be an int, not {type(limit).__name__}")
            if limit < 1:
                raise ValueError(f"limit must be at least 1, not {limit}")
        self._ctx = ctx
        self._slots = None if limit is None else Semaphore(limit)
        self._lock = threading.Lock()  # guards the four below
        self._left = 0  # members that have not ended
        # By their ids: one may have been raised by several, who awaited a member.
        self._failures: dict[int, BaseException] = {}
        self._open = False
        self._waiting: Goroutine[Any] | None = None  # who leaves the body
        self._cut = False  # somebody was cancelled by this group, and said so
        self._outer: Any = None  # the scope that its goroutine had before
        self._above: CancelContext | None = None  # made from ctx, if one was given
        self._context: CancelContext | None = None

    @property
    def context(self) -> CancelContext:
        """Cancelled when a member or the body fails, and when the group is left."""
        if self._context is None:
            raise RuntimeError("a Group is used with: async with Group() as group")
        return self._context

    @overload
    def go[**P, R](
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Member[R]: ...
    @overload
    def go[**P, R](self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Member[R]: ...
    @overload
    def go[R](self, fn: Coroutine[Any, Any, R], /) -> Member[R]: ...
    def go(self, fn: Any, /, *args: Any, **kwargs: Any) -> Member[Any]:
        """Start a member, as `goroutine.go` starts a goroutine; from any thread.

        ``RuntimeError`` before the ``async with`` and after it. Go: Group.Go.
        """
        g: Member[Any] = Member()
        g.joiners = WaitQueue()  # not None: wake_joiners is called at the end
        g._failure = None
        g._group = self
        g.scope = self._context
        steps = steps_for(g, fn, args, kwargs)
        with self._lock:
            refused = not self._open
            if not refused:
                self._left += 1
        if refused:
            close_steps(steps)
            raise RuntimeError("this Group is not open: its async with has ended or not begun")
        g.it = _run(self, g, steps)
        spawn = find(spawners, get_ident())
        if spawn is not None:
            spawn(g, fn)
            return g
        try:
            foreign(g, fn)
        except BaseException:
            with self._lock:
                self._left -= 1
            raise
        return g

    def _is_cut(self, failure: BaseException | None) -> bool:
        """Whether this is what somebody says who was told that the group is cancelled."""
        if not isinstance(failure, Canceled):
            return False
        said = self.context.failure()
        # (A deadline that ran out elsewhere is a failure, since no group told of it.)
        late = isinstance(failure, DeadlineExceeded)
        return said is not None and (not late or isinstance(said, DeadlineExceeded))

    def _ended(self, g: Member[Any]) -> None:
        """A member has ended, by all accounts. On its machine."""
        failure = g._failure
        cut = self._is_cut(failure)
        own = isinstance(failure, Canceled) and not isinstance(failure, DeadlineExceeded)
        failed = failure is not None and not cut and not own  # (own: told by a ctx of its own)
        if failed:
            self.context.cancel(failure)
        with self._lock:
            self._left -= 1
            self._cut = self._cut or cut
            if failed:
                assert failure is not None
                self._failures[id(failure)] = failure
            waiting = None
            if not self._left and self._waiting is not None:
                waiting, self._waiting = self._waiting, None
                self._open = False
        if waiting is not None:
            ready(waiting)

    async def __aenter__(self) -> Self:
        g = current().g
        if g is None or self._context is not None:
            raise RuntimeError("a Group is entered once, in a goroutine")
        outer: Any = g.scope
        if self._ctx is not None:
            self._above = with_cancel(self._ctx)
        self._context = with_cancel(self._above or outer or background())
        if outer is not None:
            outer._adopt(self._context)
        self._outer = outer
        g.scope = self._context
        self._open = True
        scoped[self] = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        ctx, outer, above = self.context, self._outer, self._above
        if isinstance(failure, GeneratorExit):  # the run is over; members are closed, too
            self._leave()
            return False
        # What the body says by way of being cancelled is no failure of its own.
        cut = self._is_cut(failure)
        if failure is not None and not cut:
            ctx.cancel(failure)
        g: Any = current().g
        g.scope = None  # nothing keeps us from waiting for the members
        try:
            await park(self._wait)
        except BaseException:  # but the end of the run
            self._leave()
            raise
        g.scope = outer
        told = None
        if cut or self._cut:
            # Somebody was told of a cancellation: if it came from outside, it goes on there.
            for scope in (above, outer):
                if scope is not None and scope.ended is not None and scope.ended is ctx.ended:
                    told = scope.failure()
                    if scope is outer and not self._failures and (cut or failure is None):
                        g.scope = None  # it is told here, and goes out (else: at the next park)
        self._leave()
        if failure is not None and not isinstance(failure, Exception):
            return False  # goexit, SystemExit: whatever the members did
        failures = [other for other in self._failures.values() if other is not failure]
        if failure is not None and not cut:
            failures.insert(0, failure)
        try:
            if not failures:
                if told is not None and not cut:
                    raise told
                return told is None
            if len(failures) > 1:
                raise BaseExceptionGroup(f"{len(failures)} failures in a Group", failures)
            if failures[0] is failure:
                return False
            before = failures[0].__context__
            try:
                raise failures[0]
            finally:
                failures[0].__context__ = before  # not our being cancelled on its account
        finally:
            del failure, failures, told  # else a traceback keeps its own exception

    def _leave(self) -> None:
        """It is over: nothing above keeps it."""
        self._open = False
        scoped.pop(self, None)
        self.context.cancel()
        if self._above is not None:
            self._above.cancel()
        if self._outer is not None:
            self._outer._children.pop(self.context, None)

    def _wait(self, g: Goroutine[Any]) -> None:
        """Commit of leaving: from here on the last member wakes g."""
        with self._lock:
            if self._left:
                self._waiting = g
                return
            self._open = False
        ready(g)


waits_for("group wait", Group.__aexit__)
waits_for("join", Goroutine.__await__)
