"""Async fixtures: in which run and goroutine they live, and how they end."""

import pytest
from plugin_support import session, shows

pytest_plugins = ["pytester"]


def test_one_of_function_scope_is_in_the_goroutine_of_its_test(pytester):
    result = session(
        pytester,
        """
from contextvars import ContextVar
from goroutine import Group

told, var = [], ContextVar("var")

@pytest.fixture
async def outer():
    var.set("outer")
    async with Group() as group:
        told.append(current().id)
        yield group
    told.append("outer ends")

@pytest.fixture
def between(outer, tmp_path):
    told.append("between")
    yield [outer]
    told.append("between ends")

@pytest.fixture(params=[1, 2])
async def inner(between, request):
    await sleep(0)
    return between, request.param

@pytest.fixture(autouse=True)
async def always():
    told.append("always")

async def test_it(inner, outer):
    (group,), number = inner
    assert group is outer
    assert var.get() == "outer"
    group.go(sleep, 0.01)
    told.append(number)

def test_order():
    assert told == [
        "always", 1, "between", 1, "between ends", "outer ends",
        "always", 1, "between", 2, "between ends", "outer ends",
        "always",
    ]
""",
    )
    # (The last one isn't async: its autouse fixture is made in a run of its own.)
    result.assert_outcomes(passed=3)


def test_teardown_comes_also_after_a_failure_and_its_own_is_told(pytester):
    result = session(
        pytester,
        """
told = []

@pytest.fixture
async def one():
    yield
    await sleep(0.001)
    told.append("one")

@pytest.fixture
async def two(one):
    yield
    raise ValueError("no luck")

async def test_fails(two):
    assert 1 == 2

async def test_passes(two):
    pass

@pytest.fixture
async def twice():
    yield
    yield

async def test_twice(twice): pass

@pytest.fixture
async def broken(one):
    raise KeyError("broken")

async def test_broken(broken):
    told.append("never")

@pytest.fixture
async def unwanted():
    pytest.skip("not here")

async def test_skipped(unwanted): pass

async def test_told():
    assert told == ["one"] * 3
""",
    )
    result.assert_outcomes(passed=1, failed=4, skipped=1)
    shows(
        result,
        "E       assert 1 == 2",
        "E       and in taking down the fixture 'two': ValueError('no luck')",
        "ValueError: no luck",
        "the fixture 'twice' yields more than once",
        "KeyError: 'broken'",
    )


WIDE = """
from goroutine import Group
made, left = [], []

@pytest.fixture(scope="SCOPE")
async def echo():
    made.append(current())
    requests, answers = chan(), chan()

    async def serve():
        async for request in requests:
            await answers.send(request)

    async with Group() as group:
        group.go(serve)
        yield requests, answers
        requests.close()
    left.append(current())

async def ask(echo, what):
    requests, answers = echo
    await requests.send(what)
    return await answers.recv()
"""


@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_one_of_a_wider_scope_lives_as_long_and_the_tests_are_in_its_run(pytester, scope):
    result = session(
        pytester,
        WIDE.replace("SCOPE", scope)
        + """
class TestIt:
    async def test_one(self, echo):
        assert await ask(echo, 1) == 1

    @pytest.mark.parametrize("number", [1, 2])
    async def test_others(self, echo, number):
        go(sleep, 0.01)
        assert await ask(echo, number) == number

    async def test_without(self):
        assert current().id != 1

    def test_plain(self, echo, goroutine_run):
        assert goroutine_run(ask, echo, 5) == 5

    async def test_last(self, echo):
        assert len(made) == 1
        assert left == []
""",
    )
    result.assert_outcomes(passed=6)


def test_while_nobody_asks_its_run_is_not_deadlocked(pytester):
    """Not held between the two, it would have ended after some 20 ms."""
    result = session(
        pytester,
        WIDE.replace("SCOPE", "module")
        + """
import time

def test_one(echo, goroutine_run):
    time.sleep(0.3)
    assert goroutine_run(ask, echo, 1) == 1
    time.sleep(0.3)
    assert goroutine_run(ask, echo, 2) == 2
""",
    )
    result.assert_outcomes(passed=1)


def test_when_it_is_gone_each_test_has_a_run_of_its_own_again(pytester):
    result = session(
        pytester,
        WIDE.replace("SCOPE", "class")
        + """
class TestIt:
    async def test_one(self, echo):
        assert await ask(echo, 1) == 1

async def test_after():
    assert current().id == 1
    assert made == left
    assert len(made) == 1

class TestAgain(TestIt):
    pass
""",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("await chan().recv()", "all goroutines are asleep - deadlock!"),
        ("go(fail); await sleep(60)", "panic in goroutine * (test_it.fail)"),
        ("await sleep(60)", "timed out after 0.2 s"),
        ("go(sleep, 60)", "1 goroutine was left when the test had ended"),
        ("go(sleep, 60); assert made == 1", "E * assert "),
    ],
)
def test_a_run_that_a_test_has_spoilt_is_made_anew_with_its_fixtures(pytester, body, words):
    result = session(
        pytester,
        WIDE.replace("SCOPE", "session")
        + f"""
async def fail():
    raise ValueError("no luck")

async def test_one(echo):
    assert await ask(echo, 1) == 1

@pytest.mark.goroutine(timeout=0.2)
async def test_two(echo):
    {body}

async def test_three(echo):
    assert await ask(echo, 3) == 3
    assert len(made) == 2
""",
    )
    result.assert_outcomes(passed=2, failed=1)
    shows(result, words)


