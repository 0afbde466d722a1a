"""Channels as a program sees them: Go's table of operations, queues, wake-ups, networks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from functools import partial
from itertools import islice

import pytest
from waiting import gosched_until as until

from goroutine import (
    Canceled,
    Chan,
    ChanClosed,
    DeadlineExceeded,
    GoroutineError,
    chan,
    context,
    go,
    gosched,
    hold,
    recv,
    select,
    send,
    start,
)
from goroutine.group import Group
from goroutine.runtime.park import park, ready

pytestmark = pytest.mark.timeout(30)


def run(main, *args, machines=1, io="epoll"):
    return start(main, *args, machines=machines, io=io)


async def receivers(ch, n):
    """Wait until n goroutines wait to receive."""
    await until(lambda: len(ch._recvq) == n)


async def senders(ch, n):
    """Wait until n goroutines wait to send."""
    await until(lambda: len(ch._sendq) == n)


async def outcome(operation):
    """What an operation returns, or the text of the ChanClosed it raises."""
    try:
        return await operation
    except ChanClosed as failure:
        return str(failure)


def unlocked(ch):
    return not ch._lock.locked()


SEND_ON_CLOSED = "send on closed channel"
CLOSE_OF_CLOSED = "close of closed channel"
END = "receive from closed channel"


# -- making one --------------------------------------------------------------------------


def test_a_new_channel():
    ch = chan()
    assert (len(ch), ch.capacity, ch.closed, bool(ch)) == (0, 0, False, True)
    ch = chan(7)
    assert (len(ch), ch.capacity, ch.closed, bool(ch)) == (0, 7, False, True)
    assert isinstance(ch, Chan)


def test_a_negative_size_is_go_s_error():
    with pytest.raises(ValueError, match=r"^makechan: size out of range$"):
        chan(-1)


@pytest.mark.parametrize("size", [1.0, "1", None, True, False, [1]])
def test_a_size_is_an_int(size):
    with pytest.raises(TypeError, match=f"is an int, not {type(size).__name__}"):
        chan(size)


def test_a_huge_capacity_costs_nothing_before_it_is_used():
    assert chan(10**18).capacity == 10**18


def test_channels_differ_and_can_be_keys():
    a, b = chan(1), chan(1)
    assert a != b
    assert {a: 1, b: 2}[a] == 1


def test_repr_tells_the_state():
    async def main():
        ch = chan(3)
        await ch.send(1)
        opened = repr(ch)
        ch.close()
        return opened, repr(ch)

    opened, closed = run(main)
    assert opened.startswith("<Chan 1/3 at ")
    assert closed.startswith("<Chan 1/3 closed at ")


def test_the_error_is_one_of_ours():
    assert issubclass(ChanClosed, GoroutineError)


def test_capacity_and_closed_are_read_only():
    ch = chan(1)
    with pytest.raises(AttributeError):
        ch.capacity = 2
    with pytest.raises(AttributeError):
        ch.closed = True


# -- the table: ready --------------------------------------------------------------------


def test_a_buffered_channel_takes_and_gives_without_waiting():
    async def main():
        ch = chan(3)
        lengths = []
        for i in range(3):
            assert await ch.send(i) is None
            lengths.append(len(ch))
        got = [await ch.recv(), await ch.recv_ok(), await ch.recv()]
        return lengths, got, len(ch), ch.capacity

    # On its own: had anything waited, nobody would have woken it.
    assert run(main) == ([1, 2, 3], [0, (1, True), 2], 0, 3)


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_a_waiting_receiver_gets_the_value_itself(capacity):
    async def main():
        ch = chan(capacity)
        g = go(ch.recv)
        await receivers(ch, 1)
        await ch.send("v")
        # Handed over: it is neither in the buffer nor for anybody else to take.
        assert (len(ch), len(ch._recvq)) == (0, 0)
        return await g

    assert run(main) == "v"


def test_a_handed_over_value_cannot_be_taken_by_who_comes_later():
    async def main():
        ch = chan(1)
        first = go(ch.recv)
        await receivers(ch, 1)
        await ch.send("first")
        # The receiver has not run since. A second receive must not see its value.
        second = go(ch.recv)
        await receivers(ch, 1)
        await ch.send("second")
        return await first, await second

    assert run(main) == ("first", "second")


def test_receiving_from_a_waiting_sender_unbuffered():
    async def main():
        ch = chan()
        g = go(ch.send, "v")
        await senders(ch, 1)
        assert len(ch) == 0
        got = await ch.recv_ok()
        await g
        return got, len(ch)

    assert run(main) == (("v", True), 0)


def test_receiving_from_a_full_buffer_moves_the_longest_waiting_sender_in():
    async def main():
        ch = chan(2)
        await ch.send(0)
        await ch.send(1)
        waiting = []
        for i in (2, 3):
            waiting.append(go(ch.send, i))
            await senders(ch, i - 1)
        assert await ch.recv() == 0
        state = len(ch), len(ch._sendq), list(ch._buffer)
        await waiting[0]
        assert not waiting[1].done
        rest = [await ch.recv() for _ in range(3)]
        await waiting[1]
        return state, rest

    assert run(main) == ((2, 1, [1, 2]), [1, 2, 3])


@pytest.mark.parametrize("value", [None, 0, False, "", (), chan])
def test_any_value_can_be_sent(value):
    async def main():
        ch = chan(1)
        await ch.send(value)
        first = await ch.recv_ok()
        g = go(ch.recv_ok)
        await receivers(ch, 1)
        await ch.send(value)
        return first, await g

    assert run(main) == ((value, True), (value, True))


def test_an_exception_object_is_a_value_like_any_other():
    async def main():
        ch = chan()
        failure = ValueError("not raised")
        go(ch.send, failure)
        return await ch.recv() is failure

    assert run(main)


# -- the table: not ready ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["recv", "recv_ok"])
@pytest.mark.parametrize("capacity", [0, 2])
def test_a_receive_waits_for_a_value(method, capacity):
    async def main():
        ch = chan(capacity)
        g = go(getattr(ch, method))
        await receivers(ch, 1)
        for _ in range(20):
            await gosched()
        assert not g.done
        await ch.send(5)
        return await g

    assert run(main) == (5 if method == "recv" else (5, True))


@pytest.mark.parametrize("capacity", [0, 2])
def test_a_send_waits_for_room(capacity):
    async def main():
        ch = chan(capacity)
        for i in range(capacity):
            await ch.send(i)
        g = go(ch.send, capacity)
        await senders(ch, 1)
        for _ in range(20):
            await gosched()
        assert not g.done
        assert len(ch) == capacity  # who waits is not counted
        got = [await ch.recv() for _ in range(capacity + 1)]
        await g
        return got

    assert run(main) == list(range(capacity + 1))


# -- the table: closed -------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 3])
def test_a_closed_channel(capacity):
    async def main():
        ch = chan(capacity)
        assert ch.close() is None
        results = [
            ch.closed,
            await outcome(ch.send(1)),
            await outcome(ch.recv()),
            await ch.recv_ok(),
            await ch.recv_ok(),
        ]
        with pytest.raises(ChanClosed, match=f"^{CLOSE_OF_CLOSED}$"):
            ch.close()
        assert (len(ch), ch.capacity, unlocked(ch)) == (0, capacity, True)
        return results

    assert run(main) == [True, SEND_ON_CLOSED, END, (None, False), (None, False)]


def test_the_buffer_is_drained_after_close():
    async def main():
        ch = chan(4)
        for i in range(3):
            await ch.send(i)
        ch.close()
        assert len(ch) == 3
        assert ch.closed
        # There is room, but closed comes first.
        assert await outcome(ch.send(9)) == SEND_ON_CLOSED
        got = [await ch.recv(), await ch.recv_ok(), await ch.recv()]
        ends = [await ch.recv_ok(), await outcome(ch.recv()), await ch.recv_ok()]
        return got, ends

    assert run(main) == ([0, (1, True), 2], [(None, False), END, (None, False)])


def test_none_sent_and_the_end_are_told_apart():
    async def main():
        ch = chan(1)
        await ch.send(None)
        ch.close()
        return await ch.recv_ok(), await ch.recv_ok()

    assert run(main) == ((None, True), (None, False))


def test_close_needs_no_goroutine():
    ch = chan(1)
    ch.close()
    assert ch.closed
    with pytest.raises(ChanClosed):
        ch.close()


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_wakes_every_receiver_once(machines, capacity):
    async def main():
        ch = chan(capacity)
        woken = Counter()

        async def receiver(i):
            result = await (outcome(ch.recv()) if i % 2 else ch.recv_ok())
            woken[i] += 1
            return result

        gs = []
        for i in range(12):
            gs.append(go(receiver, i))
            await receivers(ch, i + 1)
        ch.close()
        assert len(ch._recvq) == 0
        results = [await g for g in gs]
        assert woken == Counter(range(12))
        return results

    assert run(main, machines=machines) == [(None, False), END] * 6


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_wakes_every_sender_and_none_has_sent(machines, capacity):
    async def main():
        ch = chan(capacity)
        for i in range(capacity):
            await ch.send(("buffered", i))
        woken = Counter()

        async def sender(i):
            result = await outcome(ch.send(("parked", i)))
            woken[i] += 1
            return result

        gs = []
        for i in range(12):
            gs.append(go(sender, i))
            await senders(ch, i + 1)
        ch.close()
        results = [await g for g in gs]
        assert woken == Counter(range(12))
        left = [v async for v in ch]
        return results, left

    results, left = run(main, machines=machines)
    assert results == [SEND_ON_CLOSED] * 12
    assert left == [("buffered", i) for i in range(capacity)]


def test_close_readies_in_fifo_order(monkeypatch):
    """Go leaves the order open; ours is documented."""
    order = []

    async def main():
        ch = chan()
        gs = []
        for i in range(5):
            gs.append(go(ch.recv_ok))
            await receivers(ch, i + 1)
        monkeypatch.setattr("goroutine.runtime.wait.ready", lambda g: (order.append(g), ready(g)))
        ch.close()
        return [gs.index(g) for g in order]

    assert run(main) == [0, 1, 2, 3, 4]


def test_a_closing_goroutine_may_be_one_of_many(machines):
    """Of several closes at once exactly one succeeds."""

    async def main():
        results = []
        for _ in range(50):
            ch = chan()

            async def close(ch=ch):
                try:
                    ch.close()
                except ChanClosed as failure:
                    return str(failure)

            gs = [go(close) for _ in range(6)]
            results.append(sorted([await g or "" for g in gs]))
        return results

    assert run(main, machines=machines) == [["", *[CLOSE_OF_CLOSED] * 5]] * 50


# -- order -------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 1, 7])
def test_values_come_in_the_order_they_were_sent(machines, capacity):
    async def main():
        ch = chan(capacity)

        async def produce():
            for i in range(500):
                await ch.send(i)
            ch.close()

        go(produce)
        return [v async for v in ch]

    assert run(main, machines=machines) == list(range(500))


@pytest.mark.parametrize("capacity", [0, 3])
def test_waiting_senders_are_served_in_order(machines, capacity):
    async def main():
        ch = chan(capacity)
        for i in range(capacity):
            await ch.send(i)
        for i in range(20):
            go(ch.send, capacity + i)
            await senders(ch, i + 1)
        return [await ch.recv() for _ in range(capacity + 20)]

    assert run(main, machines=machines) == list(range(capacity + 20))


@pytest.mark.parametrize("capacity", [0, 3])
def test_waiting_receivers_are_served_in_order(machines, capacity):
    async def main():
        ch = chan(capacity)
        gs = []
        for i in range(20):
            gs.append(go(ch.recv))
            await receivers(ch, i + 1)
        for i in range(20):
            await ch.send(i)
        return [await g for g in gs]

    assert run(main, machines=machines) == list(range(20))


def test_at_most_one_side_waits():
    """The invariant, looked at from outside after every step of a busy program."""

    async def main():
        ch = chan(2)
        bad = []

        def look():
            with ch._lock:
                n, r, s = len(ch._buffer), len(ch._recvq), len(ch._sendq)
            if (r and s) or (r and n) or (s and n < ch.capacity) or n > ch.capacity:
                bad.append((n, r, s))

        async def produce():
            for i in range(100):
                await ch.send(i)
                look()

        async def consume():
            for _ in range(100):
                await ch.recv()
                look()

        gs = [go(f) for f in (produce, consume) for _ in range(4)]
        for g in gs:
            await g
        return bad, len(ch)

    for count in (1, 2):
        assert run(main, machines=count) == ([], 0)


# -- async for ---------------------------------------------------------------------------


def test_async_for_ends_after_the_drain():
    async def main():
        ch = chan(5)
        for i in range(5):
            await ch.send(i)
        ch.close()
        first = [v async for v in ch]
        return first, [v async for v in ch]

    assert run(main) == ([0, 1, 2, 3, 4], [])


def test_async_for_waits_and_several_share_the_values(machines):
    async def main():
        ch = chan()

        async def collect():
            return [v async for v in ch]

        gs = [go(collect) for _ in range(3)]
        for i in range(60):
            await ch.send(i)
        ch.close()
        return [await g for g in gs]

    parts = run(main, machines=machines)
    assert sorted(v for part in parts for v in part) == list(range(60))
    assert all(part == sorted(part) for part in parts)


def test_leaving_async_for_takes_no_more():
    async def main():
        ch = chan(5)
        for i in range(5):
            await ch.send(i)
        async for v in ch:
            if v == 2:
                break
        return [await ch.recv(), await ch.recv()], len(ch)

    assert run(main) == ([3, 4], 0)


def test_an_iterator_is_its_own_iterator():
    it = aiter(chan())
    assert aiter(it) is it


# -- cancelled by a ctx --------------------------------------------------------------------


def operation_of(ch, name, ctx):
    return ch.send("lost", ctx=ctx) if name == "send" else getattr(ch, name)(ctx=ctx)


async def canceled(operation):
    with pytest.raises(Canceled) as caught:
        await operation
    return caught.value


operations = pytest.mark.parametrize("name", ["send", "recv", "recv_ok"])


@operations
@pytest.mark.parametrize("capacity", [0, 1])
def test_a_cancelled_ctx_comes_before_everything(name, capacity):
    """Also where nothing need be waited for; nothing is sent or taken."""

    async def main():
        ch = chan(capacity)
        if name != "send" and capacity:
            await ch.send("kept")
        ctx = context.with_cancel(context.background())
        why = ValueError("why")
        ctx.cancel(why)
        failure = await canceled(operation_of(ch, name, ctx))
        assert failure.__cause__ is why
        ch.close()
        await canceled(operation_of(ch, name, ctx))
        assert unlocked(ch)
        return len(ch)

    assert run(main) == (name != "send" and capacity)


@operations
@pytest.mark.parametrize("capacity", [0, 1])
def test_cancelled_while_it_waits(machines, name, capacity):
    async def main():
        ch = chan(capacity)
        if name == "send" and capacity:
            await ch.send("first")
        ctx = context.with_cancel(context.background())
        before = go(ch.send, "b") if name == "send" else go(ch.recv)
        await until(lambda: len(ch._recvq) + len(ch._sendq) == 1)
        g = go(canceled(operation_of(ch, name, ctx)))
        await until(lambda: len(ch._recvq) + len(ch._sendq) == 2)
        behind = go(ch.send, "c") if name == "send" else go(ch.recv)
        await until(lambda: len(ch._recvq) + len(ch._sendq) == 3)
        ctx.cancel()
        assert str(await g) == "context canceled"
        assert not ctx._hooks
        assert len(ch._recvq) + len(ch._sendq) == 2
        # Those before and behind are served as if it had never been there.
        if name == "send":
            got = [await ch.recv() for _ in range(capacity + 2)]
            await before
            await behind
            return got[-2:]
        for value in "bc":
            await ch.send(value)
        return [await before, await behind]

    assert run(main, machines=machines) == ["b", "c"]


@operations
def test_a_deadline_is_a_timeout(machines, name):
    async def main():
        ch = chan()
        began = time.monotonic()
        ctx = context.with_timeout(context.background(), 0.02)
        with pytest.raises(TimeoutError) as caught:
            await operation_of(ch, name, ctx)
        assert isinstance(caught.value, DeadlineExceeded)
        assert time.monotonic() - began >= 0.02
        assert (len(ch._recvq), len(ch._sendq), unlocked(ch)) == (0, 0, True)

    run(main, machines=machines)


@operations
def test_one_that_was_served_is_not_cancelled_any_more(name):
    async def main():
        ch = chan()
        ctx = context.with_cancel(context.background())
        g = go(operation_of(ch, name, ctx))
        await until(lambda: len(ch._recvq) + len(ch._sendq) == 1)
        if name == "send":
            assert await ch.recv() == "lost"
        else:
            await ch.send("v")
        ctx.cancel()  # g has not run since
        assert not g.done
        return await g

    assert run(main) == {"send": None, "recv": "v", "recv_ok": ("v", True)}[name]


@operations
def test_one_that_was_cancelled_is_not_served_any_more(name):
    """It is out of the running before it has run again."""

    async def main():
        ch = chan()
        ctx = context.with_cancel(context.background())
        g = go(canceled(operation_of(ch, name, ctx)))
        await until(lambda: len(ch._recvq) + len(ch._sendq) == 1)
        ctx.cancel()
        assert not g.done
        if name == "send":
            assert await select(recv(ch), default=True) == (-1, None, False)
        else:
            assert await select(send(ch, 1), default=True) == (-1, None, False)
        await g

    run(main)


@operations
def test_closed_while_it_waits_under_a_ctx(name):
    async def main():
        ch = chan()
        ctx = context.with_cancel(context.background())
        g = go(outcome(operation_of(ch, name, ctx)))
        await until(lambda: len(ch._recvq) + len(ch._sendq) == 1)
        ch.close()
        result = await g
        assert not ctx._hooks
        return result

    expected = {"send": SEND_ON_CLOSED, "recv": END, "recv_ok": (None, False)}
    assert run(main) == expected[name]


@operations
def test_a_ctx_that_nobody_can_cancel(name):
    async def main():
        ch = chan()
        ctx = context.with_value(context.background(), "key", 1)
        g = go(operation_of(ch, name, ctx))
        await until(lambda: len(ch._recvq) + len(ch._sendq) == 1)
        if name == "send":
            await ch.recv()
        else:
            await ch.send(1)
        await g

    run(main)


@operations
def test_something_else_is_no_ctx(name):
    async def main():
        ch = chan()
        with pytest.raises(TypeError, match="ctx must be a Context, not int"):
            await operation_of(ch, name, 1)
        return unlocked(ch), len(ch._recvq), len(ch._sendq)

    assert run(main) == (True, 0, 0)


def test_ranging_as_a_member_that_is_cancelled(machines):
    async def main():
        ch = chan()
        got, members = [], []

        async def collect():
            async for value in ch:
                got.append(value)

        async def fails():
            async with Group() as group:
                members.extend(group.go(collect) for _ in range(3))
                await ch.send(1)
                await until(lambda: len(ch._recvq) == 3)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails()
        for member in members:
            with pytest.raises(Canceled):
                member.result()
        assert not ch._recvq
        return got

    assert run(main, machines=machines) == [1]


# -- values kept alive -------------------------------------------------------------------


class Token:
    alive = 0

    def __init__(self):
        Token.alive += 1

    def __del__(self):
        Token.alive -= 1


def test_a_channel_keeps_nothing_of_what_passed():
    async def main():
        ch = chan(2)

        async def drop(n):
            for _ in range(n):
                await ch.recv()

        g = go(drop, 6)
        for _ in range(6):
            await ch.send(Token())
        await g
        g = go(drop, 1)
        await receivers(ch, 1)
        await ch.send(Token())
        await g
        await until(lambda: Token.alive == 0, 5)

        async def fail():
            await outcome(ch.send(Token()))
            await park(waiting.append)

        waiting = []
        await ch.send(1)
        await ch.send(2)
        go(fail)
        await senders(ch, 1)
        ch.close()
        await until(lambda: waiting)
        # The sender lives on; its failed value does not.
        await until(lambda: Token.alive == 0, 5)

    run(main)


# -- foreign threads and code outside the runtime ------------------------------------------


@pytest.mark.parametrize("operation", ["recv", "recv_ok", "send"])
@pytest.mark.parametrize("how", ["by hand", "asyncio"])
def test_waiting_outside_a_goroutine_is_an_error_and_leaves_the_channel_usable(operation, how):
    ch = chan()
    wait = partial(ch.send, "lost") if operation == "send" else getattr(ch, operation)

    def by_hand():
        wait().send(None)

    async def operate():
        await wait()

    with pytest.raises(RuntimeError, match="not in a goroutine"):
        by_hand() if how == "by hand" else asyncio.run(operate())
    assert unlocked(ch)
    assert not ch._recvq
    assert not ch._sendq

    async def main():
        go(ch.send, "fine")
        return await ch.recv()

    assert run(main) == "fine"


def test_outside_a_goroutine_what_need_not_wait_works():
    ch = chan(2)
    for value in (1, 2):
        with pytest.raises(StopIteration):
            ch.send(value).send(None)
    with pytest.raises(StopIteration) as stop:
        ch.recv_ok().send(None)
    assert stop.value.value == (1, True)
    with pytest.raises(RuntimeError):
        chan().recv().send(None)
    ch.close()

    async def main():
        return [v async for v in ch]

    assert run(main) == [2]


def test_a_send_or_receive_does_nothing_before_it_is_awaited():
    ch = chan(1)
    ch.send(1).close()
    ch.recv().close()
    assert len(ch) == 0
    assert unlocked(ch)


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_a_foreign_thread_wakes_sleeping_receivers(io):
    """A machine asleep in its poller has to be woken for this."""

    async def main():
        ch = chan()

        def foreign():
            # (send and close need no goroutine as long as they need not wait.)
            deadline = time.monotonic() + 20
            while len(ch._recvq) < 3 and time.monotonic() < deadline:
                time.sleep(0.001)
            with contextlib.suppress(StopIteration):
                ch.send("from outside").send(None)
            ch.close()

        thread = threading.Thread(target=foreign)
        gs = [go(ch.recv_ok) for _ in range(3)]
        with hold():
            thread.start()
            results = [await g for g in gs]
        thread.join()
        return sorted(results, key=str)

    assert run(main, machines=2, io=io) == [("from outside", True), *[(None, False)] * 2]


# -- the end of a run ----------------------------------------------------------------------


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_goroutines_parked_in_channels_are_closed_at_the_end(machines, io):
    ended = []

    async def main():
        empty, full = chan(), chan(1)
        await full.send(0)

        async def parked(operation, name):
            try:
                await operation
            finally:
                ended.append(name)

        async def ranging():
            try:
                async for _ in empty:
                    pass
            finally:
                ended.append("range")

        go(parked, empty.recv(), "recv")
        go(parked, empty.recv_ok(), "recv_ok")
        go(parked, full.send(1), "send")
        go(ranging)
        await receivers(empty, 3)
        await senders(full, 1)
        return "main"

    assert run(main, machines=machines, io=io) == "main"
    assert sorted(ended) == ["range", "recv", "recv_ok", "send"]


@pytest.mark.parametrize("machines", [1, 2])
def test_a_channel_that_outlives_a_run_forgets_who_waited(machines):
    ch, full = chan(), chan(1)

    async def leave():
        await full.send(1)
        for operation in (ch.recv, ch.recv_ok, ch.recv):
            go(operation)
        go(full.send, "lost")
        await receivers(ch, 3)
        await senders(full, 1)

    run(leave, machines=machines)
    assert (len(ch._recvq), len(full._sendq)) == (0, 0)

    async def use():
        go(ch.send, "kept")
        assert await full.recv() == 1
        full.close()
        return await ch.recv(), await full.recv_ok()

    assert run(use, machines=machines) == ("kept", (None, False))


def test_closing_goroutines_may_close_channels(capfd):
    """`finally: ch.close()` is the usual thing to do, also while others wait there."""

    async def main():
        ch = chan()

        async def owner():
            try:
                await chan().recv()
            finally:
                ch.close()

        go(ch.recv)
        go(owner)
        go(ch.recv)
        await receivers(ch, 2)

    run(main)
    assert capfd.readouterr().err == ""


def test_waiting_in_a_finally_block_at_the_end_fails_and_holds_no_lock(capfd):
    done = []

    async def main():
        shared, started = chan(), chan(2)

        async def waits():
            try:
                await started.send(1)
                await chan().recv()
            finally:
                try:
                    await shared.recv()
                finally:
                    done.append("outer")

        async def closes():
            try:
                await started.send(1)
                await chan().recv()
            finally:
                shared.close()
                done.append("closed")

        go(waits)
        await started.recv()
        go(closes)
        await started.recv()
        for _ in range(5):
            await gosched()

    run(main)  # it used to hang: the channel's lock was held for ever
    assert done == ["outer", "closed"]
    assert "nobody can wait here" in capfd.readouterr().err


# -- networks of goroutines (after the ideas of Go's test/chan) ---------------------------------


async def generate(ch):
    i = 2
    while True:
        await ch.send(i)
        i += 1


async def strain(source, out, prime):
    async for i in source:
        if i % prime:
            await out.send(i)


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_sieve(machines, io):
    async def main():
        ch = chan()
        go(generate, ch)
        primes = []
        for _ in range(25):
            primes.append(prime := await ch.recv())
            out = chan()
            go(strain, ch, out, prime)
            ch = out
        return primes

    expected = [n for n in range(2, 98) if all(n % d for d in range(2, n))]
    assert run(main, machines=machines, io=io) == expected


@pytest.mark.parametrize("capacity", [0, 10])
def test_a_chain_keeps_the_order(machines, capacity):
    """Go's fifo: each goroutine waits for its predecessor before it passes the baton."""

    async def main():
        n = 50
        order = []

        async def link(i, mine, next_):
            assert await mine.recv() == i
            order.append(i)
            await next_.send(i + 1)

        first = ch = chan(capacity)
        for i in range(n):
            next_ = chan(capacity)
            go(link, i, ch, next_)
            ch = next_
        go(first.send, 0)
        assert await ch.recv() == n
        return order

    assert run(main, machines=machines) == list(range(50))


