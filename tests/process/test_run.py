"""goroutine.process.run: as subprocess.run; and what is left when it doesn't come to its end.

Seen to fail: when stdout is read to its end before stderr; when a broken stdin is an error;
when the child is not killed, or not waited for, after a timeout, a cancellation and the end of
the run; when what came before the timeout is dropped; when a child whose start was cancelled
is nobody's.
"""

import os
import signal
import subprocess
import threading
import time
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, TimeoutExpired

import pytest
from process_support import children, python
from waiting import until, until_in_thread

from goroutine import (
    Canceled,
    DeadlineExceeded,
    Group,
    chan,
    context,
    go,
    process,
    start,
)
from goroutine.process import child as child_module
from goroutine.process import spawn as spawn_module
from goroutine.runtime.shared import current

pytestmark = pytest.mark.timeout(30)

BOTH = "echo out; echo err >&2; "
LONG = 60

# -- the same as subprocess ----------------------------------------------------------------------

SAME = {
    "nothing": (["true"], {}),
    "status": (["sh", "-c", "exit 3"], {}),
    "signal": (["sh", "-c", "kill -9 $$"], {}),
    "capture": (["sh", "-c", BOTH + "exit 4"], {"capture_output": True}),
    "stdout": (["sh", "-c", BOTH], {"stdout": PIPE, "stderr": DEVNULL}),
    "stderr": (["sh", "-c", BOTH], {"stdout": DEVNULL, "stderr": PIPE}),
    "joined": (["sh", "-c", BOTH], {"stdout": PIPE, "stderr": STDOUT}),
    "input": (["cat"], {"input": b"a\r\n\0b", "capture_output": True}),
    "bytearray": (["cat"], {"input": bytearray(b"abc"), "capture_output": True}),
    "no input": (["cat"], {"input": b"", "capture_output": True}),
    "closed stdin": (["cat"], {"stdin": PIPE, "capture_output": True}),
    "null": (["cat"], {"stdin": DEVNULL, "capture_output": True}),
    "text": (["cat"], {"input": "a\r\nä\rb\n", "capture_output": True, "text": True}),
    "encoding": (["cat"], {"input": "ä", "stdout": PIPE, "encoding": "latin-1"}),
    "errors": (["printf", r"a\377"], {"stdout": PIPE, "errors": "replace"}),
    "undecodable": (["printf", r"a\377"], {"stdout": PIPE, "encoding": "utf-8"}),
    "unencodable": (["cat"], {"input": "€", "stdout": PIPE, "encoding": "latin-1"}),
    "checked": (["sh", "-c", BOTH + "exit 5"], {"capture_output": True, "check": True}),
    "checked text": (
        ["sh", "-c", BOTH + "exit 5"],
        {"capture_output": True, "check": True, "text": True},
    ),
    "check is passed": (["echo", "fine"], {"capture_output": True, "check": True}),
    "directory": (["pwd"], {"stdout": PIPE, "cwd": "/"}),
    "no directory": (["pwd"], {"stdout": PIPE, "cwd": "/nowhere"}),
    "environment": (["sh", "-c", "echo $A$B"], {"stdout": PIPE, "env": {"A": "1", "PATH": "/bin"}}),
    "not found": (["/nowhere/at-all"], {"capture_output": True}),
    "not executable": (["/etc/passwd"], {}),
    "nothing to run": ([], {}),
    "no string": ([5], {}),
    "nul": (["echo", "a\0b"], {}),
    "two outputs": (["true"], {"capture_output": True, "stdout": PIPE}),
    "two inputs": (["true"], {"input": b"", "stdin": PIPE}),
    "no file": (["true"], {"stdout": "file"}),
}


def outcome(done):
    return done.args, done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("case", SAME)
def test_as_subprocess(case):
    args, options = SAME[case]

    def failed(failure):
        return type(failure), str(failure), vars(failure)

    try:
        expected = outcome(
            subprocess.run(
                args,
                check=options.get("check", False),
                **{k: v for k, v in options.items() if k != "check"},
            )
        )
    except Exception as failure:
        expected = failed(failure)

    async def main():
        try:
            return outcome(await process.run(args, **options))
        except Exception as failure:
            return failed(failure)

    assert start(main, machines=2) == expected


