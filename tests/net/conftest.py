import sys
from pathlib import Path

import pytest
from net_support import IOS, MACHINES, Run

sys.path.append(str(Path(__file__).parents[1] / "tls"))  # TLS is one kind of connection


@pytest.fixture(params=[f"{io}-{n}" for io in IOS for n in MACHINES])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on 1, 2 and 4 machines."""
    io, _, machines = request.param.rpartition("-")
    return Run(io, int(machines))


@pytest.fixture(params=[f"{io}-{n}" for io in IOS for n in MACHINES if n > 1])
def run_many(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on 2 and 4 machines."""
    io, _, machines = request.param.rpartition("-")
    return Run(io, int(machines))


@pytest.fixture(params=IOS)
def run_two(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on 2 machines: for what takes long."""
    return Run(request.param, 2)


@pytest.fixture(params=IOS)
def run_one(request: pytest.FixtureRequest) -> Run:
    """Runs on both pollers, on one machine: for what must come in a certain order."""
    return Run(request.param, 1)
