"""Locks and other meeting points of goroutines. Go: sync, and golang.org/x/sync/semaphore.

Whatever waits here obeys the cancellation of its group and takes a ``ctx=``; who is cancelled
holds nothing, and what it was about to get goes to the next. Nothing is tied to the goroutine
that locked or acquired it, and what doesn't wait may be called on any thread.
"""

from .cond import Cond
from .map import Map
from .mutex import Mutex
from .once import Once, once_func, once_value
from .pool import Pool
from .rwmutex import RWMutex
from .semaphore import Semaphore
from .waitgroup import WaitGroup

__all__ = [
    "Cond",
    "Map",
    "Mutex",
    "Once",
    "Pool",
    "RWMutex",
    "Semaphore",
    "WaitGroup",
    "once_func",
    "once_value",
]
