"""What a machine asks of its poller, whichever kernel interface is behind it.

One poller per machine, made and polled in that machine's thread. `uring` and `epoll`
implement this interface and nothing above them knows which one runs.

A waiter is anything that hands over its goroutine once: a `Wait` for one readiness event,
a `PollDesc` (desc.py) for a connection that is read again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.park import ready
from ..runtime.shared import current
from ..runtime.wait import Hook, Scope, cancelable, check

if TYPE_CHECKING:
    from ..runtime.machine import Machine
    from .rescue import Rescue

__all__ = ["POLLERR", "POLLHUP", "POLLIN", "POLLOUT", "Poller", "Ready", "Wait"]

POLLIN, POLLOUT, POLLERR, POLLHUP = 1, 4, 8, 16

Ready = Callable[[Any], None]
"""How a poller hands a goroutine to its machine: the tail of the local queue."""


class Wait(Hook):
    """One goroutine waiting once for one fd to be readable or writable.

    ``key`` is set by the poller that took it. ``result`` is the event mask, or a negative
    errno. Whoever takes the Wait out of its poller's table owns the goroutine in ``g``.
    """

    __slots__ = ("events", "fd", "g", "key", "m", "result")

    m: Machine  # whose poller it waits for

    def __init__(self, fd: int, events: int) -> None:
        self.canceled = None
        self.over = False
        self.fd = fd
        self.events = events
        self.g: Any = None
        self.key = 0
        self.result = 0

    def park(self, g: Any) -> None:
        """Commit: arm it on the machine that ran g, whichever that is."""
        self.g = g
        m = self.m = current()
        m.poller.wait(self)

    def cancel(self, scope: Scope) -> None:
        m = self.m
        if m.poller.cancel(self):
            self.canceled = scope
            m.post(lambda: m.poller.drop(self))
            ready(self.g)

    def happened(self, mask: int) -> None:
        """Somebody else than its poller has found it ready: wake its goroutine, if that is
        still to be done. From any thread."""
        m = self.m
        if m.poller.cancel(self):
            self.result = mask
            m.post(lambda: m.poller.drop(self))
            ready(self.g)

    def wait(self, ctx: Any = None) -> Generator[Commit]:
        """Park until it happens; `Canceled` when ctx, or the goroutine's group, is cancelled."""
        g = current().g
        if g is None or (ctx is None and g.scope is None):
            yield self.park
        else:
            check(g, ctx)
            yield from cancelable(self, self.park, g, ctx)


class Poller(Protocol):
    """One machine's way to wait for the kernel."""

    name: str
    """"io_uring" or "epoll"."""

    asleep: list[bool]
    """[True] from when its machine sets it, before a poll that waits, until that poll has
    come back from the kernel: before anything is handed over (the deadlock rule)."""

    direct: bool
    """Whether readers call read(2) themselves, on readiness."""

    keys: count[int]
    """Names for what is made on this machine; unique over all machines. Owner only."""

    poll: Callable[[float | None], int]
    """Submit what is pending and hand over what has happened; wait at most this many
    seconds for the first event (0: don't, None: for ever). Returns how many goroutines were
    made ready. Owner only."""

    counts: Callable[[], tuple[int, int]]
    """How often `poll` has asked the kernel so far, and how much it was told. From any thread."""

    def wake(self) -> None:
        """Make a sleeping `poll` return. From any thread."""

    def wait(self, wait: Wait) -> None:
        """Arm a readiness wait; its goroutine has parked. Owner only."""

    def cancel(self, wait: Wait) -> bool:
        """Take a wait back; True if its goroutine is the caller's now. From any thread."""

    def drop(self, wait: Wait) -> None:
        """Forget what the kernel was told for a wait that was cancelled. Owner only."""

    def waiters(self) -> int:
        """How many goroutines wait for this poller (the deadlock rule needs to know)."""

    @property
    def rescue(self) -> Rescue:
        """For sysmon, when the machine is stuck inside a step."""

    def waiting(self) -> list[Wait]:
        """The waits of this moment. From any thread."""

    def expect(self, desc: Any) -> None:
        """A desc that will be attached. From any thread."""

    def attach(self, desc: Any) -> None:
        """Begin to receive for a connection. Owner only."""

    def adopt(self, desc: Any) -> None:
        """Have a desc closed at the end of the run, without receiving for it. Owner only."""

    def resume(self, desc: Any) -> None:
        """Receive again after back-pressure or a spent multishot. Owner only."""

    def detach(self, desc: Any) -> None:
        """Close a connection's fd once nothing submitted names it. Owner only."""

    def abandon(self) -> None:
        """In a forked child: give back what are copies, and leave the rest to the parent."""

    def close(self) -> None:
        """Give every fd and mapping back; the machine's thread has ended."""


waits_for("IO wait", Wait.wait)
