"""select: wait for several channels at once; exactly one case commits. Go: select.go.

Looking and waiting must each be like one instant, so both are done with the locks of all
channels held (taken in the order of the channels' ids: no two selects wait for each other).
One case alone commits under its own lock, which is tried first where a look without locks
makes it likely; that is as good, since a case that is ready may be chosen whatever the
others are.

Who must wait leaves one Entry per case in its channel's queue, all with one token (as a
Waiter has, runtime/wait.py). It alone decides: a peer that pops it has chosen the case, says
so in the goroutine, which is the peer's then, and hands over; the others' entries are dead
from then on, are skipped by every peer, and are removed by the goroutine itself when it runs
again.
"""

from __future__ import annotations

import types
from _thread import get_ident
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from .channel import Chan
from .errors import ChanClosed
from .runtime.dump import waits_for
from .runtime.goroutine import Goroutine
from .runtime.park import ready
from .runtime.shared import machines
from .runtime.wait import Closed, Waiter, WaitQueue, cancelable, check

__all__ = ["Case", "Selected", "recv", "select", "send"]


# A case is made anew for most selects: a plain tuple costs a fifth of an object of a class.
type Case[T] = tuple[Chan[T] | None, bool, Any]
"""One case of a `select`, made by `recv` or `send`; may be used in any number of selects."""


class Selected(NamedTuple):
    """What a `select` chose; a tuple, for ``match``.

    >>> async def main():
    ...     words, done = goroutine.chan(1), goroutine.chan()
    ...     await words.send("hello")
    ...     match await goroutine.select(goroutine.recv(words), goroutine.recv(done)):
    ...         case 0, word, True:
    ...             return word
    ...         case 1, _, _:
    ...             return "done"
    >>> goroutine.start(main)
    'hello'
    """

    index: int  # type: ignore[assignment]  # (hides tuple.index)
    """The position of the case among the arguments; -1 for the default."""
    value: Any
    """What was received; None for a send, the default, or from a closed channel."""
    ok: bool
    """False if a receive found its channel closed and drained; True for a send."""


def recv[T](channel: Chan[T] | None) -> Case[T]:
    """The case of receiving from ``channel``; never ready if that is None (Go's nil channel).

    >>> async def main():
    ...     ch = goroutine.chan(1)
    ...     await ch.send("hello")
    ...     return await goroutine.select(goroutine.recv(ch), goroutine.recv(None))
    >>> goroutine.start(main)
    Selected(index=0, value='hello', ok=True)
    """
    return channel, False, None


def send[T](channel: Chan[T] | None, value: T) -> Case[T]:
    """The case of sending ``value`` to ``channel``; never ready if that is None.

    >>> async def main():
    ...     ch = goroutine.chan(1)
    ...     chosen = await goroutine.select(goroutine.send(ch, "hello"))
    ...     return chosen, len(ch)
    >>> goroutine.start(main)
    (Selected(index=0, value=None, ok=True), 1)
    """
    return channel, True, value


class _Entry:
    """A case in its channel's queue. To wakers a `Waiter` like any other."""

    __slots__ = ("g", "index", "token", "value")

    plain = False

    g: Goroutine[Any]
    token: list[bool]
    index: int
    value: Any  # what it sends; not set if it receives

    def claim(self) -> bool:
        try:
            self.token.pop()
        except IndexError:
            return False
        self.g.chosen = self.index
        return True

    def wake(self) -> None:
        ready(self.g)

    def give(self, value: Any) -> None:
        g = self.g
        g.value = value
        try:
            m = machines[get_ident()]
        except KeyError:
            ready(g)
        else:
            m.ready(g)


