"""Rescuer: sysmon's part in serving the connections of machines that are stuck.

A machine that has not begun a new pass between two looks is inside a long step, or in a pass
of many. If another one could do something for its connections, they are polled from here
(io/rescue.py has how), in sysmon's thread, until it is back: what arrives makes goroutines
ready, and idle machines run them. Go: sysmon does the same with the network poller.

It begins when some machine has nothing to do. When none has, but not all are stuck, only
after PATIENCE looks: with all at work, those that poll for themselves do it at a lower price.
"""

from __future__ import annotations

import select
from time import monotonic
from typing import TYPE_CHECKING

from ..io.rescue import ready_waits
from .shared import idle, spinning

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Rescuer"]

PATIENCE = 4


class Rescuer:
    """Of one run. Used by sysmon's thread only."""

    __slots__ = ("_epoll", "_machines", "_stuck")

    def __init__(self, machines: list[Machine]) -> None:
        self._machines = machines
        self._epoll: select.epoll | None = None
        self._stuck: dict[int, Machine] = {}  # fd of what is registered in the epoll -> whose

    def __bool__(self) -> bool:
        """Whether somebody is being served."""
        return bool(self._stuck)

    def look(self, m: Machine, tick: int, looks: int) -> None:
        """m was in pass ``tick`` for so many looks in a row; 0: it has moved, or sleeps."""
        if not looks:
            if m.stuck:
                self.leave(m)
            return
        if m.stuck:
            self.redirect(m)
            m.poller.rescue.look()
            ready_waits(m.poller.waiting())
        elif idle or spinning or (looks >= PATIENCE and not all(o.stuck for o in self.others(m))):
            self.begin(m, tick)

    def others(self, m: Machine) -> list[Machine]:
        return [other for other in self._machines if other is not m]

    def begin(self, m: Machine, tick: int) -> None:
        if self._epoll is None:
            try:
                self._epoll = select.epoll()
            except OSError:
                return  # no fd to be had
        # In the step part of that very pass: the next poll comes after the next tick. (g is
        # looked at after tick, and None from the end of one pass's steps to the next one's.)
        if not m.poller.rescue.begin(lambda: m.tick == tick and m.g is not None):
            return
        m.stuck = True
        fd = m.poller.rescue.fileno()
        self._stuck[fd] = m
        # Edge-triggered: what is in there and not for us would be reported over and over.
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self.redirect(m)
        m.poller.rescue.look()
        ready_waits(m.poller.waiting())

    def leave(self, m: Machine) -> None:
        m.stuck = False
        fd = m.poller.rescue.fileno()
        if self._stuck.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def redirect(self, m: Machine) -> None:
        """Have others begin the connections that were meant for m."""
        others = [other for other in self.others(m) if not other.stuck]
        if not others:
            return
        other = next((other for other in others if other.id in idle), others[0])
        try:
            while True:
                other.offer(m.arrivals.popleft())
        except IndexError:
            pass

    def serve(self, seconds: float) -> None:
        """Serve those who are stuck for so long."""
        assert self._epoll is not None
        until = monotonic() + seconds
        left = seconds
        more: set[int] = set()
        while left > 0:
            more.update(fd for fd, _ in self._epoll.poll(0 if more else left))
            more = {fd for fd in more if self._stuck[fd].poller.rescue.serve()}
            left = until - monotonic()

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
