"""The network of a bubble: in memory, slow, cut or in pieces as the test wants it.

`goroutine.net.listen` and `goroutine.net.dial` lead to it in a bubble, so that servers and clients
can be tested as they are. Host names are just names there.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..channel import Chan
from ..context import Context, background, with_timeout
from ..errors import Canceled, ConnClosed, DeadlineExceeded
from ..io.address import Address, format_address, network_of, parse, shown
from ..io.deadline import Deadline, Timed, timed_out
from ..io.serving import Handler, Handlers
from ..runtime.shared import machine_or_none
from ..runtime.sleep import sleep
from ..runtime.spawn import isgeneratorcoroutine
from ..runtime.wait import Waiter, WaitQueue, check_ctx
from ..sync import Semaphore
from .stream import Conn, connect, enter, park, pause

if TYPE_CHECKING:
    from .machine import Machine
    from .stream import _Way

__all__ = ["Listener", "Network", "Place"]

Place = tuple[str, int]
"""Host and port; a path and 0."""

_EVERY = ("", "0.0.0.0", "::")


class Network:
    """The network of a bubble: `Bubble.network`. Its settings hold for what is sent from then on.

    >>> async def main(bubble):
    ...     network = bubble.network
    ...     network.delay = 0.5  # or (0.1, 0.5): each time another one
    ...     async def echo(conn):
    ...         await conn.write(await conn.read())
    ...     listener = await net.listen("tcp", "server:7")
    ...     goroutine.go(listener.serve, echo)
    ...     async with await net.dial("tcp", "server:7") as conn:
    ...         await conn.write(b"hello")
    ...         network.cut("server")
    ...         conn.set_read_deadline(bubble.now() + 60)
    ...         try:
    ...             await conn.read()
    ...         except TimeoutError as failure:
    ...             print(failure)
    ...         network.heal("server")
    ...         conn.set_read_deadline(None)
    ...         print(await conn.read())
    ...     await listener.shutdown()
    >>> testing.run(main)
    i/o timeout
    b'hello'
    """

    def __init__(self, m: Machine, seed: int) -> None:
        self.m = m
        self._random = random.Random(f"network {seed}")
        self.delay: float | tuple[float, float] = 0.0
        """Seconds from one end to the other; or the least and the most of them."""
        self.partial = False
        """Whether what is written goes in pieces, and reads give less than there is: how much
        is up to the seed."""
        self.window = 65536
        """Bytes that may be under way, or unread, until a write waits."""
        self.ways: list[_Way] = []
        self._listeners: dict[Place, Listener] = {}
        self._ports = count(49152)
        self._cuts: set[tuple[str | None, int | None]] = set()
        self._healed: Chan[None] = Chan()

    # -- what a test does to it -------------------------------------------------------------

    def cut(self, address: str | None = None) -> None:
        """Let nothing through to and from an address (``"host:port"``), a host, or at all.

        What was under way, and what is written meanwhile, waits, and so do dials: as where
        packets are lost. Deadlines pass. Until `heal`.
        """
        self._cuts.add(_target(address))

    def heal(self, address: str | None = None) -> None:
        """Undo `cut` of that address; of all without one."""
        if address is None:
            self._cuts.clear()
        else:
            self._cuts.discard(_target(address))
        healed, self._healed = self._healed, Chan()
        healed.close()
        for way in list(self.ways):
            way.pump()

    def reset(self, address: str | None = None) -> None:
        """Reset all connections to an address, to a host, or at all: both ends are told."""
        target = _target(address)
        for way in self.ways:
            if _matches(target, way.place) and not way.reset:
                way.cut_off()
                way.back.cut_off()

    def pipe(self) -> tuple[Conn, Conn]:
        """Two ends that are connected over this network."""
        return connect(self, ("pipe", 0), "pipe", "pipe")

    # -- what travels asks ---------------------------------------------------------------------

    def is_cut(self, place: Place) -> bool:
        """Whether nothing gets to or from there."""
        return any(_matches(target, place) for target in self._cuts)

    def travel_time(self) -> float:
        """Of the next piece, in seconds."""
        if isinstance(self.delay, tuple):
            return self._random.uniform(*self.delay)
        return self.delay

    def part(self, n: int) -> int:
        """How many of n bytes go, or are read, at once."""
        return self._random.randint(1, n) if self.partial and n > 1 else n

    # -- listen and dial --------------------------------------------------------------------

    async def listen(self, network: str, address: Address) -> Listener:
        """`goroutine.net.listen` on this network, for streams."""
        enter(self)
        host, port, unix = _place(network, address)
        if not unix and not port:
            port = next(self._ports)
        host = "" if host in _EVERY and not unix else host
        if any(self._same(unix, (host, port), place) for place in self._listeners):
            raise _failed(errno.EADDRINUSE, "listen", network, address)
        name = host if unix else format_address((host or "::", port))
        listener = Listener(self, (host, port), name)
        self._listeners[host, port] = listener
        return listener

    @staticmethod
    def _same(unix: bool, place: Place, other: Place) -> bool:
        """Whether both can't be listened on. (A path has port 0, and a host never has.)"""
        if unix or not other[1]:
            return place == other
        return place[1] == other[1] and (place[0] == other[0] or not place[0] or not other[0])

    async def dial(
        self,
        network: str,
        address: Address,
        timeout: float | None = None,
        ctx: Context | None = None,
    ) -> Conn:
        """`goroutine.net.dial` on this network, for streams."""
        enter(self)
        if timeout is None:
            return await self._dial(network, address, ctx)
        with with_timeout(ctx or background(), timeout) as within:
            try:
                return await self._dial(network, address, within)
            except DeadlineExceeded:
                if within.err() is None or (ctx is not None and ctx.err() is not None):
                    raise
                text = f"dial {network} {shown(address)}: i/o timeout"
                raise TimeoutError(errno.ETIMEDOUT, text) from None

    async def _dial(self, network: str, address: Address, ctx: Context | None) -> Conn:
        if ctx is not None:
            check_ctx(ctx)
        host, port, unix = _place(network, address)
        place = host, port
        if host in _EVERY and not unix:
            place = _HERE, port
        await pause()
        await self._travel(place, ctx)
        listener = self._listeners.get(place) or self._listeners.get(("", port))
        if listener is None:
            await self._travel(place, ctx)
            raise _failed(errno.ENOENT if unix else errno.ECONNREFUSED, "dial", network, address)
        near = "@" if unix else format_address(("::1" if ":" in host else _HERE, next(self._ports)))
        far = host if unix else format_address(place)
        conn, peer = connect(self, place, near, far)
        listener.arrived(peer)
        try:
            await self._travel(place, ctx)
        except BaseException:
            conn.close()
            raise
        return conn

    async def _travel(self, place: Place, ctx: Context | None) -> None:
        """Once from one end to the other."""
        while self.is_cut(place):
            await self._healed.recv_ok(ctx=ctx)
        seconds = self.travel_time()
        if seconds > 0:
            await sleep(seconds, ctx=ctx)

    def forget(self, place: Place) -> None:
        """A listener was closed."""
        self._listeners.pop(place, None)


