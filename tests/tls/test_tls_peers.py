"""Against others: openssl's s_client and s_server, and Python's ssl over a blocking socket."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import certificates
import pytest
import tls_support
from net_support import in_thread, raises, read_all
from tls_support import TLS12, TLS13, Meddled, client_context, contexts, over, pem, server_context
from waiting import until

import goroutine
from goroutine import go, net, process, tls

pytestmark = pytest.mark.timeout(30)

BIG = bytes(range(256)) * 4_000  # 1 MB

needs_openssl = pytest.mark.skipif(
    certificates.OPENSSL is None, reason="there is no openssl command here"
)
NAMES = {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}
versions = pytest.mark.parametrize("version", [TLS12, TLS13])


async def echo(conn: tls.Conn) -> None:
    while data := await conn.read():
        await conn.write(data)


# -- openssl's command ---------------------------------------------------------------------------


@asynccontextmanager
async def openssl(*args: Any) -> AsyncIterator[Any]:
    """It runs, and is gone afterwards. What it prints comes on one pipe."""
    child = await process.start(
        [certificates.OPENSSL or "openssl", *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield child
    finally:
        child.kill()
        child._popen.wait()  # (not by a goroutine: the run may be ending)
        await child.wait()
        child.stdin.close()
        child.stdout.close()


async def says(child: Any, *words: bytes) -> bytes:
    """Everything that it prints up to these words, which come in this order."""
    seen = b""
    at = 0
    for word in words:
        while (found := seen.find(word, at)) < 0:
            more = await child.stdout.read(10_000)
            assert more, f"ended before {word!r}: {seen.decode()}"
            seen += more
        at = found + len(word)
    return seen


def option(version: ssl.TLSVersion) -> str:
    return {TLS12: "-tls1_2", TLS13: "-tls1_3"}[version]


@asynccontextmanager
async def s_client(listener: tls.Listener, *args: Any) -> AsyncIterator[Any]:
    trust = ("-CAfile", pem() / "ca.pem", "-verify_return_error", "-verify_hostname", "localhost")
    async with openssl("s_client", "-connect", listener.address, *trust, *args) as child:
        yield child


@asynccontextmanager
async def s_server(*args: Any) -> AsyncIterator[tuple[Any, str]]:
    """The child, and where it listens."""
    mine = ("-cert", pem() / "server.pem", "-key", pem() / "server.key", "-naccept", 1)
    async with openssl("s_server", "-accept", "127.0.0.1:0", *mine, *args) as child:
        seen = await says(child, b"ACCEPT ", b"\n")
        yield child, seen.partition(b"ACCEPT ")[2].split()[0].decode()


@needs_openssl
@versions
def test_s_client(run_two, version):
    ends = []

    async def handler(conn):
        await echo(conn)
        ends.append(conn.connection_state().selected_alpn_protocol)

    async def main():
        server = server_context(clients=True)
        server.set_alpn_protocols(["two"])
        mine = ("-cert", pem() / "client.pem", "-key", pem() / "client.key", "-alpn", "one,two")
        async with await tls.listen("tcp", "127.0.0.1:0", server) as listener:
            go(listener.serve, handler)
            async with s_client(listener, option(version), *mine) as child:
                await says(child, b"ALPN protocol: two", b"Verify return code: 0 (ok)")
                await child.stdin.write(b"hello\n")
                await says(child, b"hello\n")
                child.stdin.close()  # it says close_notify
                assert await child.wait() == 0
            assert await listener.shutdown(10)
        assert ends == ["two"]

    run_two(main)


@needs_openssl
@pytest.mark.parametrize("command", [b"K", b"k"])
def test_key_update(run_two, command):
    """K asks for one of ours, too: it goes before what is written next, though only a read has
    seen the question."""

    async def main():
        async with await tls.listen("tcp", "127.0.0.1:0", contexts()[1]) as listener:
            go(listener.serve, echo)
            async with s_client(listener, "-tls1_3") as child:
                await child.stdin.write(b"before\n")
                await says(child, b"before\n")
                for _ in range(3):
                    await child.stdin.write(command + b"\n")
                    await says(child, b"KEYUPDATE")
                    await child.stdin.write(b"after\n")
                    await says(child, b"after\n")

    run_two(main)


@needs_openssl
@versions
def test_s_server(run_two, version):
    """-rev: sends back every line, reversed; it wants a certificate of ours."""

    async def main():
        wants = ("-CAfile", pem() / "ca.pem", "-Verify", 1, "-verify_return_error")
        async with s_server("-rev", option(version), *wants) as (_, address):
            conn = await tls.dial(
                "tcp", address, client_context("client"), server_hostname="localhost", timeout=10
            )
            async with conn:
                assert (
                    conn.connection_state().version == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
                )
                for line in (b"hello", b"x" * 10_000):
                    await conn.write(line + b"\n")
                    assert await conn.read_exactly(len(line) + 1) == line[::-1] + b"\n"
                await conn.write(b"CLOSE\n")
                assert await conn.read() == b""

    run_two(main)


@needs_openssl
def test_key_update_of_a_server(run_two):
    async def main():
        async with s_server("-tls1_3") as (child, address):
            below = Meddled(await net.dial("tcp", address))
            async with await tls.client(below, contexts()[0], "localhost") as conn:
                for _ in range(2):
                    await child.stdin.write(b"first\n")
                    assert await conn.read_exactly(6) == b"first\n"
                    reader = go(conn.read_exactly, 6)
                    before = below.received
                    await child.stdin.write(b"K\n")
                    await until(lambda before=before: below.received > before)
                    await child.stdin.write(b"after\n")
                    assert await reader == b"after\n"
                    await conn.write(b"answer\n")
                    await says(child, b"answer\n")

    run_two(main)


@needs_openssl
@pytest.mark.parametrize("side", ["client", "server"])
def test_nobody_renegotiates(run_two, side):
    """TLS 1.2 only. The peer is refused, and gives up; and is not left waiting for an answer
    by who only reads."""

    async def handler(conn):
        await raises((OSError, EOFError), "", conn.read_exactly(100))

    async def main():
        if side == "server":
            async with (
                s_server("-tls1_2") as (child, address),
                await tls.dial("tcp", address, contexts()[0]) as conn,
            ):
                reader = go(handler, conn)
                await child.stdin.write(b"R\n")
                await says(child, b"no renegotiation")
                await reader
        else:
            async with await tls.listen("tcp", "127.0.0.1:0", contexts()[1]) as listener:
                go(listener.serve, handler)
                async with s_client(listener, "-tls1_2") as child:
                    await says(child, b"Verify return code")
                    await child.stdin.write(b"R\n")
                    await says(child, b"RENEGOTIATING", b"no renegotiation")
                assert await listener.shutdown(10)

    run_two(main)


# -- Python's ssl --------------------------------------------------------------------------------


def blocking_client(address: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    host, _, port = address.rpartition(":")
    s = socket.create_connection((host, int(port)), timeout=10)
    return context.wrap_socket(s, server_hostname="localhost", suppress_ragged_eofs=False)


@versions
def test_a_blocking_client(run_two, version):
    def client(address):
        with blocking_client(address, client_context(version=version)) as conn:
            conn.sendall(BIG[:100_000])
            got = b""
            while len(got) < 100_000:
                got += conn.recv(65_536)
            below = conn.unwrap()  # close_notify, and waits for the peer's
            assert below.recv(10) == b""
            below.close()
            return got

    async def main():
        async with await tls.listen("tcp", "127.0.0.1:0", server_context()) as listener:
            go(listener.serve, echo)
            assert await in_thread(lambda: client(listener.address)) == BIG[:100_000]
            assert await listener.shutdown(10)

    run_two(main)


@versions
def test_a_blocking_server(run_two, version):
    """That only sends when it has received everything."""

    def serve(listener):
        s, _ = listener.accept()
        s.settimeout(10)
        context = server_context(version=version)
        with context.wrap_socket(s, server_side=True, suppress_ragged_eofs=False) as conn:
            got = b""
            while data := conn.recv(65_536):
                got += data
            conn.sendall(got[::-1])
            conn.unwrap()

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(10)
            address = "{}:{}".format(*listener.getsockname())
            server = go(in_thread, lambda: serve(listener))
            async with await tls.dial("tcp", address, contexts()[0], timeout=10) as conn:
                assert await conn.write(BIG) == len(BIG)
                await conn.close_write()
                assert await read_all(conn) == BIG[::-1]
            await server

    run_two(main)


@pytest.mark.parametrize("rest", [b"x", b""])
def test_a_certificate_that_is_asked_for_later(run_two, rest):
    """Post-handshake authentication: who only reads has to answer. And the two may come in the
    same read as data, which is not held up."""

    def serve(listener):
        s, _ = listener.accept()
        s.settimeout(10)
        context = server_context(clients=True)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.post_handshake_auth = True
        with context.wrap_socket(s, server_side=True) as conn:
            assert conn.getpeercert() is None
            conn.verify_mode = ssl.CERT_REQUIRED
            conn.verify_client_post_handshake()
            conn.sendall(b"you?")
            if rest:
                conn.sendall(rest)
            assert conn.recv(10) == b"me"
            assert ("DNS", "client.test") in conn.getpeercert()["subjectAltName"]
            conn.unwrap()

    async def main():
        client = client_context("client")
        client.post_handshake_auth = True
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(10)
            address = "{}:{}".format(*listener.getsockname())
            server = go(in_thread, lambda: serve(listener))
            async with await tls.dial("tcp", address, client, timeout=10) as conn:
                assert await conn.read_exactly(4 + len(rest)) == b"you?" + rest
                await conn.write(b"me")
                assert await conn.read() == b""
            await server

    run_two(main)


def test_many_blocking_clients(run_two):
    def client(address, n):
        with blocking_client(address, contexts()[0]) as conn:
            for i in range(10):
                word = f"{n} {i}".encode()
                conn.sendall(word)
                assert conn.recv(100) == word
            conn.unwrap().close()

    async def main():
        async with await tls.listen("tcp", "127.0.0.1:0", contexts()[1]) as listener:
            go(listener.serve, echo)
            using = [go(in_thread, lambda n=n: client(listener.address, n)) for n in range(10)]
            for g in using:
                await g
            assert await listener.shutdown(10)

    run_two(main)


# -- the commands of the documentation -----------------------------------------------------------


@needs_openssl
def test_the_certificates_of_the_documentation(tmp_path, monkeypatch):
    """docs/tls.md says how they are made; then both ends take them."""
    text = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
    commands = text.partition("```console\n")[2].partition("```")[0].replace("$ ", "")
    version = subprocess.run([certificates.OPENSSL, "version"], capture_output=True, check=True)
    if version.stdout < b"OpenSSL 3":
        pytest.skip("openssl req -CA came with OpenSSL 3")
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)

    async def main():
        a, b = await over(*net.pipe(), client_context("client"), server_context(clients=True))
        assert b.connection_state().peer_certificate["subject"] == ((("commonName", "client"),),)
        a.close()
        b.close()

    monkeypatch.setattr(tls_support, "pem", lambda: tmp_path)
    goroutine.start(main, machines=1)
