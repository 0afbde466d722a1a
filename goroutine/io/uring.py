"""The io_uring poller: one ring and one buffer ring per machine, one enter per pass.

What happens to a message: the machine's enter lets the kernel copy it from the socket into
a buffer of the ring and post a completion; poll() copies it out, gives it to the goroutine
that reads this connection, and that goroutine goes to the tail of the local queue. No
receive is submitted per message: a multishot receive stays armed for as long as the
connection lives. Buffers are handed back in one store after the whole batch is decoded.

Keys (user_data): 0 is for operations whose completion says nothing; WAKE for the eventfd;
every other key names one Wait, one Op or one PollDesc and is never used again, so that a late
completion of something that is gone finds nobody and is dropped.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable
from itertools import count
from select import POLLRDHUP
from typing import Any

from ..runtime import shared
from ..runtime.settings import receive_buffers, unread_bytes
from . import ioring
from .desc import MOST_CHUNKS, PollDesc, close_fd
from .ioring import abi
from .op import Op, end_all
from .poller import POLLIN, Ready, Wait
from .rescue import UringRescue

__all__ = ["UringPoller"]

WAKE = 1
FIRST_KEY = 16

BUFFERS = 512
BUFFER_SHIFT = 12  # 4 KiB each (conn.BUFFER): 2 MiB in all, about a core's second-level cache

MASK = 0xFFFFFFFF
DATA = abi.CQE_F_BUFFER | abi.CQE_F_MORE


class _Ring(ioring.Ring):
    """Submits, when it is full in the middle of a step, with nobody else at the sockets: an
    operation may complete while it is being submitted (rescue.py)."""

    __slots__ = ("rescue",)

    rescue: UringRescue

    def make_room(self) -> int:
        rescue = self.rescue
        with rescue.lock:
            rescue.armed[0] = False
            return super().make_room()


class UringPoller:
    """See poller.Poller for the interface. Made and polled in its machine's thread."""

    name = "io_uring"
    direct = False  # data comes with the completion; readers don't call read(2)

    def __init__(self, ready: Ready, number: int = 0, machines: int = 1) -> None:
        # All that is attached, the waits, and the operations under way.
        self.descs: dict[int, PollDesc] = {}
        self.waits: dict[int, Wait] = {}
        self.ops: dict[int, Op] = {}
        # Keys of listeners, up to the last completion: it may bring an fd after the closing.
        self.accepts: set[int] = set()
        # Unique over all machines: a connection may be made on one and polled by another.
        self.keys = count(FIRST_KEY + number, machines)
        self.asleep = [False]
        # Received chunks that may lie unread before receiving stops (back-pressure).
        self.most_chunks = unread_bytes(MOST_CHUNKS << BUFFER_SHIFT) >> BUFFER_SHIFT
        self.ready = ready
        self.ring = _Ring(entries=1024, cq_entries=8192)
        self.ring.rescue = self.rescue = UringRescue(self)
        try:
            if not self.ring.flags & abi.SETUP_SINGLE_ISSUER:
                # The kernels that learnt this flag learnt to receive by multishot, too. One that
                # hasn't refuses every receive, when it is too late to turn to epoll.
                text = "this kernel's io_uring is too old (6.0 is needed)"
                raise OSError(errno.ENOSYS, text)
            self.buffers = ioring.BufferRing(
                self.ring, 0, receive_buffers(BUFFERS), 1 << BUFFER_SHIFT
            )
            self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self.ring.close()
            raise
        self.fds_to_close: list[int] = []
        self.rearm: list[PollDesc] = []
        self.arm_wake()
        self.poll = self.make_poll()

    # -- from any thread ------------------------------------------------------------------

    def wake(self) -> None:
        """A completion for the poll on the eventfd, hence an end of the sleep."""
        try:
            os.eventfd_write(self.eventfd, 1)
        except BlockingIOError:
            pass  # 2**64 - 2 wake-ups are pending: one more makes no difference

    def cancel(self, wait: Wait) -> bool:
        """Take a wait back. Its poll in the kernel goes on until `drop`."""
        return self.waits.pop(wait.key, None) is not None

    def waiting(self) -> list[Wait]:
        return list(self.waits.copy().values())

    def expect(self, desc: PollDesc) -> None:
        # Stored first, then the look: who begins to watch does it the other way round.
        self.descs[desc.key] = desc
        rescue = self.rescue
        if rescue.watching:
            rescue.watch(desc)

    def waiters(self) -> int:
        waiting = len(self.waits) + len(self.ops)
        return waiting + sum(desc.waiting() for desc in self.descs.copy().values())

    # -- the owner's ----------------------------------------------------------------------

    def wait(self, wait: Wait) -> None:
        wait.key = key = next(self.keys)
        self.waits[key] = wait
        self.ring.prepare(abi.OP_POLL_ADD, fd=wait.fd, op_flags=wait.events, user_data=key)

    def drop(self, wait: Wait) -> None:
        self.ring.prepare(abi.OP_ASYNC_CANCEL, addr=wait.key, user_data=0)

    def submit(self, op: Op) -> None:
        """Queue an operation; its goroutine has parked."""
        op.key = key = next(self.keys)
        self.ops[key] = op
        try:
            op.place = self.ring.tail
            self.ring.prepare(
                op.code,
                flags=op.flags,
                fd=op.fd,
                off=op.off,
                addr=op.addr,
                length=op.length,
                op_flags=op.op_flags,
                user_data=key,
            )
        except OSError as failure:  # the queue is full, and the kernel takes no more just now
            del self.ops[key]
            op.done(-(failure.errno or errno.EIO))
            self.ready(op.g)

    def stop(self, op: Op) -> None:
        """Ask the kernel to cancel an operation. Its completion comes as it would have."""
        if op.key in self.ops:
            self.ring.prepare(abi.OP_ASYNC_CANCEL, addr=op.key, user_data=0)

    def attach(self, desc: PollDesc) -> None:
        if desc.closed:
            return
        self.expect(desc)
        self.arm(desc)

    def adopt(self, desc: PollDesc) -> None:
        if not desc.closed:
            self.descs[desc.key] = desc

    def arm(self, desc: PollDesc) -> None:
        desc.armed = True
        if desc.accepting:
            self.accepts.add(desc.key)
            self.ring.prepare(
                abi.OP_ACCEPT,
                ioprio=abi.ACCEPT_MULTISHOT,
                fd=desc.fd,
                op_flags=socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                user_data=desc.key,
            )
        else:
            self.ring.prepare(
                abi.OP_RECV,
                flags=abi.IOSQE_BUFFER_SELECT,
                ioprio=abi.RECV_MULTISHOT,
                fd=desc.fd,
                user_data=desc.key,
            )

    def pause(self, desc: PollDesc) -> None:
        """Stop receiving: more lies unread than a connection may hold."""
        desc.paused = True
        desc.news = True
        self.ring.prepare(abi.OP_ASYNC_CANCEL, addr=desc.key, user_data=0)

    def resume(self, desc: PollDesc) -> None:
        """Receive again. While the cancellation is under way its completion sees to it."""
        desc.paused = False
        if not desc.armed and not desc.closed and not desc.eof and not desc.error:
            self.arm(desc)

    def detach(self, desc: PollDesc) -> None:
        """Close the fd once all that was prepared with its number has been submitted.

        An armed operation holds the kernel's file beyond the close: it is cancelled first.
        """
        key = desc.key
        self.rescue.forget(desc)
        if self.descs.pop(key, None) is not None and desc.armed and not shared.flags.get("stop"):
            # (At the end of the run the ring goes anyway, and this may not be its thread.)
            self.ring.prepare(abi.OP_ASYNC_CANCEL, addr=key, user_data=0)
        if not desc.armed:
            self.accepts.discard(key)
        self.fds_to_close.append(desc.fd)

    def arm_wake(self) -> None:
        # Multishot: every write to the eventfd from now on is a completion, without a
        # system call of ours per wake-up. The counter is never read; it can't fill up.
        self.ring.prepare(
            abi.OP_POLL_ADD,
            fd=self.eventfd,
            op_flags=1 | 1 << 31,
            length=abi.POLL_ADD_MULTI,
            user_data=WAKE,
        )

    def close(self) -> None:
        for fd in self.fds_to_close:
            close_fd(fd)
        for desc in self.descs.values():
            desc.abandon()
        self.fds_to_close.clear()
        self.descs.clear()
        self.rescue.close()
        try:
            if self.ops or self.accepts:
                for key, res, _ in end_all(self.ring, self.ops):
                    if key in self.accepts and res >= 0:
                        close_fd(res)  # accepted, and nobody has looked
        finally:
            self.ring.close()
        os.close(self.eventfd)

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        for desc in self.descs.values():
            desc.forget()
        for fd in self.fds_to_close:
            close_fd(fd)
        self.rescue.close()
        self.ring.close()
        os.close(self.eventfd)

    # -- poll -----------------------------------------------------------------------------

    def make_poll(self) -> Callable[[float | None], int]:
        """The hot function, with all it touches in its own cells, made in its own thread."""
        ring, buffers = self.ring, self.buffers
        syscall, syscall_nb = ring.syscall, ring.syscall_nb
        enter, fd = abi.SYS_IO_URING_ENTER, ring.enter_fd
        bits = ring.enter_flags | abi.ENTER_GETEVENTS
        timed = bits | abi.ENTER_EXT_ARG
        timespec, timeout_ptr, timeout_size = ring.timespec, ring.timeout_ptr, ring.timeout_size
        sq_tail, sq_head = ring.sq_tail, ring.sq_head
        cq_head, cq_tail = ring.cq_head, ring.cq_tail
        cq_mask, cq_entries = ring.cq_mask, ring.cq_entries
        cqes, base = ring.ring_mm, ring.cq_offset
        unpack = struct.Struct("<QiHH").iter_unpack
        memory, release = buffers.data, buffers.release
        append = self.ready
        descs, waits, ops = self.descs, self.waits, self.ops
        fds_to_close, rearm = self.fds_to_close, self.rearm
        other, asleep = self.other, self.asleep
        leave = self.leave
        armed, end_rescue = self.rescue.armed, self.rescue.end

        polls = reaped = 0
        self.counts = lambda: (polls, reaped)

        # What is touched for each completion comes as defaults, and so is local: a cell takes a
        # lock at each look, a global two look-ups in dicts.
        def poll(
            timeout: float | None,
            descs: dict[int, PollDesc] = descs,
            memory: Any = memory,
            append: Any = append,
            usual: int = DATA,
            shift: int = BUFFER_SHIFT,
        ) -> int:
            nonlocal polls, reaped
            if armed[0]:
                end_rescue()
            # -- submit, and wait
            tail = ring.tail
            pending = (tail - sq_head[0]) & MASK
            if timeout == 0 or fds_to_close:  # (those must not wait for the end of a sleep)
                if not (pending or descs or waits or ops or fds_to_close) and (
                    cq_tail[0] == cq_head[0]
                ):
                    return 0  # nothing can happen
                if pending:
                    sq_tail[0] = tail & MASK
                result = syscall_nb(enter, fd, pending, 0, bits, None, 0)
            else:
                if pending:
                    sq_tail[0] = tail & MASK
                if timeout is None:
                    result = syscall(enter, fd, pending, 1, bits, None, 0)
                else:
                    timeout = min(timeout, 1e6)  # who sleeps for longer asks again
                    seconds = int(timeout)
                    timespec[0] = seconds
                    # Up, never down: a sleep that ends early makes a second one.
                    timespec[1] = min(int((timeout - seconds) * 1e9) + 1, 999_999_999)
                    result = syscall(enter, fd, pending, 1, timed, timeout_ptr, timeout_size)
            asleep[0] = False
            polls += 1
            if result < 0:
                code = ctypes.get_errno()
                # Interrupted, timed out, or completions must be reaped before more is taken
                # (what was not submitted stays pending): all go on below.
                if code not in _PASSING:
                    raise OSError(code, "io_uring_enter: " + os.strerror(code))
            if fds_to_close and not (ring.tail - sq_head[0]) & MASK:
                # Everything that names these fds has been submitted.
                for old in fds_to_close:
                    close_fd(old)
                fds_to_close.clear()
            # -- reap
            head, end = cq_head[0], cq_tail[0]
            n = (end - head) & MASK
            if not n:
                return 0
            reaped += n
            first = head & cq_mask
            last = first + n
            if last <= cq_entries:
                blob = cqes[base + (first << 4) : base + (last << 4)]
            else:
                blob = (
                    cqes[base + (first << 4) : base + (cq_entries << 4)]
                    + cqes[base : base + ((last & cq_mask) << 4)]
                )
            cq_head[0] = end
            bare = 0  # that came without a buffer
            made = n  # but for those below
            for key, res, flags, bid in unpack(blob):
                if flags == usual:
                    data: bytes | None = memory[(start := bid << shift) : start + res]
                    try:
                        desc = descs[key]
                    except KeyError:
                        made -= 1
                        continue  # closed meanwhile
                    try:
                        g = desc.take_reader()
                    except IndexError:
                        made += leave(desc, data) - 1
                        continue
                    if desc.news:  # older data is left: behind that, and look again
                        desc.chunks.append(data)
                        data = None
                    desc.data = data
                    append(g)
                elif flags & 1:
                    start = bid << shift
                    made += other(key, res, flags, memory[start : start + res]) - 1
                else:
                    bare += 1
                    made += other(key, res, flags, b"") - 1
            if n > bare:
                # All reported buffers have been copied out (ioring.BufferRing, quick way).
                release(n - bare)
            if rearm:
                for desc in rearm:
                    if not desc.closed:
                        self.arm(desc)
                rearm.clear()
            # (If the kernel kept some back, because the queue was full, they come with the next
            # enter, which does not sleep then.)
            return made

        return poll

    def leave(self, desc: PollDesc, data: Any) -> int:
        """Data for which no reader is parked: into the desc. Returns the readers woken."""
        chunks = desc.chunks
        chunks.append(data)
        desc.news = True
        if desc.wake_reader():  # it parked meanwhile: it looks again
            return 1
        if len(chunks) >= self.most_chunks and not desc.paused and desc.armed:
            self.pause(desc)
        return 0

    def other(self, key: int, res: int, flags: int, data: bytes) -> int:
        """Every completion but the usual one. Returns the goroutines made ready."""
        op = self.ops.pop(key, None)
        if op is not None:
            op.done(res)
            self.ready(op.g)
            return 1
        wait = self.waits.get(key)
        if wait is not None and res == POLLRDHUP and not wait.events & POLLIN:
            self.poll_on(wait, flags)
            return 0
        wait = self.waits.pop(key, None)
        if wait is not None:
            if flags & abi.CQE_F_MORE:
                self.drop(wait)
            wait.result = res
            self.ready(wait.g)
            return 1
        desc = shared.find(self.descs, key)
        if desc is None:
            if key in self.accepts:  # accepted for a listener that is gone
                if res >= 0:
                    close_fd(res)
                if not flags & abi.CQE_F_MORE:
                    self.accepts.discard(key)
            elif key == WAKE and not flags & abi.CQE_F_MORE:
                self.arm_wake()
            return 0
        more = flags & abi.CQE_F_MORE
        if not more:
            desc.armed = False
        if desc.accepting:
            desc.accepted(res)
            if not more and not desc.paused and (res >= 0 or res == -errno.ECANCELED):
                # (ECANCELED: it was held back, and all have been taken meanwhile. After
                # another error, such as EMFILE, the listener decides when.)
                self.rearm.append(desc)
            return 0
        if res > 0:
            # The last of its multishot (the kernel ends one now and then), or more is queued.
            if not more and not desc.paused:
                self.rearm.append(desc)
            return self.leave(desc, data)
        if res in _AGAIN:
            if not desc.paused:
                self.rearm.append(desc)  # after this batch its buffers are free again
            return 0
        if res == -errno.ECANCELED:
            # Back-pressure took hold. Has the reader drained it all by now?
            if not desc.closed and (not desc.paused or not desc.chunks):
                desc.paused = False
                self.rearm.append(desc)
            return 0
        if res == 0:
            desc.eof = True
        else:
            desc.error = -res
        desc.news = True
        return int(desc.wake_reader())

    def poll_on(self, wait: Wait, flags: int) -> None:
        """Somebody waits for room to write, and the peer has sent the end of its stream.

        io_uring reports that always, at once and again each time it is asked, and nobody
        would sleep. A multishot poll reports it once and then whatever happens.
        """
        if not flags & abi.CQE_F_MORE:
            self.ring.prepare(
                abi.OP_POLL_ADD,
                fd=wait.fd,
                op_flags=wait.events,
                length=abi.POLL_ADD_MULTI,
                user_data=wait.key,
            )


_AGAIN = frozenset((-errno.ENOBUFS, -errno.EINTR, -errno.EAGAIN))
_PASSING = frozenset((errno.EINTR, errno.ETIME, errno.EAGAIN, errno.EBUSY))
