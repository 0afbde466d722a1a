"""Cancelling what waits: in the ring, on a thread, for a FIFO. What it leaves behind."""

import os
import stat
import threading

import pytest
from fs_support import Cancelling, Run, fds, fifo, make, ops, raises, waiters
from waiting import until

import goroutine
from goroutine import context, fs
from goroutine.fs.call import Call
from goroutine.runtime.scheduler import running

pytestmark = pytest.mark.timeout(30)


async def cancel_when(condition, step):
    """Begin it, cancel it once the condition holds; it raises Canceled."""
    async with context.with_cancel(context.background()) as ctx, goroutine.Group() as group:
        g = group.go(raises, goroutine.Canceled, "context canceled", step(ctx))
        await until(condition)
        await goroutine.sleep(0.005)
        assert not g.done
        ctx.cancel()


def test_opening_a_fifo_to_write_waits_for_a_reader(run_two: Run, tmp_path):
    path = fifo(tmp_path)

    async def main():
        opening = goroutine.go(open_it)
        await goroutine.sleep(0.02)
        assert not opening.done
        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        f = await opening
        assert await f.write(b"hello") == 5
        assert os.read(end, 100) == b"hello"
        await f.close()
        os.close(end)

    async def open_it():
        return await fs.open(path, "w")

    run_two(main)


def test_that_is_cancelled(run: Run, tmp_path):
    """Also when it waits on a thread: that one closes what it gets later."""
    path = fifo(tmp_path)

    async def main():
        pool = running().pool  # type: ignore[union-attr]
        await cancel_when(lambda: ops() or pool.busy(), open_it)
        assert not ops()
        if pool.busy():
            end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            await until(lambda: not pool.busy())
            os.close(end)

    async def open_it(ctx):
        await fs.open(path, "w", ctx=ctx)

    run(main)


def test_opening_a_fifo_to_read_does_not_wait_but_reading_does(run: Run, tmp_path):
    path = fifo(tmp_path)

    async def main():
        async with fs.open(path) as f:
            await cancel_when(lambda: waiters() == 1, lambda ctx: f.read(5, ctx=ctx))
            end = os.open(path, os.O_WRONLY)
            await cancel_when(lambda: waiters() == 1, lambda ctx: f.read(5, ctx=ctx))
            os.write(end, b"hello world")
            assert await f.read(5) == b"hello"
            assert await f.read(50) == b" world"
            for call in (f.tell, f.fileno):
                if call == f.tell:
                    with pytest.raises(OSError, match="Illegal seek"):
                        call()
                else:
                    assert stat.S_ISFIFO(os.fstat(call()).st_mode)
            for step in (f.seek(0), f.pread(1, 0)):
                await raises(OSError, "Illegal seek", step)
            os.close(end)
            assert await f.read(1) == await f.read() == b""

    run(main)


def test_a_cancelled_write_to_a_fifo(run: Run, tmp_path):
    """Some of it has been written: so much as there was room for."""
    path = fifo(tmp_path)

    async def main():
        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        async with fs.open(path, "w") as f:
            await cancel_when(lambda: waiters() == 1, lambda ctx: f.write(bytes(1 << 20), ctx=ctx))
            assert len(os.read(end, 1 << 20)) == 1 << 16
            assert await f.write(b"hello") == 5
            assert os.read(end, 100) == b"hello"
            os.close(end)
            await raises(BrokenPipeError, "", f.write(b"x"))

    run(main)


def test_cancelled_while_another_has_the_position(run_one: Run, tmp_path):
    path = make(tmp_path, b"hello")

    async def main():
        async with fs.open(path, "r+") as f:
            await f._lines.mutex.lock()
            for step in (f.read, f.readline, f.truncate):
                await cancel_when(lambda: True, lambda ctx, step=step: step(ctx=ctx))
            await cancel_when(lambda: True, lambda ctx: f.write(b"x", ctx=ctx))
            await cancel_when(lambda: True, lambda ctx: f.seek(1, ctx=ctx))
            f._lines.mutex.unlock()
            assert (f.tell(), await f.read()) == (0, b"hello")

    run_one(main)


