"""What the tests of goroutine.debug share: programs that run beside the tests."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import goroutine

ROOT = Path(goroutine.__file__).parents[1]

PRELUDE = """
import os, signal, sys, threading, time
signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell has it ignored in what it starts with &
from goroutine import *
from goroutine import debug
"""


def environment(**more):
    """Ours, without what is set for goroutine, and with that."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GOROUTINE_", "GOMAXPROCS"))}
    return {**env, "PYTHONPATH": str(ROOT), **more}


class Program:
    """A program that prints a line when it has come so far; killed when it is left."""

    def __init__(self, folder, code, *arguments, debug="", **options):
        path = Path(folder, "app.py")
        path.write_text(PRELUDE + textwrap.dedent(code))
        more = {"GOROUTINE_DEBUG": debug} if debug else {}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "gil=0", "-W", "error", str(path), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(XDG_RUNTIME_DIR=str(folder), **more),
            **options,
        )
        self.pid = self.process.pid

    def __enter__(self):
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]
        return self

    def __exit__(self, *exc):
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def end(self, timeout=20):
        """Wait for its end: status and stderr."""
        _, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, err


def header_of(text, function):
    """The header of the first goroutine that stands in a function."""
    for part in text.split("\n\n"):
        if f", in {function}\n" in part or f"began as __main__.{function}\n" in part:
            return part.split("\n")[0]
    raise AssertionError(text)
