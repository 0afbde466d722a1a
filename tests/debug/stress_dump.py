"""Dumps, one after the other, while machines switch goroutines as fast as they can.

    python -X gil=0 stress_dump.py MACHINES SECONDS

Each goroutine goes down and up a chain of functions that is its own, and parks at every depth:
in channels, in selects, by giving way, in a context of its own, in an asynchronous generator; some
end all the time, and others compute for some milliseconds. Every stack of every dump must be one
that is possible: from its first function to the depth it is at, in this order. Dumps come from a
thread, and from a goroutine.

Reading frames that run ends in a crash or in stacks that are not possible: leave out the waiting
in Halt._settle (return at once who has a goroutine) and see it.
"""

import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path

from goroutine import chan, current, debug, go, gosched, recv, select, sleep, start
from goroutine.debug.dumping import looks
from goroutine.runtime.dump import RUNNABLE, RUNNING
from goroutine.runtime.scheduler import running

var = ContextVar("var", default=0)
over = False
turns = 0


async def a0(park):
    await park(0)
    await a1(park)
    await park(0)


async def a1(park):
    await park(1)
    await a2(park)
    await park(1)


async def a2(park):
    await park(2)
    async for _ in a3(park):
        await park(2)


async def a3(park):
    await park(3)
    yield 1
    await park(3)
    yield 2


def parking(way, ch, other):
    """An await of some kind."""

    async def park(depth):
        if way == 0:
            await ch.send(depth)
        elif way == 1:
            await ch.recv()
        elif way == 2:
            await select(recv(ch), recv(other))
        elif way == 3:
            await gosched()
        elif way == 4:
            await sleep(0.0001 * depth)

    return park


async def work(way, ch, other):
    if way == 3:
        var.set(current().id)
    park = parking(way, ch, other)
    while not over:
        await a0(park)


async def hog():
    while not over:
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass
        await sleep(0.002)


async def short():
    await gosched()


async def spawner():
    while not over:
        for _ in range(20):
            await go(short)
        await gosched()


DEPTHS = {"a0": 0, "a1": 1, "a2": 2, "a3": 3}
BEGIN = {"work", "hog", "short", "spawner", "main", "dumper", "sending"}
PACKAGE = str(Path(debug.__file__).parents[1])
STATES = {RUNNING, RUNNABLE, "chan send", "chan receive", "select", "sleep", "join"}


def check(seen):
    """The stack of one goroutine."""
    names = [code.co_name for code, _ in seen.frames if code.co_filename == __file__]
    assert seen.state in STATES, seen.state
    assert all(0 <= index < len(code.co_code) for code, index in seen.frames), seen.frames
    if seen.state == RUNNING:
        return
    # What is suspended stands in one of our generators, or has not begun.
    assert len(seen.frames) == 1 or seen.frames[-1][0].co_filename.startswith(PACKAGE), names
    assert names[0] in BEGIN, names
    if names[0] == "work":
        below = [DEPTHS[name] for name in names[1:] if name != "park"]
        assert below == list(range(len(below))), names
        # (While a3 waits in its loop a2 is above it; else it is suspended by its own yield.)
        assert "park" not in names[:-1], names
        if seen.state != RUNNABLE:
            assert below, names
            assert names[-1] == "park", names
    elif seen.state == "join":
        assert names == ["spawner"], names


def once(counts):
    seen = looks(running())
    for one in seen:
        check(one)
        counts[one.state] = counts.get(one.state, 0) + 1
    return len(seen)


async def dumper(counts, dumps):
    """From inside."""
    while not over:
        once(counts)
        dumps.append(1)
        await sleep(0.003)


async def main(machines, seconds):
    global over
    for _ in range(6):
        ch, other = chan(), chan()
        for way in (0, 0, 0, 1, 2, 3, 4):
            go(work, way, ch, other)
        go(sending, other)
    for _ in range(machines // 2):
        go(hog)
    go(spawner)
    inside, outside, counts, dumps = {}, {}, [], []
    failures = []

    def from_outside():
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                once(outside)
                counts.append(1)
                time.sleep(0.001)
            text = debug.dump()
            assert text.count("goroutine ") >= 40, text
        except BaseException as failure:
            failures.append(failure)

    go(dumper, inside, dumps)
    thread = threading.Thread(target=from_outside)
    thread.start()
    while thread.is_alive():
        await sleep(0.05)
    over = True
    if failures:
        raise failures[0]
    assert outside.keys() | inside.keys() >= STATES - {"join"}, outside
    steps = sum(m.steps for m in debug.stats().machines)
    print(f"{len(counts)} {len(dumps)} {steps} {outside}")


async def sending(ch):
    while not over:
        await ch.send(0)
        await gosched()


start(main, int(sys.argv[1]), float(sys.argv[2]), machines=int(sys.argv[1]))
