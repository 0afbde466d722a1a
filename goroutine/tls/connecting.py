"""client, server, dial: connections that have shaken hands."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from ..io.address import Address, network_of, parse, shown
from ..net import dial as net_dial
from ..runtime.offload import blocking
from .conn import Conn
from .stream import Stream, bounded

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["client", "dial", "server", "want_stream"]

_default: ssl.SSLContext | None = None


async def _default_context() -> ssl.SSLContext:
    """ssl.create_default_context(), made once: it reads the system's certificates, which takes
    tens of milliseconds."""
    global _default
    if _default is None:
        _default = await blocking(ssl.create_default_context)
    return _default


async def client(
    conn: Stream,
    context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    *,
    session: ssl.SSLSession | None = None,
    timeout: float | None = None,
    ctx: Context | None = None,
) -> Conn:
    """TLS over ``conn``, for the end that connected; with the handshake.

    ``conn`` is any connection of a stream: a `net.Conn`, an end of a `net.pipe`, another
    `tls.Conn`. From now on it belongs to the one that is returned, and if this fails it is
    closed. Without a ``context`` it is ``ssl.create_default_context()`` (made once): the peer's
    certificate must be valid for ``server_hostname``, a name or an IP address, which is also
    sent (SNI). ``session`` is that of an earlier connection, to be resumed.

    ``ssl.SSLCertVerificationError`` if the certificate is not good, ``ssl.SSLError`` for other
    failures; ``TimeoutError`` after ``timeout`` seconds, `Canceled` if ``ctx`` is, or gets,
    cancelled. Cancel safety: ``conn`` is closed. Renegotiation is turned off in ``context``.
    Go: tls.Client and HandshakeContext.

    >>> async def main():
    ...     async def without_tls(conn):
    ...         await conn.write(b"HTTP/1.1 " + await conn.read())
    ...     async with await net.listen("tcp", "127.0.0.1:0") as listener:
    ...         goroutine.go(listener.serve, without_tls)
    ...         conn = await net.dial("tcp", listener.address)
    ...         try:
    ...             await tls.client(conn, server_hostname="localhost", timeout=5)
    ...         except OSError as failure:
    ...             return failure.reason
    >>> goroutine.start(main)
    'WRONG_VERSION_NUMBER'
    """
    try:
        if context is None:
            context = await _default_context()
        made = Conn(
            conn,
            context,
            server_hostname=server_hostname,
            session=session,
            handshake_timeout=timeout,
        )
        await made.handshake(ctx=ctx)
    except BaseException:
        conn.close()
        raise
    return made


async def server(
    conn: Stream,
    context: ssl.SSLContext,
    *,
    timeout: float | None = None,
    ctx: Context | None = None,
) -> Conn:
    """TLS over ``conn``, for the end that was connected to; with the handshake.

    ``context`` has the certificate, and says whether the client must have one; see
    ``ssl.SSLContext``. Otherwise as `client`. Go: tls.Server and HandshakeContext.

    >>> import ssl
    >>> async def main():
    ...     a, b = net.pipe()
    ...     goroutine.go(a.read)
    ...     try:
    ...         await tls.server(b, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), timeout=0.01)
    ...     except TimeoutError as failure:
    ...         return failure.strerror
    >>> goroutine.start(main)
    'tls: handshake timeout'
    """
    try:
        made = Conn(conn, context, server_side=True, handshake_timeout=timeout)
        await made.handshake(ctx=ctx)
    except BaseException:
        conn.close()
        raise
    return made


async def dial(
    network: str,
    address: Address,
    context: ssl.SSLContext | None = None,
    *,
    server_hostname: str | None = None,
    session: ssl.SSLSession | None = None,
    timeout: float | None = None,
    ctx: Context | None = None,
) -> Conn:
    """Connect to ``address``, and do a handshake: `net.dial`, then `client`.

    The certificate must be for ``server_hostname``, or for the host that ``address`` names.
    ``timeout`` is for both together. Errors and cancel safety are those of the two; no connection
    is left behind. ``ValueError`` for a network of datagrams. Go: tls.DialWithDialer.

    >>> async def main():
    ...     async with await net.listen("tcp", "127.0.0.1:0") as listener:
    ...         try:  # nobody accepts
    ...             await tls.dial("tcp", listener.address, timeout=0.01)
    ...         except TimeoutError as failure:
    ...             return failure.strerror.replace(listener.address, "HOST:PORT")
    >>> goroutine.start(main)
    'dial tcp HOST:PORT: i/o timeout'
    """
    want_stream(network)
    if server_hostname is None and network != "unix":
        server_hostname = parse(address)[0].partition("%")[0] or "localhost"
    with bounded(ctx, timeout, f"dial {network} {shown(address)}: i/o timeout") as within:
        if context is None:
            context = await _default_context()
        conn = await net_dial(network, address, ctx=within)
        return await client(conn, context, server_hostname, session=session, ctx=within)


def want_stream(network: str) -> None:
    if network_of(network).type != socket.SOCK_STREAM:
        raise ValueError(f"tls goes over streams, not over {network!r}")
