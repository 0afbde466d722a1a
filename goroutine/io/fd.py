"""read, write, readable, writable on raw fds. See the package for what they are for.

Readiness first, then a call that does not block: so a wait that is given up has taken no
data, and a blocking-mode fd shared with another process can't block the machine where the
kernel offers RWF_NOWAIT (pipes, sockets). Regular files are always ready.
"""

from __future__ import annotations

import errno
import os
import stat
import types
from collections.abc import Generator
from typing import TYPE_CHECKING

from ..runtime.goroutine import Commit
from ..runtime.shared import current
from .poller import POLLIN, POLLOUT, Wait

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["read", "read_into", "readable", "writable", "write"]


@types.coroutine
def _ready(fd: int, events: int, ctx: Context | None) -> Generator[Commit]:
    """Wait until fd has one of the events, or an error that the next call will report."""
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"a file descriptor is an int, not {type(fd).__name__}")
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    current()
    wait = Wait(fd, events)
    yield from wait.wait(ctx)
    if wait.result < 0:
        raise OSError(-wait.result, os.strerror(-wait.result))
    if wait.result & POLLNVAL:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


POLLNVAL = 32


async def readable(fd: int, *, ctx: Context | None = None) -> None:
    """Wait until a read of ``fd`` would not block (data, end of file or an error).

    ``OSError`` if it is no fd, ``TypeError`` if no int; `Canceled` if ``ctx`` is, or gets,
    cancelled. Cancel safety: nothing is consumed.

    >>> import os
    >>> async def main():
    ...     reader, writer = os.pipe()
    ...     goroutine.go(io.write, writer, b"hello")
    ...     await io.readable(reader)
    ...     data = os.read(reader, 100)
    ...     os.close(reader)
    ...     os.close(writer)
    ...     return data
    >>> goroutine.start(main)
    b'hello'
    """
    await _ready(fd, POLLIN, ctx)


async def writable(fd: int, *, ctx: Context | None = None) -> None:
    """Wait until a write to ``fd`` would not block.

    Errors as `readable`. Cancel safety: nothing is written.

    >>> import os
    >>> async def main():
    ...     reader, writer = os.pipe()
    ...     await io.writable(writer)
    ...     n = os.write(writer, b"hello")
    ...     os.close(reader)
    ...     os.close(writer)
    ...     return n
    >>> goroutine.start(main)
    5
    """
    await _ready(fd, POLLOUT, ctx)


async def read(fd: int, n: int, *, ctx: Context | None = None) -> bytes:
    """Up to ``n`` bytes, as soon as there are any; ``b""`` at the end of the file.

    ``OSError`` as read(2), ``ValueError`` for a negative n; `Canceled` if ``ctx`` is, or
    gets, cancelled. Cancel safety: a cancelled read has taken no data. Go: os.File.Read.

    >>> import os
    >>> async def main():
    ...     reader, writer = os.pipe()
    ...     await io.write(writer, b"hello")
    ...     os.close(writer)
    ...     data = await io.read(reader, 100), await io.read(reader, 100)
    ...     os.close(reader)
    ...     return data
    >>> goroutine.start(main)
    (b'hello', b'')
    """
    if n < 0:
        raise ValueError("read() of a negative number of bytes")
    buffer = bytearray(n)
    got = await read_into(fd, buffer, ctx=ctx)
    return bytes(memoryview(buffer)[:got])


async def read_into(fd: int, buffer: bytearray | memoryview, *, ctx: Context | None = None) -> int:
    """Read into ``buffer``; how many bytes, 0 at the end of the file. Otherwise as `read`.

    >>> import os
    >>> async def main():
    ...     reader, writer = os.pipe()
    ...     os.write(writer, b"hello")
    ...     buffer = bytearray(100)
    ...     n = await io.read_into(reader, buffer)
    ...     os.close(reader)
    ...     os.close(writer)
    ...     return buffer[:n]
    >>> goroutine.start(main)
    bytearray(b'hello')
    """
    while True:
        await _ready(fd, POLLIN, ctx)
        try:
            return _read_now(fd, buffer)
        except BlockingIOError:
            continue  # somebody else was quicker


def _read_now(fd: int, buffer: bytearray | memoryview) -> int:
    try:
        return os.preadv(fd, [buffer], -1, os.RWF_NOWAIT)
    except OSError as failure:
        if failure.errno not in _UNSUPPORTED and not _is_file(fd, failure):
            raise
    return os.readv(fd, [buffer])


def _is_file(fd: int, failure: OSError) -> bool:
    """EAGAIN of a regular file: it never will be ready without waiting (the page cache, locks)."""
    return failure.errno == errno.EAGAIN and stat.S_ISREG(os.fstat(fd).st_mode)


_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE, errno.ENOSYS)


async def write(
    fd: int, data: bytes | bytearray | memoryview, *, ctx: Context | None = None
) -> int:
    """Write some of ``data``, as soon as some can be taken; how many bytes (maybe not all).

    ``OSError`` as write(2); `Canceled` if ``ctx`` is, or gets, cancelled. Cancel safety: a
    cancelled write has written nothing. Go: os.File.Write writes all.

    >>> import os
    >>> async def main():
    ...     reader, writer = os.pipe()
    ...     n = await io.write(writer, b"hello")
    ...     os.close(reader)
    ...     os.close(writer)
    ...     return n
    >>> goroutine.start(main)
    5
    """
    view = memoryview(data).cast("B")
    while True:
        await _ready(fd, POLLOUT, ctx)
        try:
            return _write_now(fd, view)
        except BlockingIOError:
            continue


PIPE_BUF = 4096


def _write_now(fd: int, view: memoryview) -> int:
    try:
        return os.pwritev(fd, [view], -1, os.RWF_NOWAIT)
    except OSError as failure:
        if _is_file(fd, failure):
            return os.write(fd, view)
        if failure.errno not in _UNSUPPORTED:
            raise
    if os.get_blocking(fd):
        # A ready pipe takes PIPE_BUF bytes without blocking; more might.
        view = view[:PIPE_BUF]
    return os.write(fd, view)
