"""Reading from a connection: sizes, ends, and several who read at once."""

import random
import socket
import threading

import pytest
from net_support import elsewhere, in_thread, is_reading, pair, raises, raw_pair, read_all, reset
from waiting import until

from goroutine import chan, go
from goroutine.io.desc import MOST_CHUNKS


def test_echo_of_random_sizes(run):
    random_ = random.Random(run.machines)
    messages = [
        random_.randbytes(random_.choice((1, 2, 63, 4095, 4096, 4097, 70_000))) for _ in range(60)
    ]

    async def echo(conn):
        async with conn:
            while data := await conn.read(random_.choice((1, 100, 5000, 65536))):
                await conn.write(data)

    async def main():
        client, server = await pair()
        go(echo, server)
        for message in messages:
            await client.write(message)
            assert await client.read_exactly(len(message)) == message
        await client.close_write()
        assert await client.read() == b""
        client.close()

    run(main)


def test_read_gives_what_there_is_and_no_more_than_asked_for(run):
    async def main():
        client, server = await pair()
        await client.write(b"abcdefgh")
        got = b""
        while len(got) < 8:
            part = await server.read(3)
            assert 1 <= len(part) <= 3
            got += part
        assert got == b"abcdefgh"
        await client.write(b"xyz")
        assert await server.read(1) == b"x"
        assert await server.read(0) == b""
        assert await server.read(100) == b"yz"
        client.close()
        server.close()

    run(main)


def test_reading_nothing_does_not_wait(run):
    async def main():
        client, server = await pair()
        assert await server.read(0) == b""
        assert await server.read_exactly(0) == b""
        assert await server.read_into(bytearray()) == 0
        await client.write(b"left alone")
        assert await server.read(0) == b""
        assert await server.read() == b"left alone"
        client.close()
        server.close()

    run(main)


def test_a_negative_number_is_refused_at_once(run):
    async def main():
        client, server = await pair()
        await raises(ValueError, "negative", server.read(-1))
        await raises(ValueError, "negative", server.read_exactly(-1))
        await client.write(b"ab")  # neither has done harm
        await raises(ValueError, "negative", server.read(-5))
        assert await server.read_exactly(2) == b"ab"
        client.close()
        server.close()

    run(main)


def test_end_of_the_stream_comes_after_the_data_and_stays(run):
    async def main():
        client, server = await pair()
        await client.write(b"last words")
        client.close()
        assert await server.read_exactly(10) == b"last words"
        for _ in range(3):
            assert await server.read() == b""
        assert await server.read_exactly(0) == b""
        server.close()

    run(main)


def test_end_of_the_stream_wakes_a_reader(run):
    async def main():
        client, server = await pair()
        reader = go(server.read)
        await until(lambda: is_reading(server))
        client.close()
        assert await reader == b""
        server.close()

    run(main)


def test_read_exactly_at_the_end_of_the_stream(run):
    async def main():
        client, server = await pair()
        await client.write(b"abc")
        await client.close_write()
        failure = await raises(EOFError, "unexpected EOF", server.read_exactly(5))
        assert "2 of 5" in str(failure)
        assert await server.read() == b""
        await raises(EOFError, "unexpected EOF", server.read_exactly(1))
        client.close()
        server.close()

    run(main)


def test_read_exactly_over_many_pieces(run):
    async def main():
        client, server = await raw_pair()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        async def give():
            for i in range(200):
                client.sendall(bytes([i]))
                if i % 7 == 0:
                    await until(lambda: True)

        giver = go(give)
        assert await server.read_exactly(200) == bytes(range(200))
        await giver
        client.close()
        server.close()

    run(main)


def test_read_into(run):
    async def main():
        client, server = await pair()
        buffer = bytearray(b"........")
        await client.write(b"abc")
        assert await server.read_into(buffer) == 3
        assert buffer == b"abc....."
        await client.write(b"0123456789")
        got = await server.read_into(memoryview(buffer)[4:])
        assert got == 4
        assert buffer == b"abc.0123"
        wide = memoryview(bytearray(4)).cast("H")
        assert await server.read_into(wide) == 4
        assert bytes(wide) == b"4567"
        await client.close_write()
        assert await read_all(server) == b"89"
        assert await server.read_into(buffer) == 0
        client.close()
        server.close()

    run(main)


def test_read_into_a_read_only_buffer_takes_nothing(run):
    async def main():
        client, server = await pair()
        await client.write(b"kept")
        await raises(TypeError, "read-only", server.read_into(b"...."))
        assert await server.read() == b"kept"
        client.close()
        server.close()

    run(main)


def test_readers_are_served_one_after_the_other(run):
    """Ten goroutines, records of 1,000 bytes: none is torn, none is lost."""
    records = [bytes([i]) * 1000 for i in range(200)]

    async def main():
        client, server = await pair()
        got = []

        async def reader():
            for _ in range(20):
                got.append(await server.read_exactly(1000))

        readers = [go(reader) for _ in range(10)]
        random_ = random.Random(1)
        stream = b"".join(records)
        while stream:
            n = random_.randrange(1, 3000)
            await client.write(stream[:n])
            stream = stream[n:]
        for g in readers:
            await g
        assert sorted(got) == records
        client.close()
        server.close()

    run(main)


