"""Looking up names, and the race of a name's addresses (RFC 8305)."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from net_support import raises
from waiting import until

import goroutine
from goroutine import Canceled, Group, context, go, net
from goroutine.net import dialing
from goroutine.runtime.shared import current

pytestmark = pytest.mark.timeout(30)

NAME = "several.example:1"


# -- lookup_host ---------------------------------------------------------------------------------


def answer(monkeypatch: pytest.MonkeyPatch, *places: tuple[int, Any]) -> None:
    """Have every name looked up give these (family, sockaddr)."""
    infos = [(family, socket.SOCK_STREAM, 6, "", where) for family, where in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: infos)


def test_lookup_host(run, monkeypatch):
    async def main():
        for address in ("127.0.0.1", "::1", "fe80::1%lo"):
            assert await net.lookup_host(address) == [address]
        found = await net.lookup_host("localhost")
        assert set(found) <= {"127.0.0.1", "::1"}
        assert found
        answer(
            monkeypatch,
            (socket.AF_INET6, ("2001:db8::1", 0, 0, 0)),
            (socket.AF_INET, ("192.0.2.1", 0)),
            (socket.AF_INET, ("192.0.2.1", 0)),
        )
        assert await net.lookup_host("a.example") == ["2001:db8::1", "192.0.2.1"]

    run(main)


def test_lookup_host_fails(run_one, monkeypatch):
    async def main():
        def fail(*_: Any) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        for name in ("", "a\0b"):
            await raises(OSError, "lookup .*: no such host", net.lookup_host(name))
        await raises(OSError, "lookup aaa.*: not a valid host name", net.lookup_host("a" * 300))
        for name in (None, 5, b"localhost"):
            await raises(TypeError, "a host is a str", net.lookup_host(name))
        monkeypatch.setattr(socket, "getaddrinfo", fail)
        failure = await raises(OSError, "lookup nowhere: Name or", net.lookup_host("nowhere"))
        assert failure.errno == socket.EAI_NONAME

    run_one(main)


def test_lookup_host_is_cancelled(run, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()

    def slowly(*_: Any) -> list[Any]:
        asked.set()
        go_on.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slowly)

    async def main():
        try:
            ctx = context.with_cancel(context.background())
            g = go(raises, Canceled, "", net.lookup_host("slow.example", ctx=ctx))
            await until(asked.is_set)
            ctx.cancel()
            await g
        finally:
            go_on.set()

    run(main)


# -- the race ------------------------------------------------------------------------------------


@pytest.fixture
def hanging() -> Iterator[list[tuple[int, Any]]]:
    """Addresses that answer nothing: listeners whose queues are full."""
    sockets, places = [], []
    for _ in range(3):
        sockets.append(s := socket.socket())
        s.bind(("127.0.0.1", 0))
        s.listen(0)
        places.append((socket.AF_INET, s.getsockname()))
        for _ in range(2):  # fill it
            sockets.append(c := socket.socket())
            c.setblocking(False)
            c.connect_ex(s.getsockname())
    yield places
    for s in sockets:
        s.close()


def refusing() -> tuple[int, Any]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return socket.AF_INET, s.getsockname()


def place(listener: net.Listener) -> tuple[int, Any]:
    host, _, port = listener.address.rpartition(":")
    if host.startswith("["):
        return socket.AF_INET6, (host[1:-1], int(port), 0, 0)
    return socket.AF_INET, (host, int(port))


def attempts() -> int:
    """Attempts to connect that are under way."""
    return sum(
        g.name.endswith("_Race.attempt")
        for m in current().runtime.machines
        for g in list(m.p.goroutines)
    )


async def only_one(listener: net.Listener, conn: net.Conn) -> None:
    """No attempt is left, and the one connection was the only one."""
    await until(lambda: not attempts())
    (await listener.accept()).close()
    conn.close()


def test_the_next_one_after_the_delay(run, monkeypatch, hanging):
    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            answer(monkeypatch, hanging[0], place(listener))
            begin = time.monotonic()
            conn = await net.dial("tcp", NAME, timeout=10)
            assert time.monotonic() - begin >= dialing.DELAY
            assert conn.remote_address == listener.address
            await only_one(listener, conn)

    run(main)


def test_the_next_one_at_once_after_a_failure(run, monkeypatch):
    monkeypatch.setattr(dialing, "DELAY", 60.0)

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            answer(monkeypatch, refusing(), refusing(), place(listener))
            conn = await net.dial("tcp", NAME)
            await only_one(listener, conn)

    run(main)


def test_the_resolvers_order_and_the_families_in_turns():
    four = [(socket.AF_INET, i) for i in range(4)]
    six = [(socket.AF_INET6, i) for i in range(2)]
    turns = dialing._in_turns
    assert turns(six + four) == [six[0], four[0], six[1], four[1], four[2], four[3]]
    assert turns(four + six) == [four[0], six[0], four[1], six[1], four[2], four[3]]
    assert turns(four) == four
    assert turns(six[:1]) == six[:1]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_is_first_if_the_resolver_says_so(run_two, monkeypatch):
    async def main():
        async with (
            await net.listen("tcp", "[::1]:0") as six,
            await net.listen("tcp", "127.0.0.1:0") as four,
        ):
            for places in ((six, four), (four, six)):
                answer(monkeypatch, *map(place, places))
                conn = await net.dial("tcp", NAME)
                assert conn.remote_address == places[0].address
                conn.close()

    run_two(main)


def test_all_fail(run, monkeypatch):
    """What is told is how the first one failed."""

    async def main():
        answer(monkeypatch, refusing(), (socket.AF_INET, ("255.255.255.255", 1)), refusing())
        failure = await raises(
            ConnectionRefusedError, f"dial tcp {NAME}: Connection refused", net.dial("tcp", NAME)
        )
        assert failure.errno == errno.ECONNREFUSED
        await until(lambda: not attempts())

    run(main)


@pytest.mark.parametrize("how", ["timeout", "ctx", "cancel", "group"])
def test_given_up(run, monkeypatch, hanging, how):
    monkeypatch.setattr(dialing, "DELAY", 0.005)

    async def main():
        answer(monkeypatch, *hanging)
        if how == "timeout":
            await raises(
                TimeoutError, f"dial tcp {NAME}: i/o timeout", net.dial("tcp", NAME, timeout=0.05)
            )
        elif how == "ctx":
            with context.with_timeout(context.background(), 0.05) as ctx:
                await raises(TimeoutError, "deadline", net.dial("tcp", NAME, ctx=ctx))
        elif how == "cancel":
            ctx = context.with_cancel(context.background())
            g = go(raises, Canceled, "", net.dial("tcp", NAME, ctx=ctx))
            await until(lambda: attempts() == 3)
            ctx.cancel()
            await g
        else:
            async with Group() as group:
                group.go(net.dial, "tcp", NAME)
                await until(lambda: attempts() == 3)
                group.context.cancel()
        await until(lambda: not attempts())

    run(main)


def test_a_connection_made_while_another_end_is_looked_at_is_not_lost():
    """Who looks for the winner waits for an attempt that is about to become it. (Without the lock
    it was overwritten now and then, which left its fd open and the race without an answer.)"""
    race = dialing._Race(None)
    winner = object()
    found = []
    with race.lock:
        looking = threading.Thread(target=lambda: found.append(race.taken()))
        looking.start()
        looking.join(0.1)
        race.conn = winner
    looking.join()
    assert found == [winner]
    assert race.taken() is None


def test_several_connect_at_the_same_time(run, monkeypatch):
    """One is taken, and nothing of the others is left open. (Seen to leave fds open with no
    look at whether the race is over.)"""
    monkeypatch.setattr(dialing, "DELAY", 0.0)

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            answer(monkeypatch, *[place(listener)] * 6)
            for i in range(30):
                timeout = 10.0 if i % 3 else 1e-4
                try:
                    conn = await net.dial("tcp", NAME, timeout=timeout)
                except TimeoutError:
                    assert timeout < 1
                else:
                    await conn.write(b"x")
                    conn.close()
            await until(lambda: not attempts())
            open_conns = [
                desc
                for m in current().runtime.machines
                for desc in list(m.poller.descs.values())
                if desc is not listener and not desc.closed
            ]
            assert open_conns == []

    run(main)


def test_given_up_when_one_has_just_connected(run, monkeypatch):
    """Nobody takes the connection: it is closed, before or after who dialled has left."""
    connect = dialing._connect
    outer: list[Any] = []
    conns: list[net.Conn] = []
    gate = threading.Event()

    async def connect_and_cancel(family: int, where: Any, _: Any) -> net.Conn:
        conns.append(conn := await connect(family, where, None))
        outer[-1].cancel()
        await until(gate.is_set)
        return conn

    monkeypatch.setattr(dialing, "_connect", connect_and_cancel)

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            answer(monkeypatch, *[place(listener)] * 2)
            for late in (False, True):
                gate.clear() if late else gate.set()
                outer.append(context.with_cancel(context.background()))
                await raises(Canceled, "", net.dial("tcp", NAME, ctx=outer[-1]))
                gate.set()
                await until(lambda: not attempts())
                await until(lambda: all(conn.closed for conn in conns))
            assert len(conns) >= 2

    run(main)


def test_the_end_of_the_run_amid_a_race(run_two, monkeypatch, hanging):
    async def main():
        answer(monkeypatch, *hanging)
        go(net.dial, "tcp", NAME)
        await until(attempts)
        await goroutine.gosched()

    run_two(main)
