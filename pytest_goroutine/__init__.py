"""The pytest plugin: ``async def`` tests that run as goroutines. docs/pytest.md is its page.

This is what pytest loads in every session, so it is light: it says which options, marks and
fixtures there are, and looks which tests are ours. What runs them is in goroutine/pytest_plugin/,
which is imported, and the runtime with it, when the first such test runs. (A module inside the
package could not be imported without the whole of it.) What looks at every test that runs is in
hooks.py, and there only if there is one of ours.

A test of ours keeps its item: only ``item.obj`` is exchanged for a plain function that pytest, or
another plugin, may call as any other, as often and in as many threads as it likes. It is done as
late as the collection allows, since marks may be added to the end; but for what carries our mark
in its source right away, before another plugin takes it for its own.
"""

from __future__ import annotations

import inspect
import unittest
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from goroutine.pytest_plugin.bubbles import CurrentBubble

__all__: list[str] = []

OTHERS = ("anyio", "asyncio", "curio", "trio", "twisted")
"""Marks of other plugins for async tests: in auto mode these are left to them."""

EXCHANGED = pytest.StashKey[bool]()
"""Of an item: its function has been exchanged for one that runs it as a goroutine."""

SETTINGS = ("bubble", "leaks", "machines", "runs", "seed", "strategy", "timeout")

MARK = """\
goroutine(machines=, seed=, timeout=, runs=, leaks=, bubble=, strategy=): run this async test as a \
goroutine. machines: how many, or several numbers, to run it with each; seed, strategy, bubble: \
run it in a bubble, with virtual time and all choices from the seed; timeout: seconds, after which \
it fails with a dump; runs: repeat it so often, with new seeds, until it fails; leaks=True: \
goroutines may be left when it ends."""


# -- options ---------------------------------------------------------------------------------


def numbers(text: str) -> tuple[int, ...]:
    """``4`` or ``1,2,4``."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise ValueError(text)
    return found


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("goroutine", "tests that run as goroutines")
    group.addoption(
        "--goroutine-seed",
        type=int,
        metavar="SEED",
        help="the seed of every test in a bubble, and what the fixture goroutine_seed gives",
    )
    group.addoption(
        "--goroutine-schedule",
        metavar="SCHEDULE",
        help="for a test in a bubble that has failed: the choices that were shown",
    )
    group.addoption(
        "--goroutine-runs",
        type=positive,
        metavar="N",
        help="run each test N times, with a new seed each time, until it fails",
    )
    group.addoption(
        "--goroutine-machines",
        type=numbers,
        metavar="M[,M...]",
        help="how many machines tests run on; several numbers: each test with each of them",
    )
    parser.addini(
        "goroutine_mode",
        "strict: tests with the mark goroutine are ours; auto: all async ones that no other"
        " plugin's mark claims",
        default="strict",
    )
    parser.addini("goroutine_timeout", "seconds after which a test fails (0: never)", default="0")
    parser.addini(
        "goroutine_leaks",
        "whether goroutines that are left when a test ends fail it: error or ignore",
        default="error",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)
    for name, known in (
        ("goroutine_mode", ("auto", "strict")),
        ("goroutine_leaks", ("error", "ignore")),
    ):
        if config.getini(name) not in known:
            raise pytest.UsageError(f"{name} must be {' or '.join(known)}: {config.getini(name)!r}")
    try:
        float(config.getini("goroutine_timeout"))
    except ValueError as failure:
        raise pytest.UsageError(f"goroutine_timeout: {failure}") from None


def pytest_report_header(config: pytest.Config) -> str | None:
    given = [
        f"{name} {value}"
        for name in ("seed", "runs", "machines")
        if (value := config.getoption(f"goroutine_{name}")) is not None
    ]
    return f"goroutine: {', '.join(given)}" if given else None


# -- which tests are ours ----------------------------------------------------------------------


def is_async(fn: Any) -> bool:
    """Whether this is an async test, or hypothesis's wrapper of one."""
    return inspect.iscoroutinefunction(inner_test(fn) or fn)


def inner_test(fn: Any) -> Any:
    """What a function with ``@given`` calls for each example; None for any other function."""
    if not getattr(fn, "is_hypothesis_test", False):
        return None
    return getattr(getattr(fn, "hypothesis", None), "inner_test", None)


