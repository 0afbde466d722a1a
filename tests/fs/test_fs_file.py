"""File: reading, writing, the position; what the kernel answers and what comes of it."""

import errno
import io
import os
import resource

import pytest
from fs_support import Run, fails, make, raises

import goroutine
from goroutine import fs
from goroutine.fs import bytesat
from goroutine.io.op import Op

pytestmark = pytest.mark.timeout(30)

NOISE = bytes(range(256)) * 16


def test_reading_goes_on_where_it_stopped(run: Run, tmp_path):
    path = make(tmp_path, NOISE)

    async def main():
        async with fs.open(path) as f:
            first = await f.read(1), await f.read(0), await f.read(2), await f.read(1000)
            assert (first, f.tell()) == ((NOISE[:1], b"", NOISE[1:3], NOISE[3:1003]), 1003)
            assert await f.read() == NOISE[1003:]
            assert (await f.read(10), await f.read(), f.tell()) == (b"", b"", len(NOISE))
            assert await f.seek(-6, os.SEEK_END) == len(NOISE) - 6
            assert await f.read(100) == NOISE[-6:]
            assert await f.pread(5, 7) == NOISE[7:12]
            assert await f.pread(100, len(NOISE) - 3) == NOISE[-3:]
            assert (await f.pread(0, 1), await f.pread(9, 1 << 40)) == (b"", b"")

    run(main)


def test_writing_goes_on_where_it_stopped(run: Run, tmp_path):
    path = str(tmp_path / "file")

    async def main():
        async with fs.open(path, "w") as f:
            assert await f.write(b"hello") == 5
            assert await f.write(bytearray(b" world")) == 6
            assert await f.write(memoryview(b"!!xx")[:2]) == 2
            assert (await f.write(b""), f.tell()) == (0, 13)
            assert await f.pwrite(b"J", 0) == 1
            assert await f.seek(2, os.SEEK_CUR) == 15
            assert await f.write(memoryview(__import__("array").array("I", [1, 2]))) == 8
            await f.fsync()
            await f.fsync(datasync=True)

    run(main)
    with open(path, "rb") as f:
        assert f.read() == b"Jello world!!\0\0\1\0\0\0\2\0\0\0"


@pytest.mark.parametrize("mode", ["a", "a+"])
def test_appending_goes_to_the_end_wherever_that_is(run_two: Run, tmp_path, mode):
    path = make(tmp_path, b"one")

    async def main():
        async with fs.open(path, mode) as f:
            assert f.tell() == 3
            await f.seek(0)
            assert await f.write(b"two") == 3
            assert f.tell() == 6
            with open(path, "ab") as other:
                other.write(b"three")
            await f.write(b"four")
            assert f.tell() == 15
            await raises(io.UnsupportedOperation, "opened for appending", f.pwrite(b"x", 0))
            if mode == "a+":
                await f.seek(1)
                assert await f.read(4) == b"netw"

    run_two(main)
    with open(path, "rb") as f:
        assert f.read() == b"onetwothreefour"


def test_truncate(run_two: Run, tmp_path):
    path = make(tmp_path, b"0123456789")

    async def main():
        async with fs.open(path, "r+") as f:
            await f.seek(4)
            assert (await f.truncate(), f.tell()) == (4, 4)
            assert (await f.truncate(6), f.tell(), (await f.stat()).st_size) == (6, 4, 6)
            assert await f.pread(10, 0) == b"0123\0\0"
            await fails(errno.EINVAL, f.truncate(-1))
        async with fs.open(path) as f:
            await raises(io.UnsupportedOperation, "not writable", f.truncate(1))

    run_two(main)


def test_what_the_mode_forbids(run_one: Run, tmp_path):
    path = make(tmp_path, b"x")

    async def main():
        async with fs.open(path, "r") as f:
            await raises(io.UnsupportedOperation, "not writable", f.write(b"x"))
            await raises(io.UnsupportedOperation, "not writable", f.pwrite(b"x", 0))
        async with fs.open(path, "w") as f:
            for step in (f.read(), f.readline(), f.pread(1, 0)):
                await raises(io.UnsupportedOperation, "not readable", step)
            with pytest.raises(io.UnsupportedOperation, match="not readable"):
                aiter(f)

    run_one(main)


