"""Serving the connections of a machine that is stuck inside one long step, from outside.

sysmon (runtime/rescuer.py) does this while a machine computes. Every socket that a machine
receives for is registered, edge-triggered, in an epoll that the machine itself doesn't use.

io_uring. The ring is DEFER_TASKRUN: the kernel receives only inside the machine's own enter,
until then data stays in the socket. So it can be read from there, by someone else, and the
machine's multishot finds nothing later and stays armed. What it takes is that the two are
never at it at the same time, since the order of the data would be lost:

    sysmon     ``armed[0]`` = True, then the look whether the machine is in the same pass still
    machine    a new pass (``tick`` is stored), then the look at ``armed[0]``, then enter

Both stores are followed by their look with a full fence between (list items and slots are
stored under their object's mutex). So either sysmon sees that the machine has moved on and
gives up, or the machine sees the flag before it enters; then it takes the lock, under which
sysmon serves one event at a time, and puts the flag down. Whatever sysmon has read is in its
desc by then, in front of all that the machine will receive.

Two more things would bring completions into the ring behind sysmon's back. A full submission
queue is submitted in the middle of a step: under the lock, with the flag put down. And a
completion that hasn't been reaped, also one that the kernel keeps back since the queue was
full: `begin` looks that there is none.

sysmon takes the place of the home machine towards a desc (desc.py): it leaves data there,
sets ``news``, and wakes the reader, who goes to the global queue. It never prepares an SQE.

epoll. Data stays in the socket anyway: sysmon polls the machine's own epoll. An event goes
to one of the two, and either does the same with it. Closing takes the lock, since a listener
is accepted from under it.

Single waits (poller.Wait: a blocked write, a connect, a file descriptor) are looked at with
poll(2) at sysmon's every look.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from .desc import MOST_CHUNKS, PollDesc
from .ioring import abi
from .poller import POLLERR, POLLHUP, Wait

if TYPE_CHECKING:
    from ..runtime.goroutine import Goroutine
    from .epoll import EpollPoller
    from .uring import UringPoller

__all__ = ["EpollRescue", "Rescue", "UringRescue", "ready_waits"]

EDGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
HUNG_UP = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
EVENTS = 64  # taken at a time
MOST_READ = 16384  # bytes at a time; MOST_CHUNKS bounds how often, if nobody takes them
MOST_WAITS = 1000  # looked at each time


class Rescue(Protocol):
    """How one poller's descs are served by another thread. All but `fileno` sysmon's only."""

    def begin(self, still: Callable[[], bool]) -> bool:
        """Begin, if ``still()``: the machine has been, and is, in the same pass."""

    def fileno(self) -> int:
        """An epoll that is readable when there is something to `serve`."""

    def serve(self) -> bool:
        """Bring what has happened to the descs to those who wait for it. True if that was not
        all: the epoll need not say so again."""

    def look(self) -> None:
        """Now and then: what nobody took when it came."""


class UringRescue:
    """See the module. Its epoll is made when the machine is stuck for the first time."""

    __slots__ = ("_again", "_epoll", "_full", "_poller", "armed", "by_fd", "lock", "watching")

    def __init__(self, poller: UringPoller) -> None:
        self._poller = poller
        self.armed = [False]
        self.lock = threading.Lock()
        # Set for good before the descs are walked; who adds a desc looks at it afterwards.
        self.watching = False
        self.by_fd: dict[int, PollDesc] = {}
        self._epoll: select.epoll | None = None
        # fd -> mask of edges that aren't used up; of those whose readers must read first.
        self._again: dict[int, int] = {}
        self._full: dict[int, int] = {}

    # -- the machine's ----------------------------------------------------------------------

    def end(self) -> None:
        """The machine is back, and about to enter its ring."""
        with self.lock:
            self.armed[0] = False

    def forget(self, desc: PollDesc) -> None:
        """Its fd will be closed (by the machine, once it is back)."""
        if self.by_fd.get(desc.fd) is desc:
            del self.by_fd[desc.fd]

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()

    # -- any thread's -------------------------------------------------------------------------

    def watch(self, desc: PollDesc) -> None:
        """Register a desc, once ``watching``."""
        epoll = self._epoll
        if epoll is None or desc.closed or not desc.receiving:
            return
        self.by_fd[desc.fd] = desc
        try:
            epoll.register(desc.fd, EDGES)
        except FileExistsError:
            pass
        except OSError:  # no memory, or too many watches: it is served when the machine is back
            self.by_fd.pop(desc.fd, None)

    def fileno(self) -> int:
        assert self._epoll is not None
        return self._epoll.fileno()

    # -- sysmon's -----------------------------------------------------------------------------

    def begin(self, still: Callable[[], bool]) -> bool:
        ring = self._poller.ring
        if not ring.flags & abi.SETUP_DEFER_TASKRUN:
            return False  # the kernel receives whenever the machine makes a system call
        if self._epoll is None:
            try:
                self._epoll = select.epoll()
            except OSError:
                return False  # no fd to be had
            self.watching = True
            for desc in self._poller.descs.copy().values():
                self.watch(desc)
        with self.lock:
            self.armed[0] = True
            kept_back = ring.sq_flags[0] & abi.SQ_CQ_OVERFLOW
            if still() and ring.cq_head[0] == ring.cq_tail[0] and not kept_back:
                return True
            self.armed[0] = False
            return False

    def serve(self) -> bool:
        assert self._epoll is not None
        events: list[tuple[int, int]] = self._epoll.poll(0, EVENTS)
        more = len(events) == EVENTS
        again, self._again = self._again, {}
        again.update(events)
        woken: list[Goroutine[Any]] = []
        for fd, mask in again.items():
            with self.lock:
                if not self.armed[0]:
                    # The machine is back. But it may have entered its ring before this came,
                    # and be stuck again: the edge is kept for then.
                    self._again = again
                    inject(woken)
                    return False
                try:
                    desc = self.by_fd[fd]
                except KeyError:
                    continue
                if desc.closed:
                    continue
                if desc.accepting:
                    desc.accept_all()  # type: ignore[attr-defined]
                elif len(desc.chunks) >= MOST_CHUNKS // 4:
                    self._full[fd] = mask
                elif self.read(desc, mask, woken):
                    self._again[fd] = mask
        inject(woken)
        return more or bool(self._again)

    def look(self) -> None:
        self._again |= self._full
        self._full.clear()
        self.serve()

    @staticmethod
    def read(desc: PollDesc, mask: int, woken: list[Goroutine[Any]]) -> bool:
        """Read once, as the desc's home; True if there may be more."""
        if desc.eof or desc.error:
            return False
        data = b""
        try:
            data = os.read(desc.fd, MOST_READ)
        except BlockingIOError:
            return False
        except OSError as failure:
            desc.error = failure.errno or errno.EIO
        else:
            if data:
                desc.chunks.append(data)
            else:
                desc.eof = True
        desc.news = True
        take(desc, woken)
        return len(data) == MOST_READ or (bool(data) and bool(mask & HUNG_UP))


