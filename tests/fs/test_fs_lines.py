"""Lines: what they are, what has been read ahead, several goroutines that share them."""

import io
import os
import threading

import pytest
from fs_support import Run, fifo, make, raises, waiters
from waiting import until

import goroutine
from goroutine import fs
from goroutine.fs import lines

pytestmark = pytest.mark.timeout(30)

TEXTS = [
    b"",
    b"\n",
    b"no newline",
    b"one\n",
    b"one\ntwo",
    b"\n\n\n",
    b"carriage\r\nreturn\rand\x0bothers\x85\n\xff\n",
    b"long" * 50_000 + b"\nshort\n" + b"x" * 65_535 + b"\n" + b"y" * 65_536 + b"\nend",
    b"".join(b"%d\n" % n for n in range(30_000)),
]


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_lines_are_those_of_python(run_one: Run, tmp_path, number):
    text = TEXTS[number]
    path = make(tmp_path, text)

    async def main():
        async with fs.open(path) as f:
            assert [line async for line in f] == list(io.BytesIO(text))
            assert f.tell() == len(text)
            assert await f.readline() == b""
        async with fs.open(path) as f:
            found = []
            while line := await f.readline():
                found.append(line)
                if len(found) % 997 < 5:
                    assert f.tell() == sum(map(len, found))
            assert found == list(io.BytesIO(text))

    run_one(main)


def test_what_was_read_ahead_is_not_lost(run_one: Run, tmp_path):
    path = make(tmp_path, b"one\ntwo\nthree\nfour\n")

    async def main():
        async with fs.open(path, "r+") as f:
            async for line in f:
                assert line == b"one\n"
                break
            assert f.tell() == 4
            assert await f.read(2) == b"tw"
            assert await f.readline() == b"o\n"
            assert await f.write(b"THREE") == 5
            assert await f.readline() == b"\n"
            assert f.tell() == 14
            await f.seek(0)
            assert await f.readline() == b"one\n"
            await f.pwrite(b"T", 4)  # into what was read ahead
            assert await f.readline() == b"Two\n"
            await f.truncate(11)
            assert [line async for line in f] == [b"THR"]

    run_one(main)


def test_a_file_that_grows(run_two: Run, tmp_path):
    path = make(tmp_path, b"one\n")

    async def main():
        async with fs.open(path) as f, fs.open(path, "a") as log:
            assert [line async for line in f] == [b"one\n"]
            await log.write(b"two\nthr")
            assert [line async for line in f] == [b"two\n", b"thr"]
            await log.write(b"ee\n")
            assert await f.readline() == b"ee\n"

    run_two(main)


def test_iterating_a_file_that_is_closed(run_one: Run, tmp_path):
    path = make(tmp_path, b"one\ntwo\nthree\n")

    async def main():
        async with fs.open(path) as f:
            it = aiter(f)
            assert await anext(it) == b"one\n"
        await raises(ValueError, "closed file", anext(it))
        with pytest.raises(ValueError, match="closed file"):
            aiter(f)
        await raises(ValueError, "closed file", f.readline())

    run_one(main)


def test_every_line_is_somebodys_once(run: Run, tmp_path):
    """Several goroutines take lines, others take bytes: together they have the file."""
    text = [b"%d\n" % n for n in range(10_000)]
    path = make(tmp_path, b"".join(text))
    had: list[bytes] = []

    async def main():
        async with fs.open(path) as f:

            async def take():
                mine = []
                async for line in f:
                    mine.append(line)
                    if len(mine) % 50 == 0:
                        await goroutine.gosched()
                had.extend(mine)

            async def line_by_line():
                while line := await f.readline():
                    had.append(line)
                    await goroutine.gosched()

            async def some_bytes():
                for _ in range(100):
                    had.append(await f.read(7))
                    await goroutine.gosched()

            async with goroutine.Group() as group:
                for _ in range(3):
                    group.go(take)
                group.go(line_by_line)
                group.go(some_bytes)
            assert f.tell() == sum(map(len, text))

    run(main)
    # Bytes were cut anywhere: whoever came next has had the rest of a line.
    assert sum(map(len, had)) == sum(map(len, text))
    assert sorted(b"".join(had)) == sorted(b"".join(text))
    whole = [line for line in had if line.endswith(b"\n") and line.count(b"\n") == 1]
    assert len(whole) > 9_000


def test_lines_are_taken_back_while_others_take_them():
    """What is taken back lies directly before the position, whatever goes meanwhile."""

    class Contended(lines.Lines):
        def pop(self):
            line = super().pop()
            if self:
                self.popleft()  # somebody else's
            return line

    class Handle:
        stream = False

    found = Contended(Handle())  # type: ignore[arg-type]
    found.extend([b"1\n", b"two\n", b"three\n", b"4\n", b"fives\n"])
    found.pos = 20
    found.settle()
    assert (found.pos, len(found)) == (20 - len(b"three\n4\nfives\n"), 0)


def test_lines_of_a_stream(run_two: Run, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "CHUNK", 10)
    path = fifo(tmp_path)
    text = b"one\ntwo\nand a long line of three\nfour\nend"

    def write():
        with open(path, "wb", buffering=0) as f:
            for at in range(0, len(text), 7):
                f.write(text[at : at + 7])

    async def main():
        thread = threading.Thread(target=write)
        thread.start()
        async with fs.open(path) as f:
            async for line in f:
                assert line == b"one\n"
                break
            found = [await f.read(2), await f.readline(), await f.readline()]
            assert found[1:] == [(b"two\n" + b"")[len(found[0]) :], b"and a long line of three\n"]
            assert await f.read() == b"four\nend"
            assert await f.read(5) == await f.readline() == b""
        await goroutine.blocking(thread.join)

    run_two(main)


async def cancelled(step, end):
    os.write(end, b"half a ")
    background = goroutine.context.background()
    async with goroutine.context.with_cancel(background) as ctx, goroutine.Group() as group:
        waiting = group.go(step, ctx=ctx)
        await until(lambda: waiters() == 1)
        await goroutine.sleep(0.01)
        ctx.cancel()
    with pytest.raises(goroutine.Canceled):
        waiting.result()


def test_a_cancelled_line_of_a_stream_is_not_lost(run_one: Run, tmp_path):
    path = fifo(tmp_path)

    async def main():
        async with fs.open(path) as f:
            end = os.open(path, os.O_WRONLY)
            try:
                await cancelled(f.readline, end)
                await cancelled(f.read, end)
                os.write(end, b"line\n")
                assert await f.readline() == b"half a half a line\n"
            finally:
                os.close(end)

    run_one(main)
