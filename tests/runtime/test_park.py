"""park and ready, gosched, and awaiting goroutines: the ways to wait and to be woken."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter, deque
from typing import Any

import pytest
from waiting import gosched_until as until

import goroutine
from goroutine import ChanClosed, Goroutine, chan, go, gosched, hold, sleep, start
from goroutine.runtime.park import park, ready, ready_many
from goroutine.runtime.shared import current, machine_or_none

LONGER = int(os.environ.get("GOROUTINE_STRESS", "1"))

pytestmark = pytest.mark.timeout(30 * LONGER)

both = pytest.mark.parametrize("io", ["io_uring", "epoll"])
everywhere = pytest.mark.parametrize("machines", [1, 2, 4])


def run(main, *args, machines=1, io="epoll"):
    return start(main, *args, machines=machines, io=io)


# -- park and ready --------------------------------------------------------------------------


def test_commit_is_called_with_the_goroutine_after_its_frame_has_stopped():
    async def main():
        seen = []

        async def parks():
            coroutine = current().g

            def commit(g):
                assert g is coroutine
                seen.append(steps.cr_running)
                ready(g)

            await park(commit)
            return "went on"

        steps = parks()
        return await go(steps), seen

    assert run(main) == ("went on", [False])


def test_ready_in_the_commit_resumes_at_once():
    async def main():
        for _ in range(100):
            await park(ready)
        return "done"

    assert run(main) == "done"


def test_a_parked_goroutine_stays_where_it_is():
    async def main():
        parked, steps = [], []

        async def parks():
            steps.append("before")
            await park(parked.append)
            steps.append("after")

        g = go(parks)
        await until(lambda: parked)
        for _ in range(20):
            await gosched()
        assert steps == ["before"]
        assert parked == [g]
        ready(g)
        await g
        return steps

    assert run(main) == ["before", "after"]


@everywhere
def test_ready_many_in_order(machines):
    async def main():
        parked = deque()

        async def parks(i):
            await park(parked.append)
            return i

        gs = [go(parks, i) for i in range(100)]
        await until(lambda: len(parked) == 100)
        ready_many(list(parked))
        return [await g for g in gs]

    assert run(main, machines=machines) == list(range(100))


def test_the_woken_goroutine_runs_next():
    """On its waker's machine, before those that were runnable already. Go: runnext."""

    async def main():
        parked, order = [], []

        async def parks():
            await park(parked.append)
            order.append("woken")

        async def runnable(i):
            order.append(i)

        g = go(parks)
        await until(lambda: parked)
        others = [go(runnable, i) for i in range(3)]
        ready(g)
        for other in [g, *others]:
            await other
        return order

    assert run(main)[0] == "woken"


@both
@everywhere
def test_ready_from_a_foreign_thread(io, machines):
    """The machines sleep; somebody who is none of them has to wake one."""

    async def main():
        def foreign():
            assert machine_or_none() is None
            deadline = time.monotonic() + 20
            while woken < n:
                assert time.monotonic() < deadline
                try:
                    ready(parked.popleft())
                except IndexError:
                    time.sleep(0.001)

        n, woken, parked = 60, 0, deque()
        thread = threading.Thread(target=foreign)
        with hold():
            thread.start()
            for _ in range(n):
                await park(parked.append)
                woken += 1
        thread.join()
        return woken

    assert run(main, io=io, machines=machines) == 60


@both
@pytest.mark.parametrize("machines", [2, 4])
def test_a_goroutine_is_in_one_step_at_a_time(io, machines):
    """Wakers on all machines and on a plain thread, the instant a goroutine is published.

    Each round the parked one is claimed by popleft and made ready while its own machine may
    still be inside the commit. Stepping a frame twice at once would crash or double a count.
    """
    rounds, count = 200 * LONGER, 16

    async def main():
        parked, inside, steps = deque(), set(), Counter()
        over = False

        async def parks(i):
            for _ in range(rounds):
                assert i not in inside
                inside.add(i)
                steps[i] += 1
                inside.remove(i)
                await park(parked.append)

        async def wakes():
            while not over:
                try:
                    ready(parked.popleft())
                except IndexError:
                    pass
                await gosched()

        def foreign():
            while not over:
                try:
                    ready(parked.popleft())
                except IndexError:
                    time.sleep(0.0005)

        gs = [go(parks, i) for i in range(count)]
        wakers = [go(wakes) for _ in range(machines)]
        thread = threading.Thread(target=foreign)
        thread.start()
        try:
            for g in gs:
                await g
        finally:
            over = True
            thread.join()
        for g in wakers:
            await g
        return steps

    assert run(main, io=io, machines=machines) == dict.fromkeys(range(count), rounds)


# -- gosched -----------------------------------------------------------------------------------


def test_gosched_takes_turns():
    async def main():
        order = []

        async def turns(name):
            for i in range(20):
                order.append((i, name))
                await gosched()

        for g in [go(turns, name) for name in "abc"]:
            await g
        return order

    order = run(main)
    assert sorted(order) == [(i, name) for i in range(20) for name in "abc"]
    first_round = [name for _, name in order[:3]]
    assert order == [(i, name) for i in range(20) for name in first_round]


