"""What the tests of goroutine.sync share."""

import random
from typing import Any

import goroutine
from goroutine import context


class Section:
    """A critical section that finds out whether two were ever inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.visits = 0
        self.broken = 0

    async def visit(self, rest: bool = True) -> None:
        self.inside += 1
        visits = self.visits
        if self.inside != 1:
            self.broken += 1
        if rest:
            await goroutine.gosched()
        if self.inside != 1:
            self.broken += 1
        self.visits = visits + 1
        self.inside -= 1


class Chaos:
    """Contexts that a goroutine of its own cancels, in no order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.open: dict[context.CancelContext, None] = {}
        self.over = False

    def context(self) -> context.CancelContext:
        ctx = context.with_cancel(context.background())
        self.open[ctx] = None
        return ctx

    async def run(self) -> None:
        while not self.over:
            self.strike(0.3)
            await goroutine.gosched()

    def strike(self, share: float) -> None:
        """Cancel about so many of those that are open; the first one surely."""
        for i, ctx in enumerate(list(self.open)):
            if i == 0 or self.random.random() < share:
                self.open.pop(ctx, None)
                ctx.cancel()


def waiting(lock: Any) -> int:
    """How many wait for it, by its own account."""
    while True:
        try:
            return len([entry for entry in lock._queue if entry.token])
        except RuntimeError:
            pass  # "deque mutated during iteration"
