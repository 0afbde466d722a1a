"""``python -m goroutine app.py``: arguments, what it looks for, exit statuses, Ctrl-C."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USAGE = """\
usage: python -X gil=0 -m goroutine APP.py [ARGUMENT ...]
       python -m goroutine dump PID
       python -m goroutine trace view FILE [-o PAGE]
"""

pytestmark = pytest.mark.timeout(60)


def command(*arguments):
    return [sys.executable, "-X", "gil=0", "-W", "error", "-m", "goroutine", *map(str, arguments)]


def environment():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GOROUTINE_", "GOMAXPROCS"))}
    return {**env, "PYTHONPATH": str(ROOT), "GOROUTINE_MACHINES": "2"}


@pytest.fixture
def run(tmp_path):
    """Run the module with some arguments: status, stdout, stderr."""

    def run(*arguments, cwd=tmp_path):
        done = subprocess.run(
            command(*arguments),
            cwd=cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def app(tmp_path, run):
    """Write an app and run it."""

    def app(source, *arguments, name="app.py"):
        (tmp_path / name).write_text(textwrap.dedent(source))
        return run(name, *arguments)

    return app


# -- usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--unknown",), ("-x", "app.py")])
def test_wrong_usage(run, arguments):
    assert run(*arguments) == (2, "", USAGE)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(run, option):
    status, out, err = run(option)
    assert (status, out + err) == (0, USAGE)


def test_a_missing_file(run, tmp_path):
    assert run("none.py") == (2, "", "goroutine: no such file: none.py\n")
    assert run(tmp_path) == (2, "", f"goroutine: no such file: {tmp_path}\n")


@pytest.mark.parametrize(
    "source", ["", "def main(): pass", "main = 5", "async def main(): yield", "class main: pass"]
)
def test_no_main(app, source):
    assert app(source) == (2, "", "goroutine: app.py has no 'async def main()'\n")


# -- running -------------------------------------------------------------------------------


def test_it_runs_main_as_goroutine_1(app):
    source = """
        from goroutine import chan, go, machines

        async def main():
            ch = chan()
            async def hello():
                await ch.send("hello")
            go(hello)
            print(await ch.recv(), machines())
    """
    assert app(source) == (0, "hello 2\n", "")


def test_arguments_are_the_app_s_own(app):
    source = """
        import sys

        at_import = list(sys.argv)

        async def main():
            print(at_import, sys.argv)
    """
    expected = ["app.py", "--machines", "-h", "a b", ""]
    assert app(source, *expected[1:]) == (0, f"{expected} {expected}\n", "")


def test_modules_beside_the_app_can_be_imported(run, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "beside.py").write_text("value = 'from beside'")
    (folder / "app.py").write_text("import beside\nasync def main(): print(beside.value)")
    assert run("inner/app.py") == (0, "from beside\n", "")
    assert run(folder / "app.py", cwd="/") == (0, "from beside\n", "")


def test_an_app_that_can_also_start_itself_is_started_once(app):
    """`if __name__ == "__main__"` is for `python app.py`; here main is called."""
    source = """
        from goroutine import start

        async def main():
            print("main in", __name__)

        if __name__ == "__main__":
            start(main)
    """
    assert app(source) == (0, "main in __goroutine__\n", "")


def test_main_finds_the_module_s_globals_and_classes(app):
    """Dataclasses and pickle look for the module in sys.modules, long after it was run."""
    source = """
        import pickle, sys, typing
        from dataclasses import dataclass

        LIMIT = 3

        @dataclass
        class Job:
            number: int

        def helper(n):
            global LIMIT
            LIMIT += n
            return Job(LIMIT)

        async def main():
            @dataclass
            class Inner:
                job: "Job"
            print(helper(2), LIMIT, typing.get_type_hints(helper), Inner(Job(1)))
            assert pickle.loads(pickle.dumps(Job(8))) == Job(8)
    """
    status, out, err = app(source)
    assert (status, err) == (0, "")
    assert out == "Job(number=5) 5 {} main.<locals>.Inner(job=Job(number=1))\n"


def test_a_compiled_app(run, tmp_path):
    (tmp_path / "app.py").write_text("async def main(): print('compiled')")
    py_compile.compile(str(tmp_path / "app.py"), cfile=str(tmp_path / "other.pyc"))
    assert run("other.pyc") == (0, "compiled\n", "")


def test_a_main_that_was_imported(app, tmp_path):
    (tmp_path / "other.py").write_text("async def main(): print('the other')")
    assert app("from other import main") == (0, "the other\n", "")


# -- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "status"), [("None", 0), ("0", 0), ("7", 7), ("True", 0), ("'text'", 0)]
)
def test_an_int_is_the_exit_status(app, result, status):
    assert app(f"async def main(): return {result}") == (status, "", "")


@pytest.mark.parametrize(
    ("argument", "status", "err"), [("", 0, ""), ("3", 3, ""), ("'text'", 1, "text\n")]
)
def test_sys_exit_in_main(app, argument, status, err):
    source = f"import sys\nasync def main(): sys.exit({argument})"
    assert app(source) == (status, "", err)


def test_an_exception_of_main(app):
    source = """
        async def fail():
            raise ValueError("no good")

        async def main():
            try:
                await fail()
            finally:
                print("cleaned up")
    """
    status, out, err = app(source)
    assert (status, out) == (1, "cleaned up\n")
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ValueError: no good\n")
    assert 'raise ValueError("no good")' in err


def test_an_exception_at_import(app):
    status, out, err = app("1 / 0\nasync def main(): print('never')")
    assert (status, out) == (1, "")
    assert err.endswith("ZeroDivisionError: division by zero\n")


def test_a_syntax_error(app):
    status, out, err = app("async def main(:")
    assert (status, out) == (1, "")
    assert "SyntaxError" in err


def test_a_panic_is_2_and_reported_once(app):
    source = """
        from goroutine import chan, go

        async def worker():
            raise KeyError("lost")

        async def main():
            go(worker)
            try:
                await chan().recv()
            finally:
                print("closed")
    """
    status, out, err = app(source)
    assert (status, out) == (2, "closed\n")
    assert err.startswith("panic: KeyError: 'lost'\n")
    assert err.count("KeyError: 'lost'") == 2  # the headline and the traceback's last line
    assert err.count("Traceback") == 1
    assert err.endswith("created by __goroutine__.main in goroutine 1\n")


def test_ctrl_c(tmp_path):
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            from goroutine import chan, go

            async def waits(name, started):
                try:
                    await started.send(name)
                    await chan().recv()
                finally:
                    print("closed", name, flush=True)

            async def main():
                started = chan()
                go(waits, "one", started)
                await started.recv()
                print("ready", flush=True)
                try:
                    await chan().recv()
                finally:
                    print("closed main", flush=True)
        """)
    )
    child = subprocess.Popen(
        command("app.py"),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.communicate()
    assert (child.returncode, err) == (130, "")
    assert sorted(out.splitlines()) == ["closed main", "closed one"]
