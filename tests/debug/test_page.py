"""docs/debugging.md: what it shows of programs that are killed, or leave something behind."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest
from debug_support import ROOT, environment

pytestmark = pytest.mark.timeout(30)

PAGE = (ROOT / "docs" / "debugging.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PIECES = [code for kind, code in BLOCKS if kind == "py"]
OUTPUTS = [text for kind, text in BLOCKS if kind == "text"]

# As it is in what a shell starts with &.
NOT_IGNORED = (
    "import runpy, signal; signal.signal(signal.SIGQUIT, signal.SIG_DFL);"
    "runpy.run_path('app.py', run_name='__main__')"
)


def output_that_begins(words):
    (text,) = [text for text in OUTPUTS if text.startswith(words)]
    return text


@contextmanager
def stuck_program(folder, **variables):
    """The page's, once nothing moves in it any more; and what its dump has in another way."""
    code = next(code for code in PIECES if "still open" in code)
    # It tells when nothing has moved for a while, and sleeps in the line in which it says so.
    stuck = "await still(stock); await sleep(10)"
    assert code.count("await sleep(10)") == code.count("go(report)") == 1
    code = code.replace("await sleep(10)", stuck).replace("go(report)", "go(report, stock)")
    code = code.replace("def report()", "def report(stock)") + textwrap.dedent("""
        async def still(stock):
            before = None
            while len(stock.lines) < 100 or before != (len(stock.lines), stock.pieces["tea"]):
                before = len(stock.lines), stock.pieces["tea"]
                await sleep(0.2)
            print("stuck", flush=True)
    """)
    start = "start(main)\n"
    code = code.replace(start, "") + start
    (folder / "app.py").write_text(code)
    child = subprocess.Popen(
        [sys.executable, "-X", "gil=0", "-c", NOT_IGNORED],
        cwd=folder,
        env=environment(GOROUTINE_MACHINES="1", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def as_shown(dump):
        return numberless(dump.replace(f"{folder}/", "").replace(stuck, "await sleep(10)"))

    try:
        assert child.stdout.readline() == "stuck\n"
        yield child, as_shown
    finally:
        child.kill()
        child.communicate()


def test_the_stuck_program(tmp_path):
    """Who has the mutex, and how many wait, depends on how fast the journal was: not compared."""
    with stuck_program(tmp_path) as (child, as_shown):
        os.kill(child.pid, signal.SIGQUIT)
        _, err = child.communicate(timeout=20)
    shown = numberless(output_that_begins("SIGQUIT"))
    assert (child.returncode, as_shown(err)) == (2, shown)


def test_the_stuck_program_is_asked_from_elsewhere(tmp_path):
    there = {"GOROUTINE_DEBUG": "dump=1", "XDG_RUNTIME_DIR": str(tmp_path)}
    shown = numberless(output_that_begins("SIGQUIT")).removeprefix("SIGQUIT: quit\n\n")
    with stuck_program(tmp_path, **there) as (child, as_shown):
        for _ in range(2):  # it goes on
            asked = subprocess.run(
                [sys.executable, "-X", "gil=0", "-m", "goroutine", "dump", str(child.pid)],
                env=environment(**there),
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
            assert as_shown(asked.stdout) == shown


def numberless(dump):
    """A dump without what differs from run to run: numbers of goroutines, and how many."""
    dump = re.sub(r"(?m)^\d+ goroutines \[(.*)\]: .*$", r"N goroutines [\1]: ...", dump)
    return re.sub(r"(?m)^goroutine (?!1 )\d+ ", "goroutine N ", dump)


def test_the_leaks(tmp_path):
    code = next(code for code in PIECES if "fastest" in code)
    (tmp_path / "leak.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "leak.py"],
        cwd=tmp_path,
        env=environment(GOROUTINE_MACHINES="1", GOROUTINE_DEBUG="leaks=1"),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == "server 1\n"
    assert done.stderr.replace(f"{tmp_path}/", "") == output_that_begins("goroutine: 2")


def test_a_line_of_schedtrace():
    from test_schedtrace import LINE

    assert LINE.fullmatch(textwrap.dedent(output_that_begins("SCHED")).strip())


def test_all_options_are_named():
    from goroutine.debug.options import Options

    named = re.findall(r"^\| `(\w+)=\w+` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(Options._fields)
