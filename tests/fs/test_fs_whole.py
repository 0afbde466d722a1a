"""read_bytes, and write_bytes: that what it replaces is whole, whatever happens."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from fs_support import Cancelling, Run, fails, fifo, make, raises

import goroutine
from goroutine import context, fs
from goroutine.fs.bytesat import FileHandle
from goroutine.fs.whole import _Temporary

pytestmark = pytest.mark.timeout(30)

OLD, NEW = b"old" * 100, b"new" * 100_000


def content(path):
    with open(path, "rb") as f:
        return f.read()


# -- read_bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 4096, 65_536, 65_537, (1 << 20) - 1, 3 << 20])
def test_sizes(run_one: Run, tmp_path, size):
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    path = str(tmp_path / "file")

    async def main():
        assert await fs.write_bytes(path, data) == size
        return await fs.read_bytes(path)

    assert run_one(main) == data == content(path)


@pytest.mark.parametrize(
    "path", ["/proc/self/status", "/proc/self/maps", "/proc/cmdline", "/proc/self/mounts"]
)
def test_files_that_have_no_size(run_one: Run, path):
    async def main():
        data = await fs.read_bytes(path)
        async with fs.open(path) as f:
            lines = [line async for line in f]
        return data, b"".join(lines)

    data, lines = run_one(main)
    assert data[:30] == lines[:30] == content(path)[:30]
    assert len(data) > 20


def test_a_file_that_grows_while_it_is_read(run_one: Run, tmp_path, monkeypatch):
    path = make(tmp_path, b"x" * 1000)
    size = FileHandle.size

    def grows(self):
        before = size(self)
        with open(path, "ab") as f:
            f.write(b"y" * 200_000)
        return before

    monkeypatch.setattr(FileHandle, "size", grows)

    async def main():
        return await fs.read_bytes(path)

    assert run_one(main) == b"x" * 1000 + b"y" * 200_000


def test_a_file_that_shrinks_while_it_is_read(run_one: Run, tmp_path, monkeypatch):
    path = make(tmp_path, b"x" * 5_000_000)
    size = FileHandle.size
    monkeypatch.setattr(FileHandle, "size", lambda self: (size(self), os.truncate(path, 10))[0])

    async def main():
        return await fs.read_bytes(path)

    assert run_one(main) == b"x" * 10


def test_a_fifo(run_two: Run, tmp_path):
    path = fifo(tmp_path)
    data = os.urandom(300_000)

    async def main():
        thread = threading.Thread(target=Path(path).write_bytes, args=(data,))
        thread.start()
        assert await fs.read_bytes(path) == data
        await goroutine.blocking(thread.join)
        got = goroutine.go(goroutine.blocking, Path(path).read_bytes)
        assert await fs.write_bytes(path, data) == len(data)
        assert await got == data
        assert stat.S_ISFIFO((await fs.stat(path)).st_mode)

    run_two(main)


def test_devices_are_written_to_not_replaced(run_one: Run):
    async def main():
        assert await fs.write_bytes("/dev/null", b"x") == 1
        await fails(errno.ENOSPC, fs.write_bytes("/dev/full", b"x"))
        async with fs.open("/dev/zero", "r+") as f:
            assert await f.read(5) == bytes(5)
            assert await f.write(b"x" * 100) == 100

    run_one(main)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# -- write_bytes --------------------------------------------------------------------------------


def test_what_a_replaced_file_keeps(run_one: Run, tmp_path):
    path = make(tmp_path, OLD)
    os.chmod(path, 0o4751)
    reader = os.open(path, os.O_RDONLY)
    inode = os.stat(path).st_ino
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
        os.chmod(path, 0o4751)

    async def main():
        await fs.write_bytes(path, bytearray(NEW))

    run_one(main)
    found = os.stat(path)
    assert (content(path), stat.S_IMODE(found.st_mode)) == (NEW, 0o4751)
    assert found.st_ino != inode
    if os.geteuid() == 0:
        assert (found.st_uid, found.st_gid) == (12, 34)
    assert os.read(reader, 1000) == OLD  # who had it open reads on
    os.close(reader)
    assert os.listdir(tmp_path) == ["file"]


def test_a_symbolic_link_is_followed(run_one: Run, tmp_path):
    (tmp_path / "there").mkdir()
    path = make(tmp_path / "there", OLD)
    link, dangling, loop = (str(tmp_path / name) for name in ("link", "dangling", "loop"))
    os.symlink("there/file", link)
    os.symlink("there/new", dangling)
    os.symlink("loop", loop)

    async def main():
        await fs.write_bytes(link, NEW)
        await fs.write_bytes(dangling, NEW)
        await fails(errno.ELOOP, fs.write_bytes(loop, NEW))

    run_one(main)
    assert os.path.islink(link)
    assert os.path.islink(dangling)
    assert content(path) == content(tmp_path / "there" / "new") == NEW
    assert sorted(os.listdir(tmp_path / "there")) == ["file", "new"]


def test_where_no_file_can_be(run_one: Run, tmp_path):
    path = make(tmp_path, OLD)

    async def main():
        await raises(IsADirectoryError, "", fs.write_bytes(tmp_path, b""))
        await raises(IsADirectoryError, "", fs.write_bytes(str(tmp_path / "new") + "/", b""))
        await raises(FileNotFoundError, "", fs.write_bytes("", b""))
        failure = await raises(FileNotFoundError, "", fs.write_bytes(tmp_path / "no" / "f", b""))
        assert failure.filename == str(tmp_path / "no" / "f")
        await raises(NotADirectoryError, "", fs.write_bytes(path + "/f", b""))
        await raises(TypeError, "bytes-like", fs.write_bytes(path, "text"))  # type: ignore[arg-type]

    run_one(main)
    assert content(path) == OLD
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_as_long_as_can_be(run_one: Run, tmp_path):
    path = tmp_path / ("x" * 255)

    async def main():
        await fs.write_bytes(path, NEW)

    run_one(main)
    assert content(path) == NEW


def test_a_file_that_may_not_be_written(run_one: Run, tmp_path, monkeypatch):
    path = make(tmp_path, OLD)
    os.chmod(path, 0o444)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda *_, **__: False)

    async def main():
        await raises(PermissionError, "Permission denied", fs.write_bytes(path, NEW))

    run_one(main)
    assert content(path) == OLD


# -- when it goes wrong ---------------------------------------------------------------------------


def failing(monkeypatch, where):
    """Have one of the steps fail."""
    error = OSError(errno.EIO, "injected")

    def fail(*_, **__):
        raise error

    async def fail_soon(*_, **__):
        await goroutine.gosched()
        raise error

    inside = FileHandle.close

    async def fail_to_close(self):
        await inside(self)
        raise error

    times = []
    write = FileHandle.write_some

    async def fail_second(self, view, offset, ctx):
        times.append(offset)
        if len(times) > 1:
            raise error
        return await write(self, view[:1000], offset, ctx)

    def fail_for_folders(fd):
        raise error

    target, name, call = {
        "stat": (os, "stat", fail),
        "owner": (os, "fchown", fail),
        "permissions": (os, "fchmod", fail),
        "write": (FileHandle, "write_some", fail_soon),
        "second write": (FileHandle, "write_some", fail_second),
        "sync": (FileHandle, "do", fail_soon),
        "close": (FileHandle, "close", fail_to_close),
        "rename": (os, "replace", fail),
        "sync of the folder": (os, "fsync", fail_for_folders),
    }[where]
    monkeypatch.setattr(target, name, call)


WHERE = ["stat", "permissions", "write", "second write", "sync", "close", "rename"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("way", ["ring", "pool"])
def test_a_step_that_fails(tmp_path, monkeypatch, way, where):
    path = make(tmp_path, OLD)
    os.chmod(path, 0o640)

    async def main():
        with monkeypatch.context() as patch:
            failing(patch, where)
            await raises(OSError, "injected", fs.write_bytes(path, NEW))

    Run(way, 2)(main)
    assert (content(path), os.listdir(tmp_path)) == (OLD, ["file"])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_syncing_the_folder_fails(tmp_path, monkeypatch):
    """It has been replaced by then; only whether that survives a crash isn't known."""
    path = make(tmp_path, OLD)

    async def main():
        with monkeypatch.context() as patch:
            failing(patch, "sync of the folder")
            await raises(OSError, "injected", fs.write_bytes(path, NEW))

    Run("ring", 2)(main)
    assert (content(path), os.listdir(tmp_path)) == (NEW, ["file"])


