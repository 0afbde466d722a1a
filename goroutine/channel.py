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
from .runtime.wait import Waiter, WaitQueue, cancelable, check, check_ctx, hand

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

    __slots__ = ("_acquire", "_buffer", "_closed", "_lock", "_recvq", "_release", "_sendq", "_size")

    def __init__(self, capacity: int = 0) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int):
            raise TypeError(f"a channel's capacity is an int, not {type(capacity).__name__}")
        if capacity < 0:
            raise ValueError("makechan: size out of range")
        self._size = capacity
        self._buffer: deque[T] = deque()
        # Waiting goroutines or Waiters: receivers; senders, each with its value in ``value``.
        self._recvq = WaitQueue()
        self._sendq = WaitQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._acquire = self._lock.acquire
        # __exit__ is release() with arguments it ignores: the goroutine, when it is a commit.
        self._release: Callable[..., object] = self._lock.__exit__

    timed = False  # whether it is a timer's: for that, and its hooks, see time/channel.py

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
        if self._closed:
            self._release()
            raise ChanClosed("send on closed channel")
        while self._recvq:
            g = self._recvq.popleft()
            if g.plain:
                self._release()
                g.value = value
                g.ok = True
                m = machines.get(get_ident())
                if m is not None:
                    m.ready(g)
                else:
                    ready(g)
                return
            if g.claim():
                self._release()
                g.give(value, True)
                return
        if len(self._buffer) < self._size:
            self._buffer.append(value)
            self._release()
            return
        m = machines.get(get_ident())
        if m is None or (g := m.g) is None:
            raise self._nowhere()
        if ctx is not None or g.scope is not None:
            yield from self._wait(self._sendq, g, value, ctx)
        else:
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
        value: Any
        # What _take does, in place for the usual cases: a call and a result cost a tenth.
        if self._buffer:
            if not self._sendq:
                value = self._buffer.popleft()
                self._release()
                return value  # type: ignore[no-any-return]
        elif self._sendq and (g := self._sendq[0]).plain:
            del self._sendq[0]
            self._release()
            value = g.value
            g.ok = True
            m = machines.get(get_ident())
            if m is not None:
                m.ready(g)
            else:
                ready(g)
            return value  # type: ignore[no-any-return]
        ok, waiting = False, True
        if self._buffer or self._sendq or self._closed:
            value, ok, waiting = self._take()
        if waiting:
            m = machines.get(get_ident())
            if m is None or (g := m.g) is None:
                raise self._nowhere()
            if ctx is not None or g.scope is not None:
                yield from self._wait(self._recvq, g, None, ctx)
            else:
                self._recvq.append(g)
                try:
                    yield self._release
                except GeneratorExit:
                    self._forget()
                    raise
            value, ok = g.value, g.ok
            g.value = None
        if not ok:
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
        m = machines.get(get_ident())
        if m is None or m.g is None:
            raise self._nowhere()
        return m.g

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

    def _take(self) -> tuple[Any, bool, bool]:
        """Try to receive: ``(value, ok, False)``, with the lock released by then.

        ``(None, False, True)``, with the lock held, if nothing is there to be had after all:
        all senders in the queue have gone elsewhere. The caller holds the lock.
        """
        buffer, sendq = self._buffer, self._sendq
        value: Any
        g: Any
        if buffer:
            value = buffer.popleft()
            while sendq:
                g = sendq.popleft()
                if g.plain or g.claim():
                    buffer.append(g.value)  # the longest waiting sender's goes to the tail
                    break
            else:
                self._release()
                return value, True, False
        else:
            while sendq:
                g = sendq.popleft()
                if g.plain or g.claim():
                    value = g.value
                    break
            else:
                if not self._closed:
                    return None, False, True
                self._release()
                return None, False, False
        self._release()
        if g.plain:
            g.ok = True
            m = machines.get(get_ident())
            if m is not None:
                m.ready(g)
            else:
                ready(g)
        else:
            g.give(None, True)
        return value, True, False

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
        if self._closed:
            self._lock.release()
            raise ChanClosed("send on closed channel")
        receiver = self._recvq.take()
        if receiver is None and len(self._buffer) >= self._size:
            if not ThreadWaiter(value).wait(self, self._sendq, until):
                raise ChanClosed("send on closed channel")
            return
        if receiver is None:
            self._buffer.append(value)
        self._lock.release()
        if receiver is not None:
            hand(receiver, value, True)

    def _offer(self, value: T) -> bool:
        """Send if that can be done at once; whether it was. From any thread.

        For who must neither wait nor fail, as the thread that hands on signals: a closed
        channel takes nothing. (A goroutine has `select` with a default for it.)
        """
        self._acquire()
        receiver = None
        if not self._closed:
            receiver = self._recvq.take()
            if receiver is None and len(self._buffer) < self._size:
                self._buffer.append(value)
                self._lock.release()
                return True
        self._lock.release()
        if receiver is None:
            return False
        hand(receiver, value, True)
        return True

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
        value, ok, waiting = self._take()
        if waiting:
            waiter = ThreadWaiter()
            ok = waiter.wait(self, self._recvq, until)
            value = waiter.value
        if not ok:
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
            if self._closed:
                raise ChanClosed("close of closed channel")
            self._closed = True
            receivers, senders = list(self._recvq), list(self._sendq)
            self._recvq.clear()
            self._sendq.clear()
        # (A plain goroutine is ours since it is out of the queue; a Waiter must be claimed.)
        for g in receivers + senders:
            if g.plain or g.claim():
                hand(g, None, False)

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
