"""open: modes, paths, permissions, errors; stat and the functions on paths."""

import errno
import os
import resource
import socket
import stat

import pytest
from fs_support import Run, fails, fds, make, raises

import goroutine
from goroutine import fs
from goroutine.io import op
from goroutine.io.ioring import abi

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("mode", ["r", "rb", "br", "w", "wb", "a", "x", "r+", "w+b", "b+a", "+x"])
def test_modes(run_one: Run, tmp_path, mode):
    """What Python's own open() makes of it."""
    new = "x" in mode
    contents = []

    async def main(path):
        async with fs.open(path, mode) as f:
            if "r" not in mode or "+" in mode:
                assert await f.write(b"XY") == 2
            if "r" in mode or "+" in mode:
                await f.seek(0)
                contents.append(await f.read())

    for i in range(2):
        path = str(tmp_path / f"file{i}")
        if not new:
            make(tmp_path, b"abcdef", f"file{i}")
        if i:
            run_one(main, path)
        else:
            with open(path, mode.replace("b", "") + "b", buffering=0) as f:
                if f.writable():
                    f.write(b"XY")
                if f.readable():
                    f.seek(0)
                    contents.append(f.read())
        with open(path, "rb") as f:
            contents.append(f.read())
    half = len(contents) // 2
    assert contents[:half] == contents[half:]


@pytest.mark.parametrize("mode", ["", "rw", "r++", "rbb", "q", "+", "b", "wa", "R", "r "])
def test_what_is_no_mode(mode):
    with pytest.raises(ValueError, match="mode must be one of r, w, x, a, with") as caught:
        fs.open("/dev/null", mode)
    assert "\n" not in str(caught.value)
    assert repr(mode) in str(caught.value)


def test_there_is_no_text():
    with pytest.raises(ValueError, match=r"fs\.open is for bytes: there is no text mode"):
        fs.open("/dev/null", "rt")
    with pytest.raises(TypeError, match="mode must be a str, not int"):
        fs.open("/dev/null", os.O_RDONLY)  # type: ignore[arg-type]


def test_both_ways_to_open(run_one: Run, tmp_path):
    path = make(tmp_path, b"hello")

    async def main():
        f = await fs.open(path)
        assert await f.read() == b"hello"
        await f.close()
        opening = fs.open(path)
        for _ in range(2):  # again, if you like
            async with opening as f:
                assert await f.read() == b"hello"
            assert f.closed
        async with await fs.open(path) as f:
            assert not f.closed
        assert f.closed
        fs.open(path)  # nothing happens until it is awaited

    run_one(main)


@pytest.mark.parametrize("kind", [str, bytes, "path"])
def test_paths(run_two: Run, tmp_path, monkeypatch, kind):
    make(tmp_path, b"hello", "f\u00e4")
    monkeypatch.chdir(tmp_path)
    path = {str: "f\u00e4", bytes: "f\u00e4".encode(), "path": tmp_path / "f\u00e4"}[kind]

    async def main():
        async with fs.open(path) as f:
            assert f.name == os.fspath(path)
            assert await f.read() == b"hello"
        assert (await fs.stat(path)).st_size == 5
        assert await fs.read_bytes(path) == b"hello"
        await fs.write_bytes(path, b"bye")
        assert await fs.read_bytes(path) == b"bye"

    run_two(main)
    assert os.listdir(tmp_path) == ["f\u00e4"]


def test_what_is_no_path(run_one: Run, tmp_path):
    async def main():
        for step in (fs.open("a\0b"), fs.stat("a\0b"), fs.read_bytes(b"a\0")):
            await raises(ValueError, "null byte", step)
        await raises(ValueError, "null byte", fs.write_bytes("a\0", b""))
        for step in (fs.stat(None), fs.write_bytes(3.5, b""), fs.read_bytes(0)):  # type: ignore[arg-type]
            await raises(TypeError, "expected str, bytes or os.PathLike", step)
        with pytest.raises(TypeError, match=r"expected str, bytes or os\.PathLike object, not int"):
            fs.open(1)  # type: ignore[arg-type]

    run_one(main)


