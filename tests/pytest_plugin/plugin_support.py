"""A session of pytest inside of a test, with the plugin."""

from unittest.mock import patch

# (pytester forgets what was imported inside.)
import goroutine.pytest_plugin.bubbles  # noqa: F401
from goroutine.pytest_plugin import carrier, runs

HEAD = """
import pytest
import goroutine
from goroutine import chan, current, go, gosched, machines, sleep
"""


OTHERS = ("anyio", "asyncio", "hypothesispytest", "run-parallel", "xdist")
"""Plugins that may be installed, and are to take no part."""


def session(pytester, source, *options, ini="", marked=True, beside=(), run=None):
    """Run the tests in ``source``. What it gives has assert_outcomes() and stdout."""
    pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}\n")
    head = HEAD + ("pytestmark = pytest.mark.goroutine\n" if marked else "")
    path = pytester.makepyfile(test_it="")
    path.write_text(head + source)
    without = [option for name in OTHERS if name not in beside for option in ("-p", f"no:{name}")]
    run = run or pytester.runpytest_inprocess
    with patch.multiple(runs, GRACE=0.3, PATIENCE=0.3), patch.object(carrier, "GRACE", 0.3):
        return run("-p", "no:cacheprovider", *without, *options)


def shows(result, *lines):
    """These lines, in this order, with anything between them."""
    result.stdout.fnmatch_lines([f"*{line}*" for line in lines])
