"""Choices: all that is left open in a bubble is decided here, and remembered.

A choice has a kind and a number of options, of which the first is the default: what a
scheduler does that changes from one goroutine to another only where it must. What was chosen is a
list of indices; the program being what it is, that list alone is the run. A strategy says
what to choose.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

__all__ = [
    "CASE",
    "NEXT",
    "PCT",
    "POINT",
    "YIELD",
    "Chooser",
    "Decision",
    "Exhaustive",
    "Random",
    "Replay",
    "Strategy",
    "strategy_of",
]

NEXT = "next"  # who goes on, or which timer goes off, when who ran last can't go on
POINT = "point"  # the same when it can, and is the first of the options
YIELD = "yield"  # the same when it has given way, and is not among them
CASE = "case"  # of a select, and whatever else takes a random one

COSTLY = frozenset((POINT, YIELD))
"""The kinds of which any but the default is a preemption."""

Decision = tuple[str, int, int]
"""Kind, number of options, index of the one chosen."""


class Strategy:
    """How the choices of a bubble are made: `Random`, `PCT`, `Exhaustive`, or one of your own.

    An option of the kinds "next", "point" and "yield" is a goroutine, or a timer that is due;
    the first is the default.

    >>> class Last(testing.Strategy):
    ...     name = "last"
    ...     def choose(self, kind, options, current):
    ...         return len(options) - 1
    >>> async def main(bubble):
    ...     words = []
    ...     goroutine.go(words.append, "first")
    ...     goroutine.go(words.append, "last")
    ...     await bubble.wait()
    ...     return words
    >>> testing.run(main, strategy=Last())
    ['last', 'first']
    """

    name = ""
    one_seed = False  # all runs have the same, and ``begin`` says when there are enough

    def reset(self) -> None:
        """Before the first of several runs."""

    def begin(self, seed: int) -> bool:
        """Before a run. False: there is nothing left to try."""
        return True

    def choose(self, kind: str, options: Sequence[Any], current: Any) -> int:
        """The index of one of two options or more; ``current`` is the goroutine that ran."""
        raise NotImplementedError

    def end(self, trace: list[Decision]) -> None:
        """After a run."""


class Chooser:
    """The choices of one run, made by a strategy."""

    __slots__ = ("_strategy", "trace")

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self.trace: list[Decision] = []

    def choose(self, kind: str, options: Sequence[Any], current: Any = None) -> int:
        index = self._strategy.choose(kind, options, current)
        self.trace.append((kind, len(options), index))
        return index

    def random(self) -> Draw:
        """Stands in for random.random(), whose product with n says which of n is meant."""
        return Draw(self)


class Draw:
    """A choice that is made when it is known of how many."""

    __slots__ = ("_chooser",)

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def __mul__(self, n: int) -> int:
        return self._chooser.choose(CASE, range(n)) if n > 1 else 0


class Random(Strategy):
    """Each time any of the options, with the same chance.

    >>> async def main(bubble):
    ...     return bubble.seed
    >>> testing.run(main, seed=7, strategy=testing.Random(), runs=3)  # seeds 7, 8 and 9
    9
    """

    name = "random"

    def begin(self, seed: int) -> bool:
        self._pick = random.Random(seed).randrange
        return True

    def choose(self, kind: str, options: Sequence[Any], current: Any) -> int:
        return self._pick(len(options))


class PCT(Strategy):
    """Goroutines have random priorities, and the highest runs; at ``depth - 1`` random moments
    the one that runs gets the lowest.

    So few changes find rare orders better than many: a bug that takes ``depth`` steps in a
    certain order, in a program of n goroutines and k choices, is met with a chance of at least
    ``1 / (n * k ** (depth - 1))`` in each run, if k is given as ``choices``. Without, the moments
    are more often early than late, up to 1,000, which costs little where k is not known.
    Burckhardt and others, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs"
    (2010).

    >>> async def main(bubble):
    ...     return bubble.seed
    >>> testing.run(main, seed=1, strategy=testing.PCT(depth=2), runs=10)
    10
    """

    name = "pct"

    def __init__(self, depth: int = 3, choices: int | None = None) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        if choices is not None and choices < 1:
            raise ValueError(f"choices must be at least 1, not {choices}")
        self.depth = depth
        self.choices = choices

    def begin(self, seed: int) -> bool:
        rng = random.Random(seed)
        self._random = rng.random
        self._pick = rng.randrange
        self._changes = {self._moment(rng) for _ in range(self.depth - 1)}
        self._priorities: dict[Any, float] = {}
        self._lowest = 0.0
        self._made = 0
        return True

    def choose(self, kind: str, options: Sequence[Any], current: Any) -> int:
        if kind is CASE:
            return self._pick(len(options))
        priorities = self._priorities
        for option in options:
            if option not in priorities:
                priorities[option] = self._random()
        if kind is YIELD or (kind is POINT and self._made in self._changes):
            # Who gives way stands behind all others, too: else it would only spin.
            self._lowest -= 1
            priorities[current] = self._lowest
        self._made += 1
        return max(range(len(options)), key=lambda i: priorities[options[i]])

    def _moment(self, rng: random.Random) -> int:
        if self.choices is not None:
            return rng.randrange(self.choices)
        return int(1000 ** rng.random()) - 1


class Exhaustive(Strategy):
    """All schedules of a small program, one after the other: depth first, defaults first.

    In all of them no more than ``preemptions`` times is a goroutine interrupted that could go
    on (which is enough for most bugs, and keeps the number from exploding); where it can't, and
    of the cases of a select, everything is tried. ``RuntimeError`` if that are more than ``most``
    schedules, or if the program does not do the same in the same schedule.

    ``schedules`` is their number, ``complete`` whether these were all. ``runs`` of `run` doesn't
    matter.

    >>> async def main(bubble):
    ...     words = []
    ...     goroutine.go(words.append, "a")
    ...     goroutine.go(words.append, "b")
    ...     await bubble.wait()
    ...     orders.add("".join(words))
    >>> orders = set()
    >>> every = testing.Exhaustive()
    >>> testing.run(main, strategy=every)
    >>> sorted(orders), every.schedules, every.complete
    (['ab', 'ba'], 2, True)
    """

    name = "exhaustive"
    one_seed = True

    def __init__(self, preemptions: int = 2, most: int = 100_000) -> None:
        if preemptions < 0:
            raise ValueError(f"preemptions must be at least 0, not {preemptions}")
        self.preemptions = preemptions
        self.most = most
        self.reset()

    def reset(self) -> None:
        self.schedules = 0
        self.complete = False
        self._prefix: list[Decision] = []
        self._at = 0

    def begin(self, seed: int) -> bool:
        if self.complete:
            return False
        if self.schedules >= self.most:
            raise RuntimeError(
                f"exhaustive search: there are more than {self.most} schedules;"
                " allow more of them (most), or fewer preemptions"
            )
        self._at = 0
        return True

    def choose(self, kind: str, options: Sequence[Any], current: Any) -> int:
        at = self._at
        self._at = at + 1
        if at >= len(self._prefix):
            return 0
        before, n, index = self._prefix[at]
        if before != kind or n != len(options):
            raise RuntimeError(
                f"the program is not deterministic: choice {at} was one of {n} ({before}),"
                f" and now is one of {len(options)} ({kind})"
            )
        return index

    def end(self, trace: list[Decision]) -> None:
        self.schedules += 1
        spent = []  # preemptions before each choice
        total = 0
        for kind, _, index in trace:
            spent.append(total)
            total += bool(index) and kind in COSTLY
        for at in range(len(trace) - 1, -1, -1):
            kind, n, index = trace[at]
            if index + 1 < n and spent[at] + (kind in COSTLY) <= self.preemptions:
                self._prefix = [*trace[:at], (kind, n, index + 1)]
                return
        self.complete = True


class Replay(Strategy):
    """What was chosen in another run, and the default where nothing is said."""

    name = "replay"
    one_seed = True

    def __init__(self, choices: dict[int, int]) -> None:
        self._choices = choices
        self._at = 0

    def begin(self, seed: int) -> bool:
        self._at = 0
        return True

    def choose(self, kind: str, options: Sequence[Any], current: Any) -> int:
        at = self._at
        self._at = at + 1
        return min(self._choices.get(at, 0), len(options) - 1)


_BY_NAME: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (Random, PCT, Exhaustive)
}


def strategy_of(strategy: str | Strategy) -> Strategy:
    """The strategy of that name, with its usual settings; or the one given."""
    if isinstance(strategy, Strategy):
        return strategy
    try:
        return _BY_NAME[strategy]()
    except KeyError:
        names = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"strategy must be one of {names}, not {strategy!r}") from None
