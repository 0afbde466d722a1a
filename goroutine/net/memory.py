"""pipe: two connected ends in memory, without a buffer between them and without an fd.

Each direction is a `_Stream`. At any time at most one goroutine writes to it and one reads (a
Mutex each sees to that), so all that they have to tell each other fits into a few fields, under
its lock: what is left of the write that is under way, and who waits. Whoever changes
something wakes who waits, who then looks again: at whether its end was closed, its deadline
has passed, there is something to read, all was taken.

Locks are taken in this order: a deadline's, then a stream's.
"""

from __future__ import annotations

import errno
import threading
import types
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from ..errors import Canceled, ConnClosed
from ..io.deadline import Deadline, Timed, timed_out
from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.shared import current
from ..runtime.wait import Waiter, cancelable, check, check_ctx
from ..sync import Mutex

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["PipeConn", "pipe"]

CLOSED = "io: read/write on closed pipe"


class _Stream:
    """One direction. All under ``lock``, which who parks holds until its frame has stopped."""

    __slots__ = (
        "broken",
        "ended",
        "kept",
        "lock",
        "reader",
        "reading",
        "rest",
        "writer",
        "writing",
    )

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reading = Mutex()  # whose turn it is
        self.writing = Mutex()
        self.rest: memoryview | None = None  # of the write that is under way
        self.kept = b""  # taken by a reader that was cancelled then
        self.reader: Waiter | None = None
        self.writer: Waiter | None = None
        self.ended = False  # nothing more is written
        self.broken = False  # nothing more is read

    def look(self, reader: bool = True, writer: bool = True) -> None:
        """Have who waits look again."""
        if reader and self.reader is not None:
            self.reader.fire()
            self.reader = None
        if writer and self.writer is not None:
            self.writer.fire()
            self.writer = None

    def read_late(self) -> None:
        with self.lock:
            self.look(writer=False)

    def write_late(self) -> None:
        with self.lock:
            self.look(reader=False)

    @types.coroutine
    def park(self, writing: bool, ctx: Context | None) -> Generator[Commit]:
        """With the lock held: wait to be woken. The lock is free afterwards, also if it raises."""
        g = current().g
        try:
            if g is None:
                raise RuntimeError("not in a goroutine, or in one that is being closed")
            check(g, ctx)
        except BaseException:
            self.lock.release()
            raise
        waiter = Waiter(g)
        if writing:
            self.writer = waiter
        else:
            self.reader = waiter
        try:
            yield from cancelable(waiter, cast(Commit, self.lock.__exit__), g, ctx)
        except Canceled:
            with self.lock:
                if writing:
                    self.writer = None
                else:
                    self.reader = None
            raise