def test_files_and_fds(tmp_path, run):
    async def main():
        (tmp_path / "in").write_text("hello")
        with open(tmp_path / "in") as source, open(tmp_path / "out", "wb") as sink:
            await process.run(["cat"], stdin=source, stdout=sink.fileno(), check=True)
            assert not sink.closed
        assert (tmp_path / "out").read_bytes() == b"hello"
        reader, writer = os.pipe()
        try:
            # What is passed on keeps its number.
            code = f"import os; os.write({writer}, b'here')"
            await process.run(python(code), pass_fds=(writer,), check=True)
            assert os.read(reader, 100) == b"here"
        finally:
            os.close(reader)
            os.close(writer)

    run(main)


def test_a_program_given_as_a_path(tmp_path):
    program = tmp_path / "a program"
    program.write_text("#!/bin/sh\necho $#\n")
    program.chmod(0o755)

    async def main():
        assert (await process.run(program, stdout=PIPE)).stdout == b"0\n"
        assert (await process.run([program, b"1"], stdout=PIPE)).stdout == b"1\n"

    start(main)


@pytest.mark.parametrize("args", ["true", "echo hello", b"true"])
def test_there_is_no_shell(args):
    async def main():
        with pytest.raises(TypeError, match="args is a sequence"):
            await process.run(args)
        with pytest.raises(TypeError, match="args is a sequence"):
            await process.start(args)

    start(main)


def test_input_of_the_wrong_kind():
    async def main():
        with pytest.raises(TypeError, match="input is bytes"):
            await process.run(["cat"], input="text")
        with pytest.raises(TypeError, match="input is a str"):
            await process.run(["cat"], input=b"bytes", text=True)
        with pytest.raises(TypeError):
            await process.run(["cat"], input=5)
        with pytest.raises(TypeError, match="ctx must be a Context"):
            await process.run(["cat"], ctx=5)

    start(main)


def test_a_session_and_a_group_of_its_own():
    async def main():
        code = "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())"
        for options, expected in (
            ({"start_new_session": True}, "True True\n"),
            ({"process_group": 0}, "False True\n"),
            ({}, "False False\n"),
        ):
            done = await process.run(python(code), capture_output=True, text=True, **options)
            assert (done.stdout, done.stderr) == (expected, "")

    start(main)


# -- much data -----------------------------------------------------------------------------------

ECHO_TWICE = """
import os, threading
data = b""
while part := os.read(0, 1 << 20):
    data += part
def put(fd):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
other = threading.Thread(target=put, args=(2,))
other.start()
put(1)
other.join()
"""


@pytest.mark.timeout(60)
def test_much_in_both_directions(run):
    """10 MB of input, and of each output, while the other is full: a pipe holds 64 KiB."""
    data = os.urandom(1 << 20) * 10

    async def main():
        done = await process.run(python(ECHO_TWICE), input=data, capture_output=True)
        assert done.returncode == 0
        assert done.stdout == data
        assert done.stderr == data

    run(main)


def test_much_that_is_echoed_at_once(run):
    """cat writes before it has read all: whoever writes first and reads then, hangs."""
    data = os.urandom(1 << 20) * 4

    async def main():
        assert (await process.run(["cat"], input=data, stdout=PIPE)).stdout == data

    run(main)


def test_stderr_first(run):
    async def main():
        code = "import os; os.write(2, b'e' * 300000); os.write(1, b'o' * 300000)"
        done = await process.run(python(code), capture_output=True)
        assert done.stderr == b"e" * 300000
        assert done.stdout == b"o" * 300000

    run(main)


def test_a_child_that_does_not_want_its_input(run):
    data = b"x" * (1 << 20)

    async def main():
        done = await process.run(["sh", "-c", "echo enough; exit 7"], input=data, stdout=PIPE)
        assert (done.stdout, done.returncode) == (b"enough\n", 7)
        done = await process.run(["sh", "-c", "exec <&-; echo a"], input=data, stdout=PIPE)
        assert (done.stdout, done.returncode) == (b"a\n", 0)

    run(main)


def test_many_at_once(run):
    async def main():
        async def one(n):
            done = await process.run(["cat"], input=f"{n}", text=True, stdout=PIPE)
            return done.stdout

        async with Group() as group:
            members = [group.go(one, n) for n in range(30)]
        assert [member.result() for member in members] == [str(n) for n in range(30)]

    run(main)


