"""serve with a limit, and shutdown: waiting for the handlers, and closing under them."""

from __future__ import annotations

import pytest
from net_support import CLOSED, connect, raises
from waiting import until

import goroutine
from goroutine import Canceled, ConnClosed, chan, context, go, net
from goroutine.io import serving
from goroutine.runtime.shared import current

pytestmark = pytest.mark.timeout(30)


def test_no_more_than_the_limit_at_a_time(run):
    async def main():
        running, most = set(), [0]
        ended = chan(50)

        async def handler(conn):
            running.add(conn)
            most[0] = max(most[0], len(running))
            assert len(running) <= 3
            await conn.read(1)
            await goroutine.sleep(0.001)
            running.discard(conn)
            await ended.send(None)

        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            g = go(listener.serve, handler, limit=3)
            clients = [await net.dial("tcp", listener.address) for _ in range(30)]
            for client in clients:
                await client.write(b"x")
            for _ in clients:
                await ended.recv()
            assert most[0] == 3
            for client in clients:
                client.close()
        await g

    run(main)


def test_a_failed_handler_gives_its_place_back(run, caplog):
    async def main():
        async def fails(conn):
            await conn.read()
            raise ValueError("no")

        def is_none(conn):
            return 5

        for handler in (fails, is_none):
            async with await net.listen("tcp", "127.0.0.1:0") as listener:
                g = go(listener.serve, handler, limit=1)
                for _ in range(4):
                    async with await net.dial("tcp", listener.address) as client:
                        try:
                            await client.write(b"x")
                            assert await client.read() == b""
                        except ConnectionError:
                            pass
            assert await listener.shutdown(10)
            await g
            assert not listener._handlers.running

    run(main)


def test_a_handler_may_be_one_of_our_own_operations(run_two):
    """What they give when called can be awaited, and is no Coroutine: as for go()."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            go(listener.serve, lambda conn: conn.write(b"hello"))
            async with await net.dial("tcp", listener.address) as client:
                assert await client.read_exactly(5) == b"hello"
                assert await client.read() == b""

    run_two(main)


@pytest.mark.parametrize("limit", [0, -1])
def test_what_is_no_limit(run_one, limit):
    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            await raises(ValueError, "at least 1", listener.serve(print, limit=limit))

    run_one(main)


def test_shutdown_waits_for_the_handlers(run):
    async def main():
        async def handler(conn):
            assert await conn.read_exactly(2) == b"go"
            await conn.write(b"done")

        listener = await net.listen("tcp", "127.0.0.1:0")
        g = go(listener.serve, handler)
        clients = [await net.dial("tcp", listener.address) for _ in range(5)]
        await until(lambda: len(listener._handlers.running) == 5)
        waiting = [go(listener.shutdown, timeout) for timeout in (None, 60)]
        await g
        await raises(ConnectionRefusedError, "", net.dial("tcp", listener.address))
        for client in clients:
            assert not any(w.done for w in waiting)
            await client.write(b"go")
            assert await client.read_exactly(4) == b"done"
            client.close()
        for w in waiting:
            assert await w is True
        assert await listener.shutdown(0) is True  # at once, when there is nothing to wait for
        assert await listener.shutdown() is True
        await until(lambda: not any(len(m.p.timers) for m in current().runtime.machines))

    run(main)


def test_shutdown_closes_the_connections_in_the_end(run):
    async def main():
        ended = chan(5)

        async def handler(conn):
            try:
                await raises(ConnClosed, CLOSED, conn.read())
            finally:
                await ended.send(None)

        listener = await net.listen("tcp", "127.0.0.1:0")
        g = go(listener.serve, handler)
        clients = [await net.dial("tcp", listener.address) for _ in range(5)]
        await until(lambda: len(listener._handlers.running) == 5)
        assert await listener.shutdown(0.01) is False
        for client in clients:
            await ended.recv()
            assert await client.read() == b""
            client.close()
        await g
        assert await listener.shutdown(10) is True

    run(main)


def test_a_connection_on_its_way_to_its_machine(run_many, monkeypatch):
    """Accepted, and its handler has not begun when shutdown gives up."""
    begin = serving.begin
    late = []
    monkeypatch.setattr("goroutine.io.listener.begin", lambda *args: late.append(args))

    async def main():
        seen = chan(1)

        async def handler(conn):
            await raises(ConnClosed, CLOSED, conn.read())
            await seen.send(None)

        listener = await net.listen("tcp", "127.0.0.1:0")
        g = go(listener.serve, handler)
        with connect(listener):
            await until(lambda: late)
            assert await listener.shutdown(0.01) is False
            (args,) = late
            args[2].post(lambda: begin(*args))
            await seen.recv()
        assert await listener.shutdown(10) is True
        await g

    run_many(main)


def test_shutdown_is_cancelled(run):
    async def main():
        async def handler(conn):
            await conn.read()

        listener = await net.listen("tcp", "127.0.0.1:0")
        go(listener.serve, handler)
        client = await net.dial("tcp", listener.address)
        await until(lambda: listener._handlers.running)
        ctx = context.with_cancel(context.background())
        g = go(raises, Canceled, "", listener.shutdown(60, ctx=ctx))
        await until(lambda: listener._handlers.waiting)
        ctx.cancel()
        await g
        assert not listener._handlers.waiting
        assert not any(len(m.p.timers) for m in current().runtime.machines)
        assert listener._handlers.running  # it goes on
        client.close()
        assert await listener.shutdown(10)

    run(main)
