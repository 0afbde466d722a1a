"""The few objects that every machine reads on its hot path, and why they are module dicts.

In free-threaded CPython 3.13 a mortal object read by two threads at once costs some
200 ns a read, since both write its reference count. Immortal are classes, functions,
modules *and the dicts of modules* (deferred reference counts, made immortal when a second
thread starts). A dict that is some module's ``__dict__`` is therefore an ordinary dict
whose look-ups scale, by the interpreter's own rule and with no trick on its memory.

Being immortal they are never freed: they are made once per process and emptied between
runs. Their values are read without a lock, so hot values are small ints or booleans.

Read with ``d[key]``, where two threads may be at it: 3.13's dict.get() takes the dict's mutex,
costs twice as much then, and where a value was made by another thread and is read for the
first time it takes that mutex twice, which ends after 40 calls of sched_yield (perf/NOTES.md).

Each store into a dict takes the dict's own mutex, an atomic read-modify-write before and
after the store: a store into one of these followed by a load of something else is not
reordered by the processor. The idle protocol (idle.py) relies on that.
"""

from __future__ import annotations

import types
from _thread import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .machine import Machine

__all__ = [
    "bubbles",
    "current",
    "find",
    "flags",
    "idle",
    "machine_or_none",
    "machines",
    "not_here",
    "scoped",
    "shared_dict",
    "spinning",
]


def shared_dict(name: str) -> dict[Any, Any]:
    """A dict that any number of threads can read without slowing each other down."""
    namespace = vars(types.ModuleType(name))
    namespace.clear()
    return namespace


# Thread ident -> the machine that runs on this thread.
machines: dict[int, Machine] = shared_dict("goroutine machines by thread")

# The same for threads that run a bubble (goroutine.testing), which are in ``machines``, too. Empty
# but in tests.
bubbles: dict[int, Any] = shared_dict("goroutine bubbles by thread")

# "runq": the global queue is not empty. "stop": the run is over. Set by whoever knows,
# read by every machine once a pass. "forked": this is a forked child, without a run of its own.
flags: dict[str, bool] = shared_dict("goroutine flags")

# Machine number -> machine, for the machines that sleep or are about to: see idle.py.
idle: dict[int, Machine] = shared_dict("goroutine idle machines")

# Group -> True while it is open: empty, no goroutine has a scope, and hot operations need not
# look for one.
scoped: dict[Any, bool] = shared_dict("goroutine open groups")

# Machine number -> True, for the machines that look for work without having any.
spinning: dict[int, bool] = shared_dict("goroutine spinning machines")


def find(table: dict[Any, Any], key: Any, default: Any = None) -> Any:
    """``table.get(key, default)`` of a table that other threads use, too: see above."""
    try:
        return table[key]
    except KeyError:
        return default


def machine_or_none() -> Machine | None:
    """The machine of the calling thread, or None on a thread that is not one."""
    try:
        return machines[get_ident()]
    except KeyError:
        return None


def current() -> Machine:
    """The machine of the calling thread; RuntimeError on a thread that is not one."""
    try:
        return machines[get_ident()]
    except KeyError:
        raise RuntimeError(not_here()) from None


def not_here() -> str:
    """What is wrong with a thread that is no machine."""
    if flags.get("forked"):
        from .forked import REFUSED  # forked needs this module

        return REFUSED
    return "not in a goroutine: call this below goroutine.start(main)"
