"""The epoll poller: the same interface where io_uring is refused, and for comparison.

Connections are registered once, edge-triggered, for both directions; an edge that finds no
parked reader is remembered in the desc (``news``), and readers call read(2) themselves. A
short read means the socket is drained: the next read parks without trying, unless an edge
came in between. Single waits (`Wait`) are registered one-shot and level-triggered.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable
from itertools import count

from .desc import PollDesc, close_fd
from .poller import POLLERR, POLLHUP, POLLIN, POLLOUT, Ready, Wait
from .rescue import EpollRescue

__all__ = ["EpollPoller"]

FIRST_KEY = 16
EVENTS = 512  # the most that one poll takes
HUNG_UP = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
EDGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class EpollPoller:
    """See poller.Poller for the interface. Made and polled in its machine's thread."""

    name = "epoll"
    direct = True  # readers call read(2) themselves

    def __init__(self, ready: Ready, number: int = 0, machines: int = 1) -> None:
        # Unique over all machines: a connection may be made on one and polled by another.
        self.keys = count(FIRST_KEY + number, machines)
        self.asleep = [False]
        self.ready = ready
        self.lock = threading.Lock()  # closing, and serving from outside (rescue.py)
        self.rescue = EpollRescue(self)
        # By fd, as epoll reports: connections; and single waits, several to an fd. Two
        # epolls, since an fd may be both (a writer waits on a connection).
        self.descs: dict[int, PollDesc] = {}
        self.waits: dict[int, list[Wait]] = {}
        self.epoll = select.epoll()
        try:
            self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self.once = select.epoll()
            except BaseException:
                os.close(self.eventfd)
                raise
        except BaseException:
            self.epoll.close()
            raise
        self.epoll.register(self.eventfd, select.EPOLLIN)
        self.epoll.register(self.once.fileno(), select.EPOLLIN)
        self.poll = self.make_poll()

    # -- from any thread ------------------------------------------------------------------

    def wake(self) -> None:
        """Make a sleeping poll return."""
        try:
            os.eventfd_write(self.eventfd, 1)
        except BlockingIOError:
            pass

    def cancel(self, wait: Wait) -> bool:
        """Take a wait back; True if its goroutine is the caller's now."""
        queue = self.waits.get(wait.fd)
        try:
            if queue is None:
                return False
            queue.remove(wait)
        except ValueError:
            return False
        return True

    def waiting(self) -> list[Wait]:
        return [wait for queue in self.waits.copy().values() for wait in list(queue)]

    def waiters(self) -> int:
        waiting = sum(len(queue) for queue in self.waits.copy().values())
        return waiting + sum(desc.waiting() for desc in self.descs.copy().values())

    # -- the owner's ----------------------------------------------------------------------

    def wait(self, wait: Wait) -> None:
        queue = self.waits.setdefault(wait.fd, [])
        queue.append(wait)
        self.arm_once(wait.fd, queue)

    def arm_once(self, fd: int, queue: list[Wait]) -> None:
        """Have ``once`` report the next event that somebody in the queue waits for."""
        events = select.EPOLLONESHOT
        for wait in queue:
            events |= wait.events
        try:
            try:
                self.once.modify(fd, events)
            except FileNotFoundError:
                self.once.register(fd, events)
        except OSError as failure:
            self.waits.pop(fd, None)
            # A regular file is always ready; epoll refuses to watch one.
            result = POLLIN | POLLOUT if failure.errno == errno.EPERM else -(failure.errno or 1)
            self.ready_all(queue, result)

    def ready_all(self, queue: list[Wait], result: int) -> None:
        """Those that nobody cancels just now: see `cancel`, which takes one out."""
        while queue:
            try:
                wait = queue.pop(0)
            except IndexError:
                break
            wait.result = result
            self.ready(wait.g)

    def drop(self, wait: Wait) -> None:
        """If nobody waits for this fd any more. (It may be another by now, or none: then
        nobody waits for that one either.)"""
        if self.waits.get(wait.fd) == []:
            del self.waits[wait.fd]
            try:
                self.once.unregister(wait.fd)
            except OSError:
                pass  # closed

    def expect(self, desc: PollDesc) -> None:
        """Nothing stands against attaching it right away, here."""
        self.attach(desc)

    def attach(self, desc: PollDesc) -> None:
        if desc.closed or self.descs.get(desc.fd) is desc:
            return
        self.descs[desc.fd] = desc
        try:
            self.epoll.register(desc.fd, EDGES)
        except OSError as failure:
            desc.error = failure.errno or errno.EIO
            desc.news = True
            desc.wake_reader()

    def adopt(self, desc: PollDesc) -> None:
        if not desc.closed:
            self.descs[desc.fd] = desc

    def resume(self, desc: PollDesc) -> None:
        """Nothing to resume: what isn't read stays in the socket."""

    def detach(self, desc: PollDesc) -> None:
        """Close the fd; the kernel takes it out of both epolls."""
        with self.lock:
            self.descs.pop(desc.fd, None)
            queue = self.waits.pop(desc.fd, None)
            close_fd(desc.fd)
        self.ready_all(queue or [], POLLHUP)

    def close(self) -> None:
        for desc in self.descs.values():
            desc.abandon()
        self.descs.clear()
        self.once.close()
        self.epoll.close()
        os.close(self.eventfd)

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's. (Nothing is unregistered.)"""
        for desc in self.descs.values():
            desc.forget()
        self.once.close()
        self.epoll.close()
        os.close(self.eventfd)

    # -- poll -----------------------------------------------------------------------------

    def make_poll(self) -> Callable[[float | None], int]:
        wait_events = self.epoll.poll
        descs, append = self.descs, self.ready
        eventfd, once = self.eventfd, self.once.fileno()
        waits, asleep = self.waits, self.asleep

        polls = seen = 0
        self.counts = lambda: (polls, seen)

        def poll(timeout: float | None) -> int:
            nonlocal polls, seen
            if timeout == 0 and not descs and not waits:
                return 0
            polls += 1
            try:
                if timeout is None:
                    events = wait_events(-1, EVENTS)
                else:
                    # Its milliseconds are an int: who sleeps for longer asks again.
                    events = wait_events(min(timeout, 1e6), EVENTS)
            except InterruptedError:
                return 0
            asleep[0] = False
            made = 0
            seen += len(events)
            for fd, mask in events:
                try:
                    desc = descs[fd]
                except KeyError:
                    if fd == eventfd:
                        os.eventfd_read(eventfd)
                    elif fd == once:
                        made += self.poll_once()
                    continue
                if desc.accepting:
                    desc.accept_all()  # type: ignore[attr-defined]
                    continue
                if mask & HUNG_UP:
                    desc.hup = True
                # News first, then the look for a reader: desc.py.
                desc.news = True
                try:
                    g = desc.take_reader()
                except IndexError:
                    continue
                desc.data = None
                append(g)
                made += 1
            return made

        return poll

    def poll_once(self) -> int:
        made = 0
        for fd, mask in self.once.poll(0, EVENTS):
            queue = self.waits.get(fd)
            if queue is None:
                continue
            for wait in list(queue):
                if mask & (wait.events | POLLERR | POLLHUP):
                    try:
                        queue.remove(wait)
                    except ValueError:
                        continue  # cancelled: somebody else's goroutine
                    wait.result = mask
                    self.ready(wait.g)
                    made += 1
            if queue:
                self.arm_once(fd, queue)
            else:
                self.waits.pop(fd, None)
        return made
