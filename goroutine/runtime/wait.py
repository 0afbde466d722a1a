"""Waiter: a goroutine that several parties may wake, of which exactly one does.

A goroutine that waits for one thing only is in that thing's queue itself, and whoever takes
it out of the queue owns it (park.py). One that waits for several at once (a select; any
wait that a context can cancel) has a Waiter in the queues instead, with one token in it:

    whoever pops the token (list.pop, atomic) owns the goroutine and makes it ready

A waker whose pop fails leaves the goroutine alone and serves the next in its queue. Since
the claim comes before anything is handed over, a value is never given to somebody who is
leaving with an error, and a wait that was cancelled has taken nothing. What the loser left
in the other queues, the goroutine itself removes when it runs again.

Cancelling. A *scope* is what can be cancelled: a node of a context (context.py). It keeps
the hooks of who waits under it. Both sides publish, then look, each a store with a full
fence (dict stores and slot stores take their object's mutex):

    who waits    park; put the hook into the scope        then look: is the scope done?
    canceller    mark the scope done                      then look: take all hooks out

so one of the two makes the hook's ``cancel`` be called; it may be both. ``cancel`` claims,
so a second call does nothing. The hook goes in after the wait has been published, because a
hook that is in must find something to claim; by then the goroutine may have been woken and
be gone, and so the side that put the hook in looks whether the wait is over and takes it
out again, as the goroutine does when it runs: one of the two comes last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from typing import Any, Protocol

from .goroutine import Commit, Goroutine
from .park import ready
from .shared import machine_or_none

__all__ = [
    "Closed",
    "Hook",
    "Scope",
    "WaitQueue",
    "Waiter",
    "cancelable",
    "check",
    "check_ctx",
    "hand",
    "rouse",
    "scope_of",
    "wake",
    "wake_all",
]


class Scope(Protocol):
    """What can be cancelled, as the runtime sees it. context.CancelContext implements it."""

    ended: Any
    """None; once this is cancelled, what is the same for all that this cancellation ended."""

    def watch(self, hook: Hook) -> None:
        """Have ``hook.cancel(self)`` called when this is cancelled; at once if it has been."""

    def unwatch(self, hook: Hook) -> None:
        """Forget the hook. More than once does no harm."""

    def failure(self) -> BaseException | None:
        """A new exception that says why this was cancelled; None while it is not."""


class Closed:
    """Handed over in the place of a value when there is none any more. (A class costs several
    machines nothing to look at: shared.py.)"""


class Hook:
    """One wait that scopes can end. Subclasses say how, in `cancel`."""

    __slots__ = ("canceled", "over")

    def __init__(self) -> None:
        self.canceled: Scope | None = None  # the scope that ended it
        self.over = False  # the goroutine runs again

    def cancel(self, scope: Scope) -> None:
        """The scope was cancelled: if the wait goes on, end it, with ``canceled`` set.

        On any thread, once per scope or more; also when the wait is over.
        """
        raise NotImplementedError


class Waiter(Hook):
    """A goroutine in a queue, to be had by whoever claims it first."""

    __slots__ = ("g", "index", "token", "value")

    plain = False  # a Goroutine in a queue is

    def __init__(self, g: Any, value: Any = None) -> None:
        self.canceled = None
        self.over = False
        self.g = g
        self.value = value  # what it sends, asks for, or whatever its queue is about
        self.index = 0  # of the select's case that was claimed
        self.token = [True]

    def claim(self) -> bool:
        """Whether the goroutine is the caller's now, to hand something to and to wake."""
        try:
            return self.token.pop()
        except IndexError:
            return False

    def wake(self) -> None:
        """Only for whoever has claimed it."""
        ready(self.g)

    def give(self, value: Any) -> None:
        """Hand over what it waited for and wake it. Only for whoever has claimed it."""
        self.g.value = value
        self.wake()

    def fire(self, _: object = None) -> None:
        """Claim and wake: for wakers that hand nothing over, such as timers."""
        if self.claim():
            self.wake()

    def cancel(self, scope: Scope) -> None:
        if self.claim():
            self.canceled = scope
            self.wake()


def rouse(waiter: Any) -> None:
    """Wake what was taken out of a queue, a goroutine or a `Waiter`, and is the caller's."""
    if waiter.plain:
        ready(waiter)
    else:
        waiter.wake()


def hand(waiter: Any, value: Any) -> None:
    """Hand over what it waited for, and `rouse`."""
    if waiter.plain:
        waiter.value = value
        ready(waiter)
    else:
        waiter.give(value)


