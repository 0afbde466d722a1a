"""select: what is chosen, what waits and what is an error."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from functools import partial
from itertools import product

import pytest
from waiting import gosched_until as until

import goroutine
from goroutine import (
    Canceled,
    ChanClosed,
    Selected,
    chan,
    context,
    go,
    gosched,
    recv,
    select,
    send,
    sleep,
    start,
)
from goroutine.runtime.wait import SHORT
from goroutine.select import _lock_all

pytestmark = pytest.mark.timeout(30)

SEND_ON_CLOSED = "^send on closed channel$"
NOTHING = Selected(-1, None, False)


def run(main, *args, machines=1, io="epoll"):
    return start(main, *args, machines=machines, io=io)


async def waiting(n, *channels):
    """Wait until n cases, or goroutines, wait at these channels."""
    await until(lambda: sum(len(ch._recvq) + len(ch._sendq) for ch in channels) == n)


async def choose(*cases, **how):
    """select, as a coroutine that can be started by go."""
    return await select(*cases, **how)


async def filled(capacity, *values):
    ch = chan(capacity)
    for value in values:
        await ch.send(value)
    return ch


def nothing_waits(*channels):
    return not any(ch._recvq or ch._sendq or ch._lock.locked() for ch in channels)


# -- ready -------------------------------------------------------------------------------------


def test_a_receive_that_is_ready():
    async def main():
        a, b = chan(1), await filled(2, "v", "w")
        chosen = await select(recv(a), recv(b))
        assert nothing_waits(a, b)
        return chosen, len(b)

    assert run(main) == (Selected(1, "v", True), 1)


def test_a_send_that_is_ready():
    async def main():
        a, b = await filled(1, "full"), chan(1)
        chosen = await select(send(a, 1), send(b, 2))
        assert nothing_waits(a, b)
        return chosen, await b.recv()

    assert run(main) == (Selected(1, None, True), 2)


@pytest.mark.parametrize("default", [False, True])
def test_a_peer_that_waits_is_ready(default):
    async def main():
        ch, other = chan(), chan()
        g = go(ch.recv)
        await waiting(1, ch)
        sent = await select(recv(other), send(ch, "to it"), default=default)
        assert await g == "to it"
        go(ch.send, "from it")
        await waiting(1, ch)
        got = await select(recv(other), recv(ch), default=default)
        assert nothing_waits(ch, other)
        return sent, got

    assert run(main) == (Selected(1, None, True), Selected(1, "from it", True))


def test_a_receive_from_a_full_buffer_lets_the_waiting_sender_in():
    async def main():
        ch = await filled(1, 0)
        g = go(ch.send, 1)
        await waiting(1, ch)
        first = await select(recv(ch), recv(None))
        await g
        return first, len(ch), await select(recv(ch), recv(chan()))

    assert run(main) == (Selected(0, 0, True), 1, Selected(0, 1, True))


def test_a_closed_channel_is_always_ready_to_receive():
    async def main():
        ch = await filled(2, "left")
        ch.close()
        return [await select(recv(chan()), recv(ch)) for _ in range(3)]

    assert run(main) == [Selected(1, "left", True), *[Selected(1, None, False)] * 2]


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("capacity", [0, 1])
def test_a_send_to_a_closed_channel_raises(capacity, default):
    """It is chosen, as something that is ready; a default does not hide it."""

    async def main():
        closed, other = chan(capacity), chan()
        closed.close()
        with pytest.raises(ChanClosed, match=SEND_ON_CLOSED):
            await select(recv(other), send(closed, 1), default=default)
        assert nothing_waits(closed, other)
        assert len(closed) == 0

    run(main)


def test_the_value_none_is_told_from_the_end():
    async def main():
        ch = await filled(1, None)
        ch.close()
        return await select(recv(ch)), await select(recv(ch))

    assert run(main) == (Selected(0, None, True), Selected(0, None, False))


def test_results_are_made_for_match():
    async def main():
        numbers, quit_ = chan(1), chan()
        seen = []
        await numbers.send(7)
        for _ in range(4):
            match await select(recv(numbers), recv(quit_), send(None, 0), default=True):
                case (0, value, True):
                    seen.append(("number", value))
                    quit_.close()
                case (1, _, False):
                    seen.append("quit")
                    quit_ = None
                case (-1, _, _):
                    seen.append("nothing")
        match await select(send(numbers, 8)):
            case Selected(index=0, ok=True):
                seen.append("sent")
        return seen

    assert run(main) == [("number", 7), "quit", "nothing", "nothing", "sent"]


# -- default -----------------------------------------------------------------------------------


def test_default_when_nothing_is_ready():
    async def main():
        empty, full, unbuffered = chan(1), await filled(1, 0), chan()
        cases = [recv(empty), send(full, 1), recv(unbuffered), send(unbuffered, 1)]
        results = [await select(*cases, default=True) for _ in range(3)]
        assert nothing_waits(empty, full, unbuffered)
        assert (len(empty), len(full)) == (0, 1)
        return results

    assert run(main) == [NOTHING] * 3


def test_default_alone():
    async def main():
        return await select(default=True), await select(None, recv(None), default=True)

    assert run(main) == (NOTHING, NOTHING)


def test_a_ready_case_goes_before_the_default():
    async def main():
        ch = chan(1)
        for i in range(100):
            assert await select(recv(chan()), send(ch, i), default=True) == (1, None, True)
            assert await select(recv(ch), send(None, 0), default=True) == (0, i, True)

    run(main)


# -- nil ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cases",
    [(), (None,), (recv(None),), (send(None, 1),), (None, recv(None), send(None, 2), None)],
    ids=str,
)
def test_without_any_channel_it_waits_for_ever(cases):
    ended = []

    async def main():
        async def waits():
            try:
                await select(*cases)
                ended.append("went on")
            finally:
                ended.append("closed")

        g = go(waits)
        for _ in range(50):
            await gosched()
        assert not g.done
        assert not ended

    run(main)
    assert ended == ["closed"]


def test_nil_cases_keep_their_places():
    async def main():
        ch = await filled(1, "v")
        first = await select(None, recv(None), recv(ch), send(None, 1))
        g = go(choose, None, send(None, 0), recv(ch), None)
        await waiting(1, ch)
        await ch.send("w")
        return first, await g

    assert run(main) == (Selected(2, "v", True), Selected(2, "w", True))


# -- waiting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("capacity", [0, 2])
def test_it_waits_for_a_value(machines, capacity, which):
    async def main():
        channels = [chan(capacity) for _ in range(3)]
        g = go(choose, *[recv(ch) for ch in channels])
        await waiting(3, *channels)
        for _ in range(20):
            await gosched()
        assert not g.done
        await channels[which].send("v")
        chosen = await g
        assert nothing_waits(*channels)
        assert sum(map(len, channels)) == 0
        return chosen

    assert run(main, machines=machines) == Selected(which, "v", True)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("capacity", [0, 1])
def test_it_waits_for_room(machines, capacity, which):
    async def main():
        channels = [await filled(capacity, *[0] * capacity) for _ in range(3)]
        g = go(choose, *[send(ch, i) for i, ch in enumerate(channels)])
        await waiting(3, *channels)
        got = [await channels[which].recv() for _ in range(capacity + 1)]
        chosen = await g
        assert nothing_waits(*channels)
        return got[-1], chosen

    assert run(main, machines=machines) == (which, Selected(which, None, True))


def test_two_selects_meet(machines):
    async def main():
        a, b, c = chan(), chan(), chan()
        g = go(choose, recv(a), send(b, "down"))
        await waiting(2, a, b)
        h = go(choose, recv(c), recv(b))
        results = await g, await h
        assert nothing_waits(a, b, c)
        return results

    assert run(main, machines=machines) == (Selected(1, None, True), Selected(1, "down", True))


@pytest.mark.parametrize("capacity", [0, 1])
def test_closed_while_it_waits(machines, capacity):
    async def main():
        a, b = chan(capacity), await filled(capacity, *[0] * capacity)
        g = go(choose, recv(a), send(b, 1))
        await waiting(2, a, b)
        a.close()
        received = await g
        c = chan()
        g = go(fails, recv(c), send(b, 1))
        await waiting(2, b, c)
        b.close()
        failed = await g
        assert nothing_waits(a, b, c)
        return received, failed, len(b)

    async def fails(*cases):
        with pytest.raises(ChanClosed, match=SEND_ON_CLOSED):
            await select(*cases)
        return "failed"

    expected = (Selected(0, None, False), "failed", capacity)
    assert run(main, machines=machines) == expected


def test_all_its_channels_closed_at_once(machines):
    async def main():
        async def both(a, b):
            return await select(recv(a), recv(b))

        for _ in range(50):
            a, b = chan(), chan()
            g = go(both, a, b)
            gs = [go(a.close), go(b.close)]
            chosen = await g
            assert chosen in ((0, None, False), (1, None, False))
            for closer in gs:
                await closer
            assert nothing_waits(a, b)

    run(main, machines=machines)


def test_who_waits_is_served_in_order(machines):
    """Selects and plain receivers share one queue."""

    async def main():
        ch, never = chan(), chan()
        gs = []
        for i in range(20):
            gs.append(go(choose, recv(never), recv(ch)) if i % 2 else go(ch.recv))
            await waiting(i + 1, ch)
        for i in range(20):
            await ch.send(i)
        got = [await g for g in gs]
        assert nothing_waits(ch, never)
        return [value[1] if i % 2 else value for i, value in enumerate(got)]

    assert run(main, machines=machines) == list(range(20))


def test_it_leaves_the_other_queues_to_those_who_wait_there(machines):
    """Its entry in the midst of a queue: who waits before it and behind it is still served."""

    async def main():
        ch, other = chan(), chan()
        before = go(ch.recv)
        await waiting(1, ch)
        g = go(choose, recv(ch), recv(other))
        await waiting(3, ch, other)
        behind = go(ch.recv)
        await waiting(4, ch, other)
        await other.send("other")
        assert await g == (1, "other", True)
        await ch.send(1)
        await ch.send(2)
        assert nothing_waits(ch, other)
        return await before, await behind

    assert run(main, machines=machines) == (1, 2)


def test_a_case_can_be_used_again():
    async def main():
        ch = chan(3)
        put, take = send(ch, "v"), recv(ch)
        for _ in range(3):
            assert await select(put) == (0, None, True)
        return [await select(take) for _ in range(3)]

    assert run(main) == [Selected(0, "v", True)] * 3


# -- the same channel several times ------------------------------------------------------------


def test_nobody_meets_himself():
    async def main():
        ch = chan()
        g = go(choose, send(ch, "mine"), recv(ch))
        await waiting(2, ch)
        for _ in range(20):
            await gosched()
        assert not g.done
        assert await select(send(ch, 1), recv(ch), default=True) in (
            (0, None, True),
            (1, "mine", True),
        )
        await g
        return nothing_waits(ch)

    assert run(main)


def test_two_that_select_both_ways_meet(machines):
    async def main():
        ch = chan()
        for _ in range(100):
            gs = [go(choose, send(ch, i), recv(ch)) for i in range(2)]
            results = [await g for g in gs]
            assert sorted(results, key=lambda r: r.index) in (
                [(0, None, True), (1, 0, True)],
                [(0, None, True), (1, 1, True)],
            )
            assert nothing_waits(ch)

    run(main, machines=machines)


@pytest.mark.parametrize("capacity", [0, 1])
def test_the_same_case_many_times(capacity):
    async def main():
        ch = chan(capacity)
        g = go(choose, *[recv(ch)] * 50)
        await waiting(50, ch)
        await ch.send("v")
        index, value, ok = await g
        assert nothing_waits(ch)
        assert (value, ok) == ("v", True)
        assert 0 <= index < 50
        for _ in range(capacity):
            await ch.send(0)
        g = go(choose, *[send(ch, i) for i in range(50)])
        await waiting(50, ch)
        got = [await ch.recv() for _ in range(capacity + 1)][-1]
        assert await g == (got, None, True)
        assert nothing_waits(ch)

    run(main)


def test_many_cases(machines):
    async def main():
        n = 200
        channels = [chan(i % 3) for i in range(n)]
        for i in range(0, n, 37):
            g = go(choose, *[recv(ch) for ch in channels])
            await waiting(n, *channels)
            await channels[i].send(i)
            assert await g == (i, i, True)
            assert nothing_waits(*channels)
            if i % 3:
                await channels[i].send(-i)
                assert await select(*[recv(ch) for ch in channels]) == (i, -i, True)
        assert await select(*[recv(ch) for ch in channels], default=True) == NOTHING

    run(main, machines=machines)


def test_locks_are_taken_in_one_order_each_once():
    """Whatever the order of the cases: else two selects could wait for each other for ever."""
    taken = []
    channels = [chan() for _ in range(4)]
    for ch in channels:
        ch._acquire = partial(taken.append, ch)
        ch._release = partial(taken.remove, ch)

    async def main():
        orders = {}
        for n in range(1, 6):
            for some in product(channels, repeat=n):
                await select(*[recv(ch) for ch in some], default=True)
                assert not taken  # all were released
                unlock = _lock_all([(0, ch, False, None) for ch in some])
                orders.setdefault(frozenset(some), set()).add(tuple(taken))
                unlock()
                assert not taken
        (everything,) = orders[frozenset(channels)]
        for some, (order,) in orders.items():
            assert order == tuple(ch for ch in everything if ch in some)

    run(main)


def test_a_send_with_default_that_is_overtaken_by_close():
    """It was ready before, for there was room, and is after: so it must not say "not ready".

    Seen to fail when the look without the lock reads the capacity, which close() changes, twice.
    """

    class Buffer(deque):
        def __len__(self):
            length = super().__len__()
            if not ch.closed:
                ch.close()
            return length

    ch = chan(1)
    ch._buffer = Buffer()

    async def main():
        with pytest.raises(ChanClosed):
            await select(send(ch, "v"), default=True)
        assert list(ch._buffer) == []

    run(main)


# -- the choice --------------------------------------------------------------------------------


def within_ten_sigma(count, draws, share):
    return abs(count - draws * share) < 10 * (draws * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("n", [2, 3, 5])
def test_ready_cases_are_chosen_alike(n):
    """10,000 draws among closed channels, as Go's TestSelectFairness."""

    async def main():
        channels = [chan() for _ in range(n)]
        for ch in channels:
            ch.close()
        cases = [recv(chan()), *[recv(ch) for ch in channels]]
        return Counter([(await select(*cases)).index for _ in range(10_000)])

    counts = run(main)
    assert sorted(counts) == list(range(1, n + 1))
    assert all(within_ten_sigma(count, 10_000, 1 / n) for count in counts.values())


