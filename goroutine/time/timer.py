"""Timer, Ticker and what is made of them."""

from __future__ import annotations

import threading
import types
from _thread import get_ident
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from typing import Any

from ..channel import Chan
from ..runtime.goroutine import Goroutine
from ..runtime.scheduler import running
from ..runtime.shared import find, machine_or_none
from ..runtime.spawn import foreign, spawners, steps_for
from ..runtime.timers import Timer as Alarm
from ..runtime.timers import from_now, set_timer
from .channel import TimerChan

__all__ = ["Ticker", "Timer", "after", "after_func", "tick"]


class Timer:
    """One point in time, ``seconds`` from now: then its `channel` gives that time, once.

    Zero or less is now; infinity, and what is beyond a float, is never; ``ValueError`` for
    NaN. May be made and used anywhere; who waits for it is in a goroutine, or in a thread
    by ``recv_blocking``. It need not be stopped. Go: time.NewTimer.

    >>> async def main():
    ...     timer = goroutine.time.Timer(0.01)
    ...     due = await timer.channel.recv()
    ...     return goroutine.time.now() >= due, timer.stop()
    >>> goroutine.start(main)
    (True, False)
    """

    __slots__ = ("__weakref__", "_channel")

    def __init__(self, seconds: float) -> None:
        self._channel = TimerChan(from_now(seconds))

    @property
    def channel(self) -> Chan[float]:
        """What gives the time at which it was due, on `goroutine.time.now`. Only to receive
        from, never closed, its length and capacity are 0. Go: t.C."""
        return self._channel

    def stop(self) -> bool:
        """Stop it; True if that prevented the firing, or nobody has received the value yet.

        From then on nothing can be received, until it is reset; who waits goes on waiting.
        From any goroutine or thread. Go: Timer.Stop.

        >>> timer = goroutine.time.Timer(0)
        >>> timer.stop(), timer.stop()
        (True, False)
        """
        return self._channel._stop()

    def reset(self, seconds: float) -> bool:
        """Start it anew, to be due ``seconds`` from now; returns what `stop` would have.

        What was due before can't be received any more. From any goroutine or thread.
        ``ValueError`` for NaN. Go: Timer.Reset.

        >>> timer = goroutine.time.Timer(60)
        >>> timer.reset(0), timer.channel.recv_blocking() <= goroutine.time.now(), timer.reset(1)
        (True, True, False)
        """
        return self._channel._reset(from_now(seconds))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}>"


class Ticker:
    """Ticks every ``seconds``: its `channel` gives the times at which ticks were due.

    Who receives too slowly loses ticks: one is kept, the others are dropped, and those to
    come are in phase with the first. ``ValueError`` for zero, less, or NaN. It need not be
    stopped. Go: time.NewTicker.

    >>> async def main():
    ...     ticker = goroutine.time.Ticker(0.01)
    ...     first = await ticker.channel.recv()
    ...     return await ticker.channel.recv() - first > 0.009
    >>> goroutine.start(main)
    True
    """

    __slots__ = ("__weakref__", "_channel")

    def __init__(self, seconds: float) -> None:
        self._channel = TimerChan(from_now(_interval(seconds)), seconds)

    @property
    def channel(self) -> Chan[float]:
        """What gives the time of a tick, on `goroutine.time.now`; as `Timer.channel`.
        Go: t.C."""
        return self._channel

    def stop(self) -> None:
        """No more ticks, also none that was due and not received. The channel stays open,
        so that who waits is not taken in by a wrong tick. Go: Ticker.Stop.

        >>> ticker = goroutine.time.Ticker(60)
        >>> ticker.stop()
        """
        self._channel._stop()

    def reset(self, seconds: float) -> None:
        """Tick every ``seconds``, from now on; also after it was stopped.

        A tick that was due and not received is dropped. ``ValueError`` for zero, less, or
        NaN. From any goroutine or thread. Go: Ticker.Reset.

        >>> ticker = goroutine.time.Ticker(60)
        >>> ticker.reset(0.001)
        >>> ticker.channel.recv_blocking() <= goroutine.time.now()
        True
        """
        self._channel._reset(from_now(_interval(seconds)), seconds)

    def __repr__(self) -> str:
        return f"<Ticker at {id(self):#x}>"


