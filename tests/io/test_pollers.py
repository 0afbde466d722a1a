"""The two pollers, each driven by hand in one thread: no machines, no goroutines."""

import contextlib
import errno
import gc
import os
import resource
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from goroutine.io.desc import MOST_CHUNKS, PollDesc
from goroutine.io.epoll import EpollPoller
from goroutine.io.poller import POLLERR, POLLHUP, POLLIN, POLLOUT, Wait
from goroutine.io.uring import BUFFERS, UringPoller

POLLERS = {"io_uring": UringPoller, "epoll": EpollPoller}


@pytest.fixture(scope="module", autouse=True)
def no_garbage():
    """Of the tests of other modules, which may have fds."""
    gc.collect()


def fds():
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def opened(make):
    before = fds()
    ready = []
    made = make(ready.append)
    made.list = ready
    yield made
    made.close()
    if fds() != before:
        gc.collect()
    assert fds() == before


@pytest.fixture(params=POLLERS)
def poller(request):
    with opened(POLLERS[request.param]) as made:
        yield made


@pytest.fixture
def uring():
    with opened(UringPoller) as made:
        yield made


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def sockets():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    yield a, b
    a.close()
    b.close()


def waiting(poller, fd, events, g):
    wait = Wait(fd, events)
    wait.g = g
    poller.wait(wait)
    return wait


def poll_until(poller, n, bound=5.0):
    """Poll until n goroutines in all have been made ready."""
    end = time.monotonic() + bound
    while len(poller.list) < n:
        left = end - time.monotonic()
        assert left > 0, f"{len(poller.list)} of {n} became ready"
        poller.poll(left)
    assert len(poller.list) == n


def poll_while(poller, condition, bound=5.0):
    end = time.monotonic() + bound
    while condition():
        assert time.monotonic() < end
        poller.poll(0.01)


def fill(write):
    """Write to a pipe until it takes no more."""
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        pass


def desc_for(poller, fd):
    home = SimpleNamespace(
        poller=poller, runtime=SimpleNamespace(count=2), post=lambda call: call()
    )
    return PollDesc(fd, home, next(poller.keys))


# -- single waits ----------------------------------------------------------------------------


def test_a_wait_is_served_once(poller, pipe):
    read, write = pipe
    wait = waiting(poller, read, POLLIN, "reader")
    assert poller.waiters() == 1
    assert poller.poll(0) == 0
    os.write(write, b"x")
    poll_until(poller, 1)
    assert poller.list == ["reader"]
    assert wait.result & POLLIN
    assert poller.waiters() == 0
    for _ in range(3):
        assert poller.poll(0) == 0
    assert poller.list == ["reader"]


def test_poll_says_how_many_it_made_ready(poller):
    pipes = [os.pipe() for _ in range(20)]
    for read, write in pipes:
        waiting(poller, read, POLLIN, read)
        os.write(write, b"x")
    made, end = 0, time.monotonic() + 5
    while made < 20 and time.monotonic() < end:
        made += poller.poll(1)
    assert made == 20
    assert sorted(poller.list) == sorted(read for read, _ in pipes)
    for ends in pipes:
        for fd in ends:
            os.close(fd)


def test_several_waits_on_one_fd(poller, sockets):
    """Readers and a writer: each is served by what it waits for."""
    a, b = sockets
    for i in range(3):
        waiting(poller, a.fileno(), POLLIN, f"reader {i}")
    waiting(poller, a.fileno(), POLLOUT, "writer")
    poll_until(poller, 1)
    assert poller.list == ["writer"]
    assert poller.waiters() == 3
    b.send(b"x")
    poll_until(poller, 4)
    assert sorted(poller.list[1:]) == ["reader 0", "reader 1", "reader 2"]
    a.recv(1)
    waiting(poller, a.fileno(), POLLIN, "again")
    poller.poll(0)
    assert len(poller.list) == 4
    b.close()
    poll_until(poller, 5)


def test_a_writer_behind_a_full_pipe(poller, pipe):
    read, write = pipe
    fill(write)
    waiting(poller, write, POLLOUT, "writer")
    for _ in range(3):
        poller.poll(0)
    assert poller.list == []
    os.read(read, 65536)
    poll_until(poller, 1)


