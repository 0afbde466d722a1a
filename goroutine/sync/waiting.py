"""What the modules of this package share: who waits, in words of runtime/wait.py."""

from __future__ import annotations

from typing import Any

from ..runtime.goroutine import Goroutine
from ..runtime.shared import current

__all__ = ["running_goroutine"]


def running_goroutine() -> Goroutine[Any]:
    """The goroutine that is about to wait; ``RuntimeError`` where nobody can."""
    g = current().g
    if g is None:
        raise RuntimeError("not in a goroutine, or in one that is being closed: cannot wait here")
    return g
