"""Handle: the fd of a file, who uses it, how it is closed, and how an operation is done.

An operation goes through the ring of the machine that runs the goroutine (io/op.py), or, where
there is none, or the kernel's lacks the operation or refuses it for this file, through a
thread of the pool (call.py). What has no offsets (pipes, FIFOs, terminals: *streams*) is
non-blocking and waited for until it is ready.

Closing. The number of an fd must not be used on one thread while another gives it back: it
could be another file's by then. Every operation counts itself in ``users`` first and looks at
``closed`` then; who closes stores ``closed`` first and looks at ``users`` then. So the
operation gives up or the close waits for it, and the last one to leave wakes who closes.
(List appends and pops, dict stores and slot stores take their object's mutex: a full fence.)
Operations that wait are in ``waiting``, too, published before their look at ``closed``, and
are aborted by the close.

An operation that outlives its goroutine (the run is over) keeps the Handle, and so the fd.
"""

from __future__ import annotations

import errno
import os
import stat
import types
import warnings
from collections.abc import Callable, Generator
from typing import Any

from ..io.desc import close_fd
from ..io.ioring import abi
from ..io.op import INTERRUPTED, Op, supported
from ..io.poller import Wait
from ..runtime.goroutine import Commit
from ..runtime.park import ready
from ..runtime.shared import current
from ..runtime.wait import Waiter
from .call import Call

__all__ = ["CLOSED", "REFUSED", "TURNS", "Handle", "has_ring"]

TURNS = 16
"""System calls in a row that did not wait, after which the other goroutines get their turn."""

CLOSED = "I/O operation on closed file"

# What the ring answers when it can't do it, or not now: the system call itself knows better.
REFUSED = frozenset(
    -code for code in (errno.EAGAIN, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBUSY)
)


def has_ring(*codes: int) -> bool:
    """Whether this machine has a ring, and the kernel these operations."""
    return current().poller.name == "io_uring" and supported(*codes)


