"""Micro-benchmarks: spawn, switch, channels, select, mutex, sleep, park, CPU. A JSON line each.

    python -X gil=0 perf/micro.py [--bench spawn,yield1,…] [--workers MACHINES]

``n`` operations took ``seconds``; park adds ``rss_per_task``, bytes per parked goroutine.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from goroutine import Chan, chan, go, gosched, num_goroutine, recv, select, sleep, start
from goroutine.sync import Mutex

SPAWN = 100_000
YIELDS = 200_000
PING = 30_000
MESSAGES = 100_000
LOCKS = 80_000
PARK = 100_000
TURNS = 500_000

Result = tuple[int, float] | tuple[int, float, dict[str, float]]


def resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def nothing() -> None:
    pass


async def alone() -> None:
    while num_goroutine() > 1:
        await gosched()


async def spawn() -> Result:
    began = perf_counter()
    for _ in range(SPAWN):
        go(nothing)
    await alone()
    return SPAWN, perf_counter() - began


async def yielding(times: int) -> None:
    for _ in range(times):
        await gosched()


def switch(goroutines: int) -> Callable[[], Awaitable[Result]]:
    async def run() -> Result:
        times = YIELDS // goroutines
        began = perf_counter()
        started = [go(yielding, times) for _ in range(goroutines)]
        for g in started:
            await g
        return times * goroutines, perf_counter() - began

    return run


async def ponger(there: Chan[int], back: Chan[int]) -> None:
    async for v in there:
        await back.send(v)


async def ping_pong() -> Result:
    there: Chan[int] = chan()
    back: Chan[int] = chan()
    go(ponger, there, back)
    began = perf_counter()
    for i in range(PING):
        await there.send(i)
        await back.recv()
    seconds = perf_counter() - began
    there.close()
    return 2 * PING, seconds


async def producer(ch: Chan[int], messages: int) -> None:
    for i in range(messages):
        await ch.send(i)


async def consumer(ch: Chan[int], messages: int) -> None:
    for _ in range(messages):
        await ch.recv()


def stream(pairs: int, capacity: int) -> Callable[[], Awaitable[Result]]:
    async def run() -> Result:
        ch: Chan[int] = chan(capacity)
        each = MESSAGES // pairs
        began = perf_counter()
        started = [go(f, ch, each) for f in (producer, consumer) for _ in range(pairs)]
        for g in started:
            await g
        return each * pairs, perf_counter() - began

    return run


async def selector(a: Chan[int], b: Chan[int], messages: int) -> None:
    for _ in range(messages):
        await select(recv(a), recv(b))


async def select2() -> Result:
    """Receive from two unbuffered channels, each with a producer."""
    a: Chan[int] = chan()
    b: Chan[int] = chan()
    each = MESSAGES // 4
    began = perf_counter()
    started = [go(producer, ch, each) for ch in (a, b)]
    started.append(go(selector, a, b, 2 * each))
    for g in started:
        await g
    return 2 * each, perf_counter() - began


def mutex(yielding: bool) -> Callable[[], Awaitable[Result]]:
    """8 goroutines with one mutex, which they keep while they give way (or don't)."""

    async def run() -> Result:
        lock = Mutex()
        x = 0

        async def worker() -> None:
            nonlocal x
            for _ in range(LOCKS // 8):
                async with lock:
                    v = x
                    if yielding:
                        await gosched()
                    x = v + 1

        began = perf_counter()
        for g in [go(worker) for _ in range(8)]:
            await g
        seconds = perf_counter() - began
        assert x == LOCKS
        return LOCKS, seconds

    return run


async def mutex1() -> Result:
    """Lock and unlock without contention."""
    lock = Mutex()
    began = perf_counter()
    for _ in range(LOCKS):
        await lock.lock()
        lock.unlock()
    return LOCKS, perf_counter() - began


async def sleeper() -> None:
    await sleep(1)


async def sleeping() -> Result:
    began = perf_counter()
    for _ in range(PARK):
        go(sleeper)
    while num_goroutine() > 1:
        await sleep(0.005)
    return PARK, perf_counter() - began


async def parked(gate: Chan[None]) -> None:
    await gate.recv_ok()


async def park() -> Result:
    gate: Chan[None] = chan()
    before = resident()
    for _ in range(PARK):
        go(parked, gate)
    for _ in range(3):
        await gosched()
    await sleep(0.2)
    each = (resident() - before) / PARK
    began = perf_counter()
    gate.close()
    await alone()
    return PARK, perf_counter() - began, {"rss_per_task": each}


def crunch(k: int = 0, n: int = TURNS) -> int:
    x = k
    for i in range(n):
        x = (x * 31 + i) & 0xFFFFFF
    return x


async def cpu() -> Result:
    began = perf_counter()
    for g in [go(crunch, k) for k in range(8)]:
        await g
    return 8, perf_counter() - began


BENCHES: dict[str, Callable[[], Awaitable[Any]]] = {
    "spawn": spawn,
    "yield1": switch(1),
    "yield100": switch(100),
    "yield10k": switch(10_000),
    "chan0": ping_pong,
    "pair0": stream(1, 0),
    "pair64": stream(1, 64),
    "chan128": stream(1, 128),
    "chan4x4": stream(4, 128),
    "select2": select2,
    "mutex1": mutex1,
    "mutex8": mutex(False),
    "mutex8y": mutex(True),
    "sleep": sleeping,
    "park": park,
    "cpu": cpu,
}


async def run(name: str) -> Any:
    return await BENCHES[name]()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", default=",".join(BENCHES))
    parser.add_argument("--workers", type=int, default=1)
    options, _ = parser.parse_known_args()
    for name in options.bench.split(","):
        if name not in BENCHES:
            print(json.dumps({"bench": name, "skip": "not here"}), flush=True)
            continue
        n, seconds, *more = start(run, name, machines=options.workers)
        extra = more[0] if more else {}
        print(
            json.dumps({"bench": name, "n": n, "seconds": round(seconds, 6), **extra}), flush=True
        )
