"""sleep() and the heap of timers under it."""

import math
import random
import threading
import time
from typing import Any

import pytest

from goroutine import chan, go, gosched, num_goroutine, sleep, start
from goroutine.runtime.timers import Timer, TimerHeap

pytestmark = pytest.mark.timeout(30)


class TestSleep:
    def test_order(self, io: str, machines: int) -> None:
        """Started in random order, they end in the order of their times."""

        async def sleeper(n: int) -> None:
            await sleep(until - time.monotonic() + n * 0.02)
            ended.append(n)

        async def main() -> None:
            numbers = list(range(15))
            random.shuffle(numbers)
            for g in [go(sleeper, n) for n in numbers]:
                await g

        ended: list[int] = []
        until = time.monotonic() + 0.02
        start(main, machines=machines, io=io)
        assert sorted(ended) == list(range(15))
        # Two machines may end two of them in the wrong order, when the system is that busy.
        assert ended == sorted(ended) or machines > 1

    def test_equal_times_keep_their_order(self) -> None:
        async def main() -> None:
            heap_time = time.monotonic() + 0.01

            async def sleeper(n: int) -> None:
                await sleep(max(heap_time - time.monotonic(), 1e-9))
                ended.append(n)

            for g in [go(sleeper, n) for n in range(50)]:
                await g

        ended: list[int] = []
        start(main, machines=1)
        assert len(ended) == 50

    @pytest.mark.parametrize("seconds", [1e-9, 1e-6, 0.0001, 0.001, 0.0123, 0.1])
    def test_never_early_and_not_much_late(self, seconds: float, io: str) -> None:
        async def main() -> list[float]:
            took = []
            for _ in range(5):
                before = time.monotonic()
                await sleep(seconds)
                took.append(time.monotonic() - before)
            return took

        took = start(main, machines=1, io=io)
        assert min(took) >= seconds
        assert min(took) < seconds + 0.05

    @pytest.mark.parametrize("seconds", [0, 0.0, -0.0, -1, -math.inf, False])
    def test_nothing_to_wait_for(self, seconds: float) -> None:
        async def main() -> None:
            for _ in range(1000):
                await sleep(seconds)

        before = time.monotonic()
        start(main, machines=1)
        assert time.monotonic() - before < 5

    def test_bad_numbers(self) -> None:
        async def main() -> None:
            with pytest.raises(ValueError, match="NaN"):
                await sleep(math.nan)
            bad: Any = "1"
            with pytest.raises(TypeError):
                await sleep(bad)
            bad = None
            with pytest.raises(TypeError):
                await sleep(bad)

        start(main, machines=1)

    @pytest.mark.parametrize("seconds", [math.inf, 1e300, 1e10, 10**9])
    def test_for_ever(self, seconds: float, io: str) -> None:
        ended = []

        async def child() -> None:
            try:
                await sleep(seconds)
                ended.append("woke")
            finally:
                ended.append("closed")

        async def main() -> None:
            go(child)
            await sleep(0.02)

        start(main, machines=1, io=io)
        assert ended == ["closed"]

    def test_ten_thousand(self, io: str, machines: int) -> None:
        async def sleeper(seconds: float) -> None:
            due = time.monotonic() + seconds
            await sleep(seconds)
            if time.monotonic() < due:
                early.append(seconds)
            ended.append(1)

        async def main() -> None:
            for _ in range(10_000):
                go(sleeper, random.uniform(0.0, 0.2))
            while num_goroutine() > 1:
                await sleep(0.005)

        ended: list[int] = []
        early: list[float] = []
        start(main, machines=machines, io=io)
        assert len(ended) == 10_000
        assert early == []

    @pytest.mark.parametrize("where", ["own", "any"])
    def test_while_a_machine_computes(self, io: str, where: str) -> None:
        """Sleepers of a machine that is in a long step are woken elsewhere."""
        woke: list[float] = []

        async def sleeper() -> None:
            await sleep(0.02)
            woke.append(time.monotonic())

        async def main() -> float:
            gs = [go(sleeper) for _ in range(10 if where == "any" else 1)]
            await gosched()
            begun = time.monotonic()
            while len(woke) < len(gs) and time.monotonic() < begun + 10:
                pass  # one long step
            return time.monotonic() - begun

        assert start(main, machines=2, io=io) < 5

    def test_an_earlier_one_comes_later(self, io: str, machines: int) -> None:
        """A machine that sleeps until a late timer is told of an earlier one."""

        async def late() -> None:
            await sleep(1000)

        async def early(out: Any) -> None:
            await sleep(0.01)
            await out.send(None)

        async def main() -> float:
            for _ in range(8):
                go(late)
            await sleep(0.01)
            out = chan()
            before = time.monotonic()
            # From a thread that is no machine, while all machines are asleep.
            thread = threading.Timer(0.02, go, (early, out))
            thread.start()
            await out.recv()
            thread.join()
            return time.monotonic() - before

        assert 0.03 <= start(main, machines=machines, io=io) < 5


