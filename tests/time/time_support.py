"""What the tests of timers share: a machine that is none, and counts of what is left behind."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from goroutine.runtime import scheduler, timers
from goroutine.runtime.goroutine import Goroutine
from goroutine.runtime.shared import machines
from goroutine.runtime.timers import TimerHeap
from goroutine.time import channel as timer_channel


def timers_set() -> int:
    """How many timers are in the heaps of this run."""
    runtime = scheduler.running()
    assert runtime is not None
    return sum(len(m.p.timers) for m in runtime.machines)


class Stepped:
    """Stands in for a machine of the calling thread, with a clock that is set by hand.

    Operations are begun and go on only as they are told to; alarms are taken off the heap
    (`take`) and go off (`ring`) one by one, as if that were another thread's doing.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.heap = TimerHeap()
        self.p = SimpleNamespace(timers=self.heap)
        self.g: Any = None
        self.taken: list[Any] = []
        self.woken: list[Any] = []

    def random(self) -> float:
        return 0.0

    def ready(self, g: Any) -> None:
        self.woken.append(g)

    def begin(self, operation: Any) -> tuple[Any, Any]:
        """The first step: ``(g, None)`` of who waits now, or ``(None, result)``."""
        g: Any = Goroutine()
        g.scope = None
        g.it = operation.__await__() if hasattr(operation, "__await__") else operation
        self.g = g
        try:
            commit = next(g.it)
        except StopIteration as end:
            return None, end.value
        finally:
            self.g = None
        commit(g)
        return g, None

    def finish(self, g: Any) -> Any:
        """The last step of who was woken: its result."""
        self.g = g
        try:
            next(g.it)
        except StopIteration as end:
            return end.value
        finally:
            self.g = None
        raise AssertionError("it waits once more")

    def take(self) -> int:
        """Take what is due off the heap, as a firing begins."""
        due = self.heap.take_due(self.now)
        self.taken.extend(due)
        return len(due)

    def ring(self) -> None:
        """One of those taken goes off: the firing goes on."""
        alarm = self.taken.pop(0)
        alarm.fire(alarm.arg)

    def settle(self) -> None:
        """All that is due goes off."""
        while self.taken or self.take():
            self.ring()


@contextmanager
def stepped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepped]:
    """A `Stepped` on this thread. Values are those of its clock."""
    m = Stepped()
    with monkeypatch.context() as patch:
        patch.setattr(timers, "monotonic", lambda: m.now)
        patch.setattr(timer_channel, "monotonic", lambda: m.now)
        patch.setattr(timer_channel, "from_monotonic", float)
        machines[get_ident()] = m  # type: ignore[assignment]
        try:
            yield m
        finally:
            del machines[get_ident()]
