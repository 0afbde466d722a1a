"""Cancelling whatever parks, but the network: nothing is lost, nothing is left, told once.

(The network: net/test_net_cancel.py. What each thing promises beyond that is tested with it.)
"""

# ruff: noqa: PT012 (what raises is the end of an `async with Group()`, hence all of it)

import random
import threading
import time as clock

import pytest
from waiting import until

import goroutine
from goroutine import (
    Canceled,
    ChanClosed,
    DeadlineExceeded,
    Group,
    chan,
    context,
    go,
    recv,
    select,
    send,
    sleep,
    start,
    sync,
    time,
)
from goroutine.runtime import scheduler
from goroutine.runtime.goroutine import Goroutine
from goroutine.runtime.shared import current
from goroutine.runtime.wait import Waiter, cancelable

pytestmark = pytest.mark.timeout(30)

LONG = 3600.0


def timers():
    return sum(len(m.p.timers) for m in scheduler.running().machines)


# -- each thing that parks ------------------------------------------------------------------------


class Op:
    """Something that parks. ``ctx``: whether it takes one."""

    ctx = True

    async def begin(self):
        """Make it park from now on."""

    async def wait(self, ctx):
        raise NotImplementedError

    def parked(self):
        """Whether it does; and false when it was cancelled: nothing is left."""
        raise NotImplementedError

    async def works(self):
        """It can be used as ever."""


class Send(Op):
    async def begin(self):
        self.ch = chan(1)
        await self.ch.send("first")

    async def wait(self, ctx):
        await self.ch.send("canceled", ctx=ctx)

    def parked(self):
        return self.ch._sendq

    async def works(self):
        g = go(self.ch.send, "second")
        assert [await self.ch.recv(), await self.ch.recv()] == ["first", "second"]
        await g
        assert len(self.ch) == 0
        await self.ch.send("first")


class Recv(Op):
    async def begin(self):
        self.ch = chan()

    async def wait(self, ctx):
        await self.ch.recv(ctx=ctx)

    def parked(self):
        return self.ch._recvq

    async def works(self):
        g = go(self.ch.recv)
        await self.ch.send("value")
        assert await g == "value"


class RecvOk(Recv):
    async def wait(self, ctx):
        await self.ch.recv_ok(ctx=ctx)


class Range(Recv):
    ctx = False

    async def wait(self, ctx):
        async for _ in self.ch:
            pass


class Select(Recv):
    ctx = False

    async def begin(self):
        self.ch, self.other, self.full = chan(), chan(3), chan()

    async def wait(self, ctx):
        await select(recv(self.other), send(self.full, 1), recv(self.ch), None, recv(self.other))

    def parked(self):
        return self.ch._recvq or self.other._recvq or self.full._sendq


class SelectNothing(Op):
    ctx = False
    inside = False

    async def wait(self, ctx):
        self.inside = True
        try:
            await select()
        finally:
            self.inside = False

    def parked(self):
        return self.inside


class Sleep(Op):
    async def begin(self):
        self.before = 0

    async def wait(self, ctx):
        await sleep(LONG, ctx=ctx)

    def parked(self):
        now = clock.monotonic() + LONG / 2
        heaps = [m.p.timers for m in scheduler.running().machines]
        return any(e[2].fire is not None and e[0] > now for h in heaps for e in list(h._heap))

    async def works(self):
        await sleep(0.0001)


class TimerChannel(Op):
    async def begin(self):
        self.timer = time.Timer(LONG)

    async def wait(self, ctx):
        await self.timer.channel.recv(ctx=ctx)

    def parked(self):
        return self.timer.channel._recvq or self.timer.channel._alarm

    async def works(self):
        self.timer.reset(0.0001)
        await self.timer.channel.recv()
        self.timer.reset(LONG)


class Join(Op):
    ctx = False

    async def begin(self):
        self.ch = chan()
        self.g = go(self.ch.recv)

    async def wait(self, ctx):
        await self.g

    def parked(self):
        return self.g.joiners

    async def works(self):
        assert not self.g.done
        await self.ch.send("result")
        assert await self.g == "result"
        await self.begin()


