"""Op, an operation in the ring: its end in every way, and that its memory outlives it."""

import errno
import gc
import os
import threading
import types
import weakref
from typing import ClassVar

import pytest
from fs_support import Run, fds, ops, raises
from waiting import until

import goroutine
from goroutine import context
from goroutine.io import op as module
from goroutine.io.ioring import abi
from goroutine.io.ioring.syscalls import address_of
from goroutine.io.op import Op
from goroutine.runtime.shared import current

pytestmark = pytest.mark.timeout(30)


class Buffer(bytearray):
    """One that tells when it is gone."""

    __slots__ = ("__weakref__",)


def reading(fd: int, n: int = 8) -> Op:
    """A read of a pipe, which takes as long as nobody writes."""
    buffer = Buffer(n)
    address = address_of(buffer, writable=True)
    return Op(abi.OP_READ, fd, off=-1, addr=address, length=n, keep=buffer)


@types.coroutine
def run_op(op, ctx=None):
    return (yield from op.run(ctx))


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_it_waits_for_its_completion(run_ring: Run, pipe):
    async def main():
        op = reading(pipe[0])
        g = goroutine.go(run_op, op)
        await until(lambda: ops() == [op])
        assert op.result is None
        os.write(pipe[1], b"hello")
        assert (await g, op.result, bytes(op.keep)) == (5, 5, b"hello\0\0\0")
        assert ops() == []
        assert await run_op(Op(abi.OP_READ, -1, addr=0, length=1)) == -errno.EBADF

    run_ring(main)


def test_cancelled_it_has_taken_nothing(run_ring: Run, pipe):
    async def main():
        op = reading(pipe[0])
        async with context.with_cancel(context.background()) as ctx, goroutine.Group() as group:
            group.go(run_op, op, ctx)
            await until(lambda: ops() == [op])
            ctx.cancel()
        assert (op.result, ops()) == (-errno.ECANCELED, [])
        os.write(pipe[1], b"hello")
        assert await run_op(reading(pipe[0])) == 5
        assert bytes(op.keep) == bytes(8)

    run_ring(main)


def test_cancelled_by_a_group_before_during_and_after(run_ring: Run, pipe):
    async def main():
        async with context.with_cancel(context.background()) as ctx:
            ctx.cancel()
            op = reading(pipe[0])
            await raises(goroutine.Canceled, "", run_op(op, ctx))
            assert (op.result, op.m) == (None, None)  # it wasn't even begun
        await raises(ValueError, "enough", member())
        ctx2 = context.with_cancel(context.background())
        os.write(pipe[1], b"x")
        assert await run_op(reading(pipe[0]), ctx2) == 1
        ctx2.cancel()

    async def member():
        op = reading(pipe[0])
        async with goroutine.Group() as group:
            group.go(raises, goroutine.Canceled, "", run_op(op))
            await until(lambda: ops() == [op])
            raise ValueError("enough")

    run_ring(main)


def test_a_result_in_spite_of_the_cancellation_counts(run_ring: Run, pipe):
    """The cancellation and the data come at once, over and over: either the operation has
    the bytes, or they are still in the pipe."""
    had = []

    async def main():
        for _ in range(100):
            op = reading(pipe[0], 1)
            ctx = context.with_cancel(context.background())
            g = goroutine.go(catch, op, ctx)
            await until(lambda op=op: ops() == [op], 10)
            os.write(pipe[1], b"x")
            ctx.cancel()
            had.append(await g)
            if not had[-1]:
                assert os.read(pipe[0], 10) == b"x"
        os.set_blocking(pipe[0], False)
        with pytest.raises(BlockingIOError):
            os.read(pipe[0], 1)

    async def catch(op, ctx):
        try:
            return await run_op(op, ctx) == 1
        except goroutine.Canceled:
            assert op.result == -errno.ECANCELED
            return False

    run_ring(main)


def test_which_results_are_cancellations():
    scope, wanted = object(), Op(abi.OP_NOP, -1)
    wanted.asked = scope
    wanted.done(7)
    assert (wanted.canceled, wanted.result) == (None, 7)
    for result in (-errno.ECANCELED, -errno.EINTR, -512):
        wanted.canceled = None
        wanted.done(result)
        assert wanted.canceled is scope
    wanted.canceled = None
    wanted.done(-errno.EIO)
    assert wanted.canceled is None
    aborted = Op(abi.OP_NOP, -1)
    aborted.abort()
    aborted.cancel(scope)  # type: ignore[arg-type]
    aborted.done(-errno.ECANCELED)
    assert aborted.canceled is None


