"""goroutine.io: read, read_into, write, readable and writable on any fd."""

import errno
import gc
import os
import random
import socket
import struct
import threading
import time

import pytest
from waiting import until

import goroutine
from goroutine import chan, go
from goroutine import io as gio
from goroutine.io import fd as fd_module
from goroutine.runtime.offload import blocking
from goroutine.runtime.shared import current


@pytest.fixture(params=[f"{io}-{n}" for io in ("io_uring", "epoll") for n in (1, 2, 4)])
def run(request):
    io, _, machines = request.param.rpartition("-")

    def start(main, *args):
        before = fds()
        guard = threading.Timer(15, hang)
        guard.start()
        try:
            result = goroutine.start(main, *args, machines=int(machines), io=io)
        finally:
            guard.cancel()
            guard.join()
        if fds() != before:
            gc.collect()
        assert fds() == before
        return result

    return start


def hang():
    async def hung():
        raise AssertionError("the run had not ended after 15 s")

    try:
        go(hung)
    except RuntimeError:
        pass


@pytest.fixture(scope="module", autouse=True)
def no_garbage():
    """Of the tests of other modules, which may have fds."""
    gc.collect()


def fds():
    return sorted(os.listdir("/proc/self/fd"))


def waiters():
    return sum(m.poller.waiters() for m in current().runtime.machines)


class Pipe:
    """A pipe, closed at the end of the block, whichever end is still open."""

    def __init__(self, blocking_mode):
        self.blocking_mode = blocking_mode

    def __enter__(self):
        self.read, self.write = os.pipe()
        for fd in (self.read, self.write):
            os.set_blocking(fd, self.blocking_mode)
        return self

    def __exit__(self, *_):
        self.close_read()
        self.close_write()

    def close_read(self):
        if self.read >= 0:
            os.close(self.read)
            self.read = -1

    def close_write(self):
        if self.write >= 0:
            os.close(self.write)
            self.write = -1


MODES = pytest.mark.parametrize("blocking_mode", [True, False], ids=["blocking", "non-blocking"])


@MODES
def test_a_read_waits_for_data(run, blocking_mode):
    async def main():
        with Pipe(blocking_mode) as pipe:
            reader = go(gio.read, pipe.read, 100)
            await until(waiters)
            assert not reader.done
            os.write(pipe.write, b"hello")
            assert await reader == b"hello"
            os.write(pipe.write, b"abcdef")
            assert await gio.read(pipe.read, 4) == b"abcd"
            buffer = bytearray(b"......")
            assert await gio.read_into(pipe.read, buffer) == 2
            assert buffer == b"ef...."
            assert os.get_blocking(pipe.read) == blocking_mode

    run(main)


@MODES
def test_the_end_of_a_pipe(run, blocking_mode):
    async def main():
        with Pipe(blocking_mode) as pipe:
            reader = go(gio.read, pipe.read, 100)
            await until(waiters)
            pipe.close_write()
            assert await reader == b""
            assert await gio.read(pipe.read, 1) == b""
            assert await gio.read_into(pipe.read, bytearray(1)) == 0
            await gio.readable(pipe.read)

    run(main)


@MODES
def test_a_write_that_has_no_room_waits(run, blocking_mode):
    """The machine isn't blocked: others go on meanwhile."""
    data = random.Random(1).randbytes(1 << 20)

    async def main():
        with Pipe(blocking_mode) as pipe:

            async def give():
                view = memoryview(data)
                while view:
                    n = await gio.write(pipe.write, view)
                    assert 0 < n <= len(view)
                    view = view[n:]
                pipe.close_write()

            giver = go(give)
            await until(waiters)
            ch = chan()
            go(ch.send, "others go on")
            assert await ch.recv() == "others go on"
            assert not giver.done
            got = []
            while part := await gio.read(pipe.read, 50_000):
                got.append(part)
            assert b"".join(got) == data
            await giver

    run(main)


@MODES
def test_writing_to_a_pipe_nobody_reads(run, blocking_mode):
    async def main():
        with Pipe(blocking_mode) as pipe:
            pipe.close_read()
            with pytest.raises(BrokenPipeError):
                await gio.write(pipe.write, b"x")
            await gio.writable(pipe.write)

    run(main)


