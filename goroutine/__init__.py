"""Go's concurrency for free-threaded Python: goroutines, channels, and I/O that parks them."""

from .channel import Chan, chan
from .errors import (
    Canceled,
    ChanClosed,
    ConnClosed,
    DeadlineExceeded,
    Deadlock,
    GoroutineError,
    GoroutinePanic,
)
from .runtime.goroutine import Goroutine
from .runtime.park import gosched
from .runtime.scheduler import machine_count as machines
from .runtime.scheduler import num_goroutine, start
from .runtime.sleep import sleep
from .runtime.spawn import go

__all__ = [
    "Canceled",
    "Chan",
    "ChanClosed",
    "ConnClosed",
    "Deadlock",
    "DeadlineExceeded",
    "Goroutine",
    "GoroutineError",
    "GoroutinePanic",
    "chan",
    "go",
    "gosched",
    "machines",
    "num_goroutine",
    "sleep",
    "start",
]