class Handle:
    """Owns an fd. The OSErrors it raises have ``name`` as their file name.

    Made of an fd that has just been opened: it finds out what that is, IsADirectoryError.
    """

    __slots__ = (
        "__weakref__",
        "at_once",
        "closed",
        "closer",
        "fd",
        "fresh",
        "name",
        "once",
        "stream",
        "turns",
        "users",
        "waiting",
        "writes",
    )

    def __init__(self, fd: int, name: Any, writes: bool) -> None:
        self.fd = fd  # -1 once given back
        self.name = name
        self.writes = writes
        self.closed = False
        self.once = [True]  # who pops this closes
        self.closer: Waiter | None = None
        self.users: list[bool] = []  # as many as there are operations under way
        self.waiting: dict[Any, None] = {}
        self.at_once = True  # RWF_NOWAIT is worth a try; not with a stream
        self.turns = 0
        self.stream = self.fresh = False
        self.classify()

    def classify(self) -> None:
        """Find out what it is."""
        try:
            mode = os.fstat(self.fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.name)
            try:
                os.lseek(self.fd, 0, os.SEEK_CUR)
            except OSError as failure:
                if failure.errno != errno.ESPIPE:
                    raise
                self.stream = True
                self.at_once = False
                # A FIFO that nobody has written to yet reads as if it were at its end.
                self.fresh = stat.S_ISFIFO(mode) and not self.writes
            os.set_blocking(self.fd, not self.stream)
        except BaseException:
            self.give_back()
            raise

    # -- who uses it ----------------------------------------------------------------------

    def enter(self) -> None:
        """An operation begins: `leave` is to be called. ValueError if it's closed."""
        self.users.append(True)
        if self.closed:
            self.leave()
            raise ValueError(CLOSED)

    def leave(self) -> None:
        self.users.pop()
        if self.closed:
            self.last()

    def last(self) -> None:
        """It is closed, and somebody has left: if that was the last one, who closes goes on."""
        if not self.users:
            closer = self.closer
            if closer is not None and closer.claim():
                closer.wake()

    def check(self) -> None:
        if self.closed:
            raise ValueError(CLOSED)

    def error(self, code: int) -> OSError:
        return OSError(code, os.strerror(code), self.name)

    # -- other operations -------------------------------------------------------------------

    @types.coroutine
    def do(
        self,
        code: int,
        ctx: Any,
        call: Callable[..., Any],
        *args: Any,
        keep: Any = None,
        **fields: int,
    ) -> Generator[Commit, None, Any]:
        """An operation that has no buffer, or ``keep``: in the ring, or as ``call(fd, *args)``."""
        self.enter()
        try:
            if has_ring(code):
                result = yield from self.submit(code, ctx, keep, **fields)
                if result is not None:
                    return result
            return (yield from self.call(Call(call, self.fd, *args, keep=self), ctx))
        finally:
            self.leave()

    def submit(
        self, code: int, ctx: Any, keep: Any, **fields: int
    ) -> Generator[Commit, None, int | None]:
        """One operation of the ring; its result, None if it is refused."""
        while True:
            op = Op(code, self.fd, keep=(self, keep), **fields)
            self.waiting[op] = None
            try:
                self.check()
                result = yield from op.run(ctx)
            finally:
                self.waiting.pop(op, None)
            if result >= 0:
                return result
            if result in REFUSED:
                return None
            if result not in INTERRUPTED:
                raise self.error(-result)
            # A signal; or the close, of which check() tells.

    def call(self, call: Call, ctx: Any) -> Generator[Commit, None, Any]:
        try:
            return (yield from call.wait(ctx))
        except OSError as failure:
            failure.filename = self.name
            raise

    def turn(self) -> Generator[None]:
        """Before a system call that may not wait: let others run if this goes on and on. (Who
        is cancelled hears of it here, and so before anything has happened.)"""
        self.turns += 1
        if self.turns > TURNS and current().g is not None:
            self.turns = 0
            yield None

    def until(self, events: int, ctx: Any) -> Generator[Commit]:
        """Wait until the stream is ready."""
        self.turns = 0
        wait = _Ready(self, events)
        self.waiting[wait] = None
        try:
            self.check()
            yield from wait.wait(ctx)
        finally:
            self.waiting.pop(wait, None)
        self.check()
        if wait.result < 0:
            raise self.error(-wait.result)

    # -- closing --------------------------------------------------------------------------

    @types.coroutine
    def close(self) -> Generator[Commit]:
        """End what is under way, and give the fd back. Nothing cancels this."""
        try:
            self.once.pop()
        except IndexError:
            return
        self.closed = True
        for waiting in list(self.waiting.copy()):
            waiting.abort()
        g = current().g
        if g is None:
            # The goroutine is being closed with its run: nobody can wait. What is under way
            # keeps this object, whose end is the fd's.
            if not self.users:
                self.give_back()
            return
        if self.users:
            waiter = Waiter(g)

            def commit(_: object) -> None:
                self.closer = waiter  # published; now the look
                if not self.users and waiter.claim():
                    waiter.wake()

            yield commit
            self.closer = None
        if not self.writes:
            self.give_back()  # there is nothing to be written back
            return
        fd, self.fd = self.fd, -1
        if has_ring(abi.OP_CLOSE):
            op = _Closing(abi.OP_CLOSE, fd)
            yield from op.run_firmly()
            result = op.result or 0
            if result in REFUSED:
                result = _close(fd)
        else:
            call = Call(_close, fd)
            try:
                result = yield from call.wait(firm=True)
            except BaseException:  # the run is over
                if call.withdraw():
                    close_fd(fd)
                raise
        if result < 0 and result not in INTERRUPTED:
            raise self.error(-result)

    def give_back(self) -> None:
        """Close the fd right now."""
        fd, self.fd = self.fd, -1
        self.closed = True
        self.once.clear()
        if fd >= 0:
            close_fd(fd)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            unclosed = not self.closed
            self.give_back()
            if unclosed:
                warnings.warn(f"unclosed file {self.name!r}", ResourceWarning, 2, source=self)


class _Ready(Wait):
    """Waits until a stream is ready, or it is closed."""

    __slots__ = ("handle",)

    def __init__(self, handle: Handle, events: int) -> None:
        super().__init__(handle.fd, events)
        self.handle = handle
        self.m = None  # type: ignore[assignment]

    def park(self, g: Any) -> None:
        super().park(g)
        # g is not ours any more; this is. (Closed before there was something to abort?)
        if self.handle.closed:
            self.abort()

    def abort(self) -> None:
        """From any thread."""
        m: Any = self.m
        if m is not None and m.poller.cancel(self):
            m.post(lambda: m.poller.drop(self))
            ready(self.g)


class _Closing(Op):
    """The kernel has the fd, or, if it doesn't come to that, this has."""

    __slots__ = ()

    def run_firmly(self) -> Generator[Commit]:
        yield self.park

    def lost(self, result: int) -> None:
        if result == -errno.ECANCELED:
            close_fd(self.fd)


def _close(fd: int) -> int:
    try:
        os.close(fd)
    except OSError as failure:
        return -(failure.errno or errno.EIO)
    return 0
