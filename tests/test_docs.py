"""What the documentation shows is run: examples in docstrings, and programs in docs/ and README.md.

Docstrings. Every ``>>>`` example of the package is a test of its own, run by doctest with
goroutine, threading and the public modules (atomic, context, io, net, sync, time, …) as its names,
and nothing else that its module may have. Every public name has a docstring; and an example, its
own or one of its methods', unless it is an error or listed in WITHOUT_EXAMPLE.

Pages. A block that is fenced as ```python is a whole program: it is run as ``app.py``, and must
end with status 0. It prints what the next thing on the page says, if that is a block fenced as
```text, else nothing; both streams count. A block fenced as ```py is a piece of a program, or a
server that doesn't end: it is only compiled, as if inside an ``async def``.
"""

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import goroutine
from goroutine.io import ioring

pytestmark = pytest.mark.timeout(30)

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

INTERNAL = {"goroutine.__main__", "goroutine.bench", "goroutine.runtime"}

WITHOUT_EXAMPLE = {
    "goroutine.context.todo",  # it is background()
    "goroutine.select.Case",  # what recv() and send() make
    "goroutine.time.now",  # the others' examples use it
    "goroutine.tls.Stream",  # what a connection has, for those who annotate
}


def _modules():
    """Every module that can be imported wherever the tests run; bench wants rich."""
    found = pkgutil.walk_packages(goroutine.__path__, "goroutine.")
    names = [
        info.name
        for info in found
        if not info.name.startswith("goroutine.bench") and info.name != "goroutine.__main__"
    ]
    return [goroutine, *map(importlib.import_module, names)]


def _public_modules():
    found = pkgutil.iter_modules(goroutine.__path__, "goroutine.")
    names = [info.name for info in found if info.name not in INTERNAL]
    return [goroutine, *map(importlib.import_module, names), ioring]


MODULES = _modules()
PUBLIC_MODULES = _public_modules()


def _public_names():
    """Name with module, and object; each object once."""
    found = {}
    for module in PUBLIC_MODULES:
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing) or inspect.isclass(thing) or callable(thing):
                whole = f"{module.__name__}.{name}"
                found.setdefault(id(thing), pytest.param(whole, thing, id=whole))
    return list(found.values())


def _members(cls):
    """(name, function or property) of the public ones that cls itself defines."""
    for name, member in vars(cls).items():
        if not name.startswith("_"):
            inside = getattr(member, "__func__", member)  # of a staticmethod or classmethod
            if inspect.isfunction(inside) or isinstance(inside, property):
                yield name, inside


# -- docstrings ----------------------------------------------------------------------------------

NAMES = {"goroutine": goroutine, "threading": threading} | {
    module.__name__.rpartition(".")[2]: module for module in PUBLIC_MODULES
}


def _examples():
    find = doctest.DocTestFinder().find
    found = [test for module in MODULES for test in find(module, module.__name__, globs=NAMES)]
    return [pytest.param(test, id=test.name) for test in found if test.examples]


@pytest.mark.parametrize("example", _examples())
def test_example(example):
    if example.name.startswith("goroutine.io.ioring"):
        try:
            ioring.probe()
        except OSError as failure:
            pytest.skip(f"io_uring is not available here: {failure}")
    said = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize(("name", "thing"), _public_names())
def test_a_public_name_is_described(name, thing):
    assert (thing.__doc__ or "").strip(), f"{name} has no docstring"
    missing = []
    if inspect.isclass(thing):
        # (What overrides a method may leave the words to that.)
        missing = [m for m, _ in _members(thing) if not inspect.getdoc(getattr(thing, m))]
    assert not missing, f"{name}: no docstring on {missing}"


@pytest.mark.parametrize(("name", "thing"), _public_names())
def test_a_public_name_has_an_example(name, thing):
    if inspect.ismodule(thing) or name.startswith("goroutine.io.ioring."):
        return  # ioring's example is its module's
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return
    if name in WITHOUT_EXAMPLE:
        return
    texts = [thing.__doc__ or ""]
    if inspect.isclass(thing):
        texts += [member.__doc__ or "" for _, member in _members(thing)]
    assert any(">>> " in text for text in texts), f"{name} has no example"


def test_what_needs_no_example_exists():
    """Else the list above outlives what it is about."""
    names = {f"{module.__name__}.{name}" for module in PUBLIC_MODULES for name in module.__all__}
    assert names >= WITHOUT_EXAMPLE


# -- pages ---------------------------------------------------------------------------------------

_FENCE = re.compile(
    r"^```(?P<kind>python|py)\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def _blocks(kind):
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in _FENCE.finditer(text):
            if block["kind"] == kind:
                line = text.count("\n", 0, block.start()) + 1
                where = f"{page.relative_to(ROOT)}:{line}"
                found.append(pytest.param(block["code"], block["output"] or "", id=where))
    return found


@pytest.mark.parametrize(("code", "output"), _blocks("python"))
def test_program(code, output, tmp_path):
    (tmp_path / "app.py").write_text(code)
    if ".pem" in code:
        for file in (ROOT / "tests" / "tls" / "pem").iterdir():
            shutil.copy(file, tmp_path)
    done = subprocess.run(
        [sys.executable, "-u", "-X", "gil=0", "-W", "error", "app.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.stdout.replace(f"{tmp_path}/", ""), done.returncode) == (output, 0)


@pytest.mark.parametrize(("code", "output"), _blocks("py"))
def test_piece(code, output):
    assert not output, "a piece prints nothing: fence a program as ```python"
    compile(code, "piece", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_block_has_a_kind_that_is_known():
    """Else one could be left out by a slip."""
    for page in PAGES:
        kinds = re.findall(r"^ *```+ *(\S*)", page.read_text(), re.MULTILINE)
        assert set(kinds[::2]) <= {"python", "py", "text", "go", "console"}, page
        assert set(kinds[1::2]) <= {""}, page
