"""Reader and Writer: our ends of a child's pipes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..io.poller import POLLIN, POLLOUT
from ..runtime.park import gosched
from ..runtime.wait import check_ctx
from ..sync import Mutex
from .handle import Handle

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Reader", "Writer"]

CHUNK = 65536  # bytes per system call: what a pipe holds

TURNS = 16
"""System calls in a row, none of which had to wait, after which the others get their turn."""


class _Stream:
    """What the two have in common."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._mutex = Mutex()  # one operation at a time
        self._calls = 0  # since the last wait

    def fileno(self) -> int:
        """The file descriptor, non-blocking; ``ValueError`` once closed."""
        if self._handle.fd < 0:
            raise ValueError("I/O operation on closed file")
        return self._handle.fd

    @property
    def closed(self) -> bool:
        """Whether it has been closed, on this side."""
        return self._handle.fd < 0

    def close(self) -> None:
        """Close our end; who reads or writes just now gets a ``ValueError``.

        More than once does no harm. From any goroutine or thread.
        """
        self._handle.close()

    async def _take(self, ctx: Context | None) -> None:
        """Have the stream for oneself."""
        if ctx is not None:
            check_ctx(ctx)
        if not self._mutex.try_lock():
            await self._mutex.lock(ctx=ctx)

    async def _wait(self, events: int, ctx: Context | None) -> None:
        self._calls = 0
        await self._handle.wait(events, ctx)

    async def _turn(self) -> None:
        """Before a system call: let others run if this goes on and on."""
        self._calls += 1
        if self._calls > TURNS:
            self._calls = 0
            await gosched()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd={self._handle.fd}"
        return f"<process.{type(self).__name__} {state}>"


class Reader(_Stream):
    """What a child writes: its stdout or stderr. Bytes.

    ``async for line in reader`` reads line by line. Reads of several goroutines are served
    one after the other. A read of what has been closed on this side is a ``ValueError``;
    `Canceled` if ``ctx`` is or meanwhile gets cancelled. Cancel safety: a cancelled read has
    taken nothing; the next one gets it. Go: what Cmd.StdoutPipe gives, in a bufio.Reader.

    >>> async def main():
    ...     p = await process.start(["printf", r"a\\nb\\nc"], stdout=process.PIPE)
    ...     async with p:
    ...         return await p.stdout.readline(), [line async for line in p.stdout]
    >>> goroutine.start(main)
    (b'a\\n', [b'b\\n', b'c'])
    """

    def __init__(self, handle: Handle) -> None:
        super().__init__(handle)
        self.come = bytearray()  # come, and not yet read
        self._eof = False

    async def read(self, n: int = -1, *, ctx: Context | None = None) -> bytes:
        """Up to ``n`` bytes, as soon as there are any; all up to the end if n is negative.

        ``b""`` at the end: the child, and whoever has inherited its stdout, has closed it.
        """
        await self._take(ctx)
        try:
            if n >= 0:
                if n and not self.come:
                    await self._fill(ctx)
                return self._out(min(n, len(self.come)))
            await self.fill(ctx)
            return self._out(len(self.come))
        finally:
            self._mutex.unlock()

    async def readline(self, *, ctx: Context | None = None) -> bytes:
        """A line with its ``\\n``, however long; what is left if the last one has none; ``b""``
        at the end."""
        await self._take(ctx)
        try:
            seen = 0
            while True:
                end = self.come.find(b"\n", seen)
                if end >= 0:
                    return self._out(end + 1)
                seen = len(self.come)
                if not await self._fill(ctx):
                    return self._out(seen)
        finally:
            self._mutex.unlock()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def fill(self, ctx: Context | None = None) -> None:
        """Read on to the end, into ``come``."""
        while await self._fill(ctx):
            pass

    async def _fill(self, ctx: Context | None) -> bool:
        """Read some more into the buffer; False at the end. With the mutex held."""
        while not self._eof:
            await self._turn()
            data = self._handle.call(os.read, CHUNK)
            if data is None:
                await self._wait(POLLIN, ctx)
            elif data:
                self.come += data
                return True
            else:
                self._eof = True
        self.fileno()  # once closed, the end is an error, too
        return False

    def _out(self, n: int) -> bytes:
        """Take so many bytes out of the buffer."""
        data = bytes(memoryview(self.come)[:n])
        del self.come[:n]
        return data


class Writer(_Stream):
    """What a child reads: its stdin. Bytes, not buffered.

    Writes of several goroutines are served one after the other, each as a whole.
    Go: what Cmd.StdinPipe gives.

    >>> async def main():
    ...     p = await process.start(["cat"], stdin=process.PIPE, stdout=process.PIPE)
    ...     async with p:
    ...         await p.stdin.write(b"hello")
    ...         p.stdin.close()
    ...         return await p.stdout.read()
    >>> goroutine.start(main)
    b'hello'
    """

    async def write(
        self, data: bytes | bytearray | memoryview, *, ctx: Context | None = None
    ) -> int:
        """Write all of ``data``; waits while the child doesn't read. Returns len(data).

        ``BrokenPipeError`` if nobody reads any more: the child has ended, or closed its
        stdin. ``ValueError`` if it was, or meanwhile gets, closed on this side; `Canceled` if
        ``ctx`` is, or gets, cancelled. After an error, also after being cancelled while it
        waited, some of the data may have been written.
        """
        view = memoryview(data).cast("B")
        size = len(view)
        await self._take(ctx)
        try:
            self.fileno()
            while view:
                await self._turn()
                n = self._handle.call(os.write, view[:CHUNK])
                if n is None:
                    await self._wait(POLLOUT, ctx)
                else:
                    view = view[n:]
        finally:
            self._mutex.unlock()
        return size
