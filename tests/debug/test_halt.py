"""halt.py: no machine begins a step while somebody looks, and everybody goes on afterwards."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from waiting import until_in_thread as until

from goroutine import chan, current, go, gosched, sleep, start
from goroutine.runtime import halt as module
from goroutine.runtime import scheduler, shared
from goroutine.runtime.halt import Halt
from goroutine.runtime.machine import TURNS

pytestmark = pytest.mark.timeout(30)


def in_thread(call):
    """What it gives, from a thread."""
    result = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    thread.join()
    return result[0]


# -- with machines --------------------------------------------------------------------------


def test_nobody_steps_while_it_lasts(machines):
    """Fails at once if the turns are not taken away."""
    steps = [0] * 20
    over = []

    async def switch(i):
        while not over:
            steps[i] += 1
            await gosched()

    def look(running):
        assert running is not None
        before = list(steps)
        time.sleep(0.02)
        return {i for i in range(20) if steps[i] != before[i]}, running

    async def main():
        halt = scheduler.running().halt
        gs = [go(switch, i) for i in range(20)]
        ends = []

        def looks():
            while not all(steps):
                time.sleep(0.001)
            for _ in range(10):
                moved, running = halt.call(look)
                ends.append((moved, {i for i in range(20) if id(gs[i]) in running}))
            over.append(1)

        thread = threading.Thread(target=looks)
        thread.start()
        for g in gs:
            await g
        thread.join()
        # One that was inside of its step may come to its end, and nobody to another one.
        assert all(moved <= running for moved, running in ends)
        assert all(len(running) <= machines for _, running in ends)

    start(main, machines=machines)
    assert min(steps) > 0


def test_what_computes_is_running_and_nobody_waits_for_it(machines):
    over = []
    inside = []

    def compute():
        inside.append(current())
        while not over:
            pass

    async def main():
        gs = [go(compute) for _ in range(machines - 1)]
        while len(inside) < len(gs):
            await sleep(0.001)
        began = time.monotonic()
        runtime = scheduler.running()
        running = runtime.halt.call(lambda running: running)
        took = time.monotonic() - began
        mine = current()
        over.append(1)
        for g in gs:
            await g
        assert set(running) == {id(g) for g in [*gs, mine]}
        assert len(set(running.values())) == machines
        return took

    assert start(main, machines=machines) < 0.9


def test_from_outside_while_all_sleep_and_while_one_computes(machines):
    asleep, computing, over = (threading.Event() for _ in range(3))

    computes = []

    def compute():
        computes.append(id(current()))
        computing.set()
        over.wait(10)  # in a C call

    async def main():
        runtime = scheduler.running()
        seen = []

        def outside():
            until(lambda: all(m.poller.asleep[0] for m in runtime.machines))
            seen.append(runtime.halt.call(lambda running: running))
            asleep.set()
            computing.wait(10)
            seen.append(runtime.halt.call(lambda running: running))
            over.set()

        thread = threading.Thread(target=outside)
        thread.start()
        ch = chan()

        def wake():
            asleep.wait(10)
            ch.send_blocking(1)

        waker = threading.Thread(target=wake)
        waker.start()
        await ch.recv()
        await go(compute)
        thread.join()
        waker.join()
        assert seen[0] == {}
        assert computes[0] in seen[1]

    start(main, machines=machines)


def test_the_rest_of_a_pass_goes_on_and_the_turns_are_back(machines):
    """A goroutine in the middle of a pass halts and goes on; all are woken that waited."""

    async def one(ch):
        await ch.recv()

    async def main():
        runtime = scheduler.running()
        ch = chan()
        gs = [go(one, ch) for _ in range(200)]
        for _ in gs:
            await ch.send(1)
            assert runtime.halt.call(lambda running: running is not None)
        for g in gs:
            await g
        until(lambda: all(m.turns == list(TURNS) for m in runtime.machines))

    start(main, machines=machines)


def test_an_exception_of_the_look_goes_out_and_the_machines_go_on():
    def look(running):
        raise ZeroDivisionError

    async def main():
        runtime = scheduler.running()
        with pytest.raises(ZeroDivisionError):
            runtime.halt.call(look)
        await sleep(0.001)
        return all(m.turns for m in runtime.machines)

    assert start(main, machines=2)


def test_from_the_main_thread_it_goes_on_in_another():
    """A handler may raise there at any time."""
    among = []

    async def main():
        runtime = scheduler.running()
        runtime.errands.do(
            lambda: among.append(runtime.halt.call(lambda _: threading.current_thread()))
        )

    start(main, machines=1)
    assert among[0] is not threading.main_thread()


def test_the_end_of_a_run_waits_for_who_looks():
    looking, go_on = threading.Event(), threading.Event()
    events = []

    def look(running):
        looking.set()
        go_on.wait(10)
        events.append("looked")

    async def waits():
        try:
            await chan().recv()
        finally:
            events.append("closed")

    async def main():
        runtime = scheduler.running()
        go(waits)
        await gosched()
        thread = threading.Thread(target=runtime.halt.call, args=(look,))
        thread.start()
        looking.wait(10)
        threading.Timer(0.1, go_on.set).start()
        return runtime

    runtime = start(main, machines=1)
    assert events == ["looked", "closed"]
    assert in_thread(lambda: runtime.halt.call(lambda running: running)) is None


# -- where a machine must be seen -------------------------------------------------------------


class Stand:
    """Machines that are what we say, in the place of real ones."""

    def __init__(self, count):
        self.machines = [
            SimpleNamespace(id=i, g=None, turns=list(TURNS), poller=SimpleNamespace(asleep=[False]))
            for i in range(count)
        ]
        self.count = count
        self.outcome = None
        self.halt = Halt(self)

    @contextmanager
    def looking(self):
        """Ask, in a thread; the answer goes into the list."""
        answer = []
        thread = threading.Thread(target=lambda: answer.append(self.halt.call(lambda r: r)))
        thread.start()
        until(lambda: not any(m.turns for m in self.machines))
        try:
            yield answer
        finally:
            thread.join()


@contextmanager
def executing():
    """A goroutine, by all appearances inside a step, until it is over."""
    inside, over = threading.Event(), threading.Event()

    def steps():
        inside.set()
        over.wait(10)
        yield

    g = SimpleNamespace(it=steps())
    thread = threading.Thread(target=lambda: next(g.it))
    thread.start()
    inside.wait(10)
    try:
        yield g
    finally:
        over.set()
        thread.join()
        g.it.close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)


def parked():
    def steps():
        yield

    g = SimpleNamespace(it=steps())
    next(g.it)
    return g


@pytest.mark.parametrize("where", ["between steps", "in a commit", "with another's goroutine"])
def test_who_is_not_seen_stands_in_the_way(impatient, where):
    stand = Stand(2)
    first, second = stand.machines
    with executing() as g:
        first.poller.asleep[0] = True
        if where == "in a commit":
            second.g = parked()
        elif where == "with another's goroutine":
            # It has parked and published g, which the first one runs by now.
            first.poller.asleep[0] = False
            first.g = second.g = g
        with stand.looking() as answer:
            pass
        assert answer == [None]
        assert first.turns == second.turns == list(TURNS)


def test_who_has_left_a_goroutine_to_another_is_waited_for():
    """Both have it; which of the two is inside? It's told when one comes to wait."""
    stand = Stand(2)
    first, second = stand.machines
    with executing() as g:
        first.g = second.g = g
        with stand.looking() as answer:
            time.sleep(0.05)
            assert not answer
            waiting = threading.Thread(target=stand.halt.wait, args=(first,))
            waiting.start()
        waiting.join()
        assert answer == [{id(g): second}]


