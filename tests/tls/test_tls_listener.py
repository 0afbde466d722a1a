"""Listeners of connections with TLS, and dialling them."""

from __future__ import annotations

import os
import ssl
from typing import Any

import pytest
from net_support import raises, read_all
from tls_support import contexts
from waiting import until

import goroutine
from goroutine import Canceled, ConnClosed, chan, context, go, net, tls
from goroutine.time import now

pytestmark = pytest.mark.timeout(30)


async def dial(listener: tls.Listener, **options: Any) -> tls.Conn:
    return await tls.dial("tcp", listener.address, contexts()[0], **options)


async def listen() -> tls.Listener:
    return await tls.listen("tcp", "127.0.0.1:0", contexts()[1])


def test_accept_waits_for_no_handshake(run):
    """That comes with the first use, of either direction."""

    async def main():
        async with await listen() as listener:
            async with await net.dial("tcp", listener.address):
                silent = await listener.accept()
                assert not silent.connection_state().handshake_complete
                silent.close()
            for first in ("read", "write", "handshake"):
                g = go(dial, listener)
                async with await listener.accept() as peer:
                    if first == "read":
                        reader = go(peer.read)
                    elif first == "write":
                        await peer.write(b"hello")
                    else:
                        await peer.handshake()
                    async with await g as conn:
                        if first == "read":
                            await conn.write(b"hi")
                            assert await reader == b"hi"
                        assert peer.connection_state().handshake_complete

    run(main)


def test_serve_shuts_down(run):
    async def handler(conn):
        assert conn.connection_state().handshake_complete
        await conn.write(await conn.read_exactly(5))

    async def main():
        listener = await listen()
        serving = go(listener.serve, handler)
        conn = await dial(listener)
        ending = go(listener.shutdown, 10)
        await serving
        await raises(ConnectionRefusedError, "dial tcp", dial(listener))
        await conn.write(b"hello")
        assert await read_all(conn) == b"hello"  # its handler's end is the stream's
        assert await ending is True
        conn.close()

    run(main)


def test_shutdown_cuts_off(run_two):
    async def handler(conn):
        await conn.read()

    async def main():
        listener = await listen()
        go(listener.serve, handler)
        async with await dial(listener) as conn, await net.dial("tcp", listener.address) as silent:
            await until(lambda: len(listener._inner._handlers.running) == 2)
            assert await listener.shutdown(0.05) is False
            await raises((ssl.SSLEOFError, ConnectionResetError), "", conn.read())
            assert await silent.read() == b""

    run_two(main)


def test_a_limit_counts_handshakes_too(run_two):
    """Who stalls has a place, until he is thrown out."""
    running = []
    most = []

    async def handler(conn):
        running.append(conn)
        most.append(len(running))
        await conn.write(await conn.read())
        running.remove(conn)

    async def main():
        inner = await net.listen("tcp", "127.0.0.1:0")
        listener = tls.Listener(inner, contexts()[1], handshake_timeout=0.1)
        go(listener.serve, handler, limit=2)
        stalling = await net.dial("tcp", listener.address)

        async def use():
            async with await dial(listener) as conn:
                await conn.write(b"hello")
                assert await conn.read() == b"hello"

        for g in [go(use) for _ in range(6)]:
            await g
        assert max(most) <= 2
        assert await stalling.read() == b""
        stalling.close()
        assert await listener.shutdown(10)
        await raises(ValueError, "limit must be at least 1", listener.serve(handler, limit=0))

    run_two(main)


def test_handlers_that_fail(run_two, caplog):
    """The connection is closed with close_notify; a failure is logged, unless the peer has gone."""

    async def handler(conn):
        word = await conn.read()
        if word == b"raise":
            raise ValueError("no luck")
        await conn.read()

    def no_coroutine(conn):
        return 5

    async def main():
        async with await listen() as listener:
            go(listener.serve, handler)
            async with await dial(listener) as conn:
                await conn.write(b"raise")
                assert await conn.read() == b""
            async with await dial(listener) as conn:
                await conn.write(b"go")
                await conn.net_conn.close_write()
                assert await conn.read() == b""
            assert await listener.shutdown(10)
        (record,) = caplog.records
        assert "no luck" in record.exc_text
        assert "handler failed" in record.getMessage()
        async with await listen() as listener:
            go(listener.serve, no_coroutine)
            async with await dial(listener) as conn:
                assert await conn.read() == b""
            assert await listener.shutdown(10)
        assert "serve() takes an async def handler" in caplog.records[-1].exc_text

    run_two(main)


def test_ways_to_end_accepting(run_two):
    async def main():
        listener = await listen()
        assert "tls.Listener over <Listener" in repr(listener)
        listener.set_deadline(now() - 1)
        await raises(TimeoutError, "i/o timeout", listener.accept())
        listener.set_deadline(None)
        ctx = context.with_timeout(context.background(), 0.01)
        await raises(Canceled, "", listener.accept(ctx=ctx))
        seen = chan(10)

        async def loop():
            async for conn in listener:
                await seen.send(conn)
            seen.close()

        go(loop)
        g = go(dial, listener)
        peer = await seen.recv()
        await peer.handshake()
        async with await g, peer:
            listener.close()
            listener.close()
            assert (await seen.recv_ok())[1] is False
        await raises(ConnClosed, "", listener.accept())

    run_two(main)


def test_a_unix_socket(run_two, tmp_path):
    async def echo(conn):
        await conn.write(await conn.read())

    async def main():
        path = os.fspath(tmp_path / "s")
        async with await tls.listen("unix", path, contexts()[1]) as listener:
            assert listener.address == path
            go(listener.serve, echo)
            await raises(ValueError, "server_hostname", tls.dial("unix", path, contexts()[0]))
            conn = await tls.dial("unix", path, contexts()[0], server_hostname="localhost")
            async with conn:
                await conn.write(b"hello")
                assert await conn.read() == b"hello"
        assert not os.path.exists(path)

    run_two(main)


@pytest.mark.parametrize("how", ["timeout", "ctx"])
def test_dialling_takes_too_long(run_two, how):
    """The name of the address is in the error; no connection is left."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            if how == "timeout":
                step = tls.dial("tcp", listener.address, contexts()[0], timeout=0.02)
                kind, match = TimeoutError, f"dial tcp {listener.address}: i/o timeout"
            else:
                ctx = context.with_timeout(context.background(), 0.02)
                step = tls.dial("tcp", listener.address, contexts()[0], timeout=5, ctx=ctx)
                kind, match = goroutine.DeadlineExceeded, "context deadline exceeded"
            await raises(kind, match, step)
            async with await listener.accept() as peer:
                await peer.read()
                assert await peer.read() == b""

    run_two(main)


def test_dialling_by_name(run_two):
    """The certificate is to be for the host of the address, or for another that is named."""

    async def main():
        async with await listen() as listener:
            go(listener.serve, read_all)
            port = listener.address.rpartition(":")[2]
            for address in (f"localhost:{port}", ("127.0.0.1", int(port)), f":{port}"):
                async with await tls.dial("tcp", address, contexts()[0]) as conn:
                    host = conn.connection_state().server_hostname
                    assert host == ("127.0.0.1" if type(address) is tuple else "localhost")
            await raises(
                ssl.SSLCertVerificationError,
                "mismatch",
                dial(listener, server_hostname="other.test"),
            )

    run_two(main)