def test_ping_pong(machines):
    async def main():
        there, back = chan(), chan()

        async def echo():
            async for v in there:
                await back.send(v + 1)
            back.close()

        go(echo)
        v = 0
        for _ in range(300):
            await there.send(v)
            v = await back.recv()
        there.close()
        return v, await back.recv_ok()

    assert run(main, machines=machines) == (300, (None, False))


def test_channels_of_channels(machines):
    """A server that answers on a channel which comes with the request."""

    async def main():
        requests = chan()

        async def server():
            async for value, reply in requests:
                await reply.send(value * 2)

        servers = [go(server) for _ in range(3)]

        async def client(i):
            reply = chan()
            await requests.send((i, reply))
            return await reply.recv()

        results = [await g for g in [go(client, i) for i in range(40)]]
        requests.close()
        for g in servers:
            await g
        return results

    assert run(main, machines=machines) == [2 * i for i in range(40)]


def test_a_channel_sent_through_itself():
    async def main():
        ch = chan(1)
        await ch.send(ch)
        return (await ch.recv()) is ch

    assert run(main)


def test_a_semaphore_of_tokens(machines):
    async def main():
        slots, most, now, lock = chan(3), 0, 0, threading.Lock()

        async def work():
            nonlocal most, now
            await slots.send(None)
            with lock:
                now += 1
                most = max(most, now)
            for _ in range(3):
                await gosched()
            with lock:
                now -= 1
            await slots.recv()

        for g in [go(work) for _ in range(30)]:
            await g
        return most, now, len(slots)

    most, now, left = run(main, machines=machines)
    assert 1 <= most <= 3
    assert (now, left) == (0, 0)


