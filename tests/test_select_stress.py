"""Everything that uses channels at once: sends, receives, selects, cancels, closes, threads.

Each value is sent by one operation. Afterwards: what an operation has reported as sent has
arrived once, or is still in a buffer; what it has reported as cancelled, timed out, not
chosen or refused has not arrived; nobody waits anywhere, and no context keeps a hook.

Seen to fail, every time it was tried, when a claim of `_Entry` or `Waiter` is not looked at;
when a claim is two steps instead of one atomic pop (test_a_claim_is_one_step; the others see
it now and then); when `_lock_all` locks nothing; when `_leave`, or `queue.leave` in
`Chan._wait`, is skipped; when `cancelable` doesn't take its hook out; when a thread gives up
what somebody has claimed; when a queue throws out the wrong ones. Two times of three when
`publish` does not look at `hook.over` after it has put its hook in: the model in
test_select_model.py sees that always, and a `watch` that doesn't look whether its context
has ended, which nothing here sees. Locks in no order: test_select.py.

GOROUTINE_STRESS=N makes every test N times as long (the time limits grow with it).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

import pytest
from waiting import gosched_until as until

import goroutine
from goroutine import Canceled, ChanClosed, chan, context, go, gosched, recv, select, send, start
from goroutine.runtime.goroutine import Goroutine as G
from goroutine.runtime.thread import holds
from goroutine.runtime.wait import SHORT, Waiter
from goroutine.select import _Entry

LONGER = int(os.environ.get("GOROUTINE_STRESS", "1"))

pytestmark = pytest.mark.timeout(60 * LONGER)


class Book:
    """What became of the values, by one goroutine or thread; no two share one."""

    def __init__(self, name, rng):
        self.name, self.rng = name, rng
        self.sent, self.failed, self.got = [], [], []
        self.operations = Counter()
        self.count = 0

    def value(self):
        self.count += 1
        return self.name, self.count


def check(books, channels):
    sent = [value for book in books for value in book.sent]
    failed = {value for book in books for value in book.failed}
    left = [value for ch in channels for value in ch._buffer]
    got = [value for book in books for value in book.got] + left
    assert len(set(sent)) == len(sent)
    assert len(set(got)) == len(got), "a value came twice"
    assert not failed & set(got), "a value came that was not sent"
    assert set(got) == set(sent), "a value was lost, or came from nowhere"
    return len(got)


def check_idle(channels):
    for ch in channels:
        assert not ch._lock.locked()
        assert not ch._recvq, "somebody is left in a queue"
        assert not ch._sendq, "somebody is left in a queue"


class Chaos:
    """One round: channels, actors that do whatever comes to mind, and those who disturb."""

    def __init__(self, seed, closes, actors=12, threads=0, operations=40):
        self.rng = rng = random.Random(seed)
        self.channels = [chan(rng.choice([0, 0, 1, 3])) for _ in range(rng.randint(1, 4))]
        self.closes, self.operations = closes, operations
        self.root = context.with_cancel(context.background())
        self.contexts = [self.root]
        # What may be cancelled at any time, by anybody: the newest of each actor.
        self.current = {}
        self.books = [Book(i, random.Random(rng.random())) for i in range(actors)]
        self.foreign = [Book(-1 - i, random.Random(rng.random())) for i in range(threads)]
        self.over = False

    def context(self, book):
        kind = book.rng.random()
        if kind < 0.3:
            ctx = context.with_timeout(self.root, book.rng.random() * 0.002)
        else:
            ctx = context.with_cancel(self.root)
        self.contexts.append(ctx)
        self.current[book.name] = ctx
        return ctx

    # -- who sends and receives

    async def actor(self, book):
        rng, me = book.rng, goroutine.current()
        for _ in range(self.operations):
            if self.over:
                break
            ctx = self.context(book) if rng.random() < 0.6 or not self.closes else None
            scope = None
            if ctx is not None and rng.random() < 0.5:
                # As if a member of a group: the goroutine itself can be cancelled.
                me.scope, scope, ctx = ctx, ctx, None
            operation = rng.choice([self.send, self.recv, self.recv_ok, self.select, self.select])
            if operation == self.select and ctx is not None:
                me.scope, scope, ctx = ctx, ctx, None
            try:
                await operation(book, ctx)
            finally:
                me.scope = None
                if scope is not None and rng.random() < 0.5:
                    scope.cancel()
            if rng.random() < 0.2:
                await gosched()

    async def send(self, book, ctx):
        value = book.value()
        try:
            await book.rng.choice(self.channels).send(value, ctx=ctx)
            book.sent.append(value)
        except (Canceled, ChanClosed):
            book.failed.append(value)

    async def recv(self, book, ctx):
        try:
            book.got.append(await book.rng.choice(self.channels).recv(ctx=ctx))
        except (Canceled, ChanClosed):
            pass

    async def recv_ok(self, book, ctx):
        try:
            value, ok = await book.rng.choice(self.channels).recv_ok(ctx=ctx)
        except Canceled:
            return
        if ok:
            book.got.append(value)
        else:
            assert value is None

    async def select(self, book, _):
        rng = book.rng
        cases, values = [], []
        for _ in range(rng.randint(1, 4)):
            ch = rng.choice(self.channels)
            kind = rng.random()
            value = None
            if kind < 0.45:
                value = book.value()
                cases.append(send(ch, value))
            else:
                cases.append(recv(ch) if kind < 0.9 else rng.choice([None, recv(None)]))
            values.append(value)
        if not any(case is not None and case[0] is not None for case in cases):
            return
        if rng.random() < 0.3:  # one more, that many share
            cases.append(recv(self.root.done()))
            values.append(None)
        sent = None
        try:
            index, value, ok = await select(*cases, default=rng.random() < 0.2)
            if index >= 0 and values[index] is not None:
                sent = values[index]
                book.sent.append(sent)
            elif index >= 0 and ok:
                book.got.append(value)
        except (Canceled, ChanClosed):
            pass
        book.failed.extend(value for value in values if value not in (None, sent))

    def thread(self, book):
        """Blocks, a little at a time."""
        while not self.over:
            ch = book.rng.choice(self.channels)
            timeout = book.rng.choice([0, 0.0002, 0.001])
            value = book.value()
            try:
                if book.rng.random() < 0.5:
                    book.got.append(ch.recv_blocking(timeout))
                else:
                    ch.send_blocking(value, timeout)
                    book.sent.append(value)
                    continue
            except (TimeoutError, ChanClosed):
                pass
            book.failed.append(value)

    # -- who disturbs

    async def disturb(self, rng):
        while not self.over:
            try:
                ctx = self.current.pop(rng.randrange(len(self.books)), None)
            except KeyError:
                ctx = None
            if ctx is not None:
                ctx.cancel()
            for _ in range(rng.randrange(20)):
                await gosched()

    async def main(self):
        gs = [go(self.actor, book) for book in self.books]
        threads = [threading.Thread(target=self.thread, args=(book,)) for book in self.foreign]
        disturbers = [go(self.disturb, random.Random(self.rng.random())) for _ in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        # Without closes everybody gets to the end, by cancels; else until nothing moves.
        patience = self.rng.randrange(100, 2_000)
        while not all(g.done for g in gs):
            assert time.monotonic() < deadline, "somebody has been forgotten"
            await gosched()
            patience -= 1
            if self.closes and patience == 0:
                for ch in self.channels:
                    ch.close()
        self.over = True
        for g in disturbers:
            await g
        for thread in threads:
            await goroutine.blocking(thread.join)
        # A context that has not been cancelled keeps nothing of the waits under it. (A machine
        # may be about to take a hook out.)
        while any(ctx._hooks for ctx in self.contexts):
            assert time.monotonic() < deadline, "a context keeps a hook"
            await gosched()
        check_idle(self.channels)
        self.root.cancel()
        assert not any(ctx._hooks or ctx._children for ctx in self.contexts)
        assert not holds.held
        return check([*self.books, *self.foreign], self.channels)


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
@pytest.mark.parametrize("closes", [False, True])
def test_goroutines(machines, io, closes):
    arrived = 0
    for seed in range(4 * LONGER):
        arrived += start(Chaos(seed, closes).main, machines=machines, io=io)
    assert arrived > 50


@pytest.mark.parametrize("closes", [False, True])
def test_goroutines_and_threads(machines, closes):
    arrived = 0
    for seed in range(3 * LONGER):
        chaos = Chaos(seed, closes, threads=2)
        arrived += start(chaos.main, machines=machines)
    assert arrived > 50


# -- two wakers at the same instant ------------------------------------------------------------


WAKERS = {
    "closes": (lambda a, b, ctx: a.close(), lambda a, b, ctx: b.close()),
    "sends": (lambda a, b, ctx: offer(a), lambda a, b, ctx: offer(b)),
    "a cancel and a send": (lambda a, b, ctx: ctx.cancel(), lambda a, b, ctx: offer(b)),
    "cancels": (lambda a, b, ctx: ctx.cancel(), lambda a, b, ctx: ctx.cancel()),
}


def offer(ch):
    """Send if somebody waits; whether that was so."""
    try:
        ch.send_blocking("v", 0)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    ("wakers", "plain"),
    [*((name, False) for name in WAKERS), ("a cancel and a send", True), ("cancels", True)],
)
def test_two_wakers_at_the_same_instant(wakers, plain):
    """Two threads, let go at once, wake one select, or one receive with a ctx: one of them
    does. (A claim in two steps is seen here one time of six: test_a_claim_is_one_step.)
    """

    async def main():
        starting = [-1]
        results = [[None] * most, [None] * most]
        rounds = []

        def waker(which):
            for i in range(most):
                while starting[0] < i:
                    pass
                if starting[0] == most:
                    return
                results[which][i] = (WAKERS[wakers][which](*rounds[i]),)

        async def waits(a, b, ctx):
            try:
                if plain:
                    return 1, await b.recv(ctx=ctx), True
                goroutine.current().scope = ctx
                return await select(recv(a), recv(b))
            except Canceled:
                return "canceled"

        threads = [threading.Thread(target=waker, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 0.4 * LONGER
        try:
            for i in range(most):
                if time.monotonic() > deadline:
                    break
                a, b = chan(), chan()
                ctx = context.with_cancel(context.background())
                rounds.append((a, b, ctx))
                g = go(waits, a, b, ctx)
                await until(lambda b=b, ctx=ctx: b._recvq and ctx._hooks)
                starting[0] = i
                await until(lambda i=i: results[0][i] and results[1][i])
                outcome = await g
                sent = [results[which][i] == (True,) for which in range(2)]
                if outcome == "canceled":
                    assert not any(sent)
                elif outcome[2]:
                    assert sent == [j == outcome[0] for j in range(2)]
                else:
                    assert wakers == "closes"
                check_idle([a, b])
                await until(lambda ctx=ctx: not ctx._hooks)
        finally:
            starting[0] = most
        for thread in threads:
            await goroutine.blocking(thread.join)

    most = 2_000 * LONGER
    start(main, machines=2)


class Token(list):
    """A waiter's token. Whoever looks at it is overtaken right after the look."""

    overtake = None

    def looked(self, result):
        overtake, self.overtake = self.overtake, None
        if overtake is not None:
            overtake()
        return result

    def __len__(self):
        return self.looked(list.__len__(self))

    def __getitem__(self, at):
        return self.looked(list.__getitem__(self, at))

    def __iter__(self):
        return self.looked(list.__iter__(self))

    def __eq__(self, other):
        return self.looked(list.__eq__(self, other))

    __hash__ = None


