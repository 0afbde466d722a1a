"""The order in which goroutines run, who runs them, and that each runs."""

import itertools
import threading
import time
from collections import Counter
from typing import Any

import pytest

from goroutine import chan, go, gosched, num_goroutine, sleep, start
from goroutine.runtime import scheduler
from goroutine.runtime.machine import INHERIT, SLICE

pytestmark = pytest.mark.timeout(40)


class TestOrder:
    def test_newest_first_then_fifo(self) -> None:
        """Go, measured: six go statements, then a block, run as 5 0 1 2 3 4."""

        async def child(n: int) -> None:
            order.append(n)

        async def main() -> None:
            for n in range(6):
                go(child, n)
            await sleep(0.001)

        order: list[int] = []
        start(main, machines=1)
        assert order == [5, 0, 1, 2, 3, 4]

    def test_gosched_takes_turns(self) -> None:
        async def child(n: int) -> None:
            for _ in range(5):
                order.append(n)
                await gosched()

        async def main() -> None:
            gs = [go(child, n) for n in range(4)]
            for g in gs:
                await g

        order: list[int] = []
        start(main, machines=1)
        first = order[:4]
        assert sorted(first) == [0, 1, 2, 3]
        assert order == first * 5

    def test_gosched_lets_all_others_run(self) -> None:
        """However many there are: ring and global queue included."""

        async def child() -> None:
            ran.append(1)

        async def main() -> None:
            for count in (1, 10, 100, 1_000, 10_000):
                ran.clear()
                for _ in range(count):
                    go(child)
                rounds = 0
                while len(ran) < count:
                    await gosched()
                    rounds += 1
                assert rounds <= 3 + count // SLICE, count

        ran: list[int] = []
        start(main, machines=1)

    def test_overflow_is_fifo(self) -> None:
        """On one machine goroutines run roughly by age, through batch, ring and global queue."""

        async def child(n: int) -> None:
            order.append(n)

        async def main() -> None:
            for n in range(5_000):
                go(child, n)
            while num_goroutine() > 1:
                await gosched()

        order: list[int] = []
        start(main, machines=1)
        assert sorted(order) == list(range(5_000))
        # The global queue gets the ring's older half: that one waits for its turn there.
        worst = max(abs(n - place) for place, n in enumerate(order) if n != order[0])
        assert worst < 5_000

    def test_ping_pong_starves_nobody(self) -> None:
        """Two that always make one another runnable, against one that waits behind them."""

        async def ping(a: Any, b: Any) -> None:
            while not ended:
                await a.send(None)
                await b.recv()
                turns.append(1)

        async def pong(a: Any, b: Any) -> None:
            while True:
                await a.recv()
                await b.send(None)

        async def third() -> None:
            for _ in range(50):
                seen.append(len(turns))
                await gosched()
            ended.append(1)

        async def main() -> None:
            a, b = chan(), chan()
            go(ping, a, b)
            go(pong, a, b)
            await go(third)

        turns: list[int] = []
        seen: list[int] = []
        ended: list[int] = []
        start(main, machines=1)
        between = [later - earlier for earlier, later in itertools.pairwise(seen)]
        assert max(between) <= INHERIT  # two steps a turn and more
        assert sum(between) > 0  # they did run meanwhile

    def test_a_busy_pair_does_not_starve_timers_or_threads(self, io: str, machines: int) -> None:
        async def spins() -> None:
            while not ended:
                await gosched()

        async def from_a_thread(out: Any) -> None:
            await out.send(1)

        async def main() -> None:
            for _ in range(2 * machines):
                go(spins)
            out = chan()
            for _ in range(5):
                await sleep(0.001)
                t = threading.Thread(target=go, args=(from_a_thread, out))
                t.start()
                await out.recv()
                t.join()
            ended.append(1)

        ended: list[int] = []
        start(main, machines=machines, io=io)


class TestNothingIsLost:
    @pytest.mark.parametrize("count", [100, 1_000, 5_000])
    def test_many_runnable(self, count: int, machines: int) -> None:
        """More than ring and batch hold: the rest goes to the global queue."""
        seen: list[int] = []

        async def child(n: int) -> None:
            seen.append(n)
            if n % 10 == 0:
                await gosched()
                seen.append(-n)

        async def main() -> None:
            for n in range(count):
                go(child, n)
            while num_goroutine() > 1:
                await sleep(0.001)

        start(main, machines=machines)
        counts = Counter(seen)
        assert len(counts) == count + len(range(10, count, 10))
        assert counts.pop(0) == 2
        assert set(counts.values()) == {1}

    def test_woken_all_at_once(self, machines: int) -> None:
        """20,000 in test_stress_scheduler.py."""
        count = 3_000

        async def child(n: int) -> None:
            await ch.recv_ok()
            seen.append(n)

        async def main() -> None:
            for n in range(count):
                go(child, n)
            while True:
                await gosched()
                if len(ch._recvq) == count:
                    break
            ch.close()
            while num_goroutine() > 1:
                await sleep(0.001)

        ch = chan()
        seen: list[int] = []
        start(main, machines=machines)
        assert sorted(seen) == list(range(count))


