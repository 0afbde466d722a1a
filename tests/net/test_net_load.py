"""Many connections: at once, in storms, and more than most programs have.

GOROUTINE_STRESS=1 makes the storms ten times as long.
"""

import os
import resource
import socket
import subprocess
import sys
import textwrap
import threading

import pytest
from net_support import BOUND, connect, fds, in_thread, reset
from waiting import until

import goroutine
from goroutine import go, net

TIMES = 10 if os.environ.get("GOROUTINE_STRESS") else 1


async def echo(conn):
    while data := await conn.read():
        await conn.write(data)


@pytest.mark.parametrize("machines", [1, 2, 4])
@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_2000_connects_at_once(io, machines):
    from net_support import Run

    count = 2000

    async def speak(address, number):
        async with await net.dial("tcp", address) as conn:
            message = number.to_bytes(4, "big") * 8
            await conn.write(message)
            return await conn.read_exactly(32) == message

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, echo)
        gs = [go(speak, listener.address, i) for i in range(count)]
        for g in gs:
            assert await g
        listener.close()
        await serving
        await until(lambda: goroutine.num_goroutine() == 1)

    needs_fds(2 * count + 200)
    Run(io, machines)(main, bound=2 * BOUND)


def needs_fds(n):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n:
        pytest.skip(f"needs {n} file descriptors; RLIMIT_NOFILE is {soft}")


def test_a_storm_of_connections_that_are_dropped(run_two):
    """5,000 come and go: silent, speaking, half-closed, reset. Every fd is given back."""
    count, threads = 5000 * TIMES, 4

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, echo)
        await until(lambda: listener._waiting)
        before = set(fds())

        def storm(first):
            for i in range(first, count, threads):
                client = connect(listener)
                match i % 5:
                    case 0:
                        client.close()
                    case 1:
                        client.sendall(b"hello")
                        client.close()
                    case 2:
                        reset(client)
                    case 3:
                        client.sendall(b"hello")
                        client.shutdown(socket.SHUT_WR)
                        client.close()
                    case 4:
                        client.sendall(b"hello")
                        reset(client)

        storms = [threading.Thread(target=storm, args=[i]) for i in range(threads)]
        for each in storms:
            each.start()
        for each in storms:
            await in_thread(each.join)
        client = connect(listener)
        client.sendall(b"still there")
        assert await in_thread(lambda: client.recv(100)) == b"still there"
        client.close()
        await until(lambda: goroutine.num_goroutine() == 2)
        extra = "eventpoll", "eventfd", "io_uring"
        await until(
            lambda: (
                not [
                    fd
                    for fd, what in fds().items()
                    if fd not in before and not any(word in what for word in extra)
                ]
            )
        )
        listener.close()
        await serving

    run_two(main, bound=30 * TIMES)


CLIENTS = """
    import socket, sys
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    clients = []
    for i in range(count):
        clients.append(socket.create_connection((host, port)))
    print("connected", flush=True)
    sys.stdin.readline()
    for turn in range(2):
        for i, client in enumerate(clients):
            client.sendall(i.to_bytes(4, "big") * 2)
        for i, client in enumerate(clients):
            got = b""
            while len(got) < 8:
                part = client.recv(8 - len(got))
                assert part, f"connection {i} ended"
                got += part
            assert got == i.to_bytes(4, "big") * 2, (i, got)
    print("echoed", flush=True)
"""


@pytest.mark.timeout(60)
def test_10000_connections_at_once(run_two):
    count = 10_000
    needs_fds(count + 200)

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, echo)
        host, _, port = listener.address.rpartition(":")
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLIENTS), host, port, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert await in_thread(child.stdout.readline) == "connected\n"
            await until(lambda: goroutine.num_goroutine() == count + 2)
            child.stdin.write("\n")
            child.stdin.flush()
            assert await in_thread(child.stdout.readline) == "echoed\n"
        finally:
            if child.poll() is None:
                child.stdin.close()
            child.stdout.close()
            child.wait(20)
        await until(lambda: goroutine.num_goroutine() == 2)
        listener.close()
        await serving

    run_two(main, bound=45)
