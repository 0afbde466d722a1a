"""Python programs in processes of their own: for signals, exit statuses, and what may hang."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PRELUDE = """
import os, sys, threading, time
from goroutine import *
"""


class Result(NamedTuple):
    """What became of a child."""

    status: int | None
    """Exit status, negative for a signal; None if it had to be killed after the time limit."""
    out: str
    err: str


def run(
    code: str,
    *arguments: str,
    timeout: float = 30,
    gil: int = 0,
    environ: Mapping[str, str] | None = None,
    warnings: str = "error",
) -> Result:
    """Run a program, with the names of `goroutine` imported, in a new interpreter.

    It is a file: that gives its tracebacks source lines. The child and what it has started
    are killed when it takes longer than `timeout` seconds.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GOROUTINE_", "GOMAXPROCS"))}
    env["PYTHONPATH"] = str(Path(__file__).parent)
    env.update(environ or {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "app.py")
        path.write_text(PRELUDE + textwrap.dedent(code))
        child = subprocess.Popen(
            [sys.executable, "-X", f"gil={gil}", "-W", warnings, str(path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        try:
            out, err = child.communicate(timeout=timeout)
            return Result(child.returncode, out, err)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            return Result(None, out, err)


def succeed(code: str, *arguments: str, **options: object) -> str:
    """Run a program that must end well and silently; returns its output."""
    result = run(code, *arguments, **options)  # type: ignore[arg-type]
    assert (result.status, result.err) == (0, ""), f"{result.out}\n{result.err}"
    return result.out