def test_an_owner_that_can_not_be_kept(tmp_path, monkeypatch):
    path = make(tmp_path, OLD)

    def refused(*_):
        raise PermissionError

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(os, "fchown", refused)
            patch.setattr(os, "fstat", lambda fd: os.stat("/"))
            temporary = _Temporary(b"", b"", os.open(path, os.O_RDWR))
            temporary.resemble(os.stat("/dev/null"))
            os.close(temporary.fd)

    Run("ring", 1)(main)


@pytest.mark.parametrize("how", ["ctx", "group"])
def test_cancelled_at_every_step(run_one: Run, tmp_path, monkeypatch, how):
    """While it waits for the n-th time: the old contents, or it was done in spite of that."""
    path = make(tmp_path, OLD)
    cancelling = Cancelling(monkeypatch)

    async def write(ctx):
        try:
            return await fs.write_bytes(path, NEW, ctx=ctx) == len(NEW)
        except goroutine.Canceled:
            return False

    async def attempt(n):
        if how == "ctx":
            async with context.with_cancel(context.background()) as ctx:
                cancelling.after(n, ctx.cancel)
                return await write(ctx)
        async with goroutine.Group(context.with_cancel(context.background())) as group:
            cancelling.after(n, group.context.cancel)
            member = group.go(write, None)
            while not member.done:
                await goroutine.gosched()
        return member.result()

    async def main():
        outcomes = []
        n = 0
        while not outcomes or cancelling.left <= 0:
            n += 1
            with open(path, "wb") as f:
                f.write(OLD)
            outcomes.append(await attempt(n))
            assert os.listdir(tmp_path) == ["file"]
            assert content(path) == (NEW if outcomes[-1] else OLD), outcomes
        return outcomes

    outcomes = run_one(main)
    assert len(outcomes) >= 5
    assert (outcomes[0], outcomes[-1]) == (False, True)


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 8, 50])
def test_the_run_ends_at_any_step(run_two: Run, tmp_path, steps):
    path = make(tmp_path, OLD)

    async def main():
        for _ in range(5):
            goroutine.go(fs.write_bytes, path, NEW)
        for _ in range(steps):
            await goroutine.gosched()

    run_two(main)
    assert content(path) in (OLD, NEW)
    assert os.listdir(tmp_path) == ["file"]


