"""blocking(): calls on pool threads, how many there are, and what is left of them."""

from __future__ import annotations

import contextvars
import threading
import time
import types

import pytest
from waiting import until

from goroutine import (
    Canceled,
    GoroutinePanic,
    Group,
    chan,
    context,
    go,
    gosched,
    sleep,
    start,
)
from goroutine.runtime import offload
from goroutine.runtime.offload import blocking
from goroutine.runtime.scheduler import running
from goroutine.runtime.shared import machine_or_none

pytestmark = pytest.mark.timeout(30)

NAME = "goroutine-blocking"

both = pytest.mark.parametrize("io", ["io_uring", "epoll"])
everywhere = pytest.mark.parametrize("machines", [1, 2, 4])


def run(main, *args, machines=1, io="epoll", limit=64):
    return start(main, *args, machines=machines, io=io, blocking_threads=limit)


def pool_threads():
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def wait_for(condition, seconds=20.0):
    """On a plain thread: until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    wait_for(lambda: not pool_threads())


class Gauge:
    """Counts how many are inside at once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = self.most = self.total = 0

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1


# -- what comes of a call --------------------------------------------------------------------


@both
@everywhere
def test_it_returns_what_the_function_returns(io, machines):
    def fn(*args, **kwargs):
        return threading.current_thread().name, args, kwargs

    async def main():
        return await blocking(fn, 1, 2, fn=3, self=4)

    assert run(main, io=io, machines=machines) == (NAME, (1, 2), {"fn": 3, "self": 4})


def test_results_and_failures_are_the_very_objects():
    thing, failure = object(), OSError(5, "no")

    def fail():
        raise failure

    async def main():
        assert await blocking(lambda: thing) is thing
        assert await blocking(lambda: failure) is failure  # returned, not raised
        with pytest.raises(OSError, match="no") as caught:
            await blocking(fail)
        assert caught.value is failure
        assert "fail" in [entry.name for entry in caught.traceback]

    run(main)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_any_failure_is_raised_where_it_is_awaited(kind):
    def fail():
        raise kind("text")

    async def main():
        with pytest.raises(kind, match="text"):
            await blocking(fail)
        return await blocking(int, "5")  # the thread survived it

    assert run(main) == 5


def test_a_stop_iteration_becomes_a_runtime_error():
    """Python's rule for whatever passes a generator (PEP 479); the cause tells."""

    async def main():
        with pytest.raises(RuntimeError) as caught:
            await blocking(next, iter(()))
        return caught.value.__cause__

    assert isinstance(run(main), StopIteration)


def test_a_failure_nobody_catches_is_a_panic(capfd):
    async def main():
        go(blocking, int, "x")
        await chan().recv()

    with pytest.raises(GoroutinePanic) as caught:
        run(main)
    assert isinstance(caught.value.__cause__, ValueError)
    assert capfd.readouterr().err.startswith("panic: ValueError: invalid literal")


def test_a_function_that_isn_t_one():
    async def main():
        with pytest.raises(TypeError, match="not callable"):
            await blocking(5)
        with pytest.raises(TypeError):
            await blocking(int, nonsense=1)

    run(main)


def test_it_needs_a_goroutine():
    with pytest.raises(RuntimeError, match="not in a goroutine"):
        blocking(int).send(None)


def test_nothing_is_called_before_it_is_awaited():
    called = []

    async def main():
        blocking(called.append, 1).close()
        await blocking(called.append, 2)

    run(main)
    assert called == [2]


def test_context_variables_are_carried_along_and_stay_there():
    var = contextvars.ContextVar("var", default="unset")

    def fn():
        before = var.get()
        var.set("set on the thread")
        return before

    async def child(value):
        var.set(value)
        assert await blocking(fn) == value
        assert var.get() == value

    async def main():
        assert await blocking(fn) == "unset"
        assert await blocking(fn) == "unset"  # same thread: nothing stuck to it
        for g in [go(child, i) for i in range(10)]:
            await g
        assert var.get() == "unset"

    run(main, machines=2)


# -- the machine goes on -----------------------------------------------------------------------


@both
@everywhere
def test_a_blocked_call_blocks_no_machine(io, machines):
    async def main():
        events = [threading.Event() for _ in range(10)]
        gs = [go(blocking, event.wait, 20) for event in events]
        # Were a machine blocked, this could not go on.
        await until(lambda: len(pool_threads()) == 10)
        for event in reversed(events):
            event.set()
        return [await g for g in gs]

    assert run(main, io=io, machines=machines) == [True] * 10


