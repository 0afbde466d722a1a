"""Closing: idempotent, from anywhere, at any time; an fd is given back once and late enough."""

import gc
import os
import random
import threading
import time

import pytest
from net_support import (
    CLOSED,
    Run,
    elsewhere,
    fds,
    here,
    in_thread,
    is_reading,
    open_until_closed,
    pair,
    raises,
    raw_pair,
    read_all,
    reset,
    waits_to_write,
)
from waiting import until

import goroutine
from goroutine import ConnClosed, go, net
from goroutine.io import conn as conn_module
from goroutine.runtime.shared import current

LONG = bool(os.environ.get("GOROUTINE_STRESS"))


def test_use_after_close(run):
    async def main():
        client, server = await pair()
        local, remote = client.local_address, client.remote_address
        assert (local, remote) == (server.remote_address, server.local_address)
        client.close()
        client.close()
        for step in (
            client.read,
            lambda: client.read(1),
            lambda: client.read_exactly(1),
            lambda: client.read_into(bytearray(1)),
            lambda: client.write(b"x"),
            lambda: client.write(b""),
            lambda: client.writev([b"x"]),
            client.close_write,
        ):
            failure = await raises(ConnClosed, CLOSED, step())
            assert isinstance(failure, OSError)
        assert (client.local_address, client.remote_address) == (local, remote)
        assert await server.read() == b""
        server.close()

    run(main)


def test_what_came_before_close_is_not_read_after_it(run):
    async def main():
        client, server = await pair()
        await client.write(b"unread")
        assert await server.read(1) == b"u"
        server.close()
        await raises(ConnClosed, CLOSED, server.read())
        await raises(ConnClosed, CLOSED, server.read_exactly(5))
        client.close()

    run(main)


async def closed_while(step):
    try:
        await step()
    except ConnClosed as failure:
        return str(failure).endswith(CLOSED)
    return False


def test_close_wakes_a_reader(run):
    async def main():
        client, server = await pair()
        given_back = open_until_closed(server)
        reader = go(closed_while, server.read)
        await until(lambda: is_reading(server))
        server.close()
        assert await reader
        await until(given_back)
        assert await client.read() == b""
        client.close()

    run(main)


def test_close_from_another_machine(run_many):
    async def main():
        for _ in range(5):
            client, server = await pair()
            gone = [open_until_closed(server), open_until_closed(client)]
            reader = go(closed_while, server.read)
            await until(lambda conn=server: is_reading(conn))
            await elsewhere(server.close)
            assert await reader
            client.close()
            for given_back in gone:
                await until(given_back)

    run_many(main)


def test_close_from_a_foreign_thread(run):
    async def main():
        client, server = await pair()
        gone = open_until_closed(server)
        reader = go(closed_while, server.read)
        writer = go(closed_while, lambda: server.write(bytes(64 << 20)))
        await until(lambda: is_reading(server) and waits_to_write(server))
        await in_thread(server.close)
        assert await reader
        assert await writer
        await until(gone)
        client.close()

    run(main)


def test_many_close_at_once(run):
    async def main():
        for _ in range(20):
            client, server = await pair()
            gone = open_until_closed(server)
            readers = [go(closed_while, server.read) for _ in range(3)]
            closers = [go(server.close) for _ in range(6)]
            for g in closers:
                await g
            for g in readers:
                assert await g
            await until(gone)
            client.close()

    run(main)


def test_close_at_every_moment_of_a_conversation(run):
    """One goroutine echoes, another closes at a random time: an end, and a clean one."""

    async def echo(conn):
        try:
            while data := await conn.read():
                await conn.write(data)
        except ConnClosed:
            return "closed"
        return "end"

    async def speak(conn):
        try:
            while True:
                await conn.write(b"x" * 3000)
                await conn.read()
        except ConnClosed:
            return "closed"
        except ConnectionError:
            return "peer"

    async def main():
        random_ = random.Random(9)
        for _ in range(60):
            client, server = await pair()
            gone = open_until_closed(client), open_until_closed(server)
            echoing, speaking = go(echo, server), go(speak, client)
            for _ in range(random_.randrange(6)):
                await goroutine.gosched()
            server.close()
            assert await echoing == "closed"
            client_read = go(client.close)
            assert await speaking in ("closed", "peer")
            await client_read
            for each in gone:
                await until(each)

    run(main)


