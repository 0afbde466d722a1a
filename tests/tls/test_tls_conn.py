"""Connections with TLS: handshake, what was agreed on, both directions, closing, interruptions.

What holds for every connection of a stream is in tests/net/test_stream_conns.py.
"""

from __future__ import annotations

import random
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from net_support import elsewhere, raises, read_all
from tls_support import (
    TLS12,
    TLS13,
    Meddled,
    client_context,
    contexts,
    over,
    pem,
    server_context,
    squeeze,
    tcp_pair,
    tls_pair,
)
from waiting import until

import goroutine
from goroutine import Canceled, ConnClosed, Group, context, go, net, tls
from goroutine.time import now

pytestmark = pytest.mark.timeout(30)

BIG = bytes(range(256)) * 16_000  # 4 MB: more than a socket takes
LATE = "^i/o timeout$"


# -- what is agreed on ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_the_state_of_a_connection(run_one, version):
    async def main():
        server = server_context(version=version)
        server.set_alpn_protocols(["h2", "http/1.1"])
        client = client_context()
        client.set_alpn_protocols(["http/1.1", "spdy"])
        a, b = await tcp_pair()
        early = tls.Conn(a, client, server_hostname="localhost")
        assert early.connection_state() == tls.ConnectionState()
        a, b = await over(a, b, client, server)
        async with a, b:
            x, y = a.connection_state(), b.connection_state()
            assert x.handshake_complete
            assert y.handshake_complete
            assert x.version == y.version == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
            assert x.cipher == y.cipher
            assert "AES" in x.cipher or "CHACHA" in x.cipher
            assert x.selected_alpn_protocol == y.selected_alpn_protocol == "http/1.1"
            assert (x.server_hostname, y.server_hostname) == ("localhost", None)
            assert ("DNS", "localhost") in x.peer_certificate["subjectAltName"]
            der = ssl.PEM_cert_to_DER_cert((pem() / "server.pem").read_text())
            assert x.peer_certificates[0] == der
            assert (y.peer_certificate, y.peer_certificates) == (None, ())
            assert not x.session_reused
            assert a.local_address == b.remote_address
            assert a.remote_address == b.local_address
            assert "tls.Conn over <Conn" in repr(a)
            assert a.net_conn.remote_address == a.remote_address
        assert "closed" in repr(a)

    run_one(main)


def test_mutual_authentication(run_one):
    async def main():
        a, b = await tls_pair(client_context("client"), server_context(clients=True))
        async with a, b:
            found = b.connection_state().peer_certificate
            assert ("DNS", "client.test") in found["subjectAltName"]
            der = ssl.PEM_cert_to_DER_cert((pem() / "client.pem").read_text())
            assert b.connection_state().peer_certificates[0] == der

    run_one(main)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_client_without_the_certificate_that_is_wanted(run_one, version):
    """With TLS 1.3 the client only learns it when it reads."""

    async def main():
        a, b = await tcp_pair()
        server = server_context(clients=True, version=version)
        g = go(raises, ssl.SSLError, "PEER_DID_NOT_RETURN_A_CERT", tls.server(b, server))
        match = "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"
        if version is TLS12:
            await raises(ssl.SSLError, match, tls.client(a, client_context(), "localhost"))
        else:
            async with await tls.client(a, client_context(), "localhost") as conn:
                for _ in range(2):
                    await raises(ssl.SSLError, match, conn.read())
                await raises(ssl.SSLError, match, conn.write(b"x"))
        await g

    run_one(main)


def test_sni_chooses_the_certificate(run_one):
    async def main():
        asked = []

        def choose(made, name, _):
            asked.append(name)
            if name == "other.test":
                made.context = other
            elif name == "nobody.test":
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            return None

        server, other = server_context(), server_context("other")
        server.sni_callback = choose
        for name in ("localhost", "other.test", "127.0.0.1"):
            a, b = await over(*net.pipe(), contexts()[0], server, name)
            async with a, b:
                assert a.connection_state().server_hostname == name
        assert asked == ["localhost", "other.test", None]
        a, b = net.pipe()
        g = go(raises, ssl.SSLError, "", tls.server(b, server))
        await raises(ssl.SSLError, "UNRECOGNIZED_NAME", tls.client(a, contexts()[0], "nobody.test"))
        await g

    run_one(main)


