"""A machine inside one long step: its connections are served all the same.

The goroutine that keeps a machine does so until the test has seen what it wants to see, not
for a time: where nobody serves the machine's connections, the test waits in vain.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import types
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from net_support import BOUND, IOS, Run, here
from waiting import until

import goroutine
from goroutine import blocking, go, net
from goroutine.io.desc import PollDesc
from goroutine.io.ioring import abi
from goroutine.io.poller import POLLIN, Wait
from goroutine.io.uring import UringPoller
from goroutine.runtime import watchdog
from goroutine.runtime.rescuer import Rescuer

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=IOS)
def run(request):
    return Run(request.param, 2)


def turn(n):
    return n + 1


def in_a_loop(over):
    end = time.monotonic() + BOUND
    while not over and time.monotonic() < end:
        pass


def in_calls(over):
    n = 0
    end = time.monotonic() + BOUND
    while not over and time.monotonic() < end:
        for _ in range(100):
            n = turn(n)


def in_one_call(over):
    """One call into C, until the time is over or `kept` sees that ``over`` is set."""
    over.lock.acquire(timeout=BOUND)


WAYS = (in_a_loop, in_calls, in_one_call)


class Over(list):
    def __init__(self):
        self.lock = threading.Lock()
        self.lock.acquire()

    def set(self):
        self.append(True)
        self.lock.release()


@asynccontextmanager
async def kept(m, way: Callable[[Any], None] = in_a_loop):
    """Machine m is kept by a goroutine meanwhile. The caller goes on on another one."""
    over = Over()
    begun: list[bool] = []
    keepers = []

    async def keep():
        begun.append(here() is m)
        if begun[-1]:
            way(over)

    try:
        for _ in range(1000):
            begun.clear()
            if here() is m:
                keepers.append(go(keep))
            else:
                m.post(lambda: keepers.append(go(keep)))
            await until(lambda: begun)
            if begun[0]:
                break
        assert begun == [True]
        yield
        assert here() is not m
    finally:
        over.set()
        for keeper in keepers:
            await keeper


async def echo(conn):
    while data := await conn.read():
        await conn.write(data)


class Clients:
    """Sockets on a thread of their own, which waits for them."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.place = host, int(port)
        self.sockets = []

    def connect(self, n):
        for _ in range(n):
            s = socket.create_connection(self.place, timeout=BOUND)
            self.sockets.append(s)

    def rounds(self, n, size=64):
        """Everyone sends, then everyone has it back."""
        for i in range(n):
            sent = [bytes([i, j % 256]) * (size // 2) for j in range(len(self.sockets))]
            for s, data in zip(self.sockets, sent, strict=True):
                s.sendall(data)
            for s, data in zip(self.sockets, sent, strict=True):
                got = b""
                while len(got) < size:
                    piece = s.recv(size)
                    assert piece, "closed"
                    got += piece
                assert got == data

    def close(self):
        for s in self.sockets:
            s.close()


async def accept_loop(listener, conns):
    async for conn in listener:
        conns.append(conn)
        go(echo, conn)


def serving(listener, conns):
    async def handler(conn):
        conns.append(conn)
        await echo(conn)

    return go(listener.serve, handler)


@pytest.mark.parametrize("way", WAYS)
def test_connections_are_served(run, way):
    """More than are looked at in one go, and each several times."""

    async def main():
        conns = []
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            serving(listener, conns)
            clients = Clients(listener.address)
            await blocking(clients.connect, 150)
            await blocking(clients.rounds, 1)
            homes = [conn.home for conn in conns]
            m = max(homes, key=homes.count)
            assert homes.count(m) > 64
            async with kept(m, way):
                await blocking(clients.rounds, 10)
            await blocking(clients.rounds, 5)
            await until(lambda: not m.stuck)
            clients.close()

    run(main)


@pytest.mark.parametrize("serve", [True, False], ids=["serve", "accept"])
def test_connections_are_accepted(run, serve):
    """Also those that are given to the machine before anybody knows that it is kept."""

    async def main():
        conns = []
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            if serve:
                serving(listener, conns)
            else:
                go(accept_loop, listener, conns)
            clients = Clients(listener.address)
            m = listener.home
            for _ in range(3):
                async with kept(m):
                    await blocking(clients.connect, 20)
                    await blocking(clients.rounds, 2)
            assert len(conns) == 60
            clients.close()

    run(main)


def test_a_connection_for_a_machine_that_has_just_got_stuck(run):
    """It was given this home, and the home does not get round to attaching it."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            clients = Clients(listener.address)
            m = here()
            async with kept(m):
                placement = m.runtime.placement
                for _ in range(4):
                    placement.take = lambda: placement.count(m) or m
                    await blocking(clients.connect, 1)
                    go(echo, await listener.accept())
                    await blocking(clients.rounds, 2)
            await blocking(clients.rounds, 2)
            clients.close()

    run(_with_own_placement(main))


def _with_own_placement(main):
    """Placement has slots: this run's takes another class, whose `take` can be set."""

    async def wrapped():
        placement = here().runtime.placement

        class Settable(type(placement)):
            pass

        other = Settable(placement._machines)
        here().runtime.placement = other
        try:
            await main()
        finally:
            here().runtime.placement = placement
            placement._counts.update(other._counts)

    return wrapped


def test_another_machine_begins_what_was_meant_for_it(run):
    async def main():
        begun = []
        m = here()
        async with kept(m):
            for _ in range(3):
                m.offer(lambda: begun.append(here()))
            await until(lambda: len(begun) == 3)
        assert m not in begun

    run(main)


def test_it_becomes_the_home_of_nothing(run):
    async def main():
        m = here()
        placement = m.runtime.placement
        async with kept(m):
            await until(lambda: m.stuck)
            taken = [placement.take() for _ in range(50)]
            assert m not in taken
            assert m.stuck
        await until(lambda: not m.stuck)
        assert placement.take() is m  # the one with the fewest again

    run(main)


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_the_end_of_a_connection_is_seen(run, how):
    async def main():
        ended = []

        async def handler(conn):
            try:
                while data := await conn.read():
                    await conn.write(data)
                ended.append(b"")
            except ConnectionError:
                ended.append("reset")

        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            go(listener.serve, handler)
            clients = Clients(listener.address)
            await blocking(clients.connect, 20)
            await blocking(clients.rounds, 1)
            async with kept(here()):
                for s in clients.sockets:
                    s.sendall(b"last")
                    if how == "reset":
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
                    if how == "half":
                        s.shutdown(socket.SHUT_WR)
                    else:
                        s.close()
                await until(lambda: len(ended) == 20)
            clients.close()
        if how == "half":
            assert ended == [b""] * 20

    run(main)


def test_a_blocked_write_goes_on(run):
    async def main():
        data = os.urandom(1 << 20) * 8

        async def handler(conn):
            await conn.write(data)

        def read_all(s):
            got = bytearray()
            while piece := s.recv(1 << 16):
                got += piece
            return got == data

        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            conns = []

            async def handler(conn):
                conns.append(conn)
                await conn.write(data)

            go(listener.serve, handler)
            clients = Clients(listener.address)
            await blocking(clients.connect, 1)
            await until(lambda: conns and conns[0].blocked[1] is not None)
            await until(lambda: conns[0].blocked[1].m is not None)
            async with kept(conns[0].blocked[1].m):
                assert await blocking(read_all, clients.sockets[0])
            clients.close()

    run(main)


def test_a_deadline_passes(run):
    async def main():
        failures = []

        async def read(conn):
            try:
                await conn.read()
            except TimeoutError as failure:
                failures.append(str(failure))

        listener = await net.listen("tcp", "127.0.0.1:0")
        async with listener, await net.dial("tcp", listener.address) as conn:
            go(read, conn)
            await until(lambda: conn.parked)
            conn.set_read_deadline(goroutine.time.now() + 0.05)
            async with kept(conn.home):
                await until(lambda: failures)
            assert failures == ["i/o timeout"]

    run(main)


def test_who_waits_for_an_fd(run):
    """What isn't a connection: pipes, connects, datagrams, children."""

    async def main():
        r, w = os.pipe()
        try:
            wait = Wait(r, POLLIN)
            seen = []

            async def reader():
                await _waited(wait)
                seen.append(os.read(r, 10))

            go(reader)
            await until(lambda: wait.g is not None)
            async with kept(wait.m):
                os.write(w, b"news")
                await until(lambda: seen)
            assert seen == [b"news"]
            await until(lambda: not here().poller.waiting())
        finally:
            os.close(r)
            os.close(w)

    run(main)


async def _waited(wait):
    @types.coroutine
    def steps():
        yield from wait.wait()

    await steps()


def test_much_data_for_who_does_not_read(run):
    """What is received for it is bounded; the rest stays in the socket until it reads."""

    async def main():
        data = os.urandom(1 << 16) * 64
        conns = []
        reads = threading.Event()
        got = []

        async def handler(conn):
            await conn.read_exactly(1)
            conns.append(conn)
            while not reads.is_set():
                await goroutine.sleep(0.001)
            parts = []
            while piece := await conn.read():
                parts.append(piece)
            got.append(b"".join(parts))

        def send(s):
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)

        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            go(listener.serve, handler)
            clients = Clients(listener.address)
            await blocking(clients.connect, 1)
            clients.sockets[0].sendall(b"x")
            await until(lambda: conns)
            async with kept(conns[0].home):
                sender = threading.Thread(target=send, args=clients.sockets)
                sender.start()
                await goroutine.sleep(0.1)
                assert sum(map(len, conns[0].chunks)) <= 1 << 18
                reads.set()
                await until(lambda: got)
                assert got[0] == data
                await blocking(sender.join)
            clients.close()

    run(main)


def test_the_order_of_data(run):
    """Machines that get stuck and come back all the time, while data streams.

    Seen to fail with no look at ``armed`` before the enter, with the flag put down but no look
    whether the machine is in the same pass still, and with the flag put down without the lock.
    """
    seconds = float(os.environ.get("STRESS_SECONDS", "3"))
    size, depth, many = 3000, 4, 12

    async def main():
        end = time.monotonic() + seconds

        async def keeper(rng):
            while time.monotonic() < end:
                until_ = time.monotonic() + rng.uniform(0.008, 0.03)
                while time.monotonic() < until_:
                    pass
                await goroutine.sleep(rng.uniform(0, 0.01))

        def stream(s, number):
            """Keep ``depth`` messages under way; every one must come back, in order."""
            sent = seen = 0
            rest = b""
            s.settimeout(BOUND)
            while time.monotonic() < end or seen < sent:
                while sent - seen < depth and time.monotonic() < end:
                    s.sendall(b"%06d %02d " % (sent, number) * (size // 10))
                    sent += 1
                piece = s.recv(1 << 16)
                assert piece
                rest += piece
                while len(rest) >= size:
                    assert rest[:size] == b"%06d %02d " % (seen, number) * (size // 10)
                    rest = rest[size:]
                    seen += 1
            return seen

        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            serving(listener, [])
            clients = Clients(listener.address)
            await blocking(clients.connect, many)
            async with goroutine.Group() as group:
                group.go(keeper, random.Random(1))
                jobs = [
                    group.go(blocking, stream, s, number)
                    for number, s in enumerate(clients.sockets)
                ]
            seen = [await job for job in jobs]
            assert min(seen) > 10
            clients.close()

    run(main, bound=BOUND + seconds)


# -- the parts ---------------------------------------------------------------------------------


@pytest.fixture
def poller():
    with_io_uring = UringPoller(lambda g: None)
    try:
        yield with_io_uring
    finally:
        with_io_uring.close()


def test_it_does_not_begin_when_the_machine_has_moved_on(poller):
    assert not poller.rescue.begin(lambda: False)
    assert poller.rescue.armed == [False]
    assert poller.rescue.begin(lambda: True)
    assert poller.rescue.armed == [True]
    poller.poll(0)
    assert poller.rescue.armed == [False]


def test_it_does_not_begin_with_completions_unread(poller):
    poller.poll(0)
    poller.ring.prepare(abi.OP_NOP)
    poller.ring.submit()
    assert not poller.rescue.begin(lambda: True)
    poller.poll(0)
    assert poller.rescue.begin(lambda: True)


@pytest.fixture
def attached(poller):
    """attached() -> (desc, the other end of its socket)"""
    ends = []

    def attach():
        a, b = socket.socketpair()
        home = SimpleNamespace(poller=poller, runtime=SimpleNamespace(count=2))
        desc = PollDesc(a.detach(), home, next(poller.keys))
        poller.attach(desc)
        ends.append(b)
        return desc, b

    yield attach
    for b in ends:
        b.close()


def test_an_edge_that_came_too_late_is_kept(poller, attached):
    """The machine had entered its ring before the data came, and is stuck again after it."""
    desc, peer = attached()
    assert poller.rescue.begin(lambda: True)
    poller.poll(0)
    peer.send(b"late")
    poller.rescue.serve()
    assert not desc.chunks
    assert poller.rescue.begin(lambda: True)
    poller.rescue.serve()
    assert desc.chunks == [b"late"]


def test_it_says_whether_that_was_all(poller, attached):
    """sysmon need not be told of an epoll again in which something was left."""
    many = [attached() for _ in range(100)]
    assert poller.rescue.begin(lambda: True)
    for _, peer in many:
        peer.send(b"x")
    assert poller.rescue.serve()
    while poller.rescue.serve():
        pass
    assert all(desc.chunks == [b"x"] for desc, _ in many)
    desc, peer = many[0]
    peer.send(bytes(40000))
    assert poller.rescue.serve()
    while poller.rescue.serve():
        pass
    assert sum(map(len, desc.chunks)) == 40001


def test_what_nobody_takes_stays_in_the_socket(poller, attached):
    desc, peer = attached()
    assert poller.rescue.begin(lambda: True)
    for i in range(20):
        peer.send(b"x" * i + b"y")
        while poller.rescue.serve():
            pass
    left = len(desc.chunks)
    assert left < 20
    desc.chunks.clear()
    poller.rescue.look()
    assert sum(map(len, desc.chunks)) == sum(range(left + 1, 21))


def test_a_machine_that_is_back_waits_for_who_is_serving(poller):
    """It must not receive while data that came before is on its way into the desc."""
    order = []
    serving_ = threading.Event()

    def serve():
        with poller.rescue.lock:
            serving_.set()
            time.sleep(0.05)
            order.append("served")

    assert poller.rescue.begin(lambda: True)
    thread = threading.Thread(target=serve)
    thread.start()
    serving_.wait()
    poller.poll(0)
    order.append("entered")
    thread.join()
    assert order == ["served", "entered"]


def test_a_machine_that_has_moved_on_is_not_stuck(poller):
    """Between the looks and the flag it may begin another pass, or come to the end of one."""
    m = SimpleNamespace(
        id=0, tick=7, g=object(), stuck=False, poller=poller, arrivals=deque(), offer=None
    )
    rescuer = Rescuer([m])
    try:
        for tick, g, stuck in ((6, m.g, False), (7, None, False), (7, m.g, True)):
            m.g = g
            rescuer.begin(m, tick)
            assert m.stuck is stuck
            assert poller.rescue.armed == [stuck]
        assert rescuer
        rescuer.look(m, 7, 0)
        assert not m.stuck
        assert not rescuer
    finally:
        rescuer.close()


def test_a_full_queue_that_is_submitted_ends_it(poller):
    assert poller.rescue.begin(lambda: True)
    for _ in range(poller.ring.sq_entries + 1):
        poller.ring.prepare(abi.OP_NOP)
    assert poller.rescue.armed == [False]


def test_it_does_not_begin_on_a_ring_that_receives_at_any_time(poller):
    """The kernel would receive in any system call of the machine, behind sysmon's back."""
    poller.ring.flags &= ~abi.SETUP_DEFER_TASKRUN
    try:
        assert not poller.rescue.begin(lambda: True)
    finally:
        poller.ring.flags |= abi.SETUP_DEFER_TASKRUN


# -- the watchdog ------------------------------------------------------------------------------


def test_who_keeps_a_machine_is_named_once(run, caplog, monkeypatch):
    monkeypatch.setattr(watchdog, "MOST", 0.02)

    async def main():
        async with kept(here(), in_a_loop):
            await until(lambda: caplog.records)
        for way in (in_a_loop, in_one_call):
            async with kept(here(), way):
                await goroutine.sleep(0.1)

    with caplog.at_level(logging.WARNING, logger="goroutine"):
        run(main)
    assert len(caplog.records) == 1
    text = caplog.records[0].getMessage()
    assert "keep" in text
    assert " has kept machine " in text


def test_who_only_waits_in_the_kernel_is_named(run, caplog):
    async def main():
        time.sleep(1)

    with caplog.at_level(logging.WARNING, logger="goroutine"):
        run(main)
    assert len(caplog.records) == 1


def test_nobody_is_named_while_other_processes_have_the_cpu(monkeypatch):
    """The thread could run (it does: it is ours), and uses no time."""
    used = 0.0
    monkeypatch.setattr(watchdog, "clock_gettime", lambda _: used)
    threads = [threading.current_thread()]
    m = SimpleNamespace(id=0, tick=1, runtime=SimpleNamespace(threads=threads))
    g = SimpleNamespace(id=7)
    dog = watchdog.Watchdog()
    assert not any(dog.keeps(m, g, seconds) for seconds in (0.11, 0.2, 1.0, 10.0))
    used = 0.03
    assert dog.keeps(m, g, 10.1)
    m.tick = 2  # another step
    assert not dog.keeps(m, g, 0.11)
    used = 0.04
    assert not dog.keeps(m, g, 0.12)


def test_who_gives_way_is_not_named(run, caplog):
    async def main():
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            await goroutine.gosched()

    with caplog.at_level(logging.WARNING, logger="goroutine"):
        run(main)
    assert not caplog.records
