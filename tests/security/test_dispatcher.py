"""Whatever completions come, in whatever order: the io_uring poller is driven by a made-up ring.

Completions of closed connections (their key is never used again), of keys that never were, with
flags nobody asked for. None of them may end the machine, reach another connection, lose one
that lives, leak a buffer or an fd. (What a multishot receive reports with "more to come" is
data; that the kernel adds a positive length and a buffer to it is taken for granted.)

Seen to fail: with buffers that are not counted when their connection is gone, with an fd that
comes late for a listener, without arming again after ECANCELED, and with EINTR as the end.
"""

import errno
import mmap
import struct
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from goroutine.io import uring
from goroutine.io.desc import MOST_CHUNKS, PollDesc
from goroutine.io.ioring import abi
from goroutine.io.poller import POLLIN, POLLOUT, Wait
from goroutine.runtime.shared import flags as run_flags

BUFFER, MORE = abi.CQE_F_BUFFER, abi.CQE_F_MORE
MASK = 0xFFFFFFFF
ACCEPTED = 10_000  # fds that are accepted are above, all others below
PASSING = (-errno.ENOBUFS, -errno.ECANCELED, -errno.EINTR, -errno.EAGAIN)


class Ring:
    """What the poller's loop uses of a ring. The counters are about to wrap."""

    def __init__(self):
        begin = MASK - 5
        self.enter_fd = self.enter_flags = self.cq_offset = 0
        self.cq_entries, self.cq_mask = 64, 63
        self.tail = begin
        self.sq_head, self.sq_tail, self.sq_flags = [begin], [begin], [0]
        self.cq_head, self.cq_tail = [begin], [begin]
        self.ring_mm = bytearray(64 * 16)
        self.timespec, self.timeout_ptr, self.timeout_size = [0, 0], None, None
        self.queued = []

    def syscall_nb(self, *_):
        self.sq_head[0] = self.sq_tail[0]
        return 0

    syscall = syscall_nb

    def prepare(self, op, **fields):
        self.queued.append((op, fields))
        self.tail += 1

    def complete(self, key, res, flags, bid):
        at = (self.cq_tail[0] & self.cq_mask) * 16
        struct.pack_into("<QiHH", self.ring_mm, at, key, res, flags, bid)
        self.cq_tail[0] = (self.cq_tail[0] + 1) & MASK


