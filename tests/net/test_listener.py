"""Listening: accept, serve, closing, errors, and how connections are spread."""

import errno
import logging
import select
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from net_support import (
    CLOSED,
    connect,
    elsewhere,
    here,
    in_thread,
    open_until_closed,
    raises,
    receive_all,
    reset,
)
from waiting import until

import goroutine
from goroutine import ConnClosed, chan, go, net

ROOT = Path(__file__).parents[2]


async def echo(conn):
    while data := await conn.read():
        await conn.write(data)


def test_accept_in_the_order_of_the_connects(run):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        for _ in range(20):
            client = await net.dial("tcp", listener.address)
            server = await listener.accept()
            assert server.remote_address == client.local_address
            assert server.local_address == client.remote_address == listener.address
            client.close()
            server.close()
        listener.close()

    run(main)


def test_acceptors_each_get_one(run):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        acceptors = [go(listener.accept) for _ in range(40)]
        clients = [await net.dial("tcp", listener.address) for _ in range(40)]
        servers = [await g for g in acceptors]
        assert {conn.remote_address for conn in servers} == {c.local_address for c in clients}
        for conn in clients + servers:
            conn.close()
        listener.close()

    run(main)


def test_acceptors_on_all_machines_at_once(run_many):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        taken = []

        async def accept():
            async for conn in listener:
                taken.append(conn.fd)
                conn.close()

        gs = [go(accept) for _ in range(8)]
        for _ in range(300):
            (await net.dial("tcp", listener.address)).close()
        await until(lambda: len(taken) == 300)
        listener.close()
        for g in gs:
            await g

    run_many(main)


def test_close_wakes_acceptors(run):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        gone = open_until_closed(listener)

        async def accept():
            try:
                await listener.accept()
            except ConnClosed as failure:
                return str(failure).endswith(CLOSED)

        gs = [go(accept) for _ in range(5)]
        await until(lambda: len(listener._waiting) == 5)
        listener.close()
        listener.close()
        for g in gs:
            assert await g
        await raises(ConnClosed, CLOSED, listener.accept())
        await until(gone)

    run(main)


def test_close_from_another_machine_and_from_a_thread(run_many):
    async def main():
        for close in (elsewhere, in_thread):
            listener = await net.listen("tcp", "127.0.0.1:0")
            gone = open_until_closed(listener)
            serving = go(listener.serve, echo)
            await until(lambda listener=listener: listener._waiting)
            await close(listener.close)
            assert await serving is None
            await until(gone)

    run_many(main)


def test_connections_that_nobody_took_are_closed(run):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        clients = [connect(listener) for _ in range(5)]
        await until(lambda: len(listener.chunks) == 5)
        listener.close()
        for client in clients:
            assert await in_thread(lambda client=client: ends(client))
            client.close()

    run(main)


def ends(client):
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("way", ["accept", "serve"])
def test_handed_to_an_acceptor_that_never_ran_again(run_one, way):
    """The run ends between the two: the connection's fd goes with it."""

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        ours, theirs = socket.socketpair()

        async def hand_over():
            try:
                await chan().recv()
            finally:  # while the run ends, the acceptor's turn to be closed comes next
                assert listener._waiting
                with ours:
                    listener.accepted(theirs.detach())  # as the poller does

        go(hand_over)
        await goroutine.gosched()
        go(listener.accept) if way == "accept" else go(listener.serve, echo)
        await until(lambda: listener._waiting)

    run_one(main)  # which looks at the fds


def test_async_for_ends_with_the_listener(run):
    async def main():
        seen = []
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            clients = [await net.dial("tcp", listener.address) for _ in range(3)]
            async for conn in listener:
                seen.append(conn.remote_address)
                conn.close()
                if len(seen) == 3:
                    listener.close()
        assert sorted(seen) == sorted(client.local_address for client in clients)
        for client in clients:
            client.close()

    run(main)


def test_a_listener_that_was_closed_leaves_its_port(run):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        address = listener.address
        client = await net.dial("tcp", address)
        (await listener.accept()).close()
        client.close()
        gone = open_until_closed(listener)
        listener.close()
        await until(gone)
        await raises(ConnectionRefusedError, address, net.dial("tcp", address))
        again = await net.listen("tcp", address)
        assert again.address == address
        again.close()

    run(main)


# -- addresses -------------------------------------------------------------------------------


def test_a_port_in_use(run_one):
    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            failure = await raises(OSError, listener.address, net.listen("tcp", listener.address))
            assert failure.errno == errno.EADDRINUSE
            assert str(failure).endswith(f"listen tcp {listener.address}: Address already in use")

    run_one(main)