def test_errors_name_the_file(run_two: Run, tmp_path):
    path = make(tmp_path)
    gone = str(tmp_path / "gone")

    async def main():
        for step in (fs.open(gone), fs.open(gone, "r+"), fs.stat(gone), fs.read_bytes(gone)):
            failure = await raises(FileNotFoundError, "", step)
            assert (failure.errno, failure.filename) == (errno.ENOENT, gone)
        assert (await fails(errno.EEXIST, fs.open(path, "x"))).filename == path
        for mode in ("r", "w", "r+"):
            failure = await raises(IsADirectoryError, "", fs.open(tmp_path, mode))
            assert failure.filename == str(tmp_path)
        await raises(NotADirectoryError, "", fs.open(path + "/x"))
        await raises(IsADirectoryError, "", fs.read_bytes(tmp_path))

    run_two(main)


def test_permissions_of_a_new_file(run_two: Run, tmp_path):
    old = os.umask(0o027)

    async def main():
        for perm in (0o666, 0o777, 0o600):
            async with fs.open(tmp_path / f"f{perm:o}", "w", perm):
                pass
            await fs.write_bytes(tmp_path / f"w{perm:o}", b"", perm)

    try:
        run_two(main)
    finally:
        os.umask(old)
    found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    expected = {"666": 0o640, "777": 0o750, "600": 0o600}
    assert found == {kind + name: perm for kind in "fw" for name, perm in expected.items()}


def test_too_many_open_files(run_one: Run, tmp_path):
    path = make(tmp_path, b"x")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main():
        await fs.read_bytes(path)  # what is made once is made
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, fds())) + 1, limits[1]))
        kept = []

        async def more():
            while len(kept) < 5000:
                kept.append(await fs.open(path))

        try:
            failure = await fails(errno.EMFILE, more())
            assert failure.filename == path
            for f in kept:
                assert await f.pread(1, 0) == b"x"
                await f.close()
            assert not kept or await fs.read_bytes(path) == b"x"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    run_one(main)


def test_outside_a_run(tmp_path):
    path = make(tmp_path)
    with pytest.raises(RuntimeError, match="not in a goroutine"):
        fs.open(path).__await__().send(None)


# -- what the kernel lacks ----------------------------------------------------------------------

CODES = ["OPENAT", "CLOSE", "READ", "WRITE", "FSYNC", "STATX", "FTRUNCATE"]


@pytest.mark.parametrize("lacking", CODES)
def test_a_kernel_that_lacks_an_operation(tmp_path, monkeypatch, lacking):
    run = Run("ring", 2)
    op.supported()
    assert op._known
    monkeypatch.setattr(op, "_known", op._known - {getattr(abi, f"OP_{lacking}")})
    asked = []
    park = op.Op.park
    monkeypatch.setattr(op.Op, "park", lambda self, g: (asked.append(self.code), park(self, g)))
    path = str(tmp_path / "file")

    async def main():
        async with fs.open(path, "w+") as f:
            await f.write(b"hello world")
            await f.fsync()
            await f.truncate(5)
            assert await f.pread(10, 1) == b"ello"
            assert (await f.stat()).st_size == (await fs.stat(path)).st_size == 5
        await raises(FileNotFoundError, "", fs.open(path + "x"))

    run(main)
    assert set(asked) == {getattr(abi, f"OP_{c}") for c in CODES if c != lacking} & op._known


