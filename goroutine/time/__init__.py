"""Time: a clock that never jumps, sleeping, timers and tickers. Go: time.

A timer is a channel that gives one value when it is due, so that a `select` can wait for
it beside other things; a ticker gives one again and again. The value is the time at which
it was due, on the clock of `now`. All times are float seconds.

After ``stop()`` or ``reset()`` has returned, nothing of before can be received. Nothing
needs to be stopped for memory's sake: a timer nobody refers to is gone. (Go 1.23's rules.)

>>> from goroutine import time
>>> async def main():
...     answer = goroutine.chan()
...     chosen = await goroutine.select(
...         goroutine.recv(answer),
...         goroutine.recv(time.after(0.01)),
...     )
...     return "timed out" if chosen.index == 1 else chosen.value
>>> goroutine.start(main)
'timed out'
"""

from ..runtime.clock import now
from ..runtime.sleep import sleep
from .timer import Ticker, Timer, after, after_func, tick

__all__ = ["Ticker", "Timer", "after", "after_func", "now", "sleep", "tick"]
