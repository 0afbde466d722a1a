"""goroutine.process.start and Process: a child to talk to, to wait for and to send signals.

Seen to fail: when closing doesn't take back the waits of those who are parked (they wait for
ever), or leaves their polls in the kernel (the child doesn't hear of it); when a commit doesn't
look whether the handle is closed; when a system call and the close don't exclude each other
(test_closing_races_with_reading_and_writing reads another's pipe); when a cancelled read drops
what it has; when a stream has no mutex (lines and writes mix); when it never gives way; when
`returncode` doesn't reap, or keeps the pidfd; when ``async with`` doesn't kill, or not at the
end of the run.
"""

import gc
import os
import signal
import subprocess
import threading
import time
import warnings

import pytest
from process_support import children, fds, python
from waiting import until

import goroutine
from goroutine import Canceled, Group, chan, context, go, process, sleep, start
from goroutine.process import PIPE, STDOUT
from goroutine.process.handle import Handle

pytestmark = pytest.mark.timeout(30)


def parked(stream):
    return bool(stream._handle.waits)


# -- streams -------------------------------------------------------------------------------------


def test_a_conversation(run):
    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            assert p.stderr is None
            for n in range(20):
                assert await p.stdin.write(b"line %d\n" % n) == len(b"line %d\n" % n)
                assert await p.stdout.readline() == b"line %d\n" % n
            p.stdin.close()
            assert await p.stdout.readline() == b""
            assert await p.wait() == 0

    run(main)


def test_ways_to_read(run):
    async def main():
        script = r"printf 'one\ntwo\n\nfour'; printf err >&2"
        p = await process.start(["sh", "-c", script], stdout=PIPE, stderr=PIPE)
        async with p:
            await p.wait()
            assert await p.stdout.read(0) == b""
            assert await p.stdout.read(2) == b"on"
            assert await p.stdout.readline() == b"e\n"
            assert [line async for line in p.stdout] == [b"two\n", b"\n", b"four"]
            assert await p.stdout.read() == b""
            assert await p.stdout.read(5) == b""
            assert await p.stdout.readline() == b""
            assert await p.stderr.read(100) == b"err"
        p = await process.start(["sh", "-c", script], stdout=PIPE, stderr=STDOUT)
        async with p:
            assert await p.stdout.read() == b"one\ntwo\n\nfourerr"

    run(main)


def test_read_gives_what_there_is(run):
    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            await p.stdin.write(b"abc")
            assert await p.stdout.read(100) == b"abc"
            all_ = go(p.stdout.read)
            await p.stdin.write(b"def")
            await until(lambda: p.stdout.come == b"def")
            assert not all_.done
            await p.stdin.write(b"ghi")
            p.stdin.close()
            assert await all_ == b"defghi"

    run(main)


def test_others_get_their_turn():
    """On one machine, with what can always be read and written."""

    async def main():
        turns = 0

        async def counts():
            nonlocal turns
            while True:
                turns += 1
                await goroutine.gosched()

        go(counts)
        endless = process.Reader(Handle(os.open("/dev/zero", os.O_RDONLY)))

        async def reads():
            with pytest.raises(ValueError, match="closed file"):
                await endless.read()

        reader = go(reads)
        await until(lambda: len(endless.come) > 1 << 20)
        endless.close()
        await reader
        turns = 0
        hole = process.Writer(Handle(os.open("/dev/null", os.O_WRONLY)))
        await hole.write(bytes(1 << 25))
        hole.close()
        assert turns > 5

    start(main, machines=1)


def test_a_line_of_any_length(run):
    async def main():
        code = "import os; os.write(1, b'x' * 3_000_000 + b'\\nlast')"
        async with await process.start(python(code), stdout=PIPE) as p:
            assert await p.stdout.readline() == b"x" * 3_000_000 + b"\n"
            assert await p.stdout.readline() == b"last"

    run(main)


