"""The ring: queueing, submitting, waiting, completions, registration."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import platform
import struct
import time
from collections import deque
from threading import get_native_id
from typing import TYPE_CHECKING, Final, Self

from . import abi, registration, setup, syscalls
from .completion import Completion
from .memory import RingMemory

if TYPE_CHECKING:
    from .buffers import BufferRing

__all__ = ["Ring"]

_MASK: Final = 0xFFFFFFFF
_FOREVER: Final = 1e9  # seconds; a longer timeout is none
_STRONGLY_ORDERED: Final = platform.machine() in ("x86_64", "AMD64", "i686")


class Ring(RingMemory):
    """One io_uring instance.

    **One thread.** A ring must be made, used and closed by one and the same
    thread: the kernel holds it to that (SINGLE_ISSUER; a submission from
    elsewhere fails with ``EEXIST``), and nothing in here takes a lock.  A
    forked child must not use its copy; all it may do is ``close()`` it, which
    then leaves the parent's ring alone.  The fd is close-on-exec.

    **Buffers.** The kernel is given addresses.  Whatever an operation reads
    from or writes to must be kept alive, unmoved and, if the kernel writes to
    it, untouched by the caller until its completion has been read.  Paths and
    socket addresses given to ``ops`` are the exception: the ring keeps them
    until the kernel has copied them, on submission.

    ``entries`` and ``cq_entries`` are rounded up to powers of two, and down to
    what the kernel allows.  ``flags=None`` takes the best set this kernel
    knows (see ``setup.FALLBACKS``); others are used as they are.
    ``register_fd`` saves looking the fd up on every enter; where that can't be
    had (16 rings a thread), the fd itself is used.

    Raises ``OSError``: ENOSYS (no io_uring), EPERM (forbidden, by seccomp or
    the sysctl ``kernel.io_uring_disabled``), ENOMEM (memory, or
    RLIMIT_MEMLOCK), EMFILE, EINVAL.  Nothing stays open when it does.

    There is no ``__del__``: a ring that is dropped without ``close()`` leaks
    its fd.  After ``close()`` every operation raises ``ValueError``.

    Loops that can't afford method calls find all they need as plain attributes:
    see ``RingMemory``.
    """

    __slots__ = (
        "__weakref__",
        "_cqes",
        "_enter_bits",
        "_limit",
        "_owner",
        "_pack",
        "_pid",
        "_pinned",
        "_weak",
        "buffer_rings",
    )

    def __init__(
        self,
        entries: int = 256,
        cq_entries: int = 4096,
        flags: int | None = None,
        *,
        register_fd: bool = True,
    ) -> None:
        layout = setup.make(entries, cq_entries, flags)
        try:
            super().__init__(layout)
            self._enter_bits: int = abi.ENTER_GETEVENTS
            self._limit: int = self.sq_entries  # the tail at which prepare must look for room
            self._pack = struct.Struct(abi.SQE).pack_into
            self._cqes = struct.Struct(abi.CQE).iter_unpack
            self._pinned: deque[tuple[int, object]] = deque()  # with the tail that follows its SQE
            self._owner: int = get_native_id()
            self._pid: int = os.getpid()
            # With DEFER_TASKRUN only this very thread, inside enter, posts CQEs.
            # Without, others do, and to read a CQE after the tail that announces
            # it takes an order that plain loads have on some machines only.
            self._weak: bool = not (_STRONGLY_ORDERED or self.flags & abi.SETUP_DEFER_TASKRUN)
            self.buffer_rings: list[BufferRing] = []
            if register_fd:
                self.register_ring_fd()
        except BaseException:
            layout.close()
            raise

    # --- queueing ----------------------------------------------------------------

    def prepare(
        self,
        op: int,
        *,
        flags: int = 0,
        ioprio: int = 0,
        fd: int = -1,
        off: int = 0,
        addr: int = 0,
        length: int = 0,
        op_flags: int = 0,
        user_data: int = 0,
        buf_index: int = 0,
        personality: int = 0,
        file_index: int = 0,
        addr3: int = 0,
    ) -> None:
        """Queue one operation; the arguments are the fields of the SQE.

        ``buf_index`` is also the buffer group.  All but ``fd`` are unsigned and
        must fit their fields (``struct.error`` otherwise).  A full queue is
        submitted first: nothing is ever overwritten or dropped.  Raises what
        ``submit`` raises then.
        """
        tail = self.tail
        if tail >= self._limit:
            self.make_room()
        self._pack(
            self.sqe_bytes,
            (tail & self.sq_mask) << 6,
            op,
            flags,
            ioprio,
            fd,
            off,
            addr,
            length,
            op_flags,
            user_data,
            buf_index,
            personality,
            file_index,
            addr3,
            0,
        )
        self.tail = tail + 1

    def make_room(self) -> int:
        """Free entries of the submission queue, at least one: submits if there is none."""
        self._check()
        room = self._room()
        if room <= 0:
            self.submit()
            room = self._room()
            if room <= 0:
                raise syscalls.error(errno.EBUSY, "the submission queue stays full")
        return room

    def _room(self) -> int:
        used = (self.tail - self.sq_head[0]) & _MASK
        self._limit = self.tail - used + self.sq_entries
        return self.sq_entries - used

    def pin(self, value: object) -> None:
        """Keep ``value`` alive until the operation queued last has been submitted."""
        self._unpin()
        self._pinned.append((self.tail, value))

    def _unpin(self) -> None:
        pinned = self._pinned
        if pinned:
            submitted = self.tail - self.pending()
            while pinned and pinned[0][0] <= submitted:
                pinned.popleft()

    # --- submitting and waiting ----------------------------------------------------

    def pending(self) -> int:
        """Operations queued and not yet submitted."""
        self._check()
        return (self.tail - self.sq_head[0]) & _MASK

    def submit(self) -> int:
        """Hand everything queued to the kernel, without waiting; returns how many.

        Raises ``OSError``: EBUSY or EAGAIN when the kernel takes no more until
        completions have been read (or memory is short); what wasn't taken stays
        queued, so read and submit again.  A bad SQE isn't an error here: it
        completes with a negative ``res``.
        """
        return self.submit_and_wait(0)

    def submit_and_wait(self, n: int = 1, timeout: float | None = None) -> int:
        """Submit, then wait for ``n`` unread completions, ``timeout`` seconds at most.

        Returns how many operations were submitted; when the time is over that
        is no error: ask ``completions()``.  Signal handlers run meanwhile (in
        the main thread) and what they raise comes out of here.
        Raises like ``submit``.
        """
        self._check()
        tail = self.tail & _MASK
        self.sq_tail[0] = tail
        try:
            submitted = self.enter((tail - self.sq_head[0]) & _MASK, n, timeout)
        except OSError as failure:
            if failure.errno not in (errno.EBUSY, errno.EAGAIN):
                raise
            # The kernel wants completions collected first.  An enter without a
            # submission does what can be done from here; the rest is reading.
            self.enter(0)
            if n and self.ready():
                return 0
            submitted = self.enter((tail - self.sq_head[0]) & _MASK, n, timeout)
        self._unpin()
        return submitted

    def enter(self, to_submit: int, min_complete: int = 0, timeout: float | None = None) -> int:
        """``io_uring_enter(2)``: submit from the queue as ``sq_tail[0]`` says, and wait.

        Returns how many were submitted, after ``min_complete`` completions are
        there to be read or ``timeout`` seconds have passed, never earlier.
        Without ``min_complete`` it doesn't wait.  Interrupted waits are resumed
        for the time that is left.  Raises ``OSError``: EEXIST (called by a
        thread that isn't the ring's), EBUSY, EAGAIN, EBADR (completions were
        lost for want of memory).  Overwrites ``timespec``.
        """
        bits = self._enter_bits
        argument = size = None
        deadline = 0
        if min_complete:
            min_complete = min(min_complete, self.cq_entries)
            if timeout is not None and timeout < _FOREVER:
                if timeout > 0:
                    left = math.ceil(timeout * 1e9)
                    deadline = time.monotonic_ns() + left
                    argument, size = self.timeout_ptr, self.timeout_size
                    bits |= abi.ENTER_EXT_ARG
                    self.timespec[0], self.timespec[1] = divmod(left, 1_000_000_000)
                else:
                    min_complete = 0
        submitted = 0
        while True:
            result = self.syscall(
                abi.SYS_IO_URING_ENTER,
                self.enter_fd,
                to_submit,
                min_complete,
                bits,
                argument,
                size,
            )
            if result >= 0:
                submitted += result
                # A submission hides how the wait after it ended; one that
                # stopped half-way (or found less than it was told) has not
                # waited at all.
                to_submit = to_submit - result if result else 0
                if not to_submit and (not min_complete or self.ready() >= min_complete):
                    return submitted
            else:
                number = ctypes.get_errno()
                if number == errno.ETIME:
                    return submitted
                if number != errno.EINTR:
                    self._check()
                    if submitted and number in (errno.EBUSY, errno.EAGAIN):
                        return submitted
                    raise syscalls.error(number, "io_uring_enter")
            if deadline:
                left = deadline - time.monotonic_ns()
                if left <= 0:
                    if not to_submit:
                        return submitted
                    left = 0
                self.timespec[0], self.timespec[1] = divmod(left, 1_000_000_000)

    # --- completions -----------------------------------------------------------------

    def ready(self) -> int:
        """Completions that can be read now."""
        return (self.cq_tail[0] - self.cq_head[0]) & _MASK

    def completions(self) -> list[Completion]:
        """Take all completions that are there, in the kernel's order; doesn't wait.

        If the queue had overflowed, those the kernel kept back are included.
        """
        self._check()
        found: list[Completion] = []
        self._collect(found)
        if self.sq_flags[0] & abi.SQ_CQ_OVERFLOW:
            try:
                self.enter(0)
            except OSError:
                if not found:
                    raise
            self._collect(found)
        return found

    def _collect(self, found: list[Completion]) -> None:
        head, tail = self.cq_head[0], self.cq_tail[0]
        count = (tail - head) & _MASK
        if not count:
            return
        if self._weak:
            self.enter(0)  # a barrier between the tail and what it announces
        base = self.cq_offset
        start = head & self.cq_mask
        end = start + count
        if end <= self.cq_entries:
            raw = self.ring_mm[base + start * 16 : base + end * 16]
        else:
            raw = (
                self.ring_mm[base + start * 16 : base + self.cq_entries * 16]
                + self.ring_mm[base : base + (end & self.cq_mask) * 16]
            )
        self.cq_head[0] = tail
        new = tuple.__new__
        found.extend([new(Completion, fields) for fields in self._cqes(raw)])

    # --- registration ----------------------------------------------------------------

    def register(self, op: int, argument: int, count: int) -> int:
        """``io_uring_register(2)``: ``argument`` is an address, or 0.  Raises OSError."""
        self._check()
        return syscalls.register(self.syscall, self.fd, op, argument, count)

    def register_ring_fd(self) -> bool:
        """Give the ring a registered index for ``enter``; False if there is none to be had."""
        self._check()
        if self.enter_flags:
            return True
        update = bytearray(struct.pack(abi.RSRC_UPDATE, abi.RING_FD_ANY_SLOT, 0, self.fd))
        try:
            self.register(abi.REGISTER_RING_FDS, syscalls.address_of(update), 1)
        except OSError:
            return False
        self.enter_fd = struct.unpack_from(abi.RSRC_UPDATE, update)[0]
        self.enter_flags = abi.ENTER_REGISTERED_RING
        self._enter_bits = abi.ENTER_GETEVENTS | abi.ENTER_REGISTERED_RING
        return True

    def unregister_ring_fd(self) -> None:
        """Undo ``register_ring_fd``: ``enter`` goes by the fd again."""
        if self.enter_flags:
            update = struct.pack(abi.RSRC_UPDATE, self.enter_fd, 0, 0)
            self.register(abi.UNREGISTER_RING_FDS, syscalls.address_of(update), 1)
            self.enter_fd, self.enter_flags = self.fd, 0
            self._enter_bits = abi.ENTER_GETEVENTS

    def sync_cancel(
        self,
        user_data: int | None = None,
        *,
        fd: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Cancel every operation with this ``user_data`` or on this ``fd``, or all of them.

        When it returns the kernel uses none of their buffers any more, and
        their completions can be read (those of cancelled ones say ECANCELED).
        That nothing matched is no error.  Raises ``OSError``: ETIME when an
        operation can't be stopped and goes on for more than ``timeout`` seconds.
        """
        registration.sync_cancel(self, user_data, fd=fd, timeout=timeout)

    # --- the end -----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether ``close()`` has been called."""
        return self.fd < 0

    @property
    def forked(self) -> bool:
        """Whether this is a forked child's copy, which must not be used."""
        return os.getpid() != self._pid

    def _owner_ended(self) -> bool:
        """Whether the thread that made the ring is gone.

        The kernel's task outlives ``Thread.join`` by a moment, on a busy machine by a long
        one: a thread is taken for alive only if it still is after a fifth of a second.
        """
        task = f"/proc/self/task/{self._owner}"
        for _ in range(100):
            if not os.path.exists(task):
                return True
            time.sleep(0.002)
        return False

    def close(self) -> None:
        """Free everything: buffer rings, the registered index, the mappings, the fd.

        What is still in flight is cancelled first, waiting a second at most for
        the kernel to let go of the buffers.  Unread completions are lost.
        May be called again.  A forked child's ``close`` lets go of the child's
        copy only.  ``RuntimeError`` in a thread that isn't the ring's, unless
        that one has ended.
        """
        if self.fd < 0:
            return
        mine = get_native_id() == self._owner
        if not mine and not self.forked and not self._owner_ended():
            raise RuntimeError("a ring is closed by the thread that made it")
        try:
            if mine:
                with contextlib.suppress(OSError):
                    self.sync_cancel(timeout=1.0)
                for buffer_ring in self.buffer_rings[:]:
                    buffer_ring.close()
                self.unregister_ring_fd()
        finally:
            for buffer_ring in self.buffer_rings:
                buffer_ring.abandon()
            self.buffer_rings.clear()
            self._pinned.clear()
            self._limit = -1  # sends prepare to make_room, which reports the misuse
            self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Ring closed>"
        return (
            f"<Ring fd={self.fd} sq={self.sq_entries} cq={self.cq_entries} flags={self.flags:#x}>"
        )

    def _check(self) -> None:
        if self.fd < 0:
            raise ValueError("operation on a closed ring")
