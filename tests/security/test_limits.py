"""Limits that can be set: what waits to be accepted, and what is received and not read."""

from __future__ import annotations

import socket

import pytest
from waiting import until

import goroutine
from goroutine import net

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_what_waits_to_be_accepted(io):
    """As many in the kernel's queue, and as many here; those beyond are not connected."""

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0", backlog=3)
        host, port = listener.address.split(":")
        clients = []
        try:
            for _ in range(30):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex((host, int(port)))
                clients.append(client)
                await goroutine.sleep(0.002)
            await until(lambda: len(listener.chunks) in (0, 3))
            connected = 0
            for client in clients:
                try:
                    client.getpeername()
                    connected += 1
                except OSError:
                    pass
            held = len(listener.chunks)
            # (Linux takes one more than it was told; and one may be just under way.)
            assert 3 <= connected <= held + 3 + 2
            got = [await listener.accept() for _ in range(connected)]
            for conn in got:
                conn.close()
        finally:
            for client in clients:
                client.close()
            listener.close()

    goroutine.start(main, machines=1, io=io)


@pytest.mark.parametrize("backlog", [0, -1])
def test_a_backlog_that_is_none(backlog):
    async def main():
        await net.listen("tcp", "127.0.0.1:0", backlog=backlog)

    with pytest.raises(ValueError, match=f"backlog must be at least 1, not {backlog}"):
        goroutine.start(main, machines=1)


def unread(size):
    """How many chunks a connection holds that nobody reads, when all were sent that fit."""

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        async with (
            listener,
            await net.dial("tcp", listener.address) as conn,
            await listener.accept() as peer,
        ):
            go_on = goroutine.go(conn.write, bytes(size))
            await until(lambda: go_on.done or (peer.paused and not peer.armed))
            held = len(peer.chunks)
            left = size
            while left > 0:
                left -= len(await peer.read())
            await go_on
            return held

    return goroutine.start(main, machines=1, io="io_uring")


def test_what_nobody_reads(monkeypatch):
    """(The kernel goes on for some more, but not beyond a machine's buffers.)"""
    size = 8 << 20
    monkeypatch.setenv("GOROUTINE_BUFFERS", "16")
    monkeypatch.setenv("GOROUTINE_UNREAD", "8192")
    assert 2 <= unread(size) <= 2 + 16
    monkeypatch.setenv("GOROUTINE_UNREAD", str(1 << 20))
    assert 256 <= unread(size) <= 256 + 16


@pytest.mark.parametrize("machines", [1, 4])
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("BUFFERS", "100", "GOROUTINE_BUFFERS must be a power of two, not 100"),
        ("BUFFERS", "8", "GOROUTINE_BUFFERS must be a whole number from 16 to 32768, not '8'"),
        (
            "BUFFERS",
            "many",
            "GOROUTINE_BUFFERS must be a whole number from 16 to 32768, not 'many'",
        ),
        ("UNREAD", "-1", "GOROUTINE_UNREAD must be a whole number from 4096 to "),
        ("UNREAD", "1", "GOROUTINE_UNREAD must be a whole number from 4096 to "),
    ],
)
def test_wrong_values(name, value, complaint, machines, monkeypatch):
    async def main():
        raise AssertionError("it has begun")

    monkeypatch.setenv(f"GOROUTINE_{name}", value)
    with pytest.raises(ValueError, match=f"^{complaint}"):
        goroutine.start(main, machines=machines, io="io_uring")
