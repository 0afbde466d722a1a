"""What is made in a bubble stays there; what is not in one can't be had."""

import os
import threading

import pytest

import goroutine
from goroutine import (
    Deadlock,
    aio,
    chan,
    context,
    fs,
    go,
    io,
    net,
    process,
    recv,
    select,
    send,
    sleep,
    testing,
    time,
)
from goroutine.net import pipe
from goroutine.runtime.shared import bubbles
from goroutine.sync import Cond, Mutex, Once, RWMutex, Semaphore, WaitGroup

pytestmark = pytest.mark.timeout(20)


def made_inside(make):
    """A thing of a bubble that is over."""

    async def main(bubble):
        return make()

    return testing.run(main)


def run_outside(operation):
    async def main():
        return await operation

    return goroutine.start(main, machines=1)


CHANNEL = "{} synctest channel from outside bubble"
TIMER = "{} of synctest timer from outside bubble"


# -- from outside ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "use", "text"),
    [
        (chan, lambda ch: run_outside(ch.send(1)), CHANNEL.format("send on")),
        (lambda: chan(1), lambda ch: run_outside(ch.send(1)), CHANNEL.format("send on")),
        (chan, lambda ch: ch.send_blocking(1, 0.1), CHANNEL.format("send on")),
        (chan, lambda ch: run_outside(ch.recv()), CHANNEL.format("receive on")),
        (chan, lambda ch: run_outside(ch.recv_ok()), CHANNEL.format("receive on")),
        (chan, lambda ch: run_outside(anext(ch)), CHANNEL.format("receive on")),
        (chan, lambda ch: ch.recv_blocking(0.1), CHANNEL.format("receive on")),
        (chan, lambda ch: ch.close(), CHANNEL.format("close of")),
        (chan, lambda ch: run_outside(select(recv(ch))), CHANNEL.format("select on")),
        (chan, lambda ch: run_outside(select(send(ch, 1), recv(ch))), CHANNEL.format("select on")),
        (lambda: time.Timer(9), lambda t: t.stop(), TIMER.format("stop")),
        (lambda: time.Timer(9), lambda t: t.reset(1), TIMER.format("reset")),
        (lambda: time.Ticker(9), lambda t: t.reset(1), TIMER.format("reset")),
        (lambda: time.Ticker(9), lambda t: t.stop(), TIMER.format("stop")),
        (lambda: time.after_func(9, int), lambda t: t.stop(), TIMER.format("stop")),
        (lambda: time.after_func(9, int), lambda t: t.reset(1), TIMER.format("reset")),
        (
            lambda: time.Timer(9),
            lambda t: run_outside(t.channel.recv()),
            CHANNEL.format("receive on"),
        ),
        (
            WaitGroup,
            lambda group: group.add(1),
            "sync: WaitGroup.Add called from inside and outside synctest bubble",
        ),
        (Mutex, lambda m: m.try_lock(), "use of synctest object from outside bubble"),
        (RWMutex, lambda m: m.try_lock(), "use of synctest object"),
        (lambda: Semaphore(1), lambda s: s.try_acquire(), "use of synctest object"),
        (
            lambda: context.with_cancel(context.background()),
            lambda ctx: ctx.cancel(),
            "cancel of synctest context from outside bubble",
        ),
        (lambda: pipe()[0], lambda conn: conn.close(), "use of synctest object|close of synctest"),
    ],
)
def test_a_thing_of_a_bubble_is_not_used_outside(make, use, text):
    thing = made_inside(make)
    with pytest.raises(RuntimeError, match=text):
        use(thing)


def test_nor_in_another_bubble():
    ch = made_inside(chan)

    async def main(bubble):
        await ch.send(1)

    with pytest.raises(RuntimeError, match="send on synctest channel from outside bubble"):
        testing.run(main)


def test_nor_the_bubble_itself():
    async def main(bubble):
        return bubble

    bubble = testing.run(main)
    for use in (
        bubble.now,
        lambda: run_outside(bubble.wait()),
        lambda: run_outside(bubble.sleep(1)),
    ):
        with pytest.raises(RuntimeError, match="from outside bubble"):
            use()


def test_by_another_thread_while_the_bubble_runs():
    async def main(bubble):
        ch, failures = chan(), []

        def use():
            try:
                ch.send_blocking(1)
            except RuntimeError as failure:
                failures.append(str(failure))

        go(ch.recv)
        await bubble.wait()
        t = threading.Thread(target=use)
        t.start()
        t.join()
        await ch.send(1)
        return failures

    assert testing.run(main) == ["send on synctest channel from outside bubble"]


def test_nothing_has_changed_after_that():
    """What is refused is refused before anything is done."""

    async def main(bubble):
        ch = chan(1)
        await ch.send("first")
        failures = []

        def use():
            try:
                ch.recv_blocking()
            except RuntimeError as failure:
                failures.append(failure)

        t = threading.Thread(target=use)
        t.start()
        t.join()
        return len(failures), await ch.recv()

    assert testing.run(main) == (1, "first")


# -- from inside -----------------------------------------------------------------------------------


