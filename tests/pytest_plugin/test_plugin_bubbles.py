"""Tests that run in a bubble."""

import re

from plugin_support import session, shows

pytest_plugins = ["pytester"]

SOURCE = """
async def order():
    "Who comes first of three: any order may be."
    came = []

    async def come(n):
        await gosched()
        came.append(n)

    for g in [go(come, n) for n in range(3)]:
        await g
    return came
"""


def test_what_asks_for_a_bubble_runs_in_one(pytester):
    result = session(
        pytester,
        """
from goroutine import time

@pytest.fixture
async def ticker(bubble):
    ticker = time.Ticker(60)
    yield ticker
    assert bubble.now() == 946684800.0 + 3600
    ticker.stop()

@pytest.fixture
def begun(bubble):
    with pytest.raises(RuntimeError, match="there while the test runs"):
        bubble.now()
    return lambda: bubble.now()

async def test_fixture(bubble, ticker, begun):
    assert bubble.now() == begun() == await_now()
    assert await ticker.channel.recv() == 946684800.0 + 60
    await bubble.sleep(3540)

def await_now():
    return time.now()

@pytest.mark.goroutine(seed=5)
async def test_seed(goroutine_seed):
    assert goroutine_seed == 5
    await sleep(3600)
    assert time.now() == 946684800.0 + 3600

@pytest.mark.goroutine(bubble=True, machines=(1, 2))
async def test_mark():
    await sleep(3600)
    assert time.now() == 946684800.0 + 3600

def test_plain(goroutine_run, bubble):
    async def main():
        await bubble.sleep(3600)
        return bubble.now()
    assert goroutine_run(main) == 946684800.0 + 3600

@pytest.mark.goroutine(bubble=False)
async def test_not():
    assert time.now() > 1e9
""",
    )
    result.assert_outcomes(passed=5)


def test_a_failure_names_its_seed_and_schedule_and_comes_again(pytester):
    source = (
        SOURCE
        + """
@pytest.mark.goroutine(runs=200)
async def test_it(bubble, goroutine_seed):
    assert bubble.seed == goroutine_seed
    came = await order()
    print("came", came, "with", bubble.seed)
    assert came != [1, 0, 2]
"""
    )
    result = session(pytester, source, "--goroutine-seed=1")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    again = re.search(r"again: pytest test_it.py::test_it (\S+) (\S+)\n", text)
    assert again is not None
    seed = int(again[1].partition("=")[2])
    shows(result, f"seed {seed}, run {seed} of 200, in a bubble")
    assert "testing.run" not in text
    assert "python -m goroutine.testing" not in text
    for options in (again.groups()[:1], again.groups()):
        result = session(pytester, source, *options, "-s")
        result.assert_outcomes(failed=1)
        shows(result, f"came [[]1, 0, 2[]] with {seed}")


def test_all_seeds_of_its_runs_are_good(pytester):
    result = session(
        pytester,
        SOURCE
        + """
seen = set()

@pytest.mark.goroutine(seed=1, runs=50)
async def test_it():
    seen.add(tuple(await order()))

def test_seen():
    assert len(seen) == 6

@pytest.mark.goroutine(strategy="pct", runs=2)
async def test_strategy():
    await order()
""",
    )
    result.assert_outcomes(passed=3)


def test_deadlock_leak_panic_and_time_out(pytester):
    result = session(
        pytester,
        """
async def test_deadlock(bubble):
    await chan().recv()

async def test_left(bubble):
    go(chan().recv())

async def fail():
    assert 1 == 2

async def test_panic(bubble):
    go(fail)
    await chan().recv()

@pytest.mark.goroutine(timeout=0.1)
async def test_computes(bubble):
    while True:
        pass

async def test_after():
    assert current().id == 1
""",
    )
    result.assert_outcomes(failed=4, passed=1)
    shows(
        result,
        "deadlock: all goroutines in bubble are blocked",
        "in test_deadlock",
        "blocked goroutines remain",
        "created by test_it.test_left",
        "E * assert 1 == 2",
        "E * panic in goroutine * (test_it.fail)",
        "timed out after 0.1 s",
        "in test_computes",
    )


def test_an_async_fixture_outside_of_the_bubble_is_refused(pytester):
    result = session(
        pytester,
        """
@pytest.fixture(scope="module")
async def wide():
    return 1

@pytest.fixture
async def narrow():
    return 1

async def test_wide(bubble, wide): pass

def test_plain(bubble, narrow): pass

async def test_good(bubble, narrow):
    assert narrow == 1
""",
    )
    result.assert_outcomes(errors=2, passed=1)
    shows(
        result,
        "the async fixture 'wide' of scope module would be outside of the bubble",
        "the async fixture 'narrow' would be outside of the bubble",
    )


def test_a_failure_shows_who_was_left(pytester):
    result = session(
        pytester,
        """
async def helper(ch):
    await ch.recv()

async def test_assertion(bubble):
    go(helper, chan())
    await bubble.wait()
    assert 1 == 2

async def fails():
    assert 3 == 4

async def test_panic(bubble):
    go(fails)
    await chan().send(1)
""",
    )
    result.assert_outcomes(failed=2)
    shows(
        result,
        "E * assert 1 == 2",
        "again: pytest test_it.py::test_assertion",
        "goroutine 2 [[]chan receive[]]:",
        "in helper",
        "created by test_it.test_assertion in goroutine 1",
        "E * assert 3 == 4",
        "again: pytest test_it.py::test_panic",
        "goroutine 1 [[]chan send[]]:",
        "in test_panic",
    )


def test_a_time_out_shows_who_computes_and_who_waits(pytester):
    """Whichever goroutine is interrupted: it is not run again, for a shorter schedule."""
    result = session(
        pytester,
        """
pytestmark = pytest.mark.goroutine(timeout=0.1)

async def helper(ch):
    await ch.recv()

async def test_main(bubble):
    go(helper, chan())
    await bubble.wait()
    while True:
        pass

async def computes():
    while True:
        pass

async def test_other(bubble):
    go(computes)
    await chan().send(1)

async def test_in_turns(bubble):
    while True:
        await gosched()

async def test_after():
    assert current().id == 1
""",
        marked=False,
    )
    result.assert_outcomes(failed=3, passed=1)
    shows(
        result,
        "_ test_main _",
        "timed out after 0.1 s",
        "interrupted:",
        "in test_main",
        "goroutine 2 [[]chan receive[]]:",
        "in helper",
        "seed *, in a bubble",
        "_ test_other _",
        "timed out after 0.1 s",
        "interrupted:",
        "in computes",
        "goroutine 1 [[]*[]]:",  # chan send, or runnable: before it
        "in test_other",
        "_ test_in_turns _",
        "timed out after 0.1 s",
        "in test_in_turns",
    )


def test_each_seed_is_run_once(pytester):
    result = session(
        pytester,
        """
seeds, fresh, orders = [], [], []

@pytest.fixture
async def mine():
    fresh.append(1)

@pytest.mark.goroutine(seed=5, runs=10)
async def test_runs(bubble, mine):
    seeds.append(bubble.seed)

@pytest.mark.goroutine(strategy="exhaustive", runs=10)
async def test_all(bubble):
    order = []
    go(order.append, 1)
    go(order.append, 2)
    await bubble.wait()
    orders.append(order)

def test_seen():
    assert seeds == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert len(fresh) == 10
    assert orders == [[1, 2], [2, 1]]
""",
    )
    result.assert_outcomes(passed=3)