def test_the_context_manager_closes(run_one):
    async def main():
        client, server = await pair()
        gone = open_until_closed(client)
        with pytest.raises(ZeroDivisionError):
            async with client as same:
                raise ZeroDivisionError(f"{same is client}")
        await until(gone)
        assert await server.read() == b""
        server.close()

    run_one(main)


def test_the_fd_is_given_back_though_the_machines_sleep(run):
    """The last connection, both ends at their end: nothing else happens afterwards."""

    async def main():
        client, server = await pair()
        gone = open_until_closed(client), open_until_closed(server)
        client.close()
        assert await server.read() == b""
        server.close()
        asleep = goroutine.chan()

        def watch():
            # Not a goroutine: nothing must wake the machines.
            end = time.monotonic() + 5
            while not all(each() for each in gone) and time.monotonic() < end:
                time.sleep(0.005)
            asleep_result.append(all(each() for each in gone))
            go(asleep.close)

        asleep_result = []
        thread = threading.Thread(target=watch)
        thread.start()
        await asleep.recv_ok()
        await in_thread(thread.join)
        assert asleep_result == [True]

    run(main)


def test_what_was_written_is_sent_after_close(run):
    data = random.Random(10).randbytes(100_000)

    async def main():
        client, server = await pair()
        assert await client.write(data) == len(data)
        client.close()
        assert await read_all(server) == data
        server.close()

    run(main)


def test_a_peer_that_closed_its_half_is_still_written_to(run):
    async def main():
        client, server = await pair()
        await client.close_write()
        assert await server.read() == b""
        for i in range(50):
            await server.write(bytes([i]) * 100)
            assert await client.read_exactly(100) == bytes([i]) * 100
        server.close()
        assert await client.read() == b""
        client.close()

    run(main)


def test_a_program_may_leave_everything_open(run):
    """Readers, writers, listeners, connections nobody took: all fds are back after the run."""
    kept = []

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        kept.append(listener)
        for _ in range(20):
            client, server = await pair()
            kept.extend((client, server))
            go(server.read)
            go(client.write, bytes(16 << 20))
        kept.append(await net.dial("tcp", listener.address))
        go(listener.accept)
        go(listener.accept)
        for _ in range(10):
            await goroutine.gosched()

    run(main)  # which looks at the fds
    del kept[:]


def test_finally_blocks_close_at_the_end_of_the_run(run_one):
    """More connections than a submission queue has entries, closed while the run ends."""
    closed = []

    async def handler(conn):
        async with conn:
            try:
                await conn.read()
            finally:
                closed.append(conn.fd)

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            conns = []
            for _ in range(1100):
                conns.append(await net.dial("tcp", listener.address))
                server = await listener.accept()
                go(handler, server)
                conns.append(server)
            await until(lambda: all(is_reading(conn) for conn in conns[1::2]))
            for conn in conns[::2]:
                go(handler, conn)
            await until(lambda: all(is_reading(conn) for conn in conns))

    run_one(main, bound=40)
    assert len(closed) == 2200


def test_connections_of_an_earlier_run(run):
    kept = []

    async def first():
        kept.extend(await pair())

    run(first)

    async def second():
        for conn in kept:
            await raises(OSError, "", conn.read())
            conn.close()
        client, server = await pair()  # with the fd numbers of the first ones
        for conn in kept:
            conn.close()
        await client.write(b"mine")
        assert await server.read() == b"mine"
        client.close()
        server.close()

    run(second)


def test_a_reset_while_both_sides_talk(run):
    async def main():
        for i in range(20):
            client, server = await raw_pair(RCVBUF=16384)
            gone = open_until_closed(server)
            writer = go(ends_with_error, lambda conn=server: conn.write(bytes(8 << 20)))
            reader = go(ends_with_error, lambda conn=server: conn.read_exactly(1 << 20))
            if i % 2:
                await until(lambda conn=server: waits_to_write(conn) and is_reading(conn))
            client.sendall(b"x" * 5000)
            reset(client)
            assert await writer in (BrokenPipeError, ConnectionResetError)
            # (The kernel tells of a reset once: if the writer heard, the reader sees an end.)
            assert await reader in (ConnectionResetError, EOFError)
            server.close()
            await until(gone)

    run(main)


async def ends_with_error(step):
    try:
        await step()
    except Exception as failure:
        return type(failure)
    return None


