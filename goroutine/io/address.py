"""Networks and addresses as Go writes them.

Of "tcp" and "udp": "127.0.0.1:8080", "[::1]:0", ":8080", or a (host, port) pair. Of "unix" and
"unixgram": a path, or "@name" for a name that is in no file system (Linux's abstract ones).
"""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

from ..runtime.fork import module_lock

__all__ = [
    "Address",
    "Network",
    "family_of",
    "format_address",
    "literal",
    "network_of",
    "parse",
    "parse_path",
    "shown",
]

Address = str | tuple[str, int]

_services = module_lock()  # getservbyname(3) has one buffer, for all threads

PATH_MOST = 107  # bytes of a path; sun_path has room for a zero, too


class Network(NamedTuple):
    """What a network's name means to socket(2)."""

    family: int  # AF_UNSPEC: either IPv4 or IPv6
    type: int


_NETWORKS = {
    "tcp": Network(socket.AF_UNSPEC, socket.SOCK_STREAM),
    "tcp4": Network(socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": Network(socket.AF_INET6, socket.SOCK_STREAM),
    "udp": Network(socket.AF_UNSPEC, socket.SOCK_DGRAM),
    "udp4": Network(socket.AF_INET, socket.SOCK_DGRAM),
    "udp6": Network(socket.AF_INET6, socket.SOCK_DGRAM),
    "unix": Network(socket.AF_UNIX, socket.SOCK_STREAM),
    "unixgram": Network(socket.AF_UNIX, socket.SOCK_DGRAM),
}


def parse(address: object) -> tuple[str, int]:
    """(host, port) of an address; an empty host means every local one.

    ``ValueError`` with the address in it for anything else; ``TypeError`` for other types.
    """
    if isinstance(address, tuple):
        if len(address) != 2 or not isinstance(address[0], str):
            raise ValueError(f"address {address!r}: want (host, port)")
        host, port = address
        if isinstance(port, bool) or not isinstance(port, int):
            raise ValueError(f"address {address!r}: the port must be an int")
        return host, _port(port, address)
    if not isinstance(address, str):
        raise TypeError(f"an address is a str or (host, port), not {type(address).__name__}")
    if "\0" in address:
        raise ValueError(f"address {address!r}: null character")
    host, colon, text = address.rpartition(":")
    if not colon:
        raise ValueError(f"address {address!r}: missing port in address")
    if host.startswith("["):
        if not host.endswith("]"):
            raise ValueError(f"address {address!r}: missing ']' in address")
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {address!r}: too many colons in address")
    if "[" in host or "]" in host:
        raise ValueError(f"address {address!r}: unexpected bracket in address")
    if text == "":
        port = 0
    elif text.isascii() and text.isdigit():
        port = int(text) if len(text) < 10 else 65536
    else:
        try:
            with _services:
                port = socket.getservbyname(text)
        except (OSError, UnicodeError):
            raise ValueError(f"address {address!r}: unknown port {text!r}") from None
    return host, _port(port, address)


def _port(port: int, address: object) -> int:
    if not 0 <= port <= 65535:
        raise ValueError(f"address {address!r}: invalid port {port}")
    return port


def network_of(network: str) -> Network:
    """What a network's name means; ValueError for another."""
    try:
        return _NETWORKS[network]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, _NETWORKS))
        raise ValueError(f"unknown network {network!r}: want one of {names}") from None


def family_of(network: str) -> int:
    """The address family a network's name asks for; AF_UNSPEC for "tcp" and "udp"."""
    return network_of(network).family


def parse_path(address: object) -> str | bytes:
    """What bind(2) and connect(2) take for the address of a Unix socket.

    ``ValueError`` for a null character, ``TypeError`` for what is no path; ``OSError`` if it is
    too long.
    """
    if not isinstance(address, (str, os.PathLike)):
        raise TypeError(f"an address is a str, not {type(address).__name__}")
    path = os.fspath(address)
    if not isinstance(path, str):
        raise TypeError(f"an address is a str, not {type(path).__name__}")
    if "\0" in path:
        raise ValueError(f"address {path!r}: null character")
    raw = os.fsencode(path)
    if len(raw) > PATH_MOST:
        raise OSError(errno.EINVAL, f"path of more than {PATH_MOST} bytes")
    return b"\0" + raw[1:] if path.startswith("@") else path


def shown(address: object) -> object:
    """An address in an error, which stays on one line and can be printed."""
    if isinstance(address, os.PathLike):
        address = os.fspath(address)
    return repr(address) if isinstance(address, str) and not address.isprintable() else address


def literal(host: str) -> int | None:
    """The family of an IP literal, or None for a name that must be looked up."""
    import ipaddress  # costly, and not for those who only listen on ":8080" or a path

    try:
        version = ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


def format_address(sockaddr: object) -> str:
    """Go's string of what getsockname, getpeername and recvfrom give.

    An IPv4 address that an IPv6 socket sees is shown as one. The end of a Unix socket that
    has no name is "@".
    """
    if isinstance(sockaddr, tuple) and len(sockaddr) >= 2:
        host, port = sockaddr[0], sockaddr[1]
        if ":" not in host:
            return f"{host}:{port}"
        if host.startswith("::ffff:") and "." in host:
            return f"{host[7:]}:{port}"
        if len(sockaddr) == 4 and sockaddr[3] and "%" not in host:
            host = f"{host}%{_zone(sockaddr[3])}"
        return f"[{host}]:{port}"
    if isinstance(sockaddr, bytes):
        return "@" + os.fsdecode(sockaddr[1:])
    return str(sockaddr) if sockaddr else "@"


def _zone(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)
