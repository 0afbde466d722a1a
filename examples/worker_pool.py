"""CPU work on all cores: python -X gil=0 examples/worker_pool.py [WORKERS [JOBS]]

Jobs go out over one channel and results come back over another. Workers are goroutines, so
they compute in parallel, each on whichever machine (OS thread) has nothing better to do.
"""

from __future__ import annotations

import sys

from goroutine import Chan, chan, go, machines, start


def collatz(n: int) -> int:
    """How many steps n takes to get to 1. Pure Python, no waiting."""
    steps = 0
    while n != 1:
        n = 3 * n + 1 if n % 2 else n // 2
        steps += 1
    return steps


async def worker(jobs: Chan[range], results: Chan[tuple[int, int]]) -> int:
    """Take jobs until there are no more; returns how many it did."""
    done = 0
    async for job in jobs:
        await results.send(max((collatz(n), n) for n in job))
        done += 1
    return done


async def main(workers: int = 0, count: int = 64) -> None:
    jobs: Chan[range] = chan(16)  # the buffer keeps workers from waiting for us
    results: Chan[tuple[int, int]] = chan(16)
    pool = [go(worker, jobs, results) for _ in range(workers or machines())]

    async def hand_out() -> None:
        for i in range(count):
            await jobs.send(range(1 + i * 500, 1 + (i + 1) * 500))
        jobs.close()  # each worker's loop ends once the channel is drained

    go(hand_out)
    steps, n = max([await results.recv() for _ in range(count)])
    print(f"{n} takes {steps} steps, the most of all below {count * 500 + 1}")
    print("jobs by worker:", *[await g for g in pool])


if __name__ == "__main__":
    start(main, *map(int, sys.argv[1:3]))
