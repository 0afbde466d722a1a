"""Bubble: what the function gets that `run` runs."""

from __future__ import annotations

import types
from _thread import get_ident
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..runtime.clock import now
from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit, Goroutine
from ..runtime.shared import bubbles, find
from ..runtime.sleep import sleep
from .machine import point

if TYPE_CHECKING:
    from .machine import Machine
    from .network import Network

__all__ = ["Bubble"]


class Bubble:
    """The bubble in which a function runs that was given to `run`. Go: testing/synctest.

    >>> async def main(bubble):
    ...     ticks = []
    ...     async def tick():
    ...         while True:
    ...             await goroutine.sleep(60)
    ...             ticks.append(bubble.now())
    ...             if len(ticks) == 2:
    ...                 return
    ...     goroutine.go(tick)
    ...     await bubble.sleep(3600)
    ...     return ticks
    >>> testing.run(main)  # at once
    [946684860.0, 946684920.0]
    """

    __slots__ = ("_m", "seed")

    def __init__(self, m: Machine, seed: int) -> None:
        self._m = m
        self.seed = seed
        """What the choices of this run come from; for whatever else is to be random in it."""

    def now(self) -> float:
        """The time in the bubble, in seconds since the epoch: `goroutine.time.now` there.
        It begins at 946684800.0, midnight UTC 2000-01-01."""
        self._enter()
        return now()

    @property
    def network(self) -> Network:
        """Its network, on which `goroutine.net.listen` and `goroutine.net.dial` work in it."""
        return self._enter().network

    @types.coroutine
    def wait(self) -> Generator[Commit]:
        """Wait until every other goroutine of the bubble is blocked, or has ended.

        Blocked is who waits for something that none but another goroutine of the bubble can
        bring about, or the clock, which stands still meanwhile: timers that are due now go off
        before this returns. A goroutine that waits for a Mutex is blocked, too (unlike in Go,
        where somebody outside might unlock it). ``RuntimeError("wait already in progress")``
        if another goroutine is in it. Cancel safety: it is not cancelled. Go: synctest.Wait.
        """
        m = self._enter()
        if m.waiter is not None:
            raise RuntimeError("wait already in progress")
        yield self._park

    def _park(self, g: Goroutine[Any]) -> None:
        self._m.waiter = g

    async def sleep(self, seconds: float) -> None:
        """Sleep so long, then `wait`: what is to happen until then has happened.
        Go: synctest.Sleep."""
        self._enter()
        await sleep(seconds)
        await self.wait()

    @types.coroutine
    def point(self) -> Generator[Commit]:
        """Let another goroutine run here, or not: a place where this one may be interrupted.

        There is one before each operation of a channel, a select, a lock and their like. For
        code in between that on several machines would run side by side with that of others.
        """
        self._enter()
        yield point

    def _enter(self) -> Machine:
        m = self._m
        if find(bubbles, get_ident()) is not m or m.g is None:
            raise RuntimeError("use of synctest bubble from outside bubble")
        return m

    def __repr__(self) -> str:
        return f"<Bubble with seed {self.seed}>"


waits_for("bubble wait", Bubble.wait)
