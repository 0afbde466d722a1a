"""Closing: with operations under way, twice, in a cancelled goroutine, with the run."""

import errno
import os
import threading
import warnings

import pytest
from fs_support import Run, fds, fifo, make, raises, waiters
from waiting import until

import goroutine
from goroutine import context, fs
from goroutine.fs.handle import Handle
from goroutine.io.op import Op
from goroutine.io.poller import Wait

pytestmark = pytest.mark.timeout(30)

CLOSED = "I/O operation on closed file"


def test_after_close(run_one: Run, tmp_path):
    path = make(tmp_path, b"x")

    async def main():
        f = await fs.open(path, "r+")
        await f.close()
        await f.close()
        for step in (
            f.read(), f.read(0), f.write(b"x"), f.write(b""), f.pread(1, 0), f.pwrite(b"x", 0),
            f.seek(0), f.truncate(), f.fsync(), f.readline(), f.stat(),
        ):  # fmt: skip
            await raises(ValueError, CLOSED, step)
        for call in (f.tell, f.fileno, lambda: aiter(f)):
            with pytest.raises(ValueError, match=CLOSED):
                call()

    run_one(main)


def test_who_waits_is_told(run: Run, tmp_path):
    path = fifo(tmp_path)

    async def main():
        f = await fs.open(path)
        end = os.open(path, os.O_WRONLY)
        async with goroutine.Group() as group:
            readers = [group.go(raises, ValueError, CLOSED, f.read(10)) for _ in range(3)]
            await until(lambda: waiters() == 1)
            await goroutine.sleep(0.01)
            await f.close()
        assert all(r.done for r in readers)
        await until(lambda: nobody_reads(end))  # a poll that is being taken back holds the file
        os.close(end)

    run(main)


def nobody_reads(end):
    try:
        os.write(end, b"x")
    except BrokenPipeError:
        return True
    return False


def test_who_waits_to_write_is_told(run_two: Run, tmp_path):
    path = fifo(tmp_path)

    async def main():
        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        f = await fs.open(path, "w")
        async with goroutine.Group() as group:
            group.go(raises, ValueError, CLOSED, f.write(bytes(1 << 20)))
            await until(lambda: waiters() == 1)
            await f.close()
        os.close(end)

    run_two(main)


def test_operations_have_ended_when_it_is_closed(run: Run, tmp_path):
    """Whatever was under way: it was done, or it fails; and nobody else's file is touched,
    though the number of the fd is used again at once."""
    paths = [make(tmp_path, b"%d" % i * 5000, f"f{i}") for i in range(4)]
    seen = set()

    async def use(f, i):
        offset = 0
        try:
            while True:
                assert await f.pread(5000, 0) == b"%d" % i * 5000
                assert await f.pwrite(b"%d" % i, 5000 + offset) == 1
                offset += 1
                seen.add("done")
        except ValueError as failure:
            seen.add(str(failure))

    async def one(i):
        for turn in range(8):
            f = await fs.open(paths[i], "r+")
            users = [group.go(use, f, i) for _ in range(3)]
            for _ in range(turn % 4):
                await goroutine.gosched()
            if turn == 7:
                await until(lambda: "done" in seen)
            await f.close()
            await until(lambda users=users: all(u.done for u in users))

    async def main():
        nonlocal group
        async with goroutine.Group() as group:
            for i in range(4):
                group.go(one, i)

    group = None
    run(main)
    assert seen == {"done", CLOSED}
    for i, path in enumerate(paths):
        with open(path, "rb") as f:
            assert set(f.read()) == set(b"%d" % i)


def test_an_operation_that_the_close_stopped_is_not_begun_again(tmp_path, monkeypatch):
    """As it would be after a signal, which looks the same."""
    path = make(tmp_path, b"x")
    run_op = Op.run

    async def main():
        f = await fs.open(path)

        def stopped(self, ctx=None):
            monkeypatch.setattr(Op, "run", run_op)
            goroutine.go(f.close)
            while not f.closed:
                yield None
            return -errno.ECANCELED

        monkeypatch.setattr(Op, "run", stopped)
        await raises(ValueError, CLOSED, f.pread(1, 0))

    Run("ring", 1)(main)


def test_a_wait_that_parks_while_the_file_is_closed(run_one: Run, tmp_path, monkeypatch):
    """Whoever closes it has looked for waits to end, and this one was not in the poller yet."""
    path = fifo(tmp_path)
    park = Wait.park

    async def main():
        f = await fs.open(path)
        handle = f._handle

        def late(self, g):
            handle.closed = True
            for wait in list(handle.waiting):
                wait.abort()
            park(self, g)

        monkeypatch.setattr(Wait, "park", late)
        await raises(ValueError, CLOSED, f.read(1))
        monkeypatch.setattr(Wait, "park", park)
        await f.close()

    run_one(main)


