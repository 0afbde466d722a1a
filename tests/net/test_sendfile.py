"""sendfile: all of a file, or a part; big ones, deadlines, cancelling, failures."""

from __future__ import annotations

import os

import pytest
from net_support import CLOSED, pair, raises, raw_pair, read_all, receive_all, waits_to_write
from net_support import in_thread as in_a_thread
from waiting import until

from goroutine import Canceled, ConnClosed, context, go
from goroutine.time import now

pytestmark = pytest.mark.timeout(30)

DATA = bytes(range(256)) * 40_000  # 10 MB


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "file"
    found.write_bytes(DATA)
    return found


def test_all_of_it_and_parts(run, path):
    async def main():
        a, b = await pair()

        async def send():
            with open(path, "rb") as file:
                file.read(5)  # doesn't matter
                assert await a.sendfile(file) == len(DATA)
                assert file.tell() == 5
                assert await a.sendfile(file.fileno(), 100, 50) == 50
                assert await a.sendfile(file, len(DATA) - 3, 1000) == 3
                assert await a.sendfile(file, len(DATA)) == 0
                assert await a.sendfile(file, 0, 0) == 0
            await a.close_write()

        g = go(send)
        assert await read_all(b) == DATA + DATA[100:150] + DATA[-3:]
        await g
        a.close()
        b.close()

    run(main)


def test_nothing_is_written_in_between(run, path):
    async def main():
        a, b = await pair()

        async def send(step):
            await step

        with open(path, "rb") as file:
            running = [go(send, a.sendfile(file))]
            await until(lambda: waits_to_write(a))
            running.append(go(send, a.write(b"end")))
            assert await b.read_exactly(len(DATA)) == DATA
            assert await b.read_exactly(3) == b"end"
            for g in running:
                await g
        a.close()
        b.close()

    run(main)


@pytest.mark.parametrize("how", ["deadline", "ctx", "close"])
def test_given_up(run, path, how):
    async def main():
        client, conn = await raw_pair(RCVBUF=65_536)
        with open(path, "rb") as file:
            ctx = context.with_cancel(context.background())
            kind = {"deadline": TimeoutError, "ctx": Canceled, "close": ConnClosed}[how]
            g = go(raises, kind, "", conn.sendfile(file, ctx=ctx))
            await until(lambda: waits_to_write(conn))
            if how == "deadline":
                conn.set_write_deadline(now())
            elif how == "ctx":
                ctx.cancel()
            else:
                conn.close()
            await g
            conn.close()
            await raises(ConnClosed, CLOSED, conn.sendfile(file))
        got = await in_a_thread(lambda: receive_all(client))
        assert 0 < len(got) < len(DATA)
        assert got == DATA[: len(got)]
        client.close()

    run(main)


def test_what_cannot_be_sent(run_one, path):
    async def main():
        a, b = await pair()
        reader, writer = os.pipe()
        with open(path, "rb") as file:
            await raises(ValueError, "negative", a.sendfile(file, -1))
            await raises(ValueError, "negative", a.sendfile(file, 0, -1))
        await raises(OSError, "", a.sendfile(reader))
        await raises(OSError, "Bad file descriptor", a.sendfile(10_000))
        await raises(AttributeError, "fileno", a.sendfile("name"))
        os.close(reader)
        os.close(writer)
        await a.write(b"fine")
        assert await b.read() == b"fine"
        a.close()
        b.close()

    run_one(main)
