"""The channel of a timer: there is no thread and no sender behind it, only a point in time.

To a program it looks unbuffered and never closes. Nobody sends: whoever looks into it first
sees whether it is due (`_due`), and takes the value then. So a timer whose channel nobody
waits for is in no heap, and costs nothing but its memory; a loop that makes one ``after()``
a turn, and mostly goes on for another reason, leaves none behind. Only while somebody waits
it has an *alarm*, an entry in the heap of a processor (Go: blockTimerChan, maybeRunChan).

All under the channel's lock:

    _when    when it is due next; None while stopped, and when it has been due (once)
    _alarm   the entry in a heap, exactly while somebody waits and ``_when`` is set
    _buffer  a value that was due and that nobody has had: one at most. (Of a ticker the
             others are lost, as the rule is for slow receivers.)
    _recvq   the goroutines that wait
    _threads the threads that do: each has a clock of its own, and needs no alarm

Locks are taken in this order: the channel's, then a heap's. An alarm goes off outside of the
heap's lock, in `_ring`, and then wants the channel's. So it may come late: taken off the
heap in time, but then somebody stopped or reset the timer, or who waited has left. `_alarm`
is None then, or is another one, which has another serial number. Under the lock both are
certain, so that a late alarm does nothing; and since `_when`, not the alarm, says whether
the timer has run, stop() was in time just as well. That is the whole of "no stale value".
"""

from __future__ import annotations

import types
from collections.abc import Generator
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from ..channel import Chan
from ..runtime.clock import from_monotonic
from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.thread import ThreadWaiter, deadline_of
from ..runtime.timers import Timer as Alarm
from ..runtime.timers import set_timer
from ..runtime.wait import Waiter, WaitQueue, cancelable, check, check_ctx, rouse

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["TimerChan"]

_ONLY_RECEIVE = "the channel of a timer is only for receiving"

_AGAIN: Any = object()  # given to a waiting thread: the timer was reset, look again


