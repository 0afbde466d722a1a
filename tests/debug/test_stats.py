"""debug.stats(): counts that are right."""

import dataclasses
import threading
import time

import pytest

from goroutine import blocking, chan, debug, go, gosched, net, sleep, start
from goroutine import machines as machine_count
from goroutine.debug import Blocking, Counts

pytestmark = pytest.mark.timeout(30)


async def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, debug.stats()
        await sleep(0.001)


def test_outside_a_run():
    nothing = debug.stats()
    assert nothing.machines == ()
    assert nothing.goroutines == Counts(0, 0, 0)
    assert nothing.blocking == Blocking(0, 0, 0)
    assert (nothing.queue, nothing.timers) == (0, 0)


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        debug.stats().queue = 1


def test_machines(machines, io):
    async def main():
        return debug.stats()

    found = start(main, machines=machines, io=io)
    assert [m.number for m in found.machines] == list(range(machines))
    (running,) = [m for m in found.machines if m.running is not None]
    assert running.running == 1
    assert not running.asleep
    assert running.passes > 0


@pytest.mark.parametrize("others", [0, 1, 70])
def test_steps(others):
    """Each time a goroutine is run; exact when it has gone idle."""

    async def yields(n):
        for _ in range(n):
            await gosched()

    async def main():
        await sleep(0.001)
        before = debug.stats().machines[0].steps
        gs = [go(yields, 100) for _ in range(others)]
        await yields(100)
        for g in gs:
            await g
        await sleep(0.001)
        return debug.stats().machines[0].steps - before

    counted = start(main, machines=1)
    # 101 of each; main also is woken from joining and sleeping.
    least = 100 + 101 * others + 1
    assert least <= counted <= least + others + 1


def test_steps_of_a_ping_pong():
    """By way of runnext, which has its own way through a pass, and lets others in."""
    turns = 0
    over = False

    async def gives_way():
        nonlocal turns
        while not over:
            turns += 1
            await gosched()

    async def sends(ch):
        for i in range(1000):
            await ch.send(i)

    async def receives(ch):
        for _ in range(1000):
            await ch.recv()

    async def main():
        nonlocal over
        await sleep(0.001)
        before = debug.stats().machines[0].steps
        ch = chan()
        go(gives_way)
        go(sends, ch)
        await receives(ch)
        over = True
        await sleep(0.001)
        return debug.stats().machines[0].steps - before

    counted = start(main, machines=1)
    assert turns > 10
    assert 0 <= counted - 1000 - turns <= 5


def test_parks_polls_and_events(io):
    async def main():
        await sleep(0.001)
        before = debug.stats().machines[0]
        near, far = await connected()
        reading = go(reads, near)
        for _ in range(20):
            await sleep(0.002)
            await far.write(b"x")
        await reading
        after = debug.stats().machines[0]
        near.close()
        far.close()
        return before, after

    async def reads(conn):
        for _ in range(20):
            assert await conn.read(1) == b"x"

    async def connected():
        listener = await net.listen("tcp", "127.0.0.1:0")
        g = go(listener.accept)
        near = await net.dial("tcp", listener.address)
        far = await g
        listener.close()
        return near, far

    before, after = start(main, machines=1, io=io)
    assert after.parks - before.parks >= 15
    assert after.spins >= before.spins
    assert after.polls - before.polls >= 20
    assert after.events - before.events >= 20
    assert after.passes > before.passes


def test_steals():
    def compute():
        time.sleep(0.005)

    async def main():
        gs = [go(compute) for _ in range(50)]
        for g in gs:
            await g
        return debug.stats()

    found = start(main, machines=2)
    assert sum(m.steals for m in found.machines) > 0


def test_queues_and_goroutines_by_state():
    async def waits(ch):
        await ch.recv()

    async def main():
        ch = chan()
        for _ in range(7):
            go(waits, ch)
        await gosched()
        waiting = debug.stats()
        for _ in range(1000):
            go(waits, ch)
        many = debug.stats()
        return waiting, many

    waiting, many = start(main, machines=1)
    assert waiting.goroutines == Counts(running=1, runnable=0, waiting=7)
    assert many.goroutines == Counts(running=1, runnable=1000, waiting=7)
    assert many.queue + many.machines[0].queue == 1000
    assert many.queue > 0


def test_timers_and_who_waits_for_the_kernel():
    async def main():
        for _ in range(5):
            go(sleep, 100)
        await gosched()
        return debug.stats()

    found = start(main, machines=1)
    assert found.timers == found.machines[0].timers == 5
    assert found.machines[0].waiters == 0


def test_threads_for_blocking_calls():
    over = threading.Event()

    async def main():
        gs = [go(blocking, over.wait, 10) for _ in range(3)]
        await until(lambda: debug.stats().blocking == Blocking(threads=3, free=0, calls=3))
        over.set()
        for g in gs:
            await g
        await until(lambda: debug.stats().blocking == Blocking(threads=3, free=3, calls=0))

    start(main, machines=1)


def test_from_outside_while_they_run(machines):
    async def yields():
        while not over:
            await gosched()

    over, totals = [], []

    async def main():
        gs = [go(yields) for _ in range(20)]

        def outside():
            until = time.monotonic() + 10
            while len(totals) < 20 or totals[-1] == totals[0]:
                assert time.monotonic() < until
                found = debug.stats()
                assert len(found.machines) == machine_count() == machines
                assert min(found.goroutines.waiting, found.goroutines.runnable) >= 0
                totals.append(sum(m.steps for m in found.machines))
            over.append(1)

        thread = threading.Thread(target=outside)
        thread.start()
        for g in gs:
            await g
        thread.join()

    start(main, machines=machines)
    assert totals == sorted(totals)
