"""A bubble: what runs in it, when it ends, and how."""

import gc
import threading
import weakref

import pytest

import goroutine
from goroutine import (
    Canceled,
    Deadlock,
    GoroutinePanic,
    Group,
    chan,
    debug,
    go,
    gosched,
    sleep,
    testing,
)
from goroutine.runtime.shared import bubbles, machines
from goroutine.runtime.spawn import spawners
from goroutine.sync import Cond, Mutex, Semaphore, WaitGroup

pytestmark = pytest.mark.timeout(20)


def every(fn, **options):
    """Whatever the schedule."""
    exhaustive = testing.Exhaustive(**options)
    result = testing.run(fn, strategy=exhaustive)
    assert exhaustive.complete
    return result


def test_it_gives_what_the_function_returned():
    async def main(bubble):
        return bubble.seed, goroutine.current().id, goroutine.num_goroutine(), goroutine.machines()

    assert testing.run(main, seed=5) == (5, 1, 1, 1)


def test_the_result_is_that_of_the_last_run():
    seeds = []

    async def main(bubble):
        seeds.append(bubble.seed)
        return bubble.seed

    assert testing.run(main, seed=10, runs=4) == 13
    assert seeds == [10, 11, 12, 13]


def test_the_seed_is_that_of_the_environment(monkeypatch):
    async def main(bubble):
        return bubble.seed

    monkeypatch.setenv("GOROUTINE_SEED", "0x10")
    assert testing.run(main) == 16
    assert testing.run(main, seed=3) == 3
    monkeypatch.setenv("GOROUTINE_SEED", "many")
    with pytest.raises(ValueError, match="GOROUTINE_SEED must be a number, not 'many'"):
        testing.run(main)
    monkeypatch.delenv("GOROUTINE_SEED")
    assert len({testing.run(main) for _ in range(5)}) > 1


async def nothing(bubble):
    pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"runs": 0}, ValueError),
        ({"strategy": "lucky"}, ValueError),
        ({"schedule": "1:2:3"}, ValueError),
        ({"schedule": "x"}, ValueError),
    ],
)
def test_wrong_arguments(options, error):
    with pytest.raises(error):
        testing.run(nothing, **options)


def test_wrong_functions():
    with pytest.raises(TypeError):
        testing.run(None)
    with pytest.raises(TypeError, match="async def"):
        testing.run(lambda bubble: 1)


def test_an_exception_is_raised_as_it_is_with_a_note():
    failure = LookupError("not there")

    async def main(bubble):
        raise failure

    with pytest.raises(LookupError) as caught:
        testing.run(main, seed=77)
    assert caught.value is failure
    [note] = failure.__notes__
    assert "seed 77" in note
    assert "schedule='-'" in note  # a local function has no name for the command line


def test_a_panic():
    async def main(bubble):
        go(fail)
        await chan().recv()

    async def fail():
        raise ValueError("no luck")

    with pytest.raises(
        GoroutinePanic, match=r"panic in goroutine 2 .*fail\): ValueError: no luck"
    ) as c:
        testing.run(main)
    assert isinstance(c.value.__cause__, ValueError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_means_the_program_is_raised_as_it_is(kind):
    async def main(bubble):
        go(stop)
        await chan().recv()

    def stop():
        raise kind(3)

    with pytest.raises(kind):
        testing.run(main)


def test_nothing_is_left_of_a_bubble():
    class Thing:
        pass

    refs = []

    async def main(bubble):
        thing = Thing()
        refs.append(weakref.ref(thing))
        go(chan().recv)
        await sleep(1)
        raise ValueError(thing)

    with pytest.raises(ValueError):  # noqa: PT011
        testing.run(main)
    ident = threading.get_ident()
    assert ident not in machines
    assert ident not in spawners
    assert ident not in bubbles
    gc.collect()
    assert refs[0]() is None


def test_goroutines_are_closed_where_they_wait():
    closed = []

    async def waits(n):
        try:
            await chan().recv()
        finally:
            closed.append(n)

    async def main(bubble):
        go(waits, 1)
        go(waits, 2)
        await bubble.wait()
        raise LookupError

    with pytest.raises(LookupError):
        testing.run(main, shrink=False)
    assert closed == [1, 2]


def test_what_fails_while_closing_is_noted():
    async def bad():
        try:
            await chan().recv()
        finally:
            raise ValueError("cannot tidy up")

    async def main(bubble):
        go(bad)
        await bubble.wait()
        raise LookupError

    with pytest.raises(LookupError) as caught:
        testing.run(main)
    assert "while closing goroutine 2: ValueError: cannot tidy up" in caught.value.__notes__


def test_a_dump():
    async def main(bubble):
        go(sleep, 1)
        await bubble.wait()
        go(gosched)
        text = debug.dump()
        await sleep(1)
        return text

    text = testing.run(main)
    assert "goroutine 1 [running]:" in text
    assert "testing.run(main)" not in text  # the stack ends where the bubble begins
    assert "text = debug.dump()" in text
    assert "goroutine 2 [sleep]:" in text
    assert "goroutine 3 [runnable]:" in text


# -- the end ---------------------------------------------------------------------------------------


def test_it_ends_when_all_have():
    done = []

    async def late():
        await gosched()
        done.append(True)

    async def main(bubble):
        go(late)

    every(main)
    assert all(done)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: chan().recv(),
        lambda: chan().send(1),
        goroutine.select,
        lambda: goroutine.select(goroutine.recv(None), goroutine.recv(chan())),
        lambda: Semaphore(0).acquire(),
        lambda: sleep(float("inf")),
    ],
)
def test_a_deadlock(wait):
    async def main(bubble):
        await wait()

    with pytest.raises(Deadlock) as caught:
        testing.run(main)
    assert str(caught.value) == "deadlock: all goroutines in bubble are blocked"