def test_a_failed_test_that_leaves_nobody_spoils_nothing(pytester):
    result = session(
        pytester,
        WIDE.replace("SCOPE", "session")
        + """
async def test_one(echo):
    assert await ask(echo, 1) == 2

@pytest.mark.goroutine(leaks=True)
async def test_two(echo):
    go(sleep, 60)

async def test_three(echo):
    assert await ask(echo, 3) == 3
    assert len(made) == 1
""",
    )
    result.assert_outcomes(passed=2, failed=1)


def test_a_fixture_that_leaves_goroutines_or_fails(pytester):
    result = session(
        pytester,
        """
@pytest.fixture(scope="class")
async def leaves():
    go(chan().recv())
    yield

class TestLeaves:
    async def test_it(self, leaves): pass

@pytest.fixture(scope="class")
async def fails():
    yield
    raise ValueError("no luck")

class TestFails:
    async def test_it(self, fails): pass

@pytest.fixture(scope="class")
async def broken():
    raise KeyError("broken")

class TestBroken:
    async def test_it(self, broken): pass

@pytest.fixture(scope="class")
async def waits():
    yield
    await chan().recv()

class TestWaits:
    async def test_it(self, waits): pass

async def test_after():
    assert current().id == 1
""",
    )
    result.assert_outcomes(passed=4, errors=4)
    shows(
        result,
        "1 goroutine was left when the fixtures had ended",
        "ValueError: no luck",
        "KeyError: 'broken'",
        "all goroutines are asleep - deadlock!",
    )


def test_one_run_has_one_number_of_machines(pytester):
    result = session(
        pytester,
        WIDE.replace("SCOPE", "module")
        + """
@pytest.mark.goroutine(machines=1)
async def test_one(echo):
    assert machines() == 1

@pytest.mark.goroutine(machines=2)
async def test_two(echo):
    assert machines() == 2
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    shows(result, "the test is to run on 2 machines, but the async fixtures that are in use live")


def test_a_plain_test_has_async_fixtures_of_function_scope_too(pytester):
    result = session(
        pytester,
        WIDE.replace("SCOPE", "function")
        + """
def test_one(echo, goroutine_run):
    assert goroutine_run(ask, echo, 1) == 1
    assert left == []

def test_two(goroutine_run):
    assert made == left
    assert len(made) == 1
""",
    )
    result.assert_outcomes(passed=2)


BY_NAME = """
made = []

@pytest.fixture
async def number():
    await sleep(0.001)
    made.append("number")
    yield current().id
    await sleep(0.001)
    made.append("number ends")

@pytest.fixture
def plain(request):
    made.append("plain")
    yield request.getfixturevalue("number") + 1
    made.append("plain ends")

@pytest.fixture
def simple(request):
    return request.getfixturevalue("number") + 1

@pytest.fixture
def upon(request):
    assert request.getfixturevalue("simple") == 2
    return request.getfixturevalue("plain") + 1
"""


@pytest.mark.parametrize("kind", ["goroutine", "goroutine(bubble=True)"])
def test_a_plain_fixture_asks_for_an_async_one_by_name(pytester, kind):
    result = session(
        pytester,
        BY_NAME
        + f"""
pytestmark = pytest.mark.{kind}

async def test_plain(plain, tmp_path):
    assert plain == current().id + 1 == 2
    # (It is begun twice: to find out, and then in the run.)
    assert made == ["plain", "number", "plain"]

async def test_ends():
    assert made == ["plain", "number", "plain", "plain ends", "number ends"]

async def test_simple(simple):
    assert simple == 2

async def test_upon(upon):
    assert upon == 3

@pytest.mark.goroutine(runs=3)
async def test_runs(upon, plain):
    assert upon == plain + 1 == 3
""",
    )
    result.assert_outcomes(passed=5)


def test_asked_for_by_name_in_the_test(pytester):
    result = session(
        pytester,
        BY_NAME
        + """
@pytest.fixture
def doubled(number):
    made.append("doubled")
    yield 2 * number
    made.append("doubled ends")

@pytest.fixture
async def serial():
    return len(made)

@pytest.mark.parametrize("name", ["number"])
async def test_there(request, number, name):
    assert request.getfixturevalue(name) == number == 1
    assert request.getfixturevalue("doubled") == 2
    made.append("test ends")

async def test_ends():
    assert made == ["number", "doubled", "test ends", "doubled ends", "number ends"]

@pytest.mark.goroutine(runs=2)
async def test_each_run_has_its_own(request, serial):
    assert request.getfixturevalue("serial") == serial == len(made)
    made.append("run")

async def test_not_there(request):
    request.getfixturevalue("number")
""",
    )
    result.assert_outcomes(passed=3, failed=1)
    shows(result, "the async fixture 'number' can't be made inside of a run: ask for it as an arg")
