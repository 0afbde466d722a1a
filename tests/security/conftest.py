"""The helpers are tests/net's and tests/faults'."""

import sys
from pathlib import Path

import pytest

for folder in ("net", "faults"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

from net_support import IOS, Run  # noqa: E402


@pytest.fixture(params=IOS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on 2 machines."""
    return Run(request.param, 2)


@pytest.fixture
def run_one() -> Run:
    """Runs on one machine."""
    return Run("auto", 1)
