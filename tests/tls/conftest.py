import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "net"))  # for its net_support

from net_support import IOS, Run


@pytest.fixture(params=[f"{io}-{n}" for io in IOS for n in (1, 2, 4)])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on 1, 2 and 4 machines."""
    io, _, machines = request.param.rpartition("-")
    return Run(io, int(machines))


@pytest.fixture(params=IOS)
def run_two(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on 2 machines."""
    return Run(request.param, 2)


@pytest.fixture
def run_one() -> Run:
    """A run on one machine: for what has nothing to do with either."""
    return Run("auto", 1)