@everywhere
def test_gosched_alone_comes_back(machines):
    async def main():
        for _ in range(500):
            assert await gosched() is None
        return "back"

    assert run(main, machines=machines) == "back"


def test_who_gives_way_starves_nobody():
    async def main():
        over, hits = False, 0

        async def busy():
            while not over:
                await gosched()

        async def counts():
            nonlocal hits
            for _ in range(100):
                hits += 1
                await sleep(0.0001)

        gs = [go(busy) for _ in range(5)]
        await go(counts)
        over = True
        for g in gs:
            await g
        return hits

    assert run(main) == 100


# -- awaiting goroutines -------------------------------------------------------------------------


@everywhere
def test_a_goroutine_can_be_awaited_often_and_late(machines):
    async def main():
        thing, gate = object(), chan()

        async def gives():
            await gate.recv()
            return thing

        g = go(gives)
        assert not g.done
        await gate.send(None)
        results = [await g, await g]
        assert g.done
        results += [await waiter for waiter in [go(join, g) for _ in range(5)]]
        return all(result is thing for result in results)

    async def join(g):
        return await g

    assert run(main, machines=machines)


@pytest.mark.parametrize("value", [None, 0, False, (), "text"])
def test_the_result_is_what_the_function_returned(value):
    async def coroutine():
        return value

    async def main():
        return [
            await go(coroutine),
            await go(lambda: value),
            await go(coroutine()),
        ]

    assert run(main) == [value] * 3


def test_what_a_waker_handed_over_is_not_a_result():
    """The slot that results are kept in is the one that wakers use."""

    async def main():
        ch, full = chan(), chan()

        async def receives():
            await ch.recv()

        async def receives_pair():
            await ch.recv_ok()

        async def sends():
            await full.send("value")

        async def fails_to_send():
            try:
                await full.send("value")
            except ChanClosed:
                pass

        gs = [go(receives), go(receives_pair), go(sends)]
        await until(lambda: len(ch._recvq) == 2 and len(full._sendq) == 1)
        await ch.send("one")
        await ch.send("two")
        assert await full.recv() == "value"
        gs.append(go(fails_to_send))
        await until(lambda: len(full._sendq) == 1)
        full.close()
        return [await g for g in gs]

    assert run(main) == [None] * 4


def test_awaiting_in_a_chain():
    async def main():
        async def link(previous):
            return 0 if previous is None else await previous + 1

        g = None
        for _ in range(300):
            g = go(link, g)
        return await g

    for machines in (1, 2):
        assert run(main, machines=machines) == 299


def test_a_plain_function_and_a_coroutine_object_can_be_awaited():
    async def double(n):
        await gosched()
        return 2 * n

    async def main():
        return await go(sum, [1, 2, 3]), await go(double(4)), await go(divmod, 7, 2)

    assert run(main) == (6, 8, (3, 1))


@both
@everywhere
def test_joiners_race_with_the_end(io, machines):
    """Who awaits comes while the goroutine ends, on all machines; everybody is woken, once."""

    async def main():
        woken = Counter()

        async def target(rng, i):
            for _ in range(rng.randrange(3)):
                await gosched()
            return i

        async def join(rng, g, key):
            for _ in range(rng.randrange(3)):
                await gosched()
            result = await g
            woken[key] += 1
            return result

        for r in range(20 * LONGER):
            rng = random.Random(r)
            joins = []
            for i in range(20):
                g = go(target, random.Random(rng.random()), i)
                joins += [
                    (i, go(join, random.Random(rng.random()), g, (r, i, k))) for k in range(4)
                ]
            for i, g in joins:
                assert await g == i
        assert set(woken.values()) == {1}
        return len(woken)

    assert run(main, io=io, machines=machines) == 20 * LONGER * 80


@everywhere
def test_many_join_one(machines):
    async def main():
        gate = chan()

        async def target():
            await gate.recv()
            return "end"

        async def join():
            return await g

        g = go(target)
        gs = [go(join) for _ in range(1000)]
        await until(lambda: g.joiners is not None and len(g.joiners) == 1000)
        await gate.send(None)
        results = [await waiter for waiter in gs]
        assert g.joiners is None
        return Counter(results)

    assert run(main, machines=machines) == {"end": 1000}


def test_joiners_of_a_goroutine_that_never_ends_are_closed_with_it():
    closed = []

    async def main():
        async def for_ever():
            await chan().recv()

        async def join():
            try:
                await g
            finally:
                closed.append("joiner")

        g = go(for_ever)
        go(join)
        await until(lambda: g.joiners)
        assert isinstance(g, Goroutine)

    run(main)
    assert closed == ["joiner"]


def test_a_goroutine_of_an_earlier_run_is_not_run_again(machines: int) -> None:
    """A thread that had claimed it wakes it when the run is over and another one has begun."""
    parked: list[Goroutine[Any]] = []

    async def waits() -> None:
        parked.append(goroutine.current())
        await chan().recv()

    async def first() -> None:
        go(waits)
        while not parked:
            await gosched()
        await gosched()

    async def second() -> str:
        ready(parked[0])
        for _ in range(100):
            await gosched()
        return "went on"

    start(first, machines=machines)
    assert start(second, machines=machines) == "went on"