def test_sends_and_receives_are_chosen_alike():
    async def main():
        ch = await filled(2, 0)
        counts = Counter()
        for _ in range(10_000):
            chosen = await select(send(ch, 1), recv(ch))
            counts[chosen.index] += 1
            if chosen.index == 0:
                await ch.recv()
            else:
                await ch.send(0)
        return counts

    counts = run(main)
    assert all(within_ten_sigma(counts[i], 10_000, 1 / 2) for i in range(2))


def test_one_case_among_many_waiting_senders_is_chosen_alike(machines):
    """Two goroutines that always send, and a third that takes from either."""

    async def main():
        async def always(ch):
            while True:
                await ch.send(1)

        a, b = chan(4), chan(4)
        for ch in (a, b):
            go(always, ch)
        counts = Counter()
        for _ in range(3_000):
            await until(lambda: len(a) and len(b))
            counts[(await select(recv(a), recv(b))).index] += 1
        return counts

    counts = run(main, machines=machines)
    assert all(within_ten_sigma(counts[i], 3_000, 1 / 2) for i in range(2))


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [1, "recv", chan(), (0, 1), recv, [recv(None)]], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize("default", [False, True])
def test_something_else_is_no_case(case, default):
    async def main():
        ch = chan(1)
        with pytest.raises(TypeError, match="a case of select is"):
            await select(send(ch, 1), case, default=default)
        return len(ch), nothing_waits(ch)

    assert run(main) == (0, True)


