"""A soak: everything at once for minutes, and nothing may grow.

    python -X gil=0 perf/soak.py --minutes 10

Echo of all sizes, peers that never read, that drip, that reset; reads that are cancelled or time
out, connections made and dropped, datagrams, timers, channels, groups and blocking calls; first
with io_uring, then with epoll. All that comes back over a connection is compared with what was
sent. Memory, fds and goroutines are sampled; it fails (status 1) if the least of any is higher
in the last quarter than it was in the second, or if something is left in the end.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import socket
import struct
import sys
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import goroutine
from goroutine import Canceled, Chan, Group, chan, go, net, recv, select, sleep
from goroutine.context import background, with_cancel, with_timeout
from goroutine.net import Conn
from goroutine.time import Ticker, Timer, now

done: Counter[str] = Counter()  # what has been done, by kind (roughly: several machines count)


class Sample(NamedTuple):
    seconds: float
    rss: int  # bytes
    fds: int
    goroutines: int


def sample(began: float) -> Sample:
    with open("/proc/self/statm") as f:
        rss = int(f.read().split()[1]) * resource.getpagesize()
    fds = len(os.listdir("/proc/self/fd"))
    return Sample(time.monotonic() - began, rss, fds, goroutine.num_goroutine())


def stream(number: int, start: int, length: int) -> bytes:
    """Bytes whose content tells whose they are, and where they belong. (In units of 8.)"""
    first = (number << 32) + start // 8
    return array("Q", range(first, first + length // 8)).tobytes()


# -- the server -----------------------------------------------------------------------------


async def serve(conn: Conn) -> None:
    """The first byte says what is wanted."""
    try:
        conn.set_deadline(now() + 5)
        match await conn.read(1):
            case b"e":
                conn.set_deadline(None)
                while data := await conn.read():
                    await conn.write(data)
            case b"f":  # a flood, which nobody reads
                conn.set_write_deadline(now() + 0.1)
                while True:
                    await conn.write(bytes(1 << 16))
            case b"r":  # a request, which comes byte by byte
                conn.set_read_deadline(now() + 0.2)
                await conn.read_exactly(1000)
    except (ConnectionError, TimeoutError):
        done["broken off"] += 1


# -- the clients ------------------------------------------------------------------------------


async def echo(address: str, rng: random.Random) -> None:
    """A conversation of some length."""
    number = rng.randrange(1 << 31)
    size = rng.choice((64, 3000 // 8 * 8, 65536))
    async with await net.dial("tcp", address) as conn:
        await conn.write(b"e")
        for at in range(0, size * rng.randrange(1, 200), size):
            data = stream(number, at, size)
            await conn.write(data)
            if await conn.read_exactly(size) != data:
                raise AssertionError("somebody else's bytes")
            done["messages"] += 1


async def drop(address: str, rng: random.Random) -> None:
    """In and out, perhaps with an answer on its way, perhaps with a reset."""
    conn = await net.dial("tcp", address)
    if rng.random() < 0.7:
        await conn.write(b"e" * rng.randrange(1, 5000))
    if rng.random() < 0.3:
        linger = struct.pack("ii", 1, 0)
        s = socket.socket(fileno=conn.fd)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        s.detach()
        done["resets"] += 1
    conn.close()
    done["dropped"] += 1


async def never_read(address: str, rng: random.Random) -> None:
    async with await net.dial("tcp", address) as conn:
        await conn.write(b"f")
        await sleep(0.15)
        done["never read"] += 1


async def drip(address: str, rng: random.Random) -> None:
    async with await net.dial("tcp", address) as conn:
        try:
            await conn.write(b"r")
            while True:
                await conn.write(b"x")
                await sleep(0.03)
        except ConnectionError:
            done["drips"] += 1


async def give_up(address: str, rng: random.Random) -> None:
    """Reads that are cancelled, or late; then what was sent is all there."""
    number = rng.randrange(1 << 31)
    async with await net.dial("tcp", address) as conn:
        await conn.write(b"e")
        got = b""
        for turn in range(20):
            await conn.write(stream(number, turn * 800, 800))
            while len(got) < 800 * (turn + 1):
                try:
                    if rng.random() < 0.5:
                        with with_timeout(background(), rng.random() * 0.001) as ctx:
                            got += await conn.read(rng.choice((100, 8000)), ctx=ctx)
                    else:
                        conn.set_read_deadline(now() + rng.random() * 0.001)
                        got += await conn.read(rng.choice((100, 8000)))
                except (Canceled, TimeoutError):
                    done["given up"] += 1
                finally:
                    conn.set_read_deadline(None)
        if got != stream(number, 0, 16_000):
            raise AssertionError("bytes were lost")


async def datagrams(address: str, rng: random.Random) -> None:
    here = await net.listen("udp", "127.0.0.1:0")
    async with here, await net.dial("udp", here.local_address) as there:
        for i in range(20):
            await there.write(b"%d" % i)
            data, sender = await here.read_from()
            await here.write_to(data, sender)
            if await there.read() != b"%d" % i:
                raise AssertionError("another datagram")
    done["datagrams"] += 20
    await sleep(0.01)  # (nothing above waits)


async def timers(address: str, rng: random.Random) -> None:
    timer, ticker = Timer(60), Ticker(0.002)
    for _ in range(10):
        timer.reset(rng.random() * 0.004)
        await select(recv(timer.channel), recv(ticker.channel))
        done["timers"] += 1
    timer.stop()
    ticker.stop()
    await sleep(0.001)


async def channels(address: str, rng: random.Random) -> None:
    """Through a pipeline; then one that is left in the middle."""
    first: Chan[int] = chan()
    second: Chan[int] = chan(rng.randrange(5))

    async def double() -> None:
        async for n in first:
            await second.send(2 * n)
        second.close()

    async def produce() -> None:
        for i in range(100):
            await first.send(i)
        first.close()

    go(double)
    go(produce)
    if [n async for n in second] != [2 * i for i in range(100)]:
        raise AssertionError("another order")
    with with_cancel(background()) as ctx:
        for _ in range(10):
            go(_waits, chan(), ctx)
        await goroutine.gosched()
    done["values"] += 200


async def _waits(ch: Chan[int], ctx: object) -> None:
    try:
        await ch.recv(ctx=ctx)  # type: ignore[arg-type]
    except Canceled:
        pass


async def groups(address: str, rng: random.Random) -> None:
    async def fails(n: int) -> None:
        await sleep(rng.random() * 0.002)
        if n == 7:
            raise LookupError(n)
        await sleep(60)

    try:
        async with Group() as group:
            for n in range(10):
                group.go(fails, n)
    except LookupError:
        done["groups"] += 1


async def blocking(address: str, rng: random.Random) -> None:
    await goroutine.blocking(time.sleep, 0.002)
    done["blocking calls"] += 1


Step = Callable[[str, random.Random], Awaitable[None]]

MIX: tuple[tuple[Step, int], ...] = (
    (echo, 8),
    (drop, 4),
    (never_read, 3),
    (drip, 4),
    (give_up, 4),
    (datagrams, 2),
    (timers, 3),
    (channels, 3),
    (groups, 2),
    (blocking, 2),
)


async def soak(seconds: float, report: Callable[[Sample], None]) -> list[Sample]:
    over: list[bool] = []
    samples: list[Sample] = []
    began = time.monotonic()

    async def repeat(step: Step, seed: int) -> None:
        rng = random.Random(seed)
        while not over:
            await step(listener.address, rng)

    async with await net.listen("tcp", "127.0.0.1:0") as listener:
        serving = go(listener.serve, serve)
        workers = [go(repeat, step, i) for step, n in MIX for i in range(n)]
        every = min(1.0, seconds / 100)
        shown = 0.0
        while (at := time.monotonic() - began) < seconds:
            await sleep(every)
            samples.append(sample(began))
            if at - shown >= seconds / 10:
                shown = at
                report(samples[-1])
        over.append(True)
        for g in workers:
            await g
        await listener.shutdown(10)
    await serving
    return samples


# -- the verdict --------------------------------------------------------------------------------


def least(samples: list[Sample], quarter: int) -> Sample:
    """The least of each in a quarter of the time: what was there at quiet moments."""
    n = len(samples)
    part = samples[quarter * n // 4 : (quarter + 1) * n // 4]
    return Sample(part[0].seconds, *(min(each) for each in list(zip(*part, strict=True))[1:]))


def growth(samples: list[Sample]) -> list[str]:
    """What has grown, in words."""
    before, after = least(samples, 1), least(samples, 3)
    found = []
    if after.rss > before.rss * 1.05 + (6 << 20):
        found.append(f"memory: {before.rss >> 10} -> {after.rss >> 10} KiB")
    if after.fds > before.fds * 1.1 + 5:
        found.append(f"fds: {before.fds} -> {after.fds}")
    if after.goroutines > before.goroutines * 1.1 + 5:
        found.append(f"goroutines: {before.goroutines} -> {after.goroutines}")
    return found


def show(at: Sample) -> None:
    print(
        f"{at.seconds:7.1f} s  {at.rss / (1 << 20):7.1f} MiB  {at.fds:5} fds"
        f"  {at.goroutines:5} goroutines",
        flush=True,
    )


def run(io: str, seconds: float, machines: int | None) -> list[str]:
    done.clear()
    print(f"{io}, {seconds:g} s", flush=True)
    fds = len(os.listdir("/proc/self/fd"))
    samples = goroutine.start(soak, seconds, show, machines=machines, io=io)
    print("  " + ", ".join(f"{n} {what}" for what, n in sorted(done.items())))
    for quarter in (1, 3):
        show(least(samples, quarter))
    found = growth(samples)
    if (left := len(os.listdir("/proc/self/fd"))) > fds:
        found.append(f"fds left in the end: {left - fds}")
    missing = [step.__name__ for step, _ in MIX if not samples] + [
        what for what in ("messages", "dropped", "given up", "broken off") if not done[what]
    ]
    if missing:
        found.append(f"nothing done: {', '.join(missing)}")
    return [f"{io}: {each}" for each in found]


def main() -> int:
    parser = argparse.ArgumentParser(description="everything at once, and nothing may grow")
    parser.add_argument("--minutes", type=float, default=10.0, help="in all (default: 10)")
    parser.add_argument("--io", choices=["io_uring", "epoll", "both"], default="both")
    parser.add_argument("--machines", type=int, default=None)
    options = parser.parse_args()
    ios = ["io_uring", "epoll"] if options.io == "both" else [options.io]
    found = []
    for io in ios:
        found += run(io, options.minutes * 60 / len(ios), options.machines)
    for each in found:
        print("GROWN", each)
    print("failed" if found else "nothing has grown")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
