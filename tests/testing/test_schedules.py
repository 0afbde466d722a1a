"""Which schedules there are, that all are tried, and that each can be had again."""

import os
import random
import re
import subprocess
import sys
from math import comb
from pathlib import Path

import buggy
import pytest

import goroutine
from goroutine import chan, go, gosched, recv, select, send, sleep, testing
from goroutine.sync import Mutex, RWMutex, Semaphore, WaitGroup
from goroutine.testing import schedule, shrink

pytestmark = pytest.mark.timeout(30)

ROOT = Path(__file__).parent.parent.parent


def all_of(fn, **options):
    """What fn adds to ``seen`` in all its schedules; their number."""
    seen = set()
    every = testing.Exhaustive(**options)
    testing.run(lambda bubble: fn(bubble, seen), strategy=every)
    assert every.complete
    return seen, every.schedules


# -- exhaustive search -----------------------------------------------------------------------------


def interleavings(lengths, preemptions):
    """Orders in which goroutines of so many steps can run: by their numbers, each ``length``
    times; with so many switches away from one that is not at its end."""

    def extend(order, left, last, spent):
        if not any(left):
            yield tuple(order)
        for n, steps in enumerate(left):
            if steps:
                cost = last is not None and last != n and left[last] > 0
                if spent + cost <= preemptions:
                    rest = (*left[:n], steps - 1, *left[n + 1 :])
                    yield from extend([*order, n], rest, n, spent + cost)

    return set(extend([], tuple(lengths), None, 0))


