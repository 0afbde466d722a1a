"""Deadlines of connections: a point in time after which reads, or writes, fail at once.

A deadline belongs to the connection, not to one operation: whoever reads is subject to the
one that is set at that time, also if it was set after the read had begun to wait. So there
is one object for each direction, made with the first deadline, and what it does when the
time has come is up to what it belongs to (``passed``), as is the way back (``lifted``).

All under its lock:

    _when    the deadline, on time.monotonic(); None: there is none
    _timer   the entry in a heap, at ``_when`` or before it
    _serial  of that timer: a firing that comes late, after it was stopped or replaced, has
             another one and does nothing
    late     the time has come; read without the lock by who has been told to look

A deadline that is put off, as servers do before every read, leaves its timer where it is:
when that one fires it sees that the deadline is later, and sets another. Locks are taken in
this order: this one, then whatever ``passed`` and ``lifted`` take, or a heap's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from time import monotonic

from ..runtime.clock import to_monotonic
from ..runtime.timers import Timer, set_timer

__all__ = ["Deadline", "Timed", "timed_out"]


def timed_out() -> TimeoutError:
    """What an operation is told whose deadline has passed. Go: os.ErrDeadlineExceeded."""
    return TimeoutError("i/o timeout")


def _point(when: float | None) -> float | None:
    """The time.monotonic() of a deadline; None for one that never comes."""
    if when is None:
        return None
    if not isinstance(when, (int, float)):
        raise TypeError(f"a deadline is a number of seconds or None, not {type(when).__name__}")
    try:
        point = to_monotonic(when)
    except OverflowError:  # of an int
        point = inf if when > 0 else -inf
    if point != point:
        raise ValueError("a deadline must not be NaN")
    return None if point == inf else point


class Deadline:
    """That of one direction of one connection. For any thread."""

    __slots__ = ("_lifted", "_lock", "_over", "_passed", "_serial", "_timer", "_when", "late")

    def __init__(self, passed: Callable[[], object], lifted: Callable[[], object]) -> None:
        self._passed = passed
        self._lifted = lifted
        self._lock = threading.Lock()
        self._when: float | None = None
        self._timer: Timer | None = None
        self._serial = 0
        self._over = False
        self.late = False

    def set(self, when: float | None) -> bool:
        """Set it to ``when`` on goroutine.time.now(), or to none. False: it was ended."""
        point = _point(when)
        with self._lock:
            if self._over:
                return False
            self._when = point
            late = point is not None and point <= monotonic()
            if point is None or late:
                self._drop()
            elif self._timer is None or self._timer.when > point:
                self._drop()
                self._arm(point)
            if late:
                self.late = True
                self._passed()
            elif self.late:
                self.late = False
                self._lifted()
        return True

    def end(self) -> None:
        """It is closed: nothing passes any more, and nothing is left in a heap."""
        with self._lock:
            self._over = True
            self._drop()
            if self.late:
                self.late = False
                self._lifted()

    def _arm(self, point: float) -> None:
        timer = self._timer = Timer(point, self._fire, self._serial)
        set_timer(timer)

    def _drop(self) -> None:
        timer = self._timer
        if timer is not None:
            self._timer = None
            self._serial += 1
            timer.stop()

    def _fire(self, serial: int) -> None:
        with self._lock:
            if serial != self._serial:
                return
            self._timer = None
            self._serial += 1
            point = self._when
            if point is not None:
                if point > monotonic():
                    self._arm(point)  # it was put off
                else:
                    self.late = True
                    self._passed()


class Timed:
    """What has a deadline for reading and one for writing."""

    __slots__ = ()

    def deadline(self, writing: bool) -> Deadline:
        """The one of a direction; made when it is first asked for."""
        raise NotImplementedError

    def closed_error(self) -> Exception:
        """What is raised when it is closed."""
        raise NotImplementedError

    def set_deadline(self, when: float | None) -> None:
        """`set_read_deadline` and `set_write_deadline` at once. Go: SetDeadline."""
        _point(when)  # both or none
        self.set_read_deadline(when)
        self.set_write_deadline(when)

    def set_read_deadline(self, when: float | None) -> None:
        """From ``when`` on, reads fail with ``TimeoutError("i/o timeout")``; None: never.

        ``when`` is in seconds on `goroutine.time.now`; one in the past holds at once, also
        when data is there. It holds for reads that wait already, and until it is set anew:
        then reading goes on, and no byte is lost. From any goroutine or thread. `ConnClosed`
        if it is closed, ``ValueError`` for NaN. Go: SetReadDeadline.
        """
        if not self.deadline(False).set(when):
            raise self.closed_error()

    def set_write_deadline(self, when: float | None) -> None:
        """From ``when`` on, writes fail with ``TimeoutError``; otherwise as `set_read_deadline`.

        Of a write that timed out, some of the data may have been sent. Go: SetWriteDeadline.
        """
        if not self.deadline(True).set(when):
            raise self.closed_error()
