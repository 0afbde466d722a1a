"""park and ready: the two functions on which everything that waits is built.

Every operation that waits is a generator (``types.coroutine``) that yields a *commit*
function; see goroutine.py for the ownership rule this keeps. There is no other way to
suspend a goroutine, and none to resume it but `ready`.
"""

from __future__ import annotations

import types
from _thread import get_ident
from collections.abc import Generator
from typing import Any

from .goroutine import Commit, Goroutine
from .shared import machines

__all__ = ["gosched", "park", "ready", "ready_many"]


@types.coroutine
def park(commit: Commit) -> Generator[Commit]:
    """Suspend the calling goroutine, then call ``commit(g)`` outside its frame.

    For code off the hot path; hot operations yield their commit function themselves and
    save the extra generator. Go: gopark.
    """
    yield commit


@types.coroutine
def gosched() -> Generator[None]:
    """Give way: let the other runnable goroutines run, then go on.

    The goroutine goes to the tail of the global queue when something waits there, else to
    the tail of its own machine's queue, which is then the same place at a lower price.

    For long computations: nothing else takes a machine from its goroutine. `Canceled` if the
    goroutine's group is cancelled. Cancel safety: there is nothing to lose.
    Go: runtime.Gosched.

    >>> async def main():
    ...     words = []
    ...     goroutine.go(words.append, "first")
    ...     await goroutine.gosched()
    ...     words.append("second")
    ...     return words
    >>> goroutine.start(main, machines=1)
    ['first', 'second']
    """
    yield None


def ready(g: Goroutine[Any]) -> None:
    """Make a waiting goroutine runnable. Only whoever claimed it from its park place may.

    On a machine it goes next on this very machine: a waker and the woken share their data,
    and a hand-over to another core costs ten times a step. From any other thread it goes
    to the global queue. Go: goready.
    """
    m = machines.get(get_ident())
    if m is not None:
        m.ready(g)
    else:
        from .scheduler import inject  # scheduler needs this module

        inject([g])


def ready_many(gs: list[Goroutine[Any]]) -> None:
    """`ready` for several, in order."""
    for g in gs:
        ready(g)
