"""What waits, in every schedule with so many interruptions: nothing is lost, nobody is left over.

A bubble's deadlock is the check that no wake-up is lost; the rest is in the assertions. Each has a
cancellation or a deadline in it that comes when something else happens as well.

Each was seen to fail with a mistake in what it is about (a reader not admitted, a lock that was
handed over and not left starving, a second call). What takes two threads at once to go wrong, as a
look that is left out between two atomic operations, does not go wrong in here: that is for the
stress tests.
"""

import pytest

from goroutine import (
    Canceled,
    ChanClosed,
    Group,
    chan,
    context,
    go,
    net,
    recv,
    select,
    send,
    sleep,
    testing,
    time,
)
from goroutine.sync import Cond, Mutex, Once, RWMutex, Semaphore, WaitGroup

pytestmark = pytest.mark.timeout(60)


def always(fn, preemptions=2, least=20):
    """fn holds in all schedules, which are not few."""
    every = testing.Exhaustive(preemptions)
    testing.run(fn, strategy=every)
    assert every.complete
    assert every.schedules >= least, every.schedules


async def canceled_soon(operation, outcomes, name):
    """operation(ctx), with a context that somebody else cancels."""
    ctx = context.with_cancel(context.background())
    go(ctx.cancel)
    try:
        await operation(ctx)
    except Canceled:
        outcomes.append((name, False))
        return False
    outcomes.append((name, True))
    return True


def test_a_value_is_received_or_still_there():
    async def main(bubble):
        ch, outcomes, got = chan(), [], []

        async def receives(ctx):
            got.append(await ch.recv(ctx=ctx))

        go(canceled_soon, receives, outcomes, "receive")
        go(ch.send, "value")
        await bubble.wait()
        if not got:
            got.append(await ch.recv())
        assert got == ["value"]
        seen.update(outcomes)

    seen = set()
    always(main)
    assert seen == {("receive", True), ("receive", False)}


def test_a_value_is_sent_or_not():
    async def main(bubble):
        ch, outcomes = chan(), []
        go(canceled_soon, lambda ctx: ch.send("value", ctx=ctx), outcomes, "send")
        chosen = await select(recv(ch), recv(time.after(1)))
        await bubble.wait()
        assert outcomes == [("send", chosen.index == 0)]
        seen.update(outcomes)

    seen = set()
    always(main, least=10)
    assert len(seen) == 2


def test_two_selects_meet_in_one_case_or_in_none():
    async def main(bubble):
        a, b, met = chan(), chan(), []

        async def one():
            chosen = await select(send(a, 1), recv(b))
            met.append(("one", chosen.index))

        async def other():
            chosen = await select(recv(a), send(b, 2))
            met.append(("other", chosen.index))

        go(one)
        go(other)
        await bubble.wait()
        assert sorted(met) in ([("one", 0), ("other", 0)], [("one", 1), ("other", 1)])
        seen.update(met)

    seen = set()
    always(main, least=4)
    assert len(seen) == 4


def test_closing_while_others_send_and_receive():
    async def main(bubble):
        ch, sent, received = chan(1), [], []

        async def sends(n):
            try:
                await ch.send(n)
            except ChanClosed:
                return
            sent.append(n)

        async def receives():
            async for n in ch:
                received.append(n)

        go(sends, 1)
        go(sends, 2)
        go(receives)
        go(ch.close)
        await bubble.wait()
        assert sorted(sent) == sorted(received)

    always(main)


def test_a_mutex_excludes_and_is_free_in_the_end():
    async def main(bubble):
        mutex, inside, outcomes = Mutex(), [], []

        async def holds(ctx=None):
            await mutex.lock(ctx=ctx)
            inside.append(1)
            assert len(inside) == 1
            await bubble.point()
            inside.pop()
            mutex.unlock()

        go(holds)
        go(canceled_soon, holds, outcomes, "lock")
        go(holds)
        await bubble.wait()
        assert mutex.try_lock()
        seen.update(outcomes)

    seen = set()
    always(main)
    assert len(seen) == 2


def test_a_mutex_in_starvation_mode():
    """Handed over to somebody whose deadline passes at that time."""

    async def main(bubble):
        mutex, done = Mutex(), []
        await mutex.lock()

        async def waits(seconds):
            with context.with_timeout(context.background(), seconds) as ctx:
                try:
                    await mutex.lock(ctx=ctx)
                except TimeoutError:
                    done.append("late")
                    return
            done.append("locked")
            await sleep(0.5)
            mutex.unlock()

        go(waits, 2)
        go(waits, 60)
        await sleep(1)
        mutex.unlock()
        await mutex.lock()  # newcomers mostly win: that makes the others starve
        await sleep(1)
        mutex.unlock()
        await bubble.sleep(60)
        assert len(done) == 2
        assert mutex.try_lock()
        seen.update(done)

    seen = set()
    always(main, least=5)
    assert seen == {"late", "locked"}


