"""What fails a test of ours, and what it then says."""

import re
from pathlib import Path

import pytest
from plugin_support import session, shows

pytest_plugins = ["pytester"]


def test_an_assertion_shows_the_test_and_those_who_still_wait(pytester):
    result = session(
        pytester,
        """
async def helper(ch):
    await ch.recv()

async def test_it():
    go(helper, chan())
    await gosched()
    x = 1
    assert x == 2
""",
        "--goroutine-seed=7",
    )
    result.assert_outcomes(failed=1)
    shows(
        result,
        ">       assert x == 2",
        "E       assert 1 == 2",
        "seed 7, on * machines",
        "again: pytest test_it.py::test_it --goroutine-seed=7",
        "goroutine * [[]chan receive[]]:",
        "in helper",
        "await ch.recv()",
        "created by test_it.test_it in goroutine 1",
    )
    result.stdout.no_fnmatch_line("*runs.py*")  # no frame of ours
    result.stdout.no_fnmatch_line("*scheduler.py*")


def test_a_panic_fails_with_its_cause(pytester):
    result = session(
        pytester,
        """
async def helper(x):
    assert x == 2

async def test_it():
    go(helper, 1)
    await chan().recv()

@pytest.mark.xfail(raises=AssertionError, strict=True)
async def test_expected():
    go(helper, 1)
    await chan().recv()
""",
    )
    result.assert_outcomes(failed=1, xfailed=1)
    shows(
        result,
        ">       assert x == 2",
        "E       assert 1 == 2",
        "E       panic in goroutine * (test_it.helper)",
        "goroutine 1 [[]chan receive[]]:",
        "in test_it",
    )


def test_a_deadlock_fails_with_a_dump(pytester):
    result = session(
        pytester,
        """
async def helper(ch):
    await ch.send(1)

async def test_it():
    go(helper, chan())
    await chan().recv()
""",
    )
    result.assert_outcomes(failed=1)
    shows(
        result,
        "all goroutines are asleep - deadlock!",
        "goroutine 1 [[]chan receive[]]:",
        "in test_it",
        "[[]chan send[]]:",
        "in helper",
        "FAILED * - Failed: all goroutines are asleep - deadlock!",
    )


def test_a_time_out_fails_with_a_dump_and_the_next_test_goes_on(pytester):
    result = session(
        pytester,
        """
cleaned = []

@pytest.fixture
async def fixture():
    try:
        yield
    finally:
        cleaned.append(1)

@pytest.fixture
async def inner(fixture):
    try:
        yield
    finally:
        cleaned.append(3)
        await sleep(0.001)
        cleaned.append("never")

@pytest.mark.goroutine(timeout=0.1)
async def test_waits(inner):
    try:
        await sleep(60)
    finally:
        cleaned.append(2)

@pytest.mark.goroutine(timeout=0.1)
async def test_computes():
    while True:
        pass

@pytest.mark.goroutine(timeout=0)
async def test_after():
    await sleep(0.2)
    assert cleaned == [2, 3, 1]
""",
        ini="goroutine_timeout = 0.1",
    )
    result.assert_outcomes(passed=1, failed=2)
    shows(
        result,
        "timed out after 0.1 s",
        "goroutine 1 [[]sleep[]]:",
        "in test_waits",
        "timed out after 0.1 s",
        "goroutine 1 [[]running[]]:",
    )


def test_the_time_limit_of_the_ini_file_holds_in_setup_and_teardown_too(pytester):
    result = session(
        pytester,
        """
@pytest.fixture
async def slow():
    await sleep(60)

@pytest.fixture
async def slow_end():
    yield
    await sleep(60)

async def test_setup(slow): pass
async def test_teardown(slow_end): pass
""",
        ini="goroutine_timeout = 0.1",
    )
    result.assert_outcomes(failed=2)
    shows(result, "in slow", "in slow_end")


def test_goroutines_that_are_left_fail_the_test_by_creator(pytester):
    result = session(
        pytester,
        """
async def helper(ch):
    await ch.recv()

def start_some(ch):
    for _ in range(3):
        go(helper, ch)

async def test_left():
    start_some(chan())

@pytest.mark.goroutine(leaks=True)
async def test_allowed():
    start_some(chan())

async def test_late():
    "They have some time to end."
    go(sleep, 0.1)
""",
    )
    result.assert_outcomes(passed=2, failed=1)
    shows(
        result,
        "3 goroutines were left when the test had ended",
        "3 created by test_it.test_left:",
        "3 goroutines [[]chan receive[]]: *",
        "in helper",
    )


def test_leaks_may_be_ignored_for_all(pytester):
    result = session(
        pytester,
        """
async def test_left():
    go(chan().recv())

@pytest.mark.goroutine(leaks=False)
async def test_not_allowed():
    go(chan().recv())
""",
        ini="goroutine_leaks = ignore",
    )
    result.assert_outcomes(passed=1, failed=1)
    shows(result, "1 goroutine was left when the test had ended")


def test_ctrl_c_ends_the_session(pytester):
    result = session(
        pytester,
        """
import os, signal

async def test_it():
    os.kill(os.getpid(), signal.SIGINT)
    await sleep(60)

async def test_never():
    print("it went on")
""",
        "-s",
        run=lambda *options: pytester.runpytest_subprocess(*options, timeout=20),
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*it went on*")


def test_the_time_limit_of_pytest_timeout_by_a_signal(pytester):
    """Fails that one test, with what its goroutines did."""
    result = session(
        pytester,
        """
@pytest.fixture(scope="module")
async def wide():
    yield 1

@pytest.mark.timeout(0.3, method="signal")
async def test_it():
    await sleep(60)

@pytest.mark.timeout(0.3, method="signal")
async def test_in_a_carrier(wide):
    await sleep(60)

async def test_after(wide):
    assert wide == 1
""",
        "-p",
        "no:faulthandler",
    )
    result.assert_outcomes(passed=1, failed=2)
    shows(result, "Timeout", "[[]sleep[]]", "in test_it", "Timeout", "in test_in_a_carrier")


def test_what_the_page_shows(pytester):
    """docs/pytest.md: its first example, and what is printed, but for the seed."""
    page = (Path(__file__).parents[2] / "docs" / "pytest.md").read_text()
    code = re.search(r"^```py\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1]
    said = re.search(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1]
    pytester.makepyfile(test_doubler="").write_text(code)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--goroutine-machines=2")
    result.assert_outcomes(passed=1, failed=1)

    def varied(text):
        text = re.sub(r"(seed[ =])\d+", r"\1N", text.replace(f"{pytester.path}/", ""))
        return re.sub(r"(?m)^goroutine [2-9]\d* ", "goroutine N ", text)

    rest = varied(result.stdout.str())
    for line in filter(None, varied(said).splitlines()):
        before, found, rest = rest.partition(line)
        assert found, f"{line!r} is not in {before!r}"
