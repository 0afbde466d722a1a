"""aio.run() cancelled: from here, from there, and from both sides at once."""

from __future__ import annotations

import asyncio
import random

import pytest
from aio_support import asyncio_threads, forever
from waiting import until

from goroutine import (
    Canceled,
    DeadlineExceeded,
    Group,
    aio,
    context,
    go,
    gosched,
    sleep,
    start,
)
from goroutine.runtime.thread import holds

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert asyncio_threads() == []
    assert holds.held == {}


def cancelable():
    return context.with_cancel(context.background())


class Work:
    """A coroutine that keeps a log, and takes its time to clean up."""

    def __init__(self):
        self.log = []

    async def run(self, seconds=60.0, result=None):
        self.log.append("begin")
        try:
            await asyncio.sleep(seconds)
            self.log.append("done")
            return result
        except asyncio.CancelledError:
            self.log.append("cancelled")
            await asyncio.sleep(0.02)
            self.log.append("cleaned up")
            raise


ALL = ["begin", "cancelled", "cleaned up"]


# -- here ------------------------------------------------------------------------------------


def test_by_a_context(machines):
    async def main():
        work, ctx = Work(), cancelable()

        async def cancel():
            await until(lambda: work.log)
            ctx.cancel(ValueError("enough"))

        go(cancel)
        with pytest.raises(Canceled, match=r"^context canceled$") as caught:
            await aio.run(work.run(), ctx=ctx)
        # It has ended by now: nothing goes on behind our back.
        assert work.log == ALL
        assert repr(caught.value.__cause__) == "ValueError('enough')"

    start(main, machines=machines)


def test_by_a_deadline(machines):
    async def main():
        work = Work()
        with context.with_timeout(context.background(), 0.05) as ctx:
            with pytest.raises(DeadlineExceeded, match=r"^context deadline exceeded$"):
                await aio.run(work.run(), ctx=ctx)
            assert work.log == ALL
            # The context is over, also for what needs no waiting.
            with pytest.raises(TimeoutError):
                await aio.run(work.run(0), ctx=ctx)
        assert await aio.run(work.run(0, "on we go")) == "on we go"

    start(main, machines=machines)


def test_by_a_group(machines):
    """It is told once: the next calls, in ``finally``, work."""

    async def member(work, log):
        try:
            await aio.run(work.run())
        finally:
            log.extend(work.log)
            log.append(await aio.run(work.run(0.01, "good-bye")))

    async def fail(work):
        await until(lambda: work.log)
        raise LookupError("no luck")

    async def main():
        work, log = Work(), []
        group = Group()

        async def body():
            async with group:
                group.go(fail, work)
                return await group.go(member, work, log)

        with pytest.raises(LookupError, match="no luck"):
            await body()
        assert log == [*ALL, "good-bye"]

    start(main, machines=machines)


@pytest.mark.parametrize("by", ["context", "group"])
def test_before_it_begins(by):
    """The coroutine isn't begun, and no thread is started for it; Python doesn't warn."""

    async def main():
        work = Work()
        if by == "context":
            ctx = cancelable()
            ctx.cancel()
            with pytest.raises(Canceled):
                await aio.run(work.run(), ctx=ctx)
        else:
            async with Group() as group:
                group.context.cancel()
                with pytest.raises(Canceled):
                    await aio.run(work.run())
        return work.log, asyncio_threads()

    assert start(main) == ([], [])


def test_a_result_that_comes_all_the_same_is_not_lost(machines):
    """As if the cancellation had come too late. It is told at the next wait."""

    async def stubborn(log):
        log.append("begin")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("no")
        return "result"

    async def under_a_context():
        log, ctx = [], cancelable()
        go(until(lambda: log and ctx.cancel() is None))
        assert await aio.run(stubborn(log), ctx=ctx) == "result"
        assert log == ["begin", "no"]
        with pytest.raises(Canceled):
            await sleep(0, ctx=ctx)

    async def in_a_group():
        async def member(log):
            got = await aio.run(stubborn(log))
            with pytest.raises(Canceled):
                await sleep(0.001)
            return got

        log = []
        async with Group() as group:
            g = group.go(member, log)
            await until(lambda: log)
            group.context.cancel()
        assert g.result() == "result"
        assert log == ["begin", "no"]

    async def main():
        await under_a_context()
        await in_a_group()

    start(main, machines=machines)


def test_failing_to_clean_up_is_a_failure(machines):
    async def fails(log):
        log.append("begin")
        try:
            await asyncio.sleep(60)
        finally:
            raise LookupError("while cleaning up")

    async def main():
        log, ctx = [], cancelable()
        go(until(lambda: log and ctx.cancel() is None))
        with pytest.raises(LookupError, match="while cleaning up") as caught:
            await aio.run(fails(log), ctx=ctx)
        assert isinstance(caught.value.__context__, asyncio.CancelledError)
        log.clear()

        async def in_a_group():
            async with Group() as group:
                group.go(aio.run(fails(log)))
                await until(lambda: log)
                group.context.cancel()

        with pytest.raises(LookupError, match="while cleaning up"):
            await in_a_group()

    start(main, machines=machines)


