"""Unix sockets: addresses, and the file that a listener makes and removes."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from net_support import CLOSED, in_thread, open_until_closed, raises, read_all
from waiting import until

import goroutine
from goroutine import ConnClosed, chan, context, go, net
from goroutine.time import now

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def path(tmp_path):
    """A path that is short enough for a socket."""
    old = os.getcwd()
    os.chdir(tmp_path)
    yield "s"
    os.chdir(old)


def test_there_and_back(run, path):
    async def main():
        async with await net.listen("unix", path) as listener:
            assert listener.address == path
            client = await net.dial("unix", path, timeout=10)
            server = await listener.accept()
            assert client.remote_address == server.local_address == path
            assert client.local_address == server.remote_address == "@"
            data = bytes(range(256)) * 8_000
            g = go(client.write, data)
            assert await server.read_exactly(len(data)) == data
            await g
            await client.close_write()
            assert await server.read() == b""
            await server.write(b"bye")
            server.close()
            assert await read_all(client) == b"bye"
            client.close()
        assert not os.path.exists(path)

    run(main)


def test_abstract_names(run):
    async def main():
        name = f"@goroutine-{os.getpid()}"
        async with await net.listen("unix", name) as listener:
            assert listener.address == name
            client = await net.dial("unix", name)
            server = await listener.accept()
            assert client.remote_address == server.local_address == name
            failure = await raises(OSError, name, net.listen("unix", name))
            assert failure.errno == errno.EADDRINUSE
            client.close()
            server.close()
        async with await net.listen("unix", "") as listener:  # the kernel finds one
            assert listener.address.startswith("@")
            client = await net.dial("unix", listener.address)
            client.close()

    run(main)


def test_who_waits_to_accept_is_woken_by_closing(run, path):
    async def main():
        listener = await net.listen("unix", path)
        acceptors = [go(raises, ConnClosed, CLOSED, listener.accept()) for _ in range(3)]
        await until(lambda: len(listener._waiting) == 3)
        given_back = open_until_closed(listener)
        listener.close()
        for g in acceptors:
            await g
        await until(given_back)
        async with await net.listen("unix", path):  # at once
            pass

    run(main)


def test_serve(run, path):
    async def echo(conn):
        while data := await conn.read():
            await conn.write(data)

    async def client(results):
        async with await net.dial("unix", path) as conn:
            await conn.write(b"hello")
            await results.send(await conn.read_exactly(5))

    async def main():
        results = chan(100)
        async with await net.listen("unix", path) as listener:
            go(listener.serve, echo)
            for _ in range(100):
                go(client, results)
            for _ in range(100):
                assert await results.recv() == b"hello"

    run(main)


def test_the_path_exists(run_one, path):
    async def main():
        Path(path).write_text("not a socket")
        failure = await raises(OSError, f"listen unix {path}: ", net.listen("unix", path))
        assert failure.errno == errno.EADDRINUSE
        failure = await raises(
            ConnectionRefusedError, f"dial unix {path}: ", net.dial("unix", path)
        )
        assert Path(path).read_text() == "not a socket"
        os.unlink(path)
        await raises(FileNotFoundError, f"dial unix {path}: ", net.dial("unix", path))
        await raises(FileNotFoundError, "listen unix a/b: ", net.listen("unix", Path("a/b")))

    run_one(main)


def test_a_path_that_nobody_listens_on_any_more(run_one, path):
    async def main():
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
        await raises(ConnectionRefusedError, f"dial unix {path}: ", net.dial("unix", path))
        failure = await raises(OSError, f"listen unix {path}: ", net.listen("unix", path))
        assert failure.errno == errno.EADDRINUSE

    run_one(main)


def test_only_its_own_file_is_removed(run_one, path, tmp_path):
    async def main():
        first = await net.listen("unix", path)
        os.rename(path, "moved")
        async with await net.listen("unix", path) as second:
            first.close()
            assert os.path.exists(path)
            assert os.path.exists("moved")
            client = await net.dial("unix", path)
            (await second.accept()).close()
            client.close()
            os.chdir("/")  # a relative path is that of the directory of that time
        assert os.listdir(tmp_path) == ["moved"]

    run_one(main)


@pytest.mark.parametrize("end", ["return", "panic"])
@pytest.mark.parametrize("io", ["io_uring", "epoll"])
@pytest.mark.parametrize("network", ["unix", "unixgram"])
def test_the_end_of_the_run_removes_it(network, io, end, tmp_path):
    code = f"""
        import os, goroutine
        from goroutine import net

        async def main():
            await net.listen({network!r}, "s")
            assert os.path.exists("s")
            if {end!r} == "panic":
                raise ValueError("no")

        goroutine.start(main, io={io!r}, machines=2)
    """
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "-W", "error", "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == (end == "panic"), done.stderr
    assert "ResourceWarning" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", [net.dial, net.listen])
@pytest.mark.parametrize("network", ["unix", "unixgram"])
def test_what_is_no_path(run_one, call, network):
    async def main():
        await raises(ValueError, "null character", call(network, "a\0b"))
        for address in (None, 5, ("127.0.0.1", 80), b"s"):
            await raises(TypeError, "an address is a str", call(network, address))
        failure = await raises(OSError, "more than 107 bytes", call(network, "x" * 108))
        assert failure.errno == errno.EINVAL
        await raises(ValueError, "unknown network 'unixpacket'", call("unixpacket", "s"))

    run_one(main)


def test_the_longest_path(run_one, path):
    async def main():
        async with await net.listen("unix", "x" * 107) as listener:
            client = await net.dial("unix", listener.address)
            (await listener.accept()).close()
            client.close()

    run_one(main)


def test_a_full_queue_of_connections(run_two, path):
    """Where the kernel says EAGAIN and nobody when that is over."""

    async def main():
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen(1)
            got = chan(20)

            async def dial():
                conn = await net.dial("unix", path)
                await got.send(conn)

            dialling = [go(dial) for _ in range(8)]
            await goroutine.sleep(0.05)
            assert not all(g.done for g in dialling)
            ctx = context.with_timeout(context.background(), 0.02)
            await raises(TimeoutError, "deadline", net.dial("unix", path, ctx=ctx))
            await raises(TimeoutError, "i/o timeout", net.dial("unix", path, timeout=0.02))
            accepted = [(await in_thread(s.accept))[0] for _ in range(8)]
            for peer in accepted:
                conn = await got.recv()
                conn.close()
                peer.close()

    run_two(main)


def test_deadline_of_a_listener(run, path):
    async def main():
        async with await net.listen("unix", path) as listener:
            listener.set_deadline(now() + 0.01)
            await raises(TimeoutError, "i/o timeout", listener.accept())

    run(main)