def test_fd_numbers_in_use_again_never_carry_foreign_bytes(run):
    """Connections are closed, armed and read, while others get their fd numbers.

    Each client names itself in every message and gets nothing but its own name back, as long
    as it gets anything; servers close at random times, from the handler, from another
    goroutine and from a thread.
    """
    rounds, clients = (40 if LONG else 6), 40

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        random_ = random.Random(11)

        async def handler(conn):
            name = b""
            left = random_.randrange(1, 12)
            if left < 3:
                go(conn.close)
            try:
                while len(name) < 8:
                    part = await conn.read(8 - len(name))
                    if not part:
                        return
                    name += part
                await conn.write(name)
                while True:
                    left -= 1
                    if not left:
                        conn.close()
                    got = await conn.read_exactly(8)
                    assert got == name, f"{got} of another connection came to {name}"
                    await conn.write(got)
            except (ConnectionError, ConnClosed, EOFError):
                pass

        serving = go(listener.serve, handler)

        async def client(number):
            answers = 0
            for turn in range(rounds):
                name = number.to_bytes(4, "big") + turn.to_bytes(4, "big")
                conn = await net.dial("tcp", listener.address)
                try:
                    for _ in range(10):
                        await conn.write(name)
                        got = await conn.read_exactly(8)
                        assert got == name, f"{got} of another connection came to {name}"
                        answers += 1
                except (ConnectionError, ConnClosed, EOFError):
                    pass
                conn.close()
            return answers

        gs = [go(client, i) for i in range(clients)]
        assert sum([await g for g in gs]) > rounds * clients
        listener.close()
        await serving

    run(main, bound=30)


def test_the_fd_is_not_given_back_before_its_shutdown(run, monkeypatch):
    """A writer that ends between close's first and second step leaves the fd alone."""
    shut = conn_module.shut_down

    async def main():
        client, server = await pair()
        gone = open_until_closed(server)

        def writer_ends(fd):
            if fd == server.fd:
                server.serve_turns()
                seen.append(gone())
            shut(fd)

        seen = []
        monkeypatch.setattr(conn_module, "shut_down", writer_ends)
        server.close()
        assert seen == [False]
        await until(gone)
        client.close()

    run(main)


@pytest.mark.parametrize("machines", [2, 4])
def test_the_fd_is_not_given_back_while_it_is_read(machines, monkeypatch):
    """By epoll readers call read(2), away from home too: its number must be theirs till then."""
    seen = []

    async def main():
        client, server = await pair()
        gone = open_until_closed(server)
        read = os.read

        def slow_read(fd, n):
            if fd == server.fd and not seen:
                assert here() is not server.home
                server.close()
                passed = threading.Event()
                server.home.post(passed.set)  # behind whatever closing has posted
                assert passed.wait(5)
                seen.append(gone())
            return read(fd, n)

        monkeypatch.setattr(os, "read", slow_read)
        await client.write(b"x")
        # (The read may not have had anything to wait for.)
        step = lambda: closed_while(lambda: server.read(1))  # noqa: E731
        while here() is not server.home:
            await elsewhere(lambda: None)
        await elsewhere(step)
        assert seen == [False]
        await until(gone)
        client.close()

    Run("epoll", machines)(main)


def test_a_dropped_connection_object_is_not_lost(run_one):
    """Its reader keeps it; nothing is collected from under a parked goroutine."""

    async def main():
        client, server = await pair()
        reader = go(server.read)
        del server
        for _ in range(3):
            await goroutine.gosched()
            gc.collect()
        await client.write(b"still here")
        assert await reader == b"still here"
        client.close()

    before = fds()
    run_one(main)
    assert fds() == before


def test_the_last_fd_is_given_back_before_the_machine_sleeps(io):
    """Nothing else happens after the close: no timer, no event, one machine that goes to sleep."""
    seen = []

    async def main():
        gate = goroutine.chan()
        client, server = await pair()
        gone = open_until_closed(server)
        client.close()
        assert await server.read() == b""  # the receive has ended: closing cancels nothing

        def look():
            end = time.monotonic() + 10
            while not gone() and time.monotonic() < end:
                time.sleep(0.001)
            seen.append(gone())
            go(gate.send, None)

        threading.Thread(target=look).start()
        m = current()
        m.spins, m.unused_spins = 0.0, -1_000_000  # spinning would look in passing
        server.close()
        await gate.recv()

    goroutine.start(main, machines=1, io=io)
    assert seen == [True]
