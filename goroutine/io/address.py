"""Addresses as Go writes them: "127.0.0.1:8080", "[::1]:0", ":8080", or a (host, port) pair."""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["Address", "family_of", "format_address", "literal", "parse"]

Address = str | tuple[str, int]


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
            port = socket.getservbyname(text)
        except (OSError, UnicodeError):
            raise ValueError(f"address {address!r}: unknown port {text!r}") from None
    return host, _port(port, address)


def _port(port: int, address: object) -> int:
    if not 0 <= port <= 65535:
        raise ValueError(f"address {address!r}: invalid port {port}")
    return port


def family_of(network: str) -> int:
    """The address family a network name asks for; AF_UNSPEC for "tcp"."""
    families = {"tcp": socket.AF_UNSPEC, "tcp4": socket.AF_INET, "tcp6": socket.AF_INET6}
    try:
        return families[network]
    except (KeyError, TypeError):
        raise ValueError(f"unknown network {network!r}: want 'tcp', 'tcp4' or 'tcp6'") from None


def literal(host: str) -> int | None:
    """The family of an IP literal, or None for a name that must be looked up."""
    try:
        version = ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


def format_address(sockaddr: object) -> str:
    """Go's string of what getsockname and getpeername give."""
    if isinstance(sockaddr, tuple) and len(sockaddr) >= 2:
        host, port = sockaddr[0], sockaddr[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(sockaddr)
