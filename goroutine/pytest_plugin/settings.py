"""What is known of one test: what its mark, the options and the ini file say, and its runs."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from pytest_goroutine import EXCHANGED, in_bubble, is_async, said_of

from ..runtime.settings import machine_count_of

if TYPE_CHECKING:
    from .fixtures import Deferred

__all__ = ["State", "machines_of", "state_of"]

_key = pytest.StashKey["State"]()


class State:
    """Of one test, from its first fixture to its report."""

    def __init__(self, item: pytest.Function) -> None:
        said = said_of(item)
        config = item.config
        self.item = item
        self.asynchronous = EXCHANGED in item.stash or is_async(item.obj)
        self.bubble = in_bubble(item)
        self.strategy: str = said.get("strategy") or "random"
        self.schedule: str | None = config.getoption("goroutine_schedule")
        given = config.getoption("goroutine_seed")
        seed = said.get("seed") if given is None else given
        self.seed: int = int.from_bytes(os.urandom(4)) if seed is None else seed
        runs = config.getoption("goroutine_runs")
        self.runs: int = runs or said.get("runs") or 1
        timeout = said.get("timeout")
        self.timeout: float = float(
            config.getini("goroutine_timeout") if timeout is None else timeout
        )
        leaks = said.get("leaks")
        self.leaks: bool = config.getini("goroutine_leaks") == "ignore" if leaks is None else leaks
        # Async fixtures that are made when the test runs, and those that depend on them, in order.
        self.deferred: list[Deferred] = []
        self.making = 0  # plain fixtures of the test that have begun, and may ask for others
        self.run = 0  # which of the runs this is, from 1
        self.shown = ""  # the schedule with which a bubble has failed
        self.dump = ""  # the goroutines at the moment it failed

    @property
    def this_seed(self) -> int:
        """That of this run: the next run has the next number."""
        return self.seed + max(self.run - 1, 0)

    @property
    def machines(self) -> int:
        return machines_of(self.item)

    def report(self) -> str:
        """What a failed test says in addition; "" if none of its goroutines ran."""
        if not self.run:
            return ""
        lines = []
        which = f", run {self.run} of {self.runs}" if self.runs > 1 else ""
        again = ["pytest", shlex.quote(self.item.nodeid), f"--goroutine-seed={self.this_seed}"]
        if self.bubble:
            lines.append(f"seed {self.this_seed}{which}, in a bubble")
            if self.shown:
                again.append(f"--goroutine-schedule={self.shown}")
        else:
            lines.append(f"seed {self.this_seed}{which}, on {self.machines} machines")
            if not self._parametrised():
                again.append(f"--goroutine-machines={self.machines}")
        lines.append(f"again: {' '.join(again)}")
        if self.dump:
            lines += ["", self.dump.rstrip()]
        return "\n".join(lines)

    def _parametrised(self) -> bool:
        return _parameter(self.item) is not None


def state_of(item: Any) -> State:
    """The one of this test, made at the first call."""
    state: State | None = item.stash.get(_key, None)
    if state is None:
        state = item.stash[_key] = State(item)
    return state


def _parameter(item: pytest.Function) -> int | None:
    """The number of machines that the test is parametrised with."""
    callspec = getattr(item, "callspec", None)
    number = None if callspec is None else callspec.params.get("goroutine_machines")
    return None if number is None else int(number)


def machines_of(item: pytest.Function) -> int:
    """How many machines a test runs on."""
    number = _parameter(item)
    if number is None and item.funcargs:
        number = item.funcargs.get("goroutine_machines")  # type: ignore[assignment]
    if number is None:
        number = said_of(item).get("machines")
        several = item.config.getoption("goroutine_machines")
        if number is None and several is not None:
            number = several[0]
        if isinstance(number, (list, tuple)):
            number = number[0]
    return machine_count_of(number)
