"""Stream: what TLS goes over, and two ways to use one that its methods don't offer."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ..context import background, with_timeout
from ..errors import DeadlineExceeded
from ..io.conn import Conn as NetConn
from ..runtime.shared import machine_or_none

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..context import Context

__all__ = ["Stream", "bounded", "write_now"]


class Stream(Protocol):
    """What TLS goes over: a `net.Conn`, one end of a `net.pipe`, a `tls.Conn`, or the like."""

    def read(self, n: int = ..., *, ctx: Context | None = None) -> Awaitable[bytes]:
        """As that of `net.Conn`."""

    def write(self, data: bytes, *, ctx: Context | None = None) -> Awaitable[int]:
        """As that of `net.Conn`."""

    def close(self) -> None:
        """Wakes who reads or writes, with an ``OSError``."""

    def set_read_deadline(self, when: float | None) -> None:
        """As that of `net.Conn`."""

    def set_write_deadline(self, when: float | None) -> None:
        """As that of `net.Conn`."""

    @property
    def local_address(self) -> str:
        """Our end."""

    @property
    def remote_address(self) -> str:
        """The peer's end."""


def write_now(conn: Stream, out: bytes) -> int:
    """Send as much as there is room for, without waiting; how many bytes.

    From a goroutine: closing is no coroutine, and what it sends should be on its way when the
    program ends. Of connections that have no fd nothing is known: 0. If the peer is gone,
    there is nothing left to send.
    """
    if not out or not isinstance(conn, NetConn) or machine_or_none() is None:
        return 0
    try:
        conn.write_token.pop()
    except IndexError:
        return 0  # somebody is writing, or it is closed
    try:
        return os.write(conn.fd, out)
    except BlockingIOError:
        return 0
    except OSError:
        return len(out)
    finally:
        conn.put_write(True)
        if conn.turns:
            conn.serve_turns()


@contextmanager
def bounded(ctx: Context | None, seconds: float | None, text: str) -> Iterator[Context | None]:
    """ctx, with so much time; then ``TimeoutError`` with this text, and ETIMEDOUT."""
    if seconds is None:
        yield ctx
        return
    with with_timeout(ctx or background(), seconds) as within:
        try:
            yield within
        except DeadlineExceeded:
            if within.err() is None or (ctx is not None and ctx.err() is not None):
                raise  # that was the group's deadline, or ctx's
            raise TimeoutError(errno.ETIMEDOUT, text) from None
