"""Writing to a connection: what it takes, back-pressure, and several who write at once."""

import random
import threading

import pytest
from net_support import (
    CLOSED,
    elsewhere,
    in_thread,
    open_until_closed,
    pair,
    raises,
    raw_pair,
    read_all,
    receive_all,
    reset,
    waits_to_write,
)
from waiting import until

import goroutine
from goroutine import ConnClosed, go

MB = 1 << 20


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"view"),
        memoryview(b"wide view, 16b").cast("H"),
        memoryview(bytearray(range(24))).cast("B", (4, 6)),
        b"",
    ],
    ids=["bytes", "bytearray", "view", "wide", "two-dimensional", "empty"],
)
def test_what_can_be_written(run_one, data):
    plain = bytes(data)

    async def main():
        client, server = await pair()
        assert await client.write(data) == len(plain)
        assert await client.write(memoryview(data)) == len(plain)
        await client.close_write()
        assert await read_all(server) == plain * 2
        client.close()
        server.close()

    run_one(main)


@pytest.mark.parametrize("data", ["text", None, 5, [1], memoryview(b"abcdef")[::2]])
def test_what_cannot_be_written(run_one, data):
    async def main():
        client, server = await pair()
        await raises(TypeError, "", client.write(data))
        await raises(TypeError, "", client.writev([b"x", data]))
        await client.write(b"fine")
        await client.close_write()
        assert await read_all(server) == b"fine"
        client.close()
        server.close()

    run_one(main)


def test_writev_joins_its_buffers(run):
    parts = [b"a", bytearray(b"bc"), memoryview(b"def"), b"", memoryview(b"ghij").cast("H")]

    async def main():
        client, server = await pair()
        assert await client.writev(parts) == 10
        assert await client.writev([]) == 0
        assert await client.writev(part for part in (b"k", b"l")) == 2
        await client.close_write()
        assert await read_all(server) == b"abcdefghijkl"
        client.close()
        server.close()

    run(main)


def test_single_bytes_arrive_in_order(run):
    data = random.Random(4).randbytes(2000)

    async def main():
        client, server = await pair()

        async def give():
            for i in range(len(data)):
                assert await client.write(data[i : i + 1]) == 1
            client.close()

        go(give)
        assert await read_all(server) == data
        server.close()

    run(main)


def test_a_big_write_waits_for_its_reader(run):
    data = random.Random(5).randbytes(8 * MB)

    async def main():
        client, server = await raw_pair(RCVBUF=16384)
        writer = go(server.write, data)
        await until(lambda: waits_to_write(server))
        assert not writer.done
        got = await in_thread(lambda: receive_exactly(client, len(data)))
        assert await writer == len(data)
        assert got == data
        client.close()
        server.close()

    run(main)


def receive_exactly(client, n):
    parts = []
    while n:
        parts.append(client.recv(min(n, 1 << 16)))
        assert parts[-1], "the stream ended early"
        n -= len(parts[-1])
    return b"".join(parts)


def test_big_messages_of_several_writers_are_not_mixed(run):
    size, rounds, writers = MB, 3, 4

    async def main():
        client, server = await raw_pair(RCVBUF=16384)

        async def write(letter):
            for _ in range(rounds):
                assert await server.write(letter * size) == size

        gs = [go(write, bytes([65 + i])) for i in range(writers)]
        await until(lambda: waits_to_write(server))
        got = await in_thread(lambda: receive_exactly(client, size * rounds * writers))
        for g in gs:
            await g
        messages = [got[i : i + size] for i in range(0, len(got), size)]
        assert all(len(set(message)) == 1 for message in messages)
        assert sorted(message[:1] for message in messages) == sorted(
            bytes([65 + i]) for i in range(writers) for _ in range(rounds)
        )
        client.close()
        server.close()

    run(main)


def test_small_messages_of_several_writers_are_not_mixed(run):
    async def main():
        client, server = await pair()

        async def write(letter):
            for _ in range(100):
                await server.write(letter * 50)

        gs = [go(write, bytes([65 + i])) for i in range(8)]
        for _ in range(800):
            assert len(set(await client.read_exactly(50))) == 1
        for g in gs:
            await g
        client.close()
        server.close()

    run(main)


def test_reads_go_on_while_a_write_waits(run):
    async def main():
        client, server = await raw_pair(RCVBUF=16384)
        writer = go(server.write, bytes(8 * MB))
        await until(lambda: waits_to_write(server))
        for i in range(20):
            client.sendall(bytes([i]))
            assert await server.read_exactly(1) == bytes([i])
        assert not writer.done
        await in_thread(lambda: receive_exactly(client, 8 * MB))
        assert await writer == 8 * MB
        client.close()
        server.close()

    run(main)


