"""A failure that escapes a goroutine ends the program: what is printed, raised and returned."""

import re
import subprocess
import sys
import textwrap
import threading
import traceback
from pathlib import Path
from typing import Any

import children
import pytest

from goroutine import GoroutineError, GoroutinePanic, chan, go, gosched, sleep, start

pytestmark = pytest.mark.timeout(40)


async def fails_deep_down(depth: int) -> None:
    if depth:
        await fails_deep_down(depth - 1)
    await sleep(0.001)
    raise LookupError("down here")


async def rests() -> None:
    await sleep(1000)


def test_start_raises_it_chained(io: str, machines: int, capfd: pytest.CaptureFixture[str]) -> None:
    failure = ValueError("what failed")

    async def child() -> None:
        await gosched()
        raise failure

    async def main() -> None:
        go(child)
        await rests()

    with pytest.raises(GoroutinePanic) as caught:
        start(main, machines=machines, io=io)
    assert isinstance(caught.value, GoroutineError)
    assert caught.value.__cause__ is failure
    assert re.fullmatch(
        r"panic in goroutine \d+ \(test_panic.*\.child\): ValueError: what failed",
        str(caught.value),
    )
    frames = traceback.extract_tb(failure.__traceback__)
    assert [frame.name for frame in frames] == ["child"]
    assert capfd.readouterr().err.startswith("panic: ValueError: what failed\n\ngoroutine ")