@both
def test_a_result_wakes_a_sleeping_machine(io):
    async def main():
        for _ in range(30):
            await blocking(time.sleep, 0.003)  # long enough to fall asleep

    run(main, io=io, machines=2)


@everywhere
def test_calls_from_many_goroutines(machines):
    async def work(i):
        total = 0
        for k in range(20):
            total += await blocking(lambda k=k: i * k)
            if k % 5 == 0:
                await gosched()
        return total

    async def main():
        results = [await g for g in [go(work, i) for i in range(50)]]
        assert running().pool.pending == 0
        return results

    assert run(main, machines=machines, limit=8) == [190 * i for i in range(50)]


def test_a_call_may_start_goroutines_that_call():
    async def leaf(n):
        return await blocking(lambda: n + 1)

    def spawn(results, n):
        async def relay():
            await results.send(await go(leaf, n))

        go(relay)  # from a pool thread, which is a foreign one

    async def main():
        results = chan(10)
        for n in range(10):
            await blocking(spawn, results, n)
        return sorted([await results.recv() for _ in range(10)])

    assert run(main, machines=2, limit=2) == list(range(1, 11))


def test_a_call_cannot_wait_as_a_goroutine():
    async def main():
        ch = chan()
        with pytest.raises(RuntimeError, match="not in a goroutine"):
            await blocking(lambda: ch.recv().send(None))

    run(main)


# -- how many threads ----------------------------------------------------------------------------


def test_it_grows_to_the_limit():
    async def main():
        barrier = threading.Barrier(6)  # passes only if six are there at the same time
        for g in [go(blocking, barrier.wait, 20) for _ in range(6)]:
            await g
        return len(pool_threads())

    assert run(main, limit=6) == 6


@everywhere
@pytest.mark.parametrize("limit", [1, 3])
def test_beyond_the_limit_calls_wait(machines, limit):
    gauge, order = Gauge(), []

    async def main():
        open_ = threading.Event()

        def fn(i):
            with gauge:
                order.append(i)
                assert open_.wait(20)
            return i

        pool = running().pool
        gs = []
        for i in range(12):
            gs.append(go(blocking, fn, i))
            await until(lambda: pool.pending == len(gs))
        await until(lambda: gauge.now == limit)
        assert len(pool_threads()) == limit
        assert len(pool.calls) == 12 - limit
        open_.set()
        return [await g for g in gs]

    assert run(main, machines=machines, limit=limit) == list(range(12))
    assert (gauge.most, gauge.total, gauge.now) == (limit, 12, 0)
    if limit == 1:
        assert order == list(range(12))  # first come, first served


def test_one_caller_after_the_other_needs_one_thread():
    async def main():
        idents = {await blocking(threading.get_ident) for _ in range(200)}
        return len(idents), len(pool_threads())

    for machines in (1, 2):
        assert run(main, machines=machines) == (1, 1)


@everywhere
def test_free_threads_are_counted_when_several_calls_come_at_once(machines):
    """Each round needs one thread more than there are; a call left behind would hang it."""

    async def main():
        for n in range(1, 30):
            barrier = threading.Barrier(n)
            for g in [go(blocking, barrier.wait, 20) for _ in range(n)]:
                await g
        return len(pool_threads()), running().pool.free

    assert run(main, machines=machines) == (29, 29)


def test_idle_threads_end_and_new_ones_come(monkeypatch):
    monkeypatch.setattr(offload, "IDLE", 0.02)

    async def main():
        barrier = threading.Barrier(4)
        for g in [go(blocking, barrier.wait, 20) for _ in range(4)]:
            await g
        await until(lambda: not pool_threads())
        assert (running().pool.threads, running().pool.free) == (set(), 0)
        return await blocking(int, "7")

    assert run(main) == 7