@pytest.mark.parametrize("address", ["127.0.0.1:0", ("127.0.0.1", 0), "localhost:0"])
def test_port_0_finds_one(run_one, address):
    async def main():
        async with await net.listen("tcp4", address) as listener:
            host, _, port = listener.address.rpartition(":")
            assert host == "127.0.0.1"
            assert int(port) > 0
            client = connect(listener)
            (await listener.accept()).close()
            client.close()

    run_one(main)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize("network", ["tcp", "tcp6"])
def test_ipv6(run_one, network):
    async def main():
        async with await net.listen(network, "[::1]:0") as listener:
            assert listener.address.startswith("[::1]:")
            client = await net.dial(network, listener.address)
            server = await listener.accept()
            assert client.remote_address == listener.address
            assert server.remote_address == client.local_address
            await client.write(b"six")
            assert await server.read_exactly(3) == b"six"
            client.close()
            server.close()

    run_one(main)


@needs_ipv6
def test_everywhere_is_both_families(run_one):
    async def main():
        async with await net.listen("tcp", ":0") as listener:
            assert listener.address.startswith("[::]:")
            port = listener.address.rpartition(":")[2]
            for host in ("127.0.0.1", "[::1]", ""):
                client = await net.dial("tcp", f"{host}:{port}")
                (await listener.accept()).close()
                client.close()
        async with await net.listen("tcp6", ":0") as listener:
            port = listener.address.rpartition(":")[2]
            await raises(ConnectionRefusedError, "", net.dial("tcp4", f"127.0.0.1:{port}"))

    run_one(main)


def test_everywhere_by_ipv4(run_one):
    async def main():
        async with await net.listen("tcp4", ":0") as listener:
            assert listener.address.startswith("0.0.0.0:")
            port = listener.address.rpartition(":")[2]
            client = await net.dial("tcp", ("", int(port)))
            (await listener.accept()).close()
            client.close()

    run_one(main)


# -- serve -----------------------------------------------------------------------------------


def test_a_failing_handler_closes_its_connection_alone(run, caplog):
    async def handler(conn):
        data = await conn.read()
        if data == b"fail":
            raise LookupError("of this handler")
        await conn.write(data)
        await echo(conn)

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, handler)
        fine, bad = [await net.dial("tcp", listener.address) for _ in range(2)]
        await fine.write(b"one")
        assert await fine.read_exactly(3) == b"one"
        await bad.write(b"fail")
        assert await bad.read() == b""
        await fine.write(b"two")
        assert await fine.read_exactly(3) == b"two"
        later = await net.dial("tcp", listener.address)
        await later.write(b"three")
        assert await later.read_exactly(5) == b"three"
        listener.close()
        await serving
        await later.write(b"four")  # handlers go on
        assert await later.read_exactly(4) == b"four"
        for conn in (fine, bad, later):
            conn.close()

    with caplog.at_level(logging.INFO, "goroutine"):
        run(main)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "its connection is closed" in record.getMessage()
    assert "handler" in record.getMessage()
    assert "of this handler" in caplog.text


def test_a_peer_that_breaks_off_is_no_failure(run, caplog):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, echo)
        for _ in range(5):
            client = connect(listener)
            client.sendall(b"x")
            assert await in_thread(lambda client=client: client.recv(1)) == b"x"
            reset(client)
        listener.close()
        await serving
        await until(lambda: goroutine.num_goroutine() == 1)

    with caplog.at_level(logging.INFO, "goroutine"):
        run(main)
    assert caplog.records == []


def not_async(conn):
    return None


async def wrong_arguments():
    pass


@pytest.mark.parametrize("handler", [not_async, wrong_arguments, 5], ids=str)
def test_what_is_no_handler_is_logged(run_two, caplog, handler):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, handler)
        for _ in range(3):
            client = connect(listener)
            assert await in_thread(lambda client=client: ends(client))
            client.close()
        listener.close()
        await serving

    run_two(main)
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 3


def test_goexit_and_return_close_the_connection(run_two):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        ended = chan(10)

        async def handler(conn):
            data = await conn.read(1)
            await ended.send(conn)
            if data == b"g":
                goroutine.goexit()

        serving = go(listener.serve, handler)
        for letter in (b"g", b"r"):
            client = await net.dial("tcp", listener.address)
            await client.write(letter)
            assert await client.read() == b""
            conn = await ended.recv()
            await until(lambda conn=conn: conn.closed)
            client.close()
        listener.close()
        await serving

    if not hasattr(goroutine, "goexit"):
        pytest.skip("goexit does not exist yet")
    run_two(main)