@pytest.mark.parametrize("kind", ["waiter", "entries"])
def test_a_claim_is_one_step(kind):
    """Somebody else claims the moment a claim has looked, if it looks: one of them succeeds.

    Fails, always, when `claim` looks first and takes then, of `Waiter` and of `_Entry`.
    (Threads that race for a claim show it now and then only.)
    """
    waiter = Waiter(None)
    waiter.token = token = Token([True])
    both = [waiter, waiter]
    if kind == "entries":
        both = [_Entry(), _Entry()]
        for index, entry in enumerate(both):
            entry.g, entry.token, entry.index = G(), token, index
    had = []
    token.overtake = lambda: had.append(both[1].claim())
    had.append(both[0].claim())
    token.overtake = None
    had.append(both[1].claim())
    assert sum(had) == 1


# -- many at one channel -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [20, 100])
def test_many_come_and_go_at_a_shared_channel(machines, n):
    """Selects that share one ``done``: its queue stays in proportion, and is empty at the end,
    however they leave (another case, a cancel, a timeout)."""

    async def main():
        done, work = chan(), [chan() for _ in range(4)]
        books = [Book(i, random.Random(i)) for i in range(n)]
        longest = 0
        ended = []

        async def member(book):
            rng, me = book.rng, goroutine.current()
            for _ in range(20 * LONGER):
                ctx = context.with_timeout(context.background(), rng.random() * 0.004)
                me.scope = ctx
                value = book.value()
                try:
                    index, got, _ = await select(
                        recv(done), recv(rng.choice(work)), send(rng.choice(work), value)
                    )
                    assert index
                    if index == 1:
                        book.got.append(got)
                        book.failed.append(value)
                    else:
                        book.sent.append(value)
                except Canceled:
                    book.failed.append(value)
                finally:
                    me.scope = None
            ended.append(book)

        gs = [go(member, book) for book in books]
        deadline = time.monotonic() + 20 * LONGER
        while len(ended) < n:
            assert time.monotonic() < deadline
            longest = max(longest, len(done._recvq))
            await gosched()
        for g in gs:
            await g
        check_idle([done, *work])
        assert check(books, work) > 0
        # Of n members each has one entry that lives.
        assert longest <= max(2 * n, n + SHORT) + 1

    start(main, machines=machines)


def test_closing_done_wakes_all(machines):
    async def main():
        done, own = chan(), [chan() for _ in range(100)]

        async def member(ch):
            return (await select(recv(ch), recv(done))).index

        for i in range(5 * LONGER):
            gs = [go(member, ch) for ch in own]
            await until(lambda: sum(len(ch._recvq) for ch in own) == len(own))
            senders = [go(ch.send, 0) for ch in own[i : 60 + i]]
            done.close()
            ends = [await g for g in gs]
            assert sum(ends) >= 40
            for ch, end, g in zip(own[i:], ends[i:], senders, strict=False):
                if end == 1:
                    await ch.recv()
                await g
            check_idle([done, *own])
            done = chan()

    start(main, machines=machines)
