"""Channels: Go's, with one lock per channel and FIFO wait queues.

Invariant, under the lock: ``_recvq`` or ``_sendq`` is empty; in a buffered channel a
receiver waits only while the buffer is empty and a sender only while it is full.

A goroutine that must wait puts itself into the queue while it holds the lock and yields
the lock's release: the machine releases it after the frame has stopped. Nobody can find
the waiter before that (goroutine.py, the ownership rule; Go: chanparkcommit). Whoever takes
a waiter out of the queue owns its wake-up: it leaves the outcome in the goroutine's ``value``
(what was sent, None for a sender; `Closed`) and makes it ready after the lock is released.

`close` sets ``_size`` to -1 and empties both queues, and nobody queues up after that. So who
finds a waiter need not ask whether the channel is closed, and who doesn't learns it together
with the capacity.
"""

from __future__ import annotations

import threading
import types
from _thread import get_ident
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .errors import ChanClosed
from .runtime.dump import waits_for
from .runtime.goroutine import Commit, Goroutine
from .runtime.park import ready
from .runtime.shared import machines, not_here
from .runtime.thread import ThreadWaiter, deadline_of
from .runtime.wait import Closed, Waiter, WaitQueue, cancelable, check, check_ctx, hand

if TYPE_CHECKING:
    from .context import Context

__all__ = ["Chan", "chan"]

T = TypeVar("T")


