"""A session of pytest inside of a test, with the plugin."""

import goroutine.pytest_plugin.bubbles
import goroutine.pytest_plugin.calls  # noqa: F401 (pytester forgets what was imported inside)

HEAD = """
import pytest
import goroutine
from goroutine import chan, current, go, gosched, machines, sleep
"""


def session(pytester, source, *options, ini="", marked=True):
    """Run the tests in ``source``. What it gives has assert_outcomes() and stdout."""
    pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}\n")
    head = HEAD + ("pytestmark = pytest.mark.goroutine\n" if marked else "")
    path = pytester.makepyfile(test_it="")
    path.write_text(head + source)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


def shows(result, *lines):
    """These lines, in this order, with anything between them."""
    result.stdout.fnmatch_lines([f"*{line}*" for line in lines])
