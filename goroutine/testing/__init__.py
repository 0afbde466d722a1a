"""Deterministic tests: a bubble with a clock of its own, in which a seed decides who runs when.

Like Go's testing/synctest, and beyond it: `run` gives a function a `Bubble`. What goroutines do
in there depends on nothing but the program and the seed, waiting takes no time, and a
deadlock is found at once. With many runs, or all that there can be (`Exhaustive`), a test finds
the orders in which the program fails; the one that fails is said in a line to run again.

>>> from goroutine.time import now, sleep
>>> async def main(bubble):
...     began = now()
...     await sleep(24 * 3600)
...     return now() - began
>>> testing.run(main)
86400.0
"""

from .bubble import Bubble
from .choice import PCT, Exhaustive, Random, Strategy
from .network import Listener, Network
from .running import run
from .stream import Conn

__all__ = [
    "Bubble",
    "Conn",
    "Exhaustive",
    "Listener",
    "Network",
    "PCT",
    "Random",
    "Strategy",
    "run",
]