def test_a_deadlock_has_the_stacks():
    async def holds_on(mutex):
        await mutex.lock()

    async def main(bubble):
        mutex = Mutex()
        await mutex.lock()
        go(holds_on, mutex)
        await goroutine.select()

    with pytest.raises(Deadlock) as caught:
        testing.run(main)
    notes = "\n".join(caught.value.__notes__)
    assert "goroutine 1 [select (no cases)]:" in notes
    assert "goroutine 2 [sync.Mutex.Lock]:" in notes
    assert "in test_a_deadlock_has_the_stacks.<locals>.holds_on" in notes
    assert "created by " in notes


@pytest.mark.parametrize("wait", [lambda: chan().recv(), lambda: sleep(1)])
def test_goroutines_that_outlive_the_main_one(wait):
    """Time has stopped, so a sleeper never wakes."""

    async def main(bubble):
        go(wait())
        await bubble.wait()

    with pytest.raises(Deadlock) as caught:
        testing.run(main)
    text = "deadlock: main bubble goroutine has exited but blocked goroutines remain"
    assert str(caught.value) == text


def test_main_may_end_by_goexit():
    done = []

    async def other():
        await gosched()
        done.append(True)

    async def main(bubble):
        go(other)
        goroutine.goexit()

    assert testing.run(main) is None
    assert done == [True]


def test_a_run_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr("goroutine.testing.machine.MOST_STEPS", 1000)

    async def main(bubble):
        while True:
            await gosched()

    with pytest.raises(RuntimeError, match="still running after 1000 steps"):
        testing.run(main, shrink=False)


# -- wait ------------------------------------------------------------------------------------------


def test_wait_returns_when_all_others_are_blocked():
    async def main(bubble):
        ch, done = chan(), []

        async def work():
            for n in range(3):
                await gosched()
                done.append(n)
            await ch.recv()
            done.append("end")

        go(work)
        await bubble.wait()
        assert done == [0, 1, 2]
        assert bubble.now() == 946684800.0
        await ch.send(None)
        await bubble.wait()
        assert done == [0, 1, 2, "end"]

    every(main)


def test_wait_lets_no_time_pass():
    async def main(bubble):
        go(sleep, 5)
        await bubble.wait()
        assert bubble.now() == 946684800.0
        await sleep(5)

    every(main)


def test_timers_that_are_due_go_off_before_wait_returns():
    async def main(bubble):
        rung = []
        for n in range(3):
            goroutine.time.after_func(1, lambda n=n: rung.append(n))
        await sleep(1)
        await bubble.wait()
        orders.add(tuple(rung))

    orders = set()
    every(main)
    assert len(orders) == 6
    assert all(sorted(order) == [0, 1, 2] for order in orders)


def test_sleep_is_a_sleep_and_a_wait():
    async def main(bubble):
        done = []

        async def work():
            await sleep(1)
            await gosched()
            done.append(bubble.now())

        go(work)
        await bubble.sleep(1)
        assert done == [946684801.0]

    every(main)


