"""since.py: for how many minutes a goroutine has waited."""

import threading
import time

import pytest
from debug_support import header_of

from goroutine import blocking, chan, current, debug, go, gosched, sleep, start
from goroutine.runtime import dump as dump_module
from goroutine.runtime import scheduler, since
from goroutine.runtime.since import Marked, Rounds

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def clock(monkeypatch):
    """Seconds to add to the time that a dump and a round take for the present."""

    class Clock:
        ahead = 0.0

        def __call__(self):
            return time.monotonic() + self.ahead

    clock = Clock()
    monkeypatch.setattr(dump_module, "monotonic", clock)
    monkeypatch.setattr(since, "monotonic", clock)
    return clock


async def waits(ch, seen=None):
    while True:
        value = await ch.recv()
        if seen is not None:
            seen.append(value)


def header(function):
    return header_of(debug.dump(), function)


def go_round():
    """One round of sysmon's."""
    scheduler.running().sysmon._rounds.go()


def test_minutes(clock, machines):
    async def main():
        go(waits, chan())
        while "[chan receive" not in header("waits"):
            await sleep(0.001)
        go_round()
        headers = []
        for ahead in (0, 59, 61, 3599, 3601):
            clock.ahead = ahead
            headers.append(header("waits").partition(" [")[2])
        return headers

    assert start(main, machines=machines) == [
        "chan receive]:",
        "chan receive]:",
        "chan receive, 1 minutes]:",
        "chan receive, 59 minutes]:",
        "chan receive, 60 minutes]:",
    ]


def test_a_step_begins_it_anew(clock, machines):
    async def main():
        ch, seen = chan(), []
        g = go(waits, ch, seen)
        await ch.send(1)
        while "[chan receive" not in header("waits"):
            await sleep(0.001)
        go_round()
        assert type(g.it) is Marked
        clock.ahead = 120
        assert header("waits").endswith("[chan receive, 2 minutes]:")
        await ch.send(2)
        while len(seen) < 2 or "[chan receive" not in header("waits"):
            await sleep(0.001)
        assert type(g.it) is not Marked
        assert header("waits").endswith("[chan receive]:")
        go_round()
        go_round()
        clock.ahead = 300
        assert header("waits").endswith("[chan receive, 3 minutes]:")

    start(main, machines=machines)


def test_everybody_goes_on(machines):
    """Marks upon marks, while goroutines switch, end, fail to wait and are cancelled."""

    async def passes_on(left, right):
        while (value := await left.recv()) is not None:
            await right.send(value)
        await right.send(None)

    async def main():
        first = left = chan()
        gs = []
        for _ in range(20):
            right = chan()
            gs.append(go(passes_on, left, right))
            left = right

        async def feed():
            for i in range(200):
                await first.send(i)
            await first.send(None)

        gs.append(go(feed))
        over = threading.Event()

        def rounds():
            count = 0
            while not over.is_set():
                go_round()
                count += 1
            return count

        thread = threading.Thread(target=rounds)
        thread.start()
        try:
            values = [await left.recv() for _ in range(200)]
            assert await left.recv() is None
        finally:
            over.set()
            thread.join()
        for g in gs:
            await g
        return values

    assert start(main, machines=machines) == list(range(200))


def test_a_marked_one_is_closed_at_the_end():
    closed = []

    async def waits_and_tells():
        try:
            await chan().recv()
        finally:
            closed.append(1)

    async def main():
        go(waits_and_tells)
        await gosched()
        go_round()

    start(main, machines=1)
    assert closed == [1]


def test_running_ones_are_not_marked():
    async def main():
        go_round()
        return type(current().it) is Marked

    assert not start(main, machines=1)


def test_in_many_parts(monkeypatch, machines):
    """Not more at once than the machines can stand still for."""
    monkeypatch.setattr(since, "AT_ONCE", 10)
    sizes = []
    mark = since._mark

    def marking(gs, running):
        sizes.append(len(gs))
        mark(gs, running)

    monkeypatch.setattr(since, "_mark", marking)

    async def main():
        ch = chan()
        gs = [go(waits, ch) for _ in range(95)]
        while debug.stats().goroutines.waiting < 95:
            await sleep(0.001)
        go_round()
        assert all(type(g.it) is Marked for g in gs)
        before = list(sizes)
        sizes.clear()
        go_round()
        return before

    before = start(main, machines=machines)
    assert max(before) == 10
    assert sum(before) == 96
    # Who has a mark is not looked at again: only main is left.
    assert sizes == [1]


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_sysmon_goes_round(monkeypatch, in_main_thread):
    monkeypatch.setattr(since, "ROUND", 0.02)
    among = []
    going = Rounds.go

    def go_and_tell(self):
        among.append(threading.current_thread())
        going(self)

    monkeypatch.setattr(Rounds, "go", go_and_tell)

    async def main():
        g = go(waits, chan())
        until = time.monotonic() + 10
        while type(g.it) is not Marked or len(among) < 3:
            assert time.monotonic() < until
            await sleep(0.001)

    if in_main_thread:
        start(main, machines=1)
    else:
        thread = threading.Thread(target=start, args=(main,), kwargs={"machines": 1})
        thread.start()
        thread.join()
        assert set(among) == {thread}
    assert threading.main_thread() not in among
    assert len(among) >= 3


def test_rounds_cost_a_hundredth(monkeypatch):
    """The next one comes the later the longer this one took."""

    async def main():
        rounds = scheduler.running().sysmon._rounds
        monkeypatch.setattr(Rounds, "go", lambda self: time.sleep(0.5))
        began = time.monotonic()
        rounds._next = 0
        while rounds._next < began + 45:
            assert time.monotonic() < began + 10
            await sleep(0.01)

    start(main, machines=1)


def test_while_nothing_moves(clock):
    """Sysmon sleeps, too, and knows since when."""
    texts = []

    async def main():
        runtime = scheduler.running()

        def outside():
            sysmon = runtime.sysmon
            until = time.monotonic() + 10
            while sysmon.quiet_since() is None and time.monotonic() < until:
                time.sleep(0.01)
            clock.ahead = 130
            texts.append(debug.dump())

        go(waits, chan())
        await blocking(outside)
        texts.append(debug.dump())

    start(main, machines=2)
    quiet, moving = texts
    assert header_of(quiet, "waits").endswith("[chan receive, 2 minutes]:")
    assert header_of(quiet, "test_while_nothing_moves.<locals>.main").endswith(", 2 minutes]:")
    assert header_of(moving, "waits").endswith("[chan receive]:")
