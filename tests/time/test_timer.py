"""Timers as a program sees them. What a value may be, when, and who gets it: step by step in
test_timer_steps.py; here it is with real clocks, machines and threads."""

from __future__ import annotations

import gc
import math
import random
import threading
import time as clock
import weakref
from typing import Any

import pytest
from time_support import timers_set
from waiting import gosched_until as until

from goroutine import (
    Canceled,
    Deadlock,
    Group,
    chan,
    context,
    go,
    gosched,
    recv,
    select,
    send,
    start,
    time,
)
from goroutine.runtime.dump import stack

pytestmark = pytest.mark.timeout(30)

ONLY_RECEIVE = "the channel of a timer is only for receiving"


async def ready_now(channel: Any) -> bool:
    """Whether something can be received without waiting; it is received then."""
    return (await select(recv(channel), default=True)).index == 0


class TestChannel:
    def test_value_is_the_time_it_was_due(self, machines: int) -> None:
        async def main() -> None:
            for make in (time.after, lambda seconds: time.Timer(seconds).channel):
                before = time.now()
                channel = make(0.01)
                late = time.now()
                value = await channel.recv()
                assert before + 0.01 - 1e-6 <= value <= late + 0.01 + 1e-6
                assert value <= time.now()

        start(main, machines=machines)

    def test_the_due_time_however_late_it_is_looked_at(self) -> None:
        async def main() -> float:
            timer = time.Timer(0.001)
            made = time.now()
            await time.sleep(0.03)
            return await timer.channel.recv() - made

        assert start(main, machines=1) <= 0.001 + 1e-6

    @pytest.mark.parametrize("seconds", [0, 0.0, -0.0, -1, -math.inf, -(10**400), False])
    def test_now(self, seconds: float) -> None:
        """Due at once: also for who doesn't wait, and the time of that is now."""

        async def main() -> None:
            before = time.now()
            chosen = await select(recv(time.after(seconds)), default=True)
            assert chosen.index == 0
            assert before <= chosen.value <= time.now()
            assert await time.Timer(seconds).channel.recv() >= before

        start(main, machines=1)

    @pytest.mark.parametrize("seconds", [math.inf, 1e300, 1e10, 10**9, 10**400])
    def test_never(self, seconds: float, io: str) -> None:
        async def main() -> None:
            timer = time.Timer(seconds)
            chosen = await select(recv(timer.channel), recv(time.after(0.01)))
            assert chosen.index == 1
            assert timer.stop() is True
            assert timer.stop() is False
            assert timer.reset(seconds) is False
            assert timer.reset(0) is True
            await timer.channel.recv()

        start(main, machines=1, io=io)

    def test_bad_numbers(self) -> None:
        text: Any = "1"
        none: Any = None
        timer = time.Timer(1)
        for make in (time.Timer, time.after, timer.reset):
            with pytest.raises(ValueError, match="NaN"):
                make(math.nan)
            for bad in (text, none):
                with pytest.raises(TypeError):
                    make(bad)
        assert timer.stop() is True  # a reset that was refused has changed nothing

    def test_looks_unbuffered_and_open(self) -> None:
        async def main() -> None:
            timer = time.Timer(0)
            channel = timer.channel
            assert (len(channel), channel.capacity, channel.closed) == (0, 0, False)
            assert bool(channel)
            assert "timer" in repr(channel)
            assert "ticker" in repr(time.Ticker(1).channel)
            assert await channel.recv_ok() == (pytest.approx(time.now(), abs=5), True)
            timer.stop()
            assert not channel.closed

        start(main, machines=1)

    def test_only_to_receive_from(self) -> None:
        async def main() -> None:
            channel = time.Timer(60).channel
            waiting = go(channel.recv)  # whom a send would reach
            await until(lambda: len(channel._recvq))
            for _ in range(2):
                with pytest.raises(RuntimeError, match=ONLY_RECEIVE):
                    await channel.send(1.0)
                with pytest.raises(RuntimeError, match=ONLY_RECEIVE):
                    await select(send(channel, 1.0), default=True)
                with pytest.raises(RuntimeError, match=ONLY_RECEIVE):
                    channel.send_blocking(1.0)
                with pytest.raises(RuntimeError, match=ONLY_RECEIVE):
                    channel.close()
            await gosched()
            assert not waiting.done

        start(main, machines=1)

    def test_async_for(self) -> None:
        async def main() -> list[float]:
            timer = time.Timer(0)
            values = []
            async for value in timer.channel:
                values.append(value)
                if len(values) == 3:
                    break
                timer.reset(0.001)
            return values

        values = start(main, machines=1)
        assert values == sorted(set(values))

    def test_each_value_once(self, machines: int) -> None:
        """Of several that wait for one timer, one has it."""

        async def waiter(channel: Any, out: Any) -> None:
            await channel.recv()
            await out.send(1)

        async def main() -> int:
            timer = time.Timer(3600)
            out = chan(10)
            for _ in range(3):
                go(waiter, timer.channel, out)
            await until(lambda: len(timer.channel._recvq) == 3)
            for n in range(3):
                assert timer.reset(0.001) is (n == 0)
                await out.recv()
                assert await select(recv(out), default=True) == (-1, None, False)
                assert len(timer.channel._recvq) == 2 - n
            return timers_set()

        assert start(main, machines=machines) == 0

    def test_dump(self) -> None:
        async def main() -> list[str]:
            gs = [go(time.Timer(60).channel.recv), go(time.sleep, 60), go(time.sleep, 60)]
            await until(lambda: timers_set() == 3)
            return [stack(g).splitlines()[0] for g in gs]

        reasons = [line.partition("[")[2] for line in start(main, machines=1)]
        assert reasons == ["chan receive]:", "sleep]:", "sleep]:"]