@pytest.mark.parametrize(
    ("certificate", "hostname", "why"),
    [
        ("other", "localhost", "Hostname mismatch"),
        ("server", "127.0.0.2", "IP address mismatch"),
        ("expired", "localhost", "certificate has expired"),
        ("stranger", "localhost", "self-signed certificate"),
    ],
)
def test_a_bad_certificate(run_one, certificate, hostname, why):
    """The client says why; the server is told by an alert."""

    async def main():
        a, b = await tcp_pair()
        g = go(raises, ssl.SSLError, "ALERT", tls.server(b, server_context(certificate)))
        step = tls.client(a, client_context(), hostname)
        failure = await raises(ssl.SSLCertVerificationError, why, step)
        assert why in failure.verify_message
        await g
        await until(lambda: a.gone and b.gone)  # whoever fails closes it

    run_one(main)


def test_no_protocol_in_common(run_one):
    async def main():
        a, b = await tcp_pair()
        server = server_context(version=TLS13)
        g = go(raises, ssl.SSLError, "UNSUPPORTED_PROTOCOL", tls.server(b, server))
        await raises(
            ssl.SSLError,
            "PROTOCOL_VERSION",
            tls.client(a, client_context(version=TLS12), "localhost"),
        )
        await g

    run_one(main)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_session_is_resumed(run_one, version):
    async def main():
        client, server = client_context(), server_context(version=version)
        a, b = await tls_pair(client, server)
        async with a, b:
            await b.write(b"x")
            assert await a.read() == b"x"
            session = a.session
        for reused in (True, False):
            x, y = await tcp_pair()
            g = go(tls.server, y, server)
            conn = await tls.client(x, client, "localhost", session=session if reused else None)
            async with conn, await g as peer:
                assert conn.connection_state().session_reused == reused
                assert peer.connection_state().session_reused == reused
                await conn.write(b"x")
                assert await peer.read() == b"x"

    run_one(main)


def test_what_makes_no_connection(run_one):
    """The connection is closed also then."""

    async def main():
        a, b = await tcp_pair()
        await raises(ValueError, "check_hostname requires server_hostname", tls.client(a))
        await raises(TypeError, "want an ssl.SSLContext, not str", tls.server(b, "context"))
        assert a.closed
        assert b.closed
        await raises(TypeError, "want an ssl.SSLContext", tls.listen("tcp", ":0", None))
        context = contexts()[1]
        await raises(ValueError, "not over 'udp'", tls.listen("udp", ":0", context))
        await raises(ValueError, "not over 'udp'", tls.dial("udp", ":0"))
        await raises(ValueError, "unknown network", tls.dial("http", ":0"))
        a, b = net.pipe()
        await raises(ssl.SSLError, "", tls.client(a, context, "localhost"))  # a server's
        a, b = await tcp_pair()
        await raises((ssl.SSLError, ValueError), "", tls.server(b, contexts()[0]))  # a client's
        assert b.closed
        a.close()

    run_one(main)


def test_the_default_context(run_one, monkeypatch):
    """Trusts whom the system trusts; made once."""
    from goroutine.tls import connecting

    made = []

    trusting, server = contexts()

    def create():
        made.append(trusting)
        return trusting

    async def main():
        async with await tls.listen("tcp", "127.0.0.1:0", server) as listener:
            go(listener.serve, read_all)
            for _ in range(2):
                async with await tls.dial("tcp", listener.address) as conn:
                    assert conn.connection_state().server_hostname == "127.0.0.1"
        assert len(made) == 1

    monkeypatch.setattr(connecting, "_default", None)
    monkeypatch.setattr(ssl, "create_default_context", create)
    run_one(main)


# -- the handshake's time ------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_peer_that_says_nothing(run_two, side):
    async def main():
        a, b = await tcp_pair()
        if side == "client":
            step = tls.client(a, contexts()[0], "localhost", timeout=0.02)
        else:
            step = tls.server(a, contexts()[1], timeout=0.02)
        begin = now()
        failure = await raises(TimeoutError, "tls: handshake timeout", step)
        assert now() - begin >= 0.02
        assert not isinstance(failure, Canceled)
        assert a.closed
        b.close()

    run_two(main)


