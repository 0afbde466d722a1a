"""Atomic variables: numbers, flags and values that threads change without a lock. Go: sync/atomic.

All operations are sequentially consistent, as in Go, and work in goroutines and threads alike.

A number lives in a 64-bit word of `runtime.atomic`, and everything that changes it is a loop
around one compare-and-swap: read, compute, swap if it still is what was read, else again. So
one that is interrupted holds nobody up. The function and its two operands belong to a thread.
Between setting the operands and the call nothing of the program's can run in the same thread
(no call returns there, and no loop turns: that is where the interpreter runs finalizers and
signal handlers), and its result is an int of the call, not a cell. Hence an atomic may also be
used in a ``__del__``.
"""

from __future__ import annotations

import threading
from _thread import get_ident
from typing import Any, TypeVar

from .runtime.atomic import TOTAL_STORE_ORDER, Raw, Ref, Word, operand, raw
from .runtime.shared import shared_dict

__all__ = ["Bool", "Int64", "Value"]

T = TypeVar("T")

_Tools = tuple[Raw, memoryview, Ref, memoryview, Ref]

# Thread ident -> compare-and-swap, and its operands: expected, desired. An ident that is used
# again finds those of a thread that has ended, which are as good.
_tools: dict[int, _Tools] = shared_dict("goroutine tools of atomics by thread")


def _my_tools() -> _Tools:
    """This thread's tools."""
    me = get_ident()
    try:
        return _tools[me]
    except KeyError:
        made = _tools[me] = (raw("compare_and_swap"), *operand(), *operand())
        return made


_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def _int64(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"an Int64 holds an int, not {type(value).__name__}")
    if not _LEAST <= value <= _MOST:
        raise OverflowError(f"{value} doesn't fit into 64 bits")
    return int(value)


class Int64:
    """A signed 64-bit integer; sums wrap around.

    ``TypeError`` for anything but an int, ``OverflowError`` for one beyond 64 bits.
    Go: atomic.Int64.

    >>> from goroutine.atomic import Int64
    >>> n = Int64(5)
    >>> n.add(-2), n.swap(7), n.load()
    (3, 3, 7)
    """

    __slots__ = ("_ref", "_view", "_word")

    def __init__(self, value: int = 0) -> None:
        self._word = Word(_int64(value))
        self._ref = self._word.ref()
        self._view = self._word.view()

    def load(self) -> int:
        """The value. Go: Load."""
        if TOTAL_STORE_ORDER:  # every change is a locked instruction: a plain load will do
            return self._view[0]
        return self._update(_same, 0)

    def store(self, value: int) -> None:
        """Set the value. Go: Store."""
        self.swap(value)

    def swap(self, value: int) -> int:
        """Set the value; the one before. Go: Swap."""
        if type(value) is not int or not _LEAST <= value <= _MOST:
            value = _int64(value)
        cas, expected, expected_ref, desired, desired_ref = _my_tools()
        ref, view = self._ref, self._view
        while True:
            before = view[0]
            expected[0] = before
            desired[0] = value
            if cas(ref, expected_ref, desired_ref):
                return before

    def compare_and_swap(self, old: int, new: int) -> bool:
        """Set it to ``new`` if it is ``old``; whether it was. Go: CompareAndSwap."""
        if type(old) is not int or not _LEAST <= old <= _MOST:
            old = _int64(old)
        if type(new) is not int or not _LEAST <= new <= _MOST:
            new = _int64(new)
        cas, expected, expected_ref, desired, desired_ref = _my_tools()
        ref = self._ref
        expected[0] = old
        desired[0] = new
        return cas(ref, expected_ref, desired_ref) != 0

    def add(self, delta: int) -> int:
        """Add to it; the new value. Go: Add."""
        if type(delta) is not int or not _LEAST <= delta <= _MOST:
            delta = _int64(delta)
        cas, expected, expected_ref, desired, desired_ref = _my_tools()
        ref, view = self._ref, self._view
        while True:
            before = view[0]
            after = before + delta
            if not _LEAST <= after <= _MOST:
                after = (after - _LEAST) % (1 << 64) + _LEAST
            expected[0] = before
            desired[0] = after
            if cas(ref, expected_ref, desired_ref):
                return after

    def and_(self, mask: int) -> int:
        """Keep the bits of the mask; the value *before*. Go: And."""
        return self._update(int.__and__, mask)

    def or_(self, mask: int) -> int:
        """Set the bits of the mask; the value *before*. Go: Or."""
        return self._update(int.__or__, mask)

    def _update(self, operation: Any, argument: int) -> int:
        argument = _int64(argument)
        while True:
            before = self._view[0]
            if self.compare_and_swap(before, operation(before, argument)):
                return before

    def __repr__(self) -> str:
        return f"Int64({self.load()})"