class TestSelect:
    def test_time_limit(self, io: str, machines: int) -> None:
        async def main() -> None:
            silent = chan()
            for seconds in (0.0, 0.001, 0.02):
                before = clock.monotonic()
                chosen = await select(recv(silent), recv(time.after(seconds)))
                assert chosen.index == 1
                assert seconds <= clock.monotonic() - before < seconds + 5
            assert timers_set() == 0

        start(main, machines=machines, io=io)

    def test_a_due_timer_is_as_ready_as_any_other_channel(self) -> None:
        """It is chosen in its turn, though the other one is always ready, and seen without
        the lock. (Seen to fail when the first look knows nothing of timers.)"""

        async def main() -> int:
            busy = chan(1)
            timer = time.Timer(0)
            times = 0
            for _ in range(2_000):
                if not len(busy):
                    await busy.send(1)
                timer.reset(0)
                if (await select(recv(busy), recv(timer.channel))).index == 1:
                    times += 1
            return times

        assert 850 < start(main, machines=1) < 1150

    def test_default(self) -> None:
        async def main() -> None:
            before = time.now()
            timer = time.Timer(0.005)
            while not await ready_now(timer.channel):
                assert timers_set() == 0  # a look alone sets none
            assert time.now() >= before + 0.005 - 1e-6
            assert not await ready_now(timer.channel)

        start(main, machines=1)

    def test_what_loses_leaves_no_alarm(self, machines: int) -> None:
        """A loop with a time limit in each turn, as they all are written."""

        async def producer(ch: Any) -> None:
            for n in range(500):
                await ch.send(n)
                if n % 8 == 0:
                    await gosched()

        async def main() -> int:
            ch = chan()
            go(producer, ch)
            for n in range(500):
                assert (await select(recv(ch), recv(time.after(3600)))).value == n
            return timers_set()

        assert start(main, machines=machines) == 0