@pytest.mark.parametrize("channel", [1, "ch", object(), [chan()]], ids=repr)
@pytest.mark.parametrize("make", [recv, lambda channel: send(channel, 1)], ids=["recv", "send"])
def test_something_else_is_no_channel(make, channel):
    async def main():
        ch = chan(1)
        with pytest.raises(TypeError, match="needs a Chan or None"):
            await select(send(ch, 1), make(channel))
        return len(ch), nothing_waits(ch)

    assert run(main) == (0, True)


def test_outside_a_goroutine_it_is_an_error():
    with pytest.raises(RuntimeError, match="not in a goroutine"):
        select(default=True).send(None)


def test_it_does_nothing_before_it_is_awaited():
    ch = chan(1)
    select(send(ch, 1)).close()
    assert len(ch) == 0


def test_select_in_a_finally_block_at_the_end(capfd):
    """It can't wait there, and says so; what is ready works."""
    done = []

    async def main():
        ch, other = chan(1), chan()

        async def ends():
            try:
                await other.recv()
            finally:
                try:
                    await select(recv(other), recv(ch))
                except RuntimeError as failure:
                    done.append(str(failure))

        go(ends)
        await waiting(1, other)

    run(main)
    assert len(done) == 1
    assert "nobody can wait here" in done[0]
    assert capfd.readouterr().err == ""


