"""Connections of the fake network: bytes that travel for a time, in pieces, and get there or not.

A connection is two ways. What is written to a way travels: it arrives after the network's delay,
in the order it was written, unless the network is cut; only what has arrived can be read. A writer
waits while so much is under way, or unread, that the window is full. All on the thread of one
bubble: there is nothing to be locked.
"""

from __future__ import annotations

import errno
import types
from _thread import get_ident
from collections import deque
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import Canceled, ConnClosed
from ..io.deadline import Deadline, Timed, timed_out
from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit, Goroutine
from ..runtime.shared import bubbles, current, find
from ..runtime.timers import Timer
from ..runtime.wait import Waiter, cancelable, check, check_ctx
from ..sync import Mutex
from .machine import point

if TYPE_CHECKING:
    from ..context import Context
    from .network import Network, Place

__all__ = ["Conn", "connect", "enter", "park", "pause"]

_END = b""  # travels like all else: nothing more comes
_GONE = None  # the same, and nothing is read there any more


class _Way:
    """One direction of a connection."""

    def __init__(self, network: Network, place: Place) -> None:
        self.network = network
        self.place = place  # to which both belong that can be cut
        self.travelling: deque[tuple[float, bytes | None]] = deque()  # each not before its time
        self.arrived = bytearray()
        self.size = 0  # of both
        self.timer: Timer | None = None
        self.ended = False  # nothing more is written
        self.over = False  # and that has arrived
        self.broken = False  # nobody reads it
        self.reset = False
        self.back: _Way = self
        self.reader: Waiter | None = None
        self.writer: Waiter | None = None
        self.reading = Mutex()  # whose turn it is
        self.writing = Mutex()

    def send(self, data: bytes | None) -> None:
        self.travelling.append((self.network.m.clock + self.network.travel_time(), data))
        if data:
            self.size += len(data)
        self.pump()

    def pump(self) -> None:
        """Let arrive what has travelled long enough, and what came before it."""
        if self.network.is_cut(self.place):
            return
        travelling, now = self.travelling, self.network.m.clock
        while travelling and travelling[0][0] <= now:
            _, data = travelling.popleft()
            if data:
                self.arrived += data
            else:
                self.over = True
                if data is _GONE:
                    self.back.broken = True
                    self.back.look()
            self.look(writer=False)
        if travelling and self.timer is None:
            self.timer = Timer(travelling[0][0], self._arrive, None)
            self.network.m.timers.add(self.timer)

    def _arrive(self, _: None) -> None:
        self.timer = None
        self.pump()

    def cut_off(self) -> None:
        """Reset: all that was under way is lost."""
        self.reset = True
        self.travelling.clear()
        self.arrived.clear()
        self.size = 0
        if self.timer is not None:
            self.timer.stop()
            self.timer = None
        self.look()

    def take(self, n: int) -> bytes:
        data = bytes(self.arrived[:n])
        del self.arrived[:n]
        self.size -= len(data)
        self.look(reader=False)
        return data

    def put_back(self, data: bytes) -> None:
        self.arrived[:0] = data
        self.size += len(data)

    def look(self, reader: bool = True, writer: bool = True) -> None:
        """Have who waits look again."""
        if reader and self.reader is not None:
            self.reader.fire()
            self.reader = None
        if writer and self.writer is not None:
            self.writer.fire()
            self.writer = None

    def read_late(self) -> None:
        self.look(writer=False)

    def write_late(self) -> None:
        self.look(reader=False)


@types.coroutine
def pause() -> Generator[Commit]:
    """A point: somebody else may run before what follows."""
    yield point


@types.coroutine
def park(waits: Waiter, ctx: Context | None) -> Generator[Commit]:
    """Wait until somebody fires it."""
    check(waits.g, ctx)
    yield from cancelable(waits, _stay, waits.g, ctx)


def _stay(_: Goroutine[object]) -> None:
    """Commit of who waits: it can be found already, but nobody has run since."""


def enter(network: Network) -> Goroutine[object]:
    """The running goroutine, which must be one of the network's bubble."""
    if find(bubbles, get_ident()) is not network.m:
        raise RuntimeError("use of synctest connection from outside bubble")
    g = current().g
    if g is None:
        raise RuntimeError("not in a goroutine, or in one that is being closed")
    return g


