"""Provided buffers: a ring of receive buffers from which the kernel picks.

An operation queued with ``IOSQE_BUFFER_SELECT`` and a group names no buffer;
the kernel takes one of the group's when there is data.  Ten thousand idle
connections so need no ten thousand buffers.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Self

from . import abi, syscalls

if TYPE_CHECKING:
    from .ring import Ring

__all__ = ["BufferRing"]

_MASK: Final = 0xFFFF


class BufferRing:
    """``count`` buffers of ``size`` bytes, given to ``ring`` as buffer group ``group``.

    ``count`` is a power of two up to 32768, ``group`` a number below 65536 that
    the ring doesn't use yet (else ``OSError`` EEXIST).  Keep ``count * size``
    within the processor's second-level cache.  Belongs to the ring's thread and
    is closed with the ring at the latest.

    **How it works.** Slot ``i`` of the ring describes buffer ``i``.  The kernel
    consumes slots strictly in order: it counts a head up, we count a tail up,
    and what lies between is the kernel's.  A completion with ``CQE_F_BUFFER``
    reports one consumed buffer, *also if its res is 0 or an error*.  When there
    are none left, an operation ends with ENOBUFS.

    **Giving back, the quick way:** ``release(n)`` moves the tail up by ``n`` and
    touches nothing else: since slots keep their buffers, that hands the ``n``
    *longest consumed* slots to the kernel, whichever buffers the caller had in
    mind.  That is right if and only if those have been reported and copied
    out, which is so when the caller

    1. copies the data out of every buffer as it decodes its completion,
       keeping none for later, and
    2. releases only after decoding everything its ring had to tell: then all
       that has been consumed has been reported, in whatever order, and the
       set of the ``n`` reported buffers is the set of the ``n`` longest
       consumed slots.

    What would break 2 is a consumed buffer whose completion comes late.  For
    sockets and pipes a buffer is consumed with the data, inside the same enter
    that posts its completion.  It comes late (a) for operations that run on
    the kernel's worker threads, as reads of regular files or with
    ``IOSQE_ASYNC`` do, and (b) on older kernels for single-shot receives,
    posted after multishot ones of the same enter, if the completion queue
    overflows between the two.  There, and to keep a buffer for longer, give back

    **the safe way:** ``recycle(ids)`` writes the given buffers into the slots
    that become the kernel's next, in any order.  Both ways may alternate, as
    long as no buffer is held when ``release`` is called.

    Bundles (``RECVSEND_BUNDLE``) must be queued with length 0: given a length
    the kernel cuts a slot short, for good.  Incremental consumption
    (``IOU_PBUF_RING_INC``) rewrites slots and isn't supported.

    Attributes for hot loops, good until ``close()``: ``data`` (the mmap with all
    buffers, sliceable to bytes; buffer ``i`` begins at ``i * size``), ``size``,
    ``count``, ``group``, ``tail`` (int, 16 bits), ``tail_view`` (memoryview of
    one 16-bit word: store the tail there).

    Raises ``OSError``: EINVAL, EEXIST, ENOMEM (memory, or RLIMIT_MEMLOCK).
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_entries",
        "_mask",
        "_pack",
        "_ring",
        "_slots",
        "count",
        "data",
        "group",
        "size",
        "tail",
        "tail_view",
    )

    def __init__(self, ring: Ring, group: int, count: int, size: int, flags: int = 0) -> None:
        if not 0 < count <= abi.BUF_RING_MAX or count & (count - 1):
            raise ValueError(f"count must be a power of two up to {abi.BUF_RING_MAX}: {count}")
        if size <= 0:
            raise ValueError(f"size must be positive: {size}")
        if flags:
            # IOU_PBUF_RING_MMAP has the kernel allocate what we do here.
            raise ValueError(f"flags {flags:#x} are not supported by this binding")
        self._ring: Ring | None = ring
        self.group: int = group
        self.count: int = count
        self.size: int = size
        self._mask: int = count - 1
        self._pack = struct.Struct(abi.BUF).pack_into
        self._slots: list[int] | None = None  # buffer of each slot, once they differ
        # The kernel pins the pages of the ring proper and writes to them.
        # Shared, so that a fork can't part us from it by copy-on-write.
        self._entries = mmap.mmap(-1, count * abi.BUF_SIZE)
        try:
            self.data: mmap.mmap = mmap.mmap(
                -1, count * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        except BaseException:
            self._entries.close()
            raise
        try:
            self._base: int = syscalls.address_of(self.data)
            for bid in range(count):
                self._describe(bid, bid)
            self.tail: int = count
            word = abi.BUF_RING_TAIL
            self.tail_view: memoryview = memoryview(self._entries)[word : word + 2].cast("H")
            self.tail_view[0] = count
            entries = syscalls.address_of(self._entries)
            argument = struct.pack(abi.BUF_REG, entries, count, group, 0, 0, 0, 0)
            ring.register(abi.REGISTER_PBUF_RING, syscalls.address_of(argument), 1)
        except BaseException:
            self._free()
            raise
        ring.buffer_rings.append(self)

    def _describe(self, slot: int, bid: int) -> None:
        self._pack(self._entries, slot * abi.BUF_SIZE, self._base + bid * self.size, self.size, bid)

    def take(self, bid: int, length: int) -> bytes:
        """A copy of the first ``length`` bytes of buffer ``bid``; doesn't give it back."""
        start = bid * self.size
        return self.data[start : start + length]

    def release(self, n: int) -> None:
        """Give the ``n`` longest consumed buffers back (see above for when that is right)."""
        self.tail = tail = (self.tail + n) & _MASK
        self.tail_view[0] = tail

    def recycle(self, bids: Iterable[int]) -> None:
        """Give these consumed buffers back, in any order, whatever else is still held.

        Each must have been reported by a completion and not been given back
        since; that isn't checked.
        """
        self._check()
        slots = self._slots
        if slots is None:
            slots = self._slots = list(range(self.count))
        tail = self.tail
        for bid in bids:
            # This slot is free: at least buffer `bid` is out of the ring.
            slot = tail & self._mask
            if slots[slot] != bid:
                slots[slot] = bid
                self._describe(slot, bid)
            tail = (tail + 1) & _MASK
        self.tail = tail
        self.tail_view[0] = tail

    def available(self) -> int:
        """Buffers the kernel has left.  Raises ``OSError`` EINVAL before Linux 6.8."""
        ring = self._check()
        status = bytearray(struct.pack(abi.BUF_STATUS, self.group, 0))
        ring.register(abi.REGISTER_PBUF_STATUS, syscalls.address_of(status), 1)
        head: int = struct.unpack_from(abi.BUF_STATUS, status)[1]
        return (self.tail - head) & _MASK

    @property
    def closed(self) -> bool:
        """Whether ``close()`` has been called, here or by the ring's."""
        return self._ring is None

    def close(self) -> None:
        """Take the group from the ring and free the memory.  May be called again.

        Operations in flight that select from it end with ENOBUFS or ENOENT; one
        that has a buffer already (case (a) above) must be cancelled before.
        Raises ``OSError`` EEXIST, and frees nothing, in a thread that isn't the
        ring's; in a forked child it frees the memory only.
        """
        ring = self._ring
        if ring is None:
            return
        if not ring.forked:
            argument = struct.pack(abi.BUF_REG, 0, 0, self.group, 0, 0, 0, 0)
            ring.register(abi.UNREGISTER_PBUF_RING, syscalls.address_of(argument), 1)
        ring.buffer_rings.remove(self)
        self._ring = None
        self._free()

    def abandon(self) -> None:
        """Free the memory only: the ring is gone, or is another process's."""
        self._ring = None
        self._free()

    def _check(self) -> Ring:
        if self._ring is None:
            raise ValueError("operation on a closed buffer ring")
        return self._ring

    def _free(self) -> None:
        view = getattr(self, "tail_view", None)
        if view is not None:
            view.release()
        for mapping in (self._entries, self.data):
            # Somebody may hold a view of it; it is unmapped when that is gone.
            with contextlib.suppress(BufferError):
                mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<BufferRing closed>"
        return f"<BufferRing group={self.group} {self.count} x {self.size}>"
