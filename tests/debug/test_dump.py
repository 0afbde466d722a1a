"""debug.dump(): what it says of goroutines in every state."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import pytest
from debug_support import ROOT, environment, header_of

from goroutine import (
    Group,
    blocking,
    chan,
    current,
    debug,
    go,
    gosched,
    recv,
    select,
    sleep,
    start,
    sync,
)
from goroutine.runtime import scheduler
from goroutine.runtime.halt import Halt

pytestmark = pytest.mark.timeout(30)

SECONDS = float(os.environ.get("STRESS_SECONDS", "1"))


async def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        await sleep(0.001)


@contextmanager
def beside(call):
    """Make a call in another thread meanwhile; a list with what it gave, in the end."""
    result = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    yield result
    thread.join()


async def dump_from_outside():
    """The dump as another thread gets it while the caller waits for it."""
    return await blocking(debug.dump)


# -- what it says ----------------------------------------------------------------------------


def test_outside_a_run():
    assert debug.dump() == ""
    assert debug.dump(group=True) == ""


async def inner(ch):
    await ch.recv()


async def outer(ch):
    await inner(ch)


def test_all_of_it(machines):
    async def main():
        ch = chan()
        g = go(outer, ch)
        await gosched()
        await until(lambda: header_of(debug.dump(), "inner").endswith("[chan receive]:"))
        text = debug.dump()
        await ch.send(1)
        return g.id, text

    number, text = start(main, machines=machines)
    head, _, rest = text.partition("\n\n")
    assert head.startswith("goroutine 1 [running]:\n")
    file = __file__
    line = inner.__code__.co_firstlineno
    assert rest == (
        f"goroutine {number} [chan receive]:\n"
        f'  File "{file}", line {line + 5}, in outer\n'
        "    await inner(ch)\n"
        f'  File "{file}", line {line + 1}, in inner\n'
        "    await ch.recv()\n"
        f"created by test_dump.test_all_of_it.<locals>.main in goroutine 1\n"
    )


def test_the_caller_has_its_own_stack():
    def deeper():
        return debug.dump()

    async def below():
        return deeper()

    def compute():
        inside.set()
        over.wait(10)

    async def main():
        g = go(compute)
        while not inside.is_set():
            await gosched()
        try:
            return await below()
        finally:
            over.set()
            await g

    inside, over = threading.Event(), threading.Event()
    text = start(main, machines=2)
    text, other = text.split("\n\n")
    assert "its stack can't be read" in other
    names = re.findall(r", in (\S+)\n", text)
    prefix = "test_the_caller_has_its_own_stack.<locals>."
    assert names == [prefix + name for name in ("main", "below", "deeper")]
    assert text.startswith("goroutine 1 [running]:\n")
    assert "machine" not in text


def test_what_each_waits_for(machines):
    async def receives(ch):
        await ch.recv()

    async def sends(ch):
        await ch.send(1)

    async def selects(ch):
        await select(recv(ch), recv(chan()))

    async def sleeps(ch):
        await sleep(100)

    async def locks(ch):
        await mutex.lock()

    async def counts(ch):
        await wg.wait()

    async def joins(ch):
        await asleep

    async def calls(ch):
        await blocking(over.wait, 20)

    async def in_a_group(ch):
        async with Group() as group:
            group.go(sleep, 100)

    functions = {
        receives: "chan receive",
        sends: "chan send",
        selects: "select",
        sleeps: "sleep",
        locks: "sync.Mutex.Lock",
        counts: "sync.WaitGroup.Wait",
        joins: "join",
        calls: "blocking call",
        in_a_group: "group wait",
    }
    mutex, wg, over = sync.Mutex(), sync.WaitGroup(), threading.Event()
    asleep = None

    def said(text):
        prefix = "test_what_each_waits_for.<locals>."
        return {fn: header_of(text, prefix + fn.__name__) for fn in functions}

    async def main():
        nonlocal asleep
        wg.add(1)
        await mutex.lock()
        gs = {}
        for fn in functions:
            gs[fn] = go(fn, chan())
            asleep = asleep or gs.get(sleeps)
        wanted = {fn: f"goroutine {gs[fn].id} [{reason}]:" for fn, reason in functions.items()}
        end = time.monotonic() + 10
        while True:
            await sleep(0.01)
            text = await dump_from_outside()
            if said(text) == wanted:
                over.set()
                return
            assert time.monotonic() < end, text

    start(main, machines=machines)


def test_runnable_ones():
    """Not begun; having given way; and woken, in the place where it waited."""

    async def waits(ch):
        await ch.recv()

    async def gives_way():
        while True:
            await gosched()

    async def not_begun():
        pass

    async def main():
        ch = chan()
        go(waits, ch)
        go(gives_way)
        await gosched()
        await gosched()
        before = debug.dump()
        go(not_begun)
        await ch.send(1)
        return before, debug.dump()

    before, after = start(main, machines=1)
    at = "test_runnable_ones.<locals>."
    assert header_of(before, at + "waits").endswith("[chan receive]:")
    assert header_of(before, at + "gives_way").endswith("[runnable]:")
    for name in ("waits", "gives_way", "not_begun"):
        assert header_of(after, at + name).endswith("[runnable]:")


def test_in_all_queues():
    """Hundreds that have been woken where they wait: next, the batch, the ring, the global
    queue."""

    async def waits(ch):
        await ch.recv_ok()

    async def main():
        ch = chan()
        for _ in range(1000):
            go(waits, ch)
        await until(lambda: debug.stats().goroutines.waiting == 1000)
        before = debug.dump(group=False)
        ch.close()
        found = debug.stats()
        assert min(found.queue, found.machines[0].queue - 200) > 0
        return before, debug.dump(group=False)

    before, after = start(main, machines=1)
    assert before.count("[chan receive]:\n") == 1000
    assert after.count("[runnable]:\n") == 1000


def test_one_that_computes(machines):
    over = []
    inside = []

    def compute():
        inside.append(1)
        while not over:
            pass

    async def main():
        for _ in range(3):
            go(inner, chan())
        await sleep(0.01)
        gs = [go(compute) for _ in range(machines)]
        for g in gs:
            await g

    def outside():
        while len(inside) < machines:
            time.sleep(0.001)
        texts.append(debug.dump())
        over.append(1)

    texts = []
    thread = threading.Thread(target=outside)
    thread.start()
    start(main, machines=machines)
    thread.join()
    (text,) = texts
    assert (
        text.count(" [running]:\n  goroutine running on another thread: its stack can") == machines
    )
    assert text.count("it began as test_dump.test_one_that_computes.<locals>.compute\n") == machines
    assert text.count(" [chan receive]:\n") == 3


def test_one_inside_a_long_call_of_c():
    """It lets no thread stop it; what stops all threads (gc.get_referents, assigning to
    __class__) would wait for its end, and nobody could dump a program that hangs in one."""
    begun, ended, texts = threading.Event(), [], []

    def compute():
        begun.set()
        sum(range(20_000_000))
        ended.append(1)

    def outside():
        begun.wait(10)
        time.sleep(0.02)
        texts.append((debug.dump(), list(ended)))

    async def main():
        go(inner, chan())
        await sleep(0.01)
        with beside(outside):
            await go(compute)

    start(main, machines=2)
    ((text, ended_by_then),) = texts
    assert header_of(text, "inner").endswith(" [chan receive]:")
    assert not ended_by_then


def test_in_a_context_of_its_own_and_in_an_asynchronous_generator():
    var = ContextVar("var")

    async def values(ch):
        while True:
            yield await ch.recv()

    async def reads(ch):
        var.set(1)
        async for _ in values(ch):
            pass

    async def main():
        ch = chan()
        go(reads, ch)
        await ch.send(1)
        await sleep(0.001)
        return debug.dump()

    text = start(main, machines=1)
    at = "test_in_a_context_of_its_own_and_in_an_asynchronous_generator.<locals>."
    names = re.findall(rf", in {re.escape(at)}(\S+)\n", text)
    assert names == ["main", "reads", "values"]
    assert header_of(text, at + "values").endswith("[chan receive]:")


def test_those_of_a_foreign_thread_have_no_creator():
    async def main():
        ch = chan()
        with beside(lambda: go(inner, ch)) as made:
            pass
        await sleep(0.01)
        text = debug.dump()
        await ch.send(1)
        return made[0].id, text

    number, text = start(main, machines=1)
    part = next(part for part in text.split("\n\n") if part.startswith(f"goroutine {number} "))
    assert "created by" not in part


# -- groups ----------------------------------------------------------------------------------


def test_groups():
    async def main():
        ch = chan()
        gs = [go(outer, ch) for _ in range(12)] + [go(inner, ch) for _ in range(2)]
        await sleep(0.01)
        text = debug.dump(group=True)
        return [g.id for g in gs], text

    ids, text = start(main, machines=1)
    parts = text.split("\n\n")
    assert parts[0].split("\n")[0] == (
        "12 goroutines [chan receive]: " + ", ".join(map(str, ids[:10])) + ", ..."
    )
    assert parts[0].endswith("created by test_dump.test_groups.<locals>.main in goroutine 1")
    assert parts[1].startswith(f"2 goroutines [chan receive]: {ids[12]}, {ids[13]}\n")
    assert parts[2].startswith("goroutine 1 [running]:\n")
    assert len(parts) == 3


def test_a_group_of_several_creators():
    async def creates(ch):
        go(inner, ch)

    async def main():
        ch = chan()
        for _ in range(3):
            await go(creates, ch)
        await sleep(0.01)
        return debug.dump(group=True)

    text = start(main, machines=1)
    assert text.startswith("3 goroutines [chan receive]: ")
    assert "\ncreated by test_dump.test_a_group_of_several_creators.<locals>.creates\n" in text


def test_many_are_grouped_without_being_asked_and_in_good_time():
    """100,000 are promised in under 2 s of a machine that has nothing else to do."""

    async def main():
        ch = chan()
        for _ in range(3_000):
            go(inner, ch)
        await until(lambda: debug.stats().goroutines.waiting == 3_000)
        began = time.thread_time()
        text = debug.dump()
        took = time.thread_time() - began
        return took, text

    took, text = start(main, machines=2)
    assert re.match(r"3000 goroutines \[chan receive\]: \d", text), text[:200]
    assert took < 1.0


# -- when it can't be had -------------------------------------------------------------------


def test_a_machine_that_does_not_halt(monkeypatch):
    monkeypatch.setattr(Halt, "_settle", lambda self, stopped, asking: None)

    async def main():
        go(inner, chan())
        return debug.dump()

    text = start(main, machines=1)
    assert text.count(" [unknown]:\n  it can't be looked at: ") == 2
    assert "it began as test_dump.inner\n" in text


def test_while_the_run_is_ending():
    texts = []

    async def waits():
        try:
            await chan().recv()
        finally:
            texts.append(debug.dump())

    async def main():
        go(waits)
        go(waits)
        await gosched()

    start(main, machines=1)
    # The one that is being closed is not among them any more.
    assert [text.count(" [unknown]:\n") for text in texts] == [1, 0]
    assert scheduler.running() is None


# -- while others run ------------------------------------------------------------------------


@pytest.mark.timeout(SECONDS + 60)
def test_dumps_while_all_switch(machines):
    """stress_dump.py has what is looked at, and what was seen to fail when it was broken.

    STRESS_SECONDS in the environment for a longer one than 1 s.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-X", "gil=0", "-X", "faulthandler"),
            *(Path(__file__).with_name("stress_dump.py"), str(machines), str(SECONDS)),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=SECONDS + 50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outside, inside, steps = map(int, done.stdout.split()[:3])
    assert (outside > 3, inside > 1, steps > 1000) == (True,) * 3, done.stdout


def test_goroutines_that_look_at_each_other(machines):
    """Two or more at a time."""

    async def looks():
        for _ in range(10):
            assert f"goroutine {current().id} [running]:\n" in debug.dump(group=False)
            await gosched()
        return current().id

    async def main():
        gs = [go(looks) for _ in range(4)]
        return [await g for g in gs] == [g.id for g in gs]

    assert start(main, machines=machines)