@pytest.mark.parametrize("how", ["ctx", "group"])
def test_cancelled_at_every_step(run_one: Run, tmp_path, monkeypatch, how):
    """A goroutine that does a bit of everything, cancelled while it waits for the n-th time:
    what it had been told of is done, and no operation, file or lock is left."""
    path = str(tmp_path / "file")
    cancelling = Cancelling(monkeypatch)

    async def work(ctx, log):
        async with fs.open(path, "w+", ctx=ctx) as f:
            log.append(f)
            for i in range(3):
                await f.write(b"line %d\n" % i, ctx=ctx)
                log.append(f.tell())
            await f.fsync(ctx=ctx)
            await f.seek(0, ctx=ctx)
            assert await f.readline(ctx=ctx) == b"line 0\n"
            assert await f.pread(6, 7, ctx=ctx) == b"line 1"
            assert await f.read(3, ctx=ctx) == b"lin"
            assert (await f.stat(ctx=ctx)).st_size == 21
            await f.truncate(7, ctx=ctx)
            log.append("truncated")
            assert (await fs.stat(path, ctx=ctx)).st_size == 7
            log.append("done")

    async def catch(ctx, log):
        try:
            await work(ctx, log)
        except goroutine.Canceled:
            log.append("canceled")

    async def attempt(n):
        log: list = []
        if how == "ctx":
            async with context.with_cancel(context.background()) as ctx:
                cancelling.after(n, ctx.cancel)
                await catch(ctx, log)
        else:
            async with goroutine.Group(context.with_cancel(context.background())) as group:
                cancelling.after(n, group.context.cancel)
                member = group.go(catch, None, log)
                while not member.done:
                    await goroutine.gosched()
        assert not ops()
        if log[0] != "canceled":
            f = log[0]
            assert f.closed
            assert not f._lines.mutex._lock.locked()
            assert not f._handle.users
            assert not f._handle.waiting
            size = os.stat(path).st_size
            told = 7 if "truncated" in log else max([0, *(m for m in log if type(m) is int)])
            # (What was done in spite of the cancellation is told, too.)
            assert size == told, log
        return log

    async def main():
        n, logs = 0, []
        while not logs or cancelling.left <= 0:
            n += 1
            logs.append(await attempt(n))
        return logs

    before = fds()
    logs = run_one(main)
    assert fds() == before
    assert len(logs) > 8
    assert logs[0][-1] == "canceled"
    assert logs[-1][-1] == "done"
    assert any(log[-1] == "canceled" and 7 in log for log in logs)


# -- calls on a thread ----------------------------------------------------------------------------


def test_a_call_that_has_begun_is_waited_for():
    run = Run("pool", 1)
    go_on, begun = threading.Event(), threading.Event()

    async def main():
        async with context.with_cancel(context.background()) as ctx:
            call = Call(lambda: (begun.set(), go_on.wait(10))[1])
            g = goroutine.go(wait(call, ctx))
            await until(begun.is_set)
            ctx.cancel()
            await goroutine.sleep(0.02)
            assert not g.done
            go_on.set()
            assert await g is True

    async def wait(call, ctx):
        return await call.wait(ctx)

    run(main)


def test_a_call_that_has_not_begun_is_not_made(tmp_path):
    """All threads are busy."""
    busy = threading.Event()
    made = []

    async def main():
        blocked = goroutine.go(goroutine.blocking, busy.wait, 10)
        await goroutine.gosched()
        async with context.with_cancel(context.background()) as ctx:
            g = goroutine.go(raises, goroutine.Canceled, "", wait(ctx))
            await goroutine.gosched()
            ctx.cancel()
            await g
        busy.set()
        await blocked
        await goroutine.blocking(made.append, "last")

    async def wait(ctx):
        return await Call(made.append, "first").wait(ctx)

    goroutine.start(main, machines=1, io="epoll", blocking_threads=1)
    assert made == ["last"]


def test_a_thread_that_finds_a_call_withdrawn_does_not_wake_its_goroutine():
    """It came between the withdrawal and the claim, and the call had a result of None."""
    call: Call

    class Begin(list):
        def pop(self):  # the canceller's: and now the thread comes
            super().pop()
            thread = threading.Thread(target=call.run)
            thread.start()
            thread.join(0.2)
            return True

    async def main():
        nonlocal call
        busy.clear()
        blocked = goroutine.go(goroutine.blocking, busy.wait, 10)
        await goroutine.gosched()
        async with context.with_cancel(context.background()) as ctx:
            call = Call(int)
            call.begin = Begin([True])
            g = goroutine.go(raises, goroutine.Canceled, "", wait(ctx))
            await goroutine.gosched()
            ctx.cancel()
            await g
            call.pool.free -= 1  # it was not one of its threads
            call.pool.pending += 1
        busy.set()
        await blocked

    async def wait(ctx):
        await call.wait(ctx)

    busy = threading.Event()
    goroutine.start(main, machines=1, io="epoll", blocking_threads=1)


def test_what_a_call_gives_too_late():
    """The goroutine has gone, cancelled or closed: somebody must have the result."""
    lost, go_on, begun = [], threading.Event(), threading.Event()

    def call():
        begun.set()
        go_on.wait(10)
        return "result"

    async def main(ends):
        begun.clear()
        go_on.clear()
        async with context.with_cancel(context.background()) as ctx:
            g = goroutine.go(swallow, Call(call, waits=False, lost=lost.append), ctx)
            await until(begun.is_set)
            if not ends:
                ctx.cancel()
                await g
                assert lost == []
                go_on.set()
                await until(lambda: lost)
            else:
                threading.Timer(0.1, go_on.set).start()

    async def swallow(call, ctx):
        try:
            await call.wait(ctx)
        except goroutine.Canceled:
            pass

    for ends in (False, True):
        goroutine.start(main, ends, machines=1)
        assert lost == ["result"] * (1 + ends)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.name != "test timeout":
            thread.join()
