"""open: the modes, and how a file comes to be open.

The fd is somebody's at every moment: the operation's until its goroutine has seen it (which
closes it when nobody is going to: io/op.py, call.py), and from then on a Handle's.

A FIFO. open(2) for reading waits until somebody writes. Here it doesn't: it is opened
non-blocking, and the first read waits (Handle.fresh). So no thread is stuck in it, and the
ring, which tries without waiting first, does the same as a thread. Opening one for writing
waits for a reader: the ring says ENXIO first, and is asked again to use a thread of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, cast

from ..io.desc import close_fd
from ..io.ioring import abi
from ..io.ioring.ops import AT_FDCWD
from ..io.ioring.syscalls import address_of
from ..io.op import INTERRUPTED, Op
from ..runtime.goroutine import Commit
from ..runtime.shared import current
from .bytesat import FileHandle
from .call import Call
from .file import File
from .handle import REFUSED, has_ring
from .statx import Path, encoded

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Opening", "open", "open_fd"]

KINDS = {
    "r": 0,
    "w": os.O_CREAT | os.O_TRUNC,
    "x": os.O_CREAT | os.O_EXCL,
    "a": os.O_CREAT | os.O_APPEND,
}


def parse(mode: str) -> int:
    """The flags of a mode; ValueError."""
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, not {type(mode).__name__}")
    if "t" in mode:
        raise ValueError(f"fs.open is for bytes: there is no text mode (mode {mode!r})")
    kinds = [c for c in mode if c in KINDS]
    if len(kinds) != 1 or len(set(mode)) != len(mode) or set(mode) - set("rwxa+b"):
        raise ValueError(f"mode must be one of r, w, x, a, with + or b or both, not {mode!r}")
    kind = kinds[0]
    if "+" in mode:
        return KINDS[kind] | os.O_RDWR
    return KINDS[kind] | (os.O_RDONLY if kind == "r" else os.O_WRONLY)


class Opening:
    """What `open` gives: ``async with`` it, or await it."""

    __slots__ = ("_ctx", "_file", "_flags", "_mode", "_path", "_perm")

    def __init__(self, path: Path, mode: str, perm: int, ctx: Context | None) -> None:
        self._path = os.fspath(path)
        self._mode, self._perm, self._ctx = mode, perm, ctx
        self._flags = parse(mode)
        self._file: File | None = None

    def __await__(self) -> Generator[Commit, None, File]:
        flags = self._flags
        access = flags & os.O_ACCMODE
        fd = yield from open_fd(self._path, flags, self._perm, self._ctx)
        handle = FileHandle(fd, self._path, access != os.O_RDONLY)
        return File(
            handle,
            self._mode,
            reads=access != os.O_WRONLY,
            writes=handle.writes,
            appends=bool(flags & os.O_APPEND),
        )

    async def __aenter__(self) -> File:
        self._file = file = await self
        return file

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        file, self._file = self._file, None
        if file is not None:
            await file.close()


def open(path: Path, mode: str = "r", perm: int = 0o666, *, ctx: Context | None = None) -> Opening:
    """Open a file: ``async with fs.open(path) as f``, or ``f = await fs.open(path)``.

    ``mode`` as for Python's open(): ``"r"`` to read, ``"w"`` to write it anew, ``"x"`` to
    make one that must not exist, ``"a"`` to append, with ``"+"`` to do both. It is bytes in
    any case, and a ``"b"`` says nothing; ``ValueError`` for another mode, a ``"t"`` too.
    A file that is made gets ``perm``, less the umask.

    ``OSError`` as open(2); ``IsADirectoryError`` for a directory. A FIFO that is opened for
    reading is there at once, and the first read waits for somebody to write; for writing
    this waits for a reader. `Canceled` if ``ctx``, or the goroutine's group, is or
    gets cancelled. Cancel safety: nothing stays open; the file may have been made or emptied.
    Go: os.OpenFile.

    >>> import os, tempfile
    >>> async def main(path):
    ...     async with fs.open(path, "w") as f:
    ...         await f.write(b"hello")
    ...     f = await fs.open(path)
    ...     try:
    ...         return await f.read()
    ...     finally:
    ...         await f.close()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     goroutine.start(main, os.path.join(folder, "greeting"))
    b'hello'
    """
    return Opening(path, mode, perm, ctx)


class _Open(Op):
    """An fd that nobody has seen is closed."""

    __slots__ = ()

    def lost(self, result: int) -> None:
        if result >= 0:
            close_fd(result)


def open_fd(path: Path, flags: int, perm: int, ctx: Context | None) -> Generator[Commit, None, int]:
    """open(2), close-on-exec."""
    name = encoded(path)
    current()
    flags |= os.O_CLOEXEC
    if flags & os.O_ACCMODE == os.O_RDONLY:
        flags |= os.O_NONBLOCK
    if has_ring(abi.OP_OPENAT):
        sqe_flags = 0
        while True:
            op = _Open(
                abi.OP_OPENAT,
                AT_FDCWD,
                addr=address_of(name),
                length=perm,
                op_flags=flags,
                flags=sqe_flags,
                keep=name,
            )
            result = yield from op.run(ctx)
            if result >= 0:
                return result
            if result == -errno.ENXIO and not sqe_flags:
                sqe_flags = abi.IOSQE_ASYNC  # it may be a FIFO without a reader: wait for one
                continue
            if result in REFUSED:
                break
            if result not in INTERRUPTED:
                raise OSError(-result, os.strerror(-result), path)
    call = Call(os.open, path, flags, perm, waits=False, lost=close_fd)
    return cast(int, (yield from call.wait(ctx)))
