"""``python -m goroutine.testing``."""

import subprocess
import sys
from pathlib import Path

import pytest

from goroutine.testing.__main__ import main
from goroutine.testing.running import target

pytestmark = pytest.mark.timeout(20)

PROGRAM = """
import goroutine

async def good(bubble):
    await goroutine.sleep(60)
    return bubble.seed

async def bad(bubble):
    order = []
    goroutine.go(order.append, 1)
    goroutine.go(order.append, 2)
    await bubble.wait()
    assert order == [1, 2], order

class Programs:
    @staticmethod
    async def inner(bubble):
        return "inner"
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    (tmp_path / "programs_of_a_test.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "programs_of_a_test"
    sys.modules.pop("programs_of_a_test", None)


@pytest.mark.parametrize("place", ["programs_of_a_test", "programs_of_a_test.py"])
def test_it_runs_a_function(app, place, capsys):
    assert main([f"{place}:good", "--seed", "0x11"]) == 0
    assert capsys.readouterr().out == "ok: 17\n"


def test_a_function_in_a_class(app, capsys):
    assert main([f"{app}:Programs.inner"]) == 0
    assert capsys.readouterr().out == "ok: 'inner'\n"


@pytest.mark.parametrize("strategy", ["random", "pct", "exhaustive"])
def test_a_failure(app, strategy, capsys):
    assert main([f"{app}:bad", "--seed", "1", "--strategy", strategy, "--runs", "50"]) == 1
    said = capsys.readouterr().err
    assert "AssertionError: [2, 1]" in said
    assert f"re-run: python -m goroutine.testing {app}:bad --seed " in said
    assert f"strategy {strategy}" in said


def test_a_schedule(app, capsys):
    assert main([f"{app}:bad", "--schedule", "-"]) == 0
    assert main([f"{app}:bad", "--schedule", "0:1"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["programs_of_a_test"],
        ["programs_of_a_test:missing"],
        ["nowhere:good"],
        ["nowhere.py:good"],
        ["programs_of_a_test:good", "--strategy", "lucky"],
        ["programs_of_a_test:good", "--seed", "x"],
        ["programs_of_a_test:good", "--schedule", "x"],
        ["programs_of_a_test:good", "--runs", "0"],
    ],
)
def test_usage(app, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m goroutine.testing" in capsys.readouterr().err


def test_as_a_command(app, tmp_path):
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "-W", "error", "-m", "goroutine.testing", f"{app}:good"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "GOROUTINE_SEED": "5"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ok: 5\n", "", 0)


async def of_this_module(bubble):
    pass


def test_how_a_function_is_named(monkeypatch):
    here = Path(__file__)
    monkeypatch.chdir(here.parent)
    assert target(of_this_module) == "test_testing_command:of_this_module"
    monkeypatch.chdir(here.parent.parent)
    assert target(of_this_module) == "testing/test_testing_command.py:of_this_module"
    assert target(lambda bubble: None) is None
    assert target(object()) is None
    assert target(len) is None


def test_steps(app, tmp_path, capsys):
    (tmp_path / "steps_of_a_test.py").write_text(
        """\
from goroutine import chan, go

async def send(ch):
    await ch.send(1)
    await ch.send(2)

async def main(bubble):
    ch = chan(1)
    go(send, ch)
    go(ch.recv)
    await bubble.wait()
    return await ch.recv()
"""
    )
    program = "steps_of_a_test.py:main"
    assert main([program, "--schedule", "0:1", "--steps"]) == 0
    by_recv = """\
        goroutine 1  begins steps_of_a_test.main
   0:1  goroutine 3  begins goroutine.channel.Chan.recv
        goroutine 3  in goroutine.channel.Chan.recv
        goroutine 2  begins steps_of_a_test.send
        goroutine 2  steps_of_a_test.py:4  send: await ch.send(1)
        goroutine 2  steps_of_a_test.py:5  send: await ch.send(2)
        goroutine 3  in goroutine.channel.Chan.recv
        goroutine 1  steps_of_a_test.py:11  main: await bubble.wait()
        goroutine 1  steps_of_a_test.py:12  main: return await ch.recv()
ok: 2
"""
    assert capsys.readouterr().out == by_recv
    sys.modules.pop("steps_of_a_test", None)