class EpollRescue:
    """See the module."""

    __slots__ = ("_poller",)

    def __init__(self, poller: EpollPoller) -> None:
        self._poller = poller

    def begin(self, still: Callable[[], bool]) -> bool:
        return still()

    def fileno(self) -> int:
        return self._poller.epoll.fileno()

    def look(self) -> None:
        self.serve()

    def serve(self) -> bool:
        descs = self._poller.descs
        events = self._poller.epoll.poll(0, EVENTS)
        woken: list[Goroutine[Any]] = []
        # (The machine's own wake-ups, and its waits, are in there too: they stay.)
        for fd, mask in events:
            with self._poller.lock:
                try:
                    desc = descs[fd]  # not get(): see shared.py
                except KeyError:
                    continue
                if desc.accepting:
                    desc.accept_all()  # type: ignore[attr-defined]
                    continue
                if mask & HUNG_UP:
                    desc.hup = True
                desc.news = True
                take(desc, woken)
        inject(woken)
        return len(events) == EVENTS


def take(desc: PollDesc, woken: list[Goroutine[Any]]) -> None:
    """`PollDesc.wake_reader`, but they are all woken in the end: waking one at a time would
    have this thread give way to the first, 64 times, on a machine that has other work."""
    try:
        g = desc.take_reader()
    except IndexError:
        return
    desc.data = None
    woken.append(g)


def inject(woken: list[Goroutine[Any]]) -> None:
    if woken:
        from ..runtime import scheduler  # it needs the pollers

        scheduler.inject(woken)


def ready_waits(waits: Iterable[Wait]) -> None:
    """Wake those of a stuck machine's waits whose fd is ready."""
    by_fd: dict[int, list[Wait]] = {}
    poll = select.poll()
    for wait in waits:
        by_fd.setdefault(wait.fd, []).append(wait)
        if len(by_fd) >= MOST_WAITS:
            break
    for fd, queue in by_fd.items():
        events = 0
        for wait in queue:
            events |= wait.events
        poll.register(fd, events)
    for fd, mask in poll.poll(0):
        for wait in by_fd[fd]:
            if mask & (wait.events | POLLERR | POLLHUP):
                wait.happened(mask)
