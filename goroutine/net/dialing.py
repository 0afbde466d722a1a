"""dial: connections to somewhere; the addresses of a name are raced (RFC 8305).

The addresses are tried in the resolver's order, the families taking turns (so that a broken
one costs one delay), each DELAY after the one before, or at once when that has failed. The
first that connects is it; the attempts that are still under way are cancelled then.

Each attempt is a goroutine. Whether an attempt was the first, and whether anybody still wants
to know, is decided under the race's lock; who comes too late closes what it has.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import types
from collections.abc import Generator
from typing import Any, overload

from ..channel import Chan
from ..context import Context, background, with_cancel, with_timeout
from ..errors import Canceled, DeadlineExceeded
from ..io.address import Address, network_of, parse, parse_path, shown
from ..io.conn import Conn, new_conn
from ..io.packet import PacketConn
from ..io.poller import POLLOUT, Wait
from ..runtime.goroutine import Commit
from ..runtime.shared import current
from ..runtime.sleep import sleep
from ..runtime.spawn import go
from ..runtime.wait import check_ctx
from ..select import recv, select
from ..time import after
from .listening import Packets, Streams
from .names import resolve

__all__ = ["dial"]

DELAY = 0.25
"""Seconds that an attempt has for itself. RFC 8305: Connection Attempt Delay."""


@overload
async def dial(
    network: Streams, address: Address, timeout: float | None = None, ctx: Context | None = None
) -> Conn: ...
@overload
async def dial(
    network: Packets, address: Address, timeout: float | None = None, ctx: Context | None = None
) -> PacketConn: ...
@overload
async def dial(
    network: str, address: Address, timeout: float | None = None, ctx: Context | None = None
) -> Any: ...


async def dial(
    network: str,
    address: Address,
    timeout: float | None = None,
    ctx: Context | None = None,
) -> Any:
    """Connect to ``address``: a `Conn`, or a connected `PacketConn` for datagrams.

    Networks and addresses as for `listen`; an empty host is this machine. If a name has several
    addresses, the next one is tried when one has failed or takes longer than 250 ms, and the
    first that connects is taken (Happy Eyeballs, RFC 8305).

    ``OSError`` (``ConnectionRefusedError``, …) names the network and address;
    ``TimeoutError`` after ``timeout`` seconds in all, `Canceled` if ``ctx`` is, or gets,
    cancelled. Cancel safety: no connection is left behind. Go: net.Dialer.DialContext.

    >>> async def main():
    ...     async with await net.listen("tcp", "127.0.0.1:0") as listener:
    ...         async with await net.dial("tcp", listener.address, timeout=5) as conn:
    ...             return conn.remote_address == listener.address
    >>> goroutine.start(main)
    True
    """
    current()
    if timeout is None:
        return await _dial(network, address, ctx)
    with with_timeout(ctx or background(), timeout) as within:
        try:
            return await _dial(network, address, within)
        except DeadlineExceeded:
            if within.err() is None or (ctx is not None and ctx.err() is not None):
                raise  # that was the group's deadline, or ctx's
            text = f"dial {network} {shown(address)}: i/o timeout"
            raise TimeoutError(errno.ETIMEDOUT, text) from None


async def _dial(network: str, address: Address, ctx: Context | None) -> Conn | PacketConn:
    if ctx is not None:
        check_ctx(ctx)
    family, kind = network_of(network)
    found: list[tuple[int, Any]] = []
    if family != socket.AF_UNIX:
        host, port = parse(address)
        found = await resolve(network, host or "localhost", port, ctx)
    try:
        if family == socket.AF_UNIX:
            found = [(family, parse_path(address))]
        if kind == socket.SOCK_DGRAM:
            return _packets(found)
        if len(found) == 1:
            return await _connect(*found[0], ctx)
        return await _Race(ctx).run(_in_turns(found))
    except DeadlineExceeded:  # an OSError, being a TimeoutError
        raise
    except OSError as failure:
        why = failure.strerror or str(failure)
        raise OSError(failure.errno, f"dial {network} {shown(address)}: {why}") from None


def _in_turns(found: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The families in turns, the first one's first. RFC 8305, section 4."""
    first = found[0][0]
    ours = [pair for pair in found if pair[0] == first]
    others = [pair for pair in found if pair[0] != first]
    mixed = [pair for pairs in zip(ours, others, strict=False) for pair in pairs]
    both = min(len(ours), len(others))
    return mixed + ours[both:] + others[both:]


