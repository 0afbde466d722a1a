"""Waiting for what something else brings about: until it is so, with a bound, and no longer."""

import time
from collections.abc import Callable

from goroutine import gosched, sleep

BOUND = 20.0  # seconds after which it will never come


async def until(condition: Callable[[], object], seconds: float = BOUND) -> None:
    """Look every millisecond: meanwhile the machines may fall asleep."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await sleep(0.001)


async def gosched_until(condition: Callable[[], object], seconds: float = BOUND) -> None:
    """Look, and give way to all that can run: without a timer, and no machine falls asleep."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await gosched()


def until_in_thread(condition: Callable[[], object], seconds: float = BOUND) -> None:
    """`until` on a thread that is no machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)