def test_an_rwmutex():
    async def main(bubble):
        m, readers, writers, outcomes = RWMutex(), [], [], []

        async def reads(ctx=None):
            await m.rlock(ctx=ctx)
            readers.append(1)
            assert not writers
            await bubble.point()
            readers.pop()
            m.runlock()

        async def writes(ctx=None):
            await m.lock(ctx=ctx)
            writers.append(1)
            assert len(writers) == 1
            assert not readers
            await bubble.point()
            writers.pop()
            m.unlock()

        go(reads)
        go(canceled_soon, writes, outcomes, "write")
        go(reads)
        go(writes)
        await bubble.wait()
        assert m.try_lock()
        seen.update(outcomes)

    seen = set()
    always(main, preemptions=1)
    assert len(seen) == 2


def test_a_semaphore_has_as_many_units_as_before():
    async def main(bubble):
        semaphore, outcomes = Semaphore(2), []

        async def holds(ctx=None, k=1):
            await semaphore.acquire(k, ctx=ctx)
            await bubble.point()
            semaphore.release(k)

        go(holds)
        go(canceled_soon, lambda ctx: holds(ctx, 2), outcomes, "acquire")
        go(holds)
        await bubble.wait()
        assert semaphore.try_acquire(2)
        seen.update(outcomes)

    seen = set()
    always(main)
    assert len(seen) == 2


def test_a_signal_is_not_lost_on_who_was_cancelled():
    async def main(bubble):
        cond, outcomes, woken = Cond(Mutex()), [], []

        async def waits(ctx=None):
            async with cond.mutex:
                await cond.wait(ctx=ctx)
                woken.append(1)

        go(waits)
        await bubble.wait()
        go(canceled_soon, waits, outcomes, "wait")
        go(cond.signal)
        await bubble.wait()
        # One signal wakes one; who was cancelled has not taken it from who was there.
        assert len(woken) == 1 + outcomes.count(("wait", True))
        seen.update(outcomes)
        cond.broadcast()

    seen = set()
    always(main, preemptions=1)
    assert seen == {("wait", False)}


def test_once_is_once():
    async def main(bubble):
        once, calls, after = Once(), [], []

        async def call():
            calls.append("begun")
            await bubble.point()
            calls.append("ended")

        async def does():
            await once.do(call)
            after.append(list(calls))

        for _ in range(3):
            go(does)
        await bubble.wait()
        assert after == [["begun", "ended"]] * 3

    always(main)


def test_a_wait_group():
    async def main(bubble):
        group, done = WaitGroup(), []

        async def work(n):
            await bubble.point()
            done.append(n)

        for n in range(2):
            group.go(work, n)

        async def waits():
            await group.wait()
            assert len(done) == 2

        go(waits)
        await group.wait()
        assert len(done) == 2

    always(main)


def test_a_group_that_fails_while_it_is_cancelled():
    async def main(bubble):
        outer = context.with_cancel(context.background())
        go(outer.cancel)
        tidied = []

        async def fails():
            await bubble.point()
            raise ValueError("no luck")

        async def waits():
            try:
                await chan().recv()
            finally:
                await bubble.point()  # may wait again
                await sleep(0.001)
                tidied.append(1)

        kinds = []
        try:
            async with Group(outer) as group:
                group.go(waits)
                group.go(fails)
        except ValueError:
            kinds.append("failed")
        except Canceled:
            kinds.append("cancelled")
        # (A member that was told before it began to wait was never in its try.)
        assert len(tidied) <= 1
        assert len(kinds) == 1
        seen.update(kinds)

    seen = set()
    always(main, preemptions=1)
    assert "failed" in seen


def test_a_timer_is_stopped_or_received():
    async def main(bubble):
        timer, got = time.Timer(1), []

        async def receives():
            chosen = await select(recv(timer.channel), recv(time.after(5)))
            got.append(chosen.index)

        async def stops():
            await sleep(1)
            stopped.append(timer.stop())

        stopped = []
        go(receives)
        go(stops)
        await bubble.sleep(10)
        assert (got, stopped) in (([0], [False]), ([1], [True]))
        seen.add(got[0])

    seen = set()
    always(main, least=4)
    assert seen == {0, 1}


def test_a_pipe_with_a_deadline():
    async def main(bubble):
        a, b = net.pipe()
        written, got = [], []

        async def writes():
            a.set_write_deadline(time.now() + 1)
            try:
                written.append(await a.write(b"ab"))
            except TimeoutError:
                written.append("late")

        async def reads():
            b.set_read_deadline(time.now() + 2)
            await sleep(1)
            try:
                got.append(await b.read(2))
            except TimeoutError:
                got.append("late")

        go(writes)
        go(reads)
        await bubble.sleep(10)
        assert (written, got) in (([2], [b"ab"]), (["late"], ["late"]))
        seen.add(written[0])

    seen = set()
    always(main, preemptions=1, least=4)
    assert seen == {2, "late"}


def test_a_dial_that_is_given_up():
    """A connection is had at both ends, or ends at the one that has it."""

    async def main(bubble):
        bubble.network.delay = 0.5
        listener, outcomes = await net.listen("tcp", "host:7"), []

        async def dials():
            try:
                conn = await net.dial("tcp", "host:7", timeout=1)
            except TimeoutError:
                outcomes.append("late")
                return
            outcomes.append("connected")
            await conn.write(b"x")
            conn.close()

        go(dials)
        peer = await listener.accept()
        data = await peer.read()
        await bubble.wait()
        assert (outcomes, data) in ((["late"], b""), (["connected"], b"x"))
        seen.update(outcomes)

    seen = set()
    always(main, least=4)
    assert seen == {"late", "connected"}