def test_offsets_that_are_none(run_one: Run, tmp_path):
    path = make(tmp_path, b"abc")

    async def main():
        async with fs.open(path, "r+") as f:
            await f.seek(2)
            for offset in (-1, 1 << 63, 1 << 70):
                await fails(errno.EINVAL, f.seek(offset))
                await fails(errno.EINVAL, f.pread(1, offset))
                await fails(errno.EINVAL, f.pwrite(b"x", offset))
            await fails(errno.EINVAL, f.seek(-3, os.SEEK_CUR))
            await fails(errno.EINVAL, f.seek(-4, os.SEEK_END))
            await raises(ValueError, "invalid whence: 9", f.seek(0, 9))
            await raises(ValueError, "negative number", f.pread(-1, 0))
            assert (f.tell(), await f.read()) == (2, b"c")

    run_one(main)


def test_beyond_2_gib(run_two: Run, tmp_path):
    path = str(tmp_path / "sparse")
    far = (5 << 30) + 3

    async def main():
        async with fs.open(path, "w+") as f:
            await f.seek(far)
            assert await f.write(b"far") == 3
            assert f.tell() == far + 3
            assert await f.seek(0, os.SEEK_END) == far + 3
            assert await f.pread(10, far - 1) == b"\0far"
            assert await f.seek(1 << 32, os.SEEK_DATA) <= far
            await f.seek(far + 1)
            assert await f.read() == b"ar"
            assert (await f.truncate(1 << 33), (await fs.stat(path)).st_size) == (1 << 33,) * 2
            assert await f.pwrite(b"end", 1 << 33) == 3
            assert await f.pread(10, (1 << 33) - 2) == b"\0\0end"
            assert await f.seek(0) == 0
            assert len(await f.read(3 << 20)) == 3 << 20
            await f.seek((1 << 33) - 1)
            assert await f.read(1 << 40) == b"\0end"

    run_two(main)


