"""stat, by path or of an open file: statx in the ring, os.stat() on a thread."""

from __future__ import annotations

import os
import struct
import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from ..io.ioring import abi
from ..io.ioring.ops import AT_FDCWD, STATX_BASIC_STATS, STATX_SIZE
from ..io.ioring.syscalls import address_of
from ..io.op import INTERRUPTED, Op
from ..runtime.goroutine import Commit
from .call import Call
from .handle import REFUSED, Handle, has_ring

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Path", "encoded", "stat", "stat_handle"]

type Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

# mask, block size, attributes, links, uid, gid, mode, inode, size, blocks, attributes known;
# times of access, birth, change, modification; numbers of the device it is, and it is on.
STATX = struct.Struct("=IIQIIIHxxQQQQ" + 4 * "qIxxxx" + "IIII")


def encoded(path: Path) -> bytes:
    """A path for the kernel, with its NUL. TypeError, ValueError."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name + b"\0"


@types.coroutine
def stat(
    path: Path, *, follow_symlinks: bool = True, ctx: Context | None = None
) -> Generator[Commit, None, os.stat_result]:
    """What os.stat() gives, or, if symbolic links are not to be followed, os.lstat().

    ``OSError`` as there; `Canceled` if ``ctx`` is or gets cancelled. Go: os.Stat, os.Lstat.

    >>> async def main():
    ...     return (await fs.stat("/dev/null")).st_size
    >>> goroutine.start(main)
    0
    """
    path = os.fspath(path)
    name = encoded(path)
    if has_ring(abi.OP_STATX):
        flags = 0 if follow_symlinks else AT_SYMLINK_NOFOLLOW
        while True:
            buffer = bytearray(STATX_SIZE)
            op = Op(abi.OP_STATX, AT_FDCWD, keep=(name, buffer), **_fields(name, buffer, flags))
            result = yield from op.run(ctx)
            if result >= 0:
                return _result(buffer)
            if result in REFUSED:
                break
            if result not in INTERRUPTED:
                raise OSError(-result, os.strerror(-result), path)
    call = Call(os.stat if follow_symlinks else os.lstat, path)
    return cast(os.stat_result, (yield from call.wait(ctx)))


@types.coroutine
def stat_handle(handle: Handle, ctx: Any) -> Generator[Commit, None, os.stat_result]:
    """That of an open file."""
    name, buffer = b"\0", bytearray(STATX_SIZE)
    result = yield from handle.do(
        abi.OP_STATX, ctx, os.fstat, keep=(name, buffer), **_fields(name, buffer, AT_EMPTY_PATH)
    )
    return result if isinstance(result, os.stat_result) else _result(buffer)


def _fields(name: bytes, buffer: bytearray, flags: int) -> dict[str, int]:
    return {
        "off": address_of(buffer, writable=True),
        "addr": address_of(name),
        "length": STATX_BASIC_STATS,
        "op_flags": flags,
    }


def _result(buffer: bytearray) -> os.stat_result:
    (
        _mask, blksize, _attributes, nlink, uid, gid, mode, ino, size, blocks, _known,
        atime, atime_ns, _btime, _btime_ns, ctime, ctime_ns, mtime, mtime_ns,
        rdev_major, rdev_minor, dev_major, dev_minor,
    ) = STATX.unpack_from(buffer)  # fmt: skip
    dev = os.makedev(dev_major, dev_minor)
    return os.stat_result(
        (mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime),
        {
            "st_atime": atime + 1e-9 * atime_ns,
            "st_mtime": mtime + 1e-9 * mtime_ns,
            "st_ctime": ctime + 1e-9 * ctime_ns,
            "st_atime_ns": atime * 1_000_000_000 + atime_ns,
            "st_mtime_ns": mtime * 1_000_000_000 + mtime_ns,
            "st_ctime_ns": ctime * 1_000_000_000 + ctime_ns,
            "st_blksize": blksize,
            "st_blocks": blocks,
            "st_rdev": os.makedev(rdev_major, rdev_minor),
        },
    )
