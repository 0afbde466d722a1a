"""select: wait for several channels at once; exactly one case commits. Go: select.go.

Looking and waiting must each be like one instant, so both are done with the locks of all
channels held (taken in the order of the channels' ids: no two selects wait for each other).
One case alone commits under its own lock, which is tried first where a look without locks
makes it likely; that is as good, since a case that is ready may be chosen whatever the
others are.

Who must wait leaves one Entry per case in its channel's queue, all with the one token of
their Waiter (runtime/wait.py). It alone decides: a peer that pops it has chosen the case,
and hands over; the others' entries are dead from then on, are skipped by every peer, and
are removed by the goroutine itself when it runs again.
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
from .runtime.wait import Closed, Waiter, WaitQueue, cancelable, check, rouse

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


class _Choice:
    """A select that waits and that nothing but its channels can wake: a lean `Waiter`."""

    __slots__ = ("g", "index", "token")

    g: Goroutine[Any]
    index: int
    token: list[bool]


class _Entry:
    """A case in its channel's queue. To wakers a Waiter like any other."""

    __slots__ = ("index", "select", "value")

    plain = False

    select: _Choice | Waiter
    index: int
    value: Any

    @property
    def g(self) -> Any:
        return self.select.g

    @property
    def token(self) -> list[bool]:
        return self.select.token

    def claim(self) -> bool:
        select = self.select
        try:
            select.token.pop()
        except IndexError:
            return False
        select.index = self.index
        return True

    def wake(self) -> None:
        ready(self.select.g)

    def give(self, value: Any) -> None:
        g = self.select.g
        g.value = value
        m = machines.get(get_ident())
        if m is not None:
            m.ready(g)
        else:
            ready(g)


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
    m = machines.get(get_ident())
    if m is None or (g := m.g) is None:
        raise RuntimeError(
            "not in a goroutine, or in one that is being closed: nobody can wait here"
        )
    live: list[_Live] = []
    likely: list[int] = []
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
                            or channel._size < 0
                            or len(channel._buffer) < channel._size
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
                if hopeful:
                    likely.append(len(live))
                live.append((index, channel, sending, value))
    # One that looks ready, by itself: right even if the others' looks were of other times.
    if likely:
        at = likely[int(m.random() * len(likely))] if len(likely) > 1 else likely[0]
        index, channel, sending, value = live[at]
        channel._lock.acquire()
        chosen = _commit(index, channel, sending, value)
        channel._lock.release()
        if chosen is not None:
            index, value, ok, peer = chosen
            if peer is not None:
                if peer.plain:
                    m.ready(peer)
                else:
                    peer.wake()
            elif value is _CLOSED_SEND:
                raise ChanClosed("send on closed channel")
            return tuple.__new__(Selected, (index, value, ok))
    # All of them, at one instant.
    releases = _lock_all(live)
    able: list[_Live] = []
    try:
        for one in live:
            _, channel, sending, _ = one
            if sending:
                if channel._recvq or len(channel._buffer) < channel._size or channel._size < 0:
                    able.append(one)
            elif channel._buffer or channel._sendq or channel._size < 0 or channel.timed:
                able.append(one)
        chosen = _any_ready(able, m.random) if able else None
        if chosen is None and not default and g.scope is not None:
            check(g)
    except BaseException:
        _release(releases)
        raise
    if chosen is not None:
        _release(releases)
        return _finish(chosen)
    if default:
        _release(releases)
        return tuple.__new__(Selected, (-1, None, False))
    if not live:
        yield from _no_cases(g)
    # None is ready: leave an entry with each. (The frame stops before the locks are freed.)
    waiter: Waiter | _Choice
    if g.scope is None:
        waiter = _Choice()
        waiter.g = g
        waiter.token = [True]
    else:
        waiter = Waiter(g)
    entries: list[tuple[Chan[Any], WaitQueue, _Entry]] = []
    for index, channel, sending, value in live:
        entry = _Entry()
        entry.select = waiter
        entry.index = index
        entry.value = value
        queue = channel._sendq if sending else channel._recvq
        queue.append(entry)
        entries.append((channel, queue, entry))
        if channel.timed:
            channel._blocked()

    def commit(_: Goroutine[Any]) -> None:
        for release in releases:
            release()

    try:
        if isinstance(waiter, Waiter):
            yield from cancelable(waiter, commit, g)
        else:
            yield commit
    except BaseException:
        _leave(entries, -1)
        raise
    index = waiter.index
    value = g.value
    g.value = None
    ok = value is not Closed
    if len(entries) > 1 or entries[0][0].timed:
        _leave(entries, index)
    case = cases[index]
    assert case is not None
    if not ok:
        if case[1]:
            raise ChanClosed("send on closed channel")
        value = None
    return tuple.__new__(Selected, (index, value, ok))  # (its own __new__ takes twice as long)


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


_CLOSED_SEND = object()

type _Live = tuple[int, Chan[Any], bool, Any]  # index, channel, sending, value
type _Chosen = tuple[int, Any, bool, Any]  # index, value, ok, whom to wake


def _commit(index: int, channel: Chan[Any], sending: bool, value: Any) -> _Chosen | None:
    """Do this case if it can proceed; its channel's lock is held. The peer is woken later."""
    if sending:
        if channel._size < 0:
            return index, _CLOSED_SEND, False, None
        peer = channel._recvq.take()
        if peer is not None:
            # Ours since take(); it runs when _finish wakes it, and finds this.
            g = peer if peer.plain else peer.g
            g.value = value
            return index, None, True, peer
        if len(channel._buffer) < channel._size:
            channel._buffer.append(value)
            return index, None, True, None
        return None
    if channel.timed:
        channel._due()
    buffer = channel._buffer
    if buffer:
        value = buffer.popleft()
        peer = channel._sendq.take()
        if peer is not None:
            buffer.append(peer.value)
    else:
        peer = channel._sendq.take()
        if peer is None:
            return (index, None, False, None) if channel._size < 0 else None
        value = peer.value
    if peer is not None:
        g = peer if peer.plain else peer.g
        g.value = None
    return index, value, True, peer


def _any_ready(able: list[_Live], random: Callable[[], float]) -> _Chosen | None:
    """Do one of the cases that seem able to proceed, each with the same chance.

    All locks are held. One may not be able after all: those in its queue have gone elsewhere.
    """
    while able:
        at = int(random() * len(able)) if len(able) > 1 else 0
        chosen = _commit(*able[at])
        if chosen is not None:
            return chosen
        able[at] = able[-1]
        able.pop()
    return None


def _finish(chosen: _Chosen) -> Selected:
    """The rest of a case that is done, outside the locks."""
    index, value, ok, peer = chosen
    if peer is not None:
        rouse(peer)
    elif value is _CLOSED_SEND:
        raise ChanClosed("send on closed channel")
    return Selected(index, value, ok)


def _lock_all(live: list[_Live]) -> list[Any]:
    """Lock the channels, each once, in the order of their ids; gives what releases them.

    An id is unique among objects that live, and all that are locked do: every select keeps
    its channels alive.
    """
    if len(live) == 2:
        a, b = live[0][1], live[1][1]
        if a is b:
            a._acquire()
            return [a._release]
        if id(a) > id(b):
            a, b = b, a
        a._acquire()
        b._acquire()
        return [a._release, b._release]
    channels = {id(channel): channel for _, channel, _, _ in live}
    releases = []
    for _, channel in sorted(channels.items()):
        channel._acquire()
        releases.append(channel._release)
    return releases


def _release(releases: list[Any]) -> None:
    for release in releases:
        release()


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
