"""Channels: Go's, with one lock per channel and FIFO wait queues.

Invariant, under the lock: ``_recvq`` or ``_sendq`` is empty; in a buffered channel a
receiver waits only while the buffer is empty and a sender only while it is full.

A goroutine that must wait puts itself into the queue while it holds the lock and yields
the lock's release: the machine releases it after the frame has stopped. Nobody can find
the waiter before that (goroutine.py, the ownership rule; Go: chanparkcommit). Whoever takes
a waiter out of the queue owns its wake-up: it leaves the outcome in the waiter's ``value``
and ``ok`` and makes it ready after the lock is released.
"""

from __future__ import annotations

import threading
import types
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import Any, TypeVar, cast

from .errors import ChanClosed
from .runtime.goroutine import Commit, Goroutine
from .runtime.park import ready
from .runtime.shared import current

__all__ = ["Chan", "chan"]

T = TypeVar("T")

_NOWHERE = "not in a goroutine, or in one that is being closed: nobody can wait here"


class Chan[T]:
    """A channel, made by `chan`. Values pass in the order they were sent, each to one receiver."""

    __slots__ = ("_acquire", "_buffer", "_closed", "_lock", "_recvq", "_release", "_sendq", "_size")

    def __init__(self, capacity: int = 0) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int):
            raise TypeError(f"a channel's capacity is an int, not {type(capacity).__name__}")
        if capacity < 0:
            raise ValueError("makechan: size out of range")
        self._size = capacity
        self._buffer: deque[T] = deque()
        # Waiting goroutines: receivers; senders, each with the value it holds in g.value.
        self._recvq: deque[Goroutine[Any]] = deque()
        self._sendq: deque[Goroutine[Any]] = deque()
        self._closed = False
        self._lock = threading.Lock()
        self._acquire = self._lock.acquire
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._release: Commit = cast(Commit, self._lock.__exit__)

    @property
    def capacity(self) -> int:
        """How many values it buffers. Go: cap(ch)."""
        return self._size

    @property
    def closed(self) -> bool:
        """Whether it has been closed (values may still be buffered)."""
        return self._closed

    def __len__(self) -> int:
        """How many values are buffered now. Go: len(ch)."""
        return len(self._buffer)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<Chan {len(self._buffer)}/{self._size}{state} at {id(self):#x}>"

    @types.coroutine
    def send(self, value: T) -> Generator[Commit]:
        """Send a value; waits until a receiver takes it or the buffer has room.

        ChanClosed("send on closed channel") if it is or meanwhile gets closed; the value
        is then not delivered. Cancel safety: a cancelled send has not sent. Go: ch <- v.
        """
        self._acquire()
        if self._closed:
            self._lock.release()
            raise ChanClosed("send on closed channel")
        if self._recvq:
            g = self._recvq.popleft()
            self._lock.release()
            g.value = value
            g.ok = True
            ready(g)
            return
        if len(self._buffer) < self._size:
            self._buffer.append(value)
            self._lock.release()
            return
        try:
            g = current().g  # type: ignore[assignment]
            if g is None:
                raise RuntimeError(_NOWHERE)
        except BaseException:
            self._lock.release()
            raise
        g.value = value
        self._sendq.append(g)
        try:
            yield self._release
        except GeneratorExit:
            self._forget()
            raise
        g.value = None
        if not g.ok:
            raise ChanClosed("send on closed channel")

    @types.coroutine
    def recv(self) -> Generator[Commit, None, T]:
        """Receive a value; waits for one.

        ChanClosed once the channel is closed and drained. Cancel safety: a cancelled
        receive has taken no value. Go: v := <-ch (which gives a zero value then).
        """
        self._acquire()
        if self._buffer or self._sendq or self._closed:
            value, ok = self._take()
        else:
            g = self._queue_receiver()
            try:
                yield self._release
            except GeneratorExit:
                self._forget()
                raise
            value, ok = g.value, g.ok
            g.value = None
        if not ok:
            raise ChanClosed("receive from closed channel")
        return value  # type: ignore[no-any-return]

    @types.coroutine
    def recv_ok(self) -> Generator[Commit, None, tuple[T | None, bool]]:
        """Receive ``(value, True)``, or ``(None, False)`` once closed and drained.

        Cancel safety: as `recv`. Go: v, ok := <-ch.
        """
        self._acquire()
        if self._buffer or self._sendq or self._closed:
            return self._take()
        g = self._queue_receiver()
        try:
            yield self._release
        except GeneratorExit:
            self._forget()
            raise
        value, ok = g.value, g.ok
        g.value = None
        return value, ok

    def _queue_receiver(self) -> Goroutine[Any]:
        """Queue the running goroutine, with the lock held. It then yields ``_release``."""
        try:
            g = current().g
            if g is None:
                raise RuntimeError(_NOWHERE)
        except BaseException:
            self._lock.release()
            raise
        self._recvq.append(g)
        return g

    def _forget(self) -> None:
        """The run has ended and its goroutines are being closed, all that wait here too. The
        channel may live on in a next run, which must not find them."""
        with self._lock:
            self._recvq.clear()
            self._sendq.clear()

    def _take(self) -> tuple[Any, bool]:
        """Receive without waiting: the caller holds the lock and saw that it is possible.

        Releases the lock.
        """
        buffer, sendq = self._buffer, self._sendq
        if buffer:
            value = buffer.popleft()
            if not sendq:
                self._lock.release()
                return value, True
            g = sendq.popleft()
            buffer.append(g.value)  # the longest waiting sender's value goes to the tail
        elif sendq:
            g = sendq.popleft()
            value = g.value
        else:
            self._lock.release()
            return None, False
        self._lock.release()
        g.ok = True
        ready(g)
        return value, True

    def close(self) -> None:
        """No more will be sent: receivers drain the buffer, then see the end.

        Wakes everybody who waits: receivers first, in FIFO order, then senders, whose send
        fails. ChanClosed("close of closed channel") the second time. Go: close(ch).
        """
        with self._lock:
            if self._closed:
                raise ChanClosed("close of closed channel")
            self._closed = True
            receivers, senders = list(self._recvq), list(self._sendq)
            self._recvq.clear()
            self._sendq.clear()
        for g in receivers:
            g.value = None
            g.ok = False
            ready(g)
        for g in senders:
            g.ok = False
            ready(g)

    def __aiter__(self) -> AsyncIterator[T]:
        return _Range(self)


class _Range[T]:
    """``async for v in ch``: until the channel is closed and drained. Go: for v := range ch."""

    __slots__ = ("_chan",)

    def __init__(self, channel: Chan[T]) -> None:
        self._chan = channel

    def __aiter__(self) -> _Range[T]:
        return self

    async def __anext__(self) -> T:
        value, ok = await self._chan.recv_ok()
        if not ok:
            raise StopAsyncIteration
        return value  # type: ignore[return-value]


def chan(capacity: int = 0) -> Chan[Any]:
    """Make a channel that buffers ``capacity`` values; 0 makes sender and receiver meet.

    ``ValueError`` if negative. Annotate for a type: ``jobs: Chan[int] = chan(8)``.
    Go: make(chan T, capacity).
    """
    return Chan(capacity)
