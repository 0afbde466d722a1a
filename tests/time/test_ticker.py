"""Tickers as a program sees them. Lost ticks, phases and resets: step by step in
test_timer_steps.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
from time_support import timers_set
from waiting import gosched_until as until

from goroutine import chan, go, gosched, recv, select, start, time

pytestmark = pytest.mark.timeout(30)

NOT_POSITIVE = "non-positive interval for NewTicker"


def phases(values: list[float], interval: float) -> list[float]:
    """How far each value is from the grid that the first is on, in intervals."""
    steps = [(value - values[0]) / interval for value in values]
    return [abs(step - round(step)) for step in steps]


def test_ticks(io: str, machines: int) -> None:
    async def main() -> None:
        before = time.now()
        ticker = time.Ticker(0.005)
        values = []
        for _ in range(10):
            values.append(await ticker.channel.recv())
            assert values[-1] <= time.now()
        assert values[0] >= before + 0.005 - 1e-6
        assert values == sorted(set(values))
        assert max(phases(values, 0.005)) < 0.01
        assert timers_set() == 0

    start(main, machines=machines, io=io)


def test_a_slow_receiver_has_one_and_loses_the_others() -> None:
    async def main() -> None:
        ticker = time.Ticker(0.01)
        made = time.now()
        await time.sleep(0.055)
        kept = await ticker.channel.recv()
        assert kept <= made + 0.01 + 1e-6  # the first
        late = time.now()
        following = await ticker.channel.recv()
        assert following >= made + 0.05
        assert following <= late + 0.01 + 1e-6
        assert max(phases([kept, following], 0.01)) < 0.01

    start(main, machines=1)


def test_a_receiver_that_is_always_slow() -> None:
    """Never more than one tick in a row without waiting."""

    async def main() -> list[float]:
        ticker = time.Ticker(0.002)
        values = []
        for _ in range(10):
            await time.sleep(0.005)
            values.append(await ticker.channel.recv())
            assert time.now() - values[-1] < 5
        return values

    values = start(main, machines=1)
    assert values == sorted(set(values))
    assert max(phases(values, 0.002)) < 0.02


def test_stop(machines: int) -> None:
    """No tick after it, also none that was due; the channel stays open."""

    async def main() -> None:
        ticker = time.Ticker(0.001)
        await ticker.channel.recv()
        await time.sleep(0.003)
        ticker.stop()
        assert (await select(recv(ticker.channel), default=True)).index == -1
        chosen = await select(recv(ticker.channel), recv(time.after(0.01)))
        assert chosen.index == 1
        assert not ticker.channel.closed
        ticker.stop()
        ticker.reset(0.001)
        await ticker.channel.recv()
        await ticker.channel.recv()

    start(main, machines=machines)


def test_reset(machines: int) -> None:
    async def main() -> None:
        ticker = time.Ticker(3600)
        waiting = go(ticker.channel.recv)
        await until(lambda: len(ticker.channel._recvq))
        before = time.now()
        ticker.reset(0.004)
        values = [await waiting] + [await ticker.channel.recv() for _ in range(3)]
        assert values[0] >= before + 0.004 - 1e-6
        assert max(phases(values, 0.004)) < 0.01
        ticker.reset(3600)
        chosen = await select(recv(ticker.channel), recv(time.after(0.01)))
        assert chosen.index == 1

    start(main, machines=machines)


def test_stop_within_a_loop_over_it() -> None:
    """Who goes on receiving from a stopped ticker waits, and is told nothing wrong."""

    async def loop(ticker: time.Ticker, out: Any) -> None:
        async for _ in ticker.channel:
            await out.send(None)

    async def main() -> None:
        out = chan()
        ticker = time.Ticker(0.001)
        g = go(loop, ticker, out)
        for _ in range(3):
            await out.recv()
        ticker.stop()
        for _ in range(2):  # one may have been on its way
            chosen = await select(recv(out), recv(time.after(0.005)))
        assert chosen.index == 1
        assert not g.done

    start(main, machines=1)


@pytest.mark.parametrize("seconds", [0, 0.0, -0.0, -1, -math.inf])
def test_intervals_that_are_none(seconds: float) -> None:
    with pytest.raises(ValueError, match=NOT_POSITIVE):
        time.Ticker(seconds)
    ticker = time.Ticker(60)
    with pytest.raises(ValueError, match=NOT_POSITIVE):
        ticker.reset(seconds)
    assert time.tick(seconds) is None


def test_bad_numbers() -> None:
    ticker = time.Ticker(60)
    for make in (time.Ticker, time.tick, ticker.reset):
        with pytest.raises(ValueError, match="NaN"):
            make(math.nan)
        text: Any = "1"
        with pytest.raises(TypeError):
            make(text)


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 10**400])
def test_never(seconds: float) -> None:
    async def main() -> int:
        ticker = time.Ticker(seconds)
        ticker.reset(seconds)
        return (await select(recv(ticker.channel), recv(time.after(0.005)))).index

    assert start(main, machines=1) == 1


def test_as_fast_as_it_gets(machines: int) -> None:
    """Others run all the same, and each tick is later than the one before."""

    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            for _ in range(50):
                turns += 1
                await gosched()

        g = go(other)
        ticks = time.tick(1e-9)
        assert ticks is not None
        values = [await ticks.recv() for _ in range(300)]
        assert values == sorted(values)
        await g
        assert turns == 50

    start(main, machines=machines)


def test_tick_in_a_select() -> None:
    """The usual loop: a ticker beside something that ends it."""

    async def main() -> int:
        done = time.after(0.05)
        ticks = time.tick(0.001)
        n = 0
        while (await select(recv(ticks), recv(done))).index == 0:
            n += 1
        assert timers_set() == 0
        return n

    assert 1 <= start(main, machines=1) <= 50