@pytest.mark.parametrize("lengths", [(1, 1), (2, 2), (3, 3), (2, 1, 2), (4, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("preemptions", [0, 1, 2, 100])
def test_all_interleavings_are_tried_each_once(lengths, preemptions):
    """Against a model of its own. (Fails if a point costs nothing, or a park costs one.)"""

    async def main(bubble, seen):
        order = []

        async def steps(n, length):
            for step in range(length):
                if step:
                    await bubble.point()
                order.append(n)

        for n, length in enumerate(lengths):
            go(steps, n, length)
        await bubble.wait()
        seen.add(tuple(order))

    seen, schedules = all_of(main, preemptions=preemptions)
    assert seen == interleavings(lengths, preemptions)
    assert schedules == len(seen)


def test_without_a_bound_there_are_as_many_as_mathematics_has():
    assert len(interleavings((4, 4), 100)) == comb(8, 4)


def test_every_case_of_a_select_is_tried():
    async def main(bubble, seen):
        a, b, c = chan(1), chan(1), chan(1)
        await a.send("a")
        await b.send("b")
        chosen = await select(recv(a), recv(b), send(c, "c"), recv(chan()))
        seen.add(chosen.index)

    seen, schedules = all_of(main, preemptions=0)
    assert seen == {0, 1, 2}
    assert schedules == 3


def test_every_order_of_wakers_and_timers():
    """A sleeper, a timer's function and a deadline, all for the same time."""

    async def main(bubble, seen):
        order = []

        async def sleeper():
            await sleep(1)
            order.append("sleeper")

        async def late():
            with goroutine.context.with_timeout(goroutine.context.background(), 1) as ctx:
                try:
                    await chan().recv(ctx=ctx)
                except TimeoutError:
                    order.append("deadline")

        go(sleeper)
        go(late)
        goroutine.time.after_func(1, lambda: order.append("function"))
        await bubble.sleep(1)
        seen.add(tuple(order))

    seen, _ = all_of(main, preemptions=0)
    assert len(seen) == 6


def test_a_deadline_and_what_it_is_for_at_the_same_time():
    """Either may win."""

    async def main(bubble, seen):
        ch = chan()

        async def answers():
            await sleep(1)
            await select(send(ch, "answer"), default=True)

        go(answers)
        try:
            with goroutine.context.with_timeout(goroutine.context.background(), 1) as ctx:
                seen.add(await ch.recv(ctx=ctx))
        except TimeoutError:
            seen.add("late")

    seen, _ = all_of(main)
    assert seen == {"answer", "late"}


@pytest.mark.parametrize(
    "operation",
    [
        lambda t: t["full"].recv(),
        lambda t: t["free"].send(1),
        lambda t: t["full"].recv_ok(),
        lambda t: anext(t["full"]),
        lambda t: select(recv(t["full"])),
        lambda t: select(recv(t["free"]), default=True),
        lambda t: t["mutex"].lock(),
        lambda t: t["mutex"].__aenter__(),
        lambda t: t["rw"].lock(),
        lambda t: t["rw"].rlock(),
        lambda t: t["rw"].__aenter__(),
        lambda t: t["rw"].reader().__aenter__(),
        lambda t: t["rw"].reader().lock(),
        lambda t: t["semaphore"].acquire(),
        lambda t: t["semaphore"].__aenter__(),
        lambda t: t["group"].wait(),
        lambda t: t["once"].do(lambda: None),
        lambda t: t["done"],
        lambda t: t["timer"].channel.recv(),
        lambda t: gosched(),
        lambda t: t["bubble"].point(),
    ],
)
def test_a_goroutine_can_be_interrupted_before(operation):
    """...each operation that may wait, though this time it need not."""

    async def main(bubble, seen):
        things = {
            "bubble": bubble,
            "full": chan(1),
            "free": chan(1),
            "mutex": Mutex(),
            "rw": RWMutex(),
            "semaphore": Semaphore(1),
            "group": WaitGroup(),
            "once": goroutine.sync.Once(),
            "done": go(int),
            "timer": goroutine.time.Timer(0),
        }
        await things["full"].send(1)
        await bubble.wait()
        order = []

        async def one():
            order.append("before")
            await operation(things)
            order.append("after")

        go(one)
        go(order.append, "other")
        await bubble.wait()
        seen.add(tuple(order))

    seen, _ = all_of(main)
    assert ("before", "other", "after") in seen
    assert ("before", "after", "other") in seen or operation.__code__.co_names == ("gosched",)


def test_bound_too_many_schedules():
    async def main(bubble):
        for _ in range(5):
            go(gosched)
        await bubble.wait()

    with pytest.raises(RuntimeError, match="there are more than 50 schedules"):
        testing.run(main, strategy=testing.Exhaustive(most=50))


def test_a_program_that_is_not_deterministic_is_told():
    turns = iter(range(1000))

    async def main(bubble):
        for _ in range(2 + next(turns) % 2):
            go(int)
        await bubble.wait()

    with pytest.raises(RuntimeError, match="the program is not deterministic: choice 0 was one of"):
        testing.run(main, strategy="exhaustive")


@pytest.mark.parametrize("options", [{"preemptions": -1}])
def test_wrong_settings(options):
    with pytest.raises(ValueError, match="must be at least 0, not -1"):
        testing.Exhaustive(**options)
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        testing.PCT(depth=0)
    with pytest.raises(ValueError, match="choices must be at least 1, not 0"):
        testing.PCT(choices=0)


# -- bugs that are known ---------------------------------------------------------------------------


bugs = pytest.mark.parametrize(
    ("bug", "kind"), [pytest.param(bug, kind, id=name) for name, bug, kind, _ in buggy.BUGS]
)


@bugs
def test_exhaustive_search_finds_it(bug, kind):
    with pytest.raises(kind):
        testing.run(bug, strategy="exhaustive")


@pytest.mark.parametrize(
    "right", [pytest.param(right, id=name) for name, _, _, right in buggy.BUGS]
)
def test_and_nothing_where_nothing_is(right):
    every = testing.Exhaustive(preemptions=3)
    testing.run(right, strategy=every)
    assert every.complete
    assert every.schedules > 3


@pytest.mark.parametrize("strategy", ["random", "pct"])
@bugs
def test_so_do_random_runs(bug, kind, strategy):
    with pytest.raises(kind):
        testing.run(bug, seed=1, strategy=strategy, runs=200)


@bugs
def test_by_default_it_does_not_fail(bug, kind):
    """...and by the defaults: that would be too easy to say anything of a search."""
    testing.run(bug, schedule="-")


@bugs
def test_it_is_found_with_few_choices(bug, kind):
    """Whatever else was random in the run that failed first, two or so are to the point."""
    for seed in range(3):
        with pytest.raises(kind) as caught:
            testing.run(bug, seed=seed, runs=200)
        [word] = re.findall(r"--schedule (\S+)", "".join(caught.value.__notes__))
        assert 1 <= len(schedule.parse(word)) <= 2, word


@bugs
def test_it_is_found_again_by_the_line_that_is_printed(bug, kind, tmp_path):
    with pytest.raises(kind) as caught:
        testing.run(bug, seed=1, runs=200)
    [line] = re.findall(r"re-run: python (.*)", "".join(caught.value.__notes__))
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", *line.split()],
        cwd=os.getcwd(),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1, done
    name = type(caught.value).__name__
    assert re.search(rf"^(goroutine\.errors\.)?{name}", done.stderr, re.MULTILINE), done.stderr
    assert line in done.stderr  # and it is as simple as before


# -- the same again --------------------------------------------------------------------------------


async def busy(bubble, log):
    """A bit of everything that is chosen."""
    a, b, mutex = chan(), chan(2), Mutex()

    async def worker(n):
        rng = random.Random(bubble.seed + n)
        for turn in range(5):
            await sleep(rng.choice((0.5, 1)))
            async with mutex:
                log.append((n, turn, bubble.now()))
            chosen = await select(send(a, n), recv(a), send(b, n), recv(b), default=True)
            log.append((n, chosen))

    for n in range(4):
        go(worker, n)
    goroutine.time.after_func(2, lambda: log.append("rung"))
    await bubble.sleep(10)


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_a_seed_is_a_run(strategy):
    """Bit by bit; and another seed is another one."""
    logs = []
    for seed in [*range(5), *range(5)]:
        log = []
        testing.run(lambda bubble, log=log: busy(bubble, log), seed=seed, strategy=strategy)
        logs.append(log)
    assert logs[:5] == logs[5:]
    assert len({str(log) for log in logs}) == 5


def test_a_seed_is_a_run_in_another_process_too():
    """Whatever its hashes and addresses are."""
    code = (
        "from goroutine import testing; from test_schedules import busy; log = [];"
        "testing.run(lambda bubble: busy(bubble, log), seed=3); print(log)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-X", "gil=0", "-c", code],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
                "PYTHONHASHSEED": str(n),
            },
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
        for n in (1, 2)
    }
    log = []
    testing.run(lambda bubble: busy(bubble, log), seed=3)
    assert printed == {f"{log}\n"}


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_the_runs_before_do_not_matter(strategy):
    """Else a seed would not be enough to see again what the third of a hundred runs did."""
    logs = []

    async def main(bubble):
        log = []
        logs.append(log)
        await busy(bubble, log)

    testing.run(main, seed=1, runs=5, strategy=strategy)
    for seed in range(1, 6):
        testing.run(main, seed=seed, strategy=strategy)
    assert logs[:5] == logs[5:]


def test_a_search_can_be_made_again():
    every = testing.Exhaustive()
    numbers = []
    for _ in range(2):
        testing.run(buggy.update, strategy=every)
        numbers.append(every.schedules)
    assert numbers[0] == numbers[1] > 1


def test_any_schedule_is_a_run():
    """Also one that was never recorded: what is out of range is the last option."""
    rng = random.Random(1)
    for _ in range(20):
        word = schedule.text({rng.randrange(60): rng.randrange(1, 9) for _ in range(9)})
        logs = []
        for _ in range(2):
            log = []
            testing.run(lambda bubble, log=log: busy(bubble, log), seed=1, schedule=word)
            logs.append(log)
        assert logs[0] == logs[1]


# -- PCT -------------------------------------------------------------------------------------------


def test_pct_finds_what_random_walks_miss():
    """A bug that wants one goroutine to be late for 20 turns of another: PCT finds it in about
    every second run, a random walk in one of a million."""

    async def main(bubble):
        count = [0]

        async def long():
            for _ in range(20):
                await bubble.point()
                count[0] += 1

        async def short():
            await bubble.point()
            assert count[0] < 20

        go(long)
        go(short)
        await bubble.wait()

    def found(strategy):
        failures = 0
        for seed in range(60):
            try:
                testing.run(main, seed=seed, strategy=strategy, shrink=False)
            except goroutine.GoroutinePanic:
                failures += 1
        return failures

    assert found("random") == 0
    assert found(testing.PCT(depth=1)) >= 20


def test_pct_does_not_spin():
    """Who gives way goes behind the others, whatever its priority was."""

    async def main(bubble):
        done = []

        async def spins():
            while not done:
                await gosched()

        async def works():
            for _ in range(10):
                await bubble.point()
            done.append(True)

        go(spins)
        go(spins)
        go(works)
        await bubble.wait()

    testing.run(main, seed=1, runs=50, strategy="pct")


# -- schedules as words, and shrinking -------------------------------------------------------------


def test_words():
    assert schedule.text({}) == "-"
    assert schedule.text({7: 2, 3: 1}) == "3:1,7:2"
    assert schedule.parse("-") == {}
    assert schedule.parse("3:1,7:2") == {3: 1, 7: 2}


def test_shrinking_keeps_what_is_needed():
    """Against a made-up program that fails if three of a hundred choices are made."""
    needed = {3: 1, 50: 2, 98: 1}
    runs = []

    def run(choices):
        runs.append(choices)
        trace = [("next", 4, choices.get(at, 0)) for at in range(100)]
        if all(choices.get(at, 0) >= index for at, index in needed.items()):
            return shrink.Failed(ValueError(), trace)
        if len(choices) % 2:
            return shrink.Failed(KeyError(), trace)  # another failure: not this one
        return None

    rng = random.Random(1)
    first = run({at: rng.randrange(1, 4) for at in range(100)} | {50: 3})
    first = run({at: index for at, (_, _, index) in enumerate(first.trace)} | {50: 3, 3: 3})
    assert schedule.deviations(shrink.shrink(first, run).trace) == needed
    assert len(runs) < 120


def test_shrinking_ends(monkeypatch):
    monkeypatch.setattr(shrink, "MOST", 10)
    runs = []

    def run(choices):
        runs.append(choices)

    trace = [("next", 2, 1)] * 1000
    failed = shrink.Failed(ValueError(), trace)
    assert shrink.shrink(failed, run) is failed
    assert len(runs) == 10


def test_failures_of_the_same_kind():
    def panic(cause):
        failure = goroutine.GoroutinePanic("x")
        failure.__cause__ = cause
        return shrink.kind_of(failure)

    assert panic(ValueError(1)) == panic(ValueError(2)) != panic(KeyError(1))
    kind = shrink.kind_of
    assert kind(goroutine.Deadlock("a")) != kind(goroutine.Deadlock("b"))
    assert kind(ExceptionGroup("a", [ValueError()])) != kind(ExceptionGroup("a", [KeyError()]))
