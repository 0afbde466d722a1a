"""The example runs as its first line says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cat():
    def cat(*paths):
        return subprocess.run(
            [sys.executable, "-W", "error", "examples/ioring_cat.py", *map(str, paths)],
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=30,
            check=False,
        )

    return cat


def test_it_prints_files(cat, tmp_path):
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(1_000_000))
    small.write_bytes(b"small\n")
    done = cat(large, small)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == large.read_bytes() + b"small\n"


def test_it_goes_on_after_a_failure(cat, tmp_path):
    (tmp_path / "file").write_bytes(b"here\n")
    done = cat(tmp_path / "none", tmp_path, tmp_path / "file")
    assert (done.returncode, done.stdout) == (1, b"here\n")
    assert b"none: No such file or directory\n" in done.stderr
    assert b"Is a directory\n" in done.stderr


def test_it_says_how_it_is_used(cat):
    done = cat()
    assert done.returncode == 1
    assert b"usage: " in done.stderr
