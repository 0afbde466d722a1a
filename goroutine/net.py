"""TCP: connections that park a goroutine, not a thread. Go: package net.

`Conn` and `Listener` are made here and described in io/conn.py and io/listener.py.
"""

from __future__ import annotations

import errno
import os
import socket
import types
from collections.abc import Generator
from typing import Any

from .context import Context, background, with_timeout
from .errors import DeadlineExceeded
from .io.address import Address, family_of, format_address, literal, parse
from .io.conn import Conn, new_conn
from .io.listener import Listener
from .io.poller import POLLOUT, Wait
from .runtime.goroutine import Commit
from .runtime.offload import offload
from .runtime.shared import current
from .runtime.wait import check_ctx

__all__ = ["Conn", "Listener", "dial", "listen"]

BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn


async def listen(network: str, address: Address) -> Listener:
    """Listen on ``address``: "127.0.0.1:8080", "[::1]:0", ":8080" or (host, port).

    ``network`` is "tcp", "tcp4" or "tcp6"; an empty host listens everywhere ("tcp": IPv6
    and IPv4). Port 0 finds a free one: see `Listener.address`. ``OSError`` names the
    address; ``ValueError`` for another network, or what is no address. Go: net.Listen.

    >>> async def main():
    ...     async with await net.listen("tcp", "127.0.0.1:0") as listener:
    ...         return listener.address.rpartition(":")[0]
    >>> goroutine.start(main)
    '127.0.0.1'
    """
    current()
    family = family_of(network)
    host, port = parse(address)
    if not host:
        if family == socket.AF_UNSPEC and socket.has_dualstack_ipv6():
            family, host = socket.AF_INET6, "::"
        else:
            host = "::" if family == socket.AF_INET6 else "0.0.0.0"
    family, where = (await resolve(network, host, port, family))[0]
    try:
        s = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it, which saves a system call for each.
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                dual = network == "tcp" and host == "::"
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
            s.bind(where)
            s.listen(BACKLOG)
            name = format_address(s.getsockname())
        except BaseException:
            s.close()
            raise
    except OSError as failure:
        raise OSError(failure.errno, f"listen {network} {address}: {failure.strerror}") from None
    m = current()
    m.runtime.placement.count(m)
    listener = Listener(s.detach(), m, next(m.poller.keys), name)
    m.poller.attach(listener)
    return listener


async def dial(
    network: str,
    address: Address,
    timeout: float | None = None,
    ctx: Context | None = None,
) -> Conn:
    """Connect to ``address``; its addresses are tried one after the other.

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
            raise TimeoutError(errno.ETIMEDOUT, f"dial {network} {address}: i/o timeout") from None


async def _dial(network: str, address: Address, ctx: Context | None) -> Conn:
    if ctx is not None:
        check_ctx(ctx)
    family = family_of(network)
    host, port = parse(address)
    last: OSError | None = None
    for family_, where in await resolve(network, host or "localhost", port, family, ctx):
        try:
            return await _connect(family_, where, ctx)
        except DeadlineExceeded:  # an OSError, being a TimeoutError
            raise
        except OSError as failure:
            last = failure
    assert last is not None
    raise OSError(last.errno, f"dial {network} {address}: {last.strerror}") from None


@types.coroutine
def _parked(wait: Wait, ctx: Context | None) -> Generator[Commit]:
    yield from wait.wait(ctx)


async def _connect(family: int, where: Any, ctx: Context | None) -> Conn:
    s = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = s.connect_ex(where)
        if code in (errno.EINPROGRESS, errno.EINTR, errno.EAGAIN):
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


@types.coroutine
def _lookup(
    ctx: Context | None, host: str, port: int, family: int
) -> Generator[Commit, None, list[Any]]:
    return (yield from offload(ctx, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM))


async def resolve(
    network: str, host: str, port: int, family: int, ctx: Context | None = None
) -> list[tuple[int, Any]]:
    """(family, sockaddr) candidates, IPv4 first; never empty. Names block a pool thread."""
    known = literal(host)
    if known is not None and "%" not in host:
        if family not in (socket.AF_UNSPEC, known):
            raise OSError(errno.EAFNOSUPPORT, f"{network} {host}: no suitable address")
        where: Any = (host, port) if known == socket.AF_INET else (host, port, 0, 0)
        return [(known, where)]
    try:
        infos = await _lookup(ctx, host, port, family)
    except DeadlineExceeded:
        raise
    except OSError as failure:
        raise OSError(failure.errno, f"lookup {host}: {failure.strerror}") from None
    except UnicodeError:
        raise OSError(errno.EINVAL, f"lookup {host}: not a valid host name") from None
    found = [(int(info[0]), info[4]) for info in infos]
    found.sort(key=lambda pair: pair[0] != socket.AF_INET)
    return found