# -- not to the end ------------------------------------------------------------------------------

TALKS = "echo a; echo b >&2; exec sleep 60"


def gone(before):
    return children() == before


def waited_for():
    """Whether some `talks` has been started: its pipes and its end are waited for."""
    return sum(m.poller.waiters() for m in current().runtime.machines) >= 3


def test_timeout(run):
    async def main():
        before = children()
        began = time.monotonic()
        with pytest.raises(TimeoutExpired) as caught:
            await process.run(["sh", "-c", TALKS], capture_output=True, text=True, timeout=0.5)
        assert 0.5 <= time.monotonic() - began < 10
        assert gone(before)
        return caught.value

    failure = run(main)
    assert failure.cmd == ["sh", "-c", TALKS]
    assert failure.timeout == 0.5
    assert (failure.stdout, failure.stderr) == (b"a\n", b"b\n")


def test_timeout_without_anything_captured():
    async def main():
        with pytest.raises(TimeoutExpired) as caught:
            await process.run(["sleep", "60"], timeout=0.05)
        assert (caught.value.stdout, caught.value.stderr) == (None, None)
        with pytest.raises(TimeoutExpired):
            await process.run(["sleep", "60"], timeout=0)
        with pytest.raises(TimeoutExpired):
            await process.run(["sleep", "60"], timeout=-1, input=b"x")

    start(main)


def test_timeout_while_it_is_being_fed(run):
    async def main():
        with pytest.raises(TimeoutExpired):
            await process.run(["sleep", "60"], input=b"x" * 1_000_000, timeout=0.1)

    run(main)


def test_timeout_with_a_grandchild_that_keeps_the_pipes(run):
    """It isn't waited for."""

    async def main():
        began = time.monotonic()
        with pytest.raises(TimeoutExpired) as caught:
            await process.run(["sh", "-c", "sleep 4 & echo a; wait"], stdout=PIPE, timeout=0.3)
        assert time.monotonic() - began < 3
        assert caught.value.stdout == b"a\n"

    run(main)


def test_in_time():
    async def main():
        done = await process.run(["echo", "a"], stdout=PIPE, timeout=60)
        assert done.stdout == b"a\n"

    start(main)


async def talks(ctx=None, **options):
    return await process.run(["sh", "-c", TALKS], capture_output=True, ctx=ctx, **options)


def test_cancelled_by_a_context(run):
    async def main():
        before = children()
        ctx = context.with_cancel(context.background())
        g = Group()
        async with g as group:
            member = group.go(talks, ctx)
            await until(waited_for)
            ctx.cancel(ValueError("enough"))
        assert gone(before)
        with pytest.raises(Canceled) as caught:
            member.result()
        assert str(caught.value.__cause__) == "enough"
        with pytest.raises(Canceled):
            await talks(ctx)

    run(main)


def test_cancelled_by_a_group(run):
    async def main():
        before = children()

        async def fails():
            async with Group() as group:
                group.go(talks)
                await until(waited_for)
                raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"):
            await fails()
        assert gone(before)

    run(main)


def test_a_deadline_of_the_context_is_no_timeout():
    async def main():
        before = children()
        ctx = context.with_timeout(context.background(), 0.2)
        with ctx, pytest.raises(DeadlineExceeded):
            await talks(ctx, timeout=LONG)
        assert gone(before)
        ctx = context.with_timeout(context.background(), LONG)
        with ctx, pytest.raises(TimeoutExpired):
            await talks(ctx, timeout=0.2)
        assert gone(before)

    start(main)


def test_the_end_of_the_run(run):
    before = children()

    async def main():
        go(talks)
        go(talks, timeout=LONG)
        await until(lambda: len(children()) == len(before) + 2)

    run(main)
    until_in_thread(lambda: gone(before))  # (one may have been just being started)


def test_an_error_of_what_it_waits_for(monkeypatch):
    """Whatever it is: the child is not forgotten."""

    async def main():
        before = children()

        async def fails(self, ctx=None):
            raise OSError("no luck")

        monkeypatch.setattr(process.Reader, "fill", fails)
        with pytest.raises(OSError, match="no luck"):
            async with Group() as group:
                await group.go(process.run, ["sleep", "60"], stdout=PIPE)
        assert gone(before)

    start(main)


