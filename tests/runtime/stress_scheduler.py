"""Random mixes of everything that makes goroutines runnable, counted; also as a program.

    python -X gil=0 tests/runtime/stress_scheduler.py [--seconds S] [--machines N] [--io NAME]
                                                      [--seed N] [--broken NAME] [--park N]

`--broken` runs it on a scheduler that lacks one of its rules, which must be noticed: see
`BROKEN`. `--park 1000000` parks and wakes so many goroutines and prints what each takes.
"""

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import goroutine
from goroutine import chan, go, gosched, hold, num_goroutine, sleep, start
from goroutine.runtime import machine, processor, scheduler
from goroutine.runtime.shared import flags, idle

HUNG: float | None = None
"""With --broken: so many seconds without a sign of life end the process, with status 3."""

SECONDS = float(os.environ.get("GOROUTINE_STRESS", "1"))
"""How long one stress test lasts. GOROUTINE_STRESS=60 for millions of steps."""


class Counts:
    """What has been done, one cell to a goroutine: nothing is shared, so nothing is lost."""

    def __init__(self) -> None:
        self.made: list[int] = []  # ids of those that were started ...
        self.ended: list[int] = []  # ... and that ended: once each
        self.sent: list[tuple[int, int]] = []
        self.received: list[tuple[int, int]] = []
        self.steps = 0
        self.inside: set[int] = set()  # goroutines between two parks: no one is in here twice


def stress(machines: int, io: str, seconds: float, seed: int) -> int:
    """Run a random mix for so long. AssertionError if anything ran twice or not at all.

    Returns about how many steps there were.
    """
    counts = Counts()
    until = time.monotonic() + seconds
    dice = random.Random(seed)

    async def child(n: int, seed: int, channels: list[Any], depth: int) -> None:
        mine = random.Random(seed)
        enter, leave = counts.inside.add, counts.inside.remove
        enter(n)
        for step in range(mine.randrange(12)):
            kind = mine.randrange(10)
            leave(n)  # KeyError if two machines step this frame
            if kind < 4:
                await gosched()
            elif kind < 6:
                await sleep(mine.choice((0, 1e-6, 1e-4, 1e-3)))
            elif kind < 8:
                ch = mine.choice(channels)
                counts.sent.append((n, step))
                await ch.send((n, step))
            elif kind == 8 and depth:
                await spawn(mine.randrange(1 << 30), channels, depth - 1)
            else:
                await go(plain, 3)
            enter(n)
        leave(n)
        counts.ended.append(n)

    def plain(n: int) -> int:
        return n

    async def receive(ch: Any) -> None:
        async for value in ch:
            counts.received.append(value)

    numbers = iter(range(1 << 60))
    lock = threading.Lock()

    def number() -> int:
        with lock:
            n = next(numbers)
            counts.made.append(n)
        return n

    async def spawn(seed: int, channels: list[Any], depth: int) -> None:
        go(child, number(), seed, channels, depth)

    def foreign(seed: int, channels: list[Any]) -> None:
        mine = random.Random(seed)
        for _ in range(20):
            go(child, number(), mine.randrange(1 << 30), channels, 1)
            if mine.random() < 0.3:
                time.sleep(mine.choice((0, 0.0001, 0.002)))

    async def main() -> None:
        while time.monotonic() < until:
            channels = [chan(dice.choice((0, 0, 1, 8))) for _ in range(6)]
            receivers = [go(receive, ch) for ch in channels for _ in range(2)]
            threads = [
                threading.Thread(target=foreign, args=(dice.randrange(1 << 30), channels))
                for _ in range(dice.randrange(3))
            ]
            for t in threads:
                t.start()
            for _ in range(dice.choice((3, 30, 400))):
                await spawn(dice.randrange(1 << 30), channels, 2)
                if dice.random() < 0.02:
                    await sleep(dice.choice((0, 0.0005, 0.005)))
            while any(t.is_alive() for t in threads) or len(counts.ended) < len(counts.made):
                await sleep(0.0005)
            for ch in channels:
                ch.close()
            for g in receivers:
                await g
            check()
            counts.steps += len(counts.made) * 8
            counts.made.clear()
            counts.ended.clear()
            counts.sent.clear()
            counts.received.clear()
        assert num_goroutine() == 1

    def check() -> None:
        assert sorted(counts.ended) == sorted(counts.made), "a goroutine ended twice or never"
        assert sorted(counts.received) == sorted(counts.sent), "a value came twice or never"
        assert not counts.inside

    start(main, machines=machines, io=io)
    return counts.steps


