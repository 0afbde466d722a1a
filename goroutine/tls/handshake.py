"""Shaking: the handshake of a connection, and who may start it.

Whoever reads or writes first does it, for all: they wait at a Mutex meanwhile, each with his
own turn to read or to write in hand, so that for as long as it takes nobody else uses the
connection below. One that was interrupted while it waited for the peer has lost nothing (the
engine has what came), and who comes next takes it up; all other failures are for good.
"""

from __future__ import annotations

import copy
import errno
import ssl
from typing import TYPE_CHECKING

from ..context import background, with_timeout
from ..errors import ConnClosed
from ..io.deadline import Timed
from ..io.desc import CLOSED
from ..runtime.goroutine import Goroutine
from ..sync import Mutex
from .engine import Engine, truncated
from .stream import Stream, bounded, write_now

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["CHUNK", "INTERRUPTED", "Shaking"]

CHUNK = 1 << 16  # bytes per read of the connection
INTERRUPTED = "tls: a write was interrupted, nothing can be written any more"


class Shaking(Timed):
    """What a `Conn` is before it is one: all its fields, and the handshake."""

    __slots__ = (
        "_broken",
        "_engine",
        "_failure",
        "_leaving",
        "_patience",
        "_raw",
        "_read_until",
        "_reading",
        "_shaken",
        "_shaking",
        "_shut",
        "_write_until",
        "_writing",
        "closed",
    )

    def __init__(
        self,
        conn: Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        handshake_timeout: float | None = None,
    ) -> None:
        self._engine = Engine(context, server_side, server_hostname, session)
        self._raw = conn
        self._reading = Mutex()  # whose turn it is
        self._writing = Mutex()
        self._shaking = Mutex()
        self._shaken = False
        self._patience = handshake_timeout
        self._failure: Exception | None = None  # of the handshake, for good
        self._broken = False  # a write was interrupted
        self._shut = False  # close_notify has been sent, or is being sent
        self._read_until: float | None = None  # the deadlines
        self._write_until: float | None = None
        self._leaving: Goroutine[None] | None = None
        self.closed = False
        """Whether it was closed here."""

    def closed_error(self) -> Exception:
        """What is raised when it is closed."""
        return ConnClosed(errno.EBADF, CLOSED)

    async def handshake(self, *, ctx: Context | None = None) -> None:
        """Have the handshake done, unless it has been. (Reading and writing see to that.)

        ``ssl.SSLError`` if it fails, ``ssl.SSLCertVerificationError`` if the peer's certificate
        is not good; the peer is sent an alert. A failure is for good, and so is
        ``TimeoutError`` after the time that was set for all of it. Cancel safety: who was
        cancelled, or ran into the deadline for reading, while it waited for the peer, may go
        on later. Go: Conn.HandshakeContext.
        """
        if self._shaken:
            return
        await self._shaking.lock(ctx=ctx)
        try:
            await self._shake_once(ctx)
        finally:
            self._shaking.unlock()

    async def _shake_once(self, ctx: Context | None) -> None:
        if self._shaken:
            return
        if self.closed:
            raise self.closed_error()
        if self._failure is not None:
            raise copy.copy(self._failure)
        try:
            with bounded(ctx, self._patience, "tls: handshake timeout") as within:
                await self._shake(within)
        except TimeoutError as failure:
            if failure.errno == errno.ETIMEDOUT:  # not that of a deadline
                self._failure = failure.with_traceback(None)
            raise

    async def _shake(self, ctx: Context | None) -> None:
        engine = self._engine
        while True:
            try:
                done, out = engine.handshake()
            except Exception as failure:
                self._failure = failure.with_traceback(None)
                await self._alert()
                raise
            if out:
                try:
                    await self._raw.write(out, ctx=ctx)
                except BaseException as failure:
                    self._failure = BrokenPipeError(errno.EPIPE, INTERRUPTED)
                    self._check_closed(failure)
                    raise
            if done:
                self._shaken = True
                return
            if engine.eof:
                self._failure = truncated()
                raise self._failure
            try:
                engine.feed(await self._raw.read(CHUNK, ctx=ctx))
            except OSError as failure:
                self._check_closed(failure)
                raise

    async def _alert(self) -> None:
        """Tell the peer why the handshake has failed, if it listens."""
        out = self._engine.outgoing()
        out = out[write_now(self._raw, out) :]
        if out:
            try:
                with with_timeout(background(), 1.0) as within:
                    await self._raw.write(out, ctx=within)
            except OSError:
                pass

    def _check_closed(self, failure: BaseException) -> None:
        """Whatever the connection says: if it was closed here, that is why."""
        if self.closed and isinstance(failure, OSError):
            raise self.closed_error() from None