@pytest.mark.parametrize("how", ["ctx", "timeout of ctx", "group", "closed"])
def test_a_handshake_is_interrupted(run_two, how):
    async def main():
        a, b = await tcp_pair()
        ctx = context.with_cancel(context.background())
        if how == "timeout of ctx":
            ctx = context.with_timeout(ctx, 0.02)
        kind = ConnClosed if how == "closed" else Canceled

        async def shake(ctx=None):
            await raises(kind, "", tls.client(a, contexts()[0], "localhost", timeout=60, ctx=ctx))
            assert a.closed
            if kind is Canceled:
                raise Canceled

        async def parked():
            await until(lambda: a.parked or a.closed)

        if how == "group":
            async with Group() as group:
                group.go(shake)
                await parked()
                group.context.cancel()
        else:
            async with Group() as group:
                group.go(shake, ctx)
                await parked()
                if how == "ctx":
                    ctx.cancel()
                elif how == "closed":
                    a.close()
        b.close()

    run_two(main)


def test_a_handshake_goes_on_after_an_interruption(run):
    """A deadline for reading, and a cancellation: who reads next takes the handshake up."""

    async def main():
        a, b = await tcp_pair()
        conn = tls.Conn(a, contexts()[0], server_hostname="localhost")
        for how in ("deadline", "ctx", "past"):
            ctx = context.with_cancel(context.background())
            if how == "past":
                conn.set_read_deadline(now() - 1)
                await raises(TimeoutError, LATE, conn.read())
                conn.set_read_deadline(None)
                continue
            g = go(raises, TimeoutError if how == "deadline" else Canceled, "", conn.read(ctx=ctx))
            await until(lambda: a.parked)
            if how == "ctx":
                ctx.cancel()
            else:
                conn.set_read_deadline(now())
            await g
            conn.set_read_deadline(None)
        g = go(tls.server, b, contexts()[1])
        reader = go(conn.read)
        async with conn, await g as peer:
            await peer.write(b"hello")
            assert await reader == b"hello"

    run(main)


def test_many_start_the_handshake(run):
    """The first that comes does it, the others wait for it."""

    async def main():
        a, b = await tcp_pair()
        async with (
            tls.Conn(a, contexts()[0], server_hostname="localhost") as conn,
            tls.Conn(b, contexts()[1], server_side=True) as peer,
        ):
            using = [
                *(go(each.handshake) for each in (conn, peer) for _ in range(3)),
                *(go(each.write, b"x" * 10) for each in (conn, peer) for _ in range(3)),
                *(go(each.read_exactly, 10) for each in (conn, peer) for _ in range(3)),
            ]
            for g in using:
                await g

    run(main)


def test_a_failed_handshake_stays_failed(run_two):
    async def main():
        a, b = await tcp_pair()
        async with (
            tls.Conn(a, contexts()[0], server_hostname="other.test") as conn,
            tls.Conn(b, contexts()[1], server_side=True) as peer,
        ):
            g = go(raises, ssl.SSLError, "ALERT", peer.read())
            first = await raises(ssl.SSLCertVerificationError, "mismatch", conn.write(b"x"))
            for step in (conn.read(), conn.write(b"x"), conn.close_write(), conn.handshake()):
                later = await raises(ssl.SSLCertVerificationError, "mismatch", step)
                assert later is not first
                assert later.verify_message == first.verify_message
            await g
            await raises(ssl.SSLError, "ALERT", peer.write(b"x"))

    run_two(main)


# -- both directions -----------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["tcp", "pipe", "tls"])
def test_a_megabyte_both_ways_at_once(run, below):
    """Nobody's reading waits for his writing; over whatever, also TLS in TLS.

    Broken on purpose (an Engine without a lock), it fails within a few runs: bad records, or a
    crash.
    """
    size = 1_000_000
    data = {side: random.Random(side).randbytes(size) for side in (0, 1)}

    async def main():
        a, b = net.pipe() if below == "pipe" else await tcp_pair()
        if below != "pipe":
            squeeze(a, b)
        a, b = await over(a, b)
        if below == "tls":
            a, b = await over(a, b)
        sizes = random.Random(2)

        async def send(conn, side):
            at = 0
            while at < size:
                at += await conn.write(data[side][at : at + sizes.choice((1, 1_000, 200_000))])
            await conn.close_write()

        async with a, b:
            using = [go(send, a, 0), go(send, b, 1), go(read_all, a), go(read_all, b)]
            assert await using[2] == data[1]
            assert await using[3] == data[0]
            for g in using:
                await g

    run(main)


