"""Accepting: without fds, with errors, and with nobody who takes what is accepted."""

import errno
import logging
import os
import resource
import socket
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from net_support import Run, connect, fds, in_thread
from waiting import until

import goroutine
from goroutine import go, net
from goroutine.io import listener as listener_module
from goroutine.io.desc import PollDesc
from goroutine.io.poller import Wait
from goroutine.io.uring import UringPoller
from goroutine.runtime.shared import flags


async def echo(conn):
    while data := await conn.read():
        await conn.write(data)


@contextmanager
def few_fds(spare):
    """So many more fds than are open; all below are in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    null = os.open(os.devnull, os.O_RDONLY)
    fillers = [null]
    while (fd := os.dup(null)) < max(map(int, fds())):
        fillers.append(fd)
    fillers.append(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def test_out_of_fds_for_a_flood(run, caplog):
    """One warning and one timer, however many knock: a timer for each connection that came
    (as epoll had, an edge each) is seen by their number and by the processor time."""
    count = 100

    async def main():
        clients = [socket.socket() for _ in range(count)]
        with few_fds(8):
            listener = await net.listen("tcp", "127.0.0.1:0")
            serving = go(listener.serve, echo)
            host, _, port = listener.address.rpartition(":")
            for client in clients:
                client.connect((host, int(port)))
                await goroutine.sleep(0.0005)
            await until(lambda: listener._delay >= 0.04)
            began = time.process_time()
            await goroutine.sleep(0.4)
            assert time.process_time() - began < 0.2
            timers = sum(len(m.p.timers) for m in listener.home.runtime.machines)
            assert timers <= 3  # (others may have some)
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            client.settimeout(10)
            assert await in_thread(lambda client=client: client.recv(1)) == b"x"
            client.close()
        listener.close()
        await serving

    with caplog.at_level(logging.DEBUG, "goroutine.net"):
        run(main)
    told = [r for r in caplog.records if "Too many open files" in r.message]
    assert [r.levelno for r in told].count(logging.WARNING) == 1
    assert 3 <= len(told) < 20


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_accept_that_always_fails(monkeypatch, caplog, code):
    """For a while. The machine has time for others meanwhile; then it goes on."""
    failing = [True]
    calls = [0]
    accept = socket.socket._accept

    def fails(s):
        calls[0] += 1
        if failing and (code != errno.ECONNABORTED or calls[0] % 50):
            raise OSError(code, os.strerror(code))
        return accept(s)

    monkeypatch.setattr(socket.socket, "_accept", fails)

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, echo)
        clients = [connect(listener) for _ in range(5)]
        await goroutine.sleep(0.1)
        assert calls[0] < 1000
        failing.clear()
        for client in clients:
            client.sendall(b"x")
            assert await in_thread(lambda client=client: client.recv(1)) == b"x"
            client.close()
        listener.close()
        await serving

    Run("epoll", 1)(main)


def test_every_errno(run):
    """Whatever accept(2) may come up with, the next connection is served."""

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, echo)
        for code in sorted(errno.errorcode):
            listener.at_home(lambda listener, code=code: listener.accepted(-code))
        for _ in range(3):
            async with await net.dial("tcp", listener.address) as conn:
                await conn.write(b"x")
                assert await conn.read() == b"x"
        listener.close()
        await serving

    run(main)


# -- nobody takes them -----------------------------------------------------------------------


def test_what_nobody_takes_stays_in_the_kernels_queue(run, monkeypatch):
    """A server at its limit holds no more fds than that and a bound, however many knock."""
    monkeypatch.setattr(listener_module, "MOST_PENDING", 8)
    count = 60

    async def main():
        go_on = goroutine.chan()
        order = []

        async def handler(conn):
            order.append(int(await conn.read_exactly(3)))
            await go_on.recv_ok()
            await conn.write(b"done")

        listener = await net.listen("tcp", "127.0.0.1:0")

        async def serve():
            await listener.serve(handler, limit=2)

        serving = go(serve)
        clients = []
        most = 0
        for i in range(count):
            client = connect(listener)
            client.sendall(b"%03d" % i)
            clients.append(client)
            # (One by one: all that wait at once are accepted at once.)
            await until(lambda i=i: len(listener.chunks) >= min(i - 2, 8))
            most = max(most, len(listener.chunks))
        await goroutine.sleep(0.02)
        assert listener.paused
        assert 8 <= max(most, len(listener.chunks)) <= 12
        go_on.close()
        for client in clients:
            assert await in_thread(lambda client=client: client.recv(10)) == b"done"
            client.close()
        assert sorted(order) == list(range(count))
        listener.close()
        await serving

    run(main)


def test_held_back_again_and_again(run, monkeypatch):
    """Taken from all machines, while the bound is reached over and over: nobody is forgotten."""
    monkeypatch.setattr(listener_module, "MOST_PENDING", 2)
    count = 300

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")

        async def dial(i):
            async with await net.dial("tcp", listener.address) as conn:
                await conn.write(b"%d" % i)
                return int(await conn.read())

        async def accept():
            for _ in range(count // 4):
                async with await listener.accept() as conn:
                    await conn.write(await conn.read())

        gs = [go(dial, i) for i in range(count)]
        acceptors = [go(accept) for _ in range(4)]
        for i, g in enumerate(gs):
            assert await g == i
        for g in acceptors:
            await g
        listener.close()

    run(main)


def test_closed_while_held_back(run, monkeypatch):
    monkeypatch.setattr(listener_module, "MOST_PENDING", 2)

    async def main():
        for _ in range(5):
            listener = await net.listen("tcp", "127.0.0.1:0")
            clients = [connect(listener) for _ in range(10)]
            await until(lambda listener=listener: listener.paused)
            listener.close()
            for client in clients:
                try:
                    assert await in_thread(lambda client=client: client.recv(1)) == b""
                except ConnectionResetError:
                    pass
                client.close()

    run(main)


# -- accepted for a listener that is gone ------------------------------------------------------


def accepts(poller):
    """An armed listener, as the poller sees it, and where it listens."""
    s = socket.create_server(("127.0.0.1", 0))
    home = SimpleNamespace(poller=poller, runtime=SimpleNamespace(count=2))

    class Desc(PollDesc):
        accepting = True

        def accepted(self, result):
            self.chunks.append(result)

    desc = Desc(s.detach(), home, next(poller.keys))
    poller.attach(desc)
    poller.poll(0)
    with socket.socket(fileno=os.dup(desc.fd)) as s:
        return desc, s.getsockname()


@pytest.mark.parametrize("end", ["detached", "run over"])
def test_accepted_between_the_last_look_and_the_closing(end, monkeypatch):
    """A full submission queue is submitted in the middle of a step, and a connection may be
    accepted there: its fd comes when the listener is not known any more."""
    monkeypatch.setitem(flags, "stop", False)
    before = fds()
    poller = UringPoller([].append)
    try:
        desc, address = accepts(poller)
        client = socket.create_connection(address)
        for _ in range(poller.ring.sq_entries + 1):  # the kernel accepts, and tells the ring
            poller.drop(Wait(-1, 0))
        assert poller.ring.ready()
        if end == "detached":
            poller.detach(desc)
            end = time.monotonic() + 5
            while poller.accepts:
                assert time.monotonic() < end
                poller.poll(0.01)
            assert client.recv(1) == b""  # nobody keeps it open
        client.close()
    finally:
        poller.close()
    assert fds() == before


def test_dial_without_fds(run):
    """The error names the address, and nothing is kept."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            client = await net.dial("tcp", listener.address)
            server = await listener.accept()
            with few_fds(0):
                for _ in range(50):
                    with pytest.raises(OSError, match=f"dial tcp {listener.address}: Too many"):
                        await net.dial("tcp", listener.address)
                with pytest.raises(OSError, match="localhost"):
                    await net.dial("tcp", "localhost:1")
                others = []

                async def listens():
                    while len(others) < 5:  # (a thread may have closed an fd of its own)
                        others.append(await net.listen("tcp", "127.0.0.1:0"))

                with pytest.raises(OSError, match=r"listen tcp 127.0.0.1:0: Too many"):
                    await listens()
                for other in others:
                    other.close()
                await client.write(b"still")
                assert await server.read() == b"still"
            async with await net.dial("tcp", listener.address):
                pass
        client.close()
        server.close()

    run(main)