_HERE = "127.0.0.1"


class Listener(Timed):
    """A listener of a bubble's `Network`, with the methods of a `goroutine.net.Listener`.

    >>> async def main(bubble):
    ...     async with await net.listen("tcp", "server:80") as listener:
    ...         conn = await net.dial("tcp", "server:80")
    ...         peer = await listener.accept()
    ...         return listener.address, peer.local_address == conn.remote_address
    >>> testing.run(main)
    ('server:80', True)
    """

    __slots__ = (
        "_deadline",
        "_handlers",
        "_network",
        "_queue",
        "_waiting",
        "address",
        "closed",
        "place",
    )

    def __init__(self, network: Network, place: Place, address: str) -> None:
        self._network = network
        self.place = place
        self.address = address
        """Where it listens. Go: Listener.Addr."""
        self.closed = False
        """Whether it was closed."""
        self._queue: deque[Conn] = deque()
        self._waiting = WaitQueue()
        self._handlers = Handlers()
        self._deadline = Deadline(self._wake_all, _nothing)

    def deadline(self, writing: bool) -> Deadline:
        """See io.deadline.Timed."""
        return self._deadline

    def closed_error(self) -> Exception:
        """What is raised when it is closed."""
        return ConnClosed(errno.EBADF, "use of closed network connection")

    def arrived(self, conn: Conn) -> None:
        """Somebody has dialled."""
        self._queue.append(conn)
        waiter = self._waiting.take()
        if waiter is not None:
            waiter.wake()

    def _wake_all(self) -> None:
        while (waiter := self._waiting.take()) is not None:
            waiter.wake()

    async def accept(self, *, ctx: Context | None = None) -> Conn:
        """The next connection. `ConnClosed` once the listener is closed, ``TimeoutError`` after
        the deadline, `Canceled` if ``ctx`` is, or gets, cancelled."""
        g = enter(self._network)
        if ctx is not None:
            check_ctx(ctx)
        await pause()
        while True:
            if self.closed:
                raise self.closed_error()
            if self._deadline.late:
                raise timed_out()
            if self._queue:
                return self._queue.popleft()
            waiter = Waiter(g)
            self._waiting.append(waiter)
            try:
                await park(waiter, ctx)
            except Canceled:
                self._waiting.leave(waiter)
                raise

    async def serve(
        self, handler: Callable[[Any], Awaitable[object]], *, limit: int | None = None
    ) -> None:
        """Call ``handler(conn)`` in a goroutine of its own for every connection; as that of
        `goroutine.net.Listener`."""
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        slots = None if limit is None else Semaphore(limit)
        while True:
            if slots is not None:
                await slots.acquire()
            try:
                conn = await self.accept()
            except ConnClosed:
                return
            self._begin(self._handlers.new(handler, slots), handler, conn)

    def _begin(self, g: Handler, handler: Callable[[Any], Awaitable[object]], conn: Conn) -> None:
        g.conn = conn  # type: ignore[assignment]
        try:
            called: Any = handler(conn)
            if isgeneratorcoroutine(called):
                steps = called
            elif isinstance(called, Awaitable):
                steps = called.__await__()
            else:
                raise TypeError(
                    f"serve() takes an async def handler, not one that returns"
                    f" {type(called).__name__}"
                )
        except Exception as failure:
            g.failed(failure)
            conn.close()
            g.among.ended(g)
            return
        g.it = steps
        g.scope = None
        g.joiners = WaitQueue()  # not None: wake_joiners is called at the end
        self._network.m.spawn(g, handler)

    async def shutdown(self, timeout: float | None = None, *, ctx: Context | None = None) -> bool:
        """Close it, and wait until the handlers that `serve` has begun have ended; after
        ``timeout`` seconds close their connections. True if they all ended in time."""
        self.close()
        return await self._handlers.wait(timeout, ctx)

    def close(self) -> None:
        """Stop listening. Connections that nobody has accepted are closed. More than once does
        no harm."""
        if machine_or_none() is not self._network.m:  # type: ignore[comparison-overlap]
            raise RuntimeError("use of synctest connection from outside bubble")
        if self.closed:
            return
        self.closed = True
        self._network.forget(self.place)
        self._deadline.end()
        while self._queue:
            self._queue.popleft().close()
        self._wake_all()

    def set_deadline(self, when: float | None) -> None:
        """From ``when`` on, `accept` fails with ``TimeoutError("i/o timeout")``; None: never."""
        if not self._deadline.set(when):
            raise self.closed_error()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Conn]:
        return self

    async def __anext__(self) -> Conn:
        try:
            return await self.accept()
        except ConnClosed:
            raise StopAsyncIteration from None

    def __repr__(self) -> str:
        return f"<Listener {self.address}{' closed' if self.closed else ''}>"


def _nothing() -> None:
    """Who accepts looks at `Deadline.late`."""


def _place(network: str, address: Address) -> tuple[str, int, bool]:
    """Host and port, or path and 0; and whether it is a path."""
    family, kind = network_of(network)
    if kind != socket.SOCK_STREAM:
        raise RuntimeError(f"not in a bubble: its network has no datagrams ({network!r})")
    if family == socket.AF_UNIX:
        return os.fsdecode(address), 0, True  # type: ignore[arg-type]
    host, port = parse(address)
    return _HERE if host == "localhost" else host, port, False


def _target(address: str | None) -> tuple[str | None, int | None]:
    """Host and port of what is to be cut; None for any."""
    if address is None:
        return None, None
    try:
        host, port = parse(address)
    except ValueError:
        host, port = address, 0
    return _HERE if host == "localhost" else host, port or None


def _matches(target: tuple[str | None, int | None], place: Place) -> bool:
    host, port = target
    return (host is None or host == place[0]) and (port is None or port == place[1])


def _failed(code: int, what: str, network: str, address: Address) -> OSError:
    return OSError(code, f"{what} {network} {shown(address)}: {os.strerror(code)}")
