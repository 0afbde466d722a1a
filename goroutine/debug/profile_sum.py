"""What one machine adds up for a profile: steps and waits, by function and place."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from ..runtime.probe import Names, Place

__all__ = ["MachineSums"]


class MachineSums:
    """The sink of one machine, which alone writes. Others take out of `parked` and `woken` (a
    pop is atomic), and read the sums as they are.

    What it is told after it was closed, at the end of the step in which that happened, goes into
    what it has kept for itself, and nobody reads that.
    """

    step: Callable[[int, int, int, int, int, int], object]
    was: Callable[[int, int, int, int], object]
    wake: Callable[[int, int, int], object]
    spawn: Callable[[int, int, int, int], object]

    def __init__(self, names: Names, everyone: dict[int, MachineSums]) -> None:
        self._names = names
        # By function: goroutines begun, steps, nanoseconds running and runnable.
        self._sums: dict[int, list[int]] = {}
        # By function and place: how often, how long.
        self._waits: dict[tuple[int, int], list[int]] = {}
        # By goroutine: since when it is parked, its function and its place, by our names.
        self.parked: dict[int, tuple[int, int, int]] = {}
        # By goroutine: when it was woken; negative: made, or gave way.
        self.woken: dict[int, int] = {}
        self._left: list[tuple[int, int, int]] | None = None  # who still waited in the end
        self._until = 0
        self._everyone = everyone
        self.since = monotonic_ns()
        self._record()

    def _record(self) -> None:
        sums, waits, parked, woken = self._sums, self._waits, self.parked, self.woken
        unpark, take = parked.pop, woken.pop

        def new(fn: int) -> list[int]:
            found = sums[fn] = [0, 0, 0, 0]
            return found

        def waited(fn: int, place: int, length: int) -> None:
            try:
                total = waits[fn, place]
            except KeyError:
                total = waits[fn, place] = [0, 0]
            total[0] += 1
            total[1] += length

        def step(how: int, began: int, ended: int, id: int, fn: int, place: int) -> None:
            try:
                total = sums[fn]
            except KeyError:
                total = new(fn)
            total[1] += 1
            total[2] += ended - began
            at = take(id, 0)
            if at < 0:  # it was not parked
                total[3] += began + at
            else:
                before = unpark(id, None)
                if at and before is not None:
                    since, _, where = before
                    waited(fn, where, at - since)
                    total[3] += began - at
                else:
                    total[3] += elsewhere(id, began, at, before)
            if how == 1:  # PARK
                parked[id] = ended, fn, place
            elif how == 2:  # YIELD
                woken[id] = -ended

        def elsewhere(id: int, began: int, at: int, before: tuple[int, int, int] | None) -> int:
            """A goroutine that was parked, made or woken on another machine, or by a thread that
            is none; how long it has been runnable."""
            everyone = list(self._everyone.values())
            for m in everyone:
                at = at or m.woken.pop(id, 0)
                if before is None and at >= 0:
                    before = m.parked.pop(id, None)
                    if before is not None and m is not self:
                        since, fn, place = before
                        before = since, *self._names.same(m._names, fn, place)
            if at < 0:
                return began + at
            at = at or began
            if before is not None:
                since, fn, place = before
                waited(fn, place, max(0, at - since))
            return began - at

        def was(at: int, id: int, fn: int, place: int) -> None:
            if self._names.places[place].reason:
                until = max([m.woken.get(id, 0) for m in list(self._everyone.values())])
                waited(fn, place, max(0, (until or at) - self.since))

        def wake(at: int, id: int, by: int) -> None:
            woken[id] = at

        def spawn(at: int, id: int, fn: int, by: int) -> None:
            woken[id] = -at
            try:
                sums[fn][0] += 1
            except KeyError:
                new(fn)[0] = 1

        self.step, self.was, self.wake, self.spawn = step, was, wake, spawn

    def begun(self) -> bool:
        return bool(self._sums)

    def other(self, what: int, began: int, ended: int, a: int, b: int) -> None:
        pass

    def close(self, now: int) -> None:
        """It is over: what waits, waited until now. By another thread than the machine's."""
        self._until = now
        self._left = list(self.parked.copy().values())
        self._sums = {fn: list(numbers) for fn, numbers in self._sums.copy().items()}
        self._waits = {key: list(sums) for key, sums in self._waits.copy().items()}
        self.parked.clear()
        self.woken.clear()

    def steps(self) -> list[tuple[str, list[int]]]:
        """By function: goroutines begun, steps, nanoseconds running and runnable, so far."""
        fns = self._names.fns
        return [(fns[fn], numbers) for fn, numbers in self._sums.copy().items()]

    def waits(self, now: int) -> list[tuple[str, Place, int, int]]:
        """By function and place: how often, and for how many nanoseconds, so far."""
        fns, places = self._names.fns, self._names.places
        waits = [(fn, place, *sums) for (fn, place), sums in self._waits.copy().items()]
        left, until = self._left, self._until
        if left is None:
            left, until = list(self.parked.copy().values()), now
        waits += [(fn, place, 1, max(0, until - since)) for since, fn, place in left]
        return [(fns[fn], places[place], count, length) for fn, place, count, length in waits]