class TestHeap:
    def timer(self, when: float, log: list[Any], what: Any = None) -> Timer:
        return Timer(when, log.append, when if what is None else what)

    def test_earliest_first(self) -> None:
        heap, log = TimerHeap(), []
        times = random.Random(3).choices(range(100), k=200)
        best = None
        for when in times:
            earliest = heap.add(self.timer(when, log))
            assert earliest == (best is None or when < best)
            best = when if best is None else min(best, when)
            assert heap.next_when() == best
        assert len(heap) == 200
        assert [t.when for t in heap.take_due(49)] == sorted(w for w in times if w <= 49)
        assert heap.next_when() == min(w for w in times if w > 49)
        assert heap.take_due(49) == []
        assert heap.run_due() == sum(w > 49 for w in times)  # they are long due
        assert log == sorted(w for w in times if w > 49)
        assert heap.next_when() is None
        assert len(heap) == 0
        assert heap.run_due() == 0

    def test_equal_times_fire_in_the_order_they_were_set(self) -> None:
        heap, log = TimerHeap(), []
        for n in range(100):
            heap.add(self.timer(5, log, n))
        heap.run_due()
        assert log == list(range(100))

    def test_stop(self) -> None:
        heap, log = TimerHeap(), []
        timers = [self.timer(n, log) for n in range(10)]
        assert timers[0].stop() is False  # not set yet
        for timer in timers:
            heap.add(timer)
        assert timers[3].stop() is True
        assert timers[3].stop() is False
        assert len(heap) == 9
        heap.run_due()
        assert log == [n for n in range(10) if n != 3]
        assert [timer.stop() for timer in timers] == [False] * 10
        assert len(heap) == 0

    def test_stopped_timers_let_go(self) -> None:
        """Of what they would have called: also before they come up."""
        heap = TimerHeap()
        timer = Timer(1e9, print, "argument")
        heap.add(timer)
        timer.stop()
        assert timer.fire is timer.arg is timer.heap is None

    def test_sweep(self) -> None:
        heap, log = TimerHeap(), []
        kept = [self.timer(n + 1_000, log) for n in range(100)]
        for timer in kept:
            heap.add(timer)
        for n in range(10_000):
            timer = self.timer(n + 1e6, log)
            heap.add(timer)
            assert timer.stop()
            assert len(heap) == 100
            assert len(heap._heap) <= 100 + 101 + 1  # the stopped ones are swept, by and by
        assert len(heap._heap) < 250
        assert heap.next_when() == 1_000
        heap.take_due(1e5)
        assert len(heap) == 0

    def test_next_when_may_be_a_stopped_one(self) -> None:
        heap, log = TimerHeap(), []
        first = self.timer(1, log)
        heap.add(first)
        heap.add(self.timer(2, log))
        first.stop()
        assert heap.next_when() in (1, 2)  # waking for nothing is no harm, waking late is
        assert heap.run_due() == 1
        assert log == [2]

    def test_fired_outside_of_the_lock(self) -> None:
        """What is called may set and stop timers of the same heap."""
        heap, log = TimerHeap(), []
        second = self.timer(2, log)

        def fire(_: None) -> None:
            log.append("first")
            assert second.stop() in (True, False)
            heap.add(self.timer(3, log))

        heap.add(Timer(1, fire, None))
        assert heap.run_due() == 1
        heap.add(second)
        assert heap.run_due() == 2
        assert log == ["first", 2, 3]

    @pytest.mark.parametrize("seed", range(3))
    def test_threads(self, seed: int) -> None:
        """Each timer fires exactly once or was stopped exactly once, never both or neither."""
        heap = TimerHeap()
        count, each = 4, 1_500
        fired: list[list[int]] = [[] for _ in range(count)]
        stopped: list[list[int]] = [[] for _ in range(count)]
        log: list[int] = []  # list.append is atomic
        timers: list[Timer] = []
        barrier = threading.Barrier(count)

        def thread(number: int) -> None:
            dice = random.Random(seed * 100 + number)
            barrier.wait()
            for n in range(each):
                what = number * each + n
                timer = Timer(time.monotonic() + dice.uniform(-0.001, 0.001), log.append, what)
                timers.append(timer)
                heap.add(timer)
                if dice.random() < 0.5:
                    victim = dice.choice(timers)
                    what = victim.arg
                    if victim.stop():
                        stopped[number].append(what)
                if dice.random() < 0.3:
                    heap.run_due()

        threads = [threading.Thread(target=thread, args=(n,)) for n in range(count)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        time.sleep(0.002)
        heap.run_due()
        assert fired == [[]] * count
        ended = sorted(log + [what for some in stopped for what in some])
        assert ended == list(range(count * each))
        assert len(heap) == 0