@pytest.mark.parametrize("io", ["epoll"])
def test_when_no_thread_can_be_started(monkeypatch, io):
    """The machine makes the call itself, rather than leaving it undone."""

    class NoThread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    without = types.SimpleNamespace(**{**vars(threading), "Thread": NoThread})

    async def main():
        monkeypatch.setattr(offload, "threading", without)
        here = threading.current_thread().name
        assert await blocking(lambda: threading.current_thread().name) == here
        with pytest.raises(ValueError, match="invalid literal"):
            await blocking(int, "x")
        assert (running().pool.pending, running().pool.threads) == (0, set())
        monkeypatch.setattr(offload, "threading", threading)
        return await blocking(lambda: threading.current_thread().name)

    assert run(main, io=io) == NAME


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(limit):
    async def main():
        pass

    with pytest.raises(ValueError, match="blocking_threads must be at least 1"):
        run(main, limit=limit)


# -- the end of a run ----------------------------------------------------------------------------


def test_the_threads_are_gone_after_start():
    async def main():
        barrier = threading.Barrier(5)
        for g in [go(blocking, barrier.wait, 20) for _ in range(5)]:
            await g
        assert len(pool_threads()) == 5

    run(main)
    assert pool_threads() == []


def test_calls_that_outlive_a_run(capfd):
    """start() doesn't wait for them long; they end by themselves and disturb no later run."""
    let_go, ended, entered = threading.Event(), [], []

    def stuck():
        entered.append(1)
        let_go.wait(25)
        return "too late"

    async def call():
        try:
            await blocking(stuck)
        finally:
            ended.append("closed")

    async def leave():
        for _ in range(20):
            go(call)
        await until(lambda: len(entered) == 20)
        return "left"

    async def later():
        stuck_threads = pool_threads()
        let_go.set()
        await until(lambda: not any(thread.is_alive() for thread in stuck_threads))
        for _ in range(50):
            await gosched()
        return await blocking(int, "1")

    try:
        began = time.monotonic()
        assert run(leave) == "left"
        took = time.monotonic() - began
        assert took < 15  # it gives all of them one second together
        assert ended == ["closed"] * 20
        assert len(pool_threads()) == 20
        assert run(later, machines=2) == 1
    finally:
        let_go.set()
    assert capfd.readouterr().err == ""


def test_calls_that_still_wait_for_their_turn_are_dropped():
    first, called = threading.Event(), []

    async def main():
        go(blocking, first.wait, 20)
        pool = running().pool
        await until(lambda: pool.threads and not pool.calls)
        go(blocking, called.append, "second")
        await until(lambda: pool.calls)

    run(main, limit=1)
    first.set()
    wait_for(lambda: not pool_threads())
    assert called == []


def test_a_result_that_nobody_can_take_any_more_is_dropped():
    """The call ends while start() waits for its thread."""
    leaving = threading.Event()

    async def call():
        await blocking(leaving.wait, 20)
        raise AssertionError("went on after the end")

    async def main():
        go(call)
        await until(pool_threads)
        threading.Timer(0.2, leaving.set).start()

    run(main)
    assert leaving.is_set()


# -- cancelled ---------------------------------------------------------------------------------


def cancelable(fn, *args):
    """A goroutine that calls, and what cancels it."""
    ctx = context.with_cancel(context.background())

    async def calls():
        async with Group(ctx):
            return await blocking(fn, *args)

    async def caught():
        try:
            return await calls()
        except Canceled as failure:
            return failure

    return go(caught), ctx


@both
@everywhere
def test_who_is_cancelled_goes_on_at_once(io, machines):
    """While the call runs on, and its thread is busy with it; the result is dropped."""
    let_go, ended = threading.Event(), []

    def call():
        let_go.wait(20)
        ended.append(1)
        return "dropped"

    async def main():
        g, ctx = cancelable(call)
        await until(lambda: running().pool.threads and not running().pool.calls)
        ctx.cancel(ValueError("enough"))
        failure = await g
        assert isinstance(failure, Canceled)
        assert isinstance(failure.__cause__, ValueError)
        assert not ended
        assert running().pool.pending == 1
        let_go.set()
        await until(lambda: running().pool.pending == 0)
        return await blocking(int, "5")

    assert run(main, io=io, machines=machines) == 5
    assert ended == [1]


@everywhere
def test_a_cancelled_call_that_has_not_begun_is_not_made(machines):
    """Seen to fail when _Call.run doesn't look at the token."""
    let_go, called = threading.Event(), []

    async def main():
        first = go(blocking, let_go.wait, 20)
        await until(lambda: running().pool.threads and not running().pool.calls)
        cases = [cancelable(called.append, i) for i in range(5)]
        await until(lambda: len(running().pool.calls) == 5)
        for i in (0, 2, 4):
            cases[i][1].cancel()
            assert isinstance(await cases[i][0], Canceled)
        let_go.set()
        await first
        for i in (1, 3):
            assert await cases[i][0] is None
        await until(lambda: running().pool.pending == 0)

    run(main, machines=machines, limit=1)
    assert sorted(called) == [1, 3]


