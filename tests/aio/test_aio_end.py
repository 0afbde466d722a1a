"""The end of a run with asyncio code in it: all of that ends, too, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from aio_support import asyncio_threads, fds, forever, loop_of
from waiting import until

from goroutine import Deadlock, GoroutinePanic, aio, chan, context, go, sleep, start
from goroutine.runtime.scheduler import Runtime
from goroutine.runtime.thread import holds

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert asyncio_threads() == []
    assert holds.held == {}
    assert aio._thread is None


def program(code: str, *, signals: int = 0, pause: float = 0.2) -> tuple[int, str, str]:
    """Run it in a process of its own; Ctrl-C when it has printed a line, so many times."""
    child = subprocess.Popen(
        [sys.executable, "-X", "gil=0", "-W", "error", "-c", PRELUDE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    out = child.stdout.readline() if signals else ""
    try:
        for _ in range(signals):
            time.sleep(pause)
            child.send_signal(signal.SIGINT)
        rest, err = child.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        child.kill()
        rest, err = child.communicate()
        err += "\n(killed: it did not end)"
    return child.returncode, out + rest, err


PRELUDE = """
import asyncio, time
from goroutine import aio, chan, go, sleep, start
async def forever():
    await asyncio.get_running_loop().create_future()
"""


# -- what is given back ----------------------------------------------------------------------


async def returns():
    return await aio.run(asyncio.sleep(0.001, "result"))


async def leaves_calls():
    """Waiting, cleaning up, in threads, just begun, and in the background."""

    async def background():
        for _ in range(5):
            tasks.append(asyncio.create_task(forever()))

    async def handle(reader, writer):
        try:
            await reader.read()
        finally:
            writer.close()

    async def serve():
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            connected.append(writer)
            try:
                await reader.read()
            finally:
                writer.close()

    tasks, connected = [], []
    await aio.run(background())
    go(aio.run(serve()))
    await until(lambda: connected)
    for _ in range(5):
        go(aio.run(forever()))
        go(aio.run(asyncio.to_thread(time.sleep, 0.001)))
    await sleep(0.002)
    for _ in range(5):
        go(aio.run(asyncio.sleep(60)))
    await aio.run(asyncio.sleep(0))


async def fails():
    go(aio.run(forever()))
    await aio.run(asyncio.sleep(0))
    raise LookupError


async def panics():
    go(aio.run(forever()))
    await aio.run(asyncio.sleep(0))
    go(lambda: 1 / 0)
    await sleep(20)


async def deadlocks():
    async def background():
        return asyncio.create_task(forever())

    task = await aio.run(background())
    await chan().recv()
    task.done()


@pytest.mark.parametrize(
    ("main", "error"),
    [
        (returns, None),
        (leaves_calls, None),
        (fails, LookupError),
        (panics, GoroutinePanic),
        (deadlocks, Deadlock),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("machines", [1, 4])
def test_run_after_run(main, error, machines):
    def run(times):
        for _ in range(times):
            if error is None:
                start(main, machines=machines)
            else:
                with pytest.raises(error):
                    start(main, machines=machines)

    run(2)
    gc.collect()
    before = fds(), set(threading.enumerate())
    few = 3 if error is Deadlock else 10  # (a deadlock is found after a while)
    run(few)
    assert (fds(), set(threading.enumerate())) == before
    gc.collect()
    assert sum(isinstance(o, (Runtime, asyncio.AbstractEventLoop)) for o in gc.get_objects()) <= 2
    assert len(os.listdir("/proc/self/task")) <= len(before[1]) + 1


def test_fds_are_given_back_without_the_collector():
    gc.collect()
    gc.disable()
    try:
        before = fds()
        for _ in range(3):
            start(returns)
            assert fds() == before
    finally:
        gc.enable()


# -- how it ends -----------------------------------------------------------------------------


def test_calls_are_cancelled_and_clean_up_before_their_goroutines_are_closed(machines):
    log = []

    async def work():
        log.append("begin")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            await asyncio.to_thread(log.append, "cleaned up")
            raise

    async def client():
        try:
            await aio.run(work())
        except GeneratorExit:
            log.append("closed")
            raise

    async def main():
        go(client)
        await until(lambda: log)

    start(main, machines=machines)
    assert log == ["begin", "cleaned up", "closed"]


def test_a_result_that_comes_too_late_wakes_nobody(machines):
    """Neither in this run nor in the next one."""
    log = []

    async def stubborn():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("no")
        return "result"

    async def client():
        try:
            log.append(await aio.run(stubborn()))
        finally:
            log.append("closed")

    async def main():
        go(client)
        await aio.run(asyncio.sleep(0.01))

    for _ in range(3):
        start(main, machines=machines)
        start(returns, machines=machines)
        assert log == ["no", "closed"]
        log.clear()


def test_background_tasks_and_async_generators_are_ended():
    log = []

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            log.append("generator")

    async def begin():
        async def background():
            try:
                await forever()
            finally:
                await asyncio.sleep(0)
                kept.append(asyncio.create_task(last()))
                log.append("background")

        async def last():
            try:
                await forever()
            finally:
                log.append("last")

        kept = [asyncio.create_task(background()), numbers()]
        await anext(kept[1])
        await asyncio.sleep(0)
        return kept

    async def main():
        return await aio.run(begin())

    start(main)
    assert log == ["background", "last", "generator"]


def test_what_fails_at_the_end_is_logged(caplog):
    async def fails(text):
        try:
            await forever()
        finally:
            raise LookupError(text)

    async def begin():
        return asyncio.create_task(fails("in the background"))

    async def main():
        task = await aio.run(begin())
        go(aio.run(fails("of a call")))
        await aio.run(asyncio.sleep(0.01))
        assert not task.done()

    with caplog.at_level(logging.ERROR, "asyncio"):
        start(main)
    assert {str(record.exc_info[1]) for record in caplog.records} == {
        "in the background",
        "of a call",
    }
    assert all("while goroutine.start() was ending" in record.message for record in caplog.records)


def test_what_does_not_end_is_left_and_told(caplog, monkeypatch):
    monkeypatch.setattr(aio, "GRACE", 0.2)

    async def stubborn():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    async def main():
        go(aio.run(stubborn()))
        await aio.run(asyncio.sleep(0))

    before = fds()
    begun = time.monotonic()
    with caplog.at_level(logging.ERROR, "asyncio"):
        start(main)
    assert 0.2 <= time.monotonic() - begun < 10
    assert fds() == before
    assert [record.message.split("\n")[0] for record in caplog.records] == [
        "an asyncio task did not end in 0.2 s after goroutine.start() had cancelled it"
    ]
    caplog.clear()
    gc.collect()
    assert caplog.records == []  # no "Task was destroyed but it is pending"
    assert start(returns) == "result"


def test_cancelling_when_the_loop_is_closed(machines):
    """In a finally block of the goroutine that waits, when the run ends."""
    log = []

    async def client():
        ctx = context.with_cancel(context.background())
        try:
            await aio.run(forever(), ctx=ctx)
        finally:
            ctx.cancel()
            log.append("closed")

    async def main():
        loop = await aio.run(loop_of())
        go(client)
        await aio.run(asyncio.sleep(0.01))
        return loop

    assert start(main, machines=machines).is_closed()
    assert log == ["closed"]


# -- the process -----------------------------------------------------------------------------


def test_ctrl_c_cancels_calls():
    status, out, err = program(
        """
        async def work():
            print("begin", flush=True)
            try:
                await forever()
            finally:
                await asyncio.sleep(0.01)
                print("cleaned up")

        async def main():
            await aio.run(work())

        start(main)
        """,
        signals=1,
    )
    assert (status, out) == (-signal.SIGINT, "begin\ncleaned up\n")
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_a_second_ctrl_c_does_not_wait_for_tasks():
    status, out, err = program(
        """
        async def work():
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    print("no", flush=True)

        async def main():
            go(aio.run(work()))
            await aio.run(asyncio.sleep(0.01))
            print("begin", flush=True)
            await sleep(60)

        begun = time.monotonic()
        try:
            start(main)
        except KeyboardInterrupt:
            print("at once", time.monotonic() - begun < 4)
        """,
        signals=2,
        pause=0.5,
    )
    assert (status, out) == (0, "begin\nno\nat once True\n"), err


def test_ctrl_c_reaches_asyncio_code_that_computes():
    status, out, err = program(
        """
        async def work():
            print("begin", flush=True)
            try:
                while True:
                    pass
            except KeyboardInterrupt:
                print("told")
                raise

        async def main():
            go(aio.run(work()))
            await sleep(60)

        start(main)
        """,
        signals=2,
        pause=0.5,
    )
    assert (status, out) == (-signal.SIGINT, "begin\ntold\n"), err


def test_a_thread_that_sends_for_ever_does_not_keep_the_process():
    status, out, err = program(
        """
        async def work(ch):
            await asyncio.to_thread(ch.send_blocking, 1)

        async def main():
            go(aio.run(work(chan())))
            await sleep(0.05)

        start(main)
        print("over")
        """
    )
    assert (status, out, err) == (0, "over\n", "")


def test_sys_exit_in_asyncio_code_is_the_exit_status():
    status, out, err = program(
        """
        import sys
        async def work():
            await asyncio.sleep(0.01)
            sys.exit(7)

        async def main():
            go(aio.run(work()))
            await sleep(60)

        start(main)
        """
    )
    assert (status, out, err) == (7, "", "")