class PipeConn(Timed):
    """One end of a `pipe`, with the methods of a `Conn`. Go: net.Pipe.

    A write waits until the other end has read all of it, or was closed: nothing is buffered.
    Reads and writes of one end are serialised. Closing it is the end of the stream for the other
    end, and an error for what is written there.

    >>> async def main():
    ...     a, b = net.pipe()
    ...     a.set_write_deadline(goroutine.time.now() + 0.01)
    ...     try:
    ...         await a.write(b"nobody reads")
    ...     except TimeoutError as failure:
    ...         return failure
    >>> goroutine.start(main)
    TimeoutError('i/o timeout')
    """

    __slots__ = ("_deadlines", "_in", "_out", "closed")

    def __init__(self, incoming: _Stream, outgoing: _Stream) -> None:
        self._in = incoming
        self._out = outgoing
        self._deadlines = (
            Deadline(incoming.read_late, _nothing),
            Deadline(outgoing.write_late, _nothing),
        )
        self.closed = False
        """Whether it was closed at this end."""

    def deadline(self, writing: bool) -> Deadline:
        """See io.deadline.Timed."""
        return self._deadlines[writing]

    def closed_error(self) -> Exception:
        """What is raised when it is closed."""
        return ConnClosed(errno.EBADF, CLOSED)

    @property
    def local_address(self) -> str:
        """ "pipe". Go: LocalAddr."""
        return "pipe"

    @property
    def remote_address(self) -> str:
        """ "pipe". Go: RemoteAddr."""
        return "pipe"

    # -- reading --------------------------------------------------------------------------

    async def read(self, n: int = 65536, *, ctx: Context | None = None) -> bytes:
        """Up to ``n`` bytes of what is being written; ``b""`` when the other end was closed.

        `ConnClosed` if this end is or gets closed, ``TimeoutError`` after the deadline, `Canceled`
        if ``ctx`` is, or gets, cancelled. Cancel safety: a cancelled read has taken nothing.
        """
        if n < 1:
            return self._nothing(n)
        stream = self._in
        await stream.reading.lock(ctx=ctx)
        try:
            return await self._take(n, ctx)
        finally:
            stream.reading.unlock()

    async def read_exactly(self, n: int, *, ctx: Context | None = None) -> bytes:
        """Exactly ``n`` bytes. ``EOFError`` if the stream ends before (what came is lost).

        Otherwise as `read`, also in cancel safety. Go: io.ReadFull.
        """
        if n < 1:
            return self._nothing(n)
        stream = self._in
        await stream.reading.lock(ctx=ctx)
        data = b""
        try:
            while len(data) < n:
                part = await self._take(n - len(data), ctx)
                if not part:
                    raise EOFError(f"unexpected EOF: {n - len(data)} of {n} bytes missing")
                data += part
            return data
        except (Canceled, TimeoutError):
            with stream.lock:
                stream.kept = data + stream.kept
            raise
        finally:
            stream.reading.unlock()

    async def read_into(self, buffer: bytearray | memoryview, *, ctx: Context | None = None) -> int:
        """Fill the beginning of ``buffer``; how many bytes, 0 at the end of the stream.

        ``TypeError`` for a buffer that can't be written to. Otherwise as `read`.
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("read_into() needs a buffer that is not read-only")
        data = await self.read(len(view), ctx=ctx)
        view[: len(data)] = data
        return len(data)

    def _nothing(self, n: int) -> bytes:
        if n < 0:
            raise ValueError("read of a negative number of bytes")
        if self.closed:
            raise self.closed_error()
        return b""

    async def _take(self, n: int, ctx: Context | None) -> bytes:
        """read() for whose turn it is."""
        stream = self._in
        if ctx is not None:
            check_ctx(ctx)
        while True:
            stream.lock.acquire()
            # Once: a deadline may be moved at any time, and then there would be no reason left.
            late = self._deadlines[False].late
            rest = stream.rest
            if self.closed or late or stream.kept or stream.ended or rest:
                break
            await stream.park(False, ctx)
        try:
            if self.closed:
                raise self.closed_error()
            if late:
                raise timed_out()
            if stream.kept:
                data, stream.kept = stream.kept[:n], stream.kept[n:]
                return data
            if stream.ended or rest is None:
                return b""
            data = bytes(rest[:n])
            stream.rest = rest[n:]
            if not stream.rest:
                stream.look(reader=False)
            return data
        finally:
            stream.lock.release()

    # -- writing --------------------------------------------------------------------------

    async def write(
        self, data: bytes | bytearray | memoryview, *, ctx: Context | None = None
    ) -> int:
        """Write all of ``data``; waits until all has been read. Returns len(data).

        ``BrokenPipeError`` if the other end is or gets closed, `ConnClosed` if this one is,
        ``TimeoutError`` after the deadline, `Canceled` if ``ctx`` is, or gets, cancelled. After an
        error some of the data may have been read. ``data`` must not be changed meanwhile.
        """
        if ctx is not None:
            check_ctx(ctx)
        view = memoryview(data).cast("B")
        stream = self._out
        await stream.writing.lock(ctx=ctx)
        try:
            stream.lock.acquire()
            stream.rest = view
            # What ends the loop is what is raised: asked again, a deadline that was moved
            # meanwhile would be no failure, and what nobody has read would count as written.
            while (failure := self._unwritable()) is None and stream.rest:
                stream.look(writer=False)
                await stream.park(True, ctx)
                stream.lock.acquire()
            if not stream.rest and view:
                failure = None  # all was read
            stream.lock.release()
            if failure is not None:
                raise failure
            return len(view)
        finally:
            with stream.lock:
                stream.rest = None
            stream.writing.unlock()

    def _unwritable(self) -> Exception | None:
        """Why nothing is written any more."""
        if self.closed:
            return self.closed_error()
        if self._deadlines[True].late:
            return timed_out()
        if self._out.broken or self._out.ended:
            return BrokenPipeError(errno.EPIPE, CLOSED)
        return None

    async def writev(
        self, buffers: Iterable[bytes | bytearray | memoryview], *, ctx: Context | None = None
    ) -> int:
        """Write all buffers, one after the other, with nothing in between; how many bytes.

        Otherwise as `write`. Go: net.Buffers.
        """
        return await self.write(b"".join(buffers), ctx=ctx)

    async def close_write(self) -> None:
        """The end of the stream for the other end, after writes that are under way; reading
        goes on. `ConnClosed` if it was closed here. (Go's pipe has no such thing.)"""
        stream = self._out
        async with stream.writing:
            if self.closed:
                raise self.closed_error()
            with stream.lock:
                stream.ended = True
                stream.look()

    # -- the rest -------------------------------------------------------------------------

    def close(self) -> None:
        """Close this end; who reads or writes it gets `ConnClosed`. More than once does no harm.
        From any thread. Go: Conn.Close."""
        self.closed = True
        for stream in (self._in, self._out):
            with stream.lock:
                if stream is self._in:
                    stream.broken = True
                else:
                    stream.ended = True
                stream.look()
        for deadline in self._deadlines:
            deadline.end()

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
        return f"<PipeConn at {id(self):#x}{' closed' if self.closed else ''}>"


def _nothing() -> None:
    """Nobody needs to be told that a deadline was lifted: `Deadline.late` is looked at."""


def pipe() -> tuple[PipeConn, PipeConn]:
    """Two ends, connected in memory: what is written to one is read from the other.

    Without a buffer: a write ends when all of it has been read. For tests, and to put a
    protocol between two goroutines. Go: net.Pipe.

    >>> async def main():
    ...     a, b = net.pipe()
    ...     goroutine.go(a.write, b"hello")
    ...     first = await b.read(2), await b.read()
    ...     a.close()
    ...     return *first, await b.read()
    >>> goroutine.start(main)
    (b'he', b'llo', b'')
    """
    there, back = _Stream(), _Stream()
    return PipeConn(there, back), PipeConn(back, there)


waits_for("pipe", _Stream.park)