def test_two_waits_at_once():
    async def main(bubble):
        go(bubble.wait)
        await gosched()
        await bubble.wait()

    for seed in range(10):
        with pytest.raises((RuntimeError, GoroutinePanic), match="wait already in progress"):
            testing.run(main, seed=seed)


def test_wait_again():
    async def main(bubble):
        for _ in range(3):
            await bubble.wait()
        await sleep(1)
        await bubble.wait()

    testing.run(main)


# -- everything that waits works in there ----------------------------------------------------------


def test_channels_groups_and_locks():
    async def main(bubble):
        mutex, total, jobs, group = Mutex(), [], chan(2), WaitGroup()

        async def worker():
            async for job in jobs:
                async with mutex:
                    await sleep(0.5)
                    total.append(job)

        for _ in range(3):
            group.go(worker)
        async with Group() as senders:
            for n in range(6):
                senders.go(jobs.send, n)
        jobs.close()
        await group.wait()
        return sorted(total), bubble.now()

    for strategy in ("random", "pct"):
        result = testing.run(main, seed=1, runs=50, strategy=strategy)
        assert result == ([0, 1, 2, 3, 4, 5], 946684803.0)


def test_a_cond():
    async def main(bubble):
        cond, ready, woken = Cond(Mutex()), [], []

        async def waits():
            async with cond.mutex:
                while not ready:
                    await cond.wait()
                woken.append(True)

        go(waits)
        go(waits)
        await bubble.wait()
        async with cond.mutex:
            ready.append(True)
        cond.broadcast()
        await bubble.wait()
        assert len(woken) == 2

    every(main)


def test_cancellation():
    async def main(bubble):
        async def fails():
            await sleep(1)
            raise ValueError("no luck")

        try:
            async with Group() as group:
                group.go(fails)
                member = group.go(sleep, 60)
        except ValueError:
            pass
        with pytest.raises(Canceled):
            member.result()
        return bubble.now()

    assert every(main) == 946684801.0


def test_join():
    async def child():
        await sleep(1)
        return "done"

    async def main(bubble):
        g = go(child)
        return await g, await g

    assert every(main) == ("done", "done")


def test_plain_functions_and_context_variables():
    import contextvars

    var = contextvars.ContextVar("var", default="none")
    seen = []

    async def child():
        seen.append(var.get())
        var.set("child's")
        await gosched()
        seen.append(var.get())

    async def main(bubble):
        seen.append(var.get())
        var.set("main's")
        await go(child)
        await go(lambda: seen.append(var.get()))
        goroutine.time.after_func(1, lambda: seen.append(var.get()))
        await bubble.sleep(1)
        return var.get()

    var.set("outer")
    assert testing.run(main) == "main's"
    assert seen == ["outer", "main's", "child's", "main's", "main's"]
    assert var.get() == "outer"


def test_an_object_of_another_library():
    class Foreign:
        def __await__(self):
            yield "what?"

    async def main(bubble):
        with pytest.raises(RuntimeError, match="an object that goroutine doesn't know"):
            await Foreign()

    testing.run(main)


def test_bubbles_on_several_threads():
    """Each has its own clock, and nothing of the others."""
    results = {}

    def thread(n):
        async def main(bubble):
            ch = chan()
            for m in range(20):
                await sleep(n)
                go(ch.send, m)
                assert await ch.recv() == m
            return bubble.now()

        results[n] = testing.run(main, seed=n, runs=20)

    threads = [threading.Thread(target=thread, args=(n,)) for n in range(1, 4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {n: 946684800.0 + 20 * n for n in range(1, 4)}


def test_a_program_beside_a_bubble():
    """Its clock is the real one, its channels are its own."""
    began, stop = threading.Event(), threading.Event()
    turns = []

    async def program():
        ch = chan()
        before = goroutine.time.now()
        began.set()
        while not stop.is_set():
            go(ch.send, 1)
            await ch.recv()
            await goroutine.select(goroutine.recv(goroutine.time.after(0.001)))
            turns.append(1)
        return goroutine.time.now() - before

    async def main(bubble):
        async with Group() as group:
            for _ in range(3):
                group.go(sleep, 100)
        return bubble.now()

    took = []
    t = threading.Thread(target=lambda: took.append(goroutine.start(program, machines=2)))
    t.start()
    try:
        assert began.wait(10)
        while len(turns) < 50:
            assert testing.run(main, runs=10) == 946684900.0
    finally:
        stop.set()
        t.join()
    assert 0 < took[0] < 20