def test_power_series(machines):
    """Lazy streams, as Go's powser1: the coefficients of a series come out of a channel.

    Each request passes through the whole network, so that a lost or doubled wake-up
    anywhere shows up as a wrong coefficient or as a hang.
    """

    async def main():
        def stream(body, *args):
            out = chan()
            go(body, out, *args)
            return out

        async def repeat(out, c):
            while True:
                await out.send(c)

        async def integrate(out, source):
            await out.send(0)
            i = 1
            async for c in source:
                await out.send(c / i)
                i += 1

        async def duplicate(source, *outs):
            async for c in source:
                for out in outs:
                    await out.send(c)

        async def add(out, a, b):
            while True:
                await out.send(await a.recv() + await b.recv())

        async def multiply(out, a, b):
            xs, ys = [], []
            while True:
                xs.append(await a.recv())
                ys.append(await b.recv())
                await out.send(sum(x * y for x, y in zip(xs, reversed(ys), strict=True)))

        ones = stream(repeat, 1)
        left, right = chan(), chan(4)
        go(duplicate, ones, left, right)
        # 1/(1-x) squared is 1 + 2x + 3x^2 + …; its integral x + x^2 + …; with ones added.
        square = stream(multiply, left, right)
        series = stream(add, stream(integrate, square), stream(repeat, 1))
        return [await series.recv() for _ in range(12)]

    assert run(main, machines=machines) == [1, *[2] * 11]


