"""G: a goroutine. A native coroutine, stepped by hand, and what the scheduler keeps of it.

Who may touch the frame. ``it`` is stepped by exactly one machine at a time. Stepping a
coroutine from two threads is no error in free-threaded CPython but a crash, so ownership
is never guessed: it is passed along.

    runnable   in exactly one queue (or one thief's hand); whoever takes it out owns it
    running    owned by the machine whose ``g`` it is
    waiting    owned by nobody; reachable from the one place it parked at
    done       ``it`` is None

running -> waiting is the only delicate edge: a waker on another thread may find the
goroutine the instant it is reachable. So it is made reachable only after its frame has
stopped. A parking operation does not enqueue itself; it *yields* a commit function, the
frame is suspended, and then the machine calls ``commit(g)``, which publishes g to wakers
(or releases the lock under which g was published). The machine does not touch g after
that call. A wake that comes before the frame has left ``send`` thus has nowhere to arrive:
it waits for the lock, or sees no waiter and leaves its news where commit looks again.

waiting -> runnable is claimed: every park place hands a waiter out once (a queue's
popleft, a dict's pop, both atomic), and only the claimer may make it ready.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from .fork import module_lock
from .shared import machines

if TYPE_CHECKING:
    from contextvars import Context

    from .wait import Scope, WaitQueue

__all__ = ["Commit", "Goroutine", "Steps", "close_steps", "describe"]

T = TypeVar("T")

Commit = Callable[["Goroutine[Any]"], object]
"""What a parking operation yields: called by the machine once the frame has stopped."""

Steps = Iterator[Commit | None]
"""What a machine steps: an iterator with ``throw`` and ``close``, as a coroutine's is."""

# Guards the joiners of every goroutine. Joining is rare and the hold short.
_join_lock = module_lock()


class Goroutine[T]:
    """A goroutine: started by `go`, awaited for its result.

    ``await g`` waits until it is done and gives what its function returned. A failure that
    escapes a goroutine ends the program (a panic), so awaiting never raises it.

    Cancel safety: a cancelled ``await g`` leaves g running.
    Go: the ``go`` statement; Go's goroutines have no handle.

    >>> async def main():
    ...     g = goroutine.go(sum, [1, 2, 3])
    ...     g.name = "adder"
    ...     return g.done, await g, g.done
    >>> goroutine.start(main)
    (False, 6, True)
    """

    __slots__ = (
        "_name",
        "_owner",
        "_parent",
        "chosen",
        "context",
        "fn",
        "id",
        "it",
        "joiners",
        "origin",
        "scope",
        "value",
    )

    plain = True  # in a queue: this is the goroutine itself, not a Waiter (wait.py)

    id: int  # 1 is main
    it: Any  # Steps, or None once done
    fn: Any  # what was started, for the name
    joiners: WaitQueue | None
    value: Any  # a result once done; before, what a waker hands over
    chosen: int  # the case of its select that a waker has claimed
    context: Context | None
    scope: Scope | None  # what cancels it, while it is a group's or inside one's body
    _owner: set[Goroutine[Any]]  # the set that keeps this goroutine alive
    _parent: tuple[int, Any] | None  # id and function of who made it
    origin: tuple[int, Any]  # of this one, for its children; made with the first
    _name: str

    # No __init__: `go` fills the slots itself (a third of the price of a spawn).

    @property
    def name(self) -> str:
        """The name: that of the function, unless another was set."""
        try:
            return self._name
        except AttributeError:
            return describe(self.fn)

    @name.setter
    def name(self, name: str) -> None:
        self._name = name

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.it is None

    @property
    def creator(self) -> str:
        """Go's last line of a goroutine's stack: who made it."""
        if self._parent is None:
            return ""
        number, fn = self._parent
        return f"created by {describe(fn)} in goroutine {number}"

    def __await__(self) -> Generator[Commit, None, T]:
        if self.it is not None:
            g = _current()
            if g is None or g.scope is None:
                yield self._join
            else:
                yield from self._join_under(g)
        result: T = getattr(self, "value", None)  # type: ignore[assignment]
        return result

    def _join(self, g: Any) -> None:
        """Commit of ``await self``: queue the waiting goroutine g, or wake it at once.

        g is queued before ``it`` is looked at, and finish() clears ``it`` before it looks
        at the queue; the attribute store is fenced by the object's own mutex. So at least
        one of the two sees the other, and the lock lets only one of them take g out.
        """
        with _join_lock:
            if self.joiners is None:
                self.joiners = _queue()
            self.joiners.append(g)
            if self.it is not None:
                return
            # Not None: its machine may be about to ask whether to call wake_joiners, with
            # which a group or a server learns that it has ended.
            waiting, self.joiners = self.joiners, _queue()
        _wake_all(waiting)

    def _join_under(self, g: Goroutine[Any]) -> Generator[Commit]:
        """`_join` for a goroutine that may be cancelled."""
        from .wait import Waiter, cancelable

        waiter = Waiter(g)
        try:
            yield from cancelable(waiter, lambda _: self._join(waiter), g)
        except BaseException:
            with _join_lock:
                if self.joiners is not None:
                    self.joiners.leave(waiter)
            raise

    def wake_joiners(self) -> None:
        """Called once done, when there may be joiners."""
        with _join_lock:
            waiting, self.joiners = self.joiners, None
        if waiting:
            _wake_all(waiting)

    def failed(self, failure: BaseException) -> bool:
        """An exception has escaped: whether that was dealt with. Else it is a panic."""
        return False

    def __repr__(self) -> str:
        state = "done" if self.it is None else "alive"
        return f"<Goroutine {self.id} {self.name} {state}>"


def _queue() -> WaitQueue:
    from .wait import WaitQueue

    return WaitQueue()


def _wake_all(waiting: WaitQueue) -> None:
    from .wait import wake_all  # wait needs this module

    wake_all(waiting)


def _current() -> Goroutine[Any] | None:
    """The running goroutine, if this is a machine's thread."""
    m = machines.get(get_ident())
    return None if m is None else m.g


def close_steps(it: Any) -> None:
    """Close steps that nobody runs any more.

    Closing a generator that was never begun leaves the coroutine alone that it was to run:
    that one is closed here, else Python warns that it was never awaited. (There may be several
    generators around it.)
    """
    frame = getattr(it, "gi_frame", None)
    if frame is not None and not (it.gi_running or it.gi_suspended):  # it has not begun
        steps = frame.f_locals.get("steps")
        if steps is not None:
            close_steps(steps)
    it.close()


def describe(fn: Any) -> str:
    """Module and qualified name of a function, coroutine or other callable."""
    if fn is None:
        return "main"
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    module = getattr(fn, "__module__", None)
    if module is None:  # a coroutine object: its code knows only the file
        code = getattr(fn, "cr_code", None)
        return str(name) if code is None else f"{name}"
    return f"{module}.{name}"