class Conn(Timed):
    """A connection of a bubble's `Network`, with the methods of a `goroutine.net.Conn`.

    >>> async def main(bubble):
    ...     bubble.network.delay = 0.1
    ...     a, b = bubble.network.pipe()
    ...     await a.write(b"hello")
    ...     return await b.read(), bubble.now()
    >>> testing.run(main)
    (b'hello', 946684800.1)
    """

    __slots__ = ("_deadlines", "_in", "_local", "_network", "_out", "_remote", "closed")

    def __init__(self, network: Network, local: str, remote: str, ways: tuple[_Way, _Way]) -> None:
        self._network = network
        self._local = local
        self._remote = remote
        self._in, self._out = ways
        self._deadlines = (
            Deadline(self._in.read_late, _nothing),
            Deadline(self._out.write_late, _nothing),
        )
        self.closed = False
        """Whether it was closed at this end."""

    def deadline(self, writing: bool) -> Deadline:
        """See io.deadline.Timed."""
        return self._deadlines[writing]

    def closed_error(self) -> Exception:
        """What is raised when it is closed."""
        return ConnClosed(errno.EBADF, "use of closed network connection")

    @property
    def local_address(self) -> str:
        """Of this end."""
        return self._local

    @property
    def remote_address(self) -> str:
        """Of the other end."""
        return self._remote

    # -- reading --------------------------------------------------------------------------

    async def read(self, n: int = 65536, *, ctx: Context | None = None) -> bytes:
        """Up to ``n`` bytes of what has arrived; ``b""`` at the end of the stream.

        ``ConnectionResetError`` if it was reset; else as that of `goroutine.net.Conn`.
        """
        enter(self._network)
        if n < 1:
            return self._nothing(n)
        if ctx is not None:
            check_ctx(ctx)
        way = self._in
        await way.reading.lock(ctx=ctx)
        try:
            return await self._take(n, ctx)
        finally:
            way.reading.unlock()

    async def read_exactly(self, n: int, *, ctx: Context | None = None) -> bytes:
        """Exactly ``n`` bytes. ``EOFError`` if the stream ends before."""
        enter(self._network)
        if n < 1:
            return self._nothing(n)
        if ctx is not None:
            check_ctx(ctx)
        way = self._in
        await way.reading.lock(ctx=ctx)
        data = b""
        try:
            while len(data) < n:
                part = await self._take(n - len(data), ctx)
                if not part:
                    raise EOFError(f"unexpected EOF: {n - len(data)} of {n} bytes missing")
                data += part
            return data
        except (Canceled, TimeoutError):
            way.put_back(data)
            raise
        finally:
            way.reading.unlock()

    async def read_into(self, buffer: bytearray | memoryview, *, ctx: Context | None = None) -> int:
        """Fill the beginning of ``buffer``; how many bytes, 0 at the end of the stream."""
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
        way = self._in
        while True:
            if self.closed:
                raise self.closed_error()
            if self._deadlines[False].late:
                raise timed_out()
            if way.reset:
                raise _was_reset()
            if way.arrived:
                return way.take(self._network.part(min(n, len(way.arrived))))
            if way.over:
                return b""
            waiter = way.reader = Waiter(enter(self._network))
            try:
                await park(waiter, ctx)
            except Canceled:
                way.reader = None
                raise

    # -- writing --------------------------------------------------------------------------

    async def write(
        self, data: bytes | bytearray | memoryview, *, ctx: Context | None = None
    ) -> int:
        """Write all of ``data``, which may go in pieces; waits while the window is full.

        Returns len(data). ``BrokenPipeError`` if the other end was closed, and that has been
        heard of here; ``ConnectionResetError`` if it was reset; else as that of
        `goroutine.net.Conn`.
        """
        enter(self._network)
        if ctx is not None:
            check_ctx(ctx)
        left = memoryview(data).cast("B")
        size = len(left)
        way = self._out
        await way.writing.lock(ctx=ctx)
        try:
            while True:
                failure = self._unwritable()
                if failure is not None:
                    raise failure
                room = min(self._network.window - way.size, len(left))
                if not left:
                    return size
                if room > 0:
                    part = self._network.part(room)
                    way.send(bytes(left[:part]))
                    left = left[part:]
                    continue
                waiter = way.writer = Waiter(enter(self._network))
                try:
                    await park(waiter, ctx)
                except Canceled:
                    way.writer = None
                    raise
        finally:
            way.writing.unlock()

    def _unwritable(self) -> Exception | None:
        way = self._out
        if self.closed:
            return self.closed_error()
        if self._deadlines[True].late:
            return timed_out()
        if way.reset:
            return _was_reset()
        if way.broken or way.ended:
            return BrokenPipeError(errno.EPIPE, "Broken pipe")
        return None

    async def writev(
        self, buffers: Iterable[bytes | bytearray | memoryview], *, ctx: Context | None = None
    ) -> int:
        """Write all buffers, one after the other, with nothing in between; how many bytes."""
        return await self.write(b"".join(buffers), ctx=ctx)

    async def close_write(self) -> None:
        """The end of the stream for the other end; reading goes on."""
        enter(self._network)
        way = self._out
        async with way.writing:
            if self.closed:
                raise self.closed_error()
            if not way.ended:
                way.ended = True
                way.send(_END)

    # -- the rest -------------------------------------------------------------------------

    def close(self) -> None:
        """Close this end; who reads or writes it gets `ConnClosed`. More than once does no harm."""
        network = self._network
        if find(bubbles, get_ident()) is not network.m:
            raise RuntimeError("use of synctest connection from outside bubble")
        if self.closed:
            return
        self.closed = True
        self._in.look()
        self._out.ended = True
        if not self._out.reset:
            self._out.send(_GONE)
        self._out.look()
        for deadline in self._deadlines:
            deadline.end()

    def reset(self) -> None:
        """Reset it: both ends get ``ConnectionResetError``, and what was under way is lost."""
        self._in.cut_off()
        self._out.cut_off()

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
        state = " closed" if self.closed else ""
        return f"<Conn {self._local} - {self._remote}{state}>"


def _nothing() -> None:
    """Nobody needs to be told that a deadline was lifted: `Deadline.late` is looked at."""


def _was_reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def connect(network: Network, place: Place, near: str, far: str) -> tuple[Conn, Conn]:
    """Two ends."""
    there, back = _Way(network, place), _Way(network, place)
    there.back, back.back = back, there
    network.ways += [there, back]
    return Conn(network, near, far, (back, there)), Conn(network, far, near, (there, back))


waits_for("IO wait", park)
