"""Datagrams: UDP and unixgram, each as it was sent; deadlines, cancelling and closing."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

import pytest
from net_support import CLOSED, in_thread, is_open, raises
from waiting import until

import goroutine
from goroutine import Canceled, ConnClosed, Group, chan, context, go, net
from goroutine.net import PacketConn
from goroutine.runtime.shared import current
from goroutine.time import now

pytestmark = pytest.mark.timeout(30)

UDPS = ["127.0.0.1:0", "[::1]:0"]


@pytest.fixture(params=["udp", "udp6", "unixgram"])
def network(request, tmp_path):
    old = os.getcwd()
    os.chdir(tmp_path)
    yield request.param
    os.chdir(old)


async def bound(network: str, name: str = "s") -> PacketConn:
    address = {"udp": "127.0.0.1:0", "udp6": "[::1]:0", "unixgram": name}[network]
    conn = await net.listen(network, address)
    assert isinstance(conn, PacketConn)
    return conn


def is_reading(conn: PacketConn) -> bool:
    """Whether who reads it is in a poller."""
    blocked = conn.blocked[False]
    return blocked is not None and any(
        blocked.fd == each.fd
        for m in current().runtime.machines
        for wait in list(m.poller.waits.values())
        for each in (wait if isinstance(wait, list) else [wait])
    )


def waits() -> int:
    """What the pollers know of, but for who waits for the test."""
    return sum(len(m.poller.waits) + len(m.inbox) for m in current().runtime.machines)


def test_each_datagram_as_it_was_sent(run, network):
    async def main():
        async with await bound(network) as a, await bound(network, "t") as b:
            for data in (b"x", b"", bytes(range(256)) * 200, bytearray(b"ab"), memoryview(b"cd")):
                assert await a.write_to(data, b.local_address) == len(data)
                assert await b.read_from() == (bytes(data), a.local_address)
            await b.write_to(b"long", a.local_address)
            await b.write_to(b"next", a.local_address)
            assert await a.read_from(2) == (b"lo", b.local_address)  # the rest is lost
            assert await a.read() == b"next"
            await b.write_to(b"dropped", a.local_address)
            assert await a.read_from(0) == (b"", b.local_address)
            assert not a.connected
            assert a.remote_address == ""

    run(main)


def test_dialled(run, network):
    async def main():
        async with await bound(network) as server:
            client = await net.dial(network, server.local_address, timeout=10)
            assert client.connected
            assert client.remote_address == server.local_address
            assert await client.write(b"") == 0
            data, address = await server.read_from()
            assert data == b""
            assert address == client.local_address
            if network == "unixgram":
                assert address == "@"
            else:
                g = go(client.read)
                await until(lambda: is_reading(client))
                assert await server.write_to(b"answer", address) == 6
                assert await g == b"answer"
                failure = await raises(
                    OSError, "one peer", client.write_to(b"x", server.local_address)
                )
                assert failure.errno == errno.EISCONN
            client.close()

    run(main)


def test_an_echo_server_and_many_clients(run):
    async def echo(server):
        try:
            while True:
                data, address = await server.read_from()
                await server.write_to(data, address)
        except ConnClosed:
            pass

    async def client(i, address, done):
        async with await net.dial("udp", address) as conn:
            for k in range(20):
                text = f"{i} {k}".encode()
                while True:  # loopback loses some when a buffer is full
                    conn.set_read_deadline(now() + 1)
                    await conn.write(text)
                    try:
                        while await conn.read() != text:
                            pass
                        break
                    except TimeoutError:
                        pass
        await done.send(i)

    async def main():
        done = chan(20)
        async with await net.listen("udp", "127.0.0.1:0") as server:
            echoes = [go(echo, server) for _ in range(3)]
            for i in range(20):
                go(client, i, server.local_address, done)
            assert sorted([await done.recv() for _ in range(20)]) == list(range(20))
        for g in echoes:
            await g

    run(main)


def test_every_local_address(run_one):
    """An empty host listens everywhere, and IPv4 is shown and taken as such."""

    async def main():
        async with await net.listen("udp", ":0") as server:
            port = server.local_address.rpartition(":")[2]
            for host in ("127.0.0.1", "[::1]"):
                async with await net.dial("udp", f"{host}:{port}") as client:
                    await client.write(b"x")
                    data, address = await server.read_from()
                    assert (data, address) == (b"x", client.local_address)
                    await server.write_to(b"y", address)
                    assert await client.read() == b"y"
        async with await net.listen("udp4", ":0") as server:
            assert server.local_address.startswith("0.0.0.0:")
            await raises(OSError, "no suitable address", server.write_to(b"x", "[::1]:9"))
            port = server.local_address.rpartition(":")[2]
            await server.write_to(b"by name", ("localhost", int(port)))
            assert await server.read() == b"by name"
        async with await net.listen("udp6", ":0") as server:
            await raises(OSError, "no suitable address", server.write_to(b"x", "127.0.0.1:9"))

    run_one(main)


def test_nobody_is_there(run):
    """What ICMP says of a datagram comes with the next call."""

    async def main():
        gone = await net.listen("udp", "127.0.0.1:0")
        address = gone.local_address
        fd, inode = gone.fd, os.fstat(gone.fd).st_ino
        gone.close()
        await until(lambda: not is_open(fd, inode))
        async with await net.dial("udp", address) as client:
            await client.write(b"x")
            await raises(ConnectionRefusedError, "", client.read())
            g = go(raises, ConnectionRefusedError, "", client.read())
            await until(lambda: is_reading(client))
            await client.write(b"x")
            await g
        await raises(FileNotFoundError, "dial unixgram ", net.dial("unixgram", "nobody"))

    run(main)


def test_too_long(run_one):
    async def main():
        async with await net.listen("udp", "127.0.0.1:0") as conn:
            failure = await raises(OSError, "", conn.write_to(bytes(70_000), conn.local_address))
            assert failure.errno == errno.EMSGSIZE
            await raises(ValueError, "negative", conn.read_from(-1))
            await raises(ValueError, "missing port", conn.write_to(b"x", "127.0.0.1"))

    run_one(main)


def test_deadlines(run, network):
    async def main():
        a, b = await bound(network), await bound(network, "t")
        begin = now()
        a.set_read_deadline(begin + 0.02)
        readers = [go(raises, TimeoutError, "^i/o timeout$", a.read_from()) for _ in range(3)]
        for g in readers:
            await g
        assert now() >= begin + 0.02
        await b.write_to(b"kept", a.local_address)
        await raises(TimeoutError, "^i/o timeout$", a.read())
        a.set_read_deadline(None)
        assert await a.read() == b"kept"
        for thread in (False, True):
            g = go(raises, TimeoutError, "^i/o timeout$", a.read())
            await until(lambda: is_reading(a))
            if thread:
                await in_thread(lambda: a.set_deadline(now()))
            else:
                a.set_deadline(now())
            await g
            await raises(TimeoutError, "^i/o timeout$", a.write_to(b"x", b.local_address))
            a.set_deadline(now() + 60)
            assert await a.write_to(b"x", b.local_address) == 1
            assert await b.read() == b"x"
        await until(lambda: not waits())
        a.close()
        b.close()
        assert not any(len(m.p.timers) for m in current().runtime.machines)
        for set_ in (a.set_deadline, a.set_read_deadline, a.set_write_deadline):
            with pytest.raises(ConnClosed, match=CLOSED):
                set_(None)

    run(main)


@pytest.mark.parametrize("how", ["here", "thread"])
def test_closing_unblocks(run, network, how):
    async def main():
        conn = await bound(network)
        fd, inode = conn.fd, os.fstat(conn.fd).st_ino
        readers = [go(raises, ConnClosed, CLOSED, conn.read_from()) for _ in range(3)]
        await until(lambda: is_reading(conn) and conn.queues and len(conn.queues[0]) == 2)
        if how == "thread":
            await in_thread(conn.close)
        else:
            conn.close()
            conn.close()
        for g in readers:
            await g
        await until(lambda: not is_open(fd, inode))
        await until(lambda: not waits())
        for step in (conn.read(), conn.read_from(), conn.write(b"x")):
            await raises(ConnClosed, CLOSED, step)
        where = "s" if network == "unixgram" else "127.0.0.1:9"
        await raises(ConnClosed, CLOSED, conn.write_to(b"x", where))
        assert not os.path.exists("s")
        assert conn.local_address
        if network != "unixgram":  # its port is free
            (await net.listen(network, conn.local_address)).close()

    run(main)


def test_cancelling(run, network):
    async def main():
        a, b = await bound(network), await bound(network, "t")
        ctx = context.with_cancel(context.background())
        g = go(raises, Canceled, "", a.read_from(ctx=ctx))
        await until(lambda: is_reading(a))
        ctx.cancel()
        await g
        await raises(Canceled, "", a.read_from(ctx=ctx))
        await raises(Canceled, "", a.write_to(b"x", b.local_address, ctx=ctx))
        with context.with_timeout(context.background(), 0.01) as ctx:
            await raises(TimeoutError, "deadline", a.read(ctx=ctx))
        async with Group() as group:
            group.go(a.read)
            await until(lambda: is_reading(a))
            group.context.cancel()
        await until(lambda: not waits())
        await b.write_to(b"x", a.local_address)
        assert await a.read() == b"x"
        a.close()
        b.close()

    run(main)


@pytest.mark.parametrize("network", ["unixgram"], indirect=True)  # UDP drops
def test_a_full_peer(run, network):
    """It is waited for; a dialled one by readiness, another by trying again."""

    async def main():
        async with await bound(network) as server:
            client, other = await net.dial(network, "s"), await bound(network, "t")

            async def fill(write):
                for i in range(600):
                    await write(str(i).encode())

            for write in (client.write, lambda data: other.write_to(data, "s")):
                sender = go(fill, write)
                await goroutine.sleep(0.02)
                begin = time.process_time()
                await goroutine.sleep(0.1)
                assert not sender.done
                assert time.process_time() - begin < 0.05  # it doesn't try all the time
                got = [int(await server.read()) for _ in range(600)]
                assert got == list(range(600))
                await sender
            for conn, write in (
                (client, client.write),
                (other, lambda data: other.write_to(data, "s")),
            ):
                conn.set_write_deadline(now() + 0.03)
                await raises(TimeoutError, "^i/o timeout$", fill(write))
                with context.with_timeout(context.background(), 0.03) as ctx:
                    conn.set_write_deadline(None)
                    if conn is client:
                        step = conn.write(b"x", ctx=ctx)
                    else:
                        step = conn.write_to(b"x", "s", ctx=ctx)
                    await raises(TimeoutError, "deadline", step)
                g = go(raises, ConnClosed, CLOSED, fill(write))
                await goroutine.sleep(0.01)
                assert not g.done
                conn.close()
                await g

    run(main)


def test_a_reader_of_a_flood_lets_others_run(run_one):
    async def main():
        async with await net.listen("udp", "127.0.0.1:0") as conn:
            ran: list[Any] = []
            go(ran.append, 1)
            reads = 0
            while not ran:
                await conn.write_to(b"x", conn.local_address)
                await conn.read()
                reads += 1
                assert reads < 1000

    run_one(main)


def test_readers_share_what_comes(run_two):
    async def main():
        a, b = await bound("udp"), await bound("udp")
        got = chan(100)

        async def read():
            try:
                while True:
                    await got.send(int(await a.read()))
            except ConnClosed:
                pass

        readers = [go(read) for _ in range(8)]
        for start in range(0, 400, 20):  # few enough at a time that none is dropped
            for i in range(start, start + 20):
                await b.write_to(str(i).encode(), a.local_address)
            part = [await got.recv() for _ in range(20)]
            assert sorted(part) == list(range(start, start + 20))
        a.close()
        b.close()
        for g in readers:
            await g

    run_two(main)


@pytest.mark.parametrize("network", ["udp", "unixgram"])
def test_left_open_at_the_end(run_two, network, tmp_path):
    """The run closes it, without a warning."""
    left = []

    async def main():
        address = "127.0.0.1:0" if network == "udp" else str(tmp_path / "s")
        left.append(await net.listen(network, address))
        go(left[0].read)
        await until(lambda: is_reading(left[0]))

    run_two(main)
    with pytest.raises(ConnClosed):
        left[0].set_deadline(None)
    assert os.listdir(tmp_path) == []


def test_an_address_in_use(run_one):
    async def main():
        with socket.socket(type=socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            host, port = s.getsockname()
            failure = await raises(
                OSError, f"listen udp {host}:{port}: ", net.listen("udp", f"{host}:{port}")
            )
            assert failure.errno == errno.EADDRINUSE

    run_one(main)
