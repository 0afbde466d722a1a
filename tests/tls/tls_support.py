"""What the tests of TLS share: contexts, connected pairs, and connections that are meddled with."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certificates

from goroutine import go, net, tls

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@functools.cache
def pem() -> Path:
    """Where the certificates are."""
    if certificates.OPENSSL is None:
        return certificates.FOLDER
    folder = Path(tempfile.mkdtemp(prefix="goroutine-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        certificates.make(folder)
    except (OSError, subprocess.SubprocessError):  # one that knows other options
        return certificates.FOLDER
    return folder


def server_context(
    name: str = "server", version: ssl.TLSVersion | None = None, clients: bool = False
) -> ssl.SSLContext:
    """With this certificate; ``clients`` must have one, too."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pem() / f"{name}.pem", pem() / f"{name}.key")
    if clients:
        made.load_verify_locations(pem() / "ca.pem")
        made.verify_mode = ssl.CERT_REQUIRED
    return limited(made, version)


def client_context(
    name: str | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """That trusts the tests' CA; with this certificate, if any."""
    made = ssl.create_default_context(cafile=str(pem() / "ca.pem"))
    if name is not None:
        made.load_cert_chain(pem() / f"{name}.pem", pem() / f"{name}.key")
    return limited(made, version)


def limited(context: ssl.SSLContext, version: ssl.TLSVersion | None) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For tests that want nothing special."""
    return client_context(), server_context()


async def over(
    a: Any,
    b: Any,
    client: ssl.SSLContext | None = None,
    server: ssl.SSLContext | None = None,
    hostname: str = "localhost",
) -> tuple[tls.Conn, tls.Conn]:
    """TLS over two ends that are connected: the client's, the server's."""
    accepting = go(tls.server, b, server or contexts()[1], timeout=10)
    return await tls.client(a, client or contexts()[0], hostname, timeout=10), await accepting


async def tcp_pair() -> tuple[net.Conn, net.Conn]:
    async with await net.listen("tcp", "127.0.0.1:0") as listener:
        dialled = await net.dial("tcp", listener.address)
        return dialled, await listener.accept()


async def tls_pair(*made: ssl.SSLContext) -> tuple[tls.Conn, tls.Conn]:
    return await over(*await tcp_pair(), *made)


def squeeze(*conns: Any) -> None:
    """So that they soon wait for who reads."""
    for conn in conns:
        with socket.socket(fileno=os.dup(conn.fd)) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)


class Meddled:
    """A connection whose reader gets what ``change`` makes of it: other bytes, or fewer, from
    now on or ever since; "" is the end. Also, one that is no class of ours."""

    def __init__(self, conn: Any, change: Callable[[bytes], bytes] = bytes) -> None:
        self.conn = conn
        self.change = change
        self.most = 1 << 16  # that a read gives
        self.received = 0

    async def read(self, n: int = 65536, *, ctx: Any = None) -> bytes:
        data = self.change(await self.conn.read(min(n, self.most), ctx=ctx))
        self.received += len(data)
        return data

    async def write(self, data: bytes, *, ctx: Any = None) -> int:
        return await self.conn.write(data, ctx=ctx)

    def close(self) -> None:
        self.conn.close()

    def set_read_deadline(self, when: float | None) -> None:
        self.conn.set_read_deadline(when)

    def set_write_deadline(self, when: float | None) -> None:
        self.conn.set_write_deadline(when)

    @property
    def local_address(self) -> str:
        return str(self.conn.local_address)

    @property
    def remote_address(self) -> str:
        return str(self.conn.remote_address)
