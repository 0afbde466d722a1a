"""examples/tail.py: the last lines, then what is added, cut short, and replaced."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(30)

ROOT = Path(__file__).parents[2]


class Tail:
    def __init__(self, *arguments):
        self.child = subprocess.Popen(
            [sys.executable, "-X", "gil=0", "-W", "error", "examples/tail.py", *arguments],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.child.stdout
        self.read = self.child.stdout.read
        self.guard = threading.Timer(25, self.child.kill)
        self.guard.start()

    def expect(self, text):
        assert self.read(len(text)) == text

    def end(self):
        self.child.send_signal(signal.SIGINT)
        rest, _ = self.child.communicate(timeout=20)
        self.guard.cancel()
        self.guard.join()
        assert (rest, self.child.returncode) == (b"", 0)


@pytest.mark.parametrize(
    ("text", "lines", "shown"),
    [
        (b"", 3, b""),
        (b"one\ntwo\nthree\nfour\n", 2, b"three\nfour\n"),
        (b"one\ntwo\nthree\nfour", 2, b"three\nfour"),
        (b"one\ntwo\n", 2, b"one\ntwo\n"),
        (b"one\ntwo\n", 9, b"one\ntwo\n"),
        (b"one\ntwo\n", 0, b""),
        (b"x" * 70_000 + b"\n" + b"y" * 70_000, 1, b"y" * 70_000),
        (b"x" * 70_000 + b"\n" + b"y" * 65_535 + b"\n", 1, b"y" * 65_535 + b"\n"),
    ],
)
def test_the_last_lines(tmp_path, text, lines, shown):
    path = tmp_path / "log"
    path.write_bytes(text)
    tail = Tail("-n", str(lines), str(path))
    tail.expect(shown)
    with path.open("ab") as f:
        f.write(b"more")
    if not shown and text:  # nothing tells that it has begun
        tail.child.kill()
        tail.child.communicate()
        tail.guard.cancel()
        return
    tail.expect(b"more")
    tail.end()


def test_it_follows(tmp_path):
    path, other = tmp_path / "log", tmp_path / "other"
    path.write_bytes(b"one\n")
    tail = Tail(str(path))
    tail.expect(b"one\n")
    with path.open("ab") as f:
        f.write(b"two\n")
    tail.expect(b"two\n")
    path.write_bytes(b"cut\n")  # shorter than what it has read
    tail.expect(b"cut\n")
    other.write_bytes(b"of another file\n")
    os.replace(other, path)
    tail.expect(b"of another file\n")
    tail.end()


def test_several_files(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"")
    tail = Tail(*map(str, paths))
    for path in (*paths, *paths):
        with path.open("ab") as f:
            f.write(b"x\n")
        tail.expect(f"==> {path} <==\nx\n".encode())
    tail.end()
