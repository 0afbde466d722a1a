"""Which tests are ours, and what mark, options and ini file say of them."""

import sys

import pytest
from plugin_support import session, shows

pytest_plugins = ["pytester"]


def test_a_marked_test_is_the_main_goroutine_of_a_run_of_its_own(pytester):
    result = session(
        pytester,
        """
seen = []

async def test_one(tmp_path):
    seen.append(current())
    assert current().id == 1
    assert tmp_path.exists()

@pytest.mark.parametrize("x", [1, 2])
async def test_two(x):
    await sleep(0.001)
    assert current().id == 1
    assert current() not in seen
    assert x in (1, 2)
""",
    )
    result.assert_outcomes(passed=3)


def test_in_classes(pytester):
    result = session(
        pytester,
        """
class TestIt:
    @pytest.fixture
    async def mine(self):
        self.x = current()
        return self

    async def test_one(self, mine):
        assert mine is self
        assert self.x is current()

    async def test_two(self):
        assert not hasattr(self, "x")

    @staticmethod
    async def test_three():
        assert current().id == 1

    @classmethod
    async def test_four(cls):
        assert current().id == 1 and cls.__name__ == "TestIt"
""",
    )
    result.assert_outcomes(passed=4)


def test_strict_leaves_unmarked_tests_alone(pytester):
    result = session(pytester, "async def test_it(): pass", marked=False)
    result.assert_outcomes(failed=1)
    shows(result, "async def functions are not natively supported")


def test_auto_takes_all_that_no_other_mark_claims(pytester):
    result = session(
        pytester,
        """
async def test_it():
    assert current().id == 1

@pytest.fixture
async def five():
    return 5

def test_plain(five):
    assert five == 5

@pytest.mark.trio
async def test_other():
    pass
""",
        ini="goroutine_mode = auto\nmarkers = trio",
        marked=False,
    )
    result.assert_outcomes(passed=2, failed=1)


