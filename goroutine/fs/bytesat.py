"""FileHandle: bytes out of a file and into it, at an offset, without a buffer in between.

A short read is tried at once, with RWF_NOWAIT: what the kernel has in memory costs one system
call and no wait. All else is done as handle.py says.
"""

from __future__ import annotations

import os
import types
from collections.abc import Generator
from typing import Any, cast

from ..io.ioring import abi
from ..io.ioring.syscalls import address_of
from ..io.poller import POLLIN, POLLOUT
from ..runtime.goroutine import Commit
from .call import Call
from .handle import CLOSED, REFUSED, TURNS, Handle, has_ring

__all__ = ["CHUNK", "FileHandle"]

MOST = 1 << 20
"""Bytes per operation of the ring: copying more would keep the machine from the others."""

CHUNK = 1 << 16
"""Bytes that are read at a time where nobody says how many; the most that is tried at once."""


class FileHandle(Handle):
    """See above. Offsets are not negative; those given for a stream are ignored."""

    __slots__ = ()

    # -- reading --------------------------------------------------------------------------

    @types.coroutine
    def read(self, n: int, offset: int, ctx: Any) -> Generator[Commit | None, None, bytes]:
        """``n`` bytes from this offset on; less only where the file ends."""
        parts: list[bytes] = []
        if self.at_once and n <= CHUNK and self.turns < TURNS:  # the usual case, short
            self.turns += 1
            data = self.read_cached(n, offset)
            if data is not None:
                if len(data) == n or not data:
                    return data
                parts.append(data)
                offset += len(data)
                n -= len(data)
        while n:
            data = yield from self.read_some(n, offset, ctx)
            if len(data) == n and not parts:
                return data
            if not data:
                break
            parts.append(data)
            offset += len(data)
            n -= len(data)
        return b"".join(parts)

    @types.coroutine
    def read_all(self, offset: int, ctx: Any) -> Generator[Commit | None, None, bytes]:
        """All from this offset on. One that fills the size the file had is not copied."""
        parts: list[bytes] = []
        n = self.size() - offset
        while True:
            # Files of /proc have a size of 0; others may be growing.
            data = yield from self.read_some(n if n > 0 else CHUNK, offset, ctx)
            if not data:
                return b"".join(parts)
            parts.append(data)
            offset += len(data)
            n -= len(data)

    def size(self) -> int:
        self.enter()
        try:
            return os.fstat(self.fd).st_size
        finally:
            self.leave()

    def seek(self, offset: int, whence: int) -> int:
        """lseek(2)."""
        self.enter()
        try:
            return os.lseek(self.fd, offset, whence)
        except OSError as failure:
            failure.filename = self.name
            raise
        finally:
            self.leave()

    @types.coroutine
    def read_some(self, n: int, offset: int, ctx: Any) -> Generator[Commit | None, None, bytes]:
        """Up to ``n`` bytes (n > 0), ``b""`` only at the end. The offset of a stream is ignored."""
        if self.at_once and n <= CHUNK:
            yield from self.turn()
            data = self.read_cached(n, offset)
            if data is not None:
                return data
            self.turns = 0
        self.enter()
        try:
            if self.stream:
                return (yield from self.read_stream(n, ctx))
            if n > MOST:
                n = max(MOST, min(n, os.fstat(self.fd).st_size - offset))
            if has_ring(abi.OP_READ):
                answer = yield from self.read_ring(n, offset, ctx)
                if answer is not None:
                    return answer
            call = Call(os.pread, self.fd, n, offset, keep=self)
            return cast(bytes, (yield from self.call(call, ctx)))
        finally:
            self.leave()

    def read_cached(self, n: int, offset: int) -> bytes | None:
        """What can be had without waiting; None if nothing can."""
        users = self.users
        users.append(True)  # enter() and leave(), in place
        try:
            if self.closed:
                raise ValueError(CLOSED)
            buffer = bytearray(n)
            got = os.preadv(self.fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as failure:
            if -(failure.errno or 0) not in REFUSED:
                failure.filename = self.name
                raise
            self.at_once = False
            return None
        finally:
            users.pop()
            if self.closed:
                self.last()
        return bytes(buffer) if got == n else bytes(memoryview(buffer)[:got])

    def read_ring(self, n: int, offset: int, ctx: Any) -> Generator[Commit, None, bytes | None]:
        """None: the ring can't.

        The kernel writes into a bytes object which nobody else has seen yet. (Of two bytes at
        least: shorter ones are shared.) That saves a copy of everything.
        """
        buffer = bytes(max(n, 2))
        address = address_of(buffer)
        got = 0
        while got < n:
            size = min(n - got, MOST)
            result = yield from self.submit(
                abi.OP_READ, ctx, buffer, off=offset + got, addr=address + got, length=size
            )
            if result is None:
                if not got:
                    return None
                break  # asked again for the rest, it is refused once more
            got += result
            if result < size:
                break
        return buffer if got == len(buffer) else buffer[:got]

    def read_stream(self, n: int, ctx: Any) -> Generator[Commit | None, None, bytes]:
        yield from self.turn()
        while True:
            try:
                if not self.fresh:
                    return os.read(self.fd, n)
            except BlockingIOError:
                pass
            except OSError as failure:
                failure.filename = self.name
                raise
            yield from self.until(POLLIN, ctx)
            self.fresh = False

    # -- writing --------------------------------------------------------------------------

    @types.coroutine
    def write_some(
        self, view: memoryview, offset: int, ctx: Any
    ) -> Generator[Commit | None, None, int]:
        """Write some at this offset, -1: at the end of a file opened for appending."""
        self.enter()
        try:
            view = view[:MOST]
            if self.stream:
                return (yield from self.write_stream(view, ctx))
            if has_ring(abi.OP_WRITE):
                result = yield from self.submit(
                    abi.OP_WRITE,
                    ctx,
                    view,
                    off=offset,
                    addr=address_of(view),
                    length=len(view),
                )
                if result is not None:
                    return result
            if offset < 0:
                call = Call(os.write, self.fd, view, keep=self)
            else:
                call = Call(os.pwrite, self.fd, view, offset, keep=self)
            return cast(int, (yield from self.call(call, ctx)))
        finally:
            self.leave()

    def write_stream(self, view: memoryview, ctx: Any) -> Generator[Commit | None, None, int]:
        yield from self.turn()
        while True:
            try:
                return os.write(self.fd, view)
            except BlockingIOError:
                yield from self.until(POLLOUT, ctx)
            except OSError as failure:
                failure.filename = self.name
                raise
