"""The running goroutine itself: which it is, and its end by goexit."""

from __future__ import annotations

from typing import Any, NoReturn

from .goroutine import Goroutine
from .shared import machine_or_none, not_here

__all__ = ["GoExit", "current", "goexit"]


class GoExit(BaseException):
    """What `goexit` raises: ends its goroutine quietly."""


def current() -> Goroutine[Any]:
    """The running goroutine; ``RuntimeError`` outside one. Go has none (on purpose).

    >>> async def main():
    ...     return goroutine.current().id
    >>> goroutine.start(main)
    1
    """
    m = machine_or_none()
    if m is None or m.g is None:
        raise RuntimeError(not_here())
    return m.g


def goexit() -> NoReturn:
    """End the calling goroutine, running its ``finally`` blocks; the others go on.

    In main, too: the program then ends when something ends it, and with `Deadlock` when
    no goroutine is left. Raises an exception that only ``except BaseException`` sees, which
    must not keep it. ``RuntimeError`` outside a goroutine. Go: runtime.Goexit.

    >>> async def main():
    ...     async def worker():
    ...         goroutine.goexit()
    ...     await goroutine.go(worker)
    >>> goroutine.start(main)
    """
    current()
    raise GoExit