# -- kept alive, left behind -------------------------------------------------------------------


class Token:
    alive = 0

    def __init__(self):
        Token.alive += 1

    def __del__(self):
        Token.alive -= 1


def test_it_keeps_nothing_of_what_passed():
    async def main():
        ch, never = chan(), chan()

        async def drop():
            for _ in range(10):
                await select(recv(ch), recv(never))
            await never.recv()

        go(drop)
        for _ in range(10):
            await select(send(ch, Token()), recv(never))
        await until(lambda: Token.alive == 0, 5)

        async def fail():
            with pytest.raises(ChanClosed):
                await select(send(ch, Token()), recv(never))
            await never.recv()

        go(fail)
        await until(lambda: len(ch._sendq) == 1)
        ch.close()
        await until(lambda: len(never._recvq) == 2)
        await until(lambda: Token.alive == 0, 5)

    run(main)


def test_a_channel_that_outlives_a_run_forgets_who_selected(machines):
    a, b = chan(), chan(1)

    async def leave():
        await b.send(1)
        for _ in range(3):
            go(choose, recv(a), send(b, "lost"))
        await waiting(6, a, b)

    run(leave, machines=machines)
    assert nothing_waits(a, b)

    async def use():
        go(choose, send(a, "kept"), recv(None))
        return await select(recv(a)), await select(recv(b))

    assert run(use, machines=machines) == (Selected(0, "kept", True), Selected(0, 1, True))


