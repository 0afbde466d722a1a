"""Go's deadlock rule: what is one, how it looks, and how soon it is told.

What is none: test_deadlock_looks.py, test_deadlock_stress.py.
"""

import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import children
import pytest

from goroutine import (
    Canceled,
    Deadlock,
    Group,
    blocking,
    chan,
    context,
    go,
    goexit,
    gosched,
    hold,
    recv,
    select,
    send,
    sleep,
    start,
    sync,
)
from goroutine import io as gio
from goroutine.runtime import scheduler
from goroutine.runtime.scheduler import running
from goroutine.runtime.shared import flags, machines
from goroutine.runtime.thread import holds

pytestmark = pytest.mark.timeout(30)

ALL = "all goroutines are asleep - deadlock!"

Main = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True)
def nobody_holds() -> Iterator[None]:
    yield
    assert holds.held == {}


def deadlock(main: Main, *, machines: int = 1, io: str = "auto", text: str = ALL) -> None:
    with pytest.raises(Deadlock) as caught:
        start(main, machines=machines, io=io)
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def asleep_forever() -> None:
    await chan().recv()


# -- what is a deadlock ----------------------------------------------------------------------


async def receives() -> None:
    await chan().recv()


async def sends() -> None:
    await chan().send(1)


async def sends_to_a_full_one() -> None:
    ch = chan(2)
    for i in range(3):
        await ch.send(i)


async def ranges() -> None:
    async for _ in chan():
        pass


async def selects_nothing() -> None:
    await select()


async def selects_nil() -> None:
    await select(recv(None), send(None, 1), None)


async def selects_two() -> None:
    a, b = chan(), chan(1)
    await select(recv(a), recv(b), send(a, 1))


async def locks_twice() -> None:
    mutex = sync.Mutex()
    await mutex.lock()
    await mutex.lock()


async def writes_while_reading() -> None:
    rw = sync.RWMutex()
    await rw.rlock()
    await rw.lock()


async def waits_for_a_group_that_is_never_done() -> None:
    wg = sync.WaitGroup()
    wg.add(1)
    await wg.wait()


async def waits_for_a_signal() -> None:
    mutex = sync.Mutex()
    cond = sync.Cond(mutex)
    async with mutex:
        await cond.wait()


async def acquires_too_much() -> None:
    semaphore = sync.Semaphore(1)
    await semaphore.acquire()
    await semaphore.acquire()


async def joins() -> None:
    await go(receives)


async def waits_for_its_members() -> None:
    async with Group() as group:
        group.go(receives)
        group.go(sends)


async def waits_under_a_context() -> None:
    with context.with_cancel(context.background()) as ctx:
        await chan().recv(ctx=ctx)


async def waits_after_a_timer_was_stopped() -> None:
    """What is left of it in a heap wakes nobody."""
    with context.with_timeout(context.background(), 1000) as ctx:
        try:
            await sleep(0.001, ctx=ctx)
        finally:
            ctx.cancel()
    await chan().recv()


async def waits_in_a_circle() -> None:
    """Each for the next, on every machine there is."""
    ring = [chan() for _ in range(50)]

    async def passes(i: int) -> None:
        await gosched()
        await ring[(i + 1) % 50].send(await ring[i].recv())

    await [go(passes, i) for i in range(50)][7]


async def has_used_everything_before() -> None:
    """Timers, a pipe, a blocking call, a thread: all are over when main falls asleep."""
    r, w = os.pipe()
    try:
        ch = chan()
        with hold():
            thread = threading.Thread(target=ch.send_blocking, args=(1,))
            thread.start()
            await ch.recv()
        thread.join()
        await blocking(time.sleep, 0.001)
        await sleep(0.001)
        os.write(w, b"x")
        await gio.read(r, 1)
        reader = go(gio.readable, r)
        await gosched()
        os.write(w, b"x")
        await reader
        await ch.recv()
    finally:
        os.close(r)
        os.close(w)


EVERYTHING = (
    receives,
    sends,
    sends_to_a_full_one,
    ranges,
    selects_nothing,
    selects_nil,
    selects_two,
    locks_twice,
    writes_while_reading,
    waits_for_a_group_that_is_never_done,
    waits_for_a_signal,
    acquires_too_much,
    joins,
    waits_for_its_members,
    waits_under_a_context,
    waits_after_a_timer_was_stopped,
    waits_in_a_circle,
    has_used_everything_before,
)


@pytest.mark.parametrize("main", EVERYTHING)
def test_it_is_a_deadlock(main: Main) -> None:
    deadlock(main, machines=2)


