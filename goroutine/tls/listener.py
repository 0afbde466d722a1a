"""Listener: connections that do their handshake on their own account, not in accept()."""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..io.address import Address
from ..net import Conn as NetConn
from ..net import Listener as NetListener
from ..net.listening import BACKLOG
from ..net.listening import listen as net_listen
from ..runtime.goroutine import describe
from .conn import Conn
from .connecting import want_stream
from .engine import want_context

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Listener", "listen"]

PATIENCE = 10.0
"""Seconds for a handshake. Go: http.Transport's TLSHandshakeTimeout."""

_log = logging.getLogger("goroutine.tls")


class Listener:
    """Accepts connections with TLS, over a `net.Listener`. Go: tls.NewListener.

    ``async with`` closes it; ``async for conn in listener`` accepts. Accepting waits for no
    handshake: that comes with the first read or write of a connection (or `Conn.handshake`), in
    the goroutine that does it, and may take ``handshake_timeout`` seconds (None: for ever). So
    a client that stalls keeps nobody but its own handler waiting.

    >>> import ssl
    >>> async def main():
    ...     context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # (without a certificate)
    ...     inner = await net.listen("tcp", "127.0.0.1:0")
    ...     async with tls.Listener(inner, context, handshake_timeout=0.01) as listener:
    ...         async with await net.dial("tcp", listener.address), await listener.accept() as conn:
    ...             try:  # the other end says nothing
    ...                 await conn.read()
    ...             except TimeoutError as failure:
    ...                 return failure.strerror
    >>> goroutine.start(main)
    'tls: handshake timeout'
    """

    __slots__ = ("_context", "_inner", "_patience")

    def __init__(
        self,
        inner: NetListener,
        context: ssl.SSLContext,
        *,
        handshake_timeout: float | None = PATIENCE,
    ) -> None:
        want_context(context)
        self._inner = inner
        self._context = context
        self._patience = handshake_timeout

    @property
    def address(self) -> str:
        """Where it listens: see `net.Listener`."""
        return self._inner.address

    def _over(self, conn: NetConn) -> Conn:
        try:
            return Conn(conn, self._context, server_side=True, handshake_timeout=self._patience)
        except BaseException:
            conn.close()
            raise

    async def accept(self, *, ctx: Context | None = None) -> Conn:
        """The next connection, before its handshake. Errors and cancel safety as
        `net.Listener.accept`. Go: Listener.Accept."""
        return self._over(await self._inner.accept(ctx=ctx))

    async def serve(
        self, handler: Callable[[Conn], Awaitable[object]], *, limit: int | None = None
    ) -> None:
        """Call ``handler(conn)`` in a goroutine of its own for every connection, after its
        handshake; see `net.Listener.serve`.

        What fails is logged (``logging``, "goroutine.tls"). If it is the handshake, the handler
        is not called. Under a ``limit`` handshakes count, too.
        """

        @functools.wraps(handler)
        async def handle(below: NetConn) -> None:
            async with self._over(below) as conn:
                try:
                    await conn.handshake()
                except OSError as failure:
                    if below.closed or isinstance(failure, _WENT_AWAY):
                        _log.debug("handshake: %s", failure)
                        return
                    _log.warning("handshake with %s failed: %s", _peer(below), failure)
                    return
                try:
                    called = handler(conn)
                    if not isinstance(called, Awaitable):
                        raise TypeError(
                            f"serve() takes an async def handler; {describe(handler)} returned"
                            f" {type(called).__name__}"
                        )
                    await called
                except Exception as failure:
                    _failed(describe(handler), failure, conn.closed or below.closed)

        await self._inner.serve(handle, limit=limit)

    async def shutdown(self, timeout: float | None = None, *, ctx: Context | None = None) -> bool:
        """Close the listener, and wait until the handlers that `serve` has begun have ended:
        see `net.Listener.shutdown`. Connections that are closed under their handlers end without
        close_notify."""
        return await self._inner.shutdown(timeout, ctx=ctx)

    def set_deadline(self, when: float | None) -> None:
        """From ``when`` on, `accept` fails with ``TimeoutError``: see `net.Listener`."""
        self._inner.set_deadline(when)

    def close(self) -> None:
        """Stop listening: see `net.Listener.close`."""
        self._inner.close()

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
        return self._over(await anext(self._inner))

    def __repr__(self) -> str:
        return f"<tls.Listener over {self._inner!r}>"


_WENT_AWAY = (ConnectionError, ssl.SSLEOFError)


def _failed(name: str, failure: Exception, closed: bool) -> None:
    """As io.serving has it, which can't tell: by the time it sees the failure, the connection is
    closed."""
    if closed or isinstance(failure, _WENT_AWAY):
        _log.debug("connection of %s: %s", name, failure)
    else:
        _log.error("%s failed; its connection is closed", name, exc_info=failure)


def _peer(conn: NetConn) -> str:
    try:
        return conn.remote_address
    except OSError:
        return "a peer that is gone"


async def listen(
    network: str,
    address: Address,
    context: ssl.SSLContext,
    *,
    handshake_timeout: float | None = PATIENCE,
    backlog: int = BACKLOG,
) -> Listener:
    """Listen on ``address`` for connections with TLS. Networks, addresses and errors as for
    `net.listen`, without those of datagrams, and ``backlog``; ``context`` as for `server`.

    ``handshake_timeout``: see `Listener`. Go: tls.Listen.

    >>> import ssl
    >>> async def main():
    ...     context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ...     async with await tls.listen("tcp", "127.0.0.1:0", context) as listener:
    ...         return listener.address.rpartition(":")[0]
    >>> goroutine.start(main)
    '127.0.0.1'
    """
    want_stream(network)
    want_context(context)
    inner = await net_listen(network, address, backlog=backlog)
    return Listener(inner, context, handshake_timeout=handshake_timeout)
