"""Lines: where a file is read and written next, and the lines that have been read ahead.

A file's own position is here, not in the kernel: reads and writes go to offsets. So one that
was cancelled has moved nothing. (Only appending, and streams, leave it to the kernel.)

Lines are cut from a chunk all at once, into a deque, which this is: iteration pops one, and
that is all there is to do for most lines. ``pos`` is the offset behind them, so the file's
position is ``pos`` less their length. Only whole lines lie there: what follows the last
newline of a chunk is read again with the next one. (A stream's can't be: that is ``rest``.)

Popping takes no lock. All else is done with the mutex held, which serialises what several
goroutines do with one file. Who wants to read, write or seek takes the lines away from the
right, one by one, while others may pop from the left: so what it takes is what lies directly
before ``pos``, and every line is somebody's, once.
"""

from __future__ import annotations

import io
import types
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from ..runtime.goroutine import Commit
from ..sync import Mutex
from .bytesat import CHUNK, FileHandle

__all__ = ["Lines"]


class Lines(deque[bytes]):
    """An iterator over lines; see above."""

    __slots__ = ("handle", "mutex", "pos", "rest")

    def __init__(self, handle: FileHandle) -> None:
        super().__init__()
        self.handle = handle
        self.mutex = Mutex()
        self.pos = 0
        self.rest = b""

    def __aiter__(self) -> Lines:
        return self

    @types.coroutine
    def __anext__(
        self, popleft: Callable[[deque[bytes]], bytes] = deque.popleft
    ) -> Generator[Commit | None, None, bytes]:
        try:
            return popleft(self)  # a default, since this is all that most lines cost
        except IndexError:
            return (yield from self.next_line())

    @types.coroutine
    def next_line(self) -> Generator[Commit | None, None, bytes]:
        """The rest of __anext__: apart, since a smaller frame is quicker to make."""
        line = yield from self.more(None)
        if not line:
            raise StopAsyncIteration
        return line

    @types.coroutine
    def more(self, ctx: Any) -> Generator[Commit | None, None, bytes]:
        """The next line, if none was left: reads some. ``b""`` at the end."""
        if not self.mutex.try_lock():
            yield from self.mutex.lock(ctx=ctx)
        try:
            try:
                return self.popleft()  # somebody else has read some meanwhile
            except IndexError:
                return (yield from self.cut(ctx))
        finally:
            self.mutex.unlock()

    def cut(self, ctx: Any) -> Generator[Commit | None, None, bytes]:
        """Read until there is a newline, or the end. With the mutex held."""
        handle, pos = self.handle, self.pos
        handle.check()
        parts: list[bytes] = []
        data, self.rest = self.rest, b""
        try:
            while not (end := data.rfind(b"\n") + 1):
                if data:
                    parts.append(data)
                data = yield from handle.read_some(CHUNK, pos, ctx)
                if not data:
                    self.pos = pos
                    return b"".join(parts)
                pos += len(data)
        except BaseException:
            if handle.stream:  # else it is read again
                self.rest = b"".join(parts)
            raise
        parts.append(data)
        lines = io.BytesIO(b"".join(parts)).readlines()
        if end < len(data):
            rest = lines.pop()
            pos -= len(rest)
            if handle.stream:
                self.rest = rest
        self.pos = pos
        others = iter(lines)
        first = next(others)
        self.extend(others)
        return first

    def tell(self) -> int:
        """The file's position."""
        while True:
            try:
                return self.pos - sum(map(len, self))
            except RuntimeError:
                pass  # somebody took a line meanwhile

    def settle(self) -> None:
        """Take back the lines that nobody has had: ``pos`` is the file's position then, and a
        stream's bytes are in ``rest``. With the mutex held."""
        lines: list[bytes] = []
        try:
            while True:
                lines.append(self.pop())
        except IndexError:
            pass
        if self.handle.stream:
            lines.reverse()
            self.rest = b"".join(lines) + self.rest
        else:
            self.pos -= sum(map(len, lines))

    def __repr__(self) -> str:
        return f"<lines of {self.handle.name!r}>"
