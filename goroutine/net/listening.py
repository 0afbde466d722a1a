"""listen: sockets that are bound to an address, for connections or for datagrams."""

from __future__ import annotations

import socket
from typing import Any, Literal, overload

from ..io.address import Address, format_address, network_of, parse, parse_path, shown
from ..io.bound import BoundPath
from ..io.listener import Listener
from ..io.packet import PacketConn
from ..runtime.shared import current
from .names import resolve

__all__ = ["listen"]

BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn

type Streams = Literal["tcp", "tcp4", "tcp6", "unix"]
type Packets = Literal["udp", "udp4", "udp6", "unixgram"]


@overload
async def listen(network: Streams, address: Address, *, backlog: int = ...) -> Listener: ...
@overload
async def listen(network: Packets, address: Address, *, backlog: int = ...) -> PacketConn: ...
@overload
async def listen(network: str, address: Address, *, backlog: int = ...) -> Any: ...


async def listen(network: str, address: Address, *, backlog: int = BACKLOG) -> Any:
    """Listen on ``address``: a `Listener`, or a `PacketConn` for datagrams.

    | network | address |
    |---|---|
    | "tcp", "tcp4", "tcp6" | "127.0.0.1:8080", "[::1]:0", ":8080" or (host, port) |
    | "udp", "udp4", "udp6" | the same; gives a `PacketConn` |
    | "unix" | a path, or "@name" for an abstract name |
    | "unixgram" | the same; gives a `PacketConn` |

    An empty host listens everywhere ("tcp" and "udp": IPv6 and IPv4). Port 0 finds a free one:
    see `Listener.address`. The path of a Unix socket must not exist, and is removed when it is
    closed, or at the end of the run. At most ``backlog`` connections wait in the kernel to be
    accepted (it may allow fewer: net.core.somaxconn), and as many again, up to 256, here;
    what happens to more is up to the kernel. ``OSError`` names the address; ``ValueError`` for
    another network, or what is no address. Go: net.Listen, net.ListenPacket.

    >>> async def main():
    ...     async with await net.listen("tcp", "127.0.0.1:0") as listener:
    ...         return listener.address.rpartition(":")[0]
    >>> goroutine.start(main)
    '127.0.0.1'
    """
    current()
    if backlog < 1:
        raise ValueError(f"backlog must be at least 1, not {backlog}")
    family, kind = network_of(network)
    try:
        if family == socket.AF_UNIX:
            where: Any = parse_path(address)
        else:
            family, where = await _place(network, address, family)
        s = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        path = None
        try:
            _set_options(s, dual=network in ("tcp", "udp") and where[0] == "::")
            s.bind(where)
            path = BoundPath.of(s)
            if kind == socket.SOCK_STREAM:
                s.listen(backlog)
            name = format_address(s.getsockname())
        except BaseException:
            s.close()
            if path is not None:
                path.remove()
            raise
    except OSError as failure:
        why = failure.strerror or str(failure)
        raise OSError(failure.errno, f"listen {network} {shown(address)}: {why}") from None
    m = current()
    m.runtime.placement.count(m)
    key = next(m.poller.keys)
    if kind == socket.SOCK_DGRAM:
        packets = PacketConn(s, m, key, path)
        m.poller.adopt(packets)
        return packets
    listener = Listener(s.detach(), m, key, name, path, backlog)
    m.poller.attach(listener)
    return listener


async def _place(network: str, address: Address, family: int) -> tuple[int, Any]:
    """The family and sockaddr to bind to; of those of a name, IPv4 first, as Go does."""
    host, port = parse(address)
    if not host:
        if family == socket.AF_UNSPEC and socket.has_dualstack_ipv6():
            family, host = socket.AF_INET6, "::"
        else:
            host = "::" if family == socket.AF_INET6 else "0.0.0.0"
    found = await resolve(network, host, port)
    return min(found, key=lambda pair: pair[0] != socket.AF_INET)


def _set_options(s: socket.socket, dual: bool) -> None:
    if s.family == socket.AF_UNIX:
        return
    if s.family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
    if s.type == socket.SOCK_DGRAM:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it, which saves a system call for each.
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