def test_a_reset_between_connect_and_accept(run):
    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        for i in range(10):
            client = connect(listener)
            if i % 2:
                client.sendall(b"x")
            reset(client)
        good = connect(listener)
        address = "{}:{}".format(*good.getsockname())
        ends_seen = 0
        async for conn in listener:
            try:
                if conn.remote_address == address:
                    conn.close()
                    break
            except OSError:
                pass  # it is not connected any more
            try:
                while await conn.read():
                    pass
            except ConnectionError:
                ends_seen += 1
            conn.close()
        assert ends_seen <= 10
        listener.close()
        good.close()

    run(main)


def test_handlers_are_spread_over_the_machines(run_many):
    """Clients that stay: every machine gets its share."""

    async def main():
        count = 40
        at = {}
        listener = await net.listen("tcp", "127.0.0.1:0")

        async def handler(conn):
            at[conn.remote_address] = conn.home.id
            await echo(conn)

        serving = go(listener.serve, handler)
        clients = [await in_thread(lambda: connect(listener)) for _ in range(count)]
        for client in clients:
            client.sendall(b"x")
            assert await in_thread(lambda client=client: client.recv(1)) == b"x"
        per_machine = [list(at.values()).count(m) for m in range(run_many.machines)]
        assert sum(per_machine) == count
        assert min(per_machine) >= 1, per_machine
        listener.close()
        await serving
        for client in clients:
            client.close()
        assert here() is not None

    run_many(main)


CHILD = """
    import logging, resource, sys, threading, time
    import goroutine
    from goroutine import go, net

    logging.basicConfig(format="LOG %(message)s", level=logging.DEBUG)

    async def echo(conn):
        while data := await conn.read():
            await conn.write(data)

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        low = listener.fd + 16
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        print(listener.address, flush=True)

        def control():
            for line in sys.stdin:
                if line == "cpu\\n":
                    print(time.process_time(), flush=True)
            go(listener.close)

        threading.Thread(target=control).start()
        await listener.serve(echo)

    goroutine.start(main, machines=int(sys.argv[2]), io=sys.argv[1])
"""


@pytest.mark.timeout(40)
def test_out_of_file_descriptors(run_two):
    """Accepting waits, says so and uses no processor time; then it goes on."""
    child = subprocess.Popen(
        [sys.executable, "-X", "gil=0", "-c", textwrap.dedent(CHILD), run_two.io, "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        host, _, port = child.stdout.readline().strip().rpartition(":")
        clients = [socket.create_connection((host, int(port)), 10) for _ in range(30)]
        for client in clients:
            client.sendall(b"x")
        served = []
        while len(served) < 5:
            served += answered([c for c in clients if c not in served], 0.2)
        assert len(served) < 25
        line = child.stderr.readline()
        assert line.startswith("LOG accept on 127.0.0.1:")
        assert "Too many open files; again in 0.005 s" in line
        while "again in 0.16 s" not in (line := child.stderr.readline()):
            assert "Too many open files" in line
        before = processor_time(child)
        while "again in 0.64 s" not in (line := child.stderr.readline()):
            assert "Too many open files" in line
        assert processor_time(child) - before < 0.25  # of the 0.48 s that went by
        waiting = [client for client in clients if client not in served]
        while waiting:  # each batch that closes makes room for the next
            for client in served:
                client.close()
            served = []
            while not served:
                served = answered(waiting, 0.1)
            waiting = [client for client in waiting if client not in served]
        for client in served:
            client.close()
        _, errors = child.communicate(timeout=10)
        assert child.returncode == 0, errors
        assert "Traceback" not in errors
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def answered(clients, seconds):
    """Those that have an answer, or get one before all of them have waited for so long."""
    ready, _, _ = select.select(clients, [], [], seconds)
    return [client for client in ready if client.recv(1) == b"x"]


def processor_time(child):
    child.stdin.write("cpu\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def test_listen_needs_a_goroutine():
    with pytest.raises(RuntimeError, match="goroutine"):
        net.listen("tcp", "127.0.0.1:0").send(None)


def test_the_end_of_a_stream_reaches_many(run_two):
    """Everything that came in is answered before the end is."""

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        serving = go(listener.serve, echo)
        clients = [connect(listener) for _ in range(20)]
        for i, client in enumerate(clients):
            client.sendall(bytes([i]) * 10_000)
            client.shutdown(socket.SHUT_WR)
        for i, client in enumerate(clients):
            got = await in_thread(lambda client=client: receive_all(client))
            assert got == bytes([i]) * 10_000
            client.close()
        listener.close()
        await serving

    run_two(main)
