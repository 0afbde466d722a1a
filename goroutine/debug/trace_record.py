"""What a trace keeps while it goes on: numbers, packed, by machine.

Each machine appends to a list of its own, four integers an event, and packs it when it is full: 32
bytes an event. No text and no object of the program is kept. Everything else is done when
the trace is over (trace_write.py). How many events there may be is limited; what comes after that
is counted, and dropped.
"""

from __future__ import annotations

import gc
import struct
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from ..runtime.goroutine import describe
from ..runtime.probe import Names
from ..runtime.shared import machine_or_none

if TYPE_CHECKING:
    from ..runtime.globalq import GlobalQueue
    from ..runtime.machine import Machine
    from ..runtime.offload import Pool
    from ..runtime.scheduler import Runtime

__all__ = ["FN", "PLACE", "SPAWN", "TRACKS", "WAKE", "WAS", "Budget", "Recorder", "RunRecord"]

WAS, WAKE, SPAWN = range(8, 11)
"""Beside those of probe.py. An event is: when it began; what, with ``place << PLACE`` and
``fn << FN``; the goroutine, or what it is about; how long it took, or who did it."""

PLACE, FN = 4, 32

CHUNK = 4096
"""Events that are packed at a time."""

WIDTH = 4

TRACKS = 10_000
"""The most goroutines that get a line of their own."""