@pytest.mark.parametrize("end", [0, 1])
def test_hang_up_ends_a_wait(poller, pipe, end):
    if end:  # the writer sees the reader go
        fill(pipe[1])
    wait = waiting(poller, pipe[end], POLLOUT if end else POLLIN, "g")
    poller.poll(0)
    os.close(pipe[1 - end])
    poll_until(poller, 1)
    assert wait.result & (POLLHUP | POLLERR)


def test_a_bad_fd(poller):
    fd = os.dup(0)
    os.close(fd)
    wait = waiting(poller, fd, POLLIN, "g")
    poll_until(poller, 1)
    assert wait.result == -9 or wait.result & 32  # EBADF, or POLLNVAL
    assert poller.waiters() == 0


def test_a_regular_file_is_ready(poller, tmp_path):
    with open(tmp_path / "file", "wb+") as file:
        waiting(poller, file.fileno(), POLLIN, "reader")
        waiting(poller, file.fileno(), POLLOUT, "writer")
        poll_until(poller, 2)
        assert sorted(poller.list) == ["reader", "writer"]


def test_cancel_gives_the_goroutine_back_once(poller, pipe):
    read, write = pipe
    first, second = (waiting(poller, read, POLLIN, name) for name in ("first", "second"))
    poller.poll(0)
    assert poller.cancel(first)
    assert not poller.cancel(first)
    assert poller.waiters() == 1
    os.write(write, b"x")
    poll_until(poller, 1)
    assert poller.list == ["second"]
    assert not poller.cancel(second)
    waiting(poller, read, POLLIN, "third")  # the fd is as good as before
    poll_until(poller, 2)


def test_a_cancelled_wait_in_the_same_batch(poller, pipe):
    """The event has happened, poll has not seen it: cancel still wins, exactly once."""
    read, write = pipe
    wait = waiting(poller, read, POLLIN, "g")
    poller.poll(0)
    os.write(write, b"x")
    assert poller.cancel(wait)
    for _ in range(3):
        poller.poll(0)
    assert poller.list == []


def test_cancel_and_poll_in_two_threads(poller, pipe):
    """Each goroutine goes to exactly one of the two."""
    read, write = pipe
    os.write(write, b"x")  # always readable
    rounds = 300
    cancelled, offered = [], []
    go_on = threading.Semaphore(0)

    def cancel():
        for i in range(rounds):
            go_on.acquire()
            if poller.cancel(offered[i]):
                cancelled.append(i)

    thread = threading.Thread(target=cancel)
    thread.start()
    for i in range(rounds):
        wait = waiting(poller, read, POLLIN, i)
        offered.append(wait)
        go_on.release()
        poller.poll(0)
    thread.join()
    for _ in range(20):
        poller.poll(0)
    assert sorted(cancelled + poller.list) == list(range(rounds))
    assert poller.waiters() == 0


def test_cancelled_while_its_event_is_looked_at(pipe):
    """epoll looks through an fd's waits; one is taken back under its hands."""

    class Fleeting(Wait):
        __slots__ = ("asked",)

        @property
        def events(self):
            if self.asked:
                taken.append(poller.cancel(self))
            return POLLIN

        @events.setter
        def events(self, _):
            self.asked = False

    taken: list[bool] = []
    ready: list[str] = []
    poller = EpollPoller(ready.append)
    wait = Fleeting(pipe[0], POLLIN)
    wait.g = "g"
    poller.wait(wait)
    os.write(pipe[1], b"x")
    wait.asked = True
    assert poller.poll(1) == 0
    assert (taken, ready) == ([True], [])
    poller.close()


def test_an_fd_number_in_use_again(poller):
    """A wait on a closed fd's number is about the new file."""
    for i in range(50):
        read, write = os.pipe()
        waiting(poller, read, POLLIN, i)
        os.write(write, b"x")
        poll_until(poller, i + 1)
        if i % 2:
            wait = waiting(poller, write, POLLIN, "never")
            poller.poll(0)
            assert poller.cancel(wait)
        os.close(read)
        os.close(write)
    assert poller.list == list(range(50))