def test_what_is_printed(machines: int, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        go(fails_deep_down, 2)
        await rests()

    with pytest.raises(GoroutinePanic):
        start(main, machines=machines)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "panic: LookupError: down here"
    assert lines[1] == ""
    assert re.fullmatch(r"goroutine \d+ \[running\]:", lines[2])
    assert lines[3] == "Traceback (most recent call last):"
    files = [line for line in lines if line.startswith("  File ")]
    assert len(files) == 3
    for line in files:
        assert line.endswith("in fails_deep_down")  # and none of the runtime's
        assert f'"{__file__}"' in line
    assert lines[-2] == "LookupError: down here"
    assert lines[-1] == ("created by test_panic.test_what_is_printed.<locals>.main in goroutine 1")


@pytest.mark.parametrize(
    ("failure", "first"),
    [
        (ValueError(), "panic: ValueError"),
        (ValueError("two\nlines"), "panic: ValueError: two"),
        (OSError(2, "No such file"), "panic: FileNotFoundError: [Errno 2] No such file"),
        (GeneratorExit(), "panic: GeneratorExit"),
        (BaseExceptionGroup("two", [ValueError("one"), KeyboardInterrupt()]), "panic: BaseExc"),
    ],
)
def test_any_exception(
    failure: BaseException, first: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def child() -> None:
        raise failure

    async def main() -> None:
        go(child)
        await rests()

    with pytest.raises(GoroutinePanic) as caught:
        start(main, machines=1)
    assert caught.value.__cause__ is failure
    assert capfd.readouterr().err.startswith(first)


def test_an_exception_that_cannot_be_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def child() -> None:
        raise Mute

    async def main() -> None:
        go(child)
        await rests()

    with pytest.raises(GoroutinePanic) as caught:
        start(main, machines=2)
    assert isinstance(caught.value.__cause__, Mute)
    assert "Mute" in capfd.readouterr().err


def test_causes_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    async def child() -> None:
        try:
            raise KeyError("cause")
        except KeyError as failure:
            raise ValueError("effect") from failure

    async def main() -> None:
        go(child)
        await rests()

    with pytest.raises(GoroutinePanic):
        start(main, machines=1)
    err = capfd.readouterr().err
    assert "KeyError: 'cause'" in err
    assert "The above exception was the direct cause" in err


@pytest.mark.parametrize("kind", ["plain", "coroutine", "await"])
def test_kinds_of_goroutines(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    def plain() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        g: Any = go(plain) if kind == "plain" else go(fails_deep_down(0))
        g.name = "the one"
        if kind == "await":
            await g  # doesn't raise it: the program ends
            raise AssertionError("not reached")
        await rests()

    with pytest.raises(GoroutinePanic, match=r"\(the one\)"):
        start(main, machines=1)
    err = capfd.readouterr().err
    assert "runtime" not in err.replace(str(Path(__file__).parent), "")
    assert "created by" in err


def test_grandchild_of_a_foreign_thread(capfd: pytest.CaptureFixture[str]) -> None:
    async def child() -> None:
        go(fails_deep_down, 0)
        await rests()

    async def main() -> None:
        thread = threading.Thread(target=go, args=(child,))
        thread.start()
        await rests()

    with pytest.raises(GoroutinePanic):
        start(main, machines=2)
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"created by test_panic\.\S+\.child in goroutine \d+", last)


def test_many_at_once_are_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    """On all machines at the same time. The first decides; the others end quietly."""
    gate = threading.Barrier(4)

    def fails() -> None:
        gate.wait(10)
        raise LookupError

    async def main() -> None:
        for _ in range(4):
            go(fails)
        await rests()

    with pytest.raises(GoroutinePanic):
        start(main, machines=4)
    assert capfd.readouterr().err.count("panic: ") == 1


def test_a_panic_just_before_main_returns() -> None:
    async def main() -> int:
        go(fails_deep_down, 0)
        return 5

    for _ in range(20):
        try:
            assert start(main, machines=2) == 5
        except GoroutinePanic:  # it was quicker, on a busy machine
            pass


def test_after_a_panic_all_works(machines: int) -> None:
    async def main() -> int:
        ch = chan()
        go(ch.send, 3)
        return int(await ch.recv())

    async def panics() -> None:
        go(fails_deep_down, 0)
        await rests()

    for _ in range(3):
        with pytest.raises(GoroutinePanic):
            start(panics, machines=machines)
        assert start(main, machines=machines) == 3


WAYS = """
    from goroutine import context

    def deep():
        raise ValueError("what failed")

    async def plain():
        deep()

    async def called():
        await blocking(deep)

    async def nested_call():
        def call():
            ch = chan()
            async def inner():
                try:
                    await blocking(deep)
                except ValueError as failure:
                    await ch.send(failure)
            go(inner)
            raise ch.recv_blocking()
        await blocking(call)

    async def member():
        async with Group() as group:
            group.go(plain)
            await sleep(1000)

    async def two_members():
        async with Group() as group:
            group.go(plain)
            group.go(plain)

    async def body():
        async with Group() as group:
            group.go(sleep, 1000)
            deep()

    async def caused():
        try:
            await called()
        except ValueError as failure:
            raise LookupError("effect") from failure

    async def closed():
        ch = chan()
        ch.close()
        await ch.send(1)

    async def closes():
        context.after_func(context.with_timeout(context.background(), 0.001), deep)
        await sleep(1000)

    async def main():
        way = globals()[sys.argv[1]]
        go(way)
        await sleep(1000)

    start(main, machines=2)
"""


@pytest.mark.parametrize(
    ("way", "functions"),
    [
        ("deep", ["deep"]),  # a plain function
        ("plain", ["plain", "deep"]),
        ("called", ["called", "deep"]),
        ("member", ["member", "plain", "deep"]),
        ("body", ["body", "deep"]),
        ("closed", ["closed"]),
        ("caused", ["called", "deep", "caused"]),
    ],
)
def test_ways_to_fail(way: str, functions: list[str]) -> None:
    """However it came: the program's own frames are told, none of ours, and status 2."""
    status, out, err = children.run(WAYS, way)
    assert (status, out) == (2, ""), err
    lines = err.splitlines()
    assert lines[0].startswith("panic: ")
    assert lines[1] == ""
    assert re.fullmatch(r"goroutine \d+ \[running\]:", lines[2])
    files = [line for line in lines if line.startswith("  File ")]
    assert all("/goroutine/" not in line for line in files), err
    told = [line.rpartition(" in ")[2] for line in files]
    told = [name for name in told if not name.startswith("<")]
    # (The last ones of a chain: how it came to its cause is told, too.)
    assert told[-len(functions) :] == functions or told == functions, err
    assert lines[-1] == "created by __main__.main in goroutine 1"


@pytest.mark.parametrize("way", ["nested_call", "two_members", "closes"])
def test_more_ways_to_fail(way: str) -> None:
    status, out, err = children.run(WAYS, way)
    assert (status, out) == (2, ""), err
    assert err.startswith("panic: ")
    assert 'raise ValueError("what failed")' in err
    assert "/goroutine/" not in err
    if way == "two_members":
        assert err.startswith("panic: ExceptionGroup: 2 failures in a Group")
        assert err.count("ValueError: what failed") == 2


def test_a_folder_that_begins_like_ours_is_not_ours(tmp_path: Path) -> None:
    import goroutine
    from goroutine.runtime import dump, panic

    folder = str(Path(goroutine.__file__).parent)
    for hidden in (dump._PACKAGE, panic._PACKAGE):
        assert f"{folder}/channel.py".startswith(hidden)
        assert not f"{folder}_app/main.py".startswith(hidden)


class TestExitStatus:
    PANICS = """
        import atexit
        atexit.register(print, "atexit ran")
        async def child():
            raise ValueError("what failed")
        async def main():
            go(child)
            await sleep(1000)
        {before}
        start(main)
    """

    def program(self, before: str = "") -> str:
        return self.PANICS.format(before=before)

    def test_uncaught(self) -> None:
        status, out, err = children.run(self.program())
        assert status == 2
        assert out == "atexit ran\n"
        assert err.startswith("panic: ValueError: what failed\n\ngoroutine ")
        assert err.splitlines()[-1] == "created by __main__.main in goroutine 1"
        # The first line, the source line, the end of the traceback; and not a second time.
        assert err.count("what failed") == 3

    def test_caught(self) -> None:
        code = self.program().replace(
            "start(main)", "try: start(main)\n        except Exception: pass"
        )
        status, out, err = children.run(code)
        assert (status, out) == (0, "atexit ran\n")
        assert err.startswith("panic: ")

    def test_another_failure_afterwards(self) -> None:
        code = self.program().replace(
            "start(main)", "try: start(main)\n        except Exception: int('x')"
        )
        status, _, err = children.run(code)
        assert status == 1
        assert err.rstrip().endswith("ValueError: invalid literal for int() with base 10: 'x'")

    def test_a_hook_of_the_program_is_called(self) -> None:
        code = self.program("sys.excepthook = lambda kind, *_: print('hook', kind.__name__)")
        status, out, _ = children.run(code)
        assert (status, out) == (2, "hook GoroutinePanic\natexit ran\n")

    def test_a_failure_of_main(self) -> None:
        code = """
            async def main(): raise ValueError("of main")
            start(main)
        """
        status, _, err = children.run(code)
        assert status == 1
        assert err.startswith("Traceback (most recent call last):\n")
        assert "panic" not in err
        assert 'in main\n    async def main(): raise ValueError("of main")\n' in err

    def test_closed_stderr(self) -> None:
        status, out, _ = children.run(self.program("sys.stderr.close()"))
        assert (status, out) == (2, "atexit ran\n")

    def test_module_runner(self, tmp_path: Path) -> None:
        app = tmp_path / "app.py"
        app.write_text(
            textwrap.dedent("""
                from goroutine import go, sleep
                async def main():
                    go(lambda: 1 / 0)
                    await sleep(1000)
            """)
        )
        result = subprocess.run(
            [sys.executable, "-X", "gil=0", "-m", "goroutine", str(app)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert result.returncode == 2
        assert result.stderr.startswith("panic: ZeroDivisionError: division by zero\n")
