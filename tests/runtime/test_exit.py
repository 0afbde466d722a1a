"""How goroutines and programs end early: goexit, sys.exit, Ctrl-C; and who is running."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import children
import pytest

from goroutine import (
    Deadlock,
    GoroutinePanic,
    Group,
    blocking,
    chan,
    current,
    go,
    goexit,
    gosched,
    num_goroutine,
    sleep,
    start,
    sync,
)

pytestmark = pytest.mark.timeout(30)


# -- goexit ----------------------------------------------------------------------------------


class TestGoexit:
    def test_it_ends_one_goroutine(self, machines: int) -> None:
        """Quietly: who waits for it goes on, and its result is None."""
        after = []

        async def inner() -> None:
            await gosched()
            goexit()

        async def child() -> int:
            await inner()
            after.append(1)
            return 1

        async def main() -> list[Any]:
            got = [await g for g in [go(child) for _ in range(20)]]
            assert num_goroutine() == 1
            return got

        assert start(main, machines=machines) == [None] * 20
        assert after == []

    def test_a_plain_function(self) -> None:
        def child() -> int:
            goexit()

        async def main() -> int | None:
            return await go(child)

        assert start(main) is None

    def test_finally_blocks_await(self, io: str, machines: int) -> None:
        """All of them, from the inside out, on whatever machine, and as long as they like."""
        order = []

        async def inner(ch: Any) -> None:
            try:
                goexit()
            finally:
                await sleep(0.002)
                order.append("inner")

        async def child(ch: Any) -> None:
            try:
                async with mutex:
                    await inner(ch)
            finally:
                assert mutex.try_lock()
                mutex.unlock()
                order.append(await ch.recv())
                order.append(await blocking(str, "called"))

        async def main() -> None:
            ch = chan()
            g = go(child, ch)
            await ch.send("received")
            await g

        mutex = sync.Mutex()
        start(main, machines=machines, io=io)
        assert order == ["inner", "received", "called"]

    def test_except_exception_does_not_see_it(self) -> None:
        async def child() -> None:
            try:
                goexit()
            except Exception:
                pytest.fail("seen")

        async def main() -> None:
            await go(child)

        start(main)

    def test_a_failure_in_a_finally_block_is_a_panic(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        async def child() -> None:
            try:
                goexit()
            finally:
                raise ValueError("in finally")

        async def main() -> None:
            await go(child)

        with pytest.raises(GoroutinePanic) as caught:
            start(main)
        assert isinstance(caught.value.__cause__, ValueError)
        assert capfd.readouterr().err.startswith("panic: ValueError: in finally\n")

    def test_of_main_lets_the_others_end(self, machines: int) -> None:
        """They go on, and decide how the run ends."""
        order = []

        async def child() -> None:
            await sleep(0.01)
            order.append("child")
            raise SystemExit(5)

        async def main() -> None:
            go(child)
            try:
                goexit()
            finally:
                await gosched()
                order.append("main")

        with pytest.raises(SystemExit) as caught:
            start(main, machines=machines)
        assert caught.value.code == 5
        assert order == ["main", "child"]

    def test_of_main_and_then_of_all_others(self) -> None:
        async def child() -> None:
            await gosched()
            goexit()

        async def main() -> None:
            for _ in range(5):
                go(child)
            goexit()

        with pytest.raises(Deadlock, match=r"^no goroutines \(main called goexit\) - deadlock!$"):
            start(main, machines=2)

    def test_as_a_process(self) -> None:
        status, out, err = children.run("""
            async def main():
                try:
                    goexit()
                finally:
                    print("finally")
            start(main)
        """)
        text = "fatal error: no goroutines (main called goexit) - deadlock!\n"
        assert (status, out, err) == (2, "finally\n", text)

    def test_of_a_member_of_a_group(self) -> None:
        """No failure: the others go on."""

        async def child() -> None:
            goexit()

        async def main() -> int:
            async with Group() as group:
                group.go(child)
                other = group.go(sleep, 0.005)
            assert other.done
            return 5

        assert start(main) == 5

    def test_outside_of_a_goroutine(self) -> None:
        with pytest.raises(RuntimeError, match="not in a goroutine"):
            goexit()

        async def main() -> None:
            with pytest.raises(RuntimeError, match="not in a goroutine"):
                await blocking(goexit)

        start(main)

    def test_as_the_run_ends(self, capfd: pytest.CaptureFixture[str]) -> None:
        """In a finally block of a goroutine that is being closed there is nothing to exit."""

        async def child() -> None:
            try:
                await chan().recv()
            finally:
                goexit()

        async def main() -> None:
            go(child)
            await gosched()

        start(main)
        err = capfd.readouterr().err
        assert err.startswith("while closing goroutine ")
        assert "not in a goroutine" in err


# -- sys.exit and KeyboardInterrupt --------------------------------------------------------------


@pytest.mark.parametrize("place", ["main", "goroutine", "plain", "member", "call"])
@pytest.mark.parametrize(
    "failure", [SystemExit(3), SystemExit(), SystemExit("text"), KeyboardInterrupt()], ids=repr
)
def test_it_leaves_start_as_it_is(
    failure: BaseException, place: str, machines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    finals = []

    def plain() -> None:
        raise failure

    async def fails() -> None:
        await gosched()
        raise failure

    async def waits() -> None:
        try:
            await chan().recv()
        finally:
            finals.append(1)

    async def main() -> None:
        go(waits)
        await gosched()
        if place == "main":
            await fails()
        elif place == "member":
            async with Group() as group:
                group.go(sleep, 1000)
                group.go(fails)
        elif place == "call":
            go(blocking, plain)
        else:
            go(plain if place == "plain" else fails)
        await sleep(1000)

    with pytest.raises(type(failure)) as caught:
        start(main, machines=machines)
    assert caught.value is failure
    assert failure.__cause__ is None
    assert finals == [1]
    assert capfd.readouterr().err == ""
    failure.__traceback__ = None


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('a text')", 1, "a text\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, None),
    ],
)
@pytest.mark.parametrize("start_it", ["await child()", "go(child); await sleep(1000)"])
def test_exit_status(call: str, status: int, text: str | None, start_it: str) -> None:
    result = children.run(f"""
        import atexit
        atexit.register(print, "atexit ran")
        async def child():
            {call}
        async def main():
            {start_it}
        start(main)
    """)
    assert (result.status, result.out) == (status, "atexit ran\n")
    if text is None:
        assert result.err.rstrip().endswith("KeyboardInterrupt")
        assert "panic" not in result.err
    else:
        assert result.err == text


def test_a_group_of_failures_is_a_panic() -> None:
    async def main() -> None:
        go(fails)
        await sleep(1000)

    async def fails() -> None:
        raise BaseExceptionGroup("two", [ValueError("one"), SystemExit(3)])

    with pytest.raises(GoroutinePanic):
        start(main)


def test_ctrl_c_while_all_wait(machines: int, io: str) -> None:
    """Sysmon is in its long sleep; the finally blocks run; no goroutine sees the interrupt."""
    finals = []

    async def waits() -> None:
        try:
            await sleep(1000)
        except BaseException as failure:
            finals.append(type(failure))
            raise

    async def main() -> None:
        go(waits)
        await waits()

    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        start(main, machines=machines, io=io)
    timer.join()
    assert finals == [GeneratorExit, GeneratorExit]


def test_ctrl_c_as_a_process() -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-X",
            "gil=0",
            "-c",
            "from goroutine import *\n"
            "async def main():\n"
            "    try:\n"
            "        go(lambda: None)\n"
            "        print('begun', flush=True)\n"
            "        await sleep(1000)\n"
            "    finally:\n"
            "        print('finally', flush=True)\n"
            "start(main)\n",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert out == "finally\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert child.returncode == -signal.SIGINT


# -- a run that ends, and blocks that don't want to ----------------------------------------------


def test_finally_blocks_that_fail_or_wait_as_the_run_ends(
    machines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each is told of on its own; the others are closed all the same, and so is the run."""
    closed = []

    async def fails(n: int) -> None:
        try:
            await chan().recv()
        finally:
            closed.append(n)
            raise LookupError(f"number {n}")

    async def waits() -> None:
        try:
            await chan().recv()
        finally:
            closed.append(10)
            await sleep(0.001)
            closed.append(-1)

    async def exits() -> None:
        try:
            await chan().recv()
        finally:
            closed.append(20)
            sys.exit(4)

    async def main() -> str:
        for fn, *args in ((fails, 1), (waits,), (exits,), (fails, 2)):
            go(fn, *args)
        await sleep(0.005)
        return "result"

    assert start(main, machines=machines) == "result"
    assert sorted(closed) == [1, 2, 10, 20]
    err = capfd.readouterr().err
    assert err.count("while closing goroutine ") == 3
    assert "panic: LookupError: number 1\n" in err
    assert "panic: LookupError: number 2\n" in err
    assert err.count("awaited in a finally block while the program was ending") == 1


