"""Peers, and people between them, who do what they must not."""

from __future__ import annotations

import random
import ssl

import pytest
from net_support import connect, raises, read_all, reset
from tls_support import Meddled, client_context, contexts, over, pem, tcp_pair, tls_pair
from waiting import until

import goroutine
from goroutine import go, net, tls

pytestmark = pytest.mark.timeout(30)


def hello() -> bytes:
    """A ClientHello."""
    out = ssl.MemoryBIO()
    made = client_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        made.do_handshake()
    return out.read()


class Cut(Exception):
    """With what came before it."""


async def read_up_to_the_cut(conn: tls.Conn) -> bytes:
    got = b""
    try:
        while data := await conn.read(4):
            got += data
    except ssl.SSLEOFError:
        raise Cut(got) from None
    return got


# -- what comes is not what was sent -------------------------------------------------------------


@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2])
def test_one_bit_of_a_record(run_one, version):
    """Wherever it is: what is read is nothing. (The length is in bytes 3 and 4: some of what
    follows is waited for then.) If it is known to be wrong the other end is told."""

    async def main():
        for at in (0, 1, 3, 4, 5, 6, 12, 20, 25, -1, -16, -17):
            a, b = await tcp_pair()
            below = Meddled(b)
            a, b = await over(a, below, client_context(version=version))
            await a.write(b"good")
            assert await b.read() == b"good"

            def flip(data: bytes, at: int = at) -> bytes:
                changed = bytearray(data)
                if data:
                    changed[at] ^= 1 << at % 8
                return bytes(changed)

            below.change = flip
            await a.write(b"bad, or so")
            await a.net_conn.close_write()
            first = await raises(ssl.SSLError, "", b.read())
            later = await raises(ssl.SSLError, "", b.read())
            assert str(first) == str(later)
            assert first is not later
            if at not in (3, 4):
                await raises(ssl.SSLError, "ALERT|alert", a.read())
                await raises(ssl.SSLError, "", b.write(b"x"))
            b.close()
            a.close()

    run_one(main)


def test_records_in_another_order(run_one):
    """Lost, repeated, exchanged."""

    async def main():
        for order in ([1], [0, 0], [1, 0], [0, 2]):
            a, b = await tcp_pair()
            a, b = await over(a, b)
            sealed = [a._engine.seal(word) for word in (b"one", b"two", b"six")]
            await a.net_conn.write(b"".join(sealed[i] for i in order))
            if not order[0]:
                assert await b.read() == b"one"
            await raises(ssl.SSLError, "BAD_RECORD_MAC|DECRYPTION_FAILED", b.read())
            await raises(ssl.SSLError, "ALERT", a.read())
            a.close()
            b.close()

    run_one(main)


def test_a_bit_of_the_handshake(run_one):
    """None is done. Where a length was changed, somebody may wait for what never comes."""

    async def main():
        positions = random.Random(6)
        for i in range(24):
            a, b = net.pipe()
            seen = [0]
            # Of what the server says: in its first record, or behind it.
            victim = positions.randrange(5, 110) if i % 2 else positions.randrange(200, 600)

            def flip(data: bytes, victim: int = victim, seen: list[int] = seen) -> bytes:
                begin, seen[0] = seen[0], seen[0] + len(data)
                if not begin <= victim < seen[0]:
                    return data
                changed = bytearray(data)
                changed[victim - begin] ^= 1 << victim % 8
                return bytes(changed)

            g = go(raises, OSError, "", tls.server(b, contexts()[1], timeout=5))
            step = tls.client(Meddled(a, flip), contexts()[0], "localhost", timeout=0.1)
            await raises((ssl.SSLError, TimeoutError), "", step)
            await g

    run_one(main)


def test_a_handshake_that_is_cut_off(run_one):
    async def main():
        for length in (0, 1, 5, 6, 100, 300):
            a, b = await tcp_pair()
            await a.write(hello()[:length])
            await a.close_write()
            await raises(ssl.SSLEOFError, "unexpected EOF", tls.server(b, contexts()[1]))
            await until(lambda b=b: b.gone)
            a.close()
        for length in (0, 1, 100, 300, 600):
            a, b = await tcp_pair()

            def cut(data: bytes, length: int = length) -> bytes:
                return data[:length]

            g = go(raises, (OSError, EOFError), "", tls.server(b, contexts()[1]))
            below = Meddled(a, cut)
            below_read = below.read

            async def once(n=65536, *, ctx=None, below=below, read=below_read):
                return b"" if below.received or below.change(b"x") == b"" else await read(n)

            below.read = once
            step = tls.client(below, contexts()[0], "localhost")
            await raises(ssl.SSLEOFError, "unexpected EOF", step)
            await g

    run_one(main)


