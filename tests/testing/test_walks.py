"""docs/finding-a-race.md and docs/testing.md: what they show of commands is what those print.

(That their programs print what they should is looked at in tests/test_docs.py.)
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
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


def test_a_service_that_gives_up_too_early(tmp_path):
    """Mended step by step, as the page says; what it shows is looked for in what is printed."""
    blocks = blocks_of("testing.md")
    (said,) = (text for _, text in blocks if "after 8.0 seconds" in text)
    program = next(text for kind, text in blocks if kind == "python" and "def ask(" in text)
    lines, test, reading = (
        next(text for kind, text in blocks if kind == "py" and word in text)
        for word in ("set_deadline(", "import pytest", "reply +=")
    )
    (report,) = (text for _, text in blocks if text.startswith("seed 1, run 1 of"))
    (error,) = (text for _, text in blocks if text.startswith("E  "))
    (command,) = (text for kind, text in blocks if kind == "console" and "test_rates" in text)
    pytest_ = ["-m", *shlex.split(command.removeprefix("$")), "-p", "no:cacheprovider"]
    (tmp_path / "test_rates.py").write_text(test)

    program = changed(program, "conn.set_deadline(deadline)\n", lines)
    (tmp_path / "rates.py").write_text(program)
    assert run(tmp_path, ["rates.py"]).stdout == said
    done = run(tmp_path, pytest_)
    assert done.returncode == 1
    assert report in done.stdout
    assert error in done.stdout

    program = changed(program, "return await conn.read()\n", reading + "return reply\n")
    (tmp_path / "rates.py").write_text(program)
    done = run(tmp_path, pytest_)
    assert done.returncode == 0, done.stdout


def changed(program, old, new):
    indent = " " * 16
    assert program.count(indent + old) == 1
    return program.replace(indent + old, textwrap.indent(new, indent))