def test_reader_and_writer_on_two_machines(run_two):
    """The read is parked on one machine while the other one writes, and the other way round."""

    async def main():
        async with (pair := await tls_pair())[0] as a, pair[1] as b:
            reader = go(a.read_exactly, 20)
            assert await elsewhere(lambda: a.write(b"from elsewhere")) == 14
            assert await b.read() == b"from elsewhere"
            for _ in range(2):
                assert await elsewhere(lambda: b.write(b"0123456789")) == 10
            assert await reader == b"0123456789" * 2

    run_two(main)


def test_records_of_one_byte(run_one):
    """More than are decrypted at a time; and every read gives as many as there are."""

    async def main():
        async with (pair := await tls_pair())[0] as a, pair[1] as b:
            for i in range(500):
                await a.write(bytes([i % 251]))
            await a.close_write()
            await goroutine.sleep(0.05)
            assert len(await b.read()) > 1
            got = 1
            while data := await b.read(7):
                got += len(data)
            assert got >= 300
        async with (pair := await tls_pair())[0] as a, pair[1] as b:
            data = bytes(i % 251 for i in range(500))
            for byte in data:
                await a.write(bytes([byte]))
            await a.close_write()
            assert await read_all(b) == data

    run_one(main)


def test_a_connection_that_brings_one_byte_at_a_time(run_one):
    async def main():
        a, b = await tcp_pair()
        slow = Meddled(b)
        slow.most = 1
        a, b = await over(a, slow)
        async with a, b:
            g = go(a.write, bytes(2_000) + b"end")
            assert (await b.read_exactly(2_003))[-3:] == b"end"
            await g
            await a.close_write()
            assert await b.read() == b""

    run_one(main)


def test_reads_of_all_sizes(run_one):
    async def main():
        data = random.Random(3).randbytes(300_000)
        async with (pair := await tls_pair())[0] as a, pair[1] as b:
            g = go(a.write, data)
            got = bytearray()
            sizes = random.Random(4)
            while len(got) < len(data):
                n = sizes.choice((1, 2, 100, 16_383, 16_384, 16_385, 100_000))
                part = await b.read(n)
                assert 0 < len(part) <= n
                got += part
            assert got == data
            await g

    run_one(main)


# -- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_half_closed(run, version):
    """Also with data of the peer's that has arrived and is not read yet."""

    async def main():
        a, b = await tls_pair(client_context(), server_context(version=version))
        async with a, b:
            await b.write(b"early, ")
            await b.write(b"still early, ")
            assert await a.read(2) == b"ea"  # the rest of the record is decrypted
            await a.close_write()
            await a.close_write()
            await raises(BrokenPipeError, "after close_write", a.write(b"x"))
            assert await b.read() == b""
            assert await b.read() == b""
            await b.write(b"late")
            g = go(a.read_exactly, 22)
            assert await g == b"rly, still early, late"
            reader = go(a.read)
            await until(lambda: a.net_conn.parked)
            await b.write(b"later")
            assert await reader == b"later"
            await b.close_write()
            assert await a.read() == b""

    run(main)


def test_the_end_without_close_notify(run):
    """Is no end, whoever may have cut the connection off; what came before is given."""

    async def main():
        a, b = await tls_pair()
        async with a, b:
            await a.write(b"hello")
            await a.net_conn.close_write()
            assert await b.read(2) == b"he"
            assert await b.read() == b"llo"
            for _ in range(2):
                await raises(ssl.SSLEOFError, "no close_notify", b.read())
            await raises(ssl.SSLEOFError, "no close_notify", b.read_exactly(1))
            await b.write(b"still there")
            assert await a.read() == b"still there"

    run(main)


def test_the_end_without_close_notify_where_that_is_allowed(run_one):
    async def main():
        server = server_context()
        server.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        a, b = await tls_pair(contexts()[0], server)
        async with a, b:
            await a.net_conn.close_write()
            assert await b.read() == await b.read() == b""

    run_one(main)