def test_a_tree_of_mergers(machines):
    async def main():
        async def merge(a, b, out):
            done = chan()

            async def copy(source):
                async for v in source:
                    await out.send(v)
                await done.send(None)

            go(copy, a)
            go(copy, b)
            await done.recv()
            await done.recv()
            out.close()

        async def leaf(out, i):
            for k in range(20):
                await out.send((i, k))
            out.close()

        level = [chan(i % 3) for i in range(8)]
        for i, ch in enumerate(level):
            go(leaf, ch, i)
        while len(level) > 1:
            pairs = list(zip(islice(level, 0, None, 2), islice(level, 1, None, 2), strict=True))
            level = []
            for a, b in pairs:
                level.append(out := chan(1))
                go(merge, a, b, out)
        return [v async for v in level[0]]

    got = run(main, machines=machines)
    assert sorted(got) == [(i, k) for i in range(8) for k in range(20)]
    for i in range(8):
        assert [k for j, k in got if j == i] == list(range(20))


def test_many_waiters_on_one_channel(machines):
    async def main():
        ch, results = chan(), chan(2000)

        async def receiver():
            await results.send(await ch.recv())

        for _ in range(2000):
            go(receiver)
        await receivers(ch, 2000)
        for i in range(2000):
            await ch.send(i)
        return sorted([await results.recv() for _ in range(2000)])

    assert run(main, machines=machines) == list(range(2000))