def test_thousands_share_one_done_channel():
    """Leaving the queue they share is cheap, and the queue doesn't grow."""

    async def main():
        done, ch, n = chan(), chan(), 2_000

        async def member():
            while True:
                index, _, _ = await select(recv(done), recv(ch))
                if index == 0:
                    return

        gs = [go(member) for _ in range(n)]
        await until(lambda: len(ch._recvq) == n)
        longest = 0
        for i in range(3 * n):
            await ch.send(i)
            longest = max(longest, len(done._recvq))
        assert longest <= 2 * n + SHORT
        done.close()
        for g in gs:
            await g
        assert nothing_waits(done)
        assert not [w for w in ch._recvq if w.token]

    began = time.monotonic()
    run(main)
    # Searching the queue for each would take minutes.
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("n", [SHORT - 1, SHORT, SHORT + 1, 2 * SHORT, 5 * SHORT])
@pytest.mark.parametrize("first", ["oldest", "newest", "every other"])
def test_a_queue_that_all_leave_is_empty(n, first):
    """Also when it was long, where who leaves stays in the queue for a while."""

    async def main():
        shared = chan()
        own = [chan() for _ in range(n)]
        gs = []
        for ch in own:
            gs.append(go(choose, recv(shared), recv(ch)))
        await waiting(n, shared)
        order = list(range(n))
        if first == "newest":
            order.reverse()
        elif first == "every other":
            order = order[::2] + order[1::2]
        for left, i in enumerate(order):
            await own[i].send(i)
            assert await gs[i] == (1, i, True)
            # Those who have left are never more than those who wait, and a few.
            assert len(shared._recvq) <= max(SHORT, 2 * (n - left - 1) + 1)
        assert nothing_waits(shared, *own)

    run(main)