class Budget:
    """How many events there may be, in all."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self.most = self._left = most
        self.chunk = min(CHUNK, max(1, most // 8))

    def take(self, n: int) -> bool:
        with self._lock:
            self._left -= n
            return self._left >= 0


class Recorder:
    """The sink of one machine, which alone calls it. Others may read."""

    __slots__ = (
        "_events",
        "_lock",
        "_packed",
        "dropped",
        "names",
        "other",
        "since",
        "spawn",
        "step",
        "wake",
        "was",
    )

    step: Callable[[int, int, int, int, int, int], object]
    was: Callable[[int, int, int, int], object]
    wake: Callable[[int, int, int], object]
    spawn: Callable[[int, int, int, int], object]
    other: Callable[[int, int, int, int, int], object]

    def __init__(self, names: Names, budget: Budget) -> None:
        self.names = names
        self.since = monotonic_ns()
        self.dropped = [0]
        self._events: list[int] = []
        self._packed: list[bytes] = []
        self._lock = threading.Lock()  # of who packs and who reads
        self._record(budget)

    def _record(self, budget: Budget) -> None:
        events, packed, lock, dropped = self._events, self._packed, self._lock, self.dropped
        most = WIDTH * budget.chunk

        def drop(event: tuple[int, int, int, int]) -> None:
            dropped[0] += 1

        extend: Callable[[tuple[int, int, int, int]], object] = events.extend
        if not budget.take(budget.chunk):
            extend = drop

        def step(how: int, began: int, ended: int, id: int, fn: int, place: int) -> None:
            extend((began, how | place << 4 | fn << 32, id, ended - began))
            if len(events) >= most:
                pack()

        def was(at: int, id: int, fn: int, place: int) -> None:
            extend((at, WAS | place << PLACE | fn << FN, id, 0))

        def wake(at: int, id: int, by: int) -> None:
            extend((at, 9, id, by))  # WAKE

        def spawn(at: int, id: int, fn: int, by: int) -> None:
            extend((at, 10 | fn << 32, id, by))  # SPAWN
            if len(events) >= most:  # one step may make any number
                pack()

        def other(what: int, began: int, ended: int, a: int, b: int) -> None:
            extend((began, what | b << FN, a, ended - began))
            if len(events) >= most:
                pack()

        def pack() -> None:
            nonlocal extend
            with lock:
                packed.append(struct.pack(f"{len(events)}q", *events))
                events.clear()
            if not budget.take(budget.chunk):
                extend = drop

        self.step, self.was, self.wake, self.spawn, self.other = step, was, wake, spawn, other

    def events(self) -> Iterator[tuple[int, int, int, int]]:
        """In the order in which they were told: what lasts, after what was within."""
        with self._lock:
            packed, events = list(self._packed), list(self._events)
        for chunk in packed:
            yield from struct.iter_unpack("4q", chunk)
        numbers = iter(events)
        yield from zip(numbers, numbers, numbers, numbers, strict=True)


class RunRecord:
    """One run."""

    def __init__(self, runtime: Runtime, budget: Budget) -> None:
        self.runtime: Runtime | None = runtime
        self.count = runtime.count
        self.budget = budget
        self.began = monotonic_ns()
        self.ended = 0
        self.recorders: dict[int, Recorder] = {}
        # What goes on in other threads, as tuples. (An append is atomic.)
        self.calls: deque[tuple[int, int, int, int, str]] = deque(maxlen=100_000)
        self.wakes: deque[tuple[int, int, int]] = deque(maxlen=100_000)
        self.collections: deque[tuple[int, int, int, int]] = deque(maxlen=100_000)
        # By machine, when it began: the goroutine (or 0) that it ran, and its function.
        self.first: dict[int, tuple[int, str]] = {}
        # By machine, when it ended: since when it slept (0: it did not), and what it ran (or 0).
        self.last: dict[int, tuple[int, int]] = {}
        # Who was left then: number and function.
        self.left: list[tuple[int, str]] = []
        self._collecting = 0
        self.inside = -1  # the machine on which it was begun, inside a step that is not over yet

    def begin(self) -> None:
        runtime = self.runtime
        assert runtime is not None
        m = machine_or_none()
        self.inside = -1 if m is None else m.id
        for m in list(runtime.machines):
            g = m.g
            self.first[m.id] = (0, "") if g is None else (g.id, describe(g.fn))
        gc.callbacks.append(self._collector)
        self._put_before(runtime.globalq)
        self._put_before_pool(runtime.pool)

    def end(self) -> None:
        runtime, self.runtime = self.runtime, None
        if runtime is None:
            return
        del runtime.pool.put, runtime.globalq.put
        gc.callbacks.remove(self._collector)
        self.ended = monotonic_ns()
        for m in list(runtime.machines):
            probe = m.probe
            if probe is not None and runtime.outcome is None:
                g = m.g
                self.last[m.id] = probe.sleeping(), 0 if g is None else g.id
        everyone = (g for home in runtime.homes() for g in list(home))
        self.left = [(g.id, describe(g.fn)) for g in islice(everyone, TRACKS)]

    def recorder(self, m: Machine, names: Names) -> Recorder:
        """That machine's; called by it."""
        known = self.recorders.get(m.id)
        if known is None:
            known = self.recorders[m.id] = Recorder(names, self.budget)
        elif m.id == self.inside:
            self.inside = -1
            known.since = monotonic_ns()
        return known

    # -- in other threads ---------------------------------------------------------------------

    def _collector(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = monotonic_ns()
        elif self._collecting:
            began, self._collecting = self._collecting, 0
            self.collections.append(
                (began, monotonic_ns(), info["generation"], info.get("collected", 0))
            )

    def _put_before(self, globalq: GlobalQueue) -> None:
        """In the global queue's place, for wakes by threads that are no machine."""
        put, wakes = globalq.put, self.wakes

        def traced(gs: Iterable[Any]) -> None:
            gs = list(gs)
            if machine_or_none() is None:
                now, ident = monotonic_ns(), get_ident()
                for g in gs:
                    wakes.append((now, g.id, ident))
            put(gs)

        globalq.put = traced  # type: ignore[method-assign]

    def _put_before_pool(self, pool: Pool) -> None:
        """In the pool's place, for its calls, from begin to end."""
        put, calls = pool.put, self.calls

        def traced(call: Any) -> None:
            fn, id_ = call.fn, 0 if call.g is None else call.g.id

            def timed(*args: Any, **kwargs: Any) -> Any:
                began = monotonic_ns()
                try:
                    return fn(*args, **kwargs)
                finally:
                    calls.append((began, monotonic_ns(), get_ident(), id_, _name(fn)))

            call.fn = timed
            put(call)

        pool.put = traced  # type: ignore[method-assign]


def _name(fn: Any) -> str:
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    module = getattr(fn, "__module__", None)
    return f"{module}.{name}" if module else str(name)
