"""What is told to a ring once and for all, by ``io_uring_register(2)``.

Free functions over a ring.  All raise ``OSError``, and must be called in the
ring's thread.
"""

from __future__ import annotations

import errno
import math
import struct
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from . import abi, syscalls

if TYPE_CHECKING:
    from collections.abc import Buffer

    from .ring import Ring

__all__ = [
    "enable",
    "register_buffers",
    "register_eventfd",
    "register_files",
    "sync_cancel",
    "unregister_buffers",
    "unregister_eventfd",
    "unregister_files",
    "update_files",
]


def enable(ring: Ring) -> None:
    """Start a ring that was made with SETUP_R_DISABLED; its thread is the one that calls this."""
    ring.register(abi.REGISTER_ENABLE_RINGS, 0, 0)


def register_files(ring: Ring, fds: Sequence[int]) -> None:
    """Make these fds the ring's fixed files 0, 1, … (with IOSQE_FIXED_FILE); -1 leaves a gap."""
    array = struct.pack(f"={len(fds)}i", *fds)
    ring.register(abi.REGISTER_FILES, syscalls.address_of(array), len(fds))


def update_files(ring: Ring, start: int, fds: Sequence[int]) -> None:
    """Replace the fixed files from index ``start`` on; -1 empties a place."""
    array = struct.pack(f"={len(fds)}i", *fds)
    update = struct.pack(abi.RSRC_UPDATE, start, 0, syscalls.address_of(array))
    ring.register(abi.REGISTER_FILES_UPDATE, syscalls.address_of(update), len(fds))


def unregister_files(ring: Ring) -> None:
    """Let go of all fixed files."""
    ring.register(abi.UNREGISTER_FILES, 0, 0)


def register_buffers(ring: Ring, buffers: Iterable[Buffer]) -> None:
    """Pin these buffers for OP_READ_FIXED and OP_WRITE_FIXED (``buf_index`` 0, 1, …).

    They must be writable, and neither freed nor resized until unregistered;
    the caller keeps them.  Counts against RLIMIT_MEMLOCK (ENOMEM).
    """
    vector = b"".join(
        struct.pack("=QQ", syscalls.address_of(buffer), memoryview(buffer).nbytes)
        for buffer in buffers
    )
    ring.register(abi.REGISTER_BUFFERS, syscalls.address_of(vector), len(vector) // 16)


def unregister_buffers(ring: Ring) -> None:
    """Let go of the registered buffers."""
    ring.register(abi.UNREGISTER_BUFFERS, 0, 0)


def register_eventfd(ring: Ring, fd: int) -> None:
    """Have the kernel count completions on an eventfd."""
    array = struct.pack("=i", fd)
    ring.register(abi.REGISTER_EVENTFD, syscalls.address_of(array), 1)


def unregister_eventfd(ring: Ring) -> None:
    """Undo ``register_eventfd``."""
    ring.register(abi.UNREGISTER_EVENTFD, 0, 0)


def sync_cancel(
    ring: Ring,
    user_data: int | None = None,
    *,
    fd: int | None = None,
    timeout: float | None = None,
) -> None:
    """See ``Ring.sync_cancel``."""
    if user_data is not None and fd is not None:
        raise ValueError("cancel by user_data or by fd, not by both")
    flags = 0
    if fd is not None:
        flags = abi.ASYNC_CANCEL_FD
    elif user_data is None:
        flags = abi.ASYNC_CANCEL_ANY
    key, target = user_data or 0, -1 if fd is None else fd
    deadline = None if timeout is None else time.monotonic_ns() + math.ceil(timeout * 1e9)
    pause = 0.0
    while True:
        left = (-1, -1)
        if deadline is not None:
            left = divmod(max(deadline - time.monotonic_ns(), 0), 1_000_000_000)
        argument = struct.pack(abi.SYNC_CANCEL_REG, key, target, flags, *left, 0)
        try:
            count = ring.register(abi.REGISTER_SYNC_CANCEL, syscalls.address_of(argument), 1)
        except OSError as failure:
            if failure.errno == errno.ENOENT:
                return
            if failure.errno == errno.EINTR:
                continue
            raise
        # By key: one operation has ended, and there may be another.  ANY: so
        # many were told to end, and those that run on worker threads still may.
        ring.enter(0)  # the cancelled ones complete in here
        if flags == abi.ASYNC_CANCEL_ANY:
            if not count:
                return
            if deadline is not None and time.monotonic_ns() >= deadline:
                raise syscalls.error(errno.ETIME, "operations are still running")
            time.sleep(pause)
            pause = 0.001