def _interval(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("non-positive interval for NewTicker")
    return seconds


def after(seconds: float) -> Chan[float]:
    """A channel that gives the time once, ``seconds`` from now: ``Timer(seconds).channel``.

    For a `select`, as its time limit. Go: time.After.

    >>> async def main():
    ...     return await goroutine.time.after(0.01).recv() <= goroutine.time.now()
    >>> goroutine.start(main)
    True
    """
    return TimerChan(from_now(seconds))


def tick(seconds: float) -> Chan[float] | None:
    """The channel of a new ticker: ``Ticker(seconds).channel``; None for zero or less.

    ``ValueError`` for NaN. Go: time.Tick.

    >>> async def main():
    ...     ticks = goroutine.time.tick(0.001)
    ...     return [await ticks.recv() <= goroutine.time.now() for _ in range(3)]
    >>> goroutine.start(main)
    [True, True, True]
    """
    return None if seconds <= 0 else Ticker(seconds).channel


def after_func(seconds: float, fn: Callable[[], Any]) -> Timer:
    """Call ``fn()`` in a goroutine of its own, ``seconds`` from now, unless it is stopped.

    ``fn`` may be an ``async def``. It sees the contextvars of who calls after_func. Returns
    a `Timer` whose ``channel`` is None. Its ``stop()`` is True if it prevented the call, and
    doesn't wait for one that has begun; ``reset`` has the function called at its new time,
    also once more after it has been. While it is set, the timer keeps itself alive; the end
    of the run drops it.

    ``RuntimeError`` outside a run, here and in ``reset``; ``TypeError`` if fn can't be
    called. An exception that escapes fn is a panic, as in every goroutine.
    Go: time.AfterFunc.

    >>> async def main():
    ...     ch = goroutine.chan()
    ...     async def call():
    ...         await ch.send("called")
    ...     goroutine.time.after_func(0.01, call)
    ...     timer = goroutine.time.after_func(60, print)
    ...     return await ch.recv(), timer.stop()
    >>> goroutine.start(main)
    ('called', True)
    """
    if fn is None:
        raise TypeError("go of nil func value")
    if not callable(fn):
        raise TypeError(f"after_func() takes a function, not {type(fn).__name__}")
    return _FuncTimer(seconds, fn)


class _FuncTimer(Timer):
    """Always in a heap while it is set: nobody looks whether it is due."""

    # The alarm itself says who was first, stop() or the firing: whoever takes it off its
    # heap. The lock is for several resets at once, of which each sets an alarm.
    __slots__ = ("_alarm", "_context", "_fn", "_lock")

    def __init__(self, seconds: float, fn: Callable[[], Any]) -> None:
        self._fn = fn
        self._context: Context = copy_context()
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None
        self.reset(seconds)

    @property
    def channel(self) -> Chan[float]:
        return None  # type: ignore[return-value]  # Go's is nil, too, and its type says no more

    def stop(self) -> bool:
        with self._lock:
            alarm, self._alarm = self._alarm, None
            return alarm is not None and alarm.stop()

    def reset(self, seconds: float) -> bool:
        alarm = Alarm(from_now(seconds), self._begin, None)
        with self._lock:
            before, self._alarm = self._alarm, None
            active = before is not None and before.stop()
            runtime = running()
            if runtime is None or runtime.outcome is not None or not set_timer(alarm):
                raise RuntimeError(
                    "no goroutine runtime is running: nobody would call the function"
                )
            self._alarm = alarm
        return active

    def _begin(self, _: None) -> None:
        """Due: start the goroutine. On a machine between two steps, or on sysmon's thread."""
        g: Goroutine[Any] = Goroutine()
        g.joiners = g.scope = None
        g.it = _call(g, self._fn)
        spawn = find(spawners, get_ident())
        m = machine_or_none()
        if m is None or spawn is None:
            try:
                self._context.copy().run(foreign, g, self._fn)
            except RuntimeError:
                pass  # the run is over
            return
        before, m.context = m.context, self._context  # what spawn() makes a copy of
        try:
            spawn(g, self._fn)
        finally:
            m.context = before


@types.coroutine
def _call(g: Goroutine[Any], fn: Callable[[], Any]) -> Generator[Any, Any]:
    """fn() as the steps of a goroutine, which a failure to begin belongs to as well."""
    yield from steps_for(g, fn, (), {})
