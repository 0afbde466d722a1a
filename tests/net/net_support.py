"""What the tests of connections share: runs with a bound and a look for leaks, and clients."""

from __future__ import annotations

import inspect
import os
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import goroutine
from goroutine import net
from goroutine.net import Conn, Listener
from goroutine.runtime.machine import Machine
from goroutine.runtime.shared import current

IOS = ("io_uring", "epoll")
MACHINES = (1, 2, 4)

BOUND = 15.0  # seconds until a run counts as hung

CLOSED = "use of closed network connection"


def fds() -> dict[str, str]:
    """What is open: fd -> what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one that lists them
    return found


async def _hung() -> None:
    raise AssertionError(f"the run had not ended after {BOUND} s\n{parked()}")


def parked() -> str:
    """Where the goroutines of a hung run are."""
    from goroutine.runtime.scheduler import running

    runtime = running()
    if runtime is None:
        return ""
    homes = [m.p.goroutines for m in runtime.machines] + [runtime.foreign]
    return "\n".join(repr(g) for home in homes for g in list(home))


class Run:
    """Calls ``main`` in a run of its own, which must end in time and leave no fd behind."""

    def __init__(self, io: str, machines: int) -> None:
        self.io, self.machines = io, machines

    def __call__(self, main: Callable[..., Any], *args: Any, bound: float = BOUND) -> Any:
        before, threads = fds(), threading.active_count()
        guard = threading.Timer(bound, self.hang)
        guard.start()
        try:
            result = goroutine.start(main, *args, machines=self.machines, io=self.io)
        finally:
            guard.cancel()
            guard.join()
        assert fds() == before
        assert threading.active_count() == threads
        return result

    @staticmethod
    def hang() -> None:
        try:
            goroutine.go(_hung)
        except RuntimeError:
            pass  # it has just ended


def here() -> Machine:
    return current()


async def elsewhere(call: Callable[[], Any]) -> Any:
    """``call()`` on another machine than the caller's, which is kept busy meanwhile.

    Returns what it returns; the caller then goes on where the call was made. Needs two
    machines at least.
    """
    mine = current()
    assert len(mine.runtime.machines) > 1
    end = time.monotonic() + 10
    while (result := await _somewhere_else(mine, call, end)) is mine:
        assert time.monotonic() < end, "never ran on another machine"
    return result


async def _somewhere_else(mine: Machine, call: Callable[[], Any], end: float) -> Any:
    """One attempt. ``mine``: the wrong one of the two was taken by another machine."""
    done: list[bool] = []

    def hog() -> None:
        while not done and time.monotonic() < end:
            pass

    async def there() -> Any:
        try:
            if current() is mine:
                return mine
            result = call()
        finally:
            done.append(True)  # what waits now may need the other machine
        return await result if inspect.isawaitable(result) else result

    g = goroutine.go(there)
    goroutine.go(hog)
    return await g


async def pair(address: str = "127.0.0.1:0") -> tuple[Conn, Conn]:
    """Two ends of a connection: the one that dialled, the one that was accepted."""
    async with await net.listen("tcp", address) as listener:
        dialled = await net.dial("tcp", listener.address)
        return dialled, await listener.accept()


async def raw_pair(**options: int) -> tuple[socket.socket, Conn]:
    """A blocking socket of the test's and the connection that was accepted from it."""
    async with await net.listen("tcp", "127.0.0.1:0") as listener:
        client = connect(listener, **options)
        return client, await listener.accept()


def connect(listener: Listener, **options: int) -> socket.socket:
    """A blocking client. ``options`` are socket options, by name without SO_."""
    host, _, port = listener.address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    client = socket.socket(family)
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, f"SO_{name}"), value)
    client.settimeout(10)
    client.connect((host.strip("[]"), int(port)))
    return client


def reset(client: socket.socket) -> None:
    """Close it with a RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def is_open(fd: int, inode: int) -> bool:
    """Whether fd is still the socket that had this inode."""
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


def open_until_closed(conn: Any) -> Callable[[], bool]:
    """A condition: the fd that conn has now has been given back."""
    fd, inode = conn.fd, os.fstat(conn.fd).st_ino
    return lambda: not is_open(fd, inode)


def waits_to_write(conn: Conn) -> bool:
    """Whether somebody waits for room in conn's socket."""
    for m in conn.home.runtime.machines:
        for wait in list(m.poller.waits.values()):  # type: ignore[attr-defined]
            for each in wait if isinstance(wait, list) else [wait]:
                if each.fd == conn.fd:
                    return True
    return False


def is_reading(conn: Conn) -> bool:
    """Whether a reader of conn is parked."""
    return bool(conn.parked)


async def read_all(conn: Conn) -> bytes:
    """Everything up to the end of the stream."""
    parts = []
    while data := await conn.read(1 << 16):
        parts.append(data)
    return b"".join(parts)


def receive_all(client: socket.socket) -> bytes:
    parts = []
    while data := client.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


async def in_thread(call: Callable[[], Any]) -> Any:
    """``call()`` on a thread that is no machine, while other goroutines go on."""
    from goroutine.runtime.offload import blocking

    return await blocking(call)


async def raises(kind: Any, match: str, step: Awaitable[Any]) -> Any:
    """``await step`` fails with this."""
    with pytest.raises(kind, match=match or None) as caught:
        await step
    return caught.value