def test_concurrent_reads_give_each_byte_once(run):
    data = random.Random(2).randbytes(100_000)

    async def main():
        client, server = await pair()
        got = []

        async def reader():
            while part := await server.read(777):
                got.append(part)

        readers = [go(reader) for _ in range(5)]
        await client.write(data)
        client.close()
        for g in readers:
            await g
        joined = b"".join(got)
        assert len(joined) == len(data)
        assert sorted(joined) == sorted(data)
        server.close()

    run(main)


def test_closing_ends_all_readers(run):
    async def main():
        client, server = await pair()
        readers = [go(read_until_closed, server) for _ in range(5)]
        await until(lambda: is_reading(server) and server.queues and len(server.queues[0]) == 4)
        server.close()
        for g in readers:
            assert await g == "closed"
        client.close()

    run(main)


async def read_until_closed(conn):
    from goroutine import ConnClosed

    try:
        await conn.read()
    except ConnClosed:
        return "closed"
    return "read"


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_flood_that_nobody_reads_is_held_back(run, size):
    """50 MB (less in small pieces): what lies unread is bounded, and it all arrives."""
    total = {1: 20_000, 100: 2_000_000, 5000: 50_000_000}[size]
    block = random.Random(3).randbytes(1_000_000)
    stream = (block * (total // len(block) + 1))[:total]

    async def main():
        client, server = await raw_pair()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, size < 5000)
        sent = []

        def send():
            view = memoryview(stream)
            step = size if size < 5000 else total
            for i in range(0, total, step):
                client.sendall(view[i : i + step])
            client.close()
            sent.append(True)

        client.settimeout(None)
        sender = threading.Thread(target=send)
        sender.start()
        if not server.home.poller.direct:
            # A pause is asked for here, and holds once its completion has come.
            await until(lambda: sent or (server.paused and not server.armed))
        limit = MOST_CHUNKS + 512  # a machine's buffers may be full when it is asked for
        most = 0
        at, got, turn = 0, 0, 0
        while True:
            most = max(most, len(server.chunks))
            data = await server.read(1 << 16)
            if not data:
                break
            assert stream[at : at + len(data)] == data
            at += len(data)
            turn += 1
            if turn % 97 == 0:
                await until(lambda: True)
            got += len(data)
        assert got == total
        assert most <= limit
        await in_thread(sender.join)
        server.close()

    run(main, bound=40)


def test_a_slow_reader_pauses_and_resumes_again_and_again(run):
    """Stopping and resuming many times loses nothing and leaves the order alone."""
    pieces = 3000

    async def main():
        client, server = await raw_pair()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send():
            for i in range(pieces):
                client.sendall(i.to_bytes(4, "big") * 3)
            client.close()

        sender = threading.Thread(target=send)
        sender.start()
        for i in range(pieces):
            if i % 200 == 0:
                await until(lambda: True)
            assert await server.read_exactly(12) == i.to_bytes(4, "big") * 3
        assert await server.read() == b""
        await in_thread(sender.join)
        server.close()

    run(main)


def test_a_reset_ends_a_blocked_read(run):
    async def main():
        client, server = await raw_pair()
        reader = go(fails_with_reset, server)
        await until(lambda: is_reading(server))
        reset(client)
        assert await reader
        assert await fails_with_reset(server)  # and every later one
        server.close()

    run(main)


async def fails_with_reset(conn):
    try:
        while await conn.read():
            pass
    except ConnectionResetError:
        return True
    return False


def test_a_reset_before_the_first_read(run):
    async def main():
        client, server = await raw_pair()
        client.sendall(b"x" * 100)
        reset(client)
        assert await fails_with_reset(server)
        server.close()

    run(main)


def test_a_reader_that_has_moved_keeps_its_connection(run_many):
    async def main():
        client, server = await pair()
        seen = set()
        for i in range(10):
            reader = go(server.read_exactly, 100_000)
            await until(lambda: is_reading(server))
            await client.write(bytes([i]) * 50_000)
            seen.add(await elsewhere(lambda: server.home.id))
            await client.write(bytes([i]) * 50_000)
            assert await reader == bytes([i]) * 100_000
        client.close()
        server.close()

    run_many(main)


def test_a_connection_is_read_away_from_home(run_many):
    async def main():
        client, server = await pair()
        for i in range(4):
            await client.write(bytes([i]) * 10)
            assert await elsewhere(lambda: server.read_exactly(10)) == bytes([i]) * 10
        client.close()
        server.close()

    run_many(main)


def test_reads_and_channels_in_turn(run):
    async def main():
        client, server = await pair()
        ch = chan()

        async def reader():
            while data := await server.read(10):
                await ch.send(data)
            ch.close()

        go(reader)
        go(client.write, bytes(range(256)))
        got = b""
        while len(got) < 256:
            got += await ch.recv()
        assert got == bytes(range(256))
        client.close()
        server.close()

    run(main)
