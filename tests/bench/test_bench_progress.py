"""What is shown while a run goes on, on a terminal and elsewhere, with `rich` and without."""

import io
import os
import pty
import subprocess
import sys

import pytest

from goroutine.bench.progress import Snapshot, open_progress
from goroutine.bench.terminal import columns

SNAPSHOT = Snapshot(elapsed=0.5, seconds=1.0, requests_per_second=12345.6, p50_us=21.5, p99_us=40)
FIGURES = "0.5/1.0 s     12,346 requests/s  p50 21.5 µs  p99 40.0 µs"


def test_elsewhere_one_line_at_the_end() -> None:
    stream = io.StringIO()
    with open_progress("echo", live=False, color=False, stream=stream) as progress:
        progress.update(SNAPSHOT)
        progress.update(SNAPSHOT)
        assert stream.getvalue() == ""
    assert stream.getvalue() == f"echo: {FIGURES}\n"


def test_elsewhere_nothing_after_a_failure() -> None:
    stream = io.StringIO()
    progress = open_progress("echo", live=False, color=False, stream=stream)
    progress.__enter__()
    progress.update(SNAPSHOT)
    progress.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert stream.getvalue() == ""


def test_without_rich_a_line_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, module, None)
    stream = io.StringIO()
    with open_progress("echo", live=True, color=True, stream=stream) as progress:
        progress.update(SNAPSHOT)
        assert stream.getvalue() == f"\recho: {FIGURES}"
    assert stream.getvalue().endswith("\r")
    assert "\n" not in stream.getvalue()


def test_with_rich_a_bar() -> None:
    pytest.importorskip("rich")
    stream = io.StringIO()
    with open_progress("echo", live=True, color=False, stream=stream) as progress:
        progress.update(SNAPSHOT)
    assert "12,346 requests/s" in stream.getvalue()


@pytest.mark.parametrize("how", ["option", "variable"])
def test_no_colours_when_they_are_not_wanted(how: str) -> None:
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1" if how == "variable" else ""}
    said = on_a_terminal(["--no-color"] if how == "option" else [], environment)
    assert "error:" in said
    assert "\x1b[31m" not in said


def test_colours_on_a_terminal() -> None:
    assert "\x1b[31m" in on_a_terminal([], {**os.environ, "TERM": "xterm", "NO_COLOR": ""})


def on_a_terminal(options: list[str], environment: dict[str, str]) -> str:
    """What a usage error prints on a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "goroutine.bench", "echo", "--pin", "0/4000", *options]
    subprocess.run(command, stdout=slave, stderr=slave, env=environment, check=False, timeout=30)
    os.close(slave)
    said = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # all of the other side is closed
            break
        if not data:
            break
        said += data
    os.close(master)
    return said.decode()


def test_columns() -> None:
    assert columns([("a", "1", "x"), ("long", "234", "")], "<><") == ["a       1  x", "long  234"]