# -- answers of the kernel -------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """Operations that do a part of what they are asked for."""
    inside = Op.__init__

    def init(self, code, fd, *, length=0, **rest):
        inside(self, code, fd, length=length if length < 3 or fd < 0 else length // 2, **rest)

    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(Op, "__init__", init)
    monkeypatch.setattr(os, "pread", lambda fd, n, off: pread(fd, (n + 1) // 2, off))
    monkeypatch.setattr(os, "pwrite", lambda fd, b, off: pwrite(fd, b[: (len(b) + 1) // 2], off))


def test_short_reads_and_writes(run_two: Run, tmp_path, short):
    path = str(tmp_path / "file")

    async def main():
        async with fs.open(path, "w+") as f:
            assert await f.write(NOISE) == len(NOISE)
            assert await f.pwrite(NOISE[::-1], 100) == len(NOISE)
            content = NOISE[:100] + NOISE[::-1]
            await f.seek(0)
            assert await f.read(1000) == content[:1000]
            assert await f.read() == content[1000:]
            assert await f.pread(5000, 0) == content
        assert await fs.read_bytes(path) == content

    run_two(main)


def test_pieces(run_two: Run, tmp_path, monkeypatch):
    """What is longer than the most that one operation moves."""
    monkeypatch.setattr(bytesat, "MOST", 1000)
    monkeypatch.setattr(bytesat, "CHUNK", 100)
    path = str(tmp_path / "file")

    async def main():
        async with fs.open(path, "w+") as f:
            assert await f.write(NOISE) == len(NOISE)
            assert await f.pread(len(NOISE), 0) == NOISE
            assert await f.pread(1 << 40, 5) == NOISE[5:]
        async with fs.open(path, "a") as f:
            assert await f.write(NOISE) == len(NOISE)
            assert f.tell() == 2 * len(NOISE)
        assert await fs.read_bytes(path) == NOISE + NOISE

    run_two(main)


def test_interrupted(run_ring: Run, tmp_path, monkeypatch):
    """A signal ends an operation: it is begun again."""
    times = []
    run = Op.run

    def interrupted(self, ctx=None):
        times.append(self.code)
        if len(times) % 2:
            return -errno.EINTR
            yield
        return (yield from run(self, ctx))

    monkeypatch.setattr(Op, "run", interrupted)
    path = str(tmp_path / "file")

    async def main():
        async with fs.open(path, "w+") as f:
            await f.write(NOISE)
            await f.fsync()
            assert await f.pread(10, 5) == NOISE[5:15]
            assert (await f.stat()).st_size == (await fs.stat(path)).st_size == len(NOISE)

    run_ring(main)
    assert len(times) == 12


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINVAL, errno.EOPNOTSUPP, errno.EBUSY])
def test_what_the_ring_refuses_a_thread_does(run_ring: Run, tmp_path, monkeypatch, code):
    def refused(self, ctx=None):
        return -code
        yield

    monkeypatch.setattr(Op, "run", refused)
    path = str(tmp_path / "file")

    async def main():
        async with fs.open(path, "w+") as f:
            assert await f.write(NOISE) == len(NOISE)
            await f.fsync()
            await f.truncate(100)
            assert await f.pread(200, 5) == NOISE[5:100]
            assert await fs.stat(path) == await f.stat() == os.stat(path)
        await raises(FileNotFoundError, "No such file", fs.stat(path + "x"))

    run_ring(main)


def test_a_full_disk(run_one: Run):
    async def main():
        async with fs.open("/dev/full", "w") as f:
            failure = await fails(errno.ENOSPC, f.write(b"x"))
            assert failure.filename == "/dev/full"
            assert (await f.write(b""), f.tell()) == (0, 0)
            await fails(errno.ENOSPC, f.pwrite(b"x", 0))

    run_one(main)


def test_a_write_that_fails_half_way_tells_how_far_it_came(run_one: Run, tmp_path, monkeypatch):
    """The limit on a file's size stands for a disk that gets full."""
    monkeypatch.setattr(bytesat, "MOST", 1000)
    path = str(tmp_path / "file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main():
        async with fs.open(path, "w") as f:
            await f.write(b"x" * 500)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
            try:
                await fails(errno.EFBIG, f.write(NOISE))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert f.tell() == 3000

    run_one(main)
    with open(path, "rb") as f:
        assert f.read() == b"x" * 500 + NOISE[:2500]


def test_the_own_position_of_the_fd_is_not_used(run_one: Run, tmp_path):
    path = make(tmp_path, NOISE)

    async def main():
        async with fs.open(path, "r+") as f:
            os.lseek(f.fileno(), 1000, os.SEEK_SET)
            assert await f.read(2) == NOISE[:2]
            await f.write(b"?")
            assert await f.pread(4, 0) == NOISE[:2] + b"?" + NOISE[3:4]

    run_one(main)


def test_names(run_one: Run, tmp_path):
    path = tmp_path / "file"

    async def main():
        async with fs.open(path, "xb") as f:
            assert (f.name, f.mode, f.closed) == (str(path), "xb", False)
            assert repr(f) == f"<fs.File {str(path)!r} 'xb'>"
            assert os.fstat(f.fileno()).st_ino == path.stat().st_ino
            assert not os.get_inheritable(f.fileno())
            assert os.get_blocking(f.fileno())
        assert f.closed
        assert repr(f) == f"<fs.File {str(path)!r} 'xb' closed>"

    run_one(main)


def test_others_get_their_turn(run_one: Run, tmp_path):
    """Reading what is in memory never waits, and goes on and on: a goroutine beside it runs."""
    path = make(tmp_path, NOISE)

    async def main():
        turns = []

        async def beside():
            while len(turns) < 20:
                turns.append(True)
                await goroutine.gosched()

        async with fs.open(path) as f:
            goroutine.go(beside)
            for _ in range(1000):
                if len(turns) >= 20:
                    return
                await f.pread(10, 0)
        raise AssertionError(f"{len(turns)} turns")

    run_one(main)