def test_lines_of_several_readers_do_not_mix(run):
    async def main():
        code = """if 1:
            import os
            for n in range(3000):
                line = b"%05d" % n * 40 + b"\\n"
                os.write(1, line[:77])
                os.write(1, line[77:])
        """
        async with await process.start(python(code), stdout=PIPE) as p:

            async def lines():
                return [line async for line in p.stdout]

            async with Group() as group:
                members = [group.go(lines) for _ in range(3)]
        got = sorted(line for member in members for line in member.result())
        assert got == [b"%05d" % n * 40 + b"\n" for n in range(3000)]

    run(main)


def test_writes_of_several_goroutines_do_not_mix(run):
    size = 300_000

    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            writers = [go(p.stdin.write, bytes([n]) * size) for n in range(4)]
            reader = go(p.stdout.read)
            for writer in writers:
                assert await writer == size
            p.stdin.close()
            data = await reader
            assert len(data) == 4 * size
            assert sorted(data[n * size] for n in range(4)) == [0, 1, 2, 3]
            assert all(len(set(data[n * size : (n + 1) * size])) == 1 for n in range(4))

    run(main)


def test_what_can_be_written(run):
    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            for data in (b"ab", bytearray(b"cd"), memoryview(b"e-f-")[::2].tobytes(), b""):
                assert await p.stdin.write(data) == len(data)
            with pytest.raises(TypeError):
                await p.stdin.write("text")
            p.stdin.close()
            assert await p.stdout.read() == b"abcdef"

    run(main)


def test_writing_to_a_child_that_has_ended(run):
    async def main():
        async with await process.start(["true"], stdin=PIPE) as p:
            await p.wait()
            with pytest.raises(BrokenPipeError):
                await p.stdin.write(b"x")
        async with await process.start(["sleep", "60"], stdin=PIPE) as p:
            writes = Group()

            async def write():
                with pytest.raises(BrokenPipeError):
                    await p.stdin.write(b"x" * 1_000_000)

            async with writes as group:
                group.go(write)
                await until(lambda: parked(p.stdin))
                p.kill()

    run(main)


