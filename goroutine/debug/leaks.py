"""GOROUTINE_DEBUG=leaks=1: the goroutines that are left when the program ends, on stderr.

Go ends without a word. But who waits for ever, with nobody to wake him, is often a mistake: a
channel that isn't closed, a context that nobody cancels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..runtime.dump import look, render
from ..runtime.goroutine import Goroutine, describe
from ..runtime.panic import print_report

if TYPE_CHECKING:
    from ..runtime.scheduler import Runtime

__all__ = ["report", "watch"]


def watch(runtime: Runtime) -> None:
    """Have them told at the end of the run."""

    def tell() -> None:
        # (A deadlock has told of them all.)
        if not runtime.dead and (text := report([g for home in runtime.homes() for g in home])):
            print_report(text)

    runtime.at_end.append(tell)


def report(left: list[Goroutine[Any]]) -> str:
    """By who created them, those who created the most first; "" if there are none.

    All machines have left: nobody runs.
    """
    left = [g for g in left if not g.done]
    if not left:
        return ""
    by_creator: dict[Any, list[Goroutine[Any]]] = {}
    for g in left:
        parent = None if g._parent is None else describe(g._parent[1])
        by_creator.setdefault(parent, []).append(g)
    several = "goroutines were" if len(left) > 1 else "goroutine was"
    parts = [f"goroutine: {len(left)} {several} left when the program ended"]
    for parent, gs in sorted(by_creator.items(), key=lambda item: (-len(item[1]), str(item[0]))):
        by = "started from outside" if parent is None else f"created by {parent}"
        parts.append(f"{len(gs)} {by}:\n\n{render(map(look, gs), group=True)}")
    return "\n\n".join(parts)
