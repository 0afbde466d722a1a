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
from .group import Group
from .runtime.exit import current, goexit
from .runtime.goroutine import Goroutine
from .runtime.offload import blocking
from .runtime.park import gosched
from .runtime.scheduler import machine_count as machines
from .runtime.scheduler import num_goroutine, start
from .runtime.sleep import sleep
from .runtime.spawn import go
from .runtime.thread import hold
from .select import Selected, recv, select, send

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
    "Group",
    "Selected",
    "blocking",
    "chan",
    "current",
    "go",
    "goexit",
    "gosched",
    "hold",
    "machines",
    "num_goroutine",
    "recv",
    "select",
    "send",
    "sleep",
    "start",
]
