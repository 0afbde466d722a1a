"""Peers that break off at every step, that never read, or send a byte now and then."""

import errno
import os
import resource
import socket
import tempfile
import threading
import time

import pytest
from net_support import connect, in_thread, is_reading, raises, reset, waits_to_write
from waiting import until

import goroutine
from goroutine import go, net

GONE = (ConnectionResetError, BrokenPipeError)


async def echo(conn):
    while data := await conn.read():
        await conn.write(data)


async def reads(conn):
    while await conn.read():
        pass


async def writes(conn):
    while True:
        await conn.write(bytes(1 << 16))


async def both(conn):
    g = go(ends, reads, conn)
    try:
        await writes(conn)
    finally:
        await g


async def sends_a_file(conn):
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 26)
        await conn.sendfile(file)


async def has_closed_its_half(conn):
    await conn.close_write()
    await reads(conn)


async def ends(step, conn):
    """Whether it ended as it may when the peer is gone."""
    try:
        await step(conn)
    except GONE:
        return "gone"
    return "end"


# What the server does when the RST comes, and how one sees that it is at it.
STEPS = {
    "reading": (reads, is_reading),
    "writing": (writes, waits_to_write),
    "reading and writing": (both, lambda conn: is_reading(conn) and waits_to_write(conn)),
    "sending a file": (sends_a_file, waits_to_write),
    "half closed": (has_closed_its_half, is_reading),
}


@pytest.mark.parametrize("step", STEPS)
def test_reset_while(run, step):
    """The server learns of it at once, whatever it is doing, and nothing stays."""
    serves, at_it = STEPS[step]

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            for unread in (b"", b"unread by the one who resets"):
                client = connect(listener)
                conn = await listener.accept()
                if unread and step == "half closed":
                    await conn.write(unread)
                g = go(ends, serves, conn)
                await until(lambda conn=conn: at_it(conn))
                began = time.monotonic()
                reset(client)
                assert await g == "gone"
                assert time.monotonic() - began < 2
                for operation in (conn.read, lambda conn=conn: conn.write(b"x")):
                    assert await ends(lambda _, o=operation: o(), conn) in ("gone", "end")
                conn.close()

    run(main)


def test_reset_before_it_is_accepted(run):
    """In the kernel's queue, in ours, with and without data; accepting goes on."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            for i in range(12):
                client = connect(listener)
                if i % 2:
                    client.sendall(b"x")
                if i % 3:
                    # Until it has been accepted, so that it lies in our queue.
                    await until(lambda: listener.chunks)
                reset(client)
                conn = await listener.accept()
                outcome = await ends(reads, conn)
                assert outcome == "gone"
                assert await ends(writes, conn) == "gone"
                conn.close()
            conn = await net.dial("tcp", listener.address)
            async with conn, await listener.accept() as peer:
                await conn.write(b"fine")
                assert await peer.read() == b"fine"

    run(main)


def test_reset_while_dialling(run):
    """The listener closes with connections in its queue: those who dialled are told."""

    async def main():
        for _ in range(5):
            listener = socket.create_server(("127.0.0.1", 0), backlog=50)
            address = "{}:{}".format(*listener.getsockname())
            conns = [await net.dial("tcp", address) for _ in range(10)]
            gs = [go(ends, reads, conn) for conn in conns]
            listener.close()
            for conn, g in zip(conns, gs, strict=True):
                assert await g == "gone"
                conn.close()
            await raises(ConnectionRefusedError, "dial tcp", net.dial("tcp", address))

    run(main)


def test_resets_in_the_middle_of_traffic(run):
    """At any moment of many conversations; those that are not reset hear nothing of it."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            serving = go(listener.serve, echo)
            over = []

            def resetter(seed):
                n = 0
                while not over:
                    client = connect(listener)
                    try:
                        client.sendall(b"x" * (1 + (seed * 7919 + n * 104729) % 30_000))
                        if n % 3:
                            client.recv(1 + n % 500)
                    except ConnectionError:
                        pass
                    reset(client)
                    n += 1

            threads = [threading.Thread(target=resetter, args=(i,)) for i in range(3)]
            for thread in threads:
                thread.start()

            async def talk(number):
                async with await net.dial("tcp", listener.address) as conn:
                    for i in range(60):
                        data = b"%d.%d|" % (number, i) * 200
                        await conn.write(data)
                        assert await conn.read_exactly(len(data)) == data

            try:
                for g in [go(talk, i) for i in range(10)]:
                    await g
            finally:
                over.append(True)
                for thread in threads:
                    await in_thread(thread.join)
            await until(lambda: goroutine.num_goroutine() == 2)
        await serving

    run(main)


# -- slow ones ----------------------------------------------------------------------------------


def memory():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def test_peers_that_never_read(run):
    """The deadline ends the writes; what each of them holds meanwhile is bounded."""
    count, size = 50, 1 << 22

    async def main():
        block = bytes(size)
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            clients = [connect(listener, RCVBUF=4096) for _ in range(count)]
            conns = [await listener.accept() for _ in clients]
            before = memory()

            async def write(conn):
                conn.set_write_deadline(goroutine.time.now() + 0.3)
                await raises(TimeoutError, "i/o timeout", conn.write(block))
                return time.monotonic()

            began = time.monotonic()
            gs = [go(write, conn) for conn in conns]
            pairs = list(zip(gs, conns, strict=True))
            await until(lambda: all(g.done or waits_to_write(conn) for g, conn in pairs))
            # 200 MiB are to be written, of one object: nobody makes a copy.
            assert memory() - before < 40 << 20
            for g in gs:
                assert 0.3 <= await g - began < 3
            for conn in conns:
                await raises(TimeoutError, "i/o timeout", conn.write(b"x"))
                conn.close()
            for client in clients:
                client.close()

    run(main)


