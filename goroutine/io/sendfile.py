"""sendfile: a file into a connection, without its bytes passing through Python."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol

from ..runtime.goroutine import Commit
from ..runtime.wait import check_ctx
from .blocked import Blocked

if TYPE_CHECKING:
    from .conn import Conn

__all__ = ["HasFd", "sendfile"]

MOST = 1 << 20  # bytes a call: others want a turn on this machine


class HasFd(Protocol):
    """A file object."""

    def fileno(self) -> int: ...


def sendfile(
    conn: Conn, file: int | HasFd, offset: int, count: int | None, ctx: Any
) -> Generator[Commit, None, int]:
    """See `Conn.sendfile`."""
    if ctx is not None:
        check_ctx(ctx)
    if offset < 0 or (count is not None and count < 0):
        raise ValueError("sendfile of a negative number of bytes, or from a negative offset")
    fd = file if isinstance(file, int) else file.fileno()
    try:
        conn.take_write()
    except IndexError:
        yield from conn.wait_to_write(ctx)
    sent = 0
    try:
        while count is None or sent < count:
            n = MOST if count is None else min(MOST, count - sent)
            try:
                n = os.sendfile(conn.fd, fd, offset + sent, n)
            except BlockingIOError:
                yield from Blocked(conn, True).pause(ctx)
                continue
            except OSError as failure:
                raise conn.write_failed(failure) from None
            if not n:
                break
            sent += n
    finally:
        conn.put_write(True)
        if conn.turns:
            conn.serve_turns()
    return sent