class Blocking(Op):
    ctx = False

    async def begin(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    async def wait(self, ctx):
        await goroutine.blocking(self.block)

    def block(self):
        self.begun.set()
        self.go_on.wait(10)

    def parked(self):
        if not self.begun.is_set():
            return False
        self.begun.clear()
        return True

    async def works(self):
        self.go_on.set()
        await until(lambda: not scheduler.running().pool.busy())
        self.go_on.clear()
        assert await goroutine.blocking(sum, [1, 2]) == 3


class Semaphore(Op):
    async def begin(self):
        self.it = sync.Semaphore(3)
        await self.it.acquire(2)

    async def wait(self, ctx):
        await self.it.acquire(2, ctx=ctx)

    def parked(self):
        return self.it._queue

    async def works(self):
        assert self.it.try_acquire()
        assert not self.it.try_acquire()
        self.it.release()


class Mutex(Op):
    async def begin(self):
        self.it = sync.Mutex()
        await self.it.lock()

    async def wait(self, ctx):
        await self.it.lock(ctx=ctx)

    def parked(self):
        return self.it._queue

    async def works(self):
        g = go(self.it.lock)
        await until(self.parked)
        self.it.unlock()
        await g


class ReadLock(Op):
    async def begin(self):
        self.it = sync.RWMutex()
        await self.it.lock()

    async def wait(self, ctx):
        await self.it.rlock(ctx=ctx)

    def parked(self):
        return self.it._queue

    async def works(self):
        self.it.unlock()
        assert self.it.try_lock()


class WriteLock(Op):
    async def begin(self):
        self.it = sync.RWMutex()
        await self.it.rlock()

    async def wait(self, ctx):
        await self.it.lock(ctx=ctx)

    def parked(self):
        return self.it._draining

    async def works(self):
        assert self.it.try_rlock()  # no writer waits
        self.it.runlock()
        assert not self.it.try_lock()


class Cond(Op):
    async def begin(self):
        self.it = sync.Cond(sync.Mutex())

    async def wait(self, ctx):
        async with self.it.mutex:
            await self.it.wait(ctx=ctx)

    def parked(self):
        return self.it._queue

    async def works(self):
        g = go(self.wait, None)
        await until(self.parked)
        self.it.signal()
        await g
        assert self.it.mutex.try_lock()
        self.it.mutex.unlock()


class WaitGroup(Op):
    async def begin(self):
        self.it = sync.WaitGroup()
        self.it.add()

    async def wait(self, ctx):
        await self.it.wait(ctx=ctx)

    def parked(self):
        return self.it._queue

    async def works(self):
        g = go(self.it.wait)
        await until(self.parked)
        self.it.done()
        await g
        self.it.add()


class Once(Op):
    async def begin(self):
        self.it = sync.Once()
        self.ch = chan()
        go(self.it.do, self.ch.recv)
        await until(lambda: self.ch._recvq)

    async def wait(self, ctx):
        await self.it.do(self.ch.recv, ctx=ctx)

    def parked(self):
        return self.it._mutex._queue

    async def works(self):
        await self.ch.send(1)
        await self.it.do(self.ch.recv)
        await self.begin()


OPS = Op.__subclasses__() + Recv.__subclasses__()


async def cancelled(op, how):
    """``op.wait()`` in a goroutine, cancelled in this way; what it got."""
    why = ValueError("why")
    caught = []

    async def run(ctx):
        try:
            await op.wait(ctx)
        except Canceled as failure:
            caught.append(failure)
            await sleep(0.0001)  # told once
            raise

    if how == "group":
        with pytest.raises(ValueError, match="why"):
            async with Group() as group:
                member = group.go(run, None)
                await until(op.parked)
                raise why
        with pytest.raises(Canceled):
            member.result()
        assert not group.context._hooks
    else:
        ctx = context.with_cancel(context.background())
        if how == "deadline":
            ctx = context.with_timeout(context.background(), 0.01, cause=why)
        g = go(_quietly, run, ctx)
        if how != "deadline":
            await until(op.parked)
        if how == "ctx":
            ctx.cancel(why)
        elif how == "thread":
            await goroutine.blocking(ctx.cancel, why)
        await g
        assert not ctx._hooks
        with pytest.raises(Canceled):  # at once
            await op.wait(ctx)
    [failure] = caught
    assert isinstance(failure, DeadlineExceeded) == (how == "deadline")
    assert failure.__cause__ is why


async def _quietly(run, ctx):
    try:
        await run(ctx)
    except Canceled:
        pass


@pytest.mark.parametrize("kind", OPS, ids=lambda kind: kind.__name__)
def test_cancelled_it_leaves_nothing_and_works_as_before(kind, machines):
    async def main():
        op = kind()
        await op.begin()
        for how in ["ctx", "thread", "deadline", "group"] if op.ctx else ["group"]:
            for _ in range(2):
                await cancelled(op, how)
                assert not op.parked(), how
                await op.works()

    start(main, machines=machines)


@pytest.mark.parametrize("kind", OPS, ids=lambda kind: kind.__name__)
def test_cancelled_before_it_parks(kind):
    async def main():
        op = kind()
        await op.begin()
        log = []

        async def run(group):
            group.context.cancel()
            try:
                await op.wait(None)
            except Canceled:
                log.append("told")
                await sleep(0.0001)
                raise

        async with Group() as group:
            member = group.go(run, group)
        assert log == ["told"]
        with pytest.raises(Canceled):
            member.result()
        if kind is not Blocking:  # (whose call may have begun, or not)
            assert not op.parked()
        await op.works()

    start(main, machines=1)


def test_what_is_ready_is_not_had_under_a_cancelled_ctx():
    async def main():
        ctx = context.with_cancel(context.background())
        ctx.cancel()
        ch = chan(2)
        await ch.send(1)
        for wait in (ch.recv(ctx=ctx), ch.recv_ok(ctx=ctx), ch.send(2, ctx=ctx), sleep(0, ctx=ctx)):
            with pytest.raises(Canceled):
                await wait
        assert len(ch) == 1

    start(main, machines=1)


def test_a_thousand_wait_under_one_context(machines):
    async def main():
        ctx = context.with_cancel(context.background())
        a, b = chan(), chan()
        canceled = chan(2_000)

        async def wait(i):
            try:
                if i % 3 == 0:
                    await a.recv(ctx=ctx)
                elif i % 3 == 1:
                    await b.send(i, ctx=ctx)
                else:
                    await sleep(LONG, ctx=ctx)
            except Canceled:
                await canceled.send(i)

        for i in range(2_000):
            go(wait, i)
        await until(lambda: len(ctx._hooks) == 2_000)
        ctx.cancel()
        assert {await canceled.recv() for _ in range(2_000)} == set(range(2_000))
        assert not ctx._hooks
        assert not a._recvq
        assert not b._sendq
        assert timers() == 0

    start(main, machines=machines)


# -- both at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 2])
@pytest.mark.parametrize("way", ["ctx", "select in a group"])
def test_no_value_is_lost_or_doubled(way, capacity, machines):
    """Senders and receivers are cancelled all the time: what was sent is received, once.

    Fails at once when Waiter.cancel() doesn't claim. (That the claim is one atomic step is
    more than it was seen to notice.)
    """
    senders, each = 3, 150

    async def main():
        pick = random.Random(1)
        ch = chan(capacity)
        sent, received = [], []
        open_ = {}
        over = False

        async def canceling():
            while not over:
                for ctx in list(open_)[::2]:
                    ctx.cancel()
                    open_.pop(ctx, None)
                if pick.random() < 0.3:
                    await sleep(0.0001)
                await goroutine.gosched()

        async def under(wait):
            """``await wait(ctx)`` with somebody who cancels it; None if that came first."""
            if way == "ctx":
                with context.with_cancel(context.background()) as ctx:
                    open_[ctx] = True
                    try:
                        return await wait(ctx)
                    except Canceled:
                        return None
                    finally:
                        open_.pop(ctx, None)
            got = None
            async with Group() as group:
                open_[group.context] = True
                try:
                    got = await wait(None)
                finally:
                    open_.pop(group.context, None)
            return got

        async def do_send(ctx, value):
            if ctx is None:
                await select(send(ch, value), recv(None))
            else:
                await ch.send(value, ctx=ctx)
            return True

        async def do_recv(ctx):
            if ctx is None:
                chosen = await select(recv(ch), recv(None))
                return chosen.value, chosen.ok
            return await ch.recv_ok(ctx=ctx)

        async def sender(number):
            for i in range(each):
                value = (number, i)
                while not await under(lambda ctx, value=value: do_send(ctx, value)):
                    pass
                sent.append(value)

        async def receiver():
            while True:
                got = await under(do_recv)
                if got is not None:
                    if not got[1]:
                        return
                    received.append(got[0])

        canceler = go(canceling)
        receivers = [go(receiver) for _ in range(3)]
        for g in [go(sender, n) for n in range(senders)]:
            await g
        ch.close()
        for g in receivers:
            await g
        over = True
        await canceler
        assert sorted(received) == sorted(sent)
        assert len(received) == senders * each
        assert not ch._recvq
        assert not ch._sendq

    start(main, machines=machines)


def test_sleeps_cancelled_when_they_end(machines):
    async def main():
        ended = canceled = 0
        for i in range(300):
            with context.with_cancel(context.background()) as ctx:
                go(ctx.cancel)
                try:
                    await sleep(0.00001 * (i % 10), ctx=ctx)
                    ended += 1
                except Canceled:
                    canceled += 1
        assert ended + canceled == 300
        assert timers() == 0

    start(main, machines=machines)


def test_joins_cancelled_when_they_end(machines):
    async def main():
        for _ in range(200):
            ch = chan()
            g = go(ch.recv)
            results = []

            async def join(g=g, results=results):
                results.append(await g)

            async with Group() as group:
                members = [group.go(join) for _ in range(3)]
                cancel = group.go(group.context.cancel)
                go(ch.send, "result")  # (which nobody cancels)
            assert cancel.done
            assert all(member.done for member in members)
            assert await g == "result"
            assert not g.joiners
            assert not group.context._hooks

    start(main, machines=machines)


def test_close_and_cancel_at_once(machines):
    async def main():
        for _ in range(300):
            ch = chan()
            ctx = context.with_cancel(context.background())
            ends = []

            async def wait(ch=ch, ctx=ctx, ends=ends):
                try:
                    await ch.recv(ctx=ctx)
                except (Canceled, ChanClosed) as failure:
                    ends.append(failure)

            gs = [go(wait), go(wait), go(ctx.cancel), go(ch.close)]
            for g in gs:
                await g
            assert len(ends) == 2
            assert not ctx._hooks

    start(main, machines=machines)


# -- the two looks of runtime/wait.py -------------------------------------------------------------


class Scope:
    """A scope that lets the test act while the hook is being put in."""

    def __init__(self, meanwhile):
        self.hooks = []
        self.meanwhile = meanwhile
        self.ended = None

    def _scope(self):
        return self

    def watch(self, hook):
        self.meanwhile(hook)
        self.hooks.append(hook)

    def unwatch(self, hook):
        while hook in self.hooks:
            self.hooks.remove(hook)

    def failure(self):
        return None


def test_who_was_woken_before_its_hook_was_in_leaves_none():
    """The goroutine runs on, on another machine, while its commit still puts the hook in.

    Fails without the last look in publish(), at ``hook.over``.
    """

    async def main():
        mine = current()
        woken = []

        def meanwhile(hook):
            # On mine, after commit: the wait has been published. Somebody wakes it ...
            assert hook.claim()
            mine.runtime.globalq.put([hook.g])
            goroutine.runtime.idle.wakep()
            # ... and it runs, elsewhere, past the point where it forgets its hook.
            end = clock.monotonic() + 10
            while not woken and clock.monotonic() < end:
                pass
            assert woken

        scope = Scope(meanwhile)

        def wait():
            g = current().g
            yield from cancelable(Waiter(g), lambda _: None, g, scope)
            woken.append(current() is not mine)

        await _as_awaitable(wait)
        await until(lambda: woken)
        assert woken == [True]
        await sleep(0.001)
        assert not scope.hooks

    start(main, machines=2)


def test_a_wait_that_ends_takes_its_hook_out():
    """Also when it ends with the run. Fails without forget() after the wait."""
    scope = Scope(lambda hook: hook.fire())

    async def main():
        def wait():
            g = current().g
            yield from cancelable(Waiter(g), lambda _: None, g, scope)

        await _as_awaitable(wait)
        assert not scope.hooks
        scope.meanwhile = lambda hook: None
        go(_as_awaitable(wait))
        await until(lambda: scope.hooks)

    start(main, machines=1)
    assert not scope.hooks


async def _as_awaitable(steps):
    import types

    await types.coroutine(steps)()


def test_a_context_cancelled_just_before_the_hook_is_in():
    """Fails without the second look in CancelContext.watch()."""

    async def main():
        ctx = context.with_cancel(context.background())

        class Hooks(dict):
            def __setitem__(self, hook, value):
                ctx.cancel()  # and finds nobody
                super().__setitem__(hook, value)

        ctx._hooks = Hooks()
        with pytest.raises(Canceled):
            await chan().recv(ctx=ctx)
        assert not ctx._hooks

    start(main, machines=1)


def test_a_hook_that_both_cancel_is_cancelled_once():
    async def main():
        a = context.with_cancel(context.background())
        b = context.with_cancel(context.background())
        ch = chan()
        caught = []

        async def wait(ctx):
            try:
                await ch.recv(ctx=ctx)
            except Canceled as failure:
                caught.append(failure)

        async with Group(a) as group:
            group.go(wait, b)
            await until(lambda: ch._recvq)
            [hook] = b._hooks
            a.cancel(ValueError("a"))
            b.cancel(ValueError("b"))
            hook.cancel(b)
            hook.cancel(a)
        assert [str(failure.__cause__) for failure in caught] == ["a"]
        assert not ch._recvq
        assert not b._hooks

    start(main, machines=1)  # (who was told has not said so: the group ends quietly)


def test_a_waiter_is_claimed_once():
    g = Goroutine()
    waiter = Waiter(g)
    assert waiter.claim()
    assert not waiter.claim()
    waiter.cancel(Scope(None))
    assert waiter.canceled is None
