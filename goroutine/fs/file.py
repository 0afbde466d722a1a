"""File: what `open` gives."""

from __future__ import annotations

import errno
import io
import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..io.ioring import abi
from ..runtime.wait import check_ctx
from .bytesat import FileHandle
from .lines import Lines
from .statx import stat_handle

if TYPE_CHECKING:
    from collections.abc import Buffer

    from ..context import Context

__all__ = ["File"]

MOST_OFFSET = (1 << 63) - 1


class File:
    """An open file, of bytes, made by `open`. ``async for line in file`` gives its lines.

    Any number of goroutines may use it: what reads, writes or moves its position is done by
    one after the other, each as a whole; `pread` and `pwrite` go side by side. Writes are not
    buffered. Lines are read ahead, and the position is that of the next line nevertheless;
    a line goes to one goroutine.

    What is awaited takes ``ctx=``: `Canceled` if that, or the goroutine's group, is or
    gets cancelled. Cancel safety: the kernel is asked to stop the operation, and has let go
    of it when the goroutine goes on; a cancelled read or seek has taken and moved nothing, a
    cancelled write may have written a part, and has moved the position behind that. If the
    operation was done nevertheless it counts, and the cancellation is told at the next wait.

    After `close`, also for who waits just then: ``ValueError``. ``io.UnsupportedOperation``
    where the mode forbids it; ``OSError`` as the system calls, with the file's name.
    Go: os.File.

    >>> import os, tempfile
    >>> async def main(path):
    ...     async with fs.open(path, "w+") as f:
    ...         await f.write(b"one\\ntwo\\nthree\\n")
    ...         await f.seek(0)
    ...         lines = [line async for line in f]
    ...         return lines, await f.pread(3, 4), f.tell()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     goroutine.start(main, os.path.join(folder, "numbers"))
    ([b'one\\n', b'two\\n', b'three\\n'], b'two', 14)
    """

    __slots__ = ("__weakref__", "_appends", "_handle", "_lines", "_mode", "_reads", "_writes")

    def __init__(
        self, handle: FileHandle, mode: str, reads: bool, writes: bool, appends: bool
    ) -> None:
        """Not to be called: see `open`."""
        self._handle = handle
        self._lines = Lines(handle)
        self._mode = mode
        self._reads, self._writes, self._appends = reads, writes, appends
        if appends and not handle.stream:
            self._lines.pos = handle.seek(0, os.SEEK_END)

    # -- what it is -----------------------------------------------------------------------

    @property
    def name(self) -> str | bytes:
        """The path that was given to `open`."""
        name: str | bytes = self._handle.name
        return name

    @property
    def mode(self) -> str:
        """The mode that was given to `open`."""
        return self._mode

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._handle.closed

    def fileno(self) -> int:
        """The file descriptor; ``ValueError`` once closed. Its own position isn't the file's."""
        self._handle.check()
        return self._handle.fd

    def tell(self) -> int:
        """The position: where the next read or write is done. ``OSError`` (ESPIPE) if it has
        none."""
        self._positioned()
        return self._lines.tell()

    async def stat(self, *, ctx: Context | None = None) -> os.stat_result:
        """What os.fstat() gives. Go: File.Stat."""
        result: os.stat_result = await stat_handle(self._handle, ctx)
        return result

    # -- reading --------------------------------------------------------------------------

    async def read(self, n: int = -1, *, ctx: Context | None = None) -> bytes:
        """``n`` bytes, less only where the file ends; all up to the end if n is negative.

        ``b""`` at the end. From a stream (a FIFO, a terminal): up to n bytes, as soon as there
        are any. Go: File.Read; io.ReadFull; io.ReadAll.
        """
        lines = await self._take(self._reads, "read", ctx)
        try:
            handle = self._handle
            if lines or lines.rest:
                lines.settle()
            if handle.stream:
                return await self._read_stream(n, ctx)
            pos = lines.pos
            data = await (handle.read(n, pos, ctx) if n >= 0 else handle.read_all(pos, ctx))
            lines.pos = pos + len(data)
            return data
        finally:
            lines.mutex.unlock()

    async def _read_stream(self, n: int, ctx: Context | None) -> bytes:
        lines = self._lines
        data = lines.rest
        if n >= 0:
            if not data and n:
                return await self._handle.read_some(n, 0, ctx)
            lines.rest = data[n:]
            return data[:n]
        parts, lines.rest = [data], b""
        try:
            while data := await self._handle.read_some(1 << 16, 0, ctx):
                parts.append(data)
        except BaseException:
            lines.rest = b"".join(parts)
            raise
        return b"".join(parts)

    async def readline(self, *, ctx: Context | None = None) -> bytes:
        """A line with its ``\\n``, however long; what is left if the last one has none; ``b""``
        at the end. Go: bufio.Reader.ReadBytes."""
        self._may(self._reads, "read")
        if ctx is not None:
            check_ctx(ctx)
        try:
            return self._lines.popleft()
        except IndexError:
            return await self._lines.more(ctx)

    def __aiter__(self) -> Lines:
        self._may(self._reads, "read")
        return self._lines

    async def pread(self, n: int, offset: int, *, ctx: Context | None = None) -> bytes:
        """``n`` bytes from this offset on, less only where the file ends. The position stays,
        and is not looked at. ``OSError`` (ESPIPE) for a stream. Go: File.ReadAt."""
        handle = self._handle
        if not self._reads or handle.stream or n < 0 or not 0 <= offset <= MOST_OFFSET:
            self._may(self._reads, "read")
            self._check_offset(offset)
            raise ValueError("pread() of a negative number of bytes")
        if not n:
            handle.check()
        if ctx is not None:
            check_ctx(ctx)
        return await handle.read(n, offset, ctx)

    # -- writing --------------------------------------------------------------------------

    async def write(self, data: Buffer, *, ctx: Context | None = None) -> int:
        """Write all of ``data``; returns how many bytes that is.

        At the end of the file if that was opened for appending, else at the position. After
        an error, say ``OSError`` (ENOSPC) of a full disk, some may have been written: `tell`
        says how far. Go: File.Write.
        """
        view = memoryview(data).cast("B")
        lines = await self._take(self._writes, "writ", ctx)
        handle = self._handle
        size = len(view)
        try:
            if handle.stream:
                while view:
                    view = view[await handle.write_some(view, 0, ctx) :]
                return size
            lines.settle()
            while view:
                if self._appends:
                    done = await handle.write_some(view, -1, ctx)
                    lines.pos = handle.seek(0, os.SEEK_CUR)
                else:
                    done = await handle.write_some(view, lines.pos, ctx)
                    lines.pos += done
                view = view[done:]
            return size
        finally:
            lines.mutex.unlock()

    async def pwrite(self, data: Buffer, offset: int, *, ctx: Context | None = None) -> int:
        """Write all of ``data`` at this offset; returns how many bytes that is. The position
        stays, and is not looked at.

        ``io.UnsupportedOperation`` for a file opened for appending (the kernel would append),
        ``OSError`` (ESPIPE) for a stream. Go: File.WriteAt.
        """
        view = memoryview(data).cast("B")
        self._may(self._writes, "writ")
        if self._appends:
            raise io.UnsupportedOperation("pwrite to a file that was opened for appending")
        self._check_offset(offset)
        if ctx is not None:
            check_ctx(ctx)
        size = len(view)
        while view:
            done = await self._handle.write_some(view, offset, ctx)
            offset += done
            view = view[done:]
            if self._lines:  # what was read ahead may be out of date
                async with self._lines.mutex:
                    self._lines.settle()
        return size

    async def truncate(self, size: int | None = None, *, ctx: Context | None = None) -> int:
        """Set the file's size, by default to the position; returns it. Bytes that are new are
        zero; the position stays. Go: File.Truncate."""
        lines = await self._take(self._writes, "writ", ctx)
        try:
            self._positioned()
            lines.settle()
            if size is None:
                size = lines.pos
            self._check_offset(size)
            await self._handle.do(abi.OP_FTRUNCATE, ctx, os.ftruncate, size, off=size)
            return size
        finally:
            lines.mutex.unlock()

    async def fsync(self, *, datasync: bool = False, ctx: Context | None = None) -> None:
        """Have what was written carried to the device; ``datasync``: without what reading it
        doesn't need, such as its times. ``OSError`` (EINVAL) for a stream. Go: File.Sync."""
        self._handle.check()
        if ctx is not None:
            check_ctx(ctx)
        call = os.fdatasync if datasync else os.fsync
        flags = abi.FSYNC_DATASYNC if datasync else 0
        await self._handle.do(abi.OP_FSYNC, ctx, call, op_flags=flags)

    # -- the position ---------------------------------------------------------------------

    async def seek(
        self, offset: int, whence: int = os.SEEK_SET, *, ctx: Context | None = None
    ) -> int:
        """Move the position, from the start, from itself (SEEK_CUR) or from the end (SEEK_END;
        also SEEK_DATA and SEEK_HOLE); returns it. ``OSError`` (ESPIPE) for a stream, (EINVAL)
        before the start. Go: File.Seek."""
        lines = await self._take(True, "seek", ctx)
        try:
            self._positioned()
            lines.settle()
            if whence in (os.SEEK_SET, os.SEEK_CUR):
                if whence == os.SEEK_CUR:
                    offset += lines.pos
                self._check_offset(offset)
            elif whence in (os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
                offset = self._handle.seek(offset, whence)
            else:
                raise ValueError(f"invalid whence: {whence!r}")
            lines.pos = offset
            return offset
        finally:
            lines.mutex.unlock()

    # -- closing --------------------------------------------------------------------------

    async def close(self) -> None:
        """Close it. Who waits in an operation gets a ``ValueError``; this waits for their end,
        and is not cancelled. More than once does no harm.

        ``OSError`` if what was written could not be stored; it is closed then, too. (What
        must be on the disk needs `fsync`.) Go: File.Close.
        """
        await self._handle.close()
        self._lines.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- what they share ------------------------------------------------------------------

    async def _take(self, allowed: bool, what: str, ctx: Context | None) -> Lines:
        """Have the position for oneself."""
        self._may(allowed, what)
        if ctx is not None:
            check_ctx(ctx)
        lines = self._lines
        if not lines.mutex.try_lock():
            await lines.mutex.lock(ctx=ctx)
            if self._handle.closed:
                lines.mutex.unlock()
                self._handle.check()
        return lines

    def _may(self, allowed: bool, what: str) -> None:
        self._handle.check()
        if not allowed:
            raise io.UnsupportedOperation(f"not {what}able")

    def _positioned(self) -> None:
        self._handle.check()
        if self._handle.stream:
            raise self._handle.error(errno.ESPIPE)

    def _check_offset(self, offset: int) -> None:
        self._positioned()
        if not 0 <= offset <= MOST_OFFSET:
            raise self._handle.error(errno.EINVAL)

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<fs.File {self.name!r} {self._mode!r}{state}>"
