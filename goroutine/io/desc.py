"""PollDesc: what a poller and a connection know of each other. Go: netpoll's pollDesc.

Two parties meet here without a lock: the *home* machine, whose poller receives for the fd,
and the goroutine that reads, wherever it runs at that time. There is at most one reader and
one writer (the tokens below).

News go from home to the reader in this way:

    home     reader parked? take it out of ``parked`` (list.pop, atomic), give it the data
             else leave the news in the desc, set ``news``, look for a reader once more
    reader   no ``news``? suspend, and then (commit):
             put itself into ``parked``, then look at ``news`` once more;
             there are some? take itself out again (list.pop) and go on

Every store is followed by its look with a full fence between (list appends and slot stores
take their object's mutex), so one of the two second looks sees the other party, and
list.pop lets one of them have the goroutine. A reader that takes news clears the flag
first and looks afterwards, so that news that come meanwhile set it again. Home hands data
over directly only if nothing is left in the desc before it, and only home appends, so the
order is kept. With one machine nothing comes between a reader's first look and its commit
(only poll delivers, in the same thread), so the commit is list.append itself.

Tokens. ``take_read`` pops the one element of a list, ``put_read`` puts it back; whoever has
it may read. The same for writing. That costs half of a lock. Closing takes both tokens for
good before the fd is given back, so that its number is never used on one thread while
another gives it to the kernel, where the next connection would get it.

Deadlines (deadline.py) come in by the same flags. When the one for reading passes, ``barred``
is set, as when closing, and then ``news``; a reader that is parked is woken to look. When
the one for writing passes, ``take_write`` is replaced by what never gives the token, so that
who comes goes the long way, and finds out there; a writer that is blocked is woken (blocked.py).
Readers and writers that wait for their turn learn it one after the other, when they have it.

Attributes are dear without the specialising interpreter (25 ns each, and a request used to
touch forty): the hot path has one flag per question it must ask, and everything that needs
telling apart is behind the flag.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar

from ..errors import ConnClosed
from ..runtime.fork import module_lock
from ..runtime.goroutine import Commit, Goroutine
from ..runtime.park import ready
from ..runtime.shared import current, machine_or_none
from ..runtime.wait import Waiter, cancelable, check
from .deadline import Deadline, timed_out
from .options import Options

if TYPE_CHECKING:
    from ..runtime.machine import Machine
    from .blocked import Blocked

__all__ = ["CLOSED", "MOST_CHUNKS", "PollDesc", "close_fd"]

CLOSED = "use of closed network connection"

MOST_CHUNKS = 64
"""Received chunks that may lie unread before receiving stops (back-pressure), by default."""

_queue_lock = module_lock()

T = TypeVar("T")


class PollDesc(Options):
    """An fd that a poller receives for. Made on any machine; ``home`` is where it is polled."""

    __slots__ = (
        "armed",
        "barred",
        "blocked",
        "chunks",
        "closed",
        "data",
        "deadlines",
        "eof",
        "error",
        "fd",
        "free_write",
        "gone",
        "home",
        "hup",
        "key",
        "news",
        "park",
        "parked",
        "paused",
        "put_read",
        "put_write",
        "queues",
        "shut",
        "take_read",
        "take_reader",
        "take_write",
        "turns",
        "write_token",
    )

    accepting = False  # a listener's: chunks are fds
    receiving = True  # home reads for it, or accepts; else it is only closed there

    def __init__(self, fd: int, home: Machine, key: int) -> None:
        self.fd = fd
        self.home = home
        self.key = key
        alone = home.runtime.count == 1
        self.parked: list[Goroutine[Any]] = []  # the reader that waits, if one does
        self.take_reader = self.parked.pop
        self.park: Commit = self.parked.append if alone else self.park_read
        self.data: Any = None  # what it is woken with

        self.news = home.poller.direct  # something is to be looked at before parking
        self.chunks: list[Any] = []  # received and not yet read
        self.eof = False
        self.error = 0  # errno that ended receiving
        self.barred = False  # nobody reads any more: closed, or the deadline has passed
        self.closed = False
        self.shut = False  # closed, and shut down: the fd may go as soon as nobody uses it
        self.gone = False  # closing has taken the tokens
        # Of io_uring, home only: a multishot receive is under way; it was stopped.
        self.armed = False
        self.paused = False
        # Of epoll: the peer has hung up; a short read does not mean the socket is empty.
        self.hup = False

        token = [True]
        self.take_read, self.put_read = token.pop, token.append
        token = self.write_token = [True]
        self.take_write: Callable[[], bool] = token.pop
        self.put_write = token.append
        # With one machine a look at the token is as good as taking it, up to the next yield.
        self.free_write: Sequence[bool] = token if alone else ()
        self.turns = False  # somebody waits for a token, or wants to close
        # Who waits to read, who waits to write; made when the first one does.
        self.queues: tuple[deque[Waiter], deque[Waiter]] | None = None
        # For reading, for writing; made when the first is set.
        self.deadlines: tuple[Deadline, Deadline] | None = None
        # Who waits for readiness to read, to write; those that can be told (see Blocked).
        self.blocked: list[Blocked | None] = [None, None]

    def park_read(self, g: Goroutine[Any]) -> None:
        """Commit of a read that found nothing."""
        self.parked.append(g)
        if self.news:
            self.wake_reader()

    def wake_reader(self) -> bool:
        """Have a parked reader look at the desc again. From any thread, after setting news."""
        try:
            g = self.take_reader()
        except IndexError:
            return False
        self.data = None
        ready(g)
        return True

    def waiting(self) -> int:
        """How many goroutines wait for what this receives."""
        return len(self.parked)

    def at_home(self, call: Any) -> None:
        """``call(self)`` on the home machine: now if this is it."""
        home = self.home
        if machine_or_none() is home:
            call(self)
        else:
            home.post(lambda: call(self))

    # -- the tokens -----------------------------------------------------------------------

    def wait_turn(self, writing: bool, ctx: Any = None) -> Generator[Commit, None, bool]:
        """Wait for a token that somebody else holds. False: there is none any more.

        Queue, set ``turns``, then try the token again; who puts it back looks at ``turns``
        afterwards. One of the two serves the queue. (A Waiter stands there also for a
        goroutine that nothing cancels: this is rare.)
        """
        if self.gone:
            return False
        g = current().g
        if g is None:
            raise RuntimeError("nobody can wait in a goroutine that is being closed")
        check(g, ctx)
        waiter = Waiter(g)
        with _queue_lock:
            if self.queues is None:
                self.queues = deque(), deque()
        queue = self.queues[writing]

        def commit(_: Goroutine[Any]) -> None:
            queue.append(waiter)
            self.turns = True
            self.serve_turns()

        try:
            yield from cancelable(waiter, commit, g, ctx)
        except BaseException:
            try:
                queue.remove(waiter)
            except ValueError:
                pass  # passed over by hand_on
            raise
        token: bool = g.value
        g.value = None
        return token

    def wait_to_read(self, ctx: Any = None) -> Generator[Commit]:
        """The read token, or `ConnClosed`: closing has it for good."""
        if not (yield from self.wait_turn(False, ctx)):
            raise self.closed_error()

    def wait_to_write(self, ctx: Any = None) -> Generator[Commit]:
        """The write token; `ConnClosed`, as closing has it for good; or ``TimeoutError``."""
        if not (yield from self.wait_turn(True, ctx)):
            raise self.closed_error()
        if self.late(True):
            self.put_write(True)
            self.serve_turns()
            raise timed_out()

    def serve_turns(self) -> None:
        """A token may be free while somebody waits for it, or for closing."""
        if self.queues is not None:
            readers, writers = self.queues
            self.hand_on(readers, self.take_read, self.put_read)
            self.hand_on(writers, self.write_token.pop, self.put_write)
        if self.shut:
            self.finish_close()

    @staticmethod
    def hand_on(queue: deque[Waiter], take: Any, put: Any) -> None:
        """Give the token, if it is free, to the first that waits."""
        while queue:
            try:
                take()
            except IndexError:
                return  # whoever holds it serves the queue when putting it back
            try:
                waiter = queue.popleft()
                while not waiter.claim():
                    waiter = queue.popleft()
            except IndexError:
                put(True)
            else:
                waiter.give(True)
                return

    # -- deadlines ------------------------------------------------------------------------

    def deadline(self, writing: bool) -> Deadline:
        """See deadline.Timed."""
        with _queue_lock:
            if self.closed:
                raise self.closed_error()
            if self.deadlines is None:
                self.deadlines = (
                    Deadline(self.read_late, self.read_again),
                    Deadline(self.write_late, self.write_again),
                )
            return self.deadlines[writing]

    def late(self, writing: bool) -> bool:
        """Whether the deadline has passed."""
        deadlines = self.deadlines
        return deadlines is not None and deadlines[writing].late

    def read_late(self) -> None:
        """The deadline has passed, on any thread. (Which may be none of the machines': sysmon
        fires the timers of one that is late. A lone machine's readers park without a second
        look, so it is the machine that must take the reader.)"""
        self.barred = True
        self.news = True
        if self.home.runtime.count == 1 and machine_or_none() is None:
            self.home.post(self.wake_reader)
        else:
            self.wake_reader()
        self.rouse(False)

    def read_again(self) -> None:
        """There is another one, or none. (Closing sets ``closed`` first, then ``barred``.)"""
        self.barred = False
        if self.closed:
            self.barred = True

    def write_late(self) -> None:
        self.take_write = _refuse
        self.free_write = ()
        self.rouse(True)

    def write_again(self) -> None:
        self.take_write = self.write_token.pop
        if self.home.runtime.count == 1:
            self.free_write = self.write_token

    def rouse(self, writing: bool) -> None:
        """Have who is `Blocked` look again. After what it will see has been stored."""
        blocked = self.blocked[writing]
        if blocked is not None:
            blocked.take_back()

    def closed_error(self) -> Exception:
        """What is raised when it is closed."""
        return ConnClosed(errno.EBADF, CLOSED)

    def barred_error(self) -> Exception:
        """What is raised to who reads and is ``barred``."""
        return self.closed_error() if self.closed else timed_out()

    def with_socket(self, call: Callable[[socket.socket], T]) -> T:
        """See options.Options. (Who closes it sets ``closed`` under this lock, and only later
        is the fd given back.)"""
        with _queue_lock:
            if self.closed:
                raise self.closed_error()
            s = socket.socket(fileno=self.fd)
            try:
                return call(s)
            finally:
                s.detach()

    # -- closing --------------------------------------------------------------------------

    def foreign_close(self, close: Any) -> bool:
        """Whether this thread is no machine: then the home machine closes it, soon.

        A lone machine's readers park without a second look (see above), which is right only
        as long as nothing is done to them from another thread.
        """
        if machine_or_none() is not None:
            return False
        if not self.closed:
            self.home.post(lambda: close(self))
        return True

    def start_close(self) -> bool:
        """False if it is closed already. Else the caller shuts the fd down, which nobody
        gives back before that, and calls `end_close`."""
        with _queue_lock:
            if self.closed:
                return False
            self.closed = True
        self.barred = True
        self.news = True
        return True

    def end_close(self) -> None:
        """The fd is shut down: give it back as soon as nobody uses it."""
        self.shut = True
        self.turns = True
        self.wake_reader()
        self.rouse(False)
        self.rouse(True)
        if self.deadlines is not None:
            for deadline in self.deadlines:
                deadline.end()
        self.finish_close()

    def finish_close(self) -> None:
        """Give the fd back if nobody uses it; who does calls this again when done.

        ``shut`` and ``turns`` are set before the tokens are tried here; a reader or writer
        puts its token back before it looks at ``turns``. So the last one gets here with both
        free. They are never put back.
        """
        with _queue_lock:
            first = not self.gone
            if first:
                try:
                    self.write_token.pop()
                except IndexError:
                    return
                try:
                    self.take_read()
                except IndexError:
                    self.put_write(True)
                    return
                self.gone = True
        for queue in self.queues or ():  # there is no token for those who still wait
            while queue:
                try:
                    waiter = queue.popleft()
                except IndexError:
                    break
                if waiter.claim():
                    waiter.give(False)
        if not first:
            return
        self.home.runtime.placement.give_back(self.home)
        self.at_home(self.home.poller.detach)

    def abandon(self) -> None:
        """The run is over and the program has left this open: using it is an error from now on."""
        close_fd(self.fd)
        self.forget()

    def forget(self) -> None:
        """Nobody uses it from now on. (In a forked child that is all: the fd is open there as
        every other.)"""
        self.closed = self.shut = self.gone = self.barred = self.news = True
        for take in (self.take_read, self.write_token.pop):
            try:
                take()
            except IndexError:
                pass

    def close(self) -> None:
        """What ``async with`` does at its end."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd}{' closed' if self.closed else ''}>"


def _refuse() -> Never:
    """Instead of ``take_write`` after the deadline."""
    raise IndexError


def close_fd(fd: int) -> None:
    """close(2), whose errors concern nobody here."""
    try:
        os.close(fd)
    except OSError:
        pass