def test_on_all_machines(io: str, machines: int) -> None:
    """And in one process over and over, with good runs in between."""

    async def works() -> int:
        ch = chan()
        go(ch.send, 5)
        await sleep(0.001)
        return int(await ch.recv())

    for main in (receives, waits_in_a_circle, has_used_everything_before, selects_nothing):
        deadlock(main, machines=machines, io=io)
        assert start(works, machines=machines, io=io) == 5


def test_main_is_gone_by_goexit(machines: int, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        go(gosched)
        go(sleep, 0.01)
        goexit()

    text = "no goroutines (main called goexit) - deadlock!"
    deadlock(main, machines=machines, text=text)
    assert capfd.readouterr().err == f"fatal error: {text}\n"


def test_main_is_gone_and_others_sleep(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        go(receives)
        goexit()

    deadlock(main)
    err = capfd.readouterr().err
    assert err.startswith(f"fatal error: {ALL}\n\ngoroutine ")
    assert "goroutine 1 " not in err


def test_finally_blocks_run() -> None:
    order = []

    async def child() -> None:
        try:
            await chan().recv()
        finally:
            order.append("child")

    async def main() -> None:
        go(child)
        try:
            await chan().recv()
        finally:
            order.append("main")

    for count in (1, 4):
        deadlock(main, machines=count)
        assert order == ["main", "child"]
        order.clear()


# -- what it looks like ------------------------------------------------------------------------

REPORT = """
    async def inner(ch):
        await ch.recv()

    async def outer(ch):
        await inner(ch)

    async def other():
        await select()

    async def main():
        go(outer, chan())
        go(other)
        try:
            await sync.Mutex().lock()
            await chan().send(1)
        finally:
            print("finally")

    from goroutine import sync
    import atexit
    atexit.register(print, "atexit ran")
    start(main, machines=int(sys.argv[1]))
"""


@pytest.mark.parametrize("count", ["1", "4"])
def test_report(count: str) -> None:
    status, out, err = children.run(REPORT, count)
    assert (status, out) == (2, "finally\natexit ran\n")
    lines = err.splitlines()
    assert lines[:2] == [f"fatal error: {ALL}", ""]
    stacks = {}
    for stack in err.split("\n\n")[1:]:
        head, *rest = stack.splitlines()
        found = re.fullmatch(r"goroutine (\d+) \[(.+)\]:", head)
        assert found, err
        stacks[found[2]] = rest
        assert all("/goroutine/" not in line for line in rest), err  # nothing of the runtime's
    functions = {
        reason: [line.rpartition(" in ")[2] for line in rest if line.startswith("  File ")]
        for reason, rest in stacks.items()
    }
    assert functions == {
        "chan send": ["main"],
        "chan receive": ["outer", "inner"],
        "select (no cases)": ["other"],
    }
    assert stacks["chan send"][-1].strip() == "await chan().send(1)"  # main has no creator
    assert stacks["chan receive"][1].strip() == "await inner(ch)"
    assert stacks["chan receive"][-1] == "created by __main__.main in goroutine 1"
    assert stacks["select (no cases)"][-1] == "created by __main__.main in goroutine 1"
    assert re.match(r"goroutine 1 \[", lines[2])  # by number


REASONS = [
    (receives, "chan receive"),
    (sends, "chan send"),
    (selects_two, "select"),
    (locks_twice, "sync.Mutex.Lock"),
    (writes_while_reading, "sync.RWMutex.Lock"),
    (waits_for_a_group_that_is_never_done, "sync.WaitGroup.Wait"),
    (waits_for_a_signal, "sync.Cond.Wait"),
    (acquires_too_much, "semacquire"),
    (joins, "join"),
    (waits_for_its_members, "group wait"),
]


@pytest.mark.parametrize(("main", "reason"), REASONS)
def test_reasons(main: Main, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    deadlock(main)
    assert f"\n\ngoroutine 1 [{reason}]:\n" in capfd.readouterr().err


def test_caught_it_is_no_exit_status() -> None:
    code = REPORT.replace(
        "    start(main",
        "    import contextlib\n    with contextlib.suppress(Deadlock): start(main",
    )
    status, _, err = children.run(code, "1")
    assert status == 0
    assert err.startswith("fatal error: ")


def test_closed_stderr() -> None:
    status, out, _ = children.run(
        REPORT.replace("start(main", "sys.stderr.close(); start(main"), "1"
    )
    assert (status, out) == (2, "finally\natexit ran\n")


# -- how soon ------------------------------------------------------------------------------------


def test_within_100_ms(machines: int, io: str) -> None:
    """Of the last one's falling asleep, however long the program has run or slept before.
    (By the middle one of several: this machine may be busy.)"""
    begun = [0.0]

    async def at_once() -> None:
        begun[0] = time.monotonic()
        await chan().recv()

    async def later() -> None:
        await sleep(0.03)
        await at_once()

    took = []
    for main in (at_once, at_once, at_once, later, later):
        deadlock(main, machines=machines, io=io)
        took.append(time.monotonic() - begun[0])
    assert statistics.median(took) <= 0.15, took


def until_sysmon_sleeps() -> None:
    """On a plain thread."""
    end = time.monotonic() + 20
    still = 0
    while still < 30:
        assert time.monotonic() < end, "sysmon doesn't go to sleep"
        time.sleep(0.001)
        still = 0 if flags["sysmon"] else still + 1


def ended_by(end: Callable[[], float], prepare: Main, machines: int, io: str) -> None:
    """All sleep, sysmon too; then ``end`` is called on a plain thread, after which nothing can
    happen any more (it returns when that was). That must be told soon, though nobody wakes."""
    ended = []

    def thread() -> None:
        until_sysmon_sleeps()
        ended.append(end())

    async def main() -> None:
        threading.Thread(target=thread).start()
        await prepare()
        await chan().recv()

    took = []
    for _ in range(3):
        deadlock(main, machines=machines, io=io)
        took.append(time.monotonic() - ended.pop())
    assert statistics.median(took) <= 0.2, took


def test_a_hold_is_released_while_sysmon_sleeps(machines: int, io: str) -> None:
    """Broken by leaving out the call of sysmon in Holds.drop: hangs."""
    held = []

    async def prepare() -> None:
        held.append(hold())
        held[-1].__enter__()

    def end() -> float:
        held.pop().__exit__(None, None, None)
        return time.monotonic()

    ended_by(end, prepare, machines, io)


def test_the_last_of_several_holds(io: str) -> None:
    async def prepare() -> None:
        for _ in range(5):
            held.append(hold())
            held[-1].__enter__()

    def end() -> float:
        while held:
            held.pop().__exit__(None, None, None)
            if held:
                until_sysmon_sleeps()
        return time.monotonic()

    held: list[hold] = []
    ended_by(end, prepare, 2, io)


def test_a_thread_gives_up_while_sysmon_sleeps(machines: int, io: str) -> None:
    """It waits in recv_blocking, longer than sysmon has patience, and for nothing."""
    ended = []
    ch = chan()

    def thread() -> None:
        with pytest.raises(TimeoutError):
            ch.recv_blocking(timeout=0.5)
        ended.append(time.monotonic())

    async def main() -> None:
        with hold():
            t = threading.Thread(target=thread)
            t.start()
            while not ch._recvq:
                await sleep(0.001)
        await chan().recv()

    deadlock(main, machines=machines, io=io)
    assert time.monotonic() - ended[0] <= 0.3


def test_a_call_whose_caller_was_cancelled_ends_while_sysmon_sleeps(machines: int, io: str) -> None:
    """Its result is dropped and wakes nobody; yet it was what all the others waited for.

    Broken by leaving out look_again() in Pool.finished: hangs."""
    let_go = threading.Event()

    async def prepare() -> None:
        let_go.clear()
        with context.with_cancel(context.background()) as ctx:

            async def calls() -> None:
                with pytest.raises(Canceled):
                    async with Group(ctx):
                        await blocking(let_go.wait, 20)

            g = go(calls)
            while not running().pool.threads or running().pool.calls:
                await sleep(0.001)
            ctx.cancel()
            await g

    def end() -> float:
        let_go.set()
        return time.monotonic()

    ended_by(end, prepare, machines, io)


def test_a_thread_that_ought_to_hold_and_wakes_somebody_at_that_very_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody's frames are read before all machines have left: that would be a use after free.
    (What comes of it is the deadlock all the same.)"""
    running_on_the_side, dumped_among = threading.Event(), []
    deadlocked, dump = scheduler.Runtime.deadlocked, scheduler.dump

    def just_then(runtime: scheduler.Runtime) -> None:
        ch.send_blocking(1)  # on a thread that is no machine
        assert running_on_the_side.wait(10)
        deadlocked(runtime)

    def look_who_is_there(gs: Any) -> str:
        dumped_among.append(list(machines))
        return dump(gs)

    async def main() -> None:
        await ch.recv()
        running_on_the_side.set()
        time.sleep(0.05)
        await chan().recv()

    ch = chan()
    monkeypatch.setattr(scheduler.Runtime, "deadlocked", just_then)
    monkeypatch.setattr(scheduler, "dump", look_who_is_there)
    deadlock(main, machines=2)
    assert dumped_among == [[]]