@pytest.mark.parametrize("who", ["main", "a goroutine that is closed"])
@pytest.mark.parametrize("machines", [1, 2])
def test_close_says_so_even_if_the_program_ends(machines, io, who):
    """By close(), which waits for nobody. (A goroutine of its own is too late for the second.)"""

    async def main(address):
        conn = await tls.dial("tcp", address, contexts()[0])
        await conn.write(b"hello")
        if who != "main":
            go(hold, conn)
            await until(lambda: conn.net_conn.parked)
        else:
            conn.close()
            conn.close()

    async def hold(conn):
        try:
            await conn.read()
        finally:
            conn.close()

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(10)

        def peer():
            s, _ = listener.accept()
            s.settimeout(10)
            with contexts()[1].wrap_socket(s, server_side=True, suppress_ragged_eofs=False) as conn:
                return conn.recv(100), conn.recv(100)

        seen = pool.submit(peer)
        host, port = listener.getsockname()
        goroutine.start(main, f"{host}:{port}", machines=machines, io=io)
        assert seen.result(10) == (b"hello", b"")


class Stuck(Meddled):
    """Has no room: writes wait until ``room`` is closed."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self.room: goroutine.Chan[None] = goroutine.chan()
        self.stuck = False

    async def write(self, data: bytes, *, ctx: Any = None) -> int:
        if self.stuck:
            await self.room.recv_ok()
        return await super().write(data, ctx=ctx)


def test_leaving_a_block_waits_for_close_notify(run_two):
    """Else it might not be sent any more: the program may end here. Who reads goes at once."""

    async def main():
        a, b = await tcp_pair()
        below = Stuck(a)
        a, b = await over(below, b)
        below.stuck = True
        reader = go(raises, ConnClosed, "use of closed network connection", a.read())
        await until(lambda: below.conn.parked)

        async def leave():
            async with a:
                pass

        g = go(leave)
        await reader
        await b.write(b"what nobody reads")
        await goroutine.sleep(0.02)
        assert not g.done
        assert not below.conn.closed
        await raises(ConnClosed, "", a.write(b"x"))
        below.room.close()
        await g
        assert below.conn.closed
        assert await b.read() == b""
        b.close()

    run_two(main)


def test_close_wakes_a_reader_while_it_says_goodbye(run):
    """Over a pipe, close_notify waits for somebody to read it; who reads here does not."""

    async def main():
        a, b = await over(*net.pipe())
        reader = go(raises, ConnClosed, "use of closed network connection", a.read())
        await until(lambda: a.net_conn._in.reader is not None)
        begin = time.monotonic()
        a.close()
        await reader
        assert time.monotonic() - begin < 4
        assert await b.read() == b""
        b.close()
        await until(lambda: a.net_conn.closed and b.net_conn.closed)

    run(main)


def test_both_ends_of_a_pipe_are_closed(run_two):
    """Neither reads any more, and neither has to wait for its five seconds."""

    async def main():
        a, b = await over(*net.pipe())
        begin = time.monotonic()
        async with a, b:
            pass
        await until(lambda: a.net_conn.closed and b.net_conn.closed)
        assert time.monotonic() - begin < 2

    run_two(main)


def test_closing_before_and_during_the_handshake(run_two):
    async def main():
        a, b = await tcp_pair()
        conn = tls.Conn(a, contexts()[0], server_hostname="localhost")
        users = [
            go(raises, ConnClosed, "", step)
            for step in (conn.read(), conn.write(b"x"), conn.handshake(), conn.close_write())
        ]
        await until(lambda: a.parked)
        conn.close()
        for g in users:
            await g
        for step in (conn.read(), conn.read(0), conn.write(b"x"), conn.handshake()):
            await raises(ConnClosed, "", step)
        b.close()

    run_two(main)


def test_the_connection_below_is_closed(run_two):
    async def main():
        a, b = await tls_pair()
        reader = go(raises, ConnClosed, "", a.read())
        await until(lambda: a.net_conn.parked)
        a.net_conn.close()
        await reader
        await raises(ConnClosed, "", a.write(b"x"))
        await raises(ssl.SSLEOFError, "no close_notify", b.read())
        a.close()
        b.close()

    run_two(main)


def test_a_peer_that_only_writes_and_leaves(run_two):
    """The tickets of TLS 1.3 must not lie unread in its socket when it closes that: the kernel
    would reset the connection, and what it has written could be lost."""

    async def main():
        data = bytes(200_000)
        for _ in range(5):
            a, b = await tls_pair()
            writer = go(a.write, data)
            assert await b.read_exactly(50_000)
            g = go(read_all, b)
            await writer
            a.close()
            assert len(await g) == 150_000
            b.close()

    run_two(main)


# -- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50_000, len(BIG)])  # one piece, or many
@pytest.mark.parametrize("how", ["deadline", "ctx", "group"])
def test_nothing_is_written_after_an_interrupted_write(run_two, how, size):
    """A part of a record is on its way, and no other can follow it. Reading goes on."""

    async def main():
        a, b = await tls_pair()
        squeeze(a.net_conn, b.net_conn)
        ctx = context.with_cancel(context.background())

        async def write_all(ctx):
            while True:
                await a.write(BIG[:size], ctx=ctx)

        async def write(ctx=None):
            await raises(TimeoutError if how == "deadline" else Canceled, "", write_all(ctx))
            if how == "group":
                raise Canceled

        async def full():
            """And it stays full: what the other end's kernel has room for is there."""
            times, last = 0, None
            while last is None or times < 20:
                await goroutine.sleep(0.001)
                blocked = a.net_conn.blocked[True]
                times, last = times + 1 if blocked is last else 0, blocked

        if how == "group":
            async with Group() as group:
                group.go(write)
                await full()
                group.context.cancel()
        else:
            g = go(write, ctx)
            await full()
            if how == "ctx":
                ctx.cancel()
            else:
                a.set_write_deadline(now())
            await g
        a.set_write_deadline(None)
        for _ in range(2):
            await raises(BrokenPipeError, "a write was interrupted", a.write(b"x"))
        await raises(BrokenPipeError, "a write was interrupted", a.close_write())
        await b.write(b"hello")
        assert await a.read() == b"hello"
        a.close()  # without close_notify
        await raises((ssl.SSLEOFError, ConnectionResetError), "", read_all(b))
        b.close()

    run_two(main)