def test_several_at_once(run_two: Run, tmp_path):
    """Readers see one whole content or another, at all times."""
    path = make(tmp_path, b"a" * 100_000)
    done = []

    async def writer(letter):
        for _ in range(5):
            await fs.write_bytes(path, letter * 100_000)
        done.append(letter)

    async def reader():
        while len(done) < 2:
            data = await fs.read_bytes(path)
            assert (len(data), len(set(data))) == (100_000, 1)

    async def main():
        async with goroutine.Group() as group:
            for call in (reader, reader):
                group.go(call)
            for letter in (b"b", b"c"):
                group.go(writer, letter)

    run_two(main)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("io", ["auto", "epoll"])
def test_killed(tmp_path, io):
    """The process dies in the middle: the file is whole."""
    path = make(tmp_path, b"0" * 300_000)
    program = f"""
        from goroutine import fs, start
        async def main():
            print("begun", flush=True)
            while True:
                for letter in (b"1", b"2"):
                    await fs.write_bytes({path!r}, letter * 300_000)
        start(main, io={io!r})
    """
    for pause in (0.013, 0.031):
        child = subprocess.Popen(
            [sys.executable, "-X", "gil=0", "-c", textwrap.dedent(program)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
        )
        assert child.stdout
        assert child.stdout.readline() == b"begun\n"
        threading.Event().wait(pause)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        data = content(path)
        assert (len(data), len(set(data))) == (300_000, 1)
