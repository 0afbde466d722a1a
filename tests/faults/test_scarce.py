"""Rings with hardly any room, calls that are interrupted, reads and writes of a few bytes.

The content of every message follows from who sent it and from its place in the stream, so that
what is lost, doubled, late or somebody else's is seen.
"""

import random
import signal
import socket
import threading
import time

import pytest
from net_support import Run, in_thread, pair
from streams import stream

import goroutine
from goroutine import go, net
from goroutine.io import ioring, uring
from goroutine.runtime.shared import current


async def send(conn, number, total, size):
    for start in range(0, total, size):
        await conn.write(stream(number, start, min(size, total - start)))
    await conn.close_write()


async def check(conn, number, total, most=1 << 16):
    """Read it to its end; every byte is looked at."""
    at = 0
    while data := await conn.read(most):
        assert data == stream(number, at, len(data)), (number, at)
        at += len(data)
    assert at == total


async def crossfire(count, total, size):
    """So many connections, both directions at once."""
    async with await net.listen("tcp", "127.0.0.1:0") as listener:

        async def one(number):
            async with await net.dial("tcp", listener.address) as conn:
                await conn.write(b"%06d" % number)
                out = go(send, conn, number, total, size)
                await check(conn, number + 500_000, total)
                await out

        async def serve(conn):
            number = int(await conn.read_exactly(6))
            out = go(send, conn, number + 500_000, total, size)
            await check(conn, number, total)
            await out

        go(listener.serve, serve)
        for g in [go(one, i) for i in range(count)]:
            await g


def tiny(monkeypatch, buffers=512, entries=1024, cq_entries=8192):
    """io_uring pollers with this little room."""

    class Ring(uring._Ring):
        __slots__ = ()

        def __init__(self, **_):
            super().__init__(entries=entries, cq_entries=cq_entries)

    monkeypatch.setattr(uring, "_Ring", Ring)
    monkeypatch.setattr(uring, "BUFFERS", buffers)


SCARCE = [
    {"buffers": 1},
    {"buffers": 4},
    {"cq_entries": 4, "entries": 4},
    {"cq_entries": 2, "entries": 2, "buffers": 2},
]


@pytest.mark.parametrize("scarce", SCARCE, ids=str)
def test_hardly_any_room(monkeypatch, scarce):
    """ENOBUFS all the time; completions that the kernel keeps back. Seen to fail without arming
    again after ENOBUFS (hangs), and when buffers go back before they are copied."""
    tiny(monkeypatch, **scarce)
    overflows = [0]
    spent = [0]
    other = uring.UringPoller.other

    def watch(self, key, res, flags, data):
        spent[0] += res == -105
        overflows[0] += bool(self.ring.sq_flags[0] & ioring.abi.SQ_CQ_OVERFLOW)
        return other(self, key, res, flags, data)

    monkeypatch.setattr(uring.UringPoller, "other", watch)
    Run("io_uring", 2)(crossfire, 24, 60_000, 5000)
    if "buffers" in scarce:
        assert spent[0] > 10
    if "cq_entries" in scarce:
        assert overflows[0] > 0


def test_a_flood_of_closings_with_hardly_any_room(monkeypatch):
    """Closing hundreds in one step submits in the middle of it, over and over."""
    tiny(monkeypatch, entries=2, cq_entries=4, buffers=4)

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            for _ in range(3):
                conns = []
                for _ in range(60):
                    conns.append(await net.dial("tcp", listener.address))
                    conns.append(await listener.accept())
                for conn in conns:
                    await conn.write(b"unread")
                for conn in conns:
                    conn.close()
                a = await net.dial("tcp", listener.address)
                b = await listener.accept()
                await a.write(b"fine")
                assert await b.read() == b"fine"
                a.close()
                b.close()

    Run("io_uring", 2)(main)


# -- signals ----------------------------------------------------------------------------------


def test_signals_all_the_time(run):
    """Every system call of every machine is interrupted (EINTR), some thousand times."""
    handled = [0]

    def handler(number, frame):
        handled[0] += 1

    async def main():
        idents = [t.ident for t in current().runtime.threads] + [threading.main_thread().ident]
        over = []
        sent = [0]

        def bombard():
            while not over:
                for ident in idents:
                    signal.pthread_kill(ident, signal.SIGUSR1)
                    sent[0] += 1
                time.sleep(0.0002)

        thread = threading.Thread(target=bombard)
        thread.start()
        try:
            for _ in range(20):  # sleeps, too, are as long as they are
                began = time.monotonic()
                await goroutine.sleep(0.002)
                assert time.monotonic() - began >= 0.002
            await crossfire(8, 200_000, 10_000)
            while sent[0] < 3000:
                await crossfire(2, 20_000, 1000)
        finally:
            over.append(True)
            await in_thread(thread.join)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        run(main)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled[0] > 10


# -- a few bytes at a time ----------------------------------------------------------------------


def test_small_socket_buffers(run):
    """The least the kernel allows: nearly every read and write is short, and waits."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            for number, total in ((1, 40_000), (2, 1), (3, 0)):
                client = socket.socket()
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    client.setsockopt(socket.SOL_SOCKET, option, 1)
                host, _, port = listener.address.rpartition(":")
                client.connect((host, int(port)))
                client.settimeout(10)
                conn = await listener.accept()
                with socket.socket(fileno=conn.fd) as s:
                    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                        s.setsockopt(socket.SOL_SOCKET, option, 1)
                    s.detach()
                out = go(conn.write, stream(number, 0, total))
                ours = go(check, conn, number + 10, total, 7)

                def peer(client=client, number=number, total=total):
                    threading.Thread(
                        target=lambda: (
                            client.sendall(stream(number + 10, 0, total)),
                            client.shutdown(socket.SHUT_WR),
                        )
                    ).start()
                    got = bytearray()
                    while len(got) < total:
                        got += client.recv(random.randrange(1, 3000))
                    return bytes(got)

                assert await in_thread(peer) == stream(number, 0, total)
                assert await out == total
                await ours
                conn.close()
                client.close()

    run(main)


def test_bytes_one_by_one(run):
    """Each in a packet, and each in a read, of its own."""

    async def main():
        client, server = await pair()
        text = stream(7, 0, 1500)
        back = go(check, client, 7, 1500, 1)

        async def echo():
            while byte := await server.read(1):
                await server.write(byte)
            await server.close_write()

        echoing = go(echo)
        for i in range(1500):
            await client.write(text[i : i + 1])
        await client.close_write()
        await back
        await echoing
        client.close()
        server.close()

    run(main)
