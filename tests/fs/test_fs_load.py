"""Many goroutines at once, and that nothing piles up."""

import gc
import os

import pytest
from fs_support import Run, make, ops
from waiting import until

import goroutine
from goroutine import context, fs
from goroutine.fs.handle import Handle

pytestmark = pytest.mark.timeout(40)

RECORD = 64


def test_thousands_of_concurrent_reads(run: Run, tmp_path):
    count = 2000
    path = make(tmp_path, b"".join(b"%*d" % (RECORD, i) for i in range(count)))

    async def main():
        async with fs.open(path) as f, goroutine.Group() as group:
            members = [group.go(f.pread, RECORD, i * RECORD) for i in range(count)]
        return [int(member.result()) for member in members]

    assert run(main) == list(range(count))


def test_writes_are_not_interleaved(run: Run, tmp_path):
    path = str(tmp_path / "file")

    async def writer(f, i):
        for _ in range(10):
            assert await f.write(b"%c" % (65 + i) * 1000) == 1000

    async def main(mode):
        async with fs.open(path, mode) as f, goroutine.Group() as group:
            for i in range(20):
                group.go(writer, f, i)

    for mode in ("w", "a"):
        run(main, mode)
    with open(path, "rb") as f:
        data = f.read()
    records = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    assert len(records) == 400
    assert all(len(set(record)) == 1 for record in records)
    letters = [b"%c" % (65 + i) for i in range(20)]
    assert sorted(record[:1] for record in records) == sorted(letters * 20)


def test_reads_share_the_position(run_two: Run, tmp_path):
    """Each takes its bytes: none twice, none left out."""
    count = 300
    path = make(tmp_path, b"".join(b"%*d" % (RECORD, i) for i in range(count)))
    had: list[int] = []

    async def reader(f):
        while data := await f.read(RECORD):
            had.append(int(data))

    async def main():
        async with fs.open(path) as f, goroutine.Group() as group:
            for _ in range(10):
                group.go(reader, f)

    run_two(main)
    assert sorted(had) == list(range(count))


def test_thousands_of_files(run_two: Run, tmp_path):
    """All open at some time, not all at the same time."""

    async def one(i):
        path = tmp_path / f"{i % 200}"
        async with fs.open(path, "a+") as f:
            await f.write(b"%d\n" % i)
            await f.seek(0)
            lines = [line async for line in f]
            assert b"%d\n" % i in lines

    async def main():
        async with goroutine.Group(limit=100) as group:
            for i in range(600):
                group.go(one, i)

    run_two(main)
    found = [int(n) for name in os.listdir(tmp_path) for n in (tmp_path / name).read_text().split()]
    assert sorted(found) == list(range(600))


def test_nothing_piles_up(run_two: Run, tmp_path):
    """Opened, read, written, cancelled, closed, over and over."""
    path = make(tmp_path, b"x" * 100_000)

    async def one(i):
        ctx = context.with_timeout(context.background(), i % 7 * 1e-4)
        async with ctx:
            try:
                async with fs.open(path, "r+", ctx=ctx) as f:
                    await f.read(70_000, ctx=ctx)
                    await f.write(b"y", ctx=ctx)
                    await f.fsync(ctx=ctx)
                    await f.read(ctx=ctx)
            except goroutine.Canceled:
                pass
            except goroutine.DeadlineExceeded:
                pass

    async def main():
        for i in range(20):
            await one(i)
        gc.collect()
        before = objects()
        for _ in range(5):
            async with goroutine.Group() as group:
                for i in range(50):
                    group.go(one, i)
        await until(lambda: not ops())
        gc.collect()
        assert objects() <= before + 2

    run_two(main)


def objects() -> int:
    """Handles, operations and calls that are alive."""
    from goroutine.fs.call import Call
    from goroutine.io.op import Op

    return sum(isinstance(thing, Handle | Op | Call) for thing in gc.get_objects())
