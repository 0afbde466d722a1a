"""Timers step by step, without threads and without waiting: a clock that is set by hand.

Every sequence of a few operations, with the firing cut in two (taken off the heap; gone
off), is compared with what the rules say. Seen to fail when: a late alarm isn't recognised
(no serial number), stop() or reset() leaves the buffered value, the alarm stays when the
last waiter leaves, and when it isn't set anew by reset().
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from time_support import Stepped, stepped

from goroutine import chan, recv, select
from goroutine.time import Ticker, Timer

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def m(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepped]:
    with stepped(monkeypatch) as machine:
        yield machine


class Rules:
    """A timer or ticker as the specification has it: when it is due, and one kept value."""

    def __init__(self, when: float, period: float) -> None:
        self.when: float | None = when
        self.period = period
        self.kept: float | None = None

    def strike(self) -> float:
        value = self.when
        assert value is not None
        if self.period:
            self.when = value + self.period
        else:
            self.when = None
        return value

    def skip(self, now: float) -> None:
        """A ticker that was late loses the ticks between."""
        while self.period and self.when is not None and self.when <= now:
            self.when += self.period

    def active(self) -> bool:
        return self.when is not None or self.kept is not None

    def set(self, when: float | None) -> None:
        self.when, self.kept = when, None


class Story:
    """One sequence of operations on one timer, checked at every step."""

    ACTIONS = (
        *("clock", "take", "ring"),  # time passes; the firing, in two halves
        *("soon", "now", "stop"),  # reset, and stop
        *("poll", "look"),  # receive if that needs no waiting; a select with a default
        *("wait", "select", "leave"),  # wait to receive, also beside another channel; give up
        *("other", "resume"),  # the other channel ends that select; which sees to it later
    )

    def __init__(self, m: Stepped, period: float) -> None:
        m.now, m.taken, m.woken = 0.0, [], []
        m.heap = m.p.timers = type(m.heap)()
        self.m = m
        self.timer: Any = Ticker(period) if period else Timer(1)
        self.channel: Any = self.timer.channel
        self.rules = Rules(period or 1.0, period)
        self.waiting: list[Any] = []
        self.other: Any = chan()
        self.selecting: list[Any] = []  # of those waiting, those that also wait for the other
        self.gone: list[Any] = []  # those that have had the other's value, and don't run yet

    def possible(self, action: str) -> bool:
        """Whether the action does anything now."""
        match action:
            case "clock":
                return self.m.now < 3
            case "take":
                first = self.m.heap.next_when()
                return first is not None and first <= self.m.now
            case "ring":
                return bool(self.m.taken)
            case "wait" | "select":
                return len(self.waiting) + len(self.gone) < 2
            case "leave":
                return bool(self.waiting)
            case "other":
                return bool(self.selecting)
            case "resume":
                return bool(self.gone)
        return True

    def act(self, action: str) -> None:
        m, rules, now = self.m, self.rules, self.m.now
        match action:
            case "clock":
                m.now += 1
            case "take":
                m.take()
            case "ring":
                m.ring()
            case "soon" | "now":
                seconds = 1.0 if action == "soon" else 0.0
                if rules.period:
                    seconds += 0.5  # (one of zero is an error)
                    rules.period = seconds
                self.told(self.timer.reset(seconds))
                rules.set(now + seconds)
            case "stop":
                self.told(self.timer.stop())
                rules.set(None)
            case "poll" | "look":
                self.look(action)
            case "wait" | "select":
                channel = self.channel
                if action == "wait":
                    g, result = m.begin(channel.recv())
                else:
                    g, result = m.begin(select(recv(channel), recv(self.other)))
                if g is None:
                    self.got(result if action == "wait" else result.value)
                else:
                    self.waiting.append(g)
                    if action == "select":
                        self.selecting.append(g)
            case "leave":
                while self.waiting:  # (those who wait plainly leave together: the run is over)
                    g = self.waiting.pop()
                    with pytest.raises(GeneratorExit):
                        g.it.throw(GeneratorExit)
                self.selecting.clear()
            case "other":
                g = self.selecting.pop(0)
                self.waiting.remove(g)
                self.gone.append(g)
                assert m.begin(self.other.send("other")) == (None, None)
                assert m.woken.pop() is g
            case "resume":
                assert tuple(m.finish(self.gone.pop(0))) == (1, "other", True)
        self.check()

    def told(self, active: bool | None) -> None:
        if not self.rules.period:
            assert active == self.rules.active()

    def look(self, how: str) -> None:
        """A look that doesn't wait sees it when it is due, unless others wait: they are first."""
        if how == "poll" and not self.waiting and not self.gone:
            if not self.channel._is_due() and not self.channel._buffer:
                assert self.rules.kept is None
                assert self.rules.when is None or self.rules.when > self.m.now
                return
            g, value = self.m.begin(self.channel.recv())
            assert g is None, "due, and it waits"
            self.got(value)
            return
        g, chosen = self.m.begin(select(recv(self.channel), default=True))
        assert g is None
        self.wakes()
        if chosen.index == 0:
            self.got(chosen.value)
        else:
            assert self.rules.kept is None
            assert self.rules.when is None or self.rules.when > self.m.now

    def got(self, value: float) -> None:
        """Somebody has received: it must be what the rules have, of the present setting."""
        rules = self.rules
        if rules.kept is not None:
            assert value == rules.kept
            rules.kept = None
            rules.skip(self.m.now)  # a tick that comes up while one is kept is lost
            return
        assert rules.when is not None, f"received {value}, and the timer is stopped"
        assert rules.when <= self.m.now, f"received {value}, too early"
        assert value == rules.strike()
        rules.skip(self.m.now)

    def wakes(self) -> None:
        """Those who were woken go on."""
        while self.m.woken:
            g = self.m.woken.pop(0)
            assert g is self.waiting.pop(0), "out of turn"
            result = self.m.finish(g)
            if g in self.selecting:
                self.selecting.remove(g)
                assert result.index == 0
                result = result.value
            self.got(result)

    def check(self) -> None:
        self.wakes()
        channel = self.channel
        assert not channel._lock.locked()
        assert (len(channel), channel.capacity, channel.closed) == (0, 0, False)
        rules, waiting, gone = self.rules, len(self.waiting), len(self.gone)
        if channel._buffer and rules.kept is None:
            # It went off, and who was in the queue has gone elsewhere.
            assert rules.when is not None
            assert rules.when <= self.m.now
            rules.kept = rules.strike()
            rules.skip(self.m.now)
        assert list(channel._buffer) == ([] if rules.kept is None else [rules.kept])
        assert waiting <= len(channel._recvq) <= waiting + gone
        # In a heap, or just taken off it, exactly while somebody waits for something to come.
        assert (channel._alarm is not None) == bool(channel._recvq and rules.when is not None)
        assert len(self.m.heap) <= (channel._alarm is not None)

    def end(self) -> None:
        """When nothing is late any more, whoever waits has what was due."""
        self.m.settle()
        self.check()
        rules = self.rules
        if self.waiting:
            assert rules.kept is None
        if self.channel._recvq and rules.when is not None:
            assert rules.when > self.m.now
            assert self.m.heap.next_when() is not None
            (alarm,) = [entry[2] for entry in self.m.heap._heap if entry[2].fire is not None]
            assert alarm.when == rules.when
        else:
            assert len(self.m.heap) == 0