def test_a_write_that_finds_it_is_too_late_has_done_nothing(run_one):
    async def main():
        async with (pair := await tls_pair())[0] as a, pair[1] as b:
            ctx = context.with_cancel(context.background())
            ctx.cancel()
            for _ in range(3):
                a.set_write_deadline(now() - 1)
                await raises(TimeoutError, LATE, a.write(b"x"))
                await raises(TimeoutError, LATE, a.write(b""))
                a.set_write_deadline(None)
                await raises(Canceled, "", a.write(b"x", ctx=ctx))
            await a.write(b"hello")
            assert await b.read() == b"hello"

    run_one(main)


def test_what_is_decrypted_is_kept_over_a_deadline(run_one):
    async def main():
        async with (pair := await tls_pair())[0] as a, pair[1] as b:
            await a.write(b"0123456789")
            assert await b.read(3) == b"012"
            b.set_read_deadline(now() - 1)
            await raises(TimeoutError, LATE, b.read())
            await raises(TimeoutError, LATE, b.read_exactly(2))
            b.set_read_deadline(None)
            g = go(raises, TimeoutError, LATE, b.read_exactly(10))
            await until(lambda: b.net_conn.parked)
            b.set_read_deadline(now())
            await g
            b.set_read_deadline(now() + 60)
            assert await b.read_exactly(3) == b"345"
            assert await b.read() == b"6789"

    run_one(main)


def test_reads_that_are_cancelled_all_the_time_lose_nothing(run):
    async def main():
        data = random.Random(5).randbytes(60_000)
        given_up = [0]

        async def send(conn):
            for at in range(0, len(data), 300):
                await conn.write(data[at : at + 300])
                if at % 6_000 == 0:
                    before = given_up[0]
                    await until(lambda before=before: given_up[0] > before)
            await conn.close_write()

        async with (pair := await tls_pair())[0] as a, pair[1] as b:
            go(send, a)
            got = bytearray()
            while True:
                try:
                    with context.with_timeout(context.background(), 0.0005) as ctx:
                        part = await b.read_exactly(250, ctx=ctx)
                except Canceled:
                    given_up[0] += 1
                    continue
                got += part
                if len(got) == len(data):
                    break
            assert got == data
            assert await b.read() == b""

    run(main)