# -- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("thread", [False, True], ids=["goroutine", "thread"])
def test_closed_while_somebody_waits(run, thread):
    async def main():
        p = await process.start(["sleep", "60"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
        async with p:

            async def fails(operation, *args):
                with pytest.raises(ValueError, match="closed file"):
                    await operation(*args)

            async with Group() as group:
                group.go(fails, p.stdin.write, b"x" * 1_000_000)
                group.go(fails, p.stdout.read)
                group.go(fails, p.stdout.readline)  # after the other
                group.go(fails, p.stderr.read, 1)
                await until(lambda: all(map(parked, (p.stdin, p.stdout, p.stderr))))
                streams = (p.stdin, p.stdout, p.stderr)
                if thread:
                    other = threading.Thread(target=lambda: [s.close() for s in streams])
                    other.start()
                    await goroutine.blocking(other.join)
                else:
                    for stream in streams:
                        stream.close()
                        stream.close()
            for stream in (p.stdin, p.stdout, p.stderr):
                assert stream.closed
                with pytest.raises(ValueError, match="closed file"):
                    stream.fileno()
            for operation in (p.stdout.read, p.stdout.readline, p.stderr.read):
                await fails(operation)
            await fails(p.stdout.read, 5)
            await fails(p.stdin.write, b"x")
            await fails(p.stdin.write, b"")
            p.kill()

    run(main)


def test_the_child_hears_of_it(run):
    """Also while a read was parked: io_uring's poll must not keep the pipe open."""

    async def main():
        script = ["sh", "-c", "read line; exec yes"]
        p = await process.start(script, stdin=PIPE, stdout=PIPE)
        async with p:

            async def reads():
                with pytest.raises(ValueError, match="closed file"):
                    await p.stdout.read(1)

            async with Group() as group:
                group.go(reads)
                await until(lambda: parked(p.stdout))
                p.stdout.close()
            await p.stdin.write(b"go on\n")
            assert await p.wait() == -signal.SIGPIPE
        # One that does not write, which would end that poll, but watches its stdout.
        code = "import select; p = select.poll(); p.register(1, 0); print(flush=True); p.poll()"
        async with await process.start(python(code), stdout=PIPE) as p:
            await p.stdout.readline()
            async with Group() as group:
                group.go(reads)
                await until(lambda: parked(p.stdout))
                p.stdout.close()
            assert await p.wait() == 0
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            waits = go(p.wait)
            await until(lambda: p._pidfd.waits)
            p.stdin.close()
            assert await waits == 0

    run(main)


def test_closed_just_before_it_parks(io):
    """Between the look that finds nothing and the commit, on another thread."""

    class Late(Handle):
        __slots__ = ()

        def call(self, fn, *args):
            result = super().call(fn, *args)
            if result is None:
                closer = threading.Thread(target=self.close)
                closer.start()
                closer.join()
            return result

    async def main():
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        stream = process.Reader(Late(reader))
        with pytest.raises(ValueError, match="closed file"):
            await stream.read(1)
        os.close(writer)

    start(main, machines=2, io=io)


@pytest.mark.timeout(40)
def test_closing_races_with_reading_and_writing(io):
    """Numbers are used again at once: nobody may read from, or write to, another's pipe."""

    async def main():
        def pipe():
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            os.set_blocking(writer, False)
            return process.Reader(Handle(reader)), process.Writer(Handle(writer))

        async def reads(reader, mark):
            try:
                while data := await reader.read(10):
                    assert set(data) <= {mark}, "somebody else's"
            except ValueError:
                pass

        async def writes(writer, mark):
            try:
                while True:
                    await writer.write(bytes([mark]) * 5)
            except (ValueError, BrokenPipeError):
                pass

        end = time.monotonic() + 2

        async def over_and_over(mark):
            while time.monotonic() < end:
                reader, writer = pipe()
                async with Group() as group:
                    group.go(reads, reader, mark)
                    group.go(writes, writer, mark)
                    await sleep(0.0005)
                    for stream in (reader, writer) if mark % 2 else (writer, reader):
                        await goroutine.gosched()
                        stream.close()

        async with Group() as group:
            for mark in range(6):
                group.go(over_and_over, mark)

    start(main, machines=4, io=io)


# -- cancelled -----------------------------------------------------------------------------------


async def cancelled(stream, operation, *args):
    """Cancel it as soon as it waits."""
    with context.with_cancel(context.background()) as ctx:
        async with Group() as group:
            member = group.go(operation, *args, ctx=ctx)
            await until(lambda: parked(stream))
            ctx.cancel()
    with pytest.raises(Canceled):
        member.result()
    with pytest.raises(Canceled):
        await operation(*args, ctx=ctx)


def test_a_cancelled_read_has_taken_nothing(run):
    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            await cancelled(p.stdout, p.stdout.read, 100)
            for operation in (p.stdout.readline, p.stdout.read):
                await p.stdin.write(b"part ")
                await cancelled(p.stdout, operation)
            await p.stdin.write(b"end\nmore")
            assert await p.stdout.readline() == b"part part end\n"
            assert await p.stdout.read(100) == b"more"
            p.stdin.close()

    run(main)


def test_one_who_waits_for_his_turn_is_cancelled(run):
    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            first = go(p.stdout.readline)
            await until(lambda: parked(p.stdout))
            with context.with_timeout(context.background(), 0.02) as ctx:
                with pytest.raises(Canceled):
                    await p.stdout.readline(ctx=ctx)
                with pytest.raises(Canceled):
                    await p.stdout.readline(ctx=ctx)
            await p.stdin.write(b"a\nb\n")
            assert await first == b"a\n"
            assert await p.stdout.readline() == b"b\n"
            p.stdin.close()

    run(main)


def test_a_cancelled_write_has_maybe_written_a_part(run):
    async def main():
        script = ["sh", "-c", "read line; exec wc -c"]
        async with await process.start(script, stdin=PIPE, stdout=PIPE) as p:
            await cancelled(p.stdin, p.stdin.write, b"x" * 1_000_000)
            await p.stdin.write(b"\n" + b"y" * 10)
            p.stdin.close()
            assert int(await p.stdout.read()) == 10

    run(main)


def test_a_cancelled_wait_leaves_the_child(run):
    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
            with context.with_timeout(context.background(), 0.02) as ctx:
                with pytest.raises(Canceled):
                    await p.wait(ctx=ctx)
                with pytest.raises(Canceled):
                    await p.wait(ctx=ctx)
            assert p.returncode is None
            await p.stdin.write(b"alive\n")
            assert await p.stdout.readline() == b"alive\n"
            p.stdin.close()
            assert await p.wait() == 0

    run(main)


# -- the end of a child --------------------------------------------------------------------------


def test_several_wait(run):
    async def main():
        async with await process.start(["sh", "-c", "read x; exit 6"], stdin=PIPE) as p:
            waiting = [go(p.wait) for _ in range(10)]
            await until(lambda: len(p._pidfd.waits) == 10)
            await p.stdin.write(b"\n")
            assert [await g for g in waiting] == [6] * 10
            assert (await p.wait(), p.returncode) == (6, 6)

    run(main)


def test_it_needs_no_wait(run):
    """returncode looks, and reaps."""

    async def main():
        before, open_before = children(), fds()
        p = await process.start(["sh", "-c", "exit 2"])
        assert p.pid in children() or p.returncode is not None
        await until(lambda: p.returncode is not None)
        assert p.returncode == 2
        assert (children(), fds()) == (before, open_before)
        assert "returncode=2" in repr(p)

    run(main)


def test_signals(run):
    async def main():
        for send, number in (
            (process.Process.terminate, signal.SIGTERM),
            (process.Process.kill, signal.SIGKILL),
            (lambda p: p.send_signal(signal.SIGUSR1), signal.SIGUSR1),
            (lambda p: p.send_signal(int(signal.SIGINT)), signal.SIGINT),
        ):
            # (SIGINT is ignored by what a shell starts with &, and so in tests run that way.)
            code = "import signal, time; signal.signal(2, signal.SIG_DFL); print(flush=True)"
            p = await process.start(python(code + "; time.sleep(60)"), stdout=PIPE)
            async with p:
                await p.stdout.readline()
                assert "running" in repr(p)
                p.send_signal(0)
                with pytest.raises(OSError, match="Invalid argument"):
                    p.send_signal(1000)
                send(p)
                assert await p.wait() == -number
                for _ in range(2):  # nothing happens
                    send(p)
                    p.send_signal(0)

    run(main)


def test_from_a_thread_that_is_no_machine(run):
    async def main():
        p = await process.start(["cat"], stdin=PIPE)
        async with p:
            seen = []

            def other():
                seen.append(p.returncode)
                p.kill()
                while p.returncode is None:
                    time.sleep(0.001)
                seen.append(p.returncode)

            waits = go(p.wait)
            await until(lambda: p._pidfd.waits)
            thread = threading.Thread(target=other)
            thread.start()
            assert await waits == -signal.SIGKILL
            await goroutine.blocking(thread.join)
            assert seen == [None, -signal.SIGKILL]

    run(main)


def test_a_child_that_waits_for_nobody_is_no_deadlock(run):
    """All sleep but the child."""

    async def main():
        async with await process.start(["sh", "-c", "sleep 0.3; echo a"], stdout=PIPE) as p:
            return await p.stdout.readline()

    assert run(main) == b"a\n"


# -- async with, and without ---------------------------------------------------------------------


def test_left_in_good_order(run):
    async def main():
        async with await process.start(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as p:
            pass  # its stdin is closed, so it ends
        assert p.returncode == 0
        assert p.stdin.closed
        assert p.stdout.closed
        assert p.stderr.closed

    run(main)


def test_left_by_a_failure(run):
    async def main():
        async def fails():
            nonlocal p
            async with await process.start(["sleep", "60"], stdin=PIPE) as p:
                raise ValueError("no luck")

        p = None
        with pytest.raises(ValueError, match="no luck"):
            await fails()
        assert p.returncode == -signal.SIGKILL

    run(main)


def test_left_by_a_failure_in_a_group_that_is_cancelled(run):
    """It hasn't been told of that, nor is it by leaving: the failure goes on."""

    async def main():
        processes = []

        async def fails(group):
            async with await process.start(["sleep", "60"]) as p:
                processes.append(p)
                group.context.cancel()
                raise ValueError("no luck")

        with pytest.raises(ValueError, match="no luck"):
            async with Group() as group:
                group.go(fails, group)
        assert processes[0].returncode == -signal.SIGKILL

    run(main)


@pytest.mark.parametrize("inside", [True, False], ids=["in the body", "while it is left"])
def test_left_by_a_cancellation(run, inside):
    async def main():
        processes = []

        async def holds():
            async with await process.start(["sleep", "60"], stdin=PIPE) as p:
                processes.append(p)
                if inside:
                    await chan().recv()

        async with Group() as group:
            group.go(holds)
            await until(lambda: processes)
            if not inside:
                await until(lambda: processes[0]._pidfd.waits)
            group.context.cancel()
        assert processes[0].returncode == -signal.SIGKILL

    run(main)


@pytest.mark.parametrize("inside", [True, False], ids=["in the body", "while it is left"])
def test_left_by_the_end_of_the_run(run, inside):
    processes = []

    async def main():
        async def holds():
            async with await process.start(["sleep", "60"], stdin=PIPE) as p:
                processes.append(p)
                if inside:
                    await p.wait()

        go(holds)
        await until(lambda: processes and processes[0]._pidfd.waits)

    run(main)
    assert processes[0]._popen.returncode == -signal.SIGKILL


def test_without_it_a_child_outlives_the_run(run):
    """And can be waited for in the next one."""

    async def main():
        p = await process.start(["cat"], stdin=PIPE, stdout=PIPE)
        go(p.wait)
        go(p.stdout.read)
        await until(lambda: p._pidfd.waits and parked(p.stdout))
        return p

    async def again(p):
        assert p.returncode is None
        await p.stdin.write(b"alive\n")
        assert await p.stdout.readline() == b"alive\n"
        p.stdin.close()
        code = await p.wait()
        p.stdout.close()
        return code

    p = run(main)
    assert run(again, p) == 0


def test_forgotten_children_are_reaped_by_subprocess(run):
    async def main():
        p = await process.start(["sh", "-c", "read x"], stdin=PIPE, stdout=PIPE)
        return p.pid

    before = fds()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pid = run(main)
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert str(pid) in str(caught[0].message)
    assert fds() == before  # so that the child has read the end
    end = time.monotonic() + 10
    while children().get(pid) not in ("Z", None):
        assert time.monotonic() < end
        time.sleep(0.01)
    subprocess.run(["true"], check=True)
    assert pid not in children()


def test_outside_a_run():
    coroutine = process.start(["true"])
    with pytest.raises(RuntimeError, match="not in a goroutine"):
        coroutine.send(None)


# -- many ----------------------------------------------------------------------------------------


def test_many_that_come_and_go(run):
    """Some are killed, some cancelled, some end by themselves."""

    async def main():
        async def one(n):
            async with await process.start(["cat"], stdin=PIPE, stdout=PIPE) as p:
                await p.stdin.write(b"%d\n" % n)
                assert await p.stdout.readline() == b"%d\n" % n
                match n % 4:
                    case 0:
                        p.stdin.close()
                        assert await p.wait() == 0
                    case 1:
                        p.terminate()
                        assert await p.wait() == -signal.SIGTERM
                    case 2:
                        with context.with_timeout(context.background(), 0.001) as ctx:
                            with pytest.raises(Canceled):
                                await p.wait(ctx=ctx)
                            with pytest.raises(Canceled):
                                await p.stdout.read(ctx=ctx)
                    case 3:
                        go(p.kill)
                        await p.wait()

        async with Group(limit=10) as group:
            for n in range(40):
                group.go(one, n)

    run(main)
