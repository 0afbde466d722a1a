"""PacketConn: a socket of datagrams. Made by net.listen and net.dial.

Nothing is received ahead, unlike for a connection: a datagram that nobody has asked for stays
in the kernel, which drops it when its buffer is full, as programs expect of datagrams. So
who reads tries, and waits for readiness (blocked.py) if there is nothing.
"""

from __future__ import annotations

import errno
import socket
import types
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.machine import Machine
from ..runtime.sleep import sleep
from ..runtime.wait import check_ctx
from .address import Address, format_address, literal, parse, parse_path
from .blocked import Blocked
from .bound import BoundPath
from .deadline import Timed, timed_out
from .desc import PollDesc

if TYPE_CHECKING:
    from ..context import Context

    type Data = bytes | bytearray | memoryview

__all__ = ["PacketConn"]

IN_A_ROW = 64
"""Datagrams that are read without waiting before others are let run."""

KNOWN = 256  # addresses whose sockaddr is kept


class PacketConn(PollDesc, Timed):
    """A socket that sends and receives datagrams: UDP, or of the network "unixgram".

    From `listen` it is for all peers: `read_from` and `write_to`. From `dial` it has one peer:
    `read` and `write`. Each call moves one datagram, all of it. Deadlines are as those of
    `Conn`. Usable as ``async with``, which closes it. Go: net.PacketConn, net.UDPConn.

    >>> async def main():
    ...     async with await net.listen("udp", "127.0.0.1:0") as server:
    ...         async with await net.dial("udp", server.local_address) as client:
    ...             await client.write(b"ping")
    ...             data, address = await server.read_from()
    ...             await server.write_to(b"pong", address)
    ...             return data, await client.read(), address == client.local_address
    >>> goroutine.start(main)
    (b'ping', b'pong', True)
    """

    receiving = False

    __slots__ = ("_in_a_row", "_known", "_path", "_remote", "_socket", "connected", "local_address")

    def __init__(
        self,
        s: socket.socket,
        home: Machine,
        key: int,
        path: BoundPath | None = None,
        connected: bool = False,
    ) -> None:
        super().__init__(s.fileno(), home, key)
        self._socket = s
        self._path = path
        self._known: dict[Any, Any] = {}
        self._in_a_row = 0
        self.connected = connected
        """Whether it has one peer."""
        self.local_address = format_address(s.getsockname())
        """Our end, as "host:port", "[host]:port" or a path. Go: LocalAddr."""
        self._remote = format_address(s.getpeername()) if connected else ""

    @property
    def remote_address(self) -> str:
        """The peer's end; "" if there isn't one peer. Go: RemoteAddr."""
        return self._remote

    # -- reading --------------------------------------------------------------------------

    @types.coroutine
    def _receive(
        self, receive: Callable[[int], Any], n: int, ctx: Context | None
    ) -> Generator[Commit | None, None, Any]:
        if ctx is not None:
            check_ctx(ctx)
        if n < 0:
            raise ValueError("read of a negative number of bytes")
        self._in_a_row += 1
        if self._in_a_row > IN_A_ROW:
            self._in_a_row = 0
            yield None
        try:
            self.take_read()
        except IndexError:
            yield from self.wait_to_read(ctx)
        try:
            while True:
                if self.barred:
                    raise self.barred_error()
                try:
                    return receive(n)
                except BlockingIOError:
                    pass
                self._in_a_row = 0
                yield from Blocked(self, False).pause(ctx)
        finally:
            self.put_read(True)
            if self.turns:
                self.serve_turns()

    async def read_from(self, n: int = 65536, *, ctx: Context | None = None) -> tuple[bytes, str]:
        """The next datagram, and who sent it; it may be empty. What is longer than ``n`` bytes
        is cut off, and that is lost.

        The address is one for `write_to`; "@" for a Unix socket without a name. `ConnClosed` if
        this is or gets closed, ``TimeoutError`` after the deadline, `Canceled` if ``ctx`` is,
        or gets, cancelled. Cancel safety: a cancelled read has taken nothing, nor has one that
        timed out. Go: PacketConn.ReadFrom.
        """
        data, where = await self._receive(self._socket.recvfrom, n, ctx)
        return data, format_address(where)

    async def read(self, n: int = 65536, *, ctx: Context | None = None) -> bytes:
        """The next datagram; ``b""`` is an empty one, there is no end.

        From a connected one also ``ConnectionRefusedError``, if nobody was there to receive
        what was sent before. Otherwise as `read_from`. Go: UDPConn.Read.
        """
        data: bytes = await self._receive(self._socket.recv, n, ctx)
        return data

    # -- writing --------------------------------------------------------------------------

    @types.coroutine
    def _send(self, send: Callable[[], int], ctx: Context | None) -> Generator[Commit, None, int]:
        if ctx is not None:
            check_ctx(ctx)
        try:
            self.take_write()
        except IndexError:
            yield from self.wait_to_write(ctx)
        delay = 0.0005
        try:
            while True:
                try:
                    return send()
                except BlockingIOError:
                    pass
                if self.connected or self._socket.family != socket.AF_UNIX:
                    yield from Blocked(self, True).pause(ctx)
                    continue
                # The queue of the peer is full, of which our socket's readiness says nothing.
                yield from sleep(delay, ctx=ctx)
                delay = min(2 * delay, 0.01)
                if self.closed:
                    raise self.closed_error()
                if self.late(True):
                    raise timed_out()
        finally:
            self.put_write(True)
            if self.turns:
                self.serve_turns()

    async def write_to(self, data: Data, address: Address, *, ctx: Context | None = None) -> int:
        """Send one datagram to ``address``, as `listen` takes it; returns len(data).

        A name is looked up each time. ``OSError`` if it can't be sent (too long, no way there,
        no such path), or this has one peer already; `ConnClosed` if it is or gets closed,
        ``TimeoutError`` after the deadline, `Canceled` if ``ctx`` is, or gets, cancelled.
        Cancel safety: nothing was sent. Go: PacketConn.WriteTo.
        """
        if self.connected:
            raise OSError(errno.EISCONN, "use of write_to with a connection to one peer")
        where = self._known.get(address)
        if where is None:
            where = await self._find(address, ctx)
        sendto = self._socket.sendto
        return await self._send(lambda: sendto(data, where), ctx)

    async def write(self, data: Data, *, ctx: Context | None = None) -> int:
        """Send one datagram to the one peer. Otherwise as `write_to`. Go: UDPConn.Write.

        ``ConnectionRefusedError`` if nobody was there to receive what was sent before.
        """
        send = self._socket.send
        return await self._send(lambda: send(data), ctx)

    async def _find(self, address: Address, ctx: Context | None) -> Any:
        """The sockaddr of an address."""
        if self.closed:
            raise self.closed_error()
        s = self._socket
        if s.family == socket.AF_UNIX:
            where: Any = parse_path(address)
        else:
            host, port = parse(address)
            where = await _place(s, host, port, ctx)
            if literal(host) is None:
                return where
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[address] = where
        return where

    # -- closing --------------------------------------------------------------------------

    def close(self) -> None:
        """Close it; who reads or writes it gets `ConnClosed`. The path of a Unix socket is
        removed. More than once does no harm. From any thread. Go: PacketConn.Close."""
        if self.foreign_close(PacketConn.close) or not self.start_close():
            return
        self._remove()
        self.end_close()

    def finish_close(self) -> None:
        super().finish_close()
        if self.gone:
            self._socket.detach()  # the poller closes the fd

    def abandon(self) -> None:
        self._remove()
        super().abandon()
        self._socket.detach()

    def _remove(self) -> None:
        if self._path is not None:
            self._path.remove()


async def _place(s: socket.socket, host: str, port: int, ctx: Context | None) -> Any:
    """The sockaddr for a socket, of which one for IPv6 may be able to reach IPv4, too."""
    from ..net.names import resolve  # net needs this module

    if s.family == socket.AF_INET:
        return (await resolve("udp4", host or "localhost", port, ctx))[0][1]
    if s.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return (await resolve("udp6", host or "localhost", port, ctx))[0][1]
    family, where = (await resolve("udp", host or "localhost", port, ctx))[0]
    return (f"::ffff:{where[0]}", where[1], 0, 0) if family == socket.AF_INET else where


waits_for("IO wait", PacketConn._receive, PacketConn._send)