def test_socketpair_both_ways(run):
    async def main():
        a, b = socket.socketpair()
        with a, b:

            async def echo():
                while data := await gio.read(b.fileno(), 1000):
                    await gio.write(b.fileno(), data)

            echoing = go(echo)
            for i in range(50):
                message = bytes([i]) * (i + 1)
                assert await gio.write(a.fileno(), message) == len(message)
                assert await gio.read(a.fileno(), 1000) == message
            a.shutdown(socket.SHUT_WR)
            await echoing

    run(main)


def test_eventfd(run):
    async def main():
        fd = os.eventfd(0)
        try:
            reader = go(gio.read, fd, 8)
            await until(waiters)
            assert await gio.write(fd, struct.pack("Q", 5)) == 8
            assert struct.unpack("Q", await reader) == (5,)
        finally:
            os.close(fd)

    run(main)


def test_a_terminal(run):
    async def main():
        ours, theirs = os.openpty()
        try:
            reader = go(gio.read, theirs, 100)
            await until(waiters)
            await gio.write(ours, b"a line\n")
            assert await reader == b"a line\n"
            assert await gio.write(theirs, b"answer") == 6
            got = b""
            while b"answer" not in got:
                got += await gio.read(ours, 100)
        finally:
            os.close(ours)
            os.close(theirs)

    run(main)


def test_regular_files(run, tmp_path):
    path = tmp_path / "file"

    async def main():
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            data = random.Random(2).randbytes(300_000)
            view = memoryview(data)
            while view:
                view = view[await gio.write(fd, view) :]
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # so that it must be fetched
            os.lseek(fd, 0, os.SEEK_SET)
            got = []
            while part := await gio.read(fd, 70_000):
                got.append(part)
            assert b"".join(got) == data
            await gio.readable(fd)
            await gio.writable(fd)
        finally:
            os.close(fd)

    run(main)


def test_a_file_that_always_would_block(run, tmp_path, monkeypatch):
    """Some file systems answer EAGAIN for as long as one asks without waiting."""

    def refuse(*_):
        raise BlockingIOError(errno.EAGAIN, "not without waiting")

    async def main():
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        try:
            assert await gio.write(fd, b"data") == 4
            os.lseek(fd, 0, os.SEEK_SET)
            assert await gio.read(fd, 10) == b"data"
        finally:
            os.close(fd)

    monkeypatch.setattr(fd_module.os, "preadv", refuse)
    monkeypatch.setattr(fd_module.os, "pwritev", refuse)
    run(main)


