"""Names of hosts: looked up by the C library, on a pool thread."""

from __future__ import annotations

import errno
import socket
import types
from collections.abc import Generator
from typing import Any

from ..context import Context
from ..errors import DeadlineExceeded
from ..io.address import literal, network_of, shown
from ..runtime.goroutine import Commit
from ..runtime.offload import offload
from ..runtime.shared import current

__all__ = ["lookup_host", "resolve"]


@types.coroutine
def _getaddrinfo(ctx: Context | None, *args: Any) -> Generator[Commit, None, list[Any]]:
    return (yield from offload(ctx, socket.getaddrinfo, *args))


async def _lookup(host: str, port: int, family: int, kind: int, ctx: Context | None) -> list[Any]:
    try:
        return await _getaddrinfo(ctx, host, port, family, kind)
    except DeadlineExceeded:  # an OSError, being a TimeoutError
        raise
    except OSError as failure:
        raise OSError(failure.errno, f"lookup {shown(host)}: {failure.strerror}") from None
    except UnicodeError:
        raise OSError(errno.EINVAL, f"lookup {shown(host)}: not a valid host name") from None


async def lookup_host(host: str, *, ctx: Context | None = None) -> list[str]:
    """The IP addresses of a host, in the order in which they should be tried.

    Each once; never empty. An address is its own. ``OSError`` names the host if there is none
    of that name; `Canceled` if ``ctx`` is, or gets, cancelled (the look-up itself goes on, on
    its thread, and is dropped). Go: net.Resolver.LookupHost.

    >>> async def main():
    ...     return await net.lookup_host("127.0.0.1"), await net.lookup_host("localhost")
    >>> addresses, names = goroutine.start(main)
    >>> addresses, "127.0.0.1" in names
    (['127.0.0.1'], True)
    """
    current()
    if not isinstance(host, str):
        raise TypeError(f"a host is a str, not {type(host).__name__}")
    if literal(host) is not None:
        return [host]
    if not host or "\0" in host:
        raise OSError(errno.EINVAL, f"lookup {host!r}: no such host")
    infos = await _lookup(host, 0, socket.AF_UNSPEC, socket.SOCK_STREAM, ctx)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def resolve(
    network: str, host: str, port: int, ctx: Context | None = None
) -> list[tuple[int, Any]]:
    """(family, sockaddr) candidates, in the resolver's order; never empty."""
    family, kind = network_of(network)
    known = literal(host)
    if known is not None and "%" not in host:
        if family not in (socket.AF_UNSPEC, known):
            raise OSError(errno.EAFNOSUPPORT, f"{network} {host}: no suitable address")
        where: Any = (host, port) if known == socket.AF_INET else (host, port, 0, 0)
        return [(known, where)]
    infos = await _lookup(host, port, family, kind, ctx)
    return [(int(info[0]), info[4]) for info in infos]