def test_peers_that_send_and_never_read_answers(run):
    """An echo server that is flooded and not read: it stops reading, and memory is bounded."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            go(listener.serve, echo)
            clients = [connect(listener) for _ in range(4)]
            before = memory()
            for client in clients:
                client.setblocking(False)
            sent = [0] * len(clients)
            quiet = 0
            while quiet < 10:
                quiet += 1
                for i, client in enumerate(clients):
                    try:
                        sent[i] += client.send(bytes(1 << 18))
                        quiet = 0
                    except BlockingIOError:
                        pass
                await goroutine.sleep(0.005)
            assert memory() - before < 40 << 20
            for client, n in zip(clients, sent, strict=True):
                client.setblocking(True)

                def take(client=client, n=n):
                    while n > 0:
                        n -= len(client.recv(1 << 20))
                    return n

                assert await in_thread(take) == 0  # all of it comes back
                client.close()

    run(main)


def test_peers_that_send_a_byte_now_and_then(run):
    """A deadline for the whole request ends it, however often a byte comes; a later read has
    the bytes that came."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            clients = [connect(listener) for _ in range(20)]
            conns = [await listener.accept() for _ in clients]
            over = []

            def drip():
                while not over:
                    for client in clients:
                        client.sendall(b"x")
                    time.sleep(0.02)

            async def read(conn):
                conn.set_read_deadline(goroutine.time.now() + 0.25)
                await raises(TimeoutError, "i/o timeout", conn.read_exactly(1000))
                at = time.monotonic()
                conn.set_read_deadline(None)
                assert len(await conn.read_exactly(5)) == 5
                return at

            thread = threading.Thread(target=drip)
            thread.start()
            try:
                began = time.monotonic()
                for g in [go(read, conn) for conn in conns]:
                    assert 0.24 <= await g - began < 3
            finally:
                over.append(True)
                await in_thread(thread.join)
            for end in (*clients, *conns):
                end.close()

    run(main)


# -- many of them -------------------------------------------------------------------------------

DROPPED = 20_000 if os.environ.get("GOROUTINE_STRESS") else 2000


@pytest.mark.timeout(120)
def test_connections_opened_and_dropped(run):
    """Thousands (20,000 with GOROUTINE_STRESS=1), by dialling here: in bounded time, and fds,
    goroutines and memory are what they were."""
    seconds = DROPPED / 200

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            serving = go(listener.serve, echo)

            async def drop(n):
                for i in range(n):
                    conn = await net.dial("tcp", listener.address)
                    if i % 2:
                        await conn.write(b"hello")
                    if i % 4 == 3:
                        assert await conn.read() == b"hello"
                    conn.close()

            async def storm(n):
                for g in [go(drop, n // 20) for _ in range(20)]:
                    await g
                await until(lambda: goroutine.num_goroutine() == 2)
                await until(lambda: is_open() <= open_before)
                return memory()

            def is_open():
                return len(os.listdir("/proc/self/fd"))

            began = time.monotonic()
            open_before = is_open() + 4  # (those of sysmon, made when a machine is late)
            before = await storm(DROPPED // 3)
            after = await storm(DROPPED - DROPPED // 3)
            assert time.monotonic() - began < seconds
            assert after - before < 8 << 20
        await serving

    run(main, bound=seconds + 10)


def test_closing_and_dialling_at_once(run):
    """Fd numbers in use again while completions of the old fd are under way: in a loop, with
    data in flight both ways, nobody gets what is not his."""

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:

            async def serve(conn):
                try:
                    name = await conn.read_exactly(8)
                    for _ in range(40):
                        await conn.write(name * 100)
                    await reads(conn)
                except GONE:
                    pass

            go(listener.serve, serve)
            used = set()

            async def hop(worker):
                for i in range(60):
                    name = b"%02d.%05d" % (worker, i)
                    conn = await net.dial("tcp", listener.address)
                    used.add(conn.fd)
                    await conn.write(name)
                    at = 0
                    for _ in range(i % 4):
                        if at == 32_000:
                            break  # that was all
                        data = await conn.read()
                        text = name * (len(data) // 8 + 2)
                        assert data == text[at % 8 : at % 8 + len(data)], (name, data[:40])
                        at += len(data)
                    conn.close()

            for g in [go(hop, i) for i in range(6)]:
                await g
            assert len(used) < 200  # numbers were used again
            await until(lambda: goroutine.num_goroutine() == 2)

    run(main)


def test_every_way_a_connection_can_fail_is_an_oserror():
    """So that ``except OSError`` is enough for whoever writes a server."""
    from goroutine import ConnClosed

    assert issubclass(ConnClosed, OSError)
    assert all(issubclass(kind, OSError) for kind in (*GONE, TimeoutError))
    assert ConnClosed(errno.EBADF, "x").errno == errno.EBADF
