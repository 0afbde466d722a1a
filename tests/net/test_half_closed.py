"""Peers that have sent the end of their stream, and peers that write to what is being closed."""

from __future__ import annotations

import socket

import pytest
from net_support import in_thread, raises, raw_pair, receive_all, waits_to_write
from waiting import until

import goroutine
import goroutine.io as gio
from goroutine import Canceled, context, go
from goroutine.runtime.shared import current

pytestmark = pytest.mark.timeout(30)

BIG = bytes(range(256)) * 40_000  # 10 MB: more than any socket takes


def passes() -> int:
    return sum(m.tick for m in current().runtime.machines)


async def sleeps() -> None:
    """Nobody goes round in circles. (Seen to count tens of thousands by io_uring, which reports
    the end of the peer's stream to who waits for room, over and over.)"""
    await goroutine.sleep(0.02)
    before = passes()
    await goroutine.sleep(0.1)
    assert passes() - before < 100


def test_a_writer_sleeps_all_the_same(run):
    async def main():
        client, conn = await raw_pair(RCVBUF=65_536)
        client.shutdown(socket.SHUT_WR)
        assert await conn.read() == b""
        g = go(conn.write, BIG)
        await until(lambda: waits_to_write(conn))
        await sleeps()
        received = go(in_thread, lambda: receive_all(client))
        assert await g == len(BIG)
        await conn.close_write()
        assert await received == BIG
        client.close()
        conn.close()
        machines = current().runtime.machines
        await until(lambda: not any(len(m.poller.waits) for m in machines))

    run(main)


def test_the_end_comes_while_it_waits(run):
    async def main():
        client, conn = await raw_pair(RCVBUF=65_536)
        ctx = context.with_cancel(context.background())
        g = go(raises, Canceled, "", conn.write(BIG, ctx=ctx))
        await until(lambda: waits_to_write(conn))
        client.shutdown(socket.SHUT_WR)
        assert await conn.read() == b""
        await sleeps()
        assert waits_to_write(conn)
        ctx.cancel()
        await g
        await sleeps()
        assert not waits_to_write(conn)
        client.close()
        conn.close()

    run(main)


def test_a_plain_wait_for_room(run):
    """goroutine.io.writable, and who waits to read there sees the end."""

    ends: list[socket.socket] = []

    async def main():
        ends.extend(socket.socketpair())
        a, b = ends
        try:
            while True:
                a.send(bytes(65_536), socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        b.shutdown(socket.SHUT_WR)
        g = go(gio.writable, a.fileno())
        await gio.readable(a.fileno())
        await sleeps()
        assert not g.done
        try:
            while True:
                b.recv(65_536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            await g
        a.close()
        await until(at_the_end)  # no poll in the kernel holds it
        b.close()

    def at_the_end() -> bool:
        try:
            return ends[1].recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    run(main)


def test_a_peer_that_writes_learns_of_the_closing(run):
    """At once, although its window was shut. (Seen to wait for a minute: shut down for reading, a
    socket doesn't open the window again for what io_uring takes out of it then.)"""

    async def main():
        for _ in range(10):
            client, conn = await raw_pair()
            with socket.socket(fileno=conn.fd) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                s.detach()

            def write(client: socket.socket = client) -> str:
                client.settimeout(8)
                try:
                    client.sendall(BIG)
                except ConnectionError:
                    return "told"
                except TimeoutError:
                    return "not told"
                return "sent"

            g = go(in_thread, write)
            await until(lambda conn=conn: conn.chunks or conn.home.poller.direct)
            conn.close()
            assert await g == "told"
            client.close()

    run(main)
