"""The clock of a bubble: it stands still, and jumps."""

import math
import time as real_time

import pytest

import goroutine
from goroutine import Deadlock, chan, context, go, gosched, recv, select, sleep, testing, time
from goroutine.net import pipe
from goroutine.sync import Mutex
from goroutine.testing.clock import EPOCH

pytestmark = pytest.mark.timeout(20)


def test_it_begins_in_2000():
    async def main(bubble):
        return bubble.now(), time.now()

    assert testing.run(main) == (946684800.0, 946684800.0)
    assert real_time.gmtime(EPOCH)[:6] == (2000, 1, 1, 0, 0, 0)


def test_it_stands_still_while_anybody_can_run():
    async def main(bubble):
        async def computes():
            for _ in range(1000):
                await gosched()
            return time.now()

        go(sleep, 1)
        return await go(computes)

    with pytest.raises(Deadlock):  # time has ended for the sleeper
        testing.run(main)

    async def waits(bubble):
        now = await main(bubble)
        await sleep(1)
        return now

    assert testing.run(waits) == EPOCH


def test_years_take_no_time():
    async def main(bubble):
        await sleep(1e9)
        return time.now() - EPOCH

    began = real_time.monotonic()
    assert testing.run(main) == 1e9
    assert real_time.monotonic() - began < 5


def test_the_real_clock_is_back_afterwards():
    async def main(bubble):
        await sleep(100)

    testing.run(main)
    assert abs(time.now() - real_time.time()) < 60

    async def program():
        before = time.now()
        await sleep(0.01)
        return time.now() - before

    assert 0.01 <= goroutine.start(program, machines=1) < 10


def test_also_after_a_failure():
    async def main(bubble):
        raise LookupError

    with pytest.raises(LookupError):
        testing.run(main)
    assert abs(time.now() - real_time.time()) < 60


def test_sleepers_wake_in_order():
    async def main(bubble):
        woken = []

        async def sleeper(seconds):
            await sleep(seconds)
            woken.append((seconds, time.now() - EPOCH))

        for seconds in (3, 1, 2.5, 0.25):
            go(sleeper, seconds)
        await bubble.sleep(10)
        return woken

    expected = [(0.25, 0.25), (1, 1.0), (2.5, 2.5), (3, 3.0)]
    assert testing.run(main, runs=20) == expected


def test_what_is_due_at_the_same_microsecond_is_one_instant():
    """A sum of floats, and a deadline that went through the time of day."""
    seen = set()

    async def main(bubble):
        order = []

        async def thrice():
            for _ in range(3):
                await sleep(0.1)
            order.append("thrice")

        async def once():
            await sleep(0.3)
            order.append("once")

        async def deadline():
            with context.with_deadline(context.background(), time.now() + 0.3) as ctx:
                await select(recv(ctx.done()))
            order.append("deadline")

        for fn in (thrice, once, deadline):
            go(fn)
        await bubble.sleep(1)
        seen.add(tuple(order))

    every = testing.Exhaustive(preemptions=1)
    testing.run(main, strategy=every)
    assert {order[0] for order in seen} == {"thrice", "once", "deadline"}


def test_the_clock_does_not_go_back():
    async def main(bubble):
        for n in range(1, 200):
            before = time.now()
            go(sleep, n * 1e-7)
            await sleep(n * 1.1e-7)
            assert time.now() >= before
        await sleep(1)

    testing.run(main, runs=3)


def test_sleep_for_ever_and_for_no_time():
    async def main(bubble):
        await sleep(0)
        await sleep(-1)
        assert time.now() == EPOCH
        with pytest.raises(ValueError, match="NaN"):
            await sleep(math.nan)
        await sleep(math.inf)

    with pytest.raises(Deadlock):
        testing.run(main)


def test_timers_and_tickers():
    async def main(bubble):
        timer, ticker = time.Timer(5), time.Ticker(2)
        times = [await ticker.channel.recv() for _ in range(2)]
        times.append(await timer.channel.recv())
        ticker.reset(10)
        times.append(await ticker.channel.recv())
        ticker.stop()
        timer.reset(1)
        assert timer.stop()
        assert not timer.stop()
        times.append((await select(recv(time.after(0.5)))).value)
        return [when - EPOCH for when in times]

    assert testing.run(main, runs=10) == [2, 4, 5, 15, 15.5]


def test_a_slow_receiver_loses_ticks():
    async def main(bubble):
        ticker = time.Ticker(1)
        await sleep(3.5)
        ticks = [await ticker.channel.recv() - EPOCH for _ in range(2)]
        ticker.stop()
        return ticks

    assert testing.run(main) in ([1, 4], [3, 4])


def test_after_func():
    async def main(bubble):
        ch = chan()
        time.after_func(3, lambda: go(ch.send, time.now()))
        stopped = time.after_func(2, ch.close)
        await sleep(1)
        assert stopped.stop()
        return await ch.recv() - EPOCH

    assert testing.run(main, runs=10) == 3


def test_a_timer_that_is_due_can_still_be_stopped():
    """By another one that goes off at the same time."""

    async def main(bubble):
        rung, stopped, timers = [], [], []

        def ring(n):
            rung.append(n)
            stopped.append(timers[1 - n].stop())

        timers.append(time.after_func(1, lambda: ring(0)))
        timers.append(time.after_func(1, lambda: ring(1)))
        await bubble.sleep(1)
        assert len(rung) == 2 - any(stopped)
        seen.add(tuple(rung))

    seen = set()
    testing.run(main, strategy="exhaustive")
    assert seen == {(0,), (1,), (0, 1), (1, 0)}


def test_deadlines_of_contexts():
    async def main(bubble):
        outer = context.with_timeout(context.background(), 10)
        inner = context.with_timeout(outer, 60)
        assert inner.deadline() == EPOCH + 10
        with pytest.raises(TimeoutError):
            await sleep(20, ctx=inner)
        assert time.now() == EPOCH + 10
        assert inner.err() is not None
        past = context.with_deadline(context.background(), EPOCH + 9)
        assert past.err() is not None

    testing.run(main, runs=10)


def test_deadlines_of_pipes():
    async def main(bubble):
        a, b = pipe()
        a.set_read_deadline(time.now() + 3)
        with pytest.raises(TimeoutError):
            await a.read()
        assert time.now() == EPOCH + 3
        a.set_read_deadline(None)
        go(b.write, b"hello")
        assert await a.read() == b"hello"

    testing.run(main, runs=10)


def test_a_mutex_starves_by_this_clock():
    """A waiter that has waited for longer than a millisecond gets it handed."""

    async def main(bubble):
        mutex, order = Mutex(), []
        await mutex.lock()

        async def waits():
            async with mutex:
                order.append("waiter")

        go(waits)
        await bubble.sleep(1)
        for _ in range(3):
            mutex.unlock()
            await mutex.lock()
            order.append("main")
        mutex.unlock()
        await bubble.wait()
        return order

    assert testing.run(main, schedule="-") == testing.run(main, schedule="-")
    assert "waiter" in testing.run(main)


def test_now_is_read_in_bubbles_only():
    """...also while there is one: on another thread the clock is the real one."""
    import threading

    async def main(bubble):
        seen = []
        t = threading.Thread(target=lambda: seen.append(time.now()))
        t.start()
        t.join()
        return seen

    [now] = testing.run(main)
    assert abs(now - real_time.time()) < 60