@pytest.mark.parametrize("early", [True, False])
def test_abort(run_ring: Run, pipe, early):
    async def main():
        op = reading(pipe[0])
        if early:
            op.abort()
        g = goroutine.go(run_op, op)
        if not early:
            await until(lambda: ops() == [op])
            await goroutine.blocking(op.abort)  # from a thread that is no machine
        assert await g == -errno.ECANCELED

    run_ring(main)


# -- the end of the run ------------------------------------------------------------------------


class Opening(Op):
    lost_results: ClassVar[list[int]] = []

    def lost(self, result):
        self.lost_results.append(result)
        if result >= 0:
            os.close(result)


def opening(name: bytes = b"/dev/null\0") -> Op:
    return Opening(abi.OP_OPENAT, -100, addr=address_of(name), op_flags=os.O_CLOEXEC, keep=name)


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("count", [1, 100])
def test_an_fd_that_nobody_has_seen_is_closed(run_ring: Run, steps, count):
    """The run ends when an openat is not yet submitted, or has completed and its goroutine
    hasn't run since: with 100 of them some are in each state."""
    Opening.lost_results = []
    seen = []

    async def one():
        fd = await run_op(opening())
        seen.append(fd)
        os.close(fd)

    async def main():
        for _ in range(count):
            goroutine.go(one)
        for _ in range(steps):
            await goroutine.gosched()
        if steps == 3:
            os.close(await run_op(opening()))

    before = fds()
    run_ring(main)
    assert fds() == before
    assert len(seen) + len(Opening.lost_results) <= count  # the rest hadn't begun


def test_memory_lives_as_long_as_the_kernel_may_use_it(run_ring: Run, pipe, monkeypatch):
    """The run ends while the kernel waits with the address of a buffer: freed only when it
    has let go of that. (end_all, made to do nothing, is seen to fail here.)"""
    alive = []
    refs = []

    class Spy(Op):
        def lost(self, result):
            gc.collect()
            alive.append((result, refs[0]() is not None))

    async def reader():
        op = reading(pipe[0])
        refs.append(weakref.ref(op.keep))
        spy = Spy(op.code, op.fd, off=-1, addr=op.addr, length=8, keep=op.keep)
        del op
        await run_op(spy)

    async def main():
        goroutine.go(reader)
        await until(ops)

    run_ring(main)
    assert alive == [(-errno.ECANCELED, True)]
    gc.collect()
    assert refs[0]() is None
    os.write(pipe[1], b"into nobody's memory")
    assert os.read(pipe[0], 100) == b"into nobody's memory"


def test_what_the_kernel_does_not_let_go_of_is_never_freed(pipe, monkeypatch):
    from goroutine.io.ioring import Ring

    with Ring(8) as ring:
        op = reading(pipe[0])
        op.key, op.place = 99, ring.tail
        ring.prepare(op.code, fd=op.fd, off=op.off, addr=op.addr, length=8, user_data=99)
        later = Opening(abi.OP_OPENAT, -1)
        Opening.lost_results = []
        ring.submit()
        later.place = ring.tail
        ring.prepare(abi.OP_NOP, user_data=100)  # never submitted

        def stuck(**_):
            raise OSError(errno.ETIME, "they go on")

        with monkeypatch.context() as patch:
            patch.setattr(Ring, "sync_cancel", lambda self, **_: stuck())
            table = {99: op, 100: later}
            module.end_all(ring, table)
        assert (module._stuck, table) == ([op], {})
        assert Opening.lost_results == [-errno.ECANCELED]
        module._stuck.clear()


def test_an_operation_keeps_the_deadlock_detector_quiet(run_ring: Run, pipe):
    async def main():
        threading.Timer(0.5, os.write, (pipe[1], b"x")).start()
        return await run_op(reading(pipe[0]))

    assert run_ring(main) == 1
    await_threads()


def await_threads():
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.name != "test timeout":
            thread.join()


def test_a_full_queue(run_ring: Run, pipe):
    """More operations than the submission queue has room for, from one step."""

    async def main():
        os.set_blocking(pipe[0], False)
        poller = current().poller
        results = await gather([Op(abi.OP_NOP, -1) for _ in range(3000)])
        assert set(results) == {0}
        assert poller is not None

    async def gather(many):
        async with goroutine.Group() as group:
            members = [group.go(run_op, op) for op in many]
        return [member.result() for member in members]

    run_ring(main)


def test_a_queue_that_takes_no_more(run_ring: Run, monkeypatch):
    from goroutine.io.ioring import Ring

    prepare = Ring.prepare

    def refuses(self, op, **fields):
        if op == abi.OP_NOP:
            raise OSError(errno.EBUSY, "full")
        prepare(self, op, **fields)

    monkeypatch.setattr(Ring, "prepare", refuses)

    async def main():
        return await run_op(Op(abi.OP_NOP, -1))

    assert run_ring(main) == -errno.EBUSY