class TimerChan(Chan[float]):
    """What `Timer.channel` and `Ticker.channel` are."""

    __slots__ = ("__weakref__", "_alarm", "_period", "_serial", "_threads", "_when")

    timed = True

    def __init__(self, when: float, period: float = 0.0) -> None:
        super().__init__()
        self._when: float | None = when
        self._period = period  # 0: once
        self._alarm: Alarm | None = None
        self._serial = 0
        self._threads = WaitQueue()

    # -- what the timer does, and select; but for _is_due with the lock held --------------------

    def _is_due(self) -> bool:
        """Whether it looks as if something were to be had, without the lock."""
        when = self._when
        return when is not None and when <= monotonic()

    def _due(self) -> None:
        """Before somebody looks into the buffer: if it is due, let it be there."""
        when = self._when
        if when is not None:
            now = monotonic()
            if when <= now:
                # (Who waits already goes first: their alarm is late.)
                receiver = self._strike(when, now)
                if receiver is not None:
                    rouse(receiver)

    def _blocked(self) -> None:
        """Somebody has begun to wait."""
        if self._alarm is None:
            self._settle()

    def _unblocked(self) -> None:
        """Somebody waits no more."""
        if not self._recvq:
            self._settle()

    def _strike(self, when: float, now: float) -> Any:
        """It is due: its value goes to the first that waits, who is to be woken, or is kept."""
        period = self._period
        if period:
            following = when + period
            if not following > now:  # it is late: the ticks between are lost, the phase is kept
                following = now + period - (now - when) % period
            self._when = following
        else:
            self._when = None
        receiver = self._recvq.take() or self._threads.take()
        value = from_monotonic(when)
        if receiver is None:
            if not self._buffer:
                self._buffer.append(value)
        else:
            g = receiver if receiver.plain else receiver.g
            g.value = value
        self._settle()
        return receiver

    def _settle(self) -> None:
        """Have an alarm for the right time, or none."""
        when = self._when if self._recvq else None
        alarm = self._alarm
        if alarm is not None:
            if alarm.when == when:
                return
            self._alarm = None
            alarm.stop()
        if when is not None:
            self._serial += 1
            alarm = Alarm(when, self._ring, self._serial)
            self._alarm = alarm
            set_timer(alarm)

    def _ring(self, serial: int) -> None:
        """An alarm goes off, on any thread."""
        with self._lock:
            alarm = self._alarm
            if alarm is None or serial != self._serial:
                return  # late: see above
            self._alarm = None
            receiver = self._strike(alarm.when, monotonic())
        if receiver is not None:
            rouse(receiver)

    def _stop(self) -> bool:
        """Stop it; whether it was running, or nobody has received what was due."""
        with self._lock:
            return self._change(None, self._period)

    def _reset(self, when: float, period: float = 0.0) -> bool:
        """Start it anew; whether it was running, or nobody has received what was due."""
        with self._lock:
            return self._change(when, period)

    def _change(self, when: float | None, period: float) -> bool:
        active = self._when is not None or bool(self._buffer)
        self._buffer.clear()
        self._when = when
        self._period = period
        while (thread := self._threads.take()) is not None:
            thread.give(_AGAIN)
        self._settle()
        return active

    # -- what a program sees ----------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """0: a timer's channel is as good as unbuffered."""
        return 0

    def __len__(self) -> int:
        """0, also when a value is due. Go: len(t.C)."""
        return 0

    def __repr__(self) -> str:
        return f"<Chan of a {'ticker' if self._period else 'timer'} at {id(self):#x}>"

    @types.coroutine
    def recv(
        self, *, ctx: Context | None = None, _end: type[Exception] | None = None
    ) -> Generator[Commit, None, float]:
        """Receive the time it was due at; waits until it is. As `Chan.recv`."""
        value, _ = yield from self.recv_ok(ctx=ctx)
        return value  # type: ignore[return-value]

    @types.coroutine
    def recv_ok(
        self, *, ctx: Context | None = None
    ) -> Generator[Commit, None, tuple[float | None, bool]]:
        """Receive ``(time, True)``; it is never closed. As `Chan.recv_ok`."""
        if ctx is not None:
            check_ctx(ctx)
        self._acquire()
        self._due()
        if self._buffer:
            value = self._buffer.popleft()
            self._lock.release()
            return value, True
        g = self._current()
        if ctx is not None or g.scope is not None:
            try:
                check(g, ctx)
            except BaseException:
                self._lock.release()
                raise
            waiter: Any = Waiter(g)
            wait = cancelable(waiter, self._release, g, ctx)
        else:
            waiter = g
            wait = _plainly(self._release)
        self._recvq.append(waiter)
        self._blocked()
        try:
            yield from wait
        except BaseException:
            if waiter is g:
                self._forget()
            with self._lock:
                if waiter is not g:
                    self._recvq.leave(waiter)
                self._unblocked()
            raise
        value = g.value
        g.value = None
        return value, True

    def recv_blocking(self, timeout: float | None = None) -> float:
        """`recv` from a thread that runs no goroutines; as `Chan.recv_blocking`.

        Also outside a run.
        """
        until = deadline_of(timeout)
        while True:
            self._acquire()
            self._due()
            if self._buffer:
                value = self._buffer.popleft()
                self._lock.release()
                return value
            when = self._when
            waiter = ThreadWaiter()
            try:
                waiter.wait(self, self._threads, until if when is None else min(when, until))
            except TimeoutError:
                if monotonic() >= until:
                    raise
            else:
                if waiter.value is not _AGAIN:
                    return waiter.value  # type: ignore[no-any-return]

    def send(self, value: float, *, ctx: Context | None = None) -> NoReturn:
        """RuntimeError: a timer's channel is only for receiving. (In Go it doesn't compile.)"""
        raise RuntimeError(_ONLY_RECEIVE)

    def send_blocking(self, value: float, timeout: float | None = None) -> None:
        """RuntimeError: a timer's channel is only for receiving."""
        raise RuntimeError(_ONLY_RECEIVE)

    def close(self) -> None:
        """RuntimeError: a timer's channel is never closed. (In Go it doesn't compile.)"""
        raise RuntimeError(_ONLY_RECEIVE)


def _plainly(commit: Commit) -> Generator[Commit]:
    yield commit


waits_for("chan receive", TimerChan.recv_ok)
