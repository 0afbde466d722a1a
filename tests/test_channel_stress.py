"""Channels under load: many producers and consumers, and closes in between.

GOROUTINE_STRESS=N makes every test N times as long (the time limits grow with it).
"""

from __future__ import annotations

import os
import random
import threading

import pytest

from goroutine import ChanClosed, chan, go, gosched, start
from goroutine.runtime.offload import blocking

LONGER = int(os.environ.get("GOROUTINE_STRESS", "1"))

pytestmark = pytest.mark.timeout(40 * LONGER)

everywhere = pytest.mark.parametrize("machines", [1, 2, 4])
both = pytest.mark.parametrize("io", ["io_uring", "epoll"])


def says(failure, text):
    assert str(failure) == text


async def now_and_then(rng):
    """Sometimes give way: then others get between two operations."""
    if rng.random() < 0.1:
        await gosched()


async def produce(ch, name, count, rng):
    """Send (name, 0), (name, 1), …; returns how many were sent before the close."""
    for i in range(count):
        try:
            await ch.send((name, i))
        except ChanClosed as failure:
            says(failure, "send on closed channel")
            return i
        await now_and_then(rng)
    return count


async def consume(ch, way, rng):
    """Receive to the end, in one of the three ways."""
    got = []
    if way == 0:
        async for value in ch:
            got.append(value)
            await now_and_then(rng)
    elif way == 1:
        while True:
            value, ok = await ch.recv_ok()
            if not ok:
                assert value is None
                break
            got.append(value)
    else:
        try:
            while True:
                got.append(await ch.recv())
                await now_and_then(rng)
        except ChanClosed as failure:
            says(failure, "receive from closed channel")
    return got


def check(sent, received, left=()):
    """Every value exactly once, and to each consumer in the order of its producer."""
    everything = [value for got in received for value in got] + list(left)
    assert len(everything) == len(set(everything)), "a value came twice"
    assert set(everything) == {(name, i) for name, n in enumerate(sent) for i in range(n)}
    for got in [*received, left]:
        last = {}
        for name, i in got:
            assert last.get(name, -1) < i, "overtaken"
            last[name] = i


@everywhere
@both
@pytest.mark.parametrize("capacity", [0, 1, 16])
def test_every_value_once(machines, io, capacity):
    async def main(seed):
        rng = random.Random(seed)
        ch = chan(capacity)
        counts = [rng.randrange(300) for _ in range(rng.randint(1, 10))]
        consumers = [
            go(consume, ch, rng.randrange(3), random.Random(rng.random()))
            for _ in range(rng.randint(1, 10))
        ]
        producers = [
            go(produce, ch, name, count, random.Random(rng.random()))
            for name, count in enumerate(counts)
        ]
        sent = [await g for g in producers]
        assert sent == counts
        ch.close()
        check(sent, [await g for g in consumers])
        assert (len(ch), len(ch._recvq), len(ch._sendq)) == (0, 0, 0)

    for seed in range(3 * LONGER):
        start(main, seed, machines=machines, io=io)


@everywhere
@both
@pytest.mark.parametrize("capacity", [0, 1, 16])
def test_closed_at_any_moment(machines, io, capacity):
    """What was sent before the close arrives; what was not, does not; all are woken."""

    async def one_round(rng):
        ch = chan(capacity)
        consumers = [
            go(consume, ch, rng.randrange(3), random.Random(rng.random()))
            for _ in range(rng.randrange(5))
        ]
        producers = [
            go(produce, ch, name, 50, random.Random(rng.random()))
            for name in range(rng.randrange(5))
        ]

        async def close(after):
            for _ in range(after):
                await gosched()
            try:
                ch.close()
            except ChanClosed as failure:
                says(failure, "close of closed channel")
                return 0
            return 1

        closers = [go(close, rng.randrange(60)) for _ in range(rng.randint(1, 3))]
        assert sum([await g for g in closers]) == 1
        sent = [await g for g in producers]
        received = [await g for g in consumers]
        left = [value async for value in ch]
        assert not (consumers and left)
        check(sent, received, left)

    async def main():
        for seed in range(100 * LONGER):
            await one_round(random.Random(seed))

    start(main, machines=machines, io=io)


@everywhere
@both
def test_a_ring_of_goroutines(machines, io):
    """Several tokens go round: nearly all wait at any time, and every hop is a wake-up."""

    async def main():
        nodes, tokens, hops = 20, 5, 100 * LONGER
        ring = [chan() for _ in range(nodes)]
        done = chan(tokens)

        async def node(mine, following):
            async for token, left in mine:
                if left:
                    await following.send((token, left - 1))
                else:
                    await done.send(token)

        gs = [go(node, ring[i], ring[(i + 1) % nodes]) for i in range(nodes)]
        for token in range(tokens):
            await ring[token * 3 % nodes].send((token, hops))
        result = sorted([await done.recv() for _ in range(tokens)])
        for ch in ring:
            ch.close()
        for g in gs:
            await g
        return result

    assert start(main, machines=machines, io=io) == list(range(5))


@everywhere
@both
def test_rendezvous_pairs_that_must_alternate(machines, io):
    """Two goroutines that strictly take turns: one lost wake-up and they stand still."""

    async def main():
        async def pair(rounds):
            ping, pong = chan(), chan()

            async def other():
                async for i in ping:
                    await pong.send(i)

            g = go(other)
            for i in range(rounds):
                await ping.send(i)
                assert await pong.recv() == i
            ping.close()
            await g

        for g in [go(pair, 300 * LONGER) for _ in range(8)]:
            await g

    start(main, machines=machines, io=io)


@pytest.mark.parametrize("machines", [2, 4])
@both
def test_values_from_plain_threads(machines, io):
    """Foreign threads send what need not wait, while all machines may be asleep."""

    async def main():
        n, threads = 200 * LONGER, 3
        ch = chan(n * threads)

        def foreign(name):
            for i in range(n):
                try:
                    ch.send((name, i)).send(None)
                except StopIteration:
                    pass
                if i % 50 == 0:
                    threading.Event().wait(0.001)  # let the machines fall asleep

        consumers = [go(consume, ch, way, random.Random(way)) for way in (0, 1, 2)]
        for g in [go(blocking, foreign, name) for name in range(threads)]:
            await g
        ch.close()
        check([n] * threads, [await g for g in consumers])

    start(main, machines=machines, io=io)