BEGINNINGS = [
    "",
    "wait clock take",
    "select clock take",
    "select other clock take",
    "wait clock take stop",
    "wait clock take leave",
    "select wait other clock take ring",
]


@pytest.mark.parametrize("period", [0, 1])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_every_sequence(m: Stepped, period: float, beginning: str) -> None:
    """Of a few operations after a beginning; those that can do nothing there are left out."""
    stories = 0

    def extend(actions: list[str], more: int) -> None:
        nonlocal stories
        story = Story(m, period)
        try:
            for action in actions:
                assert story.possible(action)
                story.act(action)
            following = [action for action in Story.ACTIONS if story.possible(action)]
            if not more:
                story.end()
        except BaseException as failure:
            failure.add_note(" ".join(actions))
            raise
        if not more:
            stories += 1
            return
        for action in following:
            extend([*actions, action], more - 1)

    extend(beginning.split(), 3 if beginning else 4)
    assert stories > 400


@pytest.mark.parametrize("period", [0, 1, 2])
def test_long_sequences(m: Stepped, period: float) -> None:
    """At random, of which the firing in two halves with others between is the better part."""
    for seed in range(1000):
        dice = random.Random(seed)
        story = Story(m, period)
        actions = []
        try:
            for _ in range(40):
                action = dice.choice(Story.ACTIONS)
                if action == "clock" or story.possible(action):
                    actions.append(action)
                    story.act(action)
            story.end()
        except BaseException as failure:
            failure.add_note(f"seed {seed}: {' '.join(actions)}")
            raise