@types.coroutine
def select(*cases: Case[Any] | None, default: bool = False) -> Generator[Any, None, Selected]:
    """Wait until one of the cases can proceed, and do that one; at random if several can.

    ``await select(recv(a), send(b, v))`` gives ``Selected(index, value, ok)``. With
    ``default=True`` it doesn't wait: ``index`` is -1 when nothing is ready. ``None`` as a
    case, or as a case's channel, is never ready; without any other case it waits for ever.

    `ChanClosed` if the chosen case sends on a channel that is, or meanwhile gets, closed.
    Cancel safety: a cancelled select has neither sent nor received. Go: select.

    >>> async def main():
    ...     a, b = goroutine.chan(), goroutine.chan()
    ...     return await goroutine.select(goroutine.recv(a), goroutine.recv(b), default=True)
    >>> goroutine.start(main)
    Selected(index=-1, value=None, ok=False)
    """
    g: Any
    try:
        m = machines[get_ident()]
        g = m.g
        scope = g.scope
    except (KeyError, AttributeError):
        raise RuntimeError(
            "not in a goroutine, or in one that is being closed: nobody can wait here"
        ) from None
    live: list[_Live] = []
    likely: list[_Live] = []
    hopeful: Any
    for index, case in enumerate(cases):
        if case is not None:
            try:
                channel, sending, value = case
            except (TypeError, ValueError):
                raise _not_a_case(case) from None
            if channel is not None:
                try:
                    if sending:
                        if channel.timed:
                            raise RuntimeError("the channel of a timer is only for receiving")
                        hopeful = (
                            channel._recvq
                            or (size := channel._size) < 0
                            or len(channel._buffer) < size
                        )
                    else:
                        hopeful = (
                            channel._buffer
                            or channel._sendq
                            or channel._size < 0
                            or (channel.timed and channel._is_due())
                        )
                except AttributeError:
                    raise _not_a_case(case) from None
                one = index, channel, sending, value
                live.append(one)
                if hopeful:
                    likely.append(one)
    # One that looks ready, by itself: right even if the others' looks were of other times.
    if likely:
        one = likely[int(m.random() * len(likely))] if len(likely) > 1 else likely[0]
        channel = one[1]
        channel._acquire()
        selected = _commit(one, m, channel._release)
        if selected is not None:
            return selected
        channel._release()
    if default and len(live) < 2:
        # It was not ready at some instant of the look. Receiving: when the buffer, or without
        # one the queue, was seen empty; it was not closed then, since it was not later. Sending,
        # without a buffer: likewise. With one: when that was seen full; or, if it had been closed
        # by then, just before that, since it was open when ``size`` was read.
        return tuple.__new__(Selected, (-1, None, False))
    # All of them, at one instant.
    unlock = _lock_all(live)
    able: list[_Live] = []
    for one in live:
        _, channel, sending, _ = one
        if sending:
            if channel._recvq or len(channel._buffer) < channel._size or channel._size < 0:
                able.append(one)
        elif channel._buffer or channel._sendq or channel._size < 0 or channel.timed:
            able.append(one)
    if able:
        selected = _any_ready(able, m, unlock)
        if selected is not None:
            return selected
    if default:
        unlock()
        return tuple.__new__(Selected, (-1, None, False))
    if scope is not None:
        try:
            check(g)
        except BaseException:
            unlock()
            raise
    if not live:
        yield from _no_cases(g)
    # None is ready: leave an entry with each. (The frame stops before the locks are freed.)
    if scope is None:
        waiter = None
        token = [True]
    else:
        waiter = Waiter(g)
        token = waiter.token
    entries: list[tuple[Chan[Any], WaitQueue, _Entry]] = []
    for index, channel, sending, value in live:
        entry = _Entry()
        entry.g = g
        entry.token = token
        entry.index = index
        if sending:
            entry.value = value
            queue = channel._sendq
        else:
            queue = channel._recvq
        queue.append(entry)
        entries.append((channel, queue, entry))
        if channel.timed:
            channel._blocked()
    try:
        if waiter is None:
            yield unlock
        else:
            yield from cancelable(waiter, unlock, g)
    except BaseException:
        _leave(entries, -1)
        raise
    index = g.chosen
    value = g.value
    g.value = None
    if len(entries) > 1 or entries[0][0].timed:
        _leave(entries, index)
    if value is Closed:
        case = cases[index]
        assert case is not None
        if case[1]:
            raise ChanClosed("send on closed channel")
        return tuple.__new__(Selected, (index, None, False))
    return tuple.__new__(Selected, (index, value, True))  # (its own __new__ takes twice as long)