class Buffers:
    """Each byte says which buffer it is in and where."""

    def __init__(self):
        size = 1 << uring.BUFFER_SHIFT
        self.data = mmap.mmap(-1, uring.BUFFERS * size)
        for bid in range(uring.BUFFERS):
            block = struct.pack("<HH", bid, bid ^ 0xFFFF) * (size // 4)
            self.data[bid * size : (bid + 1) * size] = block
        self.released = 0

    def release(self, n):
        self.released += n

    def content(self, bid, length):
        return (struct.pack("<HH", bid, bid ^ 0xFFFF) * 1025)[:length]


BUFFERS = Buffers()


class Listener(PollDesc):
    accepting = True

    def accepted(self, result):
        self.chunks.append(result)


class Connection:
    """One as a reader sees it, and what should have come."""

    def __init__(self, world, fd, kind=PollDesc):
        poller = world.poller
        home = SimpleNamespace(poller=poller, runtime=SimpleNamespace(count=2))
        self.desc = kind(fd, home, next(poller.keys))
        self.expected = []
        self.received = []
        self.ended = False  # the kernel has said so
        poller.attach(self.desc)

    def park(self):
        """A reader looks, takes what there is, else parks. (What Conn.receive does.)"""
        desc = self.desc
        if desc.parked or desc.closed:
            return
        desc.news = False
        self.received += desc.chunks
        desc.chunks.clear()
        if desc.eof or desc.error:
            return
        if desc.paused:
            desc.home.poller.resume(desc)
        desc.park_read(self)

    def woken(self):
        if self.desc.data is not None:
            self.received.append(self.desc.data)
            self.desc.data = None

    def alive(self):
        """Something will still come: it is armed, or paused with data that resumes it."""
        desc = self.desc
        assert (desc.eof or bool(desc.error)) == self.ended
        return desc.armed or self.ended or (desc.paused and bool(desc.chunks))


class World:
    def __init__(self, closed):
        self.closed = closed  # fds
        self.late = []  # those that were accepted for a listener that is gone
        self.woken = []
        poller = self.poller = object.__new__(uring.UringPoller)
        poller.descs, poller.waits, poller.ops = {}, {}, {}
        poller.accepts = set()
        poller.keys = iter(range(uring.FIRST_KEY, 1 << 30))
        poller.asleep = [False]
        poller.most_chunks = MOST_CHUNKS
        poller.ready = self.ready
        poller.ring = Ring()
        poller.buffers = BUFFERS
        poller.rescue = SimpleNamespace(
            armed=[False], end=lambda: None, forget=lambda desc: None, watching=False
        )
        poller.fds_to_close, poller.rearm = [], []
        poller.eventfd = 99
        BUFFERS.released = 0
        poller.poll = poller.make_poll()
        self.used = 0
        self.conns = [Connection(self, 100 + i) for i in range(3)]
        self.listener = Connection(self, 200, Listener)
        self.listeners = set()  # keys of those that are gone
        self.waits = []
        self.wait(0)
        self.wait(1)
        self.gone = []  # keys
        poller.poll(0)

    def ready(self, g):
        self.woken.append(g)
        if isinstance(g, Connection):
            g.woken()

    def wait(self, i, *_):
        wait = Wait(300, (POLLIN, POLLOUT)[i % 2])
        wait.g = wait
        self.poller.wait(wait)
        self.waits.append(wait)

    def close(self, i, *_):
        """And the next connection gets its fd."""
        i %= 3
        conn = self.conns[i]
        desc = conn.desc
        desc.closed = True
        conn.received += desc.chunks
        desc.chunks.clear()
        self.gone.append(desc.key)
        self.poller.detach(desc)
        assert conn.received == conn.expected
        self.conns[i] = Connection(self, desc.fd)

    def close_listener(self, *_):
        desc = self.listener.desc
        desc.closed = True
        self.listeners.add(desc.key)
        self.gone.append(desc.key)
        self.poller.detach(desc)
        self.listener = Connection(self, desc.fd, Listener)

    def park(self, i, *_):
        self.conns[i % 3].park()

    def complete(self, which, kind, res, flags, bid):
        if kind == "conn":
            conn = self.conns[which % 3]
            if not conn.desc.armed:
                return  # the kernel has no operation that could complete
            key = conn.desc.key
            if flags & MORE or res > 0:
                # More to come: this is data, in a buffer.
                res, flags = abs(res) or 1, flags | BUFFER
            if res > 0:
                conn.expected.append(BUFFERS.content(bid, res))
            elif res not in PASSING:
                conn.ended = True
        elif kind == "listener":
            desc = self.listener.desc
            if not desc.armed:
                return
            key, flags = desc.key, flags & ~BUFFER
            res += ACCEPTED if res >= 0 else 0
            self.listener.expected.append(res)
        elif kind == "gone":
            if not self.gone:
                return
            key = self.gone[which % len(self.gone)]
            res += ACCEPTED if res >= 0 else 0
            if key in self.listeners:
                flags &= ~BUFFER
                if key in self.poller.accepts and res >= 0:
                    self.late.append(res)
        elif kind == "wait":
            key = self.waits[which % len(self.waits)].key
        else:
            key = uring.WAKE if kind == "wake" else (0, 5, 1 << 40, (1 << 64) - 1)[which % 4]
        self.used += flags & BUFFER
        queued = self.poller.ring.queued
        before = len(queued)
        self.poller.ring.complete(key, res, flags, bid)
        self.poller.poll(0)
        if key == uring.WAKE and not flags & MORE:
            op, fields = queued[before]
            assert (op, fields["user_data"]) == (abi.OP_POLL_ADD, uring.WAKE)

    def check(self):
        assert BUFFERS.released == self.used
        for conn in self.conns:
            assert conn.alive(), "nothing will ever come"
            assert conn.received == conn.expected[: len(conn.received)]
            left = conn.desc.chunks
            assert conn.received + left == conn.expected
            assert len(left) <= MOST_CHUNKS + 2
        for wait in self.waits:
            done = [g for g in self.woken if g is wait]
            assert len(done) == (wait.key not in self.poller.waits)
        assert self.listener.desc.chunks == self.listener.expected
        assert [fd for fd in self.closed if fd >= ACCEPTED] == self.late


def often(**weights):
    return st.sampled_from([name for name, n in weights.items() for _ in range(n)])


LENGTHS = st.integers(1, 4096)
USUAL = st.sampled_from([*PASSING, -errno.ECONNRESET, 0])
ERRORS = st.sampled_from([-code for code in sorted(errno.errorcode)])
WHOSE = often(conn=6, listener=2, wait=1, gone=4, wake=1, unknown=1)
RESULTS = st.one_of(LENGTHS, USUAL, ERRORS)
FLAGS = st.one_of(st.sampled_from([BUFFER | MORE, BUFFER, MORE, 0]), st.integers(0, 0xFFFF))
STEP = st.tuples(
    often(complete=9, park=3, close=2, close_listener=1, wait=1),
    st.integers(0, 9),
    WHOSE,
    RESULTS,
    FLAGS,
    st.integers(0, uring.BUFFERS - 1),
)


# (Shrinking what it finds takes longer than a test may.)
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.lists(STEP, min_size=10, max_size=80))
def test_any_completions(steps):
    with pytest.MonkeyPatch.context() as patch:
        closed = []
        patch.setattr(uring, "close_fd", closed.append)
        patch.setitem(run_flags, "stop", False)
        world = World(closed)
        for name, which, *completion in steps:
            getattr(world, name)(which, *completion)
            world.check()
        for i, conn in enumerate(world.conns):
            world.park(i)
            assert conn.received == conn.expected
        world.poller.poll(0)
        world.check()
