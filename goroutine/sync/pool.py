"""Pool: objects that were used and may be used again. Go: sync.Pool.

Each thread, and so each machine, has a list of its own; `get` looks into the others' only when
that is empty. List appends and pops are atomic, so nothing here is locked.

What is left over goes with the garbage. Every collection puts the lists aside and drops those
put aside by the one before: an object that lies unused through two collections is given up.
So are, in the same way, the lists of threads that have ended, as machines do with their run.
"""

from __future__ import annotations

import gc
import sysconfig
from _thread import get_ident
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import ref

from ..runtime.shared import find

__all__ = ["Pool"]

T = TypeVar("T")

# In a free-threaded build all collections are full ones.
_FULL = 0 if sysconfig.get_config_var("Py_GIL_DISABLED") else 2


class Pool[T]:
    """Objects to be had again: `put` them back after use, `get` one or a new one.

    ``new()`` makes one where none is left; without it `get` gives None then. What it holds may
    vanish at any time. Both methods work on any thread and never wait. Go: sync.Pool.

    >>> from goroutine.sync import Pool
    >>> pool = Pool(bytearray)
    >>> buffer = pool.get()
    >>> pool.put(buffer)
    >>> pool.get() is buffer
    True
    """

    __slots__ = ("__weakref__", "_aside", "_lists", "new")

    def __init__(self, new: Callable[[], T] | None = None) -> None:
        if new is not None and not callable(new):
            raise TypeError(f"a Pool's new is a function, not {type(new).__name__}")
        self.new = new
        self._lists: dict[int, list[T]] = {}  # by thread ident
        self._aside: dict[int, list[T]] = {}  # since the last collection
        number = id(self)
        # (The callback comes while the id still is this pool's.)
        _pools[number] = ref(self, lambda _: _pools.pop(number, None))

    def get(self) -> T:
        """One that was put back, preferably on this machine, else a new one. Go: Pool.Get."""
        items: list[T] | None = find(self._lists, get_ident())
        if items:
            try:
                return items.pop()
            except IndexError:
                pass  # another thread was quicker
        return self._elsewhere()

    def _elsewhere(self) -> T:
        for lists in self._lists, self._aside:
            for items in lists.copy().values():
                if items:
                    try:
                        return items.pop()
                    except IndexError:
                        pass
        if self.new is None:
            return None  # type: ignore[return-value]
        return self.new()

    def put(self, item: T) -> None:
        """Keep it for a later `get`; nobody may use it any more. None is dropped. Go: Pool.Put."""
        if item is None:
            return
        me = get_ident()
        items = find(self._lists, me)
        if items is None:
            items = self._lists.setdefault(me, [])
        items.append(item)

    def _age(self) -> None:
        """A collection has begun. (Who is about to put into a list that is now aside, does.)"""
        self._aside = self._lists
        self._lists = {}

    def __repr__(self) -> str:
        left = sum(len(items) for items in self._lists.copy().values())
        return f"<Pool of {left}>"


_pools: dict[int, ref[Pool[Any]]] = {}


def _collecting(
    phase: str,
    info: dict[str, int],
    pools: dict[int, ref[Pool[Any]]] = _pools,  # (the module may be gone at the very end)
    full: int = _FULL,
) -> None:
    """Called by the collector: anywhere, so it must take no lock that somebody may hold."""
    if phase == "start" and info["generation"] >= full:
        for reference in pools.copy().values():
            pool = reference()
            if pool is not None:
                pool._age()


gc.callbacks.append(_collecting)