def test_every_length_of_what_comes_before_the_cut(run_one):
    """Two records, and close_notify: whoever doesn't get all of it knows."""

    async def main():
        a, b = await tls_pair()
        engine = a._engine
        whole = engine.seal(b"first") + engine.seal(b"second") + engine.farewell()
        a.close()
        b.close()
        for length in range(0, len(whole), 7):
            a, b = await tls_pair()
            engine = a._engine
            out = engine.seal(b"first") + engine.seal(b"second") + engine.farewell()
            assert len(out) == len(whole)
            await a.net_conn.write(out[:length])
            await a.net_conn.close_write()
            cut = await raises(Cut, "", read_up_to_the_cut(b))
            assert b"firstsecond".startswith(cut.args[0])
            a.close()
            b.close()

    run_one(main)


# -- what was never TLS --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_REQUEST"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "WRONG_VERSION_NUMBER|RECORD"),
        (bytes(200), "."),
        (random.Random(11).randbytes(1_000), "."),
        (b"\x16\x03\x01\xff\xff" + bytes(1_000), "."),
    ],
)
def test_garbage_instead_of_a_greeting(run_one, data, why):
    async def main():
        a, b = await tcp_pair()
        await a.write(data)
        await a.close_write()
        await raises(ssl.SSLError, why, tls.server(b, contexts()[1]))
        a.close()

    run_one(main)


def test_a_reset_during_the_handshake(run_two):
    async def main():
        greeting = hello()
        async with await tls.listen("tcp", "127.0.0.1:0", contexts()[1]) as listener:
            for length in (0, 50, len(greeting)):
                client = connect(listener)
                client.sendall(greeting[:length])
                conn = await listener.accept()
                g = go(raises, (ConnectionResetError, BrokenPipeError), "", conn.handshake())
                await until(lambda conn=conn: conn.net_conn.parked)
                reset(client)
                await g
                conn.close()

    run_two(main)


# -- those who stall -----------------------------------------------------------------------------


def test_who_stalls_keeps_nobody_waiting(run_two):
    """Some say nothing, some a part of the greeting: others are served meanwhile."""

    async def echo(conn):
        await conn.write(await conn.read())

    async def main():
        listener = await tls.listen("tcp", "127.0.0.1:0", contexts()[1], handshake_timeout=None)
        go(listener.serve, echo)
        stalling = [connect(listener) for _ in range(6)]
        for client in stalling[:3]:
            client.sendall(hello()[:100])
        for _ in range(3):
            async with await tls.dial("tcp", listener.address, contexts()[0]) as conn:
                await conn.write(b"hello")
                assert await conn.read() == b"hello"
        assert await listener.shutdown(0) is False
        for client in stalling:
            client.close()

    run_two(main)


def test_who_stalls_is_thrown_out(run_two, caplog):
    """Also who sends a byte now and then. And that is logged."""

    async def main():
        listener = await tls.listen("tcp", "127.0.0.1:0", contexts()[1], handshake_timeout=0.05)
        go(listener.serve, read_all)
        clients = [connect(listener) for _ in range(3)]
        clients[0].sendall(hello()[:100])
        slowly = iter(hello())
        while len(caplog.records) < 3:
            try:
                clients[1].sendall(bytes([next(slowly)]))
            except OSError:
                break
            await goroutine.sleep(0.01)
        await until(lambda: len(caplog.records) == 3)
        assert await listener.shutdown(10)
        for record in caplog.records:
            assert "handshake timeout" in record.getMessage() or record.levelname == "DEBUG"
        for client in clients:
            client.close()

    run_two(main)


def test_garbage_is_logged_and_others_are_served(run_two, caplog):
    async def echo(conn):
        await conn.write(await conn.read())

    async def main():
        async with await tls.listen("tcp", "127.0.0.1:0", contexts()[1]) as listener:
            go(listener.serve, echo)
            client = connect(listener)
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: caplog.records)
            client.close()
            g = go(raises, ssl.SSLError, "", _dial_distrusting(listener.address))
            await g
            await until(lambda: len(caplog.records) == 2)
            async with await tls.dial("tcp", listener.address, contexts()[0]) as conn:
                await conn.write(b"hello")
                assert await conn.read() == b"hello"
        first, second = (record.getMessage() for record in caplog.records)
        assert "handshake with 127.0.0.1:" in first
        assert "HTTP_REQUEST" in first
        assert "UNKNOWN_CA" in second
        assert {record.levelname for record in caplog.records} == {"WARNING"}

    run_two(main)


async def _dial_distrusting(address: str) -> None:
    context = ssl.create_default_context(cafile=str(pem() / "stranger.pem"))
    (await tls.dial("tcp", address, context)).close()