class TestLateAlarm:
    """Taken off the heap, and before it gets the channel's lock something else happens."""

    def begin(self, m: Stepped) -> tuple[Timer, Any]:
        timer = Timer(1)
        g, _ = m.begin(timer.channel.recv())
        m.now = 1.0
        assert m.take() == 1
        return timer, g

    def test_stopped(self, m: Stepped) -> None:
        timer, _ = self.begin(m)
        assert timer.stop() is True  # it prevented the firing, though that was under way
        m.ring()
        assert m.woken == []
        assert timer.stop() is False

    def test_reset(self, m: Stepped) -> None:
        timer, g = self.begin(m)
        assert timer.reset(1) is True
        m.ring()
        assert m.woken == []
        m.now = 2.0
        m.settle()
        assert m.woken == [g]
        assert m.finish(g) == 2.0

    def test_reset_to_the_very_same_time(self, m: Stepped) -> None:
        """Which alarm it was makes no difference then, but one alone may count."""
        timer, g = self.begin(m)
        assert timer.reset(0) is True
        m.ring()
        m.settle()
        assert m.woken == [g]
        assert m.finish(g) == 1.0
        assert m.begin(select(recv(timer.channel), default=True))[1].index == -1

    def test_the_waiter_has_left(self, m: Stepped) -> None:
        timer, g = self.begin(m)
        with pytest.raises(GeneratorExit):
            g.it.throw(GeneratorExit)
        m.ring()
        assert m.woken == []
        assert timer.stop() is True  # nobody has received it

    def test_somebody_else_looks_first(self, m: Stepped) -> None:
        """Who waits has it all the same, and has it once."""
        timer, g = self.begin(m)
        assert m.begin(select(recv(timer.channel), default=True))[1].index == -1
        assert m.woken == [g]
        m.ring()
        assert m.woken == [g]
        assert m.finish(g) == 1.0


class TestTickerPhase:
    @pytest.mark.parametrize("late", [0.0, 0.25, 0.75, 1.0, 1.25, 7.0, 7.5])
    def test_lost_ticks(self, m: Stepped, late: float) -> None:
        """One value for all the ticks that were missed: the first. The phase is kept."""
        ticker = Ticker(1)
        m.now = 1.0 + late
        assert m.begin(ticker.channel.recv())[1] == 1.0
        assert m.begin(select(recv(ticker.channel), default=True))[1].index == -1
        g, _ = m.begin(ticker.channel.recv())
        m.now = float(int(m.now) + 1)
        m.settle()
        assert m.woken == [g]
        assert m.finish(g) == m.now

    def test_intervals_that_a_float_can_hardly_add(self, m: Stepped) -> None:
        for period in (5e-324, 1e-300, 1e-12, 1e-9):
            m.now = 1e6
            ticker = Ticker(period)
            for _ in range(3):
                m.now += 1.0
                _, value = m.begin(ticker.channel.recv())
                assert 1e6 <= value <= m.now
                assert m.now <= ticker.channel._when < m.now + 1e-6  # type: ignore[attr-defined]

    def test_no_drift(self, m: Stepped) -> None:
        """Due times that are exact in binary stay exact, however late each receiver is."""
        ticker = Ticker(0.125)
        dice = random.Random(5)
        for n in itertools.count(1):
            g, value = m.begin(ticker.channel.recv())
            assert g is None or m.now < n * 0.125
            if g is not None:
                m.now = n * 0.125 + dice.choice([0.0, 0.0625, 0.1])
                m.settle()
                value = m.finish(g)
                m.woken.clear()
            assert value == n * 0.125
            if n == 100:
                break

    def test_reset_begins_a_new_phase(self, m: Stepped) -> None:
        ticker = Ticker(1)
        m.now = 1.5  # one is due, and dropped
        ticker.reset(2)
        assert m.begin(select(recv(ticker.channel), default=True))[1].index == -1
        g, _ = m.begin(ticker.channel.recv())
        assert m.heap.next_when() == 3.5
        m.now = 4.0
        m.settle()
        assert m.finish(g) == 3.5
        assert ticker.channel._when == 5.5  # type: ignore[attr-defined]


def test_two_timers_in_one_select(m: Stepped) -> None:
    """Each has an alarm; the one that wins takes the other one's off its heap."""
    first, second = Timer(1), Timer(2)
    g, _ = m.begin(select(recv(first.channel), recv(second.channel)))
    assert len(m.heap) == 2
    m.now = 1.0
    m.settle()
    assert m.woken == [g]
    assert tuple(m.finish(g)) == (0, 1.0, True)
    assert len(m.heap) == 0
    assert (first.stop(), second.stop()) == (False, True)


def test_the_same_timer_twice_in_one_select(m: Stepped) -> None:
    timer = Timer(1)
    g, _ = m.begin(select(recv(timer.channel), recv(timer.channel)))
    assert len(m.heap) == 1
    m.now = 1.0
    m.settle()
    assert m.finish(g).value == 1.0
    assert (len(m.heap), timer.stop()) == (0, False)


def test_both_due_and_one_chosen(m: Stepped) -> None:
    """The value of the other is there for the next one who looks."""
    timers = [Timer(1), Timer(1)]
    g, _ = m.begin(select(*[recv(timer.channel) for timer in timers]))
    m.now = 1.0
    assert m.take() == 2
    m.ring()
    m.ring()  # finds nobody: the select is taken
    chosen = m.finish(g)
    others = [timer for n, timer in enumerate(timers) if n != chosen.index]
    assert m.begin(others[0].channel.recv()) == (None, 1.0)
    assert len(m.heap) == 0
