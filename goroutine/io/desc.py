"""PollDesc: what a poller and a connection know of each other. Go: netpoll's pollDesc.

Two parties meet here without a lock: the *home* machine, whose poller receives for the fd,
and the goroutine that reads, wherever it runs at that time. There is at most one reader and
one writer (the tokens below).

News go from home to the reader in this way:

    home     reader parked? take it out of ``readers`` (dict.pop, atomic), give it the news
             else leave the news in the desc, then look for a reader once more
    reader   take news from the desc; none? suspend, and then (commit):
             put itself into ``readers``, then look for news once more;
             there are some? take itself out again (dict.pop) and go on

Every store is followed by its look with a full fence between (list appends, dict stores and
slot stores take their object's mutex), so one of the two second looks sees the other party,
and dict.pop lets one of them have the goroutine. Home hands data over directly only if
nothing is left in the desc before it, and only home appends, so the order is kept.

Tokens: ``read_free`` and ``write_free`` of the home poller hold one key per desc; whoever
popped it may read (write) until it puts it back. It costs half of a lock. Closing takes the
write token for good, so that the fd number is never used by one side while the other gives
it back to the kernel, where the next connection would get it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..runtime.goroutine import Commit, Goroutine
from ..runtime.park import ready
from ..runtime.shared import machine_or_none

if TYPE_CHECKING:
    from ..runtime.machine import Machine

__all__ = ["MOST_CHUNKS", "PollDesc", "Turn"]

MOST_CHUNKS = 64
"""Received chunks that may lie unread before receiving stops (back-pressure)."""


class Turn:
    """Who waits for a token: made when the first one has to wait."""

    __slots__ = ("queue",)

    def __init__(self) -> None:
        self.queue: deque[Goroutine[Any]] = deque()


_turn_lock = threading.Lock()


class PollDesc:
    """An fd that a poller receives for. Made on any machine; ``home`` is where it is polled."""

    __slots__ = (
        "armed",
        "chunks",
        "closed",
        "data",
        "edge",
        "eof",
        "error",
        "fd",
        "g",
        "home",
        "hup",
        "key",
        "parks_first",
        "paused",
        "read_free",
        "read_turn",
        "take_read",
        "take_write",
        "write_free",
        "write_turn",
    )

    accepting = False  # a listener's: chunks are fds

    def __init__(self, fd: int, home: Machine, key: int) -> None:
        self.fd = fd
        self.home = home
        self.key = key
        poller = home.poller
        self.take_read = poller.take_read
        self.take_write = poller.take_write
        self.read_free = poller.read_free
        self.write_free = poller.write_free
        self.read_free[key] = self.write_free[key] = True
        self.parks_first = not poller.direct
        self.g: Any = None  # the parked reader
        self.data: Any = None  # what it is woken with
        self.chunks: list[Any] = []  # received and not yet read
        self.eof = False
        self.error = 0  # errno that ended receiving
        self.closed = False
        # Of io_uring, home only: a multishot receive is under way; it was stopped.
        self.armed = False
        self.paused = False
        # Of epoll: an event came since the last read; the peer has hung up.
        self.edge = True
        self.hup = False
        self.read_turn: Turn | None = None
        self.write_turn: Turn | None = None

    def park_read(self, g: Goroutine[Any]) -> None:
        """Commit of a read that found nothing."""
        self.g = g
        key = self.key
        poller = self.home.poller
        poller.readers[key] = self
        if self.chunks or self.eof or self.error or self.closed or (self.edge and poller.direct):
            if poller.readers.pop(key, None) is not None:
                self.data = None
                ready(g)
        elif self.paused:
            self.at_home(poller.resume)

    def wake_reader(self) -> None:
        """Have a parked reader look at the desc again. From any thread."""
        if self.home.poller.readers.pop(self.key, None) is not None:
            self.data = None
            ready(self.g)

    def at_home(self, call: Any) -> None:
        """``call(self)`` on the home machine: now if this is it."""
        home = self.home
        if machine_or_none() is home:
            call(self)
        else:
            home.post(lambda: call(self))

    # -- the tokens -----------------------------------------------------------------------

    def wait_turn(self, writing: bool) -> Generator[Commit, None, None]:
        """Wait for the token, which somebody else holds. Returns holding it.

        Queue first, then try the token again; release() puts it back, then looks at the
        queue. Both in that order, so one of them serves the queue.
        """
        with _turn_lock:
            turn = self.write_turn if writing else self.read_turn
            if turn is None:
                turn = Turn()
                if writing:
                    self.write_turn = turn
                else:
                    self.read_turn = turn

        def commit(g: Goroutine[Any]) -> None:
            turn.queue.append(g)
            self.serve_turn(turn, writing)

        yield commit

    def serve_turn(self, turn: Turn, writing: bool) -> None:
        """Give the token, if it is free, to the first that waits."""
        take = self.take_write if writing else self.take_read
        while turn.queue and take(self.key, None) is not None:
            try:
                g = turn.queue.popleft()
            except IndexError:
                (self.write_free if writing else self.read_free)[self.key] = True
                continue
            ready(g)
            return

    # -- closing --------------------------------------------------------------------------

    def end_write(self) -> None:
        """Put the write token back; the rest of release for those who must look."""
        self.write_free[self.key] = True
        turn = self.write_turn
        if turn is not None:
            self.serve_turn(turn, True)
        if self.closed:
            self.finish_close()

    def finish_close(self) -> None:
        """Give the fd back if nobody writes; a writer calls this again when it is done.

        ``closed`` is set before the token is tried here; a writer puts its token back
        before it looks at ``closed``: one of the two gets here with the token free, and the
        token lets one of them through. It is never put back.
        """
        if self.take_write(self.key, None) is None:
            return
        turn = self.write_turn
        if turn is not None:  # those who wait to write find the desc closed
            while turn.queue:
                try:
                    ready(turn.queue.popleft())
                except IndexError:
                    break
        self.wake_reader()
        self.at_home(self.home.poller.detach)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd}{' closed' if self.closed else ''}>"


def close_fd(fd: int) -> None:
    """close(2), whose errors concern nobody here."""
    try:
        os.close(fd)
    except OSError:
        pass
