"""The exceptions of the public API, importable from everywhere without cycles."""

__all__ = [
    "Canceled",
    "ChanClosed",
    "ConnClosed",
    "Deadlock",
    "DeadlineExceeded",
    "GoroutineError",
    "GoroutinePanic",
]


class GoroutineError(Exception):
    """Base of the errors that goroutine itself defines."""


class ChanClosed(GoroutineError):
    """A send on, a close of, or a receive from a closed channel."""


class Deadlock(GoroutineError):
    """Every goroutine is asleep and nothing outside can wake one."""


class GoroutinePanic(GoroutineError):
    """An exception escaped a goroutine other than main; it is the ``__cause__``."""


class Canceled(GoroutineError):
    """The operation's context was cancelled; the cause is the ``__cause__``."""


class DeadlineExceeded(Canceled, TimeoutError):
    """The operation's context ran past its deadline."""


class ConnClosed(GoroutineError, OSError):
    """Use of a connection or listener that was closed on this side."""