def test_each_place_where_a_machine_stays():
    stand = Stand(4)
    asleep, waits, inside, gone = stand.machines
    asleep.poller.asleep[0] = True
    stand.outcome = (None, None)  # for the last one, which isn't in the table of machines
    threads = [threading.Thread(target=stand.halt.wait, args=(waits,))]
    shared.machines.update({-i: m for i, m in enumerate(stand.machines[:3])})
    try:
        with executing() as g:
            inside.g = g
            with stand.looking() as answer:
                threads[0].start()
            threads[0].join()
            assert answer == [{id(g): inside}]
            assert gone.turns == list(TURNS)
    finally:
        for i in range(3):
            del shared.machines[-i]


def test_before_all_machines_are_made():
    stand = Stand(1)
    stand.count = 2
    assert in_thread(lambda: stand.halt.call(lambda running: running)) is None
    assert stand.machines[0].turns == list(TURNS)


def test_who_waited_goes_on_before_the_next_look(monkeypatch):
    """The lock alone would let a loop of looks starve the machines."""
    monkeypatch.setattr(module, "FAIR", 10)
    stand = Stand(1)
    (m,) = stand.machines
    rounds, over = [0], []

    def machine():
        while not over:
            if not m.turns:
                stand.halt.wait(m)
                rounds[0] += 1

    thread = threading.Thread(target=machine)
    thread.start()
    for _ in range(50):
        assert stand.halt.call(lambda running: running) == {}
        assert not m.turns or m.turns == list(TURNS)
    over.append(1)
    thread.join()
    assert rounds[0] == 50
