"""The global run queue: overflow of full rings, goroutines from foreign threads, yields.

A lock and a deque: it is touched once per batch, not once per goroutine. Whether it is
empty is also kept in flags["runq"], which machines read without the lock. The flag is
written under the lock, so it is exact whenever the lock is free; a machine about to sleep
reads it after its announcement (idle.py), a submitter writes it before it looks for
sleepers, and both stores are fenced (shared.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from .goroutine import Goroutine
from .shared import flags

__all__ = ["GlobalQueue"]


class GlobalQueue:
    """FIFO of runnable goroutines that belong to no processor."""

    __slots__ = ("__dict__", "_lock", "_queue")  # a trace puts a `put` of its own before ours

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Goroutine[Any]] = deque()
        flags["runq"] = False

    def __len__(self) -> int:
        return len(self._queue)

    def snapshot(self) -> list[Goroutine[Any]]:
        """What is queued at this moment. From any thread."""
        with self._lock:
            return list(self._queue)

    def put(self, gs: Iterable[Goroutine[Any]]) -> None:
        """Append a batch."""
        with self._lock:
            self._queue.extend(gs)
            flags["runq"] = bool(self._queue)

    def take(self, most: int) -> list[Goroutine[Any]]:
        """Take up to ``most`` from the head."""
        with self._lock:
            queue = self._queue
            pop = queue.popleft
            got = [pop() for _ in range(min(most, len(queue)))]
            flags["runq"] = bool(queue)
        return got

    def share(self, machines: int) -> list[Goroutine[Any]]:
        """What one of ``machines`` machines takes when it has nothing. Go: globrunqgetbatch."""
        return self.take(min(128, len(self._queue) // machines + 1))
