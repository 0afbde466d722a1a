"""Handle: an fd of ours that goroutines wait for, and that may be closed beneath them.

Three things can go wrong with a raw fd that is closed on one thread while another uses it:
the number may be another file's by then; who waits in a poller waits for ever; and a poll of
io_uring keeps the file open, so that the process at the other end of a pipe never hears of
the close. So here the system calls, which never block, and the close take a lock; and the
close takes back the waits of those who are parked.

A wait goes into the poller under the lock, and only while the fd is open (the commit, after
the frame has stopped). So the close, which takes the lock, finds in ``waits`` all there are;
of who comes later the commit makes ready again. The close claims a wait from its poller, as
a cancellation does (poller.py): one of those who want it gets the goroutine.
"""

from __future__ import annotations

import os
import threading
import types
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from ..io.poller import Wait
from ..runtime.goroutine import Commit
from ..runtime.park import ready
from ..runtime.shared import current

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Handle"]


class _Wait(Wait):
    """A wait that the close of its handle ends."""

    __slots__ = ("handle",)

    def __init__(self, handle: Handle, events: int) -> None:
        super().__init__(handle.fd, events)
        self.handle = handle

    def park(self, g: Any) -> None:
        """Commit, see above. From the last line of the block on g may be somebody else's."""
        self.g = g
        m = self.m = current()
        handle = self.handle
        with handle.lock:
            if handle.fd >= 0:
                handle.waits[self] = None
                m.poller.wait(self)
                return
        ready(g)

    def give_up(self) -> None:
        """The fd is being closed."""
        m = self.m
        if m.poller.cancel(self):
            m.post(lambda: m.poller.drop(self))
            ready(self.g)


class Handle:
    """Owns a non-blocking fd."""

    __slots__ = ("__weakref__", "fd", "lock", "waits")

    def __init__(self, fd: int) -> None:
        self.fd = fd  # -1 once closed
        self.lock = threading.Lock()
        self.waits: dict[_Wait, None] = {}

    @types.coroutine
    def wait(self, events: int, ctx: Context | None = None) -> Generator[Commit]:
        """Wait until a call would not block, or the handle is closed, which is no error here."""
        wait = _Wait(self, events)
        try:
            yield from wait.wait(ctx)
        finally:
            self.waits.pop(wait, None)
        if wait.result < 0 and self.fd >= 0:
            raise OSError(-wait.result, os.strerror(-wait.result))

    def call[T](self, fn: Callable[..., T], *args: Any) -> T | None:
        """``fn(fd, *args)``, a system call; None if it would block. ValueError once closed."""
        with self.lock:
            if self.fd < 0:
                raise ValueError("I/O operation on closed file")
            try:
                return fn(self.fd, *args)
            except BlockingIOError:
                return None

    def close(self) -> None:
        """Give the fd back; who waits for it goes on. From any thread, and more than once."""
        with self.lock:
            fd, self.fd = self.fd, -1
            if fd < 0:
                return
            for wait in list(self.waits):
                wait.give_up()
            os.close(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