def test_a_channel_from_outside_may_be_used_without_waiting():
    ch = chan(2)

    async def main(bubble):
        await ch.send("hello")
        return await ch.recv()

    assert testing.run(main) == "hello"
    ch.send_blocking("still a channel")
    assert ch.recv_blocking() == "still a channel"


def test_who_waits_for_something_from_outside_is_blocked():
    ch = chan()

    async def main(bubble):
        await ch.recv()

    with pytest.raises(Deadlock, match="all goroutines in bubble are blocked"):
        testing.run(main)
    with pytest.raises(TimeoutError):
        ch.send_blocking("nobody is left in the queue", timeout=0.01)


def test_who_is_woken_from_outside_stays_where_it_is():
    """By a thread, and by a machine: neither steps it. (It was found out by taking the look at
    the thread out of Steps: then a machine ran the bubble's goroutine.)"""
    ch = chan()
    ran = []

    async def other():
        await ch.send("from outside")
        for _ in range(20):
            await goroutine.gosched()

    async def main(bubble):
        async def waits():
            await ch.recv()
            ran.append(threading.get_ident())

        go(waits)
        await bubble.wait()
        t = threading.Thread(target=lambda: goroutine.start(other, machines=1))
        t.start()
        t.join()
        await bubble.wait()

    with pytest.raises(Deadlock):
        testing.run(main)
    assert ran == []


def test_who_waits_outside_for_a_goroutine_of_a_bubble_is_woken():
    inside, bubble_thread = [], threading.get_ident()
    begun, done = threading.Event(), []

    async def program():
        begun.set()
        done.append(await inside[0])
        done.append(threading.get_ident() != bubble_thread)

    async def main(bubble):
        async def child():
            t.start()
            assert begun.wait(10)
            while inside[0].joiners is None:
                real_sleep()
            return "result"

        inside.append(go(child))
        return await inside[0]

    def real_sleep():
        threading.Event().wait(0.01)

    t = threading.Thread(target=lambda: goroutine.start(program, machines=1))
    assert testing.run(main, shrink=False) == "result"
    t.join(10)
    assert done == ["result", True]  # and runs where it belongs


# -- nesting ---------------------------------------------------------------------------------------


async def nothing(bubble):
    pass


def test_a_bubble_in_a_bubble():
    async def main(bubble):
        testing.run(nothing)

    with pytest.raises(RuntimeError, match=r"synctest\.Run called from within a synctest bubble"):
        testing.run(main)


def test_a_bubble_in_a_program():
    async def main():
        testing.run(nothing)

    with pytest.raises(RuntimeError, match=r"goroutine.testing.run\(\) in a goroutine"):
        goroutine.start(main, machines=1)


def test_a_program_in_a_bubble():
    async def program():
        pass

    async def main(bubble):
        goroutine.start(program)

    with pytest.raises(RuntimeError, match=r"goroutine.start\(\) in a bubble"):
        testing.run(main)


def test_a_bubble_beside_a_program_by_way_of_blocking():
    """On a thread of its own: that is no goroutine's."""

    async def inside(bubble):
        await sleep(1000)
        return bubble.now()

    async def program():
        return await goroutine.blocking(testing.run, inside)

    assert goroutine.start(program, machines=1) == 946685800.0


# -- what there is not -----------------------------------------------------------------------------


async def _read_a_file():
    async with fs.open(__file__) as f:
        await f.read()


@pytest.mark.parametrize(
    "operation",
    [
        lambda: goroutine.blocking(int),
        _read_a_file,
        lambda: fs.read_bytes(__file__),
        lambda: io.readable(0),
        lambda: process.run(["true"]),
        lambda: net.lookup_host("localhost"),
        lambda: net.listen("udp", "127.0.0.1:0"),
        lambda: aio.run(_nothing()),
    ],
)
def test_not_in_a_bubble(operation):
    async def main(bubble):
        await operation()

    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError, match="not in a bubble"):
        testing.run(main)
    assert set(os.listdir("/proc/self/fd")) <= before


async def _nothing():
    pass


# -- the package is left as it was -----------------------------------------------------------------


def test_operations_are_what_they_were():
    """No point, no lock of a bubble, no virtual clock is left for programs to pay for."""
    from goroutine import channel
    from goroutine.runtime import clock
    from goroutine.testing import points
    from goroutine.time import channel as time_channel

    def state():
        return (
            [vars(cls)[name] for cls, names in points._OPERATIONS for name in names],
            select.__code__,
            channel.threading,
            clock.monotonic,
            time_channel.monotonic,
            type(clock._OFFSET),
        )

    before = state()
    during = []

    async def main(bubble):
        during.append(state())
        raise LookupError

    with pytest.raises(LookupError):
        testing.run(main)
    assert state() == before
    assert all(a != b for a, b in zip(before, during[0], strict=True))
    assert threading is channel.threading
    assert not bubbles


def test_things_made_outside_work_in_a_program_after_a_bubble():
    cond, once = Cond(Mutex()), Once()

    async def main(bubble):
        async with cond.mutex:
            cond.signal()
        await once.do(lambda: None)

    testing.run(main)

    async def program():
        async with cond.mutex:
            return await select(recv(None), default=True)

    assert goroutine.start(program, machines=1).index == -1