@pytest.mark.parametrize("name", ["EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_where_the_kernel_cannot_read_without_waiting(run, monkeypatch, name):
    """Readiness alone, then: a blocking pipe takes PIPE_BUF bytes and no more at once."""

    def refuse(*_):
        raise OSError(getattr(errno, name), "RWF_NOWAIT")

    async def main():
        with Pipe(True) as pipe:
            assert await gio.write(pipe.write, bytes(100_000)) == 4096
            assert await gio.read(pipe.read, 10_000) == bytes(4096)
            total = 0
            while total < 65536:
                total += await gio.write(pipe.write, bytes(100_000))
            writer = go(gio.write, pipe.write, b"later")
            await until(waiters)
            while total:
                total -= len(await gio.read(pipe.read, 65536))
            assert await writer == 5

    monkeypatch.setattr(fd_module.os, "preadv", refuse)
    monkeypatch.setattr(fd_module.os, "pwritev", refuse)
    run(main)


def test_bad_fds(run):
    async def main():
        closed = os.dup(0)
        os.close(closed)
        for fd in (closed, -1, 1 << 20):
            for step in (
                gio.read(fd, 1),
                gio.read_into(fd, bytearray(1)),
                gio.write(fd, b"x"),
                gio.readable(fd),
                gio.writable(fd),
            ):
                with pytest.raises(OSError, match="Bad file descriptor") as caught:
                    await step
                assert caught.value.errno == errno.EBADF

    run(main)


def test_the_wrong_direction(run):
    async def main():
        with (
            open("/dev/null", "rb", 0) as null,
            pytest.raises(OSError, match="Bad file descriptor"),
        ):
            await gio.write(null.fileno(), b"x")

    run(main)


def test_arguments_that_make_no_sense(run):
    async def main():
        with Pipe(False) as pipe:
            with pytest.raises(ValueError, match="negative"):
                await gio.read(pipe.read, -1)
            for step in (
                gio.read("0", 1),
                gio.read(None, 1),
                gio.read(True, 1),
                gio.read(0.0, 1),
                gio.write(pipe.write, "text"),
                gio.write(pipe.write, None),
                gio.readable(object()),
            ):
                with pytest.raises(TypeError):
                    await step

    run(main)


def test_what_can_be_written(run):
    async def main():
        with Pipe(False) as pipe:
            assert await gio.write(pipe.write, bytearray(b"ab")) == 2
            assert await gio.write(pipe.write, memoryview(b"cdef").cast("H")) == 4
            assert await gio.write(pipe.write, b"") == 0
            assert await gio.read(pipe.read, 100) == b"abcdef"

    run(main)


def test_several_wait_on_one_fd(run):
    """Each byte goes to one reader; those that came too late wait on."""

    async def main():
        with Pipe(False) as pipe:
            readers = [go(gio.read, pipe.read, 1) for _ in range(10)]
            await until(lambda: waiters() == 10)
            for i in range(10):
                os.write(pipe.write, bytes([i]))
                await until(lambda i=i: sum(g.done for g in readers) == i + 1)
            assert sorted([await g for g in readers]) == [bytes([i]) for i in range(10)]

    run(main)


def test_a_reader_and_a_writer_on_one_fd(run):
    async def main():
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            room = 0
            try:
                while True:
                    room += a.send(bytes(65536))
            except BlockingIOError:
                pass
            reader = go(gio.read, a.fileno(), 10)
            writer = go(gio.write, a.fileno(), b"later")
            await until(lambda: waiters() == 2)
            b.send(b"for you")
            assert await reader == b"for you"
            assert not writer.done
            while room:
                room -= len(b.recv(min(room, 65536)))
            assert await writer == 5
            assert b.recv(10) == b"later"

    run(main)


def test_readable_takes_nothing(run):
    async def main():
        with Pipe(True) as pipe:
            gs = [go(gio.readable, pipe.read) for _ in range(3)]
            await until(lambda: waiters() == 3)
            os.write(pipe.write, b"x")
            for g in gs:
                await g
            assert os.read(pipe.read, 10) == b"x"
            await gio.writable(pipe.write)

    run(main)


def test_many_pipes_at_once(run):
    count = 200

    async def main():
        pipes = [os.pipe() for _ in range(count)]
        try:
            readers = [go(gio.read, read, 10) for read, _ in pipes]
            await until(lambda: waiters() == count)
            for i, (_, write) in enumerate(pipes):
                os.write(write, i.to_bytes(2, "big"))
            for i, g in enumerate(readers):
                assert await g == i.to_bytes(2, "big")
        finally:
            for ends in pipes:
                for fd in ends:
                    os.close(fd)

    run(main)


def test_a_ring_of_pipes(run):
    """A token goes round: every hop is a read that waited and a write."""
    count, rounds = 20, 10

    async def main():
        pipes = [os.pipe() for _ in range(count)]
        try:

            async def hop(i):
                for _ in range(rounds):
                    token = await gio.read(pipes[i][0], 8)
                    value = int.from_bytes(token, "big") + 1
                    await gio.write(pipes[(i + 1) % count][1], value.to_bytes(8, "big"))

            gs = [go(hop, i) for i in range(count)]
            os.write(pipes[0][1], bytes(8))
            for g in gs:
                await g
            assert os.read(pipes[0][0], 8) == (count * rounds).to_bytes(8, "big")
        finally:
            for ends in pipes:
                for fd in ends:
                    os.close(fd)

    run(main)


def test_another_thread_writes(run):
    """Data that comes while every machine sleeps wakes its reader."""

    async def main():
        with Pipe(True) as pipe:

            def write():
                for i in range(50):
                    os.write(pipe.write, bytes([i]))
                    while not answered[i]:
                        time.sleep(0.0002)

            answered = [False] * 50
            thread = threading.Thread(target=write)
            thread.start()
            for i in range(50):
                assert await gio.read(pipe.read, 1) == bytes([i])
                answered[i] = True
            await blocking(thread.join)

    run(main)


def test_waits_that_are_left_at_the_end(run):
    async def main():
        go(gio.read, pipe.read, 10)
        go(gio.readable, pipe.read)
        await until(lambda: waiters() == 2)

    with Pipe(True) as pipe:
        run(main)
        os.write(pipe.write, b"untouched")
        assert os.read(pipe.read, 100) == b"untouched"


def test_outside_of_a_goroutine():
    for step in (gio.read(0, 1), gio.write(1, b""), gio.readable(0)):
        with pytest.raises(RuntimeError, match="not in a goroutine"):
            step.send(None)