def sleepy(machines: int, io: str, seconds: float, seed: int) -> int:
    """Little work, so that the machines go to sleep and are woken all the time."""
    until = time.monotonic() + seconds
    dice = random.Random(seed)
    rounds = 0

    async def child(out: Any) -> None:
        await out.send(1)

    async def main() -> None:
        nonlocal rounds
        out = chan()
        wanted = threading.Semaphore(0)
        stop = False

        def thread() -> None:
            while True:
                if not wanted.acquire(timeout=HUNG):
                    print(f"nothing has happened for {HUNG} s", flush=True)
                    os._exit(3)
                if stop:
                    return
                for _ in range(dice.randrange(60)):  # the moment of falling asleep is near
                    pass
                go(child, out)

        t = threading.Thread(target=thread)
        try:
            with hold():
                t.start()
                while time.monotonic() < until:
                    wanted.release()
                    await out.recv()
                    rounds += 1
        finally:
            stop = True
            wanted.release()
            t.join()

    start(main, machines=machines, io=io)
    return rounds


# -- schedulers that lack something ---------------------------------------------------------------


def no_second_look() -> None:
    """A machine that is about to sleep announces itself and sleeps, looking no more."""

    def sleep_at_once(self: Any) -> bool:
        time.sleep(0.0001)  # what was published in this time is what is missed
        idle[self.id] = self
        when = self.p.timers.next_when()
        self.poller.poll(None if when is None else max(0.0, when - time.monotonic()))
        idle.pop(self.id, None)
        if not flags["sysmon"]:
            self.runtime.sysmon.call()
        return bool(self.p.batch)

    machine.Machine.sleep = sleep_at_once  # type: ignore[method-assign]


def thief_that_copies() -> None:
    """A thief takes half of the batch, which stays where it was."""

    def thief(victim: Any) -> Callable[[bool], list[Any]]:
        def steal(_: bool) -> list[Any]:
            got = list(victim.batch)
            return got[: (len(got) + 1) // 2]

        return steal

    processor._thief = thief


def wake_before_the_frame_stops() -> None:
    """A parking operation publishes its goroutine while its frame still runs.

    (Of `gosched` from a machine with others: the global queue gets it, and then it yields.)
    """
    import types

    from goroutine.runtime.shared import current

    @types.coroutine
    def early() -> Any:
        m = current()
        g = m.g
        m.runtime.globalq.put([g])
        time.sleep(0.0002)  # the others see it at once
        yield lambda g: None

    globals()["gosched"] = early


BROKEN: dict[str, Callable[[], None]] = {
    "no_second_look": no_second_look,
    "thief_that_copies": thief_that_copies,
    "wake_before_the_frame_stops": wake_before_the_frame_stops,
}


# -- size -----------------------------------------------------------------------------------------


def parked(count: int) -> float:
    """Park so many goroutines in a channel, wake them all; bytes of memory each."""

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    woken: list[int] = []

    async def child(ch: Any) -> None:
        await ch.recv_ok()
        woken.append(1)

    async def main() -> float:
        ch = chan()
        before = resident()
        for n in range(count):
            go(child, ch)
            if n % 100 == 0:
                await gosched()
        assert num_goroutine() == count + 1
        while len(ch._recvq) < count:
            await gosched()
        each = (resident() - before) / count
        ch.close()
        while num_goroutine() > 1:
            await sleep(0.005)
        assert len(woken) == count
        return each

    return start(main, machines=2)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--machines", type=int)
    parser.add_argument("--io", default="auto")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--broken", choices=BROKEN)
    parser.add_argument("--kind", choices=("stress", "sleepy"), default="stress")
    parser.add_argument("--park", type=int)
    options = parser.parse_args()
    if options.park:
        print(f"{parked(options.park):.0f} bytes each")
        return 0
    if options.broken:
        global HUNG
        HUNG = 3
        BROKEN[options.broken]()
    print(f"seed {options.seed}", flush=True)
    assert goroutine.start is scheduler.start
    each = options.seconds if options.machines else options.seconds / 3
    run = {"stress": stress, "sleepy": sleepy}[options.kind]
    for machines in (options.machines,) if options.machines else (1, 2, 4):
        steps = run(machines, options.io, each, options.seed)
        print(f"{machines} machines: {steps:,}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
