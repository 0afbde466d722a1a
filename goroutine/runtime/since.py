"""Since when a goroutine waits, to within half a minute or so. Go: waitsince.

To note the time at each park would cost every park something, for what hardly anybody asks.
Instead sysmon goes through the goroutines now and then, with the machines halted for a moment
(halt.py), and puts a mark around the steps of each that is parked. The first step takes the
mark away again, at the price of one call. So a goroutine with a mark has waited since that
was put there; one without has not been there the last time, or has run since. (Go notes the
time when the collector comes across the goroutine: every two minutes at least.)

While all machines sleep nothing moves and sysmon sleeps, too; it remembers since when.
"""

from __future__ import annotations

import threading
from _thread import get_ident
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from .goroutine import Goroutine, close_steps

if TYPE_CHECKING:
    from .halt import Running
    from .scheduler import Runtime

__all__ = ["Marked", "Rounds", "parked_since"]

ROUND = 30.0
"""Seconds from one round to the next; longer if a round takes more than a hundredth of that."""

AT_ONCE = 2000
"""Goroutines that are marked while the machines stand still: a millisecond or two."""


class Marked:
    """Steps of a goroutine that was parked at ``since``. Stands in for them until the next."""

    __slots__ = ("_g", "_it", "since")

    def __init__(self, g: Goroutine[Any], since: float) -> None:
        self._g = g
        self._it = g.it
        self.since = since

    def __iter__(self) -> Any:
        """The step begins; called by the machine whose it is."""
        it = self._g.it = self._it
        return iter(it)

    def throw(self, failure: BaseException) -> Any:
        return self._it.throw(failure)

    def close(self) -> None:
        close_steps(self._it)


def parked_since(it: Any) -> float | None:
    """When a goroutine with these steps was seen parked where it is."""
    return it.since if type(it) is Marked else None


class Rounds:
    """sysmon's, of one run."""

    __slots__ = ("_next", "_runtime", "_under_way")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._next = monotonic() + ROUND
        self._under_way = threading.Lock()

    def look(self, now: float) -> None:
        """Make a round if it is time. On Python's main thread it goes on in another one: a
        signal's handler there may raise anywhere."""
        if now < self._next or not self._under_way.acquire(blocking=False):
            return
        self._next = now + ROUND
        if get_ident() != threading.main_thread().ident:
            self._make()
            return
        try:
            threading.Thread(target=self._make, name="goroutine-rounds", daemon=True).start()
        except RuntimeError:  # no more threads
            self._under_way.release()

    def _make(self) -> None:
        try:
            began = monotonic()
            self.go()
            self._next = began + max(ROUND, 100 * (monotonic() - began))
        finally:
            self._under_way.release()

    def go(self) -> None:
        """Mark all that are parked and have no mark."""
        runtime = self._runtime
        for home in runtime.homes():
            new = [g for g in list(home) if type(g.it) is not Marked]
            for at in range(0, len(new), AT_ONCE):
                if runtime.outcome is not None:
                    return
                runtime.halt.call(partial(_mark, new[at : at + AT_ONCE]))


def _mark(gs: list[Goroutine[Any]], running: Running | None) -> None:
    """With the machines halted: what isn't running is nobody's."""
    if running is None:
        return
    now = monotonic()
    for g in gs:
        it = g.it
        if it is not None and type(it) is not Marked and id(g) not in running:
            g.it = Marked(g, now)
