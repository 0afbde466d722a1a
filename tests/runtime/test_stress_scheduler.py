"""stress_scheduler.py for a short time, and that it notices a scheduler that lacks a rule.

GOROUTINE_STRESS=SECONDS makes each of the first kind last that long.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from stress_scheduler import BROKEN, SECONDS, sleepy, stress

PROGRAM = Path(__file__).with_name("stress_scheduler.py")

pytestmark = pytest.mark.timeout(40 + 3 * SECONDS)


def test_random_mix(machines: int, io: str) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    assert stress(machines, io, SECONDS, seed) > 1000


def test_falling_asleep_and_waking(machines: int, io: str) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    assert sleepy(machines, io, SECONDS / 2, seed) > 20


def test_size_of_the_parked() -> None:
    """1,000,000: `stress_scheduler.py --park 1000000`."""
    status, out = child("--park", "20000")
    assert status == 0, out
    assert 300 < int(out.split()[0]) <= 1200


KINDS = {"no_second_look": "sleepy"}


@pytest.mark.parametrize("name", BROKEN)
def test_notices(name: str) -> None:
    """A child on a broken scheduler fails, crashes or hangs."""
    status, out = child("--broken", name, "--kind", KINDS.get(name, "stress"), "--seconds", "8")
    assert status != 0, out


def test_child_that_is_not_broken() -> None:
    for kind in ("stress", "sleepy"):
        status, out = child("--kind", kind, "--seconds", "1")
        assert status == 0, out


def child(*arguments: str) -> tuple[int | None, str]:
    try:
        result = subprocess.run(
            [sys.executable, "-X", "gil=0", str(PROGRAM), "--machines", "2", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired as hung:
        return None, str(hung.stdout)
    return result.returncode, result.stdout + result.stderr