def test_a_call_under_a_cancelled_context_is_not_made():
    called = []

    async def main():
        ctx = context.with_cancel(context.background())
        ctx.cancel()
        with pytest.raises(Canceled):
            async with Group(ctx):
                await blocking(called.append, 1)
        assert running().pool.threads == set()

    run(main)
    assert called == []


def test_ended_between_the_claim_and_the_wake(monkeypatch):
    """Cancelled, then taken by a pool thread, and only then woken: the goroutine is not lost.

    Seen to fail when Pool.finished forgets the goroutine of a call it hasn't claimed."""
    let_go = threading.Event()
    wake = offload._Call.wake

    def late(call):
        if machine_or_none() is not None:  # the canceller, which has claimed it
            let_go.set()
            deadline = time.monotonic() + 20
            while not running().pool.condition._waiters:  # its thread has nothing to do
                assert time.monotonic() < deadline
                time.sleep(0)
        wake(call)

    async def main():
        first = go(blocking, let_go.wait, 20)
        await until(lambda: running().pool.threads and not running().pool.calls)
        g, ctx = cancelable(int, "1")
        await until(lambda: running().pool.calls)
        monkeypatch.setattr(offload._Call, "wake", late)
        ctx.cancel()
        assert isinstance(await g, Canceled)
        await first

    run(main, limit=1)


def test_a_thousand_calls_that_end_as_they_are_cancelled():
    """Each caller gets its result or is cancelled, and goes on once."""

    async def main():
        results = [0, 0]
        for i in range(1000):
            g, ctx = cancelable(time.sleep, 0.00005 * (i % 3))
            for _ in range(i % 7):
                await gosched()
            if i % 2:
                await sleep(0.00003 * (i % 5))
            ctx.cancel()
            results[isinstance(await g, Canceled)] += 1
        await until(lambda: running().pool.pending == 0)
        return results

    for machines in (1, 4):
        ended, cancelled = run(main, machines=machines)
        assert ended + cancelled == 1000
        assert cancelled


# -- calls that wait for goroutines that call --------------------------------------------------


@both
@everywhere
@pytest.mark.parametrize("limit", [1, 2])
def test_nested_calls(io, machines, limit):
    """A call that waits for a goroutine doesn't count against the limit, so that one may call.

    Seen to hang when leave_for doesn't let another thread begin."""

    async def answers(ch, depth):
        await ch.send(await blocking(call, depth))

    def call(depth):
        if not depth:
            return 0
        ch = chan()
        go(answers, ch, depth - 1)
        return 1 + ch.recv_blocking(timeout=20)

    async def main():
        return [await g for g in [go(blocking, call, 5) for _ in range(4)]]

    assert run(main, io=io, machines=machines, limit=limit) == [5, 5, 5, 5]


def test_sending_waits_for_a_goroutine_too():
    async def takes(ch):
        return await blocking(int, "4"), await ch.recv()

    def call():
        ch = chan()
        g = go(takes, ch)
        ch.send_blocking(3, timeout=20)
        return g

    async def main():
        return await (await blocking(call))

    assert run(main, limit=1) == (4, 3)


def test_back_from_waiting_the_limit_counts_again():
    """The thread that stood in for the one that waited takes no more calls then.

    Seen to fail when an idle thread doesn't look whether it is one too many."""
    gauge = Gauge()
    ch = chan()

    def waits():
        ch.recv_blocking(timeout=20)
        with gauge:
            back.set()
            time.sleep(0.1)

    def other():
        with gauge:
            time.sleep(0.001)

    async def main():
        first = go(blocking, waits)
        await until(lambda: ch._recvq)
        await blocking(other)  # on a second thread
        assert len(running().pool.threads) == 2
        await until(lambda: running().pool.condition._waiters)  # it has nothing to do
        await ch.send(1)
        await until(back.is_set)
        for g in [go(blocking, other) for _ in range(5)]:
            await g
        await first
        assert running().pool.pending == 0

    back = threading.Event()
    run(main, machines=2, limit=1)
    assert (gauge.most, gauge.total) == (1, 7)
