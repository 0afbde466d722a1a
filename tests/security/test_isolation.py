"""What is sent over one connection reaches no other, whatever becomes of buffers and fds.

Clients echo streams of their own, and do all that might mix them up: reads that are cancelled or
time out just when data comes, connections closed with answers on their way, whose fd the next
one gets at once. Both ends look at every byte: whose it is, and its place.

Seen to fail with buffers given back twice, and with a cancelled read that drops what it was
given.
"""

import logging
import random
import threading

import pytest
from streams import stream

import goroutine
from goroutine import go, net
from goroutine.context import background, with_cancel
from goroutine.io import uring

SHAPES = {"64 bytes, 4 deep": (64, 4), "3,000 bytes, 4 deep": (3008, 4), "64 KiB": (65536, 1)}
SECONDS = 0.8


class Numbers:
    """A counter for several machines."""

    def __init__(self):
        self.last = 0
        self.lock = threading.Lock()

    def next(self):
        with self.lock:
            self.last += 1
            return self.last


class Checker:
    """One direction of one connection."""

    def __init__(self, number):
        self.number = number
        self.at = 0

    def take(self, data):
        wanted = stream(self.number, self.at, len(data))
        assert data == wanted, f"connection {self.number}, byte {self.at}: {data[:64]!r}"
        self.at += len(data)


async def serve(conn):
    """Echo, with its own number in place of the client's; looks at what comes, too."""
    number = int(await conn.read_exactly(6))
    theirs, ours = Checker(number), 0
    while data := await conn.read(random.choice((100, 5000, 1 << 16))):
        theirs.take(data)
        await conn.write(stream(number + 500_000, ours, len(data)))
        ours += len(data)


async def cancel_soon(ctx, passes):
    """In the same pass, perhaps, in which the data comes."""
    for _ in range(passes):
        await goroutine.gosched()
    ctx.cancel()


async def read_somehow(conn, rng, most):
    """Some bytes, or none if the read was given up."""
    way = rng.randrange(6)
    if way == 0:
        conn.set_read_deadline(goroutine.time.now() + rng.random() * 0.0005)
        try:
            return await conn.read(rng.choice((7, 1000, most)))
        except TimeoutError:
            return b""
        finally:
            conn.set_read_deadline(None)
    if way in (1, 2):
        with with_cancel(background()) as ctx:
            go(cancel_soon, ctx, rng.randrange(60))
            try:
                return await (conn.read if way == 1 else conn.read_exactly)(most, ctx=ctx)
            except goroutine.Canceled:
                return b""
    if way == 3:
        buffer = bytearray(rng.choice((5, 333, most)))
        return bytes(buffer[: await conn.read_into(buffer)])
    return await conn.read(rng.choice((1, 4096, most, most, most)))


async def client(address, numbers, size, depth, over, seed):
    """Connections one after the other, each left with answers on their way."""
    rng = random.Random(seed)
    messages = 0
    while not over:
        number = numbers.next()
        async with await net.dial("tcp", address) as conn:
            await conn.write(b"%06d" % number)
            answers = Checker(number + 500_000)
            sent = 0
            for _ in range(rng.randrange(1, 30)):
                while sent - answers.at <= size * (depth - 1):
                    await conn.write(stream(number, sent, size))
                    sent += size
                while sent - answers.at > size * (depth - 1):
                    answers.take(await read_somehow(conn, rng, min(size, sent - answers.at)))
                messages += 1
                if over:
                    break
            await conn.write(stream(number, sent, size))  # and away
    return messages


@pytest.mark.parametrize("shape", SHAPES)
def test_every_byte_is_ones_own(run, shape, monkeypatch, caplog):
    size, depth = SHAPES[shape]

    async def main():
        over = []
        numbers = Numbers()
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            go(listener.serve, serve)
            gs = [
                go(client, listener.address, numbers, size, depth, over, seed) for seed in range(12)
            ]
            await goroutine.sleep(SECONDS)
            over.append(True)
            messages = [await g for g in gs]
        assert sum(messages) > 10

    monkeypatch.setattr(uring, "BUFFERS", 16)  # each is used over and over
    run(main, bound=40)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
