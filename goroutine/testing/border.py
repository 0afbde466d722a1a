"""The border of a bubble: what is made inside is not used from outside.

Every channel, lock, timer and context has a lock of its own, which whoever uses it takes. Those
made in a bubble get one of these, which lets nobody in but the bubble: a mistake in a test is
an error where it is made, and no thread but its own ever wakes a goroutine of a bubble. (Where
one waits for something from outside, the steps themselves refuse: `Steps`.)

While bubbles run, ``threading`` in the modules that make such objects is a stand-in whose Lock
is this one on the thread of a bubble, and Python's own on every other.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import get_ident
from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any

from .. import channel
from ..context import cancel
from ..io import deadline
from ..net import memory
from ..runtime.goroutine import Goroutine, close_steps
from ..runtime.shared import bubbles, find
from ..sync import cond, mutex, rwmutex, semaphore, waitgroup
from ..time import timer

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Lock", "Steps", "bubble_locks", "plain_locks"]

_MAKERS = (channel, cancel, deadline, memory, cond, mutex, rwmutex, semaphore, waitgroup, timer)


class Lock:
    """A lock of something that was made in a bubble; with one thread there is never a wait."""

    __slots__ = ("_held", "_m")

    def __init__(self, m: Machine) -> None:
        self._m = m
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if find(bubbles, get_ident()) is not self._m:
            raise RuntimeError(_crossing(sys._getframe(1)))
        if self._held:
            if blocking:
                raise RuntimeError("a lock inside a bubble is taken twice: this would never end")
            return False
        self._held = True
        return True

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        if find(bubbles, get_ident()) is not self._m:
            raise RuntimeError(_crossing(sys._getframe(1)))
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


_CHANNEL = "{} synctest channel from outside bubble"
_TIMER = "{} of synctest timer from outside bubble"

_TEXTS = {
    "send": _CHANNEL.format("send on"),
    "send_blocking": _CHANNEL.format("send on"),
    "_offer": _CHANNEL.format("send on"),
    "recv": _CHANNEL.format("receive on"),
    "recv_ok": _CHANNEL.format("receive on"),
    "recv_blocking": _CHANNEL.format("receive on"),
    "close": _CHANNEL.format("close of"),
    "stop": _TIMER.format("stop"),
    "_stop": _TIMER.format("stop"),
    "reset": _TIMER.format("reset"),
    "_reset": _TIMER.format("reset"),
    "_end": "cancel of synctest context from outside bubble",
}


def _crossing(frame: Any) -> str:
    """Go's words for what the caller was about to do."""
    code: CodeType = frame.f_code
    file = os.path.basename(code.co_filename)
    if file == "select.py":
        return _CHANNEL.format("select on")
    if file == "waitgroup.py":
        return "sync: WaitGroup.Add called from inside and outside synctest bubble"
    return _TEXTS.get(code.co_name, "use of synctest object from outside bubble")


class _Threading:
    """Stands in for the module ``threading``."""

    @staticmethod
    def Lock() -> Any:
        m = find(bubbles, get_ident())
        return threading.Lock() if m is None else Lock(m)

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


def bubble_locks() -> None:
    """From now on what is made in a bubble has a border."""
    stand_in = _Threading()
    for module in _MAKERS:
        module.threading = stand_in  # type: ignore[attr-defined]


def plain_locks() -> None:
    """The last bubble is over."""
    for module in _MAKERS:
        module.threading = threading  # type: ignore[attr-defined]


class Steps:
    """Steps of a goroutine of a bubble. Only that takes them.

    A goroutine may wait in something that was made outside, and somebody outside wake it. Then
    it is in the hands of a machine of theirs, or of nobody: it stays where it is.
    """

    __slots__ = ("_it", "_m")

    def __init__(self, m: Machine, it: Any) -> None:
        self._m = m
        self._it = it

    def __iter__(self) -> Iterator[Any]:
        if find(bubbles, get_ident()) is not self._m:
            return iter((_stay,))
        it: Iterator[Any] = self._it
        return it

    def throw(self, failure: BaseException) -> Any:
        return self._it.throw(failure)

    def close(self) -> None:
        close_steps(self._it)


def _stay(_: Goroutine[Any]) -> None:
    """What a machine that is not the bubble's is told to do with its goroutine."""
