"""What holds for every connection of a stream: TCP, Unix sockets, pipes in memory, and TLS.

By the ideas of golang.org/x/net/nettest.
"""

from __future__ import annotations

import functools
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from net_support import in_thread, raises, read_all
from tls_support import client_context, over, server_context
from waiting import until

import goroutine
from goroutine import Canceled, ConnClosed, Group, chan, context, go, net, tls
from goroutine.net import PipeConn
from goroutine.runtime.shared import current
from goroutine.time import now

pytestmark = pytest.mark.timeout(30)

KINDS = ["tcp", "unix", "pipe", "tls", "tls over pipe"]
BIG = bytes(range(256)) * 16_000  # 4 MB: more than a socket takes
LATE = "^i/o timeout$"
SHUT = "use of closed network connection|io: read/write on closed pipe"

type Ends = Callable[[], Any]


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest) -> Ends:
    """``async with ends() as (a, b)``: a connection, closed at the end; nothing is left of it."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[tuple[Any, Any]]:
        if request.param.endswith("pipe"):
            a, b = net.pipe()
        else:
            network = request.param.replace("tls", "tcp")
            address = "127.0.0.1:0" if network == "tcp" else ""
            async with await net.listen(network, address) as listener:
                a = await net.dial(network, listener.address)
                b = await listener.accept()
            for conn in (a, b):  # so that a write that nobody reads waits
                with socket.socket(fileno=os.dup(conn.fd)) as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        below = a, b
        if request.param.startswith("tls"):
            a, b = await over(a, b, *contexts())
        try:
            yield a, b
        finally:
            a.close()
            b.close()
        if not request.param.endswith("pipe"):
            await until(lambda: all(conn.gone for conn in below))
        machines = current().runtime.machines
        await until(lambda: not any(len(m.poller.waits) for m in machines))
        if request.param.startswith("tls"):  # which may take leave of the other end for a moment
            await until(lambda: not any(len(m.p.timers) for m in machines))
        assert not any(len(m.p.timers) for m in machines)

    return connected


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return client_context(), server_context()


def waits(conn: Any, writing: bool) -> bool:
    """Whether somebody is parked reading, or writing."""
    if isinstance(conn, tls.Conn):
        return waits(conn.net_conn, writing)
    if isinstance(conn, PipeConn):
        return (conn._out.writer if writing else conn._in.reader) is not None
    if not writing:
        return bool(conn.parked)
    blocked = conn.blocked[True]
    return blocked is not None and blocked.g is not None


async def blocked(a: Any, b: Any, expect: type[Exception], match: str) -> list[Any]:
    """Goroutines that wait to read and to write ``a``, and must fail so."""
    found = [
        go(raises, expect, match, a.read()),
        go(raises, expect, match, a.write(BIG)),
    ]
    await until(lambda: all(g.done or waits(a, i == 1) for i, g in enumerate(found)))
    return found


async def talk(a: Any, b: Any) -> None:
    """All is well between them."""
    for x, y in ((a, b), (b, a)):
        g = go(x.write, b"hello")
        assert await y.read_exactly(5) == b"hello"
        assert await g == 5


# -- bytes ---------------------------------------------------------------------------------------


def test_there_and_back(run, ends):
    """All of it, in order, in pieces of all sizes; and the end of the stream."""
    data = random.Random(7).randbytes(1_000_000)

    async def echo(conn):
        await conn.write(await read_all(conn))
        await conn.close_write()

    async def send(conn):
        sizes = random.Random(8)
        at = 0
        while at < len(data):
            n = sizes.choice((1, 100, 5_000, 100_000))
            at += await conn.write(memoryview(data)[at : at + n])
        await conn.close_write()

    async def main():
        async with ends() as (a, b):
            running = [go(echo, b), go(send, a)]
            got = bytearray()
            while part := await a.read(70_000):
                got += part
            assert got == data
            for g in running:
                await g
            assert await a.read() == await b.read() == b""

    run(main)


def test_ping_pong(run, ends):
    async def pong(conn):
        while data := await conn.read(8):
            await conn.write((int.from_bytes(data) + 1).to_bytes(8))

    async def main():
        async with ends() as (a, b):
            g = go(pong, b)
            n = 0
            for _ in range(200):
                await a.write(n.to_bytes(8))
                n = int.from_bytes(await a.read_exactly(8))
            assert n == 200
            await a.close_write()
            await g

    run(main)


def test_the_ways_to_read_and_write(run, ends):
    async def main():
        async with ends() as (a, b):
            for data in (b"", bytearray(), memoryview(b"")):
                assert await a.write(data) == 0  # nobody needs to read it
            go(a.write, bytearray(b"0123456789"))
            assert await b.read(0) == await b.read_exactly(0) == b""
            assert await b.read(3) == b"012"
            buffer = bytearray(4)
            assert await b.read_into(buffer) == 4
            assert buffer == b"3456"
            assert await b.read_exactly(2) == b"78"
            assert await b.read() == b"9"
            g = go(a.writev, [b"a", bytearray(b"b"), memoryview(b"cd")])
            assert await b.read_exactly(4) == b"abcd"
            assert await g == 4
            for step in (b.read(-1), b.read_exactly(-1)):
                await raises(ValueError, "negative", step)
            await raises(TypeError, "read-only", b.read_into(b"x"))
            await raises(TypeError, "", a.write("text"))
            go(a.write, b"short")
            g = go(raises, EOFError, "5 of 10 bytes missing", b.read_exactly(10))
            await until(lambda: waits(b, False))
            await a.close_write()
            await g
            assert await b.read_into(buffer) == 0
            await raises(BrokenPipeError, "", a.write(b"x"))

    run(main)


def test_writes_are_not_mixed(run, ends):
    size, writers, times = 30_000, 4, 5

    async def send(conn, i):
        for _ in range(times):
            await conn.write(bytes([i]) * size)

    async def main():
        async with ends() as (a, b):
            for i in range(writers):
                go(send, a, i)
            seen = [0] * writers
            for _ in range(writers * times):
                data = await b.read_exactly(size)
                assert data == data[:1] * size
                seen[data[0]] += 1
            assert seen == [times] * writers

    run(main)


# -- deadlines -----------------------------------------------------------------------------------


def test_reads_with_deadlines_race(run, ends):
    """Readers that time out all the time; all that was written arrives, in order."""
    data = random.Random(9).randbytes(50_000)
    late = [0]

    async def send(conn):
        for at in range(0, len(data), 100):
            await conn.write(data[at : at + 100])
            if at % 5_000 == 0:
                before = late[0]
                await until(lambda before=before: late[0] > before)
        await conn.close_write()

    async def main():
        async with ends() as (a, b):
            go(send, a)
            turn = chan(1)  # one reads at a time, so that the order is known
            await turn.send(None)
            got = bytearray()

            async def read():
                while True:
                    await turn.recv()
                    b.set_read_deadline(now() + 0.001)
                    try:
                        part = await b.read(150)
                        got.extend(part)
                    except TimeoutError:
                        late[0] += 1
                        continue
                    finally:
                        await turn.send(None)
                    if not part:
                        return

            for g in [go(read) for _ in range(3)]:
                await g
            assert got == data

    run(main)


def test_writes_with_deadlines_race(run, ends):
    """Writers that time out all the time; afterwards all is well."""

    async def main():
        async with ends() as (a, b):
            if isinstance(a, tls.Conn):
                return  # nothing is written after that: tests/tls

            async def drain():
                try:
                    while await b.read(100_000):
                        await goroutine.sleep(0.001)
                except ConnClosed:
                    pass

            async def send():
                late = 0
                while late < 4:
                    a.set_write_deadline(now() + 0.001)
                    try:
                        await a.write(BIG[:500_000])
                    except TimeoutError:
                        late += 1

            reader = go(drain)
            for g in [go(send) for _ in range(3)]:
                await g
            a.set_deadline(None)
            assert await a.write(b"x") == 1
            await a.close_write()
            await reader

    run(main)


def test_past(run, ends):
    async def main():
        async with ends() as (a, b):
            a.set_deadline(now() - 1)
            for _ in range(3):
                await raises(TimeoutError, LATE, a.read())
                await raises(TimeoutError, LATE, a.read_exactly(2))
                await raises(TimeoutError, LATE, a.write(b"x"))
                await raises(TimeoutError, LATE, a.write(b""))
            g = go(b.write, b"x")
            await raises(TimeoutError, LATE, a.read())
            a.set_deadline(None)
            assert await a.read() == b"x"
            assert await g == 1
            await talk(a, b)

    run(main)


@pytest.mark.parametrize("who", ["goroutine", "thread"])
def test_present(run, ends, who):
    """Set while they wait."""

    async def main():
        async with ends() as (a, b):
            waiting = await blocked(a, b, TimeoutError, LATE)
            when = now()
            if who == "thread":
                await in_thread(lambda: a.set_deadline(when))
            else:
                a.set_deadline(when)
            for g in waiting:
                await g

    run(main)


def test_future(run, ends):
    async def main():
        async with ends() as (a, b):
            begin = now()
            a.set_deadline(begin + 0.03)
            for g in await blocked(a, b, TimeoutError, LATE):
                await g
            assert now() >= begin + 0.03
            a.set_deadline(now() + 60)
            b.set_deadline(now() + 60)
            g = go(b.write, b"x")
            assert await a.read() == b"x"
            await g

    run(main)


def test_only_one_direction(run, ends):
    async def main():
        async with ends() as (a, b):
            a.set_read_deadline(now())
            g = go(a.write, b"out")
            assert await b.read_exactly(3) == b"out"
            assert await g == 3
            await raises(TimeoutError, LATE, a.read())
            a.set_read_deadline(None)
            a.set_write_deadline(now())
            g = go(b.write, b"in")
            assert await a.read() == b"in"
            await g
            await raises(TimeoutError, LATE, a.write(b"x"))
            g = go(a.close_write)  # over a pipe, TLS waits here for who reads what it says
            assert await b.read() == b""
            await g

    run(main)


def test_a_deadline_that_is_lifted_in_time(run, ends):
    async def main():
        async with ends() as (a, b):
            a.set_deadline(now() + 0.02)
            reader = go(a.read)
            writer = go(a.write, BIG)
            await until(lambda: (waits(a, False) and waits(a, True)) or reader.done)
            a.set_deadline(None)
            await goroutine.sleep(0.03)
            assert await b.read_exactly(len(BIG)) == BIG
            assert await writer == len(BIG)
            await b.write(b"x")
            assert await reader == b"x"

    for _ in range(3):  # on a busy machine it may have been late
        try:
            return run(main)
        except (TimeoutError, goroutine.GoroutinePanic):
            continue
    pytest.fail("timed out three times")


def test_what_is_no_deadline(run_one, ends):
    async def main():
        async with ends() as (a, _):
            with pytest.raises(ValueError, match="NaN"):
                a.set_deadline(float("nan"))
            with pytest.raises(TypeError, match="a deadline is a number"):
                a.set_deadline("soon")

    run_one(main)


# -- closing and cancelling ----------------------------------------------------------------------


@pytest.mark.parametrize("who", ["goroutine", "thread"])
def test_closing_what_somebody_waits_for(run, ends, who):
    async def main():
        async with ends() as (a, b):
            waiting = await blocked(a, b, ConnClosed, SHUT)
            if who == "thread":
                await in_thread(a.close)
            else:
                a.close()
                a.close()
            for g in waiting:
                await g
            for step in (a.read(), a.read_exactly(1), a.write(b"x"), a.close_write()):
                await raises(ConnClosed, SHUT, step)
            for set_ in (a.set_deadline, a.set_read_deadline, a.set_write_deadline):
                with pytest.raises(ConnClosed, match=SHUT):
                    set_(now())

    run(main)


def test_the_other_end_is_closed(run, ends):
    async def read(conn):
        try:
            return await conn.read()
        except ConnectionResetError:  # TCP says so if it has been sent data meanwhile
            return b""

    async def main():
        async with ends() as (a, b):
            reader = go(read, a)
            writer = go(raises, (BrokenPipeError, ConnectionResetError), "", a.write(BIG))
            await until(lambda: waits(a, True) and waits(a, False))
            b.close()
            await writer
            assert await reader == b""
        async with ends() as (a, b):
            reader = go(a.read)
            await until(lambda: waits(a, False))
            b.close()
            assert await reader == b""
            assert await a.read() == b""

    run(main)


@pytest.mark.parametrize("how", ["ctx", "deadline", "group"])
def test_cancelling(run, ends, how):
    async def main():
        async with ends() as (a, b):
            if how == "group":
                async with Group() as group:
                    group.go(a.read)
                    group.go(a.write, BIG)
                    await until(lambda: waits(a, True) and waits(a, False))
                    group.context.cancel()
            else:
                ctx = context.with_cancel(context.background())
                if how == "deadline":
                    ctx = context.with_timeout(ctx, 0.02)
                waiting = [
                    go(raises, Canceled, "", a.read(ctx=ctx)),
                    go(raises, Canceled, "", a.write(BIG, ctx=ctx)),
                ]
                await until(lambda: (waits(a, True) and waits(a, False)) or how == "deadline")
                if how == "ctx":
                    ctx.cancel()
                for g in waiting:
                    await g
                await raises(Canceled, "", a.read(ctx=ctx))
                await raises(Canceled, "", a.write(b"x", ctx=ctx))
            g = go(b.write, b"hello")
            assert await a.read_exactly(5) == b"hello"
            await g

    run(main)


def test_a_read_exactly_that_is_given_up_gives_back(run, ends):
    async def main():
        async with ends() as (a, b):
            for how in ("ctx", "deadline"):
                ctx = context.with_cancel(context.background())
                kind: type[Exception] = Canceled if how == "ctx" else TimeoutError
                g = go(raises, kind, "", b.read_exactly(8, ctx=ctx))
                await a.write(b"1234")
                await until(lambda: waits(b, False))
                await goroutine.sleep(0.002)
                if how == "ctx":
                    ctx.cancel()
                else:
                    b.set_read_deadline(now())
                await g
                b.set_read_deadline(None)
                g = go(a.write, b"5678")
                assert await b.read(1) == b"1"
                assert await b.read_exactly(7) == b"2345678"
                await g

    run(main)


def test_all_methods_at_once(run, ends):
    """From many goroutines: nothing hangs, and nothing but the errors that there are."""

    async def main():
        for _ in range(5):
            async with ends() as (a, b):
                methods: list[Callable[[Any], Any]] = [
                    lambda conn: conn.read(1_000),
                    lambda conn: conn.read_exactly(100),
                    lambda conn: conn.write(bytes(1_000)),
                    lambda conn: conn.set_deadline(now() + random.random() * 0.002),
                    lambda conn: conn.set_read_deadline(now() + 0.001),
                    lambda conn: conn.set_write_deadline(now() - 0.001),
                    lambda conn: (conn.local_address, conn.remote_address),
                ]

                async def use(conn, method):
                    for _ in range(15):
                        try:
                            step = method(conn)
                            if isinstance(step, Awaitable):
                                await step
                        except (TimeoutError, ConnClosed, EOFError):
                            pass
                        except BrokenPipeError:
                            assert isinstance(conn, tls.Conn)  # a write had timed out
                        await goroutine.gosched()

                using = [go(use, conn, m) for conn in (a, b) for m in methods for _ in range(2)]
                await goroutine.sleep(0.01)
                for conn in (a, b):
                    conn.set_deadline(now())
                while not all(g.done for g in using):
                    for conn in (a, b):
                        conn.set_deadline(now())
                    await goroutine.sleep(0.001)

    run(main)