class Chan[T]:
    """A channel, made by `chan`. Values pass in the order they were sent, each to one receiver.

    Any number of goroutines and threads may use it at the same time. ``async for v in ch``
    receives until it is closed and drained. A channel is always true, also an empty one.
    Go: chan T.

    >>> async def main():
    ...     ch = goroutine.chan(3)
    ...     for n in range(3):
    ...         await ch.send(n)
    ...     ch.close()
    ...     return [n async for n in ch]
    >>> goroutine.start(main)
    [0, 1, 2]
    """

    __slots__ = (
        "_acquire",
        "_buffer",
        "_capacity",
        "_lock",
        "_recvq",
        "_release",
        "_sendq",
        "_size",
    )

    def __init__(self, capacity: int = 0) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int):
            raise TypeError(f"a channel's capacity is an int, not {type(capacity).__name__}")
        if capacity < 0:
            raise ValueError("makechan: size out of range")
        self._capacity = capacity
        self._size = capacity  # -1 once it is closed
        self._buffer: deque[T] = deque()
        # Waiting goroutines or Waiters: receivers; senders, each with its value in ``value``.
        self._recvq = WaitQueue()
        self._sendq = WaitQueue()
        self._lock = threading.Lock()
        self._acquire = self._lock.acquire
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._release: Callable[..., object] = self._lock.__exit__

    timed = False  # whether it is a timer's: for that, and its hooks, see time/channel.py

    @property
    def capacity(self) -> int:
        """How many values it buffers. Go: cap(ch)."""
        return self._capacity

    @property
    def closed(self) -> bool:
        """Whether it has been closed (values may still be buffered)."""
        return self._size < 0

    def __len__(self) -> int:
        """How many values are buffered now. Go: len(ch)."""
        return len(self._buffer)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        state = " closed" if self._size < 0 else ""
        return f"<Chan {len(self._buffer)}/{self._capacity}{state} at {id(self):#x}>"

    @types.coroutine
    def send(self, value: T, *, ctx: Context | None = None) -> Generator[Commit]:
        """Send a value; waits until a receiver takes it or the buffer has room.

        ChanClosed("send on closed channel") if it is or meanwhile gets closed; the value
        is then not delivered. `Canceled` if ``ctx`` is or meanwhile gets cancelled. Cancel
        safety: a cancelled send has not sent. Go: ch <- v.

        >>> async def main():
        ...     ch = goroutine.chan(1)
        ...     await ch.send("hello")
        ...     return len(ch)
        >>> goroutine.start(main)
        1
        """
        if ctx is not None:
            check_ctx(ctx)
        self._acquire()
        g: Any
        recvq = self._recvq
        while recvq:
            g = recvq.popleft()
            if g.plain:
                self._release()
                g.value = value
                try:
                    m = machines[get_ident()]
                except KeyError:
                    ready(g)
                else:
                    m.ready(g)
                return
            if g.claim():
                self._release()
                g.give(value)
                return
        if size := self._size:
            buffer = self._buffer
            if len(buffer) < size:
                buffer.append(value)
                self._release()
                return
            if size < 0:
                self._release()
                raise ChanClosed("send on closed channel")
        try:
            g = machines[get_ident()].g
            scope = g.scope
        except (KeyError, AttributeError):
            raise self._nowhere() from None
        if ctx is not None or scope is not None:
            yield from self._wait(self._sendq, g, value, ctx)
        else:
            g.value = value
            self._sendq.append(g)
            try:
                yield self._release
            except GeneratorExit:
                self._forget()
                raise
        if g.value is Closed:
            g.value = None
            raise ChanClosed("send on closed channel")

    @types.coroutine
    def recv(
        self, *, ctx: Context | None = None, _end: type[Exception] | None = None
    ) -> Generator[Commit, None, T]:
        """Receive a value; waits for one.

        `ChanClosed` once the channel is closed and drained; `Canceled` if ``ctx`` is or
        meanwhile gets cancelled. Cancel safety: a cancelled receive has taken no value.
        Go: v := <-ch (which gives a zero value from a closed channel).

        >>> async def main():
        ...     ch = goroutine.chan()
        ...     goroutine.go(ch.send("hello"))
        ...     return await ch.recv()
        >>> goroutine.start(main)
        'hello'
        """
        if ctx is not None:
            check_ctx(ctx)
        self._acquire()
        g: Any
        value: Any
        sendq = self._sendq
        while sendq:
            g = sendq.popleft()
            if g.plain or g.claim():
                value = g.value
                if self._size:  # the buffer is full: its head is next, then this one's turn
                    buffer = self._buffer
                    buffer.append(value)
                    value = buffer.popleft()
                self._release()
                if g.plain:
                    g.value = None
                    try:
                        m = machines[get_ident()]
                    except KeyError:
                        ready(g)
                    else:
                        m.ready(g)
                else:
                    g.give(None)
                return value  # type: ignore[no-any-return]
        if size := self._size:
            if buffer := self._buffer:
                value = buffer.popleft()
                self._release()
                return value  # type: ignore[no-any-return]
            if size < 0:
                self._release()
                raise ChanClosed("receive from closed channel") if _end is None else _end
        try:
            g = machines[get_ident()].g
            scope = g.scope
        except (KeyError, AttributeError):
            raise self._nowhere() from None
        if ctx is not None or scope is not None:
            yield from self._wait(self._recvq, g, None, ctx)
        else:
            self._recvq.append(g)
            try:
                yield self._release
            except GeneratorExit:
                self._forget()
                raise
        value = g.value
        g.value = None
        if value is Closed:
            raise ChanClosed("receive from closed channel") if _end is None else _end
        return value  # type: ignore[no-any-return]

    @types.coroutine
    def recv_ok(
        self, *, ctx: Context | None = None
    ) -> Generator[Commit, None, tuple[T | None, bool]]:
        """Receive ``(value, True)``, or ``(None, False)`` once closed and drained.

        Errors and cancel safety: as `recv`. Go: v, ok := <-ch.

        >>> async def main():
        ...     ch = goroutine.chan()
        ...     ch.close()
        ...     return await ch.recv_ok()
        >>> goroutine.start(main)
        (None, False)
        """
        try:
            return (yield from self.recv(ctx=ctx, _end=_Drained)), True
        except _Drained:
            return None, False

    # -- hooks of a timer's channel, for select ---------------------------------------------

    def _is_due(self) -> bool:
        return False

    def _due(self) -> None:
        pass

    def _blocked(self) -> None:
        pass

    def _unblocked(self) -> None:
        pass

    # -- waiting --------------------------------------------------------------------------

    def _current(self) -> Any:
        """The running goroutine. The caller holds the lock, which is released on an error."""
        try:
            g = machines[get_ident()].g
        except KeyError:
            g = None
        if g is None:
            raise self._nowhere()
        return g

    def _nowhere(self) -> RuntimeError:
        """What is said to who would have to wait where no goroutine runs. Releases the lock."""
        self._release()
        if get_ident() in machines:
            return RuntimeError("in a goroutine that is being closed: nobody can wait here")
        return RuntimeError(not_here())

    def _wait(
        self, queue: WaitQueue, g: Goroutine[Any], value: Any, ctx: Context | None
    ) -> Generator[Commit]:
        """Wait under ctx or the goroutine's group. With the lock held, which is released."""
        try:
            check(g, ctx)
        except BaseException:
            self._release()
            raise
        waiter = Waiter(g, value)
        queue.append(waiter)
        try:
            yield from cancelable(waiter, self._release, g, ctx)
        except BaseException:
            with self._lock:
                queue.leave(waiter)
            raise

    def _forget(self) -> None:
        """The run has ended and its goroutines are being closed, all that wait here too. The
        channel may live on in a next run, which must not find them. (Foreign threads stay.)"""
        with self._lock:
            for queue in (self._recvq, self._sendq):
                others = [waiter for waiter in queue if not waiter.plain]
                queue.clear()
                queue.extend(others)

    def _send_now(self, value: T) -> bool:
        """Send, with the lock held, if that can be done at once: the lock is released then."""
        receiver = self._recvq.take()
        if receiver is None:
            if len(self._buffer) >= self._size:
                return False
            self._buffer.append(value)
            self._release()
        else:
            self._release()
            hand(receiver, value)
        return True

    def _recv_now(self) -> tuple[Any, bool]:
        """Receive, with the lock held, if that can be done at once, and whether it could: the
        lock is released then. The value is `Closed` at the end of the channel."""
        buffer = self._buffer
        sender = self._sendq.take()
        if sender is not None:
            buffer.append(sender.value)  # the longest waiting sender's goes to the tail
        if buffer:
            value: Any = buffer.popleft()
        elif self._size < 0:
            value = Closed
        else:
            return None, False
        self._release()
        if sender is not None:
            hand(sender, None)
        return value, True

    # -- from threads that are no machines ------------------------------------------------

    def send_blocking(self, value: T, timeout: float | None = None) -> None:
        """`send` from a thread that runs no goroutines; blocks it.

        ``TimeoutError`` after ``timeout`` seconds, and nothing has been sent then;
        ``RuntimeError`` in a goroutine, which would block its machine.

        >>> ch = goroutine.chan(1)
        >>> ch.send_blocking("hello")
        >>> ch.recv_blocking()
        'hello'
        """
        until = deadline_of(timeout)
        self._acquire()
        if self._send_now(value):
            return
        if self._size < 0:
            self._release()
        elif ThreadWaiter(value).wait(self, self._sendq, until):
            return
        raise ChanClosed("send on closed channel")

    def _offer(self, value: T) -> bool:
        """Send if that can be done at once; whether it was. From any thread.

        For who must neither wait nor fail, as the thread that hands on signals: a closed
        channel takes nothing. (A goroutine has `select` with a default for it.)
        """
        self._acquire()
        if self._send_now(value):
            return True
        self._release()
        return False

    def recv_blocking(self, timeout: float | None = None) -> T:
        """`recv` from a thread that runs no goroutines; blocks it.

        ``TimeoutError`` after ``timeout`` seconds, and nothing has been taken then;
        ``RuntimeError`` in a goroutine; `ChanClosed` as in `recv`.

        >>> goroutine.chan().recv_blocking(timeout=0.01)
        Traceback (most recent call last):
        TimeoutError: timed out
        """
        until = deadline_of(timeout)
        self._acquire()
        value, done = self._recv_now()
        if not done:
            waiter = ThreadWaiter()
            waiter.wait(self, self._recvq, until)
            value = waiter.value
        if value is Closed:
            raise ChanClosed("receive from closed channel")
        return value  # type: ignore[no-any-return]

    def close(self) -> None:
        """No more will be sent: receivers drain the buffer, then see the end.

        Wakes everybody who waits: receivers first, in FIFO order, then senders, whose send
        fails. ChanClosed("close of closed channel") the second time. From any thread.
        Go: close(ch).

        >>> ch = goroutine.chan()
        >>> ch.close()
        >>> ch.closed
        True
        """
        with self._lock:
            if self._size < 0:
                raise ChanClosed("close of closed channel")
            self._size = -1
            receivers, senders = list(self._recvq), list(self._sendq)
            self._recvq.clear()
            self._sendq.clear()
        # (A plain goroutine is ours since it is out of the queue; a Waiter must be claimed.)
        for g in receivers + senders:
            if g.plain or g.claim():
                hand(g, Closed)

    def __aiter__(self) -> Self:
        """``async for v in ch``: until it is closed and drained. Go: for v := range ch."""
        return self

    def __anext__(self) -> Awaitable[T]:
        return self.recv(_end=StopAsyncIteration)


class _Drained(Exception):
    """What ``recv_ok`` has ``recv`` raise at the end of a closed channel."""


def chan(capacity: int = 0) -> Chan[Any]:
    """Make a channel that buffers ``capacity`` values; 0 makes sender and receiver meet.

    ``ValueError`` if negative, ``TypeError`` if no int. Annotate for a type:
    ``jobs: Chan[int] = chan(8)``. May be made anywhere, also outside a run.
    Go: make(chan T, capacity).

    >>> ch = goroutine.chan(8)
    >>> ch.capacity, len(ch), ch.closed
    (8, 0, False)
    """
    return Chan(capacity)


waits_for("chan send", Chan.send)
waits_for("chan receive", Chan.recv, Chan.recv_ok)
