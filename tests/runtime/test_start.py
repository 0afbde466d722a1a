"""start(): what goes in, what comes out, and what is closed at the end."""

import os
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from typing import Any

import children
import pytest

import goroutine
from goroutine import GoroutinePanic, chan, go, gosched, net, num_goroutine, sleep, start

pytestmark = pytest.mark.timeout(40)


async def nothing() -> None:
    pass


class TestResult:
    def test_what_main_returns(self, io: str, machines: int) -> None:
        thing = object()

        async def main(a: object, b: int) -> tuple[object, int]:
            await gosched()
            return a, b

        assert start(main, thing, 5, machines=machines, io=io) == (thing, 5)
        assert start(nothing, machines=machines, io=io) is None

    def test_any_callable_that_makes_a_coroutine(self) -> None:
        assert start(lambda: self.method(3), machines=1) == 3
        assert start(self.method, 4, machines=1) == 4

    async def method(self, n: int) -> int:
        return n

    def test_main_runs_on_a_machine_and_not_here(self) -> None:
        async def main() -> tuple[int, str, int]:
            return threading.get_ident(), threading.current_thread().name, goroutine.machines()

        ident, name, machines = start(main, machines=3)
        assert ident != threading.get_ident()
        assert name.startswith("goroutine-M")
        assert machines == 3
        assert goroutine.machines() == num_goroutine() == 0

    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, BaseException])
    def test_exception_is_the_same_object(
        self, kind: type[BaseException], io: str, machines: int
    ) -> None:
        failure = kind("text")

        async def main() -> None:
            await sleep(0.001)
            raise failure

        with pytest.raises(kind) as caught:
            start(main, machines=machines, io=io)
        assert caught.value is failure
        assert failure.__cause__ is failure.__context__ is None
        assert not hasattr(failure, "__notes__")

    def test_traceback_has_no_frames_of_the_machine(self) -> None:
        async def inner() -> None:
            raise LookupError("x")

        async def main() -> None:
            await inner()

        with pytest.raises(LookupError) as caught:
            start(main, machines=1)
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        # The caller, start and what it calls, then at once the program's own frames.
        assert names[0] == "test_traceback_has_no_frames_of_the_machine"
        assert names[-2:] == ["main", "inner"]
        assert names[1:-2] == ["start", "run"]
        assert "machine.py" not in "".join(traceback.format_exception(caught.value))

    def test_nothing_is_kept_of_it(self) -> None:
        class Thing:
            gone = 0

            def __del__(self) -> None:
                Thing.gone += 1

        async def main(thing: Thing, fail: bool) -> Thing:
            if fail:
                raise ValueError(thing)
            return thing

        start(main, Thing(), False, machines=2)
        assert Thing.gone == 1
        try:
            start(main, Thing(), True, machines=2)
        except ValueError:
            pass
        assert Thing.gone == 2


