"""How who waits for an fd of a desc learns that the desc was closed, its deadline has passed,
or the wait was cancelled."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..runtime.goroutine import Commit
from ..runtime.park import ready
from ..runtime.wait import Hook, Scope
from .deadline import timed_out
from .poller import POLLIN, POLLOUT, Wait

if TYPE_CHECKING:
    from .desc import PollDesc

__all__ = ["Blocked", "Reading"]


class Blocked(Wait):
    """Waits for readiness of a desc, and is told when that is closed or a deadline passes.

    Who waits is known to the desc before it parks, and looks once more when it has; who
    closes, or fires a deadline, stores that first and then looks who is blocked. So one of
    the two takes the wait back. (Taking it back for nothing does no harm: who waits looks
    again.) The one who waits holds the token, so there is one for each direction.
    """

    __slots__ = ("desc", "writing")

    def __init__(self, desc: PollDesc, writing: bool) -> None:
        super().__init__(desc.fd, POLLOUT if writing else POLLIN)
        self.desc = desc
        self.writing = writing
        self.m: Any = None

    def park(self, g: Any) -> None:
        super().park(g)
        # g is not ours any more; this is.
        desc = self.desc
        if desc.closed or desc.late(self.writing):
            self.take_back()

    def take_back(self) -> None:
        """From any thread."""
        m = self.m
        if m is not None and m.poller.cancel(self):
            m.post(lambda: m.poller.drop(self))
            ready(self.g)

    def pause(self, ctx: Any = None) -> Generator[Commit]:
        """Park until it is ready, or something is to be looked at; raise if that ended it."""
        desc = self.desc
        desc.blocked[self.writing] = self
        try:
            yield from self.wait(ctx)
        finally:
            desc.blocked[self.writing] = None
        if desc.closed:
            raise desc.closed_error()
        if desc.late(self.writing):
            raise timed_out()


class Reading(Hook):
    """A parked read that can be cancelled: its reader is woken to look again, and finds
    that it was. (Waking a reader for nothing does no harm, so this needs no claim.)"""

    __slots__ = ("desc",)

    def __init__(self, desc: PollDesc) -> None:
        super().__init__()
        self.desc = desc

    def cancel(self, scope: Scope) -> None:
        self.canceled = scope
        self.desc.news = True
        self.desc.wake_reader()
