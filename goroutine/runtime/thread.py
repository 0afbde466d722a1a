"""Threads that are no machines: waiting for goroutines, and being waited for by them."""

from __future__ import annotations

import threading
from _thread import get_ident
from math import inf, isnan
from time import monotonic
from typing import Any

from .shared import machines, shared_dict
from .wait import Closed, Waiter, WaitQueue

__all__ = ["Holds", "ThreadWaiter", "deadline_of", "hold", "holds", "look_again"]


class Holds:
    """How many foreign threads are going to wake a goroutine: no deadlock while there are any.

    Counted by a dict of unique keys, whose store and pop are atomic, so that ``hold()`` in
    hundreds of threads is no contention on a lock. sysmon reads whether it is empty, and is
    called when it becomes so: it may sleep, having seen that all wait for a hold.
    """

    def __init__(self) -> None:
        self.held: dict[object, bool] = {}

    def add(self) -> object:
        key = object()
        self.held[key] = True
        return key

    def drop(self, key: object) -> None:
        self.held.pop(key, None)
        if not self.held:
            look_again()


holds = Holds()


def look_again() -> None:
    """Something that may have kept the run from being deadlocked is over: sysmon must hear
    of it, which may sleep on account of it. (When a machine is woken, that one tells.)"""
    from .scheduler import running  # scheduler needs this module

    runtime = running()
    if runtime is not None:
        runtime.sysmon.call()


# Thread ident -> the pool whose thread it is (offload.py).
pools: dict[int, Any] = shared_dict("goroutine pools by thread")


class hold:
    """While inside ``with hold():`` some thread that runs no goroutines will wake one later.

    The deadlock detector cannot see such threads, and would end the program when all
    goroutines wait for one. Not needed around `Chan.send_blocking` and `Chan.recv_blocking`
    themselves. Go: a thread in C code.

    >>> async def main():
    ...     ch = goroutine.chan()
    ...     with goroutine.hold():  # from before the thread starts
    ...         threading.Thread(target=ch.send_blocking, args=("done",)).start()
    ...         return await ch.recv()
    >>> goroutine.start(main)
    'done'
    """

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: list[object] = []

    def __enter__(self) -> None:
        self._keys.append(holds.add())

    def __exit__(self, *_: object) -> None:
        holds.drop(self._keys.pop())


def deadline_of(timeout: float | None) -> float:
    """When a ``timeout=`` from now ends, for a thread that may block; ``inf`` for None."""
    if get_ident() in machines:
        raise RuntimeError("this would block the machine: a goroutine awaits send() or recv()")
    if timeout is None:
        return inf
    if isnan(timeout):
        raise ValueError("timeout must not be NaN")
    return monotonic() + timeout


class ThreadWaiter(Waiter):
    """A thread in a channel's queue, in the place of a goroutine."""

    __slots__ = ("served", "woken")

    def __init__(self, value: Any = None) -> None:
        super().__init__(self, value)
        self.served = False  # nobody but the thread touches this object any more, or soon
        self.woken = threading.Lock()
        self.woken.acquire()

    def wake(self) -> None:
        self.served = True
        self.woken.release()

    def wait(self, channel: Any, queue: WaitQueue, until: float) -> bool:
        """Queue it, release the channel's lock, block. False if that was closed then.

        ``value`` is what it was given. TimeoutError; an interrupted wait (Ctrl-C), too,
        has left the queue, unless somebody had claimed it: then it ends as if in time.
        """
        key = holds.add()
        queue.append(self)
        try:
            channel._lock.release()
            pool = pools.get(get_ident())
            if pool is None:
                self.block(until)
            else:
                pool.leave_for(lambda: self.block(until))
        except BaseException:
            if self.claim():
                with channel._lock:
                    queue.leave(self)
                raise
            if not self.served:
                self.woken.acquire()  # somebody is about to hand over
        finally:
            holds.drop(key)
            self.g = None  # it was this object: else only the collector would free that
        return self.value is not Closed

    def block(self, until: float) -> None:
        if until == inf:
            self.woken.acquire()
            return
        while not self.woken.acquire(timeout=max(0.0, min(until - monotonic(), 1e6))):
            if monotonic() >= until:
                raise TimeoutError("timed out")