def wake(waiter: Any) -> bool:
    """Claim, and `rouse`; False if it is somebody else's already."""
    if not (waiter.plain or waiter.claim()):
        return False
    rouse(waiter)
    return True


def wake_all(waiters: Iterable[Any]) -> None:
    """`wake` for several, in order."""
    for waiter in waiters:
        wake(waiter)


class WaitQueue(deque[Any]):
    """A FIFO of goroutines and Waiters. Whoever touches it holds the lock it belongs to."""

    dead = 0  # entries whose goroutine has gone elsewhere

    def leave(self, entry: Any) -> None:
        """Take out a Waiter that was claimed by way of another queue, or is given up.

        At once from a short queue. In a long one it stays until half of it is dead, so that
        leaving costs the same however many wait (10,000 selects share one ``ctx.done()``).
        """
        entry.token.clear()
        short = len(self) <= SHORT
        if short and not self.dead:
            try:
                self.remove(entry)
            except ValueError:
                pass  # a waker took it out, and could not claim it
            return
        entry.value = None
        self.dead += 1  # (at times one too many: a waker may have taken it out)
        if short or 2 * self.dead > len(self):
            self.dead = 0
            living = [waiter for waiter in self if waiter.plain or waiter.token]
            self.clear()
            self.extend(living)

    def take(self) -> Any:
        """The first that waits, claimed; None when nobody does."""
        while self:
            waiter = self.popleft()
            if waiter.plain or waiter.claim():
                return waiter
        return None


SHORT = 32
"""The longest queue that is searched for an entry that leaves."""


def scope_of(ctx: Any) -> Scope | None:
    """The scope of a ``ctx=`` argument; None for one that nobody can cancel."""
    if ctx is None:
        return None
    try:
        scope: Scope | None = ctx._scope()
    except AttributeError:
        raise TypeError(f"ctx must be a Context, not {type(ctx).__name__}") from None
    return scope


def told(g: Goroutine[Any], scope: Scope) -> None:
    """g is told that scope was cancelled. A group's cancellation is told once, also to who
    waits under a context made from the group's, or under the one that the group was made
    from: from then on g can wait again (in ``finally``)."""
    own = g.scope
    if own is not None and own.ended is not None and own.ended is scope.ended:
        g.scope = None


def _tell(g: Goroutine[Any] | None, scope: Scope) -> None:
    """Raise if scope was cancelled; g, if there is one, has been told then."""
    failure = scope.failure()
    if failure is not None:
        if g is not None:
            told(g, scope)
        try:
            raise failure
        finally:
            del failure  # else it, its traceback and this frame keep each other alive


def check_ctx(ctx: Any) -> None:
    """Raise if ctx, None or a Context, is cancelled."""
    scope = scope_of(ctx)
    if scope is not None:
        m = machine_or_none()
        _tell(None if m is None else m.g, scope)


def check(g: Goroutine[Any], ctx: Any = None) -> None:
    """To be called before g parks: raise if ctx, or what g belongs to, is cancelled."""
    own = g.scope
    if ctx is not None:
        scope = scope_of(ctx)
        if scope is not None and scope is not own:
            _tell(g, scope)
    if own is not None:
        _tell(g, own)


def cancelable(hook: Hook, commit: Commit, g: Goroutine[Any], ctx: Any = None) -> Generator[Commit]:
    """Park by ``commit`` (as in park.py), under g's own scope and that of ctx.

    Returns when somebody has claimed the hook's wait and woken g; raises `Canceled` if that
    was a scope. Call `check` before anything is published; after an exception, remove what
    has been.
    """
    own = g.scope
    scope = None if ctx is None else scope_of(ctx)
    if scope is own:
        scope = None
    if own is None and scope is None:
        yield commit  # nobody can: the usual case, with nothing to set up
    else:
        yield from _watched(hook, commit, g, own, scope)


def _watched(
    hook: Hook, commit: Commit, g: Goroutine[Any], own: Scope | None, scope: Scope | None
) -> Generator[Commit]:
    def publish(g: Goroutine[Any]) -> None:
        commit(g)
        # g is not ours any more, and may be gone: from here on only the hook is touched.
        if own is not None:
            own.watch(hook)
        if scope is not None:
            scope.watch(hook)
        if hook.over:
            forget()

    def forget() -> None:
        if own is not None:
            own.unwatch(hook)
        if scope is not None:
            scope.unwatch(hook)

    try:
        yield publish
    finally:
        hook.over = True
        forget()
    if hook.canceled is not None:
        _tell(g, hook.canceled)
        raise AssertionError("a scope that has not ended has ended a wait")
