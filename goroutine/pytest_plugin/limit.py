"""Limit: seconds for a bubble, which runs on the thread that asks, and has a clock of its own."""

from __future__ import annotations

import ctypes
import threading
from _thread import get_ident
from collections.abc import Callable
from traceback import extract_tb, format_list
from types import TracebackType
from typing import Self

import pytest

from .runs import PACKAGES

__all__ = ["Limit"]


class _Late(KeyboardInterrupt):
    """Raised in whatever the thread is doing. Like Ctrl-C, it ends a bubble in any goroutine."""


class Limit:
    """``with Limit(seconds):`` raises in its body when they have passed; 0 is for ever.

    As an exception from outside: a call of C goes on to its end. ``left()`` is then asked for a
    dump of the goroutines that there were, beside the one that is interrupted.
    """

    def __init__(self, seconds: float, left: Callable[[], str]) -> None:
        self._seconds = seconds
        self._left = left
        self._ident = get_ident()
        self._lock = threading.Lock()
        self._over = self._rang = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        if self._seconds:
            self._timer = threading.Timer(self._seconds, self._ring)
            self._timer.daemon = True
            self._timer.start()
        return self

    def _ring(self) -> None:
        with self._lock:
            if not self._over:
                self._rang = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._ident), ctypes.py_object(_Late)
                )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if self._timer is None:
            return
        try:
            with self._lock:
                self._over = True
            self._timer.cancel()
            self._timer.join()
            for _ in range(1000):
                pass  # if it rang and was not raised yet, it is here
        except _Late:
            pass
        if self._rang:
            where = [] if failure is None else extract_tb(failure.__traceback__)
            frames = [frame for frame in where if not frame.filename.startswith(PACKAGES)]
            parts = [f"timed out after {self._seconds:g} s"]
            if frames:
                parts.append("".join(["interrupted:\n", *format_list(frames)]).rstrip())
            left = self._left()
            if left:
                parts.append(left)
            raise pytest.fail.Exception("\n\n".join(parts), pytrace=False) from None
