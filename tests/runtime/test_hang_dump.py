"""conftest.py: a test that hangs prints all goroutines and all threads."""

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parent.parent / "conftest.py"

TEST = """
import threading
import pytest
from goroutine import chan, go, gosched, sleep, start

async def waits_for_a_value(ch):
    await ch.recv()

async def sleeps():
    await sleep(1000)

def computes(stop=threading.Event()):
    stop.wait()

@pytest.mark.timeout(1.5)
def test_that_hangs():
    async def main():
        go(waits_for_a_value, chan())
        go(sleeps).name = "sleeping beauty"
        await gosched()
        go(computes)
        await chan().recv()
    start(main, machines=2)
"""


def test_hang_dump(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_hanging.py").write_text(TEST)
    result = subprocess.run(
        [sys.executable, "-X", "gil=0", "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=40,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
        check=False,
    )
    text = result.stderr
    assert result.returncode == 1, text
    assert "+++ this test hangs: test_hanging.py::test_that_hangs" in text
    assert "+++ 4 goroutines" in text
    assert "goroutine 1 (test_hanging.test_that_hangs.<locals>.main) [parked]" in text
    assert "(test_hanging.waits_for_a_value) [parked]" in text
    assert "(sleeping beauty) [parked]" in text
    assert "(test_hanging.computes) [running on M" in text
    assert "in waits_for_a_value\n" in text
    assert "in Chan.recv\n" in text
    assert "in sleeps\n" in text
    assert "+++ threads\n" in text
    assert "in machine_thread" in text