# -- being started -------------------------------------------------------------------------------


class SlowPopen(subprocess.Popen):
    """Begins, then waits to be let go on."""

    def __init__(self, *args, **kwargs):
        self.begun.set()
        self.release.wait(10)
        super().__init__(*args, **kwargs)
        self.made.append(self)


@pytest.fixture
def slow(monkeypatch):
    SlowPopen.begun, SlowPopen.release = threading.Event(), threading.Event()
    SlowPopen.made = []
    monkeypatch.setattr(spawn_module.subprocess, "Popen", SlowPopen)
    yield SlowPopen
    SlowPopen.made.clear()


def test_cancelled_while_it_is_being_started(run, slow):
    """It goes on at once; the child that comes later is killed and waited for."""

    async def main():
        before = children()
        ctx = context.with_cancel(context.background())
        failed = chan(1)

        async def starts():
            try:
                await process.start(["sleep", "60"], stdin=PIPE, stdout=PIPE, ctx=ctx)
            except Canceled as failure:
                await failed.send(failure)

        go(starts)
        await until(slow.begun.is_set)
        ctx.cancel()
        await failed.recv()
        slow.release.set()
        await until(lambda: slow.made and slow.made[0].returncode is not None)
        assert slow.made[0].returncode == -signal.SIGKILL
        assert gone(before)

    run(main)


def test_the_run_ends_while_it_is_being_started(run, slow):
    before = children()

    async def main():
        go(process.start, ["sleep", "60"], stdin=PIPE, stdout=PIPE)
        await until(slow.begun.is_set)
        threading.Timer(0.1, slow.release.set).start()

    run(main)
    until_in_thread(lambda: slow.made and slow.made[0].returncode is not None)
    assert gone(before)


def test_cancelled_as_it_has_been_started(io, monkeypatch):
    """The child is there, and its goroutine has not been woken for it but for the other."""
    real = spawn_module._Handover.spawn
    ctx = context.with_cancel(context.background())

    def spawn(self, *args):
        until_in_thread(lambda: ctx._hooks)  # its goroutine has parked, and can be cancelled
        real(self, *args)
        ctx.cancel()

    monkeypatch.setattr(spawn_module._Handover, "spawn", spawn)

    async def main():
        before = children()
        with pytest.raises(Canceled):
            await process.start(["sleep", "60"], stdin=PIPE, ctx=ctx)
        assert gone(before)

    start(main, machines=2, io=io)


def test_it_cannot_be_started(run):
    async def main():
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                await process.start(["/nowhere/at-all"], stdin=PIPE, stdout=PIPE, stderr=PIPE)

    run(main)


# -- without a pidfd -----------------------------------------------------------------------------


def test_where_the_kernel_gives_no_pidfd(run, monkeypatch):
    def forbidden(pid):
        raise PermissionError(1, "forbidden")

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    monkeypatch.setattr(child_module, "LATEST", 0.01)

    async def main():
        before = children()
        done = await process.run(["sh", "-c", "sleep 0.05; echo a; exit 3"], stdout=PIPE)
        assert (done.returncode, done.stdout) == (3, b"a\n")
        with pytest.raises(TimeoutExpired):
            await process.run(["sleep", "60"], timeout=0.05)
        p = await process.start(["sleep", "60"])
        p.terminate()
        assert await p.wait() == -signal.SIGTERM
        p.terminate()
        assert gone(before)

    run(main)


def test_where_the_kernel_reaps_them():
    """SIGCHLD is ignored: nobody knows the status."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:

        async def main():
            done = await process.run(["sh", "-c", "echo a; exit 3"], stdout=PIPE)
            assert (done.returncode, done.stdout) == (0, b"a\n")
            async with await process.start(["sleep", "0.1"]) as p:
                assert await p.wait() == 0

        start(main)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_check_has_what_was_captured():
    async def main():
        with pytest.raises(CalledProcessError) as caught:
            await process.run(["sh", "-c", BOTH + "exit 5"], capture_output=True, check=True)
        return caught.value

    failure = start(main)
    assert (failure.returncode, failure.stdout, failure.stderr) == (5, b"out\n", b"err\n")