def is_ours(node: pytest.Item) -> bool:
    """Whether the runtime takes part in this item, an async test or a plain one."""
    if not isinstance(node, pytest.Function):
        return False
    if node.get_closest_marker("goroutine") is not None or "goroutine_run" in node.fixturenames:
        return True
    return (
        node.config.getini("goroutine_mode") == "auto"
        and not any(node.get_closest_marker(name) for name in OTHERS)
        and not (node.cls is not None and issubclass(node.cls, unittest.TestCase))
    )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    made = yield
    if isinstance(made, list):
        for item in made:
            if isinstance(item, pytest.Function) and item.get_closest_marker("goroutine"):
                exchange(item)
    return made


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    definition = metafunc.definition
    several = said_of(definition).get("machines")
    if several is None:
        several = metafunc.config.getoption("goroutine_machines")
        if several is None:
            return  # almost always
    if isinstance(several, int) or len(several) == 1 or not is_ours(definition):
        return
    if not (is_async(definition.obj) or "goroutine_run" in metafunc.fixturenames):
        return
    if in_bubble(definition) or "goroutine_machines" in [
        name for other in definition.iter_markers("parametrize") for name in _names(other)
    ]:
        return
    if "goroutine_machines" not in metafunc.fixturenames:
        metafunc.fixturenames.append("goroutine_machines")
    metafunc.parametrize("goroutine_machines", several, ids=lambda n: f"machines={n}")


def _names(parametrize: pytest.Mark) -> list[str]:
    """The arguments that such a mark is about."""
    names = parametrize.args[0] if parametrize.args else parametrize.kwargs.get("argnames", ())
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def said_of(item: pytest.Item) -> dict[str, Any]:
    """What the marks say, of the test, its class and its module: the closest word counts."""
    said: dict[str, Any] = {}
    for mark in item.iter_markers("goroutine"):  # the closest comes first
        said = {**mark.kwargs, **said}
    return said


def check_marks(item: pytest.Item) -> None:
    for mark in item.iter_markers("goroutine"):
        if mark.args:
            raise pytest.UsageError(f"{item.nodeid}: the mark goroutine takes names only")
        for name in mark.kwargs:
            if name not in SETTINGS:
                known = ", ".join(SETTINGS)
                raise pytest.UsageError(
                    f"{item.nodeid}: the mark goroutine takes {known}, not {name!r}"
                )


def in_bubble(item: pytest.Function) -> bool:
    """Whether the test is to run in a bubble."""
    said = said_of(item)
    wanted = said.get("bubble")
    if wanted is not None:
        return bool(wanted)
    return (
        said.get("seed") is not None
        or said.get("strategy") is not None
        or "bubble" in item.fixturenames
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None]:
    ours = [item for item in session.items if is_ours(item)]
    if ours and not session.config.option.collectonly:
        from .hooks import Hooks

        for item in ours:
            assert isinstance(item, pytest.Function)
            check_marks(item)
            exchange(item)
        if not session.config.pluginmanager.has_plugin("goroutine-hooks"):
            session.config.pluginmanager.register(Hooks(), "goroutine-hooks")
    return (yield)


def exchange(item: pytest.Function) -> None:
    """Have pytest call a plain function in the place of the async test."""
    fn = item.obj
    if inner_test(fn) is None and inspect.iscoroutinefunction(fn):
        item.obj = plain(fn, lambda **kwargs: _run(item, fn, kwargs))
        item.stash[EXCHANGED] = True


def _run(item: pytest.Function, fn: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    __tracebackhide__ = True
    from goroutine.pytest_plugin.calls import run_test

    run_test(item, fn, kwargs)


def plain(fn: Any, call: Callable[..., None]) -> Any:
    """A function that looks like fn and does ``call``.

    With fn's globals: it is there that pytest, given a condition as a string, looks for names.
    """
    import functools
    import types

    def test(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        call(*args, **kwargs)

    names = getattr(inspect.unwrap(getattr(fn, "__func__", fn)), "__globals__", globals())
    made = types.FunctionType(test.__code__, names, "test", None, test.__closure__)
    return functools.update_wrapper(made, fn)


# -- fixtures ----------------------------------------------------------------------------------


@pytest.fixture
def goroutine_machines(request: pytest.FixtureRequest) -> int:
    """How many machines the test runs on. Parametrise it to run the test with several numbers:
    ``@pytest.mark.parametrize("goroutine_machines", [1, 2, 4])``."""
    if hasattr(request, "param"):
        return int(request.param)
    from goroutine.pytest_plugin.settings import machines_of

    return machines_of(request.node)


@pytest.fixture
def goroutine_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the test: that of its bubble, and for what the test itself draws. It is shown
    when the test fails."""
    from goroutine.pytest_plugin.settings import state_of

    return state_of(request.node).seed


@pytest.fixture
def bubble(request: pytest.FixtureRequest) -> CurrentBubble:
    """The bubble in which the test runs, since it asks for it: see `goroutine.testing`."""
    from goroutine.pytest_plugin.bubbles import CurrentBubble

    return CurrentBubble()


@pytest.fixture
def goroutine_run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``goroutine_run(fn, *args, **kwargs)``: run the ``async def`` fn as goroutines, and give
    what it returns. For plain tests; the mark's settings hold for each call."""
    from goroutine.pytest_plugin.calls import runner

    return runner(request.node)


@pytest.fixture
def unused_tcp_port() -> int:
    """A port on 127.0.0.1 that nobody listens on. (To be certain of one, listen on port 0.)"""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