class _Race:
    """Attempts to connect to several addresses, of which the first that succeeds counts."""

    def __init__(self, ctx: Context | None) -> None:
        self.ctx = ctx
        self.lock = threading.Lock()
        self.over = False
        self.conn: Conn | None = None
        self.failures: list[Exception] = []

    async def run(self, places: list[tuple[int, Any]]) -> Conn:
        ended: Chan[None] = Chan(len(places))  # so that no attempt waits for being heard
        left = list(reversed(places))
        running = 0
        with with_cancel(self.ctx or background()) as within:
            try:
                while left or running:
                    if left:
                        go(self.attempt, *left.pop(), within, ended)
                        running += 1
                    delay = after(DELAY) if left else None
                    which = await select(recv(ended), recv(delay), recv(_done(self.ctx)))
                    if which.index == 0:
                        running -= 1
                    if self.ctx is not None:
                        check_ctx(self.ctx)
                    conn = self.taken()
                    if conn is not None:
                        return conn
            finally:
                conn = self.taken(over=True)
                if conn is not None:
                    conn.close()
        raise self.failures[0]

    def taken(self, over: bool = False) -> Conn | None:
        """The winner, taken out. With the lock: looked at and emptied without it, a connection
        that an attempt on another machine puts in between the two would be lost, and stay open."""
        with self.lock:
            self.over = self.over or over
            conn, self.conn = self.conn, None
            return conn

    async def attempt(self, family: int, where: Any, ctx: Context, ended: Chan[None]) -> None:
        try:
            conn = await _connect(family, where, ctx)
        except Canceled:
            return  # the race is over
        except Exception as failure:
            self.failures.append(failure)
        else:
            with self.lock:
                if not self.over:
                    self.over = True
                    self.conn = conn
                    conn = None  # type: ignore[assignment]
            if conn is not None:
                conn.close()
        await ended.send(None)


def _done(ctx: Context | None) -> Chan[None] | None:
    return None if ctx is None else ctx.done()


@types.coroutine
def _parked(wait: Wait, ctx: Context | None) -> Generator[Commit]:
    yield from wait.wait(ctx)


async def _connect(family: int, where: Any, ctx: Context | None) -> Conn:
    s = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_UNIX:
            code = await _connect_unix(s, where, ctx)
        else:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = s.connect_ex(where)
            if code in (errno.EINPROGRESS, errno.EINTR):
                await _parked(Wait(s.fileno(), POLLOUT), ctx)
                code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        m = current()
        m.runtime.placement.count(m)
        return new_conn(s.detach(), m)
    except BaseException:
        s.close()
        raise


async def _connect_unix(s: socket.socket, where: Any, ctx: Context | None) -> int:
    """While the listener's queue is full, try again: the kernel tells nobody when it is not."""
    delay = 0.0005
    while (code := s.connect_ex(where)) == errno.EAGAIN:
        await sleep(delay, ctx=ctx)
        delay = min(2 * delay, 0.02)
    return code


def _packets(found: list[tuple[int, Any]]) -> PacketConn:
    """A socket that is connected to the first address that can be had."""
    failure: OSError | None = None
    for family, where in found:
        s = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family != socket.AF_UNIX:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.connect(where)
        except OSError as reason:
            s.close()
            failure = failure or reason
        except BaseException:
            s.close()
            raise
        else:
            m = current()
            m.runtime.placement.count(m)
            packets = PacketConn(s, m, next(m.poller.keys), connected=True)
            m.poller.adopt(packets)
            return packets
    assert failure is not None
    raise failure