# -- time and waking -------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-5, 0.001, 0.0123, 0.05, 1.0001])
def test_poll_never_returns_early(poller, seconds):
    poller.poll(0)
    began = time.monotonic()
    assert poller.poll(seconds) == 0
    assert time.monotonic() - began >= seconds


@pytest.mark.parametrize("seconds", [None, 5.0, 1e7, 1e12, float("inf")])
def test_wake_ends_a_poll_however_long(poller, seconds):
    timer = threading.Timer(0.02, poller.wake)
    timer.start()
    began = time.monotonic()
    assert poller.poll(seconds) == 0
    assert time.monotonic() - began < 4
    timer.join()


def test_a_wake_before_the_poll_is_not_lost(poller):
    for _ in range(50):
        poller.wake()
        poller.wake()
        began = time.monotonic()
        poller.poll(5)
        assert time.monotonic() - began < 4


def test_10000_wakes_from_another_thread(poller):
    """Each of them ends a poll that began before it and is answered after it."""
    count = 10_000
    asked, answered = [0], [0]

    def wake():
        while answered[0] < count:
            now = answered[0]
            asked[0] = now + 1
            poller.wake()
            end = time.monotonic() + 5
            while answered[0] == now and time.monotonic() < end:
                pass
            if answered[0] == now:
                return

    thread = threading.Thread(target=wake)
    thread.start()
    while answered[0] < count:
        began = time.monotonic()
        while asked[0] == answered[0]:
            poller.poll(5)
        assert time.monotonic() - began < 4, f"wake {asked[0]} was lost"
        answered[0] = asked[0]
    thread.join()


def test_waiters_may_be_counted_from_another_thread(poller):
    ended = []
    failures = []

    def count():
        try:
            while not ended:
                assert poller.waiters() >= 0
        except Exception as failure:
            failures.append(failure)

    thread = threading.Thread(target=count)
    thread.start()
    pipes = [os.pipe() for _ in range(30)]
    for _ in range(40):
        waits = [waiting(poller, r, POLLIN, None) for r, _ in pipes]
        poller.poll(0)
        for wait in waits:
            poller.cancel(wait)
    ended.append(True)
    thread.join()
    for ends in pipes:
        for fd in ends:
            os.close(fd)
    assert failures == []


# -- connections -----------------------------------------------------------------------------


def receive(poller, desc):
    """What has come for a desc, as its reader would have it."""
    if poller.direct:
        try:
            return os.read(desc.fd, 1 << 20)
        except BlockingIOError:
            return b""
    got = b"".join(desc.chunks)
    desc.chunks.clear()
    return got


def test_attach_and_detach(poller, sockets):
    a, b = sockets
    fd = os.dup(a.fileno())
    desc = desc_for(poller, fd)
    poller.attach(desc)
    desc.news = False
    poller.poll(0)
    b.send(b"hello")
    poll_while(poller, lambda: not desc.news)
    assert receive(poller, desc) == b"hello"
    desc.news = False
    desc.park("reader")
    assert poller.waiters() == 1
    b.send(b"again")
    poll_until(poller, 1)
    assert (desc.data or receive(poller, desc)) == b"again"
    assert poller.waiters() == 0
    poller.detach(desc)
    poller.poll(0)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    b.send(b"nobody")
    for _ in range(3):
        poller.poll(0)
    assert poller.list == ["reader"]
    assert a.recv(100) == b"nobody"  # its receive is gone: the other fd of the socket has it


def test_detach_before_anything_was_submitted(poller, sockets):
    a, _ = sockets
    fd = os.dup(a.fileno())
    desc = desc_for(poller, fd)
    poller.attach(desc)
    poller.detach(desc)
    poll_while(poller, lambda: os.path.exists(f"/proc/self/fd/{fd}"))
    assert not poller.descs


def test_attach_of_what_is_closed_does_nothing(poller, sockets):
    desc = desc_for(poller, os.dup(sockets[0].fileno()))
    desc.closed = True
    poller.attach(desc)
    assert not poller.descs
    poller.detach(desc)
    poller.poll(0)