def test_a_panic_in_a_finally_block_while_closing_for_a_panic(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The first one decides what is raised, and is printed first."""

    async def second() -> None:
        try:
            await chan().recv()
        finally:
            raise LookupError("second")

    async def first() -> None:
        raise ValueError("first")

    async def main() -> None:
        go(second)
        await sleep(0.005)
        go(first)
        await sleep(1000)

    with pytest.raises(GoroutinePanic) as caught:
        start(main, machines=2)
    assert str(caught.value.__cause__) == "first"
    err = capfd.readouterr().err
    assert err.startswith("panic: ValueError: first\n")
    assert re.search(r"\nwhile closing goroutine \d+:\npanic: LookupError: second\n", err)


def test_who_starts_goroutines_while_closing(capfd: pytest.CaptureFixture[str]) -> None:
    """They never run, and are closed in their turn."""
    ran = []

    async def never() -> None:
        ran.append(1)

    async def starts() -> None:
        try:
            await chan().recv()
        finally:
            go(never)

    async def main() -> None:
        go(starts)
        await gosched()

    start(main)
    assert ran == []
    assert num_goroutine() == 0
    assert capfd.readouterr().err == ""


# -- current ---------------------------------------------------------------------------------------


class TestCurrent:
    def test_it_is_the_handle(self, machines: int) -> None:
        async def child(out: Any) -> None:
            me = current()
            await gosched()
            await sleep(0.001)
            assert current() is me
            await out.send(me)

        def plain() -> Any:
            return current()

        async def main() -> None:
            me = current()
            assert (me.id, me.done) == (1, False)
            out = chan()
            gs = [go(child, out) for _ in range(20)]
            assert {id(await out.recv()) for _ in gs} == {id(g) for g in gs}
            g = go(plain)
            assert await g is g
            async with Group() as group:
                member = group.go(plain)
            assert member.result() is member
            assert current() is me

        start(main, machines=machines)

    def test_outside(self) -> None:
        with pytest.raises(RuntimeError, match="not in a goroutine"):
            current()

        async def main() -> None:
            with pytest.raises(RuntimeError, match="not in a goroutine"):
                await blocking(current)

        start(main)
        with pytest.raises(RuntimeError, match="not in a goroutine"):
            current()


def test_time_to_end() -> None:
    """A run whose goroutines all end by goexit leaves nothing behind to wait for."""

    async def child() -> None:
        goexit()

    async def main() -> None:
        for _ in range(1000):
            go(child)
        while num_goroutine() > 1:
            await gosched()

    before = time.monotonic()
    start(main, machines=4)
    assert time.monotonic() - before < 10