@pytest.mark.parametrize("steps", range(4))
def test_a_file_that_nobody_has_seen_is_closed(run_two: Run, tmp_path, steps):
    """The run ends while many are being opened. (Op's own tests say what is in which state.)"""
    path = make(tmp_path, b"x")

    async def one():
        async with fs.open(path):
            await goroutine.sleep(60)

    async def main():
        for _ in range(200):
            goroutine.go(one)
        for _ in range(steps):
            await goroutine.gosched()
        if steps == 3:
            await fs.stat(path)

    run_two(main)


def test_several_close_at_once(run: Run, tmp_path):
    path = make(tmp_path)

    async def main():
        for _ in range(20):
            f = await fs.open(path, "w")
            async with goroutine.Group() as group:
                for _ in range(4):
                    group.go(f.close)

    run(main)


def test_a_cancelled_goroutine_closes(run_two: Run, tmp_path):
    path = make(tmp_path, b"x")
    files = []

    async def member():
        async with fs.open(path, "r+") as f:
            files.append(f)
            await goroutine.sleep(60)

    async def members():
        async with goroutine.Group() as group:
            for _ in range(5):
                group.go(member)
            await until(lambda: len(files) == 5)
            raise ValueError("enough")

    async def main():
        await raises(ValueError, "enough", members())
        assert all(f.closed for f in files)
        ctx = context.with_cancel(context.background())
        async with fs.open(path, ctx=ctx) as f:
            ctx.cancel()
            await raises(goroutine.Canceled, "", f.read(ctx=ctx))
        assert f.closed

    run_two(main)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8])
def test_closed_with_the_run(run_two: Run, tmp_path, steps):
    """The run ends at any step of what goroutines do with files: nothing stays open."""
    path = make(tmp_path, b"one\ntwo\n" * 1000)

    async def loop(mode):
        while True:
            async with fs.open(path, mode) as f:
                async for _ in f:
                    break
                await f.pread(100, 50)
                if mode == "r+":
                    await f.pwrite(b"ONE\n", 0)
                    await f.fsync()
                await f.seek(100)
                await f.read(5)
                await f.stat()
                await fs.stat(path)

    async def main():
        for _ in range(30):
            goroutine.go(loop, "r")
            goroutine.go(loop, "r+")
        for _ in range(steps):
            await goroutine.gosched()

    run_two(main)


def test_an_unclosed_file_is_told_of(run_one: Run, tmp_path):
    path = make(tmp_path)

    async def main():
        files = [await fs.open(path)]
        fd = files[0].fileno()
        with pytest.warns(ResourceWarning, match="unclosed file"):
            files.clear()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    run_one(main)


def test_a_file_of_an_earlier_run(tmp_path):
    """It is as good as before, in the next run."""
    path = make(tmp_path, b"hello")
    run = Run("ring", 1)

    async def open_it():
        return await fs.open(path, "r+")

    async def use_it(f):
        async with f:
            return await f.read()

    f = goroutine.start(open_it, io=run.io)
    assert goroutine.start(use_it, f, io="epoll") == b"hello"


def test_an_error_of_close(run_ring: Run, tmp_path, monkeypatch):
    """close(2) may say that data could not be stored: told, and it is closed."""
    done = Op.done

    def fails(self, result):
        from goroutine.io.ioring import abi

        done(self, -errno.EIO if self.code == abi.OP_CLOSE else result)

    monkeypatch.setattr(Op, "done", fails)
    path = make(tmp_path)

    async def main():
        f = await fs.open(path, "w")
        failure = await raises(OSError, "Input/output error", f.close())
        assert (failure.errno, failure.filename, f.closed) == (errno.EIO, path, True)
        await f.close()

    run_ring(main)


def test_a_close_that_the_pool_has_not_begun_at_the_end(tmp_path):
    """All pool threads are busy, and the run ends: the fd is closed nevertheless."""
    run = Run("pool", 1)
    path = make(tmp_path)
    busy = threading.Event()

    async def main():
        f = await fs.open(path, "w")
        closing = goroutine.go(f.close)
        goroutine.go(goroutine.blocking, busy.wait, 5)
        await goroutine.gosched()
        assert not closing.done
        threading.Timer(0.2, busy.set).start()

    before = fds()
    with warnings.catch_warnings():
        goroutine.start(main, io=run.io, machines=1, blocking_threads=1)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.name != "test timeout":
            thread.join()
    assert fds() == before


def test_waiting_for_users_sees_the_last_one_leave(run_one: Run, tmp_path):
    """The close is parked while the last user leaves. (Without the look after it has been
    published, this hangs.)"""
    path = make(tmp_path, b"x" * 100)

    async def main():
        f = await fs.open(path)
        handle: Handle = f._handle
        handle.enter()
        g = goroutine.go(f.close)
        await until(lambda: handle.closer is not None)
        assert not g.done
        handle.leave()
        await g
        assert handle.fd == -1

    run_one(main)
