"""sleep: a goroutine's own timer."""

from __future__ import annotations

import types
from collections.abc import Generator
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from .dump import waits_for
from .goroutine import Commit, Goroutine
from .park import ready
from .shared import current
from .timers import Timer
from .wait import Waiter, cancelable, check, check_ctx

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["sleep"]


class _Sleep(Timer):
    """``arg`` is the machine, until the frame has stopped; then the goroutine."""

    __slots__ = ()

    def park(self, g: Goroutine[Any] | Waiter) -> None:
        """Commit: set the timer of this machine. It is awake, so it need not be told."""
        m = self.arg
        self.arg = g
        m.p.timers.add(self)


@types.coroutine
def sleep(seconds: float, *, ctx: Context | None = None) -> Generator[Commit]:
    """Wait for at least so many seconds; zero or less returns at once.

    ``ValueError`` for NaN; infinity, and what is beyond a float, waits for ever. `Canceled`
    if ``ctx`` is or meanwhile gets cancelled, or the goroutine's group. Cancel safety: a
    cancelled sleep leaves no timer behind. Go: time.Sleep.

    >>> async def main():
    ...     before = goroutine.time.now()
    ...     await goroutine.sleep(0.01)
    ...     return goroutine.time.now() - before >= 0.01
    >>> goroutine.start(main)
    True
    """
    if ctx is not None:
        check_ctx(ctx)
    if seconds <= 0:
        return
    try:
        when = monotonic() + seconds
    except OverflowError:  # of an int
        when = inf
    if when != when:  # NaN
        raise ValueError("a time to wait must not be NaN")
    m = current()
    g = m.g
    if g is None or (g.scope is None and ctx is None):
        timer = _Sleep(when, ready, m)
        try:
            yield timer.park
        except BaseException:  # the run is over
            timer.stop()
            raise
    else:
        yield from _sleep_under(g, when, ctx)


def _sleep_under(g: Goroutine[Any], when: float, ctx: Context | None) -> Generator[Commit]:
    """Sleep as a goroutine that may be cancelled."""
    check(g, ctx)
    waiter = Waiter(g)
    timer = _Sleep(when, Waiter.fire, current())
    try:
        yield from cancelable(waiter, lambda _: timer.park(waiter), g, ctx)
    except BaseException:
        timer.stop()
        raise


waits_for("sleep", sleep)