def test_a_kernel_that_does_not_wait_for_a_reader(tmp_path, monkeypatch):
    """It tries without waiting first, and says ENXIO: asked again, for a thread of its own."""
    path = make(tmp_path, b"")
    flags = []
    run_op = op.Op.run

    def run(self, ctx=None):
        if self.code == abi.OP_OPENAT:
            flags.append(self.flags)
            if not self.flags:
                return -errno.ENXIO
                yield
        return (yield from run_op(self, ctx))

    monkeypatch.setattr(op.Op, "run", run)

    async def main():
        async with fs.open(path, "w"):
            pass
        await fails(errno.ENXIO, fs.open(socket_path))

    socket_path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(socket_path)
        Run("ring", 1)(main)
    assert flags == [0, abi.IOSQE_ASYNC] * 2


def test_a_kernel_without_io_uring(monkeypatch):
    from goroutine.io import ioring

    def forbidden():
        raise PermissionError(errno.EPERM, "forbidden")

    monkeypatch.setattr(op, "_known", None)
    monkeypatch.setattr(ioring, "probe", forbidden)
    assert not op.supported(abi.OP_READ)


# -- stat ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/dev/null", "/", "/proc/self/status", "/dev/tty", "/etc/passwd"])
def test_stat_is_that_of_os(run_one: Run, path):
    async def main():
        return await fs.stat(path)

    expected, found = os.stat(path), run_one(main)
    names = [n for n in dir(expected) if n.startswith("st_") and "atime" not in n]
    if path.startswith("/proc"):
        names = ["st_mode", "st_uid", "st_size", "st_blksize"]
    assert {n: getattr(found, n) for n in names} == {n: getattr(expected, n) for n in names}


def test_stat_of_links(run_one: Run, tmp_path):
    path = make(tmp_path, b"12345")
    link = str(tmp_path / "link")
    os.symlink(path, link)
    os.utime(path, ns=(-(10**18) - 1, 1_234_567_890_123_456_789))

    async def main():
        assert await fs.stat(link) == os.stat(path)
        assert (await fs.stat(link)).st_mtime_ns == 1_234_567_890_123_456_789
        assert (await fs.stat(link)).st_atime_ns == os.stat(path).st_atime_ns
        assert (await fs.stat(link)).st_mtime == os.stat(path).st_mtime
        found = await fs.stat(link, follow_symlinks=False)
        assert (found, stat.S_ISLNK(found.st_mode)) == (os.lstat(link), True)
        async with fs.open(link) as f:
            assert await f.stat() == os.stat(path)

    run_one(main)


# -- paths --------------------------------------------------------------------------------------


def test_what_is_done_with_paths(run_two: Run, tmp_path):
    async def main():
        one, two = tmp_path / "one", tmp_path / "two"
        await fs.mkdir(one)
        await raises(FileExistsError, "", fs.mkdir(one))
        await fs.mkdir(one / "a" / "b", parents=True)
        await fs.mkdir(one / "a", parents=True)
        await raises(OSError, "not empty", fs.remove(one))
        await fs.write_bytes(two, b"2")
        await fs.write_bytes(one / "file", b"1")
        await fs.rename(one / "file", two)
        assert await fs.read_bytes(two) == b"1"
        assert await fs.listdir(tmp_path) == ["one", "two"]
        assert await fs.listdir(os.fsencode(tmp_path)) == [b"one", b"two"]
        await fs.remove(one / "a" / "b")
        await fs.remove(two)
        await raises(FileNotFoundError, "", fs.remove(two))
        await raises(NotADirectoryError, "", fs.listdir("/dev/null"))
        return await fs.listdir(one)

    assert run_two(main) == ["a"]


def test_a_group_that_was_cancelled_opens_nothing(run_one: Run, tmp_path):
    path = str(tmp_path / "file")

    async def main():
        async with goroutine.context.with_cancel(goroutine.context.background()) as ctx:
            ctx.cancel()
            for step in (fs.open(path, "w", ctx=ctx), fs.stat(path, ctx=ctx)):
                await raises(goroutine.Canceled, "", step)
            await raises(goroutine.Canceled, "", fs.write_bytes(path, b"", ctx=ctx))

    run_one(main)
    assert not os.path.exists(path)