def test_by_everybody_at_once_is_once(machines):
    """The cleaning up isn't interrupted by a second cancellation, of whatever scope.

    Seen to fail when stop() does not look at ``asked``."""

    async def main():
        for _ in range(10):
            work, outer, own = Work(), cancelable(), cancelable()
            try:
                async with Group(outer) as group:
                    group.go(aio.run(work.run(), ctx=own))
                    await until(lambda work=work: work.log)
                    for cancel in (own.cancel, group.context.cancel, outer.cancel):
                        go(cancel)
            except Canceled:
                pass  # the group says so, if outer came first
            assert work.log == ALL

    start(main, machines=machines)


def test_asyncios_own_timeouts_inside():
    async def inside(log):
        try:
            async with asyncio.timeout(0.01):
                await forever()
        except TimeoutError:
            log.append("timeout")
        async with asyncio.timeout(60):
            await forever()

    async def main():
        log = []
        with context.with_timeout(context.background(), 0.2) as ctx, pytest.raises(Canceled):
            await aio.run(inside(log), ctx=ctx)
        return log

    assert start(main) == ["timeout"]


# -- there -----------------------------------------------------------------------------------


async def cancels_itself():
    asyncio.current_task().cancel("enough")
    await asyncio.sleep(60)


async def awaits_a_cancelled_future():
    future = asyncio.get_running_loop().create_future()
    future.cancel("enough")
    await future


async def raises_it():
    raise asyncio.CancelledError("enough")


async def is_cancelled_by_another():
    asyncio.get_running_loop().call_later(0.01, asyncio.current_task().cancel, "enough")
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    "work", [cancels_itself, awaits_a_cancelled_future, raises_it, is_cancelled_by_another]
)
def test_there_is_canceled_here(work, machines):
    async def main():
        for ctx in (None, cancelable()):
            with pytest.raises(Canceled, match=r"^asyncio task canceled$") as caught:
                await aio.run(work(), ctx=ctx)
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
            assert str(caught.value.__cause__) == "enough"
        async with Group() as group:  # of which a member that was cancelled has not failed
            g = group.go(aio.run(work()))
            await sleep(0.02)
        with pytest.raises(Canceled):
            g.result()

    start(main, machines=machines)


# -- both at once ----------------------------------------------------------------------------

ROUNDS = 4000
ENDS = {"result": "done", "here": "cancelled", "there": "cancelled"}


def test_races(machines):
    """Thousands of calls that end, are cancelled here and are cancelled there, in no order.

    Whatever comes, it comes once and when the coroutine has ended: a result that was made is
    had, and `Canceled` only after the coroutine has seen CancelledError. Seen to fail when
    `_Call.cancel` claims and wakes as a Waiter's does (the coroutine is still running), when
    it sets ``canceled`` itself (a result is lost), and to hang without ``eager_start`` (a task
    that is cancelled before its first step answers nobody).
    """
    tasks = []

    async def work(state, spins, pause):
        tasks.append(asyncio.current_task())
        try:
            for _ in range(spins):
                await asyncio.sleep(0)
            if pause:
                await asyncio.sleep(pause)
            state.append("done")
            return "result"
        except asyncio.CancelledError:
            state.append("cancelled")
            if pause:
                await asyncio.sleep(0)
            raise
        finally:
            state.append("ended")

    async def client(seed, outcomes, contexts):
        rng = random.Random(seed)
        for _ in range(ROUNDS // 10):
            state, ctx = [], cancelable()
            contexts.append(ctx)
            spins, pause = rng.choice([0, 1, 2, 5]), rng.choice([0, 0, 0, 0.0005])
            try:
                got = await aio.run(work(state, spins, pause), ctx=ctx)
            except Canceled as failure:
                got = "there" if failure.__cause__ is not None else "here" if state else "before"
            expected = [] if got == "before" else [ENDS[got], "ended"]
            assert state == expected
            outcomes.append(got)

    async def cancel_here(rng, contexts, over):
        while not over:
            while contexts:
                contexts.pop(rng.randrange(len(contexts))).cancel()
                for _ in range(rng.randrange(4)):
                    await gosched()
            await sleep(0.0001)

    async def cancel_there(rng, over):
        while not over:
            while tasks:
                task = tasks.pop()
                if rng.random() < 0.3:
                    task.cancel()
                await asyncio.sleep(0)
            await asyncio.sleep(0.0001)

    async def main():
        outcomes, contexts, over = [], [], []
        rng = random.Random(7)
        async with Group() as group:
            helpers = [
                group.go(cancel_here, rng, contexts, over),
                group.go(aio.run(cancel_there(rng, over))),
            ]
            async with Group() as clients:
                for seed in range(10):
                    clients.go(client, seed, outcomes, contexts)
            over.append(True)
        assert all(helper.done for helper in helpers)
        return outcomes

    outcomes = start(main, machines=machines)
    assert len(outcomes) == ROUNDS
    assert {*outcomes} >= {*ENDS}  # each has happened


def test_races_of_groups(machines):
    """A group that ends at any moment leaves no coroutine running."""

    async def work(running):
        running.append(1)
        try:
            await asyncio.sleep(random.random() / 500)
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                running.pop()

    async def main():
        running = []
        for round_ in range(200):
            async with Group() as group:
                for _ in range(4):
                    group.go(aio.run(work(running)))
                for _ in range(round_ % 7):
                    await gosched()
                if round_ % 3 == 0:
                    await sleep(random.random() / 500)
                group.context.cancel()
            assert running == []

    start(main, machines=machines)
