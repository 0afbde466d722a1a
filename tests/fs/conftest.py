import pytest
from fs_support import MACHINES, WAYS, Run

IDS = [f"{way}-{n}" for way in WAYS for n in MACHINES]


def _run(request: pytest.FixtureRequest) -> Run:
    way, _, machines = request.param.rpartition("-")
    return Run(way, int(machines))


@pytest.fixture(params=IDS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs in each of the WAYS, on 1, 2 and 4 machines."""
    return _run(request)


@pytest.fixture(params=[f"{way}-2" for way in WAYS])
def run_two(request: pytest.FixtureRequest) -> Run:
    """In each of the WAYS, on 2 machines: for what takes long, or isn't about machines."""
    return _run(request)


@pytest.fixture(params=[f"{way}-1" for way in WAYS])
def run_one(request: pytest.FixtureRequest) -> Run:
    """In each of the WAYS, on one machine: for what must come in a certain order."""
    return _run(request)


@pytest.fixture(params=["ring-1", "ring-2", "ring-4"])
def run_ring(request: pytest.FixtureRequest) -> Run:
    """In the ring only."""
    return _run(request)
