"""Fixtures of the tests that break something. (The helpers are tests/net's.)"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "net"))

from net_support import IOS, Run


@pytest.fixture(params=IOS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on 2 machines."""
    return Run(request.param, 2)


@pytest.fixture(params=IOS)
def run_one(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on one machine."""
    return Run(request.param, 1)


@pytest.fixture
def run_uring() -> Run:
    """Runs with io_uring, on 2 machines."""
    return Run("io_uring", 2)
