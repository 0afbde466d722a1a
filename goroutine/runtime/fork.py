"""What modules remember beyond a run, and a forked child must not: see forked.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["in_child", "locks", "module_lock"]

in_child: list[Callable[[], object]] = []
"""Called in the child of a process in which goroutines ran."""

locks: list[Any] = []


def module_lock() -> threading.Lock:
    """A lock for as long as the process lives, and not held in a child: the thread that held
    it is not there."""
    lock = threading.Lock()
    locks.append(lock)
    return lock