class TestArguments:
    def test_nested(self, machines: int) -> None:
        async def main() -> str:
            coroutine = nothing
            with pytest.raises(RuntimeError, match="already running") as caught:
                start(coroutine)
            return str(caught.value)

        assert start(main, machines=machines)
        start(nothing, machines=machines)  # and it can be called again

    def test_from_another_thread_while_it_runs(self) -> None:
        async def main() -> list[str]:
            said: list[str] = []

            def attempt() -> None:
                try:
                    start(nothing)
                except RuntimeError as failure:
                    said.append(str(failure))

            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()
            return said

        assert start(main, machines=1) == ["goroutine.start() is already running in this process"]

    @pytest.mark.parametrize("main", [None, 3, "main", [nothing]])
    def test_what_is_no_function(self, main: Any) -> None:
        with pytest.raises(TypeError, match="start\\(\\) takes an async def function"):
            start(main, machines=1)
        start(nothing, machines=1)

    def test_plain_function(self) -> None:
        with pytest.raises(TypeError, match="not one that returns int"):
            start(lambda: 3, machines=1)  # type: ignore[arg-type, return-value]
        with pytest.raises(TypeError, match="not one that returns NoneType"):
            start(lambda: None, machines=1)  # type: ignore[arg-type, return-value]
        start(nothing, machines=1)

    def test_coroutine_object(self) -> None:
        coroutine = nothing()
        with pytest.raises(TypeError, match="async def function, not coroutine"):
            start(coroutine, machines=1)  # type: ignore[arg-type]
        coroutine.close()

    def test_wrong_arguments_of_main(self) -> None:
        with pytest.raises(TypeError, match="positional argument"):
            start(nothing, 1, machines=2)
        start(nothing, machines=2)

    @pytest.mark.parametrize("machines", [0, -1, 1025])
    def test_machines_out_of_range(self, machines: int) -> None:
        with pytest.raises(ValueError, match=f"between 1 and 1024, not {machines}"):
            start(nothing, machines=machines)

    @pytest.mark.parametrize("machines", ["2", 2.0, True, [1]])
    def test_machines_of_another_type(self, machines: Any) -> None:
        with pytest.raises(TypeError, match="machines must be an int"):
            start(nothing, machines=machines)

    @pytest.mark.parametrize("io", ["", "uring", "EPOLL", "select", None, 3])
    def test_io(self, io: Any) -> None:
        with pytest.raises(ValueError, match="'auto', 'io_uring' or 'epoll', not"):
            start(nothing, machines=1, io=io)

    @pytest.mark.parametrize("threads", [0, -5])
    def test_blocking_threads(self, threads: int) -> None:
        with pytest.raises(ValueError, match="blocking_threads must be at least 1"):
            start(nothing, machines=1, blocking_threads=threads)

    @pytest.mark.parametrize(
        ("environ", "count"),
        [
            ({"GOROUTINE_MACHINES": "3"}, 3),
            ({"GOMAXPROCS": "5"}, 5),
            ({"GOROUTINE_MACHINES": "3", "GOMAXPROCS": "5"}, 3),
            ({"GOROUTINE_MACHINES": "", "GOMAXPROCS": "5"}, 5),
            ({}, len(os.sched_getaffinity(0))),
        ],
    )
    def test_environment(
        self, environ: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("GOROUTINE_MACHINES", raising=False)
        monkeypatch.delenv("GOMAXPROCS", raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

        async def main() -> int:
            return goroutine.machines()

        assert start(main) == count
        assert start(main, machines=2) == 2  # the argument wins

    @pytest.mark.parametrize("name", ["GOROUTINE_MACHINES", "GOMAXPROCS"])
    def test_bad_environment(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GOROUTINE_MACHINES", raising=False)
        monkeypatch.setenv(name, "many")
        with pytest.raises(ValueError, match=f"{name} must be a whole number, not 'many'"):
            start(nothing)
        monkeypatch.setenv(name, "0")
        with pytest.raises(ValueError, match="between 1 and 1024"):
            start(nothing)


class TestThreads:
    def test_from_a_thread_that_is_not_the_main_one(self, io: str, machines: int) -> None:
        got: list[int] = []

        async def main() -> int:
            await sleep(0.001)
            return 5

        thread = threading.Thread(target=lambda: got.append(start(main, machines=machines, io=io)))
        thread.start()
        thread.join(20)
        assert got == [5]

    def test_one_after_the_other_from_several_threads(self) -> None:
        """Only one at a time gets in; the others are told, and nothing breaks."""
        done, refused = [], []

        async def main() -> None:
            await sleep(0.001)

        def attempt() -> None:
            for _ in range(10):
                try:
                    start(main, machines=2)
                    done.append(1)
                except RuntimeError:
                    refused.append(1)

        threads = [threading.Thread(target=attempt) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert done
        assert len(done) + len(refused) == 30
        start(nothing, machines=1)


class TestGil:
    """A child with the GIL on; -X gil=1 is the only way to have it in this build."""

    def test_one_warning_that_names_the_cause(self) -> None:
        code = """
            async def main(): return machines()
            for _ in range(3):
                print(start(main, machines=2))
        """
        status, out, err = children.run(code, gil=1, warnings="always")
        assert (status, out) == (0, "2\n" * 3)
        assert err.count("RuntimeWarning") == 1
        assert "the GIL is on, so goroutines don't run in parallel" in err
        assert "-X gil=1 or PYTHON_GIL=1 asks for it" in err
        assert "app.py:7" in err  # the caller of start

    def test_require_off(self) -> None:
        code = """
            async def main(): print("ran")
            try: start(main)
            except RuntimeError as failure: print(failure)
            try: start(main)
            except RuntimeError as failure: print(failure)
        """
        out = children.succeed(code, gil=1, environ={"GOROUTINE_GIL": "require-off"})
        assert out.count("the GIL is on") == 2
        assert "ran" not in out

    def test_off(self) -> None:
        code = """
            async def main(): print("ran")
            start(main)
        """
        assert children.succeed(code, environ={"GOROUTINE_GIL": "require-off"}) == "ran\n"

    def test_switched_on_by_an_import(self) -> None:
        code = """
            import sysconfig, _cffi_backend
            async def main(): print("ran")
            start(main)
        """
        with_no_option = subprocess.run(
            [sys.executable, "-W", "always", "-c", children.PRELUDE + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert with_no_option.stdout == "ran\n"
        assert "importing cffi switched it on" in with_no_option.stderr

    def test_everything_works_with_it(self) -> None:
        code = """
            async def main():
                ch = chan(3)
                def produce(n):
                    return sum(range(n))
                async def relay(n):
                    await sleep(0.001)
                    await ch.send(await go(produce, n))
                for n in range(20):
                    go(relay, n)
                print(sum([await ch.recv() for _ in range(20)]))
            start(main, machines=4)
        """
        out = children.succeed(code, gil=1, warnings="ignore")
        assert out == f"{sum(sum(range(n)) for n in range(20))}\n"


class TestTheEnd:
    """main has returned: the others are closed where they wait."""

    def test_finally_blocks_run_in_order_of_age(self, io: str, machines: int) -> None:
        log: list[str] = []

        async def waits(name: str, wait: Callable[[], Any]) -> None:
            try:
                log.append(f"{name} began")
                await wait()
            except GeneratorExit:
                log.append(f"{name} exit")
                raise
            finally:
                log.append(name)

        async def joins(g: Any) -> None:
            await g

        async def main() -> str:
            ch, full = chan(), chan()
            listener = await net.listen("tcp", "127.0.0.1:0")
            go(waits, "recv", ch.recv)
            go(waits, "send", lambda: full.send(1))
            sleeper = go(waits, "sleep", lambda: sleep(1000))
            go(waits, "accept", listener.accept)
            go(waits, "join", lambda: joins(sleeper))
            while len(log) < 5:  # who has not begun has no block to run
                await sleep(0.001)
            log.clear()
            return "result"

        assert start(main, machines=machines, io=io) == "result"
        names = ["recv", "send", "sleep", "accept", "join"]
        # Each in one go. By age, which is known here if they all began on one machine.
        assert sorted(log[1::2]) == sorted(names)
        assert log[::2] == [f"{name} exit" for name in log[1::2]]
        if machines == 1:
            assert log[1::2] == names

    def test_also_when_main_fails_or_another_panics(
        self, machines: int, capfd: pytest.CaptureFixture[str]
    ) -> None:
        log: list[str] = []

        async def waits(began: Any) -> None:
            try:
                await began.send(None)
                await sleep(1000)
            finally:
                log.append("closed")

        async def main() -> None:
            began = chan()
            go(waits, began)
            await began.recv()
            raise LookupError

        async def panics() -> None:
            began = chan()
            go(waits, began)
            await began.recv()
            go(lambda: 1 / 0)
            await sleep(1000)

        with pytest.raises(LookupError):
            start(main, machines=machines)
        assert log == ["closed"]
        with pytest.raises(GoroutinePanic):
            start(panics, machines=machines)
        assert log == ["closed"] * 2
        assert capfd.readouterr().err.startswith("panic: ZeroDivisionError: division by zero\n")

    def test_awaiting_in_finally_is_reported(self, capfd: pytest.CaptureFixture[str]) -> None:
        log: list[str] = []

        async def awaits_in_finally() -> None:
            try:
                await sleep(1000)
            finally:
                log.append("before")
                await sleep(1)
                log.append("after")

        async def main() -> None:
            go(awaits_in_finally)
            go(awaits_in_finally)
            await sleep(0.005)

        start(main, machines=1)
        assert log == ["before"] * 2
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 2
        for line in lines:
            assert "awaits_in_finally" in line
            assert "awaited in a finally block while the program was ending" in line

    def test_what_a_finally_block_raises_is_reported(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        async def raises(failure: BaseException) -> None:
            try:
                await sleep(1000)
            finally:
                raise failure

        async def main() -> int:
            go(raises, ValueError("first text"))
            go(raises, KeyboardInterrupt("second text"))
            go(raises, RuntimeError("third text"))
            await sleep(0.005)
            return 7

        assert start(main, machines=1) == 7
        err = capfd.readouterr().err
        for text in ("ValueError: first text", "KeyboardInterrupt: second text", "third text"):
            assert text in err
        assert err.count("while closing goroutine") == 3

    def test_what_finally_blocks_may_do(self, io: str, machines: int) -> None:
        """Closing, starting, sending to those that wait: nothing hangs, nothing is reported."""
        log: list[str] = []

        async def tidies(ch: Any, conn: net.Conn, listener: net.Listener, began: Any) -> None:
            try:
                await began.send(None)
                await sleep(1000)
            finally:
                conn.close()
                listener.close()
                ch.close()
                go(late)
                go(lambda: log.append("plain"))
                log.append("tidied")

        async def late() -> None:
            log.append("late ran")

        async def waits(ch: Any, began: Any) -> None:
            try:
                await began.send(None)
                await ch.recv()
            finally:
                log.append("waited")

        async def reads(conn: net.Conn, began: Any) -> None:
            try:
                await began.send(None)
                await conn.read(10)
            finally:
                conn.close()
                log.append("read")

        async def main() -> None:
            ch, began = chan(), chan()
            listener = await net.listen("tcp", "127.0.0.1:0")
            dialled = await net.dial("tcp", listener.address)
            accepted = await listener.accept()
            go(tidies, ch, dialled, listener, began)
            go(waits, ch, began)
            go(reads, accepted, began)
            for _ in range(3):
                await began.recv()
            await sleep(0.005)

        before = len(os.listdir("/proc/self/fd"))
        start(main, machines=machines, io=io)
        assert sorted(log) == ["read", "tidied", "waited"]
        assert len(os.listdir("/proc/self/fd")) == before

    def test_goroutines_that_never_began(self, recwarn: pytest.WarningsRecorder) -> None:
        """No "was never awaited", whatever they would have returned."""

        async def value() -> int:
            await sleep(1000)
            return 5

        async def main() -> None:
            for _ in range(500):
                go(value)
                go(nothing)
                go(value())

        start(main, machines=1)
        assert [str(warning.message) for warning in recwarn] == []

    def test_finally_that_starts_for_ever(self) -> None:
        """A goroutine that starts another as it is closed cannot keep the program alive."""

        async def hydra() -> None:
            try:
                await sleep(1000)
            finally:
                go(hydra)

        async def main() -> None:
            go(hydra)
            await sleep(0.005)

        start(main, machines=1)

    def test_a_result_while_others_compute(self) -> None:
        """The end waits for a step that is under way, and for no other."""
        release = threading.Event()
        steps: list[str] = []

        async def computes() -> None:
            steps.append("begun")
            release.wait(10)
            steps.append("ended")
            for _ in range(1000):  # more than a machine runs before it looks up
                await gosched()
            steps.append("not reached")

        async def main() -> None:
            go(computes)
            while not steps:
                await gosched()
            release.set()

        start(main, machines=2)
        assert steps == ["begun", "ended"]


class TestCtrlC:
    CODE = """
        import logging, signal

        logging.getLogger("goroutine").setLevel("ERROR")  # of who computes, that he does

        async def waits():
            try:
                await sleep(1000)
            finally:
                print("finally of waits")

        def computes():
            while not os.path.exists("/nowhere"):
                pass

        async def main():
            try:
                go(waits)
                await gosched()
                {more}
                await sleep(0.02)
                def again():
                    time.sleep(0.1)
                    os.kill(os.getpid(), signal.SIGINT)
                    {twice}
                threading.Thread(target=again, daemon=True).start()
                await sleep(1000)
            finally:
                print("finally of main")

        fds = len(os.listdir("/proc/self/fd"))
        try:
            start(main, machines={machines}, io="{io}")
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
        print(threading.active_count(), len(os.listdir("/proc/self/fd")) - fds)
    """

    def test_first(self, io: str, machines: int) -> None:
        code = self.CODE.format(more="", twice="", machines=machines, io=io)
        out = children.succeed(code)
        assert out == "finally of main\nfinally of waits\nKeyboardInterrupt\n1 0\n"

    @pytest.mark.parametrize("machines", [2, 4])
    def test_second_interrupts_what_computes(self, io: str, machines: int) -> None:
        twice = "time.sleep(0.3); os.kill(os.getpid(), signal.SIGINT)"
        code = self.CODE.format(more="go(computes)", twice=twice, machines=machines, io=io)
        out = children.succeed(code)
        assert out == "finally of main\nfinally of waits\nKeyboardInterrupt\n1 0\n"

    def test_first_lets_a_step_end(self) -> None:
        code = """
            import signal
            async def main():
                print("begun")
                os.kill(os.getpid(), signal.SIGINT)
                end = time.monotonic() + 0.3
                while time.monotonic() < end: pass
                print("ended")
                await sleep(1000)
            try: start(main, machines=1)
            except KeyboardInterrupt: print("KeyboardInterrupt")
        """
        assert children.succeed(code) == "begun\nended\nKeyboardInterrupt\n"

    def test_uncaught(self) -> None:
        code = """
            import signal
            async def main():
                os.kill(os.getpid(), signal.SIGINT)
                await sleep(1000)
            start(main)
        """
        status, _, err = children.run(code)
        assert status == -2
        assert err.rstrip().endswith("KeyboardInterrupt")

    def test_a_handler_of_the_program_that_raises(self) -> None:
        code = """
            import signal
            class Stop(Exception): pass
            def handler(*_): raise Stop("from the handler")
            signal.signal(signal.SIGTERM, handler)
            async def main():
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                    await sleep(1000)
                finally:
                    print("finally")
            try: start(main)
            except Stop as stop: print(stop)
        """
        assert children.succeed(code) == "finally\nfrom the handler\n"

    def test_a_handler_of_the_program_that_returns(self) -> None:
        code = """
            import signal
            ch = chan(1)
            signal.signal(signal.SIGTERM, lambda *_: go(ch.send, 5))
            async def main():
                os.kill(os.getpid(), signal.SIGTERM)
                print(await ch.recv())
            start(main)
        """
        assert children.succeed(code) == "5\n"
