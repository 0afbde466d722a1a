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
    """Base of the errors that goroutine itself defines.

    Misuse raises Python's own (``RuntimeError``, ``TypeError``, ``ValueError``), and what the
    kernel reports is an ``OSError``.
    """


class ChanClosed(GoroutineError):
    """A send on, a close of, or a receive from a closed channel.

    The first two are panics in Go. (Go receives a zero value from a closed channel: see
    `Chan.recv_ok`.)

    >>> ch = goroutine.chan()
    >>> ch.close()
    >>> ch.close()
    Traceback (most recent call last):
    goroutine.errors.ChanClosed: close of closed channel
    """


class Deadlock(GoroutineError):
    """Every goroutine is asleep and nothing outside can wake one.

    `start` raises it, when it has printed where they all wait. Uncaught, the exit status is 2.
    What may still wake one: I/O, a timer, a `blocking` call, a thread inside `hold`, or one in
    ``send_blocking`` or ``recv_blocking``. Go: checkdead.

    >>> async def main():
    ...     await goroutine.chan().recv()
    >>> goroutine.start(main)
    Traceback (most recent call last):
    goroutine.errors.Deadlock: all goroutines are asleep - deadlock!
    """


class GoroutinePanic(GoroutineError):
    """An exception escaped a goroutine other than main; it is the ``__cause__``.

    `start` raises it, when it has printed the report. Uncaught, the exit status is 2. Failures
    that are to be handled belong in a `Group`. Go: a panic that is not recovered.

    >>> async def main():
    ...     async def fail():
    ...         raise ValueError("no luck")
    ...     await goroutine.go(fail)
    >>> try:
    ...     goroutine.start(main)
    ... except goroutine.GoroutinePanic as panic:
    ...     print(repr(panic.__cause__))
    ValueError('no luck')
    """


class Canceled(GoroutineError):
    """The operation's context, or the goroutine's group, was cancelled.

    The cause is the ``__cause__``. A group tells each goroutine once. Go: context.Canceled.

    >>> async def main():
    ...     ctx = context.with_cancel(context.background())
    ...     ctx.cancel(ValueError("enough"))
    ...     try:
    ...         await goroutine.chan().recv(ctx=ctx)
    ...     except goroutine.Canceled as failure:
    ...         return failure, failure.__cause__
    >>> goroutine.start(main)
    (Canceled('context canceled'), ValueError('enough'))
    """


class DeadlineExceeded(Canceled, TimeoutError):
    """The operation's context ran past its deadline. Go: context.DeadlineExceeded.

    >>> async def main():
    ...     with context.with_timeout(context.background(), 0.01) as ctx:
    ...         await goroutine.sleep(60, ctx=ctx)
    >>> goroutine.start(main)
    Traceback (most recent call last):
    goroutine.errors.DeadlineExceeded: context deadline exceeded
    """


class ConnClosed(GoroutineError, OSError):
    """Use of a connection or listener that was closed on this side. Go: net.ErrClosed.

    >>> async def main():
    ...     listener = await net.listen("tcp", "127.0.0.1:0")
    ...     listener.close()
    ...     await listener.accept()
    >>> goroutine.start(main)
    Traceback (most recent call last):
    goroutine.errors.ConnClosed: [Errno 9] use of closed network connection
    """