def test_both_ends_write_much_at_once(run):
    data = random.Random(6).randbytes(3 * MB)

    async def main():
        client, server = await pair()
        gs = [go(client.write, data), go(server.write, data)]
        readers = [go(server.read_exactly, len(data)), go(client.read_exactly, len(data))]
        for g in readers:
            assert await g == data
        for g in gs:
            assert await g == len(data)
        client.close()
        server.close()

    run(main)


def test_a_write_that_another_machine_goes_on_with(run_many):
    """The writer waits on one machine, and goes on while that one computes."""
    data = random.Random(7).randbytes(4 * MB)

    async def main():
        client, server = await raw_pair(RCVBUF=16384)
        first = await elsewhere(lambda: start_write(server, data))
        got = await in_thread(lambda: receive_exactly(client, len(data)))
        assert await first == len(data)
        assert got == data
        client.close()
        server.close()

    run_many(main)


async def start_write(conn, data):
    return go(conn.write, data)


def test_a_reset_ends_a_blocked_write(run):
    async def main():
        client, server = await raw_pair(RCVBUF=16384)
        writer = go(fails_with_gone, server, bytes(8 * MB))
        await until(lambda: waits_to_write(server))
        reset(client)
        assert await writer
        assert await fails_with_gone(server, b"more")
        server.close()

    run(main)


async def fails_with_gone(conn, data):
    try:
        await conn.write(data)
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def test_writes_after_a_reset_fail(run):
    async def main():
        client, server = await raw_pair()
        reset(client)

        async def write():
            while not await fails_with_gone(server, b"x" * 100):
                pass

        await write()
        server.close()

    run(main)


def test_half_close(run):
    async def main():
        client, server = await pair()
        await client.write(b"question")
        await client.close_write()
        assert await read_all(server) == b"question"
        await raises(BrokenPipeError, "", client.write(b"too late"))
        await server.write(b"answer")  # the other way is open
        assert await client.read() == b"answer"
        await server.close_write()
        assert await client.read() == b""
        client.close()
        server.close()

    run(main)


def test_close_write_waits_for_the_write_before_it(run):
    data = random.Random(8).randbytes(4 * MB)

    async def main():
        client, server = await raw_pair(RCVBUF=16384)
        writer = go(server.write, data)
        await until(lambda: waits_to_write(server))
        closer = go(server.close_write)
        got = await in_thread(lambda: receive_all(client))
        assert await writer == len(data)
        await closer
        assert got == data
        client.close()
        server.close()

    run(main)


def test_close_ends_a_blocked_write_and_those_behind_it(run):
    async def main():
        client, server = await raw_pair(RCVBUF=16384)
        given_back = open_until_closed(server)
        writers = [go(write_until_closed, server, bytes(8 * MB)) for _ in range(4)]
        await until(lambda: waits_to_write(server) and server.queues and len(server.queues[1]) == 3)
        server.close()
        for g in writers:
            assert await g
        await until(given_back)
        client.close()

    run(main)


async def write_until_closed(conn, data):
    try:
        while True:
            await conn.write(data)
    except ConnClosed as failure:
        return str(failure).endswith(CLOSED)


def test_closed_when_the_next_writer_has_been_given_its_turn(run_one):
    """It holds the right to write and hasn't run yet: the fd is given back all the same."""

    async def main():
        client, server = await raw_pair(RCVBUF=16384)
        given_back = open_until_closed(server)

        async def first():
            await server.write(bytes(4 * MB))
            server.close()  # the second writer is runnable and has not run

        one = go(first)
        await until(lambda: waits_to_write(server))
        two = go(write_until_closed, server, b"second")
        await until(lambda: server.queues and server.queues[1])
        receiver = threading.Thread(target=receive_all, args=[client])
        receiver.start()
        await one
        assert await two
        await until(given_back)
        await in_thread(receiver.join)
        client.close()

    run_one(main)


def test_a_write_that_meets_close_says_closed(run_many):
    """Whatever instant close comes at, a writer here never hears that the peer broke off."""

    async def main():
        for _ in range(60):
            client, server = await pair()
            gs = [go(write_until_closed, server, b"x" * 1000) for _ in range(3)]
            reader = go(drop, client)
            await goroutine.gosched()
            await in_thread(server.close)
            for g in gs:
                assert await g
            await reader
            client.close()

    run_many(main)


async def drop(conn):
    try:
        while await conn.read():
            pass
    except ConnectionError:
        pass
