"""One owner and always hungry thieves on one ring, every item to be seen exactly once.

Used by test_ring.py, and by itself for a long run:

    STRESS_SECONDS=300 python tests/runtime/stress_ring.py
"""

import gc
import operator
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from goroutine.runtime.ring import SIZE, Ring

SECONDS = float(os.environ.get("STRESS_SECONDS", "0"))


class Item:
    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number


class Broken(AssertionError):
    """What the ring must never do."""


def stress(
    total: int,
    *,
    seed: int = 0,
    thieves: int = 3,
    ring: Ring[Item] | None = None,
    patience: float = 50.0,
) -> tuple[int, ...]:
    """Move so many items through a ring; returns how many each thread got, the owner first.

    Raises Broken if an item is lost, seen twice, seen out of order by one thread, kept alive,
    or if nothing is finished within `patience` seconds.
    """
    if ring is None:
        ring = Ring()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    deadline = time.monotonic() + patience
    seen: list[list[int]] = [[] for _ in range(thieves + 1)]
    failures: list[BaseException] = []
    watched: list[weakref.ref[Item]] = []
    finished = threading.Event()
    start = threading.Barrier(thieves + 1)

    def own() -> None:
        rng = random.Random(seed)
        put, claim, shed, length, sweep = ring.owner()
        mine = seen[0]
        number = 0
        rest: list[Item] = []
        while number < total or rest or length():
            if failures or time.monotonic() > deadline:
                raise Broken(f"stuck at {number} of {total}, {length()} queued")
            # Between bursts, in which the ring runs full, let the thieves have it empty.
            for _ in range(rng.choice((1, 4, 20))):
                if not rest and number < total:
                    n = min(rng.choice((1, 2, 7, 64, 128, SIZE)), total - number)
                    rest = [Item(i) for i in range(number, number + n)]
                    number += n
                    watched.append(weakref.ref(rest[0]))
                del rest[: put(rest)]
                if rest:
                    gs = shed() if rng.random() < 0.3 else claim(rng.choice((1, 10, 64)))
                    mine.extend([g.number for g in gs])
            for _ in range(rng.choice((0, 0, 1, 3))):
                gs = claim(rng.choice((1, 5, 64, SIZE)))
                mine.extend([g.number for g in gs])
            if rng.random() < 0.1:
                sweep()
        gs = []
        sweep()

    def thieve(mine: list[int]) -> None:
        steal = ring.thief()
        while not finished.is_set():
            gs = steal()
            if gs:
                mine.extend([g.number for g in gs])
                gs = []
            elif gil:
                time.sleep(0)  # somebody else should have it

    def run(body: Callable[..., None], *arguments: Any) -> None:
        try:
            start.wait()
            body(*arguments)
        except BaseException as failure:
            failures.append(failure)
        finally:
            if body is own:
                finished.set()
                if failures:  # a broken head may keep thieves looking for a sane one forever
                    ring.head.view()[0] = ring.tail.view()[0]

    threads = [threading.Thread(target=run, args=(own,), name="owner")]
    threads += [threading.Thread(target=run, args=(thieve, mine)) for mine in seen[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1)
            if failures and not threads[0].is_alive():
                ring.head.view()[0] = ring.tail.view()[0]
    if failures:
        raise Broken(repr(failures[0])) from failures[0]

    everything: list[int] = []
    for who, numbers in enumerate(seen):
        if not all(map(operator.lt, numbers, numbers[1:])):
            raise Broken(f"thread {who} saw items out of order or twice")
        everything += numbers
    everything.sort()
    if everything != list(range(total)):
        distinct = set(everything)
        raise Broken(
            f"{total - len(distinct)} of {total} lost, {len(everything) - len(distinct)} seen twice"
        )
    if any(slot is not None for slot in ring.slots):
        raise Broken("references left in the slots")
    gc.collect()
    if alive := sum(ref() is not None for ref in watched):
        raise Broken(f"{alive} of {len(watched)} items alive after the end")
    return tuple(map(len, seen))


def main() -> None:
    end = time.monotonic() + (SECONDS or 10)
    rounds = moved = 0
    shares = [0] * 4
    while time.monotonic() < end:
        got = stress(1_000_000, seed=rounds)
        rounds += 1
        moved += sum(got)
        shares = [a + b for a, b in zip(shares, got, strict=True)]
        print(f"round {rounds}: owner and thieves got {got}", flush=True)
    print(f"{rounds} rounds, {moved:,} items, shares {[f'{s / moved:.0%}' for s in shares]}: good")


if __name__ == "__main__":
    main()
