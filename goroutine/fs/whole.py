"""read_bytes and write_bytes: a file as a whole.

write_bytes replaces atomically. A temporary file is made in the same folder (on a thread:
resolving links, the owner and permissions of the old file), written and synced (in the
ring), and takes the old one's place (on a thread: rename, then the folder is synced, so that
it stays so after a crash). Whatever goes wrong before the rename, an error, a cancellation,
the end of the run, the temporary file is removed; the rename, once begun, is waited for.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING, Any

from ..io.ioring import abi
from ..runtime.shared import current
from ..runtime.wait import check_ctx
from .bytesat import FileHandle
from .call import Call
from .opening import open
from .statx import Path, encoded

if TYPE_CHECKING:
    from collections.abc import Buffer

    from ..context import Context

__all__ = ["read_bytes", "write_bytes"]


async def read_bytes(path: Path, *, ctx: Context | None = None) -> bytes:
    """All that is in a file, read to its end, wherever that is by then.

    Also of files without a size, such as those of /proc. ``OSError`` as `open`; `Canceled` if
    ``ctx``, or the goroutine's group, is or gets cancelled. Go: os.ReadFile.

    >>> async def main():
    ...     return await fs.read_bytes("/dev/null")
    >>> goroutine.start(main)
    b''
    """
    async with open(path, ctx=ctx) as file:
        return await file.read(ctx=ctx)


async def write_bytes(
    path: Path, data: Buffer, perm: int = 0o666, *, ctx: Context | None = None
) -> int:
    """Make ``data`` the contents of a file; returns how many bytes that is.

    A file that exists is replaced, atomically: whoever opens it sees the old or the new
    contents, also after a crash, and it keeps its permissions and, where that is allowed, its
    owner; a new one gets ``perm``, less the umask. A symbolic link is followed. (Other hard
    links keep the old contents. What isn't a regular file is written to.)

    ``OSError`` as open(2), write(2), fsync(2) and rename(2); `Canceled` if ``ctx``, or the
    goroutine's group, is or gets cancelled. Cancel safety: then, and after an error, the old
    file is as it was and nothing is left beside it. (Unless syncing the folder has failed.)
    Go: os.WriteFile, which doesn't replace.

    >>> import os, tempfile
    >>> async def main(path):
    ...     await fs.write_bytes(path, b"hello")
    ...     return await fs.read_bytes(path)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     goroutine.start(main, os.path.join(folder, "greeting"))
    b'hello'
    """
    view = memoryview(data).cast("B")
    path = os.fspath(path)
    encoded(path)
    if ctx is not None:
        check_ctx(ctx)
    making = Call(_Temporary.beside, path, perm, lost=_Temporary.discard)
    temporary: _Temporary | None = await making.wait(ctx)
    if temporary is None:
        async with open(path, "w", perm, ctx=ctx) as file:
            return await file.write(view, ctx=ctx)
    handle = None
    try:
        handle = FileHandle(temporary.fd, path, writes=True)
        offset = 0
        while offset < len(view):
            offset += await handle.write_some(view[offset:], offset, ctx)
        await handle.do(abi.OP_FSYNC, ctx, os.fsync)
        await handle.close()
        await Call(temporary.replace).wait(ctx)
    except BaseException:
        await _undo(temporary, handle)
        raise
    return len(view)


async def _undo(temporary: _Temporary, handle: FileHandle | None) -> None:
    """Leave nothing behind. Nothing cancels this."""
    if current().g is None:  # closed with the run: it can't wait
        if handle is not None:
            handle.give_back()
        temporary.unlink()
        return
    try:
        if handle is not None:
            await handle.close()
    except OSError:
        pass  # what failed before is what counts
    call = Call(temporary.unlink)
    try:
        await call.wait(firm=True)
    except BaseException:
        if call.withdraw():  # the run has ended meanwhile
            temporary.unlink()
        raise


class _Temporary:
    """A new file in the folder of the one that it is to replace. Its methods block."""

    __slots__ = ("fd", "path", "target")

    def __init__(self, path: Any, target: Any, fd: int) -> None:
        self.path, self.target, self.fd = path, target, fd

    @classmethod
    def beside(cls, path: Path, perm: int) -> _Temporary | None:
        """None: there is something that isn't a regular file."""
        name = os.fsencode(path)
        if not name:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        target = os.path.realpath(name)
        try:
            old = os.stat(target)
        except FileNotFoundError:
            old = None
        if name.endswith(b"/") or (old is not None and stat.S_ISDIR(old.st_mode)):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if old is not None:
            if not stat.S_ISREG(old.st_mode):
                return None
            if not os.access(target, os.W_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        own = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp".encode())
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(own, flags, perm if old is None else 0o600)
        except OSError as failure:
            failure.filename = path
            raise
        temporary = cls(own, target, fd)
        if old is not None:
            try:
                temporary.resemble(old)
            except BaseException:
                temporary.discard()
                raise
        return temporary

    def resemble(self, old: os.stat_result) -> None:
        """Take over the owner, if that is allowed, and then the permissions."""
        new = os.fstat(self.fd)
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            try:
                os.fchown(self.fd, old.st_uid, old.st_gid)
            except PermissionError:
                pass
        os.fchmod(self.fd, stat.S_IMODE(old.st_mode))

    def replace(self) -> None:
        """Take the place of the old file, and have that carried to the device."""
        os.replace(self.path, self.target)
        try:
            folder = os.open(os.path.dirname(self.target), os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            return  # a folder that one may write to but not list: nothing can be done
        try:
            os.fsync(folder)
        except OSError as failure:
            if failure.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # it has no such thing
                raise
        finally:
            os.close(folder)

    def unlink(self) -> None:
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def discard(self) -> None:
        """Nobody wants it."""
        os.close(self.fd)
        self.unlink()
