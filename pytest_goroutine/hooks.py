"""What is done around every test that runs, once there is one of ours in the session."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from . import inner_test, is_async, is_ours, plain

if TYPE_CHECKING:
    from goroutine.pytest_plugin.settings import State

__all__ = ["Hooks"]


class Hooks:
    """A plugin of one session."""

    def __init__(self) -> None:
        self.item: pytest.Function | None = None  # the test that runs, if it is ours

    def state(self) -> State | None:
        if self.item is None:
            return None
        from goroutine.pytest_plugin.settings import state_of

        return state_of(self.item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if is_ours(item):
            assert isinstance(item, pytest.Function)
            self.item = item
        try:
            return (yield)
        finally:
            self.item = None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """An async fixture, or one that depends on such: pytest gets a plain function for it.

        The last before pytest's own: what another plugin has exchanged is not async any more.
        """
        fn = fixturedef.func
        asynchronous = inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)
        state = self.state()
        if state is None or not (
            asynchronous or state.deferred or "request" in fixturedef.argnames
        ):
            return (yield)
        from goroutine.pytest_plugin.fixtures import later, stand_in

        other = stand_in(state, fixturedef, request, asynchronous)
        if other is None:
            return (yield)
        setattr(fixturedef, "func", other)  # noqa: B010
        try:
            value = yield
        finally:
            setattr(fixturedef, "func", fn)  # noqa: B010
        later(state, value)
        return value

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """hypothesis calls the async function itself, once for each example."""
        inner = inner_test(pyfuncitem.obj)
        if self.item is not pyfuncitem or inner is None or not is_async(pyfuncitem.obj):
            return (yield)
        from goroutine.pytest_plugin.calls import run_test

        def call(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            run_test(pyfuncitem, inner, kwargs, *args)

        handle = pyfuncitem.obj.hypothesis
        handle.inner_test = plain(inner, call)
        try:
            return (yield)
        finally:
            handle.inner_test = inner

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        if self.item is None:
            return (yield)
        from goroutine.pytest_plugin.carrier import bury

        try:
            return (yield)
        finally:
            bury()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        state = self.state()
        if state is not None and report.failed:
            text = state.report()
            if text:
                report.sections.append(("goroutine", text))
        return report