def _not_a_case(case: Any) -> TypeError:
    if isinstance(case, tuple) and len(case) == 3:
        return TypeError(f"a case needs a Chan or None, not {case[0]!r}")
    return TypeError(f"a case of select is recv(ch), send(ch, v) or None, not {case!r}")


def _no_cases(g: Goroutine[Any]) -> Generator[Any]:
    """Wait for nothing: only a cancellation or the end of the run ends this."""
    waiter = Waiter(g)
    yield from cancelable(waiter, _unlock_none, g)


def _unlock_none(_: Goroutine[Any]) -> None:
    pass


type _Live = tuple[int, Chan[Any], bool, Any]  # index, channel, sending, value


def _commit(one: _Live, m: Any, unlock: Callable[[], object]) -> Selected | None:
    """Do this case, and unlock, if it can proceed: else None. The lock of its channel is held."""
    index, channel, sending, value = one
    if sending:
        peer = channel._recvq.take()
        if peer is None:
            if len(channel._buffer) < channel._size:
                channel._buffer.append(value)
            elif channel._size < 0:
                unlock()
                raise ChanClosed("send on closed channel")
            else:
                return None
        outcome, value = value, None
        ok = True
    else:
        if channel.timed:
            channel._due()
        buffer = channel._buffer
        peer = channel._sendq.take()
        if peer is not None:
            buffer.append(peer.value)
        ok = True
        if buffer:
            value = buffer.popleft()
        elif channel._size < 0:
            ok = False
        else:
            return None
        outcome = None
    unlock()
    if peer is not None:
        if peer.plain:
            peer.value = outcome
            m.ready(peer)
        else:
            peer.give(outcome)
    return tuple.__new__(Selected, (index, value, ok))


def _any_ready(able: list[_Live], m: Any, unlock: Callable[[], object]) -> Selected | None:
    """Do one of the cases that seem able to proceed, each with the same chance, and unlock.

    All locks are held. One may not be able after all: those in its queue have gone elsewhere.
    """
    while able:
        at = int(m.random() * len(able)) if len(able) > 1 else 0
        selected = _commit(able[at], m, unlock)
        if selected is not None:
            return selected
        able[at] = able[-1]
        able.pop()
    return None


def _lock_all(live: list[_Live]) -> Callable[..., object]:
    """Lock the channels, each once, in the order of their ids; gives what releases them.

    An id is unique among objects that live, and all that are locked do: every select keeps
    its channels alive.
    """
    if len(live) == 2:
        a, b = live[0][1], live[1][1]
        if a is b:
            a._acquire()
            return a._release
        if id(a) > id(b):
            a, b = b, a
        a._acquire()
        b._acquire()

        def unlock(_: object = None, one: Any = a._release, other: Any = b._release) -> None:
            one()
            other()

        return unlock
    channels = {id(channel): channel for _, channel, _, _ in live}
    releases = []
    for _, channel in sorted(channels.items()):
        channel._acquire()
        releases.append(channel._release)

    def unlock_all(_: object = None) -> None:
        for release in releases:
            release()

    return unlock_all


def _leave(entries: list[tuple[Chan[Any], WaitQueue, _Entry]], but: int) -> None:
    """Remove what a select has left in its channels' queues, the one claimed excepted."""
    for channel, queue, entry in entries:
        claimed = entry.index == but
        if claimed and not channel.timed:
            continue
        channel._acquire()
        if not claimed:
            if len(queue) == 1 and queue[0] is entry:
                queue.clear()  # the usual case
            else:
                queue.leave(entry)
        if channel.timed:
            channel._unblocked()
        channel._lock.release()


waits_for("select", select)
waits_for("select (no cases)", _no_cases)
