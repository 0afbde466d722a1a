"""A ring as memory: what the kernel shares with us, for loops that go without methods."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from . import abi, setup, syscalls

if TYPE_CHECKING:
    import mmap

__all__ = ["RingMemory"]


class RingMemory:
    """The part of a ``Ring`` that hot loops use: plain attributes, good until it is closed.

    Such a loop keeps them in locals.  It writes SQEs itself and adds to
    ``tail`` (never beyond ``sq_head[0] + sq_entries``), stores
    ``tail & 0xFFFFFFFF`` to ``sq_tail[0]``, and calls ``syscall``; then, having
    copied the CQEs between ``cq_head[0]`` and ``cq_tail[0]`` out, stores the
    new head to ``cq_head[0]``.  ``tail`` is shared with ``Ring.prepare``, so the
    two ways of queueing mix.  Nothing here belongs to two threads: every
    object is this ring's own.

    =================  ==========================================================
    fd                 the ring's fd; -1 once closed
    enter_fd           what io_uring_enter takes: a registered index, or the fd
    enter_flags        ENTER_REGISTERED_RING if it is an index, else 0
    flags, features    what the kernel granted (SETUP_…) and has (FEAT_…)
    sq_entries         size of the submission queue, a power of two
    cq_entries         size of the completion queue, a power of two
    sq_mask, cq_mask   one less
    sqes               memoryview of 64-bit words, 8 for each SQE
    sqe_bytes          the same as bytes, for ``Struct.pack_into``
    ring_mm            the mapping the completion queue lies in, sliceable
    cq_offset          where in it the CQEs begin, 16 bytes each
    cq_head, cq_tail   one-element memoryviews of 32 bits; head is ours to store
    sq_head, sq_tail   the same; tail is ours to store
    cq_overflow        the same: completions lost for want of kernel memory
    sq_flags           the same: SQ_CQ_OVERFLOW, SQ_TASKRUN
    tail               SQEs ever queued: an int that doesn't wrap
    syscall            libc's ``syscall`` as a function object of this ring's own:
                       -1 on failure, and then ``ctypes.get_errno()``.  Addresses
                       go as ``c_void_p`` (or None), sizes as ``c_size_t``
    syscall_nb         the same without detaching the thread state; only for calls
                       that can't block (``min_complete`` 0)
    timespec           two 64-bit words: seconds, nanoseconds
    timeout_arg        the ``GetEventsArg`` that points at them
    timeout_ptr,       its address and its size, to be passed with ENTER_EXT_ARG
    timeout_size
    =================  ==========================================================
    """

    __slots__ = (
        "_layout",
        "_timespec",
        "cq_entries",
        "cq_head",
        "cq_mask",
        "cq_offset",
        "cq_overflow",
        "cq_tail",
        "enter_fd",
        "enter_flags",
        "fd",
        "features",
        "flags",
        "ring_mm",
        "sq_entries",
        "sq_flags",
        "sq_head",
        "sq_mask",
        "sq_tail",
        "sqe_bytes",
        "sqes",
        "syscall",
        "syscall_nb",
        "tail",
        "timeout_arg",
        "timeout_ptr",
        "timeout_size",
        "timespec",
    )

    def __init__(self, layout: setup.Layout) -> None:
        self._layout = layout
        self.fd: int = layout.fd
        self.enter_fd: int = layout.fd
        self.enter_flags: int = 0
        self.flags: int = layout.flags
        self.features: int = layout.features
        self.sq_entries: int = layout.sq_entries
        self.cq_entries: int = layout.cq_entries
        self.sq_mask: int = layout.sq_entries - 1
        self.cq_mask: int = layout.cq_entries - 1

        sq, cq = layout.sq_offsets, layout.cq_offsets
        rings = layout.rings
        self.ring_mm: mmap.mmap = rings
        self.sq_head: memoryview = _word(rings, sq[0])
        self.sq_tail: memoryview = _word(rings, sq[1])
        self.sq_flags: memoryview = _word(rings, sq[4])
        self.cq_head: memoryview = _word(rings, cq[0])
        self.cq_tail: memoryview = _word(rings, cq[1])
        self.cq_overflow: memoryview = _word(rings, cq[4])
        self.cq_offset: int = cq[5]
        self.sqe_bytes: mmap.mmap = layout.sqes
        self.sqes: memoryview = memoryview(layout.sqes).cast("Q")
        if not layout.flags & abi.SETUP_NO_SQARRAY:
            # The indirection is never used: entry i is SQE i, for good.
            identity = struct.pack(f"={layout.sq_entries}I", *range(layout.sq_entries))
            rings[sq[6] : sq[6] + len(identity)] = identity
        self.tail: int = 0

        self.syscall: syscalls.Syscall = syscalls.new_syscall()
        self.syscall_nb: syscalls.Syscall = syscalls.new_syscall(blocking=False)
        self._timespec = (ctypes.c_int64 * 2)()
        self.timespec: memoryview = memoryview(self._timespec).cast("B").cast("q")
        self.timeout_arg: abi.GetEventsArg = abi.GetEventsArg(ts=ctypes.addressof(self._timespec))
        self.timeout_ptr: ctypes.c_void_p = ctypes.c_void_p(ctypes.addressof(self.timeout_arg))
        self.timeout_size: ctypes.c_size_t = ctypes.c_size_t(ctypes.sizeof(abi.GetEventsArg))

    def _free(self) -> None:
        """Close the fd and unmap; using a view afterwards is a ValueError, not a crash."""
        self.fd = self.enter_fd = -1
        for view in (
            self.sq_head,
            self.sq_tail,
            self.sq_flags,
            self.cq_head,
            self.cq_tail,
            self.cq_overflow,
            self.sqes,
            self.timespec,
        ):
            view.release()
        self._layout.close()


def _word(mapping: mmap.mmap, offset: int) -> memoryview:
    return memoryview(mapping)[offset : offset + 4].cast("I")