def test_close_closes_what_was_left_open(poller, sockets):
    fd = os.dup(sockets[0].fileno())
    desc = desc_for(poller, fd)
    poller.attach(desc)
    poller.poll(0)
    assert poller.descs  # the fixture looks whether the fd is gone


def test_a_wait_on_a_connection(poller, sockets):
    """A writer waits on an fd that is attached, too."""
    a, b = sockets
    fd = os.dup(a.fileno())
    desc = desc_for(poller, fd)
    poller.attach(desc)
    waiting(poller, fd, POLLOUT, "writer")
    poll_until(poller, 1)
    desc.news = False
    b.send(b"x")
    poll_while(poller, lambda: not desc.news)
    assert receive(poller, desc) == b"x"


def test_newer_data_does_not_overtake(uring, sockets):
    """The reader parks just when data has been left, and more comes before it looks again."""
    a, b = sockets
    desc = desc_for(uring, os.dup(a.fileno()))
    uring.attach(desc)
    b.send(b"older")
    poll_while(uring, lambda: not desc.chunks)

    class Slow(list):
        def append(self, g):
            super().append(g)
            b.send(b"newer")
            poll_while(uring, lambda: self)

    desc.parked = Slow()
    desc.take_reader = desc.parked.pop
    desc.park_read("reader")
    assert uring.list == ["reader"]
    assert desc.data is None
    assert desc.chunks == [b"older", b"newer"]


def test_a_flood_is_stopped_and_resumed(uring, sockets):
    a, b = sockets
    desc = desc_for(uring, os.dup(a.fileno()))
    uring.attach(desc)
    sent = 0
    block = bytes(range(256)) * 16
    while not desc.paused or desc.armed:
        try:
            sent += b.send(block)
        except BlockingIOError:
            pass
        uring.poll(0)
    assert len(desc.chunks) <= MOST_CHUNKS + BUFFERS
    got = []
    end = time.monotonic() + 5
    while sum(map(len, got)) < sent:
        assert time.monotonic() < end
        got += desc.chunks
        desc.chunks.clear()
        if desc.paused:
            uring.resume(desc)
        uring.poll(0.01)
    assert b"".join(got) == (block * (sent // len(block) + 1))[:sent]


def test_more_messages_at_once_than_buffers(uring):
    """The buffer ring runs dry within one poll: every receive is armed again.

    (The kernel serves some 20 receives in one enter, and 32 buffers of each.)
    """
    count, each = 60, 40
    spent = []
    other = uring.other

    def watch(key, res, flags, data):
        spent.append(res == -errno.ENOBUFS)
        return other(key, res, flags, data)

    uring.other = watch
    uring.poll = uring.make_poll()
    pairs = [socket.socketpair() for _ in range(count)]
    descs = [desc_for(uring, os.dup(a.fileno())) for a, _ in pairs]
    for desc in descs:
        uring.attach(desc)
    uring.poll(0)
    message = bytes(4096)
    for turn in range(2):
        for i, (_, b) in enumerate(pairs):
            b.sendall(bytes([i, turn]) + message * each)
        want = 2 + 4096 * each
        poll_while(uring, lambda want=want: any(sum(map(len, d.chunks)) < want for d in descs))
        for i, desc in enumerate(descs):
            assert b"".join(desc.chunks) == bytes([i, turn]) + message * each
            desc.chunks.clear()
    for desc in descs:
        assert desc.armed
        assert not desc.error
    assert any(spent)
    for a, b in pairs:
        a.close()
        b.close()


def test_more_completions_than_the_queue_has_room_for(uring):
    """What the kernel keeps back when the completion queue is full comes afterwards."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = uring.ring.cq_entries + 500
    read, write = os.pipe()
    os.write(write, b"x")
    assert soft > 0
    for i in range(count):
        waiting(uring, read, POLLIN, i)
    poll_until(uring, count)
    assert sorted(uring.list) == list(range(count))
    assert uring.waiters() == 0
    os.close(read)
    os.close(write)