def test_a_queue_whose_waiters_are_served_and_leave_is_empty():
    """Some leave a long queue, some are served, the rest leave when it is short."""

    async def main():
        n = SHORT + 8
        shared = chan()
        own = [chan() for _ in range(n)]
        gs = [go(choose, recv(shared), recv(ch)) for ch in own]
        await waiting(n, shared)
        order = [gs.index(w.g) for w in shared._recvq]
        for i in order[n // 2 + 1 :]:  # they stay, at the end of the queue
            await own[i].send(i)
            await gs[i]
        for _ in range(8):
            await shared.send("served")
        for i in order[8 : n // 2 + 1]:
            await own[i].send(i)
            await gs[i]
        assert nothing_waits(shared, *own)

    run(main)


# -- cancelling --------------------------------------------------------------------------------


def under(ctx, operation):
    """Run in a goroutine that ctx can cancel, as a group's context does."""

    async def body():
        goroutine.current().scope = ctx
        return await operation()

    return go(body)


@pytest.mark.parametrize("sending", [False, True])
def test_cancelled_while_it_waits(machines, sending):
    async def main():
        a, b = chan(), chan()
        ctx = context.with_cancel(context.background())
        seen = []

        async def operation():
            cases = [send(a, "lost"), recv(b)] if sending else [recv(a), recv(b)]
            with pytest.raises(Canceled):
                await select(*cases)
            assert nothing_waits(a, b)
            seen.append("canceled")
            # Told once: it can wait again.
            return await select(recv(a), recv(b))

        g = under(ctx, operation)
        await waiting(2, a, b)
        ctx.cancel()
        await until(lambda: seen)
        assert not ctx._hooks
        await waiting(2, a, b)
        await b.send("later")
        return await g

    assert run(main, machines=machines) == Selected(1, "later", True)


def test_cancelled_before_it_waits():
    async def main():
        a, b = chan(1), chan()
        ctx = context.with_cancel(context.background())
        why = ValueError("why")
        ctx.cancel(why)

        async def operation():
            # What is ready, and a default, need no wait.
            results = [await select(send(a, 1), recv(b)), await select(recv(b), default=True)]
            with pytest.raises(Canceled) as caught:
                await select(recv(b))
            assert caught.value.__cause__ is why
            assert nothing_waits(a, b)
            return results

        return await under(ctx, operation)

    assert run(main) == [Selected(0, None, True), NOTHING]


def test_without_cases_it_can_still_be_cancelled(machines):
    async def main():
        ctx = context.with_cancel(context.background())

        async def operation():
            with pytest.raises(Canceled):
                await select()
            return "canceled"

        g = under(ctx, operation)
        await until(lambda: ctx._hooks)
        ctx.cancel()
        return await g

    assert run(main, machines=machines) == "canceled"


def test_what_was_chosen_is_not_cancelled_any_more():
    async def main():
        ch, other = chan(), chan()
        ctx = context.with_cancel(context.background())

        async def operation():
            return await select(recv(ch), recv(other))

        g = under(ctx, operation)
        await waiting(2, ch, other)
        await ch.send("v")  # g has not run since
        ctx.cancel()
        assert not g.done
        return await g

    assert run(main) == Selected(0, "v", True)


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_a_timeout_leaves_nothing_queued(machines, io):
    """With a deadline's channel as a case, as Go's select with time.After."""

    async def main():
        ch, never = chan(), chan()

        async def waits():
            with context.with_timeout(context.background(), 0.002) as ctx:
                return await select(recv(ch), send(never, 1), recv(ctx.done()))

        for _ in range(5):
            gs = [go(waits) for _ in range(50)]
            for g in gs:
                assert await g == (2, None, False)
            assert nothing_waits(ch, never)

    run(main, machines=machines, io=io)


def test_from_threads_while_it_sleeps(machines):
    """The machines are asleep when a plain thread makes one of the cases ready."""

    async def main():
        a, b = chan(), chan()
        for i in range(20):
            with goroutine.hold():
                thread = threading.Thread(target=(a, b)[i % 2].send_blocking, args=(i, 20))
                g = go(choose, recv(a), recv(b))
                await waiting(2, a, b)
                thread.start()
                assert await g == (i % 2, i, True)
                thread.join()
            await sleep(0.0005)
        assert nothing_waits(a, b)

    run(main, machines=machines)