def _same(value: int, _: int) -> int:
    return value


class Bool:
    """A flag. ``TypeError`` for anything but a bool. Go: atomic.Bool.

    >>> from goroutine.atomic import Bool
    >>> ready = Bool()
    >>> ready.compare_and_swap(False, True), ready.load()
    (True, True)
    """

    __slots__ = ("_n",)

    def __init__(self, value: bool = False) -> None:
        self._n = Int64(_bit(value))

    def load(self) -> bool:
        """The value. Go: Load."""
        return self._n.load() != 0

    def store(self, value: bool) -> None:
        """Set the value. Go: Store."""
        self._n.swap(_bit(value))

    def swap(self, value: bool) -> bool:
        """Set the value; the one before. Go: Swap."""
        return self._n.swap(_bit(value)) != 0

    def compare_and_swap(self, old: bool, new: bool) -> bool:
        """Set it to ``new`` if it is ``old``; whether it was. Go: CompareAndSwap."""
        return self._n.compare_and_swap(_bit(old), _bit(new))

    def __repr__(self) -> str:
        return f"Bool({self.load()})"


def _bit(value: bool) -> int:
    if not isinstance(value, bool):
        raise TypeError(f"a Bool holds a bool, not {type(value).__name__}")
    return int(value)


class Value[T]:
    """A value of one type: that of the first one stored. Go: atomic.Value.

    ``TypeError`` for None, and for a value of another type. `load` is a plain read; the other
    methods hold a lock for a moment.

    >>> from goroutine.atomic import Value
    >>> config = Value()
    >>> config.load()
    >>> config.store({"size": 3})
    >>> config.load()
    {'size': 3}
    """

    # Whoever changes it holds the lock (reentrant, since a finalizer may come in between).
    # No value is dropped or compared under it, for that may run code of the program's.
    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._value: T | None = None
        self._lock = threading.RLock()

    def load(self) -> T | None:
        """The value; None before the first store. Go: Load."""
        return self._value

    def store(self, value: T) -> None:
        """Set the value. Go: Store."""
        self._set(value, "store")

    def swap(self, value: T) -> T | None:
        """Set the value; the one before, or None. Go: Swap."""
        return self._set(value, "swap")

    def compare_and_swap(self, old: T | None, new: T) -> bool:
        """Set it to ``new`` if it equals ``old``, where None stands for nothing stored yet.

        Whether it did. Go: CompareAndSwap.
        """
        if new is None:
            raise TypeError("sync/atomic: compare and swap of nil value into Value")
        if old is not None and type(old) is not type(new):
            raise TypeError("sync/atomic: compare and swap of inconsistently typed values")
        while True:
            value = self._value
            if value is not None and type(value) is not type(new):
                raise TypeError(
                    "sync/atomic: compare and swap of inconsistently typed value into Value"
                )
            if value is not old and (value is None or value != old):
                return False
            with self._lock:
                if self._value is value:
                    self._value = new
                    return True

    def _set(self, value: T, what: str) -> T | None:
        if value is None:
            raise TypeError(f"sync/atomic: {what} of nil value into Value")
        with self._lock:
            before = self._value
            if before is None or type(before) is type(value):
                self._value = value
                return before
        raise TypeError(f"sync/atomic: {what} of inconsistently typed value into Value")

    def __repr__(self) -> str:
        return f"Value({self._value!r})"