def test_a_mark_that_a_conftest_adds(pytester):
    pytester.makeconftest(
        """
import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.goroutine(machines=3))
"""
    )
    result = session(pytester, "async def test_it():\n    assert machines() == 3\n", marked=False)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("@pytest.mark.goroutine(machine=1)\nasync def test_it(): pass", "not 'machine'"),
        ("@pytest.mark.goroutine(1)\nasync def test_it(): pass", "takes names only"),
    ],
)
def test_a_wrong_mark(pytester, source, words):
    result = session(pytester, source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{words}*"])


@pytest.mark.parametrize(
    "ini", ["goroutine_mode = no", "goroutine_timeout = x", "goroutine_leaks = x"]
)
def test_a_wrong_setting(pytester, ini):
    result = session(pytester, "", ini=ini)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{ini.split()[0]}*"])


def test_a_condition_in_words_sees_the_names_of_the_test_s_module(pytester):
    result = session(
        pytester,
        """
here = True

@pytest.mark.skipif("here")
async def test_skipped(): pass

@pytest.mark.xfail("here")
async def test_failing(): assert False
""",
    )
    result.assert_outcomes(skipped=1, xfailed=1)


def test_skip_fail_and_xfail_from_inside(pytester):
    result = session(
        pytester,
        """
async def test_skip():
    pytest.skip("no")

async def test_fail():
    pytest.fail("yes")

async def test_xfail():
    pytest.xfail("so it is")

async def test_skip_elsewhere():
    go(pytest.skip, "no")
    await chan().recv()

@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
async def test_raises():
    1 / 0
""",
    )
    result.assert_outcomes(skipped=2, failed=1, xfailed=2)


def test_machines(pytester):
    result = session(
        pytester,
        """
@pytest.mark.goroutine(machines=3)
async def test_mark(goroutine_machines):
    assert machines() == goroutine_machines == 3

@pytest.mark.goroutine(machines=(1, 2))
async def test_several():
    assert machines() in (1, 2)

@pytest.mark.goroutine(machines=(1, 2))
@pytest.mark.parametrize("x", [1, 2])
async def test_several_and_others(x, goroutine_machines):
    assert machines() == goroutine_machines

@pytest.mark.parametrize("goroutine_machines", [1, 3])
async def test_parameter(goroutine_machines):
    assert machines() == goroutine_machines

async def test_option():
    assert machines() == 2

@pytest.mark.parametrize("goroutine_machines", [1, 3], indirect=True)
def test_plain(goroutine_machines, goroutine_run):
    async def main():
        return machines()
    assert goroutine_run(main) == goroutine_machines
""",
        "--goroutine-machines=2",
        "-v",
    )
    result.assert_outcomes(passed=12)
    shows(result, "test_several?machines=1? PASSED", "test_several?machines=2? PASSED")


def test_a_number_of_machines_by_option_runs_each_test_with_each(pytester):
    result = session(
        pytester,
        """
async def test_it():
    print("with", machines())

@pytest.mark.goroutine(machines=1)
async def test_only_one():
    print("with one", machines())

def test_plain():
    pass
""",
        "--goroutine-machines=1,3",
        "-v",
        "-s",
    )
    result.assert_outcomes(passed=4)
    shows(result, "with 1", "with 3", "with one 1")


def test_a_fixture_of_that_name_is_asked(pytester):
    result = session(
        pytester,
        """
@pytest.fixture(params=[1, 2])
def goroutine_machines(request):
    return request.param

async def test_it(goroutine_machines):
    assert machines() == goroutine_machines
""",
    )
    result.assert_outcomes(passed=2)


def test_runs_go_on_until_one_fails(pytester):
    result = session(
        pytester,
        """
seeds = []

@pytest.fixture
async def fresh():
    seeds.append("fixture")
    yield
    seeds.append("gone")

async def test_it(goroutine_seed, fresh):
    seeds.append(goroutine_seed)
    assert goroutine_seed < 42

@pytest.mark.goroutine(runs=1)
async def test_after():
    assert seeds == [e for n in range(40, 43) for e in ("fixture", n, "gone")]
""",
        "--goroutine-seed=40",
        "--goroutine-runs=10",
    )
    result.assert_outcomes(passed=1, failed=1)
    shows(
        result,
        "goroutine: seed 40, runs 10",
        "seed 42, run 3 of 10, on * machines",
        "again: pytest test_it.py::test_it --goroutine-seed=42 --goroutine-machines=*",
    )


def test_a_plain_test_runs_goroutines_by_a_fixture(pytester):
    result = session(
        pytester,
        """
async def add(a, b=0):
    await sleep(0.001)
    return a + b

def test_it(goroutine_run, unused_tcp_port):
    assert goroutine_run(add, 1, b=2) == 3
    assert goroutine_run(add, 1) == 1
    assert 0 < unused_tcp_port < 65536
    with pytest.raises(ValueError, match="no luck"):
        goroutine_run(fail)
    with pytest.raises(TypeError, match="takes an async def function, not int"):
        goroutine_run(int)

async def fail():
    raise ValueError("no luck")

def test_deadlock(goroutine_run):
    goroutine_run(chan().recv)

@pytest.mark.goroutine(timeout=0.1)
def test_late(goroutine_run):
    async def main():
        await sleep(60)
    goroutine_run(main)
""",
        marked=False,
    )
    result.assert_outcomes(passed=1, failed=2)
    shows(
        result,
        "goroutine_run() takes an async def function, not generator",
        "timed out after 0.1 s",
    )


def test_a_session_without_our_tests_imports_nothing_of_it(pytester):
    """In a process of its own: this one has it all. With one of ours, it would be there."""
    pytester.makepyfile(test_it="async def helper(): pass\ndef test_it(): pass")
    pytester.makeconftest(
        """
import sys
def pytest_unconfigure():
    print("imported", sorted(m for m in sys.modules if "goroutine" in m))
"""
    )
    result = pytester.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    shows(result, "imported ?'pytest_goroutine'?")
