"""Making a ring: the set-up call with fall-back to fewer flags, and the mappings.

Which kernel has what: SUBMIT_ALL 5.18, COOP_TASKRUN 5.19, SINGLE_ISSUER 6.0,
DEFER_TASKRUN 6.1, NO_SQARRAY 6.6.  A kernel answers EINVAL to a flag it
doesn't know, so the best set is found by trying.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
from typing import Final, NamedTuple

from . import abi, syscalls

__all__ = ["FALLBACKS", "Layout", "make"]

_BEST: Final = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN | abi.SETUP_SUBMIT_ALL

FALLBACKS: Final = (
    _BEST | abi.SETUP_NO_SQARRAY,
    _BEST,
    abi.SETUP_SINGLE_ISSUER | abi.SETUP_COOP_TASKRUN | abi.SETUP_SUBMIT_ALL,
    abi.SETUP_COOP_TASKRUN | abi.SETUP_SUBMIT_ALL,
    0,
)
"""The sets of flags tried in turn when none are asked for; CQSIZE and CLAMP go with each."""

_SUPPORTED: Final = (
    abi.SETUP_CQSIZE
    | abi.SETUP_CLAMP
    | abi.SETUP_R_DISABLED
    | abi.SETUP_SUBMIT_ALL
    | abi.SETUP_COOP_TASKRUN
    | abi.SETUP_TASKRUN_FLAG
    | abi.SETUP_SINGLE_ISSUER
    | abi.SETUP_DEFER_TASKRUN
    | abi.SETUP_NO_SQARRAY
)

_REQUIRED: Final = abi.FEAT_SINGLE_MMAP | abi.FEAT_NODROP | abi.FEAT_EXT_ARG


class Layout(NamedTuple):
    """A ring as the kernel made it: the fd, what it granted, and where things lie."""

    fd: int
    flags: int
    features: int
    sq_entries: int
    cq_entries: int
    sq_offsets: tuple[int, ...]  # head tail ring_mask ring_entries flags dropped array
    cq_offsets: tuple[int, ...]  # head tail ring_mask ring_entries overflow cqes flags
    rings: mmap.mmap
    sqes: mmap.mmap

    def close(self) -> None:
        """Unmap and close; what somebody holds a view of is unmapped when that is gone."""
        for mapping in (self.rings, self.sqes):
            with contextlib.suppress(BufferError):
                mapping.close()
        os.close(self.fd)


def make(entries: int, cq_entries: int, flags: int | None) -> Layout:
    """Set a ring up and map it.  Raises OSError; leaves nothing behind when it does."""
    if flags is not None and flags & ~_SUPPORTED:
        raise ValueError(f"set-up flags {flags & ~_SUPPORTED:#x} are not supported by this binding")
    params, fd = _setup(entries, cq_entries, FALLBACKS if flags is None else (flags,))
    rings = None
    try:
        got = struct.unpack_from(abi.PARAMS_HEAD, params)
        sq_entries, cq_entries, granted, features = got[0], got[1], got[2], got[5]
        if features & _REQUIRED != _REQUIRED:
            raise syscalls.error(errno.ENOSYS, "this kernel's io_uring is too old (6.1 is needed)")
        sq = struct.unpack_from(abi.SQ_OFFSETS, params, abi.PARAMS_SQ_OFF)
        cq = struct.unpack_from(abi.CQ_OFFSETS, params, abi.PARAMS_CQ_OFF)
        size = cq[5] + cq_entries * abi.CQE_SIZE
        if not granted & abi.SETUP_NO_SQARRAY:
            size = max(size, sq[6] + sq_entries * 4)
        rings = _map(fd, size, abi.OFF_SQ_RING)
        sqes = _map(fd, sq_entries * abi.SQE_SIZE, abi.OFF_SQES)
    except BaseException:
        if rings is not None:
            rings.close()
        os.close(fd)
        raise
    return Layout(fd, granted, features, sq_entries, cq_entries, sq, cq, rings, sqes)


def _setup(entries: int, cq_entries: int, candidates: tuple[int, ...]) -> tuple[bytearray, int]:
    for position, flags in enumerate(candidates, 1):
        params = bytearray(abi.PARAMS_SIZE)
        sized = flags | abi.SETUP_CQSIZE | abi.SETUP_CLAMP
        struct.pack_into("=3I", params, 0, 0, cq_entries, sized)
        try:
            return params, syscalls.setup(entries, params)
        except OSError as failure:
            if failure.errno != errno.EINVAL or position == len(candidates):
                raise
    raise AssertionError("no candidates")


def _map(fd: int, size: int, offset: int) -> mmap.mmap:
    # trackfd=False: otherwise mmap keeps a duplicate of the fd, and with it the ring.
    return mmap.mmap(
        fd,
        size,
        mmap.MAP_SHARED | mmap.MAP_POPULATE,
        mmap.PROT_READ | mmap.PROT_WRITE,
        offset=offset,
        trackfd=False,
    )