class TestStopAndReset:
    def test_answers(self) -> None:
        async def main() -> None:
            timer = time.Timer(60)
            assert timer.stop() is True
            assert timer.stop() is False
            assert timer.reset(60) is False
            assert timer.reset(60) is True
            assert timer.reset(0) is True
            assert timer.stop() is True  # due, and nobody has received it
            assert not await ready_now(timer.channel)
            timer.reset(0)
            await timer.channel.recv()
            assert timer.stop() is False
            assert timer.reset(60) is False

        start(main, machines=1)

    def test_no_stale_value(self, machines: int) -> None:
        """Whatever state the timer is in when it is reset: what comes then is of that reset."""

        async def main() -> None:
            dice = random.Random(7)
            timer = time.Timer(0.0005)
            for _ in range(300):
                match dice.randrange(3):
                    case 0:
                        await time.sleep(dice.choice([0.0, 0.0004, 0.0005, 0.0006]))
                    case 1:
                        await select(recv(timer.channel), default=True)
                    case 2:  # the alarm races with another channel
                        await select(recv(timer.channel), recv(time.after(0.0005)))
                before = time.now()
                seconds = dice.choice([0.0, 0.0005, 0.001])
                timer.reset(seconds)
                assert await timer.channel.recv() >= before + seconds - 1e-6
                assert not await ready_now(timer.channel)

        start(main, machines=machines)

    def test_stop_while_somebody_waits(self, machines: int) -> None:
        """Who waits goes on waiting, and is there for what comes after a reset."""

        async def main() -> None:
            timer = time.Timer(3600)
            waiting = go(timer.channel.recv)
            await until(lambda: len(timer.channel._recvq))
            assert timer.stop() is True
            assert timers_set() == 0
            await time.sleep(0.005)
            assert not waiting.done
            before = time.now()
            assert timer.reset(0.005) is False
            assert await waiting >= before + 0.005 - 1e-6

        start(main, machines=machines)

    @pytest.mark.parametrize("seconds", [0.0, 0.005])
    def test_to_an_earlier_time_from_any_machine_or_thread(
        self, machines: int, seconds: float, io: str
    ) -> None:
        """The machine that has the alarm, or sleeps, need not be the one that resets it."""

        async def main() -> None:
            for how in (go, lambda fn, *args: threading.Thread(target=fn, args=args).start()):
                timer = time.Timer(3600)
                waiting = go(timer.channel.recv)
                await until(lambda timer=timer: len(timer.channel._recvq))
                await time.sleep(0.005)
                before = time.now()
                how(timer.reset, seconds)
                assert await waiting >= before + seconds - 1e-6
            assert timers_set() == 0

        start(main, machines=machines, io=io)

    def test_a_thousand_stopped_in_random_order(self, machines: int) -> None:
        """Each is received or was stopped, and never both."""

        async def waiter(n: int) -> None:
            chosen = await select(recv(timers[n].channel), recv(give_up[n]))
            if chosen.index == 0:
                received.append(n)
            done.append(n)

        async def main() -> None:
            for n in range(1000):
                go(waiter, n)
            await until(lambda: timers_set() + len(received) >= 1000)
            order = list(range(1000))
            random.Random(3).shuffle(order)
            for n in order[:600]:
                if timers[n].stop():
                    stopped.append(n)
                    await give_up[n].send(None)
            await until(lambda: len(done) == 1000)
            assert timers_set() == 0

        received: list[int] = []
        stopped: list[int] = []
        done: list[int] = []
        dice = random.Random(4)
        timers = [time.Timer(dice.uniform(0.0, 0.2)) for _ in range(1000)]
        give_up: list[Any] = [chan(1) for _ in range(1000)]
        start(main, machines=machines)
        assert sorted(received + stopped) == list(range(1000))

    def test_race(self, machines: int) -> None:
        """Each setting of one timer is ended once: received, stopped, or reset.

        Seen to fail on two machines when stop() doesn't take the lock.
        """

        async def actor(seed: int) -> None:
            dice = random.Random(seed)
            mine = [0, 0, 0]
            for _ in range(400):
                what = dice.randrange(5)
                if what == 0:
                    mine[2] += timer.stop()
                elif what == 1:
                    mine[0] += 1
                    mine[2] += timer.reset(dice.choice([0.0, 0.0, 0.0001, 0.001]))
                elif what == 2:
                    mine[1] += await ready_now(timer.channel)
                elif what == 3:
                    limit = time.after(dice.choice([0.0, 0.0002]))
                    mine[1] += (await select(recv(timer.channel), recv(limit))).index == 0
                else:
                    # (Cancelled in the end: else its own timer may be there when they are counted.)
                    with context.with_timeout(context.background(), 0.0002) as ctx:
                        try:
                            await timer.channel.recv(ctx=ctx)
                            mine[1] += 1
                        except Canceled:
                            pass
            counts.append(mine)

        async def main() -> None:
            for g in [go(actor, seed) for seed in range(6)]:
                await g
            counts.append([0, 0, timer.stop()])
            assert not await ready_now(timer.channel)
            assert timers_set() == 0

        timer = time.Timer(0)
        counts: list[list[int]] = []
        start(main, machines=machines)
        settings, received, prevented = map(sum, zip(*counts, strict=True))
        assert 1 + settings == received + prevented
        assert received > 10
        assert prevented > 10


class TestCollected:
    """Without stop(): a timer nobody refers to is gone."""

    def test_not_looked_at(self) -> None:
        async def main() -> list[Any]:
            timers = [time.Timer(3600), time.Ticker(3600)]
            gone = [weakref.ref(timer) for timer in timers]
            gone += [weakref.ref(timer.channel) for timer in timers]  # type: ignore[misc]
            gone += [weakref.ref(time.after(3600)), weakref.ref(time.tick(3600))]  # type: ignore
            del timers
            gc.collect()
            return [ref() for ref in gone]

        assert start(main, machines=1) == [None] * 6

    def test_waited_for_once(self, machines: int) -> None:
        """And given up: by a select, a context, a group."""

        async def canceled(channel: Any) -> None:
            await channel.recv()

        async def main() -> list[Any]:
            gone = []
            for make in (time.Timer, time.Ticker):
                timer: Any = make(3600)
                channel = timer.channel
                await select(recv(channel), recv(time.after(0)))
                await select(recv(channel), recv(time.after(0.001)))
                with pytest.raises(Canceled):
                    await channel.recv(ctx=context.with_timeout(context.background(), 0.001))
                async with Group() as group:
                    member = group.go(canceled, channel)
                    await until(lambda channel=channel: len(channel._recvq))
                    group.context.cancel()
                gone += [weakref.ref(timer), weakref.ref(channel)]
                del timer, channel, member, group
            await until(lambda: timers_set() == 0)  # (a context's may be about to go off)
            return gone

        gone = start(main, machines=machines)
        gc.collect()
        assert [ref() for ref in gone] == [None] * 4