def compute(seconds: float) -> int:
    """One long step; which thread did it."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return threading.get_ident()


class TestSharing:
    def test_work_of_one_is_done_by_all(self, io: str) -> None:
        """All made on one machine, which then goes on computing itself."""

        async def main() -> None:
            gs = [go(compute, 0.003) for _ in range(60)]
            for g in gs:
                who.append(await g)

        who: list[int] = []
        start(main, machines=4, io=io)
        assert len(Counter(who)) >= 2
        assert max(Counter(who).values()) < 60

    def test_stealing(self) -> None:
        """Exactly: four steps that wait for one another need four machines."""
        barrier = threading.Barrier(4)

        def meet() -> int:
            barrier.wait(20)
            return threading.get_ident()

        async def main() -> None:
            for _ in range(5):
                gs = [go(meet) for _ in range(4)]
                assert len({await g for g in gs}) == 4

        start(main, machines=4)

    def test_what_is_woken_is_shared_too(self) -> None:
        barrier = threading.Barrier(3)

        async def meets(ch: Any) -> None:
            await ch.recv_ok()
            barrier.wait(20)

        async def main() -> None:
            for _ in range(5):
                ch = chan()
                gs = [go(meets, ch) for _ in range(3)]
                await sleep(0.001)
                ch.close()
                for g in gs:
                    await g

        start(main, machines=3)

    @pytest.mark.parametrize("wake", ["go", "send", "foreign", "timer"])
    def test_a_computing_goroutine_keeps_nobody(self, wake: str, io: str) -> None:
        """Two machines; one of them is in a step that ends only when the other has run what
        this step made runnable, or what was behind it: also the one in its runnext."""
        done = threading.Event()

        async def child(ch: Any) -> None:
            if wake == "send":
                await ch.recv()
            elif wake == "timer":
                await sleep(0.01)
            done.set()

        async def main() -> bool:
            ch = chan()
            if wake in ("send", "timer"):
                go(child, ch)
                await gosched()
            if wake == "go":
                go(child, ch)
            elif wake == "send":
                while not ch._recvq:
                    await gosched()
                await ch.send(1)
            elif wake == "foreign":
                t = threading.Thread(target=go, args=(child, ch))
                t.start()
                t.join()
            return done.wait(10)  # one long step

        assert start(main, machines=2, io=io)

    def test_behind_a_computing_goroutine_on_every_machine(self) -> None:
        """Three of four machines compute; all the rest is done by the fourth."""
        release = threading.Event()
        began = threading.Semaphore(0)

        def computes() -> None:
            began.release()
            assert release.wait(20)

        async def child() -> None:
            for _ in range(10):
                await gosched()
            await sleep(0.001)
            count.append(1)

        async def main() -> None:
            for _ in range(3):
                go(computes)
                for _ in range(20):
                    go(child)
            while len(count) < 60:
                await sleep(0.001)
            release.set()

        count: list[int] = []
        start(main, machines=4)

    def test_a_sleeping_machine_wakes(self, io: str) -> None:
        """Work that comes in one piece to a program that is asleep on all machines."""
        barrier = threading.Barrier(2)

        async def main() -> None:
            for _ in range(10):
                await sleep(0.01)
                a, b = go(barrier.wait, 20), go(barrier.wait, 20)
                await a
                await b

        start(main, machines=2, io=io)

    def test_goroutines_are_where_they_belong(self, machines: int) -> None:
        """Nothing is left in any queue after the run but what was running."""
        runtimes: list[Any] = []

        async def child() -> None:
            await gosched()

        async def main() -> None:
            runtimes.append(scheduler.running())
            gs = [go(child) for _ in range(1000)]
            for g in gs:
                await g

        start(main, machines=machines)
        (runtime,) = runtimes
        assert len(runtime.globalq) == 0
        assert runtime.foreign == set()
        for m in runtime.machines:
            assert m.p.goroutines == set()
            assert m.p.length() == 0
            assert not m.p.runnext


def test_hundred_thousand_runnable_on_two_machines() -> None:
    """Nothing is dropped, whatever the queues overflow into."""
    seen: list[int] = []

    async def child(n: int) -> None:
        seen.append(n)

    async def main() -> None:
        for n in range(100_000):
            go(child, n)
        while num_goroutine() > 1:
            await sleep(0.001)

    start(main, machines=2)
    assert Counter(seen) == dict.fromkeys(range(100_000), 1)
