"""Errands: what only the thread that called start() may do, done there for others.

Signal handlers can be set in Python's main thread only, and that is where `start` has to be
called for it: the starting thread, which watches the machines (sysmon.py), looks here when it
is called. Who sends it waits, blocking its thread, for the few microseconds that takes; so
this is for what a program does once.
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Errands", "Over"]

T = TypeVar("T")


class Over(Exception):
    """The starting thread takes no errands any more: the run is ending."""


class _Errand:
    __slots__ = ("call", "done", "failure", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.result: Any = None
        self.failure: BaseException | None = Over()
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self.result = self.call()
            self.failure = None
        except Exception as failure:
            self.failure = failure
        finally:  # also if Ctrl-C comes amid this
            self.done.release()


class Errands:
    """Those of one run. Made by the starting thread."""

    __slots__ = ("_attention", "_errands", "_last", "_lock", "_over", "ident")

    def __init__(self, attention: Callable[[], object]) -> None:
        self.ident = get_ident()
        self._attention = attention  # has the starting thread call serve()
        self._errands: list[_Errand] = []
        # What close() is to call; only the starting thread has to do with it.
        self._last: list[Callable[[], object]] = []
        # Guards the list and the flag: what is in the list gets served, or told it's over.
        self._lock = threading.Lock()
        self._over = False

    def do(self, call: Callable[[], T]) -> T:
        """Have ``call()`` made by the starting thread, and wait; its result, or exception.

        `Over` once the run is ending. On the starting thread itself (a signal handler of the
        program's): at once.
        """
        if get_ident() == self.ident:
            if self._over:
                raise Over
            return call()
        errand = _Errand(call)
        with self._lock:
            if self._over:
                raise Over
            self._errands.append(errand)
        self._attention()
        errand.done.acquire()
        if errand.failure is not None:
            try:
                raise errand.failure
            finally:
                errand.failure = None
        result: T = errand.result
        return result

    def at_end(self, call: Callable[[], object]) -> None:
        """Have ``call()`` made, once, when the run ends, before its machines are waited for.
        On the starting thread only. It may be interrupted, and is then called again."""
        if call not in self._last:
            self._last.append(call)

    def serve(self) -> None:
        """Do what is to be done. The starting thread's."""
        while self._errands:
            # (Nobody else takes any out.)
            self._errands.pop(0).run()

    def abandon(self) -> None:
        """In a forked child: who sent them is not there."""
        self._lock = threading.Lock()
        self._over = True
        self._errands.clear()
        self._last.clear()

    def close(self) -> None:
        """No more of them. The starting thread's; again if it was interrupted."""
        with self._lock:
            self._over = True
            left, self._errands = self._errands, []
        for errand in left:
            errand.done.release()  # with Over as its failure
        while self._last:
            self._last[-1]()
            self._last.pop()
