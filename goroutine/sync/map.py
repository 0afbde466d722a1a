"""Map: a dict for many goroutines, with operations that look and change at once. Go: sync.Map.

Reading is one atomic operation of the dict, without a lock. Whoever changes it holds the
lock, else a `compare_and_swap` could not be told from a store in its midst. The lock is
reentrant: keys are compared, and die, by code of the program's own, which may use the map.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..runtime.shared import find

__all__ = ["Map"]

K = TypeVar("K")
V = TypeVar("V")

_NONE: Any = object()


class Map[K, V]:
    """Keys and values for any number of goroutines and threads. Keys are hashable.

    Where Go gives a value and whether there was one, these methods give ``(value, True)`` or
    ``(None, False)``. None of them waits. Go: sync.Map.

    >>> from goroutine.sync import Map
    >>> m = Map()
    >>> m.store("a", 1)
    >>> m.load("a"), m.load("b")
    ((1, True), (None, False))
    >>> m.load_or_store("a", 2)
    (1, True)
    """

    __slots__ = ("_dict", "_lock")

    def __init__(self) -> None:
        self._dict: dict[K, V] = {}
        self._lock = threading.RLock()

    def load(self, key: K) -> tuple[V | None, bool]:
        """The key's value, and whether it has one. Go: Map.Load."""
        value = find(self._dict, key, _NONE)
        if value is _NONE:
            return None, False
        return value, True

    def store(self, key: K, value: V) -> None:
        """Give the key that value. Go: Map.Store."""
        self.swap(key, value)

    def load_or_store(self, key: K, value: V) -> tuple[V, bool]:
        """``(the key's value, True)``, or, where it had none, ``(value, False)`` with value
        stored. Go: Map.LoadOrStore."""
        found = find(self._dict, key, _NONE)
        if found is _NONE:
            with self._lock:
                found = find(self._dict, key, _NONE)
                if found is _NONE:
                    self._dict[key] = value
                    return value, False
        return found, True

    def load_and_delete(self, key: K) -> tuple[V | None, bool]:
        """Delete the key; its value, and whether it had one. Go: Map.LoadAndDelete."""
        with self._lock:
            value = self._dict.pop(key, _NONE)
        if value is _NONE:
            return None, False
        return value, True

    def delete(self, key: K) -> None:
        """Delete the key, if it is there. Go: Map.Delete."""
        self.load_and_delete(key)

    def swap(self, key: K, value: V) -> tuple[V | None, bool]:
        """Give the key that value; the one before, and whether it had one. Go: Map.Swap."""
        with self._lock:
            before = find(self._dict, key, _NONE)
            self._dict[key] = value
        if before is _NONE:
            return None, False
        return before, True

    def compare_and_swap(self, key: K, old: V, new: V) -> bool:
        """Give the key ``new`` if its value equals ``old``; whether it did. Go: CompareAndSwap."""
        while True:
            value = find(self._dict, key, _NONE)
            # Compared without the lock, so the value may have been changed meanwhile.
            if value is _NONE or not (value is old or value == old):
                return False
            with self._lock:
                if find(self._dict, key, _NONE) is value:
                    self._dict[key] = new
                    return True

    def compare_and_delete(self, key: K, old: V) -> bool:
        """Delete the key if its value equals ``old``; whether it did. Go: CompareAndDelete."""
        while True:
            value = find(self._dict, key, _NONE)
            if value is _NONE or not (value is old or value == old):
                return False
            with self._lock:
                if find(self._dict, key, _NONE) is value:
                    del self._dict[key]
                    return True

    def range(self, fn: Callable[[K, V], object]) -> None:
        """Call ``fn(key, value)`` for each, until it returns False.

        For those that were there when it began, as they were then; ``fn`` may use the map.
        (Unlike Go's it goes on when fn returns nothing.) Go: Map.Range.
        """
        for key, value in self.items():
            if fn(key, value) is False:
                return

    def clear(self) -> None:
        """Delete all keys. Go: Map.Clear."""
        with self._lock:
            # A new dict: emptying the old one drops keys and values in the midst of it.
            before, self._dict = self._dict, {}
        del before

    def items(self) -> list[tuple[K, V]]:
        """All keys and values, as they were at one moment."""
        return list(self._dict.copy().items())

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._dict)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Map of {len(self._dict)}>"
