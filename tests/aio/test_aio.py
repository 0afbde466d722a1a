"""aio.run(): what comes back, where it runs, and who may wait meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import time
import traceback
import types
import weakref

import pytest
from aio_support import NAME, asyncio_threads, forever, loop_of
from waiting import until

from goroutine import (
    Canceled,
    ChanClosed,
    Deadlock,
    GoroutinePanic,
    Group,
    aio,
    blocking,
    chan,
    context,
    go,
    gosched,
    sleep,
    start,
)
from goroutine.runtime.dump import stack
from goroutine.runtime.scheduler import running
from goroutine.runtime.thread import holds

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert asyncio_threads() == []
    assert holds.held == {}
    assert aio._thread is None


async def add(a, b, seconds=0.0):
    await asyncio.sleep(seconds)
    return a + b


async def at_once(value):
    return value


def soon(seconds):
    return context.with_timeout(context.background(), seconds)


# -- results ---------------------------------------------------------------------------------


def test_result(machines):
    async def main():
        return await aio.run(add(1, 2)), await aio.run(add("a", "b", 0.01)), await aio.run(forty())

    async def forty():
        return 40

    assert start(main, machines=machines) == (3, "ab", 40)


def test_awaitables_of_every_kind():
    class Plain:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "plain"

    @types.coroutine
    def generator():
        yield from asyncio.sleep(0).__await__()
        return "generator"

    async def make_task():
        return asyncio.create_task(add("ta", "sk"))

    async def make_future():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.01, future.set_result, "future")
        return future

    async def main():
        task, future = await aio.run(make_task()), await aio.run(make_future())
        return [
            await aio.run(Plain()),
            await aio.run(generator()),
            await aio.run(asyncio.sleep(0.01, "sleep")),
            await aio.run(task),
            await aio.run(task),  # which has ended
            await aio.run(future),
        ]

    assert start(main) == ["plain", "generator", "sleep", "task", "task", "future"]


async def numbers():
    yield 1


@pytest.mark.parametrize("what", [None, 1, add, numbers, [], forever], ids=repr)
def test_what_cannot_be_awaited(what):
    async def main():
        with pytest.raises(TypeError, match=r"^aio.run\(\) takes a coroutine, not "):
            await aio.run(what)
        with pytest.raises(TypeError, match=r"^aio.run\(\) takes a coroutine, not async_gen"):
            await aio.run(numbers())
        assert asyncio_threads() == []
        return "done"

    assert start(main) == "done"


def test_what_belongs_to_goroutines_cannot_wait_there():
    async def main():
        with pytest.raises(RuntimeError, match="not in a goroutine"):
            await aio.run(chan().recv())
        full = chan(1)
        await aio.run(full.send("needs no waiting"))
        return await aio.run(full.recv())

    assert start(main) == "needs no waiting"


# -- failures --------------------------------------------------------------------------------


def test_failure_is_the_same_object_with_its_traceback():
    failure = LookupError("no luck")

    async def inner():
        await asyncio.sleep(0)
        raise failure

    async def outer():
        await inner()

    async def main():
        with pytest.raises(LookupError) as caught:
            await aio.run(outer())
        assert caught.value is failure
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None
        return [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    assert start(main) == ["main", "run", "outer", "inner"]


def test_failures_of_a_task_group():
    async def fail(kind):
        await asyncio.sleep(0)
        raise kind

    async def both():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(KeyError))
            group.create_task(fail(ValueError))

    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            await aio.run(both())
        return {type(failure) for failure in caught.value.exceptions}

    assert start(main) == {KeyError, ValueError}


def test_a_failure_nobody_catches_is_a_panic(capfd):
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("no luck")

    async def main():
        go(aio.run(fail()))
        await sleep(20)

    with pytest.raises(GoroutinePanic) as caught:
        start(main)
    assert repr(caught.value.__cause__) == "ValueError('no luck')"
    report = capfd.readouterr().err
    assert "panic: ValueError: no luck" in report
    assert ", in fail" in report


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("first_step", [True, False])
@pytest.mark.parametrize("in_main", [True, False])
def test_sys_exit_and_ctrl_c_reach_start(kind, first_step, in_main, machines):
    async def leave():
        if not first_step:
            await asyncio.sleep(0.001)
        raise kind("bye")

    async def main():
        if in_main:
            await aio.run(leave())
        go(aio.run(leave()))
        await sleep(20)

    with pytest.raises(kind, match="bye"):
        start(main, machines=machines)


def test_they_can_be_caught_and_the_loop_goes_on():
    async def leave():
        raise SystemExit(3)

    async def main():
        loop = await aio.run(loop_of())
        with pytest.raises(SystemExit):
            await aio.run(leave())
        return loop is await aio.run(loop_of())

    assert start(main) is True


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_of_a_background_task_they_reach_start(kind):
    async def leave():
        await asyncio.sleep(0.01)
        raise kind("bye")

    async def begin():
        global background
        background = asyncio.create_task(leave())

    async def main():
        await aio.run(begin())
        await sleep(20)

    with pytest.raises(kind, match="bye"):
        start(main)
    with pytest.raises(kind):
        background.result()


def test_stopping_the_loop_does_not_stop_it():
    async def stop():
        asyncio.get_running_loop().stop()
        return await add(1, 2, 0.01)

    async def main():
        return await aio.run(stop()), await aio.run(add(3, 4))

    assert start(main) == (3, 7)


# -- one thread, one loop --------------------------------------------------------------------


def test_all_calls_of_a_run_share_a_thread_and_a_loop(machines):
    async def where():
        await asyncio.sleep(0.001)
        thread = threading.current_thread()
        assert not thread.daemon
        return asyncio.get_running_loop(), thread

    async def main():
        assert asyncio_threads() == []  # until it is wanted
        async with Group() as group:
            members = [group.go(aio.run(where())) for _ in range(40)]
        places = {member.result() for member in members}
        assert len(places) == 1
        loop, thread = places.pop()
        assert asyncio_threads() == [thread]
        return loop, thread

    loops = set()
    for _ in range(3):
        loop, thread = start(main, machines=machines)
        assert thread.name == NAME
        assert not thread.is_alive()
        assert loop.is_closed()
        loops.add(loop)
    assert len(loops) == 3


def test_what_is_bound_to_the_loop_is_used_by_many_calls(machines):
    """A queue and a lock, as a pool of connections has them."""

    class Shared:
        def __init__(self):
            self.queue, self.lock, self.inside = asyncio.Queue(2), asyncio.Lock(), 0

        async def put(self, value):
            async with self.lock:
                self.inside += 1
                assert self.inside == 1
                await self.queue.put(value)
                self.inside -= 1

    async def main():
        shared = Shared()
        async with Group() as group:
            for n in range(100):
                group.go(aio.run(shared.put(n)))
            members = [group.go(aio.run(shared.queue.get())) for _ in range(100)]
        return sorted(member.result() for member in members)

    assert start(main, machines=machines) == list(range(100))


def test_many_calls_wait_at_once(machines):
    async def main():
        begun = time.monotonic()
        async with Group() as group:
            members = [group.go(aio.run(add(n, n, 0.2))) for n in range(500)]
        assert time.monotonic() - begun < 10  # not one after the other: that is 100 s
        return [member.result() for member in members]

    assert start(main, machines=machines) == [2 * n for n in range(500)]


def test_many_calls_one_after_the_other(machines):
    async def client(n):
        return [await aio.run(add(i, n) if i % 3 else at_once(i)) for i in range(150)]

    async def main():
        async with Group() as group:
            members = [group.go(client, n) for n in range(8)]
        return [member.result() for member in members]

    expected = [[i + n if i % 3 else i for i in range(150)] for n in range(8)]
    assert start(main, machines=machines) == expected


def test_goroutines_go_on_while_a_call_waits():
    async def main():
        g = go(aio.run(forever()))
        for _ in range(100):
            await gosched()
        assert await blocking(sum, [1, 2]) == 3
        return g.done

    assert start(main, machines=1) is False


# -- where it can't be called ----------------------------------------------------------------


def test_on_the_asyncio_thread():
    async def nested():
        with pytest.raises(RuntimeError, match="on the asyncio thread itself: await the corout"):
            await aio.run(add(1, 2))
        return "told"

    async def main():
        return await aio.run(nested())

    assert start(main) == "told"


def test_outside_a_run():
    def step():
        aio.run(add(1, 2)).send(None)

    with pytest.raises(RuntimeError, match=r"not in a goroutine: call this below goroutine.start"):
        step()

    async def main():  # a thread that is no machine
        with pytest.raises(RuntimeError, match="not in a goroutine"):
            await blocking(step)
        return asyncio_threads()

    assert start(main) == []


def test_in_a_goroutine_that_is_being_closed(capfd):
    async def last():
        try:
            await chan().recv()
        finally:
            with pytest.raises(RuntimeError, match="being closed"):
                await aio.run(add(1, 2))
            raise LookupError("so far")

    async def main():
        go(last)
        await gosched()

    start(main)
    assert "LookupError: so far" in capfd.readouterr().err


def test_a_run_that_cannot_have_the_thread(monkeypatch):
    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "new_event_loop", fail)
            with pytest.raises(OSError, match="Too many open files"):
                await aio.run(add(1, 2))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await aio.run(add(1, 2))
        return await aio.run(add(1, 2))

    def fail():
        raise OSError(24, "Too many open files")

    def cannot(self):
        raise RuntimeError("can't start new thread")

    assert start(main) == 3


def test_importing_goroutine_does_not_import_asyncio():
    code = "import sys, goroutine, goroutine.net; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-X", "gil=0", "-c", code], check=False).returncode == 0


# -- to and from goroutines ------------------------------------------------------------------


def test_asyncio_code_starts_goroutines_that_call_asyncio(machines):
    async def inner(results, n):
        await results.send(await aio.run(add(n, 100, 0.001)))

    async def outer(results):
        for n in range(20):
            go(inner, results, n)
            await asyncio.sleep(0)
        return "started"

    async def main():
        results = chan()
        assert await aio.run(outer(results)) == "started"
        return sorted([await results.recv() for _ in range(20)])

    assert start(main, machines=machines) == [n + 100 for n in range(20)]


def test_asyncio_code_sends_and_receives_by_threads_of_the_pool(machines):
    """A full channel stops the asyncio task, and not its loop."""

    async def produce(ch):
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        for n in range(30):
            await asyncio.to_thread(ch.send_blocking, n)
        ticking.cancel()
        ch.close()
        return ticks

    async def consume(ch):
        values = []
        while True:
            try:
                values.append(await asyncio.to_thread(ch.recv_blocking))
            except ChanClosed:
                return values

    async def main():
        first, second = chan(), chan(2)
        async with Group() as group:
            producer = group.go(aio.run(produce(first)))
            consumer = group.go(aio.run(consume(second)))
            async for n in first:
                await sleep(0.001)
                await second.send(n)
            second.close()
        return producer.result() > 5, consumer.result()

    assert start(main, machines=machines) == (True, list(range(30)))


def test_asyncios_threads_are_those_of_blocking():
    async def call(fn, *args):
        return await asyncio.to_thread(fn, *args)

    def fail():
        raise LookupError("no luck")

    async def one(loop):
        return await asyncio.get_running_loop().run_in_executor(None, threading.current_thread)

    async def main():
        thread = await aio.run(call(threading.current_thread))
        assert thread.name == "goroutine-blocking"
        with pytest.raises(LookupError, match="no luck"):
            await aio.run(call(fail))
        # One thread in all, and those that wait in a channel don't count.
        ch = chan()
        async with Group() as group:
            for n in range(5):
                group.go(aio.run(call(ch.send_blocking, n)))
            await aio.run(call(time.sleep, 0.01))
            got = sorted([await ch.recv() for _ in range(5)])
        # One that was cancelled before its turn is not called.
        begun, busy = [], threading.Event()
        async with Group() as group:
            group.go(blocking, busy.wait, 20)
            await until(lambda: running().pool.free == 0)
            with pytest.raises(TimeoutError):
                await aio.run(call(begun.append, 1), ctx=soon(0.02))
            busy.set()
        assert await blocking(lambda: "free") == "free"
        assert begun == []
        return got

    assert start(main, blocking_threads=1) == [0, 1, 2, 3, 4]


# -- the deadlock rule -----------------------------------------------------------------------


def test_no_deadlock_while_a_call_waits(machines):
    async def main():
        ch = chan()

        async def late():
            await asyncio.sleep(0.4)
            go(ch.send, "sent")

        go(aio.run(late()))
        return await ch.recv(), await aio.run(add(1, 2, 0.4))

    assert start(main, machines=machines) == ("sent", 3)


@pytest.mark.parametrize("how", ["returns", "fails", "is cancelled", "waits in a thread"])
@pytest.mark.parametrize("machines", [1, 2])
def test_deadlock_is_found_afterwards(how, machines, capfd):
    async def fail():
        await asyncio.sleep(0.01)
        raise LookupError

    async def wait():
        await asyncio.to_thread(time.sleep, 0.2)

    async def main():
        if how == "returns":
            await aio.run(add(1, 2, 0.2))
        elif how == "fails":
            with pytest.raises(LookupError):
                await aio.run(fail())
        elif how == "is cancelled":
            with pytest.raises(Canceled):
                await aio.run(forever(), ctx=soon(0.2))
        else:
            await aio.run(wait())
        await chan().recv()

    begun = time.monotonic()
    with pytest.raises(Deadlock):
        start(main, machines=machines)
    assert time.monotonic() - begun < 10
    assert "goroutine 1 [chan receive]" in capfd.readouterr().err


def test_a_dump_says_what_it_waits_for():
    async def waits():
        await aio.run(forever())

    async def main():
        g = go(waits)
        await sleep(0.02)
        return stack(g)  # (it is parked, and there is one machine)

    text = start(main, machines=1)
    assert "[asyncio call]" in text
    assert "await aio.run(forever())" in text


# -- what is carried along, and what is left -------------------------------------------------

variable = contextvars.ContextVar("variable", default="unset")


def test_contextvars(machines):
    async def look_and_set():
        seen = variable.get()
        await asyncio.sleep(0.001)
        assert variable.get() == seen
        variable.set("changed there")
        await asyncio.sleep(0)
        assert variable.get() == "changed there"
        return seen

    async def client(n):
        if n % 2:
            variable.set(n)
        got = await aio.run(look_and_set()), variable.get()
        return n, *got

    async def main():
        async with Group() as group:
            members = [group.go(client, n) for n in range(30)]
        return [member.result() for member in members]

    expected = [(n, *[n if n % 2 else "unset"] * 2) for n in range(30)]
    assert start(main, machines=machines) == expected


@pytest.mark.parametrize("ending", ["returns", "fails", "is cancelled", "cancels itself"])
def test_nothing_of_a_call_is_kept(ending):
    """Reference counts free it, without the collector: exceptions keep no frames alive that
    keep them, and the loop forgets the task."""

    class Thing:
        pass

    async def work(thing):
        await asyncio.sleep(0.001)
        if ending == "fails":
            raise LookupError
        if ending == "cancels itself":
            asyncio.current_task().cancel()
        if ending != "returns":
            await forever()
        return Thing()

    async def call(seen):
        thing = Thing()
        seen.append(weakref.ref(thing))
        try:
            seen.append(weakref.ref(await aio.run(work(thing), ctx=soon(0.05))))
        except (LookupError, Canceled):
            pass

    async def main():
        seen = []
        await call(seen)
        # Each thread frees what it has made, when it runs the next time (biased reference
        # counts): so both are kept going.
        deadline = time.monotonic() + 20
        while any(ref() is not None for ref in seen):
            assert time.monotonic() < deadline, "something keeps it"
            await aio.run(asyncio.sleep(0.001))
        return len(seen)

    gc.collect()
    gc.disable()
    try:
        assert start(main, machines=1) == (2 if ending == "returns" else 1)
    finally:
        gc.enable()
