"""docs/finding-a-race.md: what it shows of commands is what those print.

(That their programs print what they should is looked at in tests/test_docs.py.)
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import goroutine

pytestmark = pytest.mark.timeout(60)

ROOT = Path(goroutine.__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page):
    """(kind, text) of each block of a page."""
    return BLOCK.findall((ROOT / "docs" / page).read_text())


def commands_of(page):
    """(arguments of python, what is said to be printed): console blocks, each with its text."""
    blocks = blocks_of(page)
    for (kind, command), (_, said) in pairwise(blocks):
        if kind == "console":
            yield pytest.param(shlex.split(command.removeprefix("$ python")), said, id=command)


def run(folder, arguments):
    outside = ("GOROUTINE_", "GOMAXPROCS", "PYTEST_")
    kept = {name: word for name, word in os.environ.items() if not name.startswith(outside)}
    return subprocess.run(
        [sys.executable, "-X", "gil=0", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(("arguments", "said"), [*commands_of("finding-a-race.md")])
def test_the_race(arguments, said, tmp_path):
    program = next(code for kind, code in blocks_of("finding-a-race.md") if kind == "python")
    (tmp_path / "prices.py").write_text(program)
    done = run(tmp_path, arguments)
    printed = done.stdout or done.stderr.replace(f"{tmp_path}/", "")
    assert (printed, done.returncode) == (said, 1)
