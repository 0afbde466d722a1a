"""Atomic 64-bit words: the one file that knows patomic.

The operations come from patomic, the C library inside the ``atomics`` package.
It is loaded with ctypes alone: ``atomics`` itself imports cffi, whose extension
module switches the GIL back on.

How to use it.  A ``Word`` is shared by threads, everything made from it is not:
its views, and the functions that the factories below build, belong to the
thread that asked for them.  (An object that two threads touch costs each touch
some 200 ns for its reference count; and the operands of a function are cells of
its own, which two callers would overwrite for one another.)  So each thread
calls the factories once and keeps the results in locals of its loop.

==================================  ======  ==========================================
made by                             ns      call
==================================  ======  ==========================================
``Word.view()``                         20  plain: ``view[0]``, ``view[0] = x``
``increment(word)``, ``fence()``       140  ``() -> None``
``load(word)``, ``store(word)``        280  ``() -> value``, ``(value) -> None``
``fetch_increment(word)``              280  ``() -> value before``
``exchange``, ``fetch_add(word)``      390  ``(value) -> value before``
``compare_and_swap(word)``             440  ``(expected, desired) -> bool``
``raw("compare_and_swap")``            270  ``(*refs) -> int``, operands set beforehand
==================================  ======  ==========================================

(3.13.15t on a virtual machine of two cores; earlier figures, from 3.13.5t, were a third lower.)

Memory order
------------
Every function made here is sequentially consistent: all threads see all these
operations in one order, and what a thread wrote before such an operation is
seen by whoever reads what the operation wrote.

A view is *plain*: an aligned 8-byte move (memoryview's memcpy of eight bytes,
which compilers make one instruction of).  It isn't torn, and beyond that only
the machine promises anything:

* x86-64 (``TOTAL_STORE_ORDER`` is true): loads stay in order, stores stay in
  order, a store isn't moved before an earlier load.  So a plain store publishes
  all that was written before it, and a plain load that sees it sees all that.
  The one thing that does happen is a store that is seen *later* than the
  thread's next load.  It was observed: "set my flag by a view, then look at
  yours by a view", run by two threads, let both see the old value in 3,911 of
  150,000 rounds.  With ``fence()`` or any atomic operation between them: never.
* AArch64 and others: plain accesses to different words may be seen in any
  order.  Publish with ``store``, look with ``load``.

What the interpreter itself does is no substitute, but explains what was seen:
cells of a list and attributes take a lock or an atomic operation in a
free-threaded build, and flags kept in them were never seen reordered.

``fence()`` orders everything before it with everything after it, plain
accesses included.  On x86-64 one locked instruction does that.  Elsewhere one
is not enough: an AArch64 pair of exclusive load-acquire and store-release lets
a later load pass the store.  Two in a row are: what comes before the fence
stays before the first one's store (release), that before the second one's load
(a release and a later acquire keep their order), and that before what follows
(acquire).

With the GIL on all this holds too.  The functions are called without releasing
it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from ctypes import _CArgObject

__all__ = [
    "TOTAL_STORE_ORDER",
    "Raw",
    "Ref",
    "Word",
    "compare_and_swap",
    "exchange",
    "fence",
    "fetch_add",
    "fetch_increment",
    "increment",
    "load",
    "operand",
    "raw",
    "store",
]

type Ref = _CArgObject
"""A pre-built pointer argument (``ctypes.byref``); it keeps its target alive."""

type Raw = Callable[..., int]

type Operation = Literal[
    "load",
    "store",
    "exchange",
    "compare_and_swap",
    "add",
    "increment",
    "fetch_add",
    "fetch_increment",
]

TOTAL_STORE_ORDER: Final = os.uname().machine in ("x86_64", "amd64")
"""Whether plain loads and stores are seen in program order, but for a store and a later load."""

_BLOCK = 128  # two cache lines: x86-64 prefetches them in pairs, some AArch64 have lines of 128
_SEQ_CST = 5


# --- patomic's table of functions --------------------------------------------------------------


def _pointers(*names: str) -> list[tuple[str, type[ctypes.c_void_p]]]:
    return [(name, ctypes.c_void_p) for name in names]


class _Exchange(ctypes.Structure):
    _fields_ = _pointers("exchange", "weak", "strong")


class _Bit(ctypes.Structure):
    _fields_ = _pointers("test", "complement", "set", "reset")


class _Binary(ctypes.Structure):
    _fields_ = _pointers(
        "or_", "xor", "and_", "not_", "fetch_or", "fetch_xor", "fetch_and", "fetch_not"
    )


class _Arithmetic(ctypes.Structure):
    _fields_ = _pointers(
        *("add", "sub", "inc", "dec", "neg"),
        *("fetch_add", "fetch_sub", "fetch_inc", "fetch_dec", "fetch_neg"),
    )


class _Table(ctypes.Structure):
    _fields_ = (
        *_pointers("store", "load"),
        ("exchange", _Exchange),
        ("bit", _Bit),
        ("binary", _Binary),
        ("signed", _Arithmetic),
        ("unsigned", _Arithmetic),
    )


class _Patomic(ctypes.Structure):
    _fields_ = (
        ("table", _Table),
        # recommended, minimum, size_within
        ("alignment", ctypes.c_size_t * 3),
    )


def _locate() -> Path:
    """The shared library in the installed package, found without importing the package."""
    spec = importlib.util.find_spec("atomics")
    if spec is None:
        raise ImportError(
            "goroutine needs the package 'atomics' (pip install atomics)", name="atomics"
        )
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder, "_clib").glob("libpatomic*.so*"), reverse=True):
            return path
    raise ImportError(
        f"the installed package 'atomics' has no libpatomic*.so in _clib ({spec.origin}); "
        "reinstall it from a wheel for this platform",
        name="atomics",
    )


def _load() -> dict[Operation, int]:
    """Addresses of the sequentially consistent 64-bit operations."""
    if ctypes.sizeof(ctypes.c_void_p) < 8:
        raise ImportError("goroutine needs a 64-bit Python: a word would be moved in two halves")
    path = _locate()
    try:
        create = ctypes.CDLL(str(path))["patomic_create"]
    except (OSError, AttributeError) as error:
        raise ImportError(
            f"goroutine can't use the atomics package's library: {error}",
            name="atomics",
            path=str(path),
        ) from error
    create.restype = _Patomic
    create.argtypes = (ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int)
    table = create(8, _SEQ_CST, 0, 0).table
    addresses: dict[Operation, int | None] = {
        "load": table.load,
        "store": table.store,
        "exchange": table.exchange.exchange,
        "compare_and_swap": table.exchange.strong,
        "add": table.signed.add,
        "increment": table.signed.inc,
        "fetch_add": table.signed.fetch_add,
        "fetch_increment": table.signed.fetch_inc,
    }
    found = {name: address for name, address in addresses.items() if address}
    if len(found) < len(addresses):
        raise ImportError(
            "the atomics package has no lock-free 64-bit operations on this machine: "
            + ", ".join(sorted(addresses.keys() - found.keys())),
            name="atomics",
            path=str(path),
        )
    return found


_addresses = _load()

# Classes are immortal, their instances are made one per thread.  PYFUNCTYPE: the thread state
# stays attached (nothing here can block) and no argument is converted but those given as objects.
_Function = ctypes.PYFUNCTYPE(ctypes.c_int)
_Procedure = ctypes.PYFUNCTYPE(None)


# --- words and operands ------------------------------------------------------------------------


def _view(cell: ctypes.c_int64) -> memoryview[int]:
    return memoryview(cell).cast("B").cast("q")


class Word:
    """A signed 64-bit word, alone on its cache lines.

    Arithmetic wraps around; a value that doesn't fit raises ``ValueError``.
    """

    __slots__ = ("_cell",)

    def __init__(self, value: int = 0) -> None:
        block = (ctypes.c_char * (2 * _BLOCK))()
        offset = -ctypes.addressof(block) % _BLOCK
        self._cell = ctypes.c_int64.from_buffer(block, offset)
        self.view()[0] = value

    def view(self) -> memoryview[int]:
        """For plain loads and stores, ``view[0]``.  Call it in the thread that uses the view."""
        return _view(self._cell)

    def ref(self) -> Ref:
        """The argument that stands for this word in calls of ``raw`` functions."""
        return ctypes.byref(self._cell)

    def __repr__(self) -> str:
        return f"Word({self.view()[0]})"


def operand(value: int = 0) -> tuple[memoryview[int], Ref]:
    """A cell for an argument or a result of ``raw`` functions, private to the calling thread."""
    cell = ctypes.c_int64(value)
    return _view(cell), ctypes.byref(cell)


# --- operations --------------------------------------------------------------------------------


def raw(operation: Operation) -> Raw:
    """A function object private to the calling thread, to be called with refs alone.

    What it is given isn't checked: anything but refs, or too few, is a crash.

    ======================  ==========================================================
    ``load``                ``(word, result)``
    ``store``               ``(word, value)``
    ``exchange``            ``(word, value, result)``
    ``compare_and_swap``    ``(word, expected, desired) -> int``: 1 if swapped; else 0,
                            and the cell ``expected`` holds what was found
    ``add``, ``increment``  ``(word, amount)``, ``(word)``
    ``fetch_add``           ``(word, amount, result)``
    ``fetch_increment``     ``(word, result)``
    ======================  ==========================================================
    """
    kind = _Function if operation == "compare_and_swap" else _Procedure
    return kind(_addresses[operation])


# The functions below take what they need as defaults: those are plain locals in the call, while
# a variable of the enclosing function is a cell with a lock.  Refs are passed as a ready tuple,
# which saves the call building one.


def load(word: Word) -> Callable[[], int]:
    """``() -> value``."""
    return _returning("load", word)


def fetch_increment(word: Word) -> Callable[[], int]:
    """``() -> value before``."""
    return _returning("fetch_increment", word)


def exchange(word: Word) -> Callable[[int], int]:
    """``(value) -> value before``."""
    return _taking_and_returning("exchange", word)


def fetch_add(word: Word) -> Callable[[int], int]:
    """``(amount) -> value before``; the amount may be negative."""
    return _taking_and_returning("fetch_add", word)


def store(word: Word) -> Callable[[int], None]:
    """``(value)``."""
    argument, argument_ref = operand()
    function, refs = raw("store"), (word.ref(), argument_ref)

    def call(
        value: int,
        function: Raw = function,
        refs: tuple[Ref, Ref] = refs,
        argument: memoryview[int] = argument,
    ) -> None:
        argument[0] = value
        function(*refs)

    return call


def _returning(operation: Operation, word: Word) -> Callable[[], int]:
    result, result_ref = operand()
    function, refs = raw(operation), (word.ref(), result_ref)

    def call(
        function: Raw = function,
        refs: tuple[Ref, Ref] = refs,
        result: memoryview[int] = result,
    ) -> int:
        function(*refs)
        return result[0]

    return call


def _taking_and_returning(operation: Operation, word: Word) -> Callable[[int], int]:
    argument, argument_ref = operand()
    result, result_ref = operand()
    function, refs = raw(operation), (word.ref(), argument_ref, result_ref)

    def call(
        value: int,
        function: Raw = function,
        refs: tuple[Ref, Ref, Ref] = refs,
        argument: memoryview[int] = argument,
        result: memoryview[int] = result,
    ) -> int:
        argument[0] = value
        function(*refs)
        return result[0]

    return call


def increment(word: Word) -> Callable[[], object]:
    """``()``: adds one, and is the cheapest of all."""
    return partial(raw("increment"), word.ref())


def compare_and_swap(word: Word) -> Callable[[int, int], bool]:
    """``(expected, desired) -> whether swapped``; fails only if another value is found."""
    old, old_ref = operand()
    new, new_ref = operand()
    function, refs = raw("compare_and_swap"), (word.ref(), old_ref, new_ref)

    def call(
        expected: int,
        desired: int,
        function: Raw = function,
        refs: tuple[Ref, Ref, Ref] = refs,
        old: memoryview[int] = old,
        new: memoryview[int] = new,
    ) -> bool:
        old[0] = expected
        new[0] = desired
        return function(*refs) != 0

    return call


def fence() -> Callable[[], object]:
    """``()``: a full fence, see the notes on memory order."""
    once = increment(Word())  # a word of its own: no cache line travels
    if TOTAL_STORE_ORDER:
        return once

    def twice() -> None:
        once()
        once()

    return twice
