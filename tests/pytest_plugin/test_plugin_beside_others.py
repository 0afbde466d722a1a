"""Together with other plugins: ``pip install --group pytest-plugins`` brings them."""

import importlib.util

import pytest
from plugin_support import session, shows

pytest_plugins = ["pytester"]


LOOP = "asyncio_default_fixture_loop_scope = function"


def needs(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"needs {module} (group pytest-plugins)")


@needs("hypothesis")
def test_hypothesis(pytester):
    result = session(
        pytester,
        """
from hypothesis import HealthCheck, Phase, given, settings, strategies

calls, made = [], []

@pytest.fixture
async def fresh():
    made.append(1)
    yield chan(1)
    made.append(-1)

relaxed = settings(
    max_examples=10, database=None, deadline=None, phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

@relaxed
@given(number=strategies.integers())
async def test_good(number, fresh):
    await fresh.send(number)
    assert await fresh.recv() == number
    calls.append(current().id)

@relaxed
@given(strategies.integers())
async def test_bad(number):
    assert number < 100

@relaxed
@given(strategies.integers(0, 5))
async def test_bubble(bubble, hours):
    await sleep(3600 * hours)
    assert bubble.now() == 946684800.0 + 3600 * hours

class TestIt:
    @relaxed
    @given(number=strategies.integers())
    async def test_method(self, number):
        assert current().id == 1

async def test_calls():
    assert len(calls) > 5
    assert set(calls) == {1}
    assert made == [1, -1] * (len(made) // 2)
    assert len(made) >= 2 * len(calls)
""",
        beside=["hypothesispytest"],
    )
    result.assert_outcomes(passed=4, failed=1)
    shows(result, "number=100", "again: pytest test_it.py::test_bad")


@needs("pytest_asyncio")
@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio(pytester, mode):
    result = session(
        pytester,
        """
import asyncio
import pytest_asyncio

@pytest_asyncio.fixture
async def theirs():
    return asyncio.get_running_loop()

@pytest.fixture
async def ours():
    return current()

@pytest.mark.asyncio
async def test_theirs(theirs):
    await asyncio.sleep(0)
    assert theirs is asyncio.get_running_loop()

@pytest.mark.goroutine
async def test_ours(goroutine_seed):
    assert current().id == 1

@pytest.mark.goroutine
async def test_port(unused_tcp_port):
    assert current().id == 1
"""
        + (
            """
@pytest.mark.goroutine
async def test_our_fixture(ours):
    assert current() is ours
"""
            if mode == "strict"
            else ""
        ),
        ini=f"asyncio_mode = {mode}\n{LOOP}",
        marked=False,
        beside=["asyncio"],
    )
    result.assert_outcomes(passed=4 if mode == "strict" else 3)


@needs("pytest_asyncio")
def test_pytest_asyncio_beside_our_auto_mode(pytester):
    result = session(
        pytester,
        """
import asyncio

@pytest.mark.asyncio
async def test_theirs():
    await asyncio.sleep(0)

async def test_ours():
    assert current().id == 1
""",
        ini=f"goroutine_mode = auto\n{LOOP}",
        marked=False,
        beside=["asyncio"],
    )
    result.assert_outcomes(passed=2)


@needs("anyio")
def test_anyio(pytester):
    result = session(
        pytester,
        """
import anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def either():
    return 5

@pytest.mark.anyio
async def test_theirs(either):
    await anyio.sleep(0)
    assert either == 5

@pytest.mark.goroutine
async def test_ours(either):
    assert current().id == 1
    assert either == 5
""",
        marked=False,
        beside=["anyio"],
    )
    result.assert_outcomes(passed=2)


@needs("xdist")
def test_xdist(pytester):
    result = session(
        pytester,
        """
@pytest.fixture(scope="module")
async def wide():
    yield 1

@pytest.mark.parametrize("x", range(6))
async def test_it(x):
    await sleep(0.001)
    assert x != 3

@pytest.mark.goroutine(machines=(1, 2))
async def test_machines():
    assert machines() in (1, 2)

async def test_wide(wide):
    assert wide == 1
""",
        "-n2",
        "--goroutine-seed=7",
        beside=["xdist"],
    )
    result.assert_outcomes(passed=8, failed=1)
    shows(result, "seed 7, on * machines", "again: pytest * --goroutine-seed=7")


@needs("pytest_run_parallel")
def test_run_parallel_runs_the_copies_as_goroutines_of_one_run(pytester):
    result = session(
        pytester,
        """
import threading
from goroutine.sync import WaitGroup

lock, seen, fresh = threading.Lock(), [], []
all_there = WaitGroup()
all_there.add(4)

@pytest.fixture
async def mine():
    fresh.append(1)
    yield current()
    await sleep(0)

async def test_it(mine, num_parallel_threads):
    assert mine is current()
    with lock:
        seen.append(current().id)
    if num_parallel_threads == 4:
        all_there.done()
        await all_there.wait()

@pytest.mark.parallel_threads(1)
async def test_seen():
    assert len(seen) == len(set(seen)) == len(fresh) == 4
    assert current().id == 1

async def test_fails():
    assert 1 == 2

async def test_bubble(bubble):
    await sleep(3600)
    assert bubble.now() == 946684800.0 + 3600
""",
        "--parallel-threads=4",
        "--ignore-gil-enabled",
        beside=["run-parallel"],
    )
    result.assert_outcomes(passed=3, errors=1)
    shows(result, "E * assert 1 == 2")