class TestOutsideOfARun:
    def test_made_before_and_used_in_one(self) -> None:
        async def main() -> float:
            return await timer.channel.recv()

        timer = time.Timer(0.01)
        before = time.now()
        for _ in range(2):
            assert start(main, machines=1) <= time.now()
            timer.reset(0.001)
        assert time.now() - before >= 0.011 - 1e-6

    def test_stop_and_reset(self) -> None:
        timer = time.Timer(0)
        assert timer.stop() is True
        assert timer.reset(60) is False
        assert timer.stop() is True

    def test_waited_for_in_one_and_in_the_next(self, machines: int) -> None:
        """What waits when a run ends leaves nothing behind in the timer."""

        async def waits(how: str) -> None:
            if how == "recv":
                await timer.channel.recv()
            elif how == "select":
                await select(recv(timer.channel), recv(chan()))
            elif how == "ctx":
                await timer.channel.recv(ctx=ctx)
            else:
                async with Group() as group:
                    group.go(waits, "recv")

        async def first() -> None:
            for how in ("recv", "select", "ctx", "group") * 2:
                go(waits, how)
            await until(lambda: len(timer.channel._recvq) == 8)

        async def second() -> float:
            timer.reset(0.001)
            return await timer.channel.recv()

        timer: Any = time.Timer(3600)
        ctx = context.with_cancel(context.background())
        start(first, machines=machines)
        assert len(timer.channel._recvq) == 0
        assert timer.channel._alarm is None
        assert start(second, machines=machines) <= time.now()


class TestThreads:
    """recv_blocking needs no run: the thread has a clock of its own."""

    def test_due(self) -> None:
        before = time.now()
        assert time.after(0).recv_blocking() >= before
        assert before + 0.01 - 1e-6 <= time.after(0.01).recv_blocking() <= time.now()

    def test_timeout(self) -> None:
        timer = time.Timer(3600)
        for seconds in (0, 0.01):
            with pytest.raises(TimeoutError):
                timer.channel.recv_blocking(timeout=seconds)
        timer.reset(0)
        timer.channel.recv_blocking(timeout=0)  # it is there: no waiting

    def test_stopping_the_last_timer_is_a_deadlock(
        self, machines: int, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A thread stops what all goroutines wait for, while all machines sleep."""

        async def main() -> None:
            thread.start()
            await timer.channel.recv()

        def stop() -> None:
            clock.sleep(0.3)  # sysmon, too, has gone to sleep: it does so after 0.1 s
            timer.stop()

        timer = time.Timer(3600)
        thread = threading.Thread(target=stop)
        with pytest.raises(Deadlock):
            start(main, machines=machines)
        thread.join()
        assert "goroutine 1 [chan receive]:" in capfd.readouterr().err

    def test_reset_while_a_thread_waits(self) -> None:
        timer: Any = time.Timer(3600)
        got: list[float] = []
        thread = threading.Thread(target=lambda: got.append(timer.channel.recv_blocking()))
        thread.start()
        bound = clock.monotonic() + 20
        while not timer.channel._threads and clock.monotonic() < bound:
            clock.sleep(0.001)
        assert timer.stop() is True
        assert timer.reset(3600) is False
        before = time.now()
        assert timer.reset(0.01) is True
        thread.join(20)
        assert got[0] >= before + 0.01 - 1e-6

    def test_beside_goroutines(self, machines: int) -> None:
        """All that wait have a tick in the end, whoever sees that one is due."""

        async def waiter() -> None:
            got.append(await ticker.channel.recv())

        async def main() -> None:
            threads = [
                threading.Thread(target=lambda: got.append(ticker.channel.recv_blocking()))
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
                go(waiter)
            await until(lambda: len(got) == 6)
            for thread in threads:
                thread.join(20)
            assert timers_set() == 0

        got: list[float] = []
        ticker = time.Ticker(0.003)
        start(main, machines=machines)
        assert sorted(set(got)) == sorted(got)
