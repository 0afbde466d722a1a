"""Channels against models of what a channel is.

Two independent ones. `Queue` says what a sequence of operations gives, one after the other,
who waits included; the real channel follows it on a running machine. `outcomes_allowed`
says which outcomes a concurrent program may have at all, knows no wait queues, and is
compared with all that the real channel does in every interleaving: the goroutines are
stepped by hand, without threads.
"""

from __future__ import annotations

import os
import time
import types
from itertools import combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import goroutine.channel
from goroutine import ChanClosed, Goroutine, chan, go, gosched, start

pytestmark = pytest.mark.timeout(60)

LONGER = int(os.environ.get("GOROUTINE_STRESS", "1"))

SEND_ON_CLOSED = "send on closed channel"
CLOSE_OF_CLOSED = "close of closed channel"
END = "receive from closed channel"


# -- one operation after the other ----------------------------------------------------------


class Queue:
    """A channel as a sequential data type. ``results`` holds the operations that are over."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.buffer, self.receivers, self.senders = [], [], []
        self.closed = False
        self.results = {}

    def do(self, number, name, value):
        getattr(self, name)(number, value)

    def send(self, number, value):
        if self.closed:
            self.results[number] = SEND_ON_CLOSED
        elif self.receivers:
            self.received(*self.receivers.pop(0), value)
            self.results[number] = None
        elif len(self.buffer) < self.capacity:
            self.buffer.append(value)
            self.results[number] = None
        else:
            self.senders.append((number, value))

    def receive(self, number, name):
        if self.buffer or self.senders:
            if self.senders:
                sender, value = self.senders.pop(0)
                self.buffer.append(value)
                self.results[sender] = None
            self.received(number, name, self.buffer.pop(0))
        elif self.closed:
            self.ended(number, name)
        else:
            self.receivers.append((number, name))

    def recv(self, number, value):
        self.receive(number, "recv")

    def recv_ok(self, number, value):
        self.receive(number, "recv_ok")

    def received(self, number, name, value):
        self.results[number] = value if name == "recv" else (value, True)

    def ended(self, number, name):
        self.results[number] = END if name == "recv" else (None, False)

    def close(self, number, value):
        if self.closed:
            self.results[number] = CLOSE_OF_CLOSED
            return
        self.closed = True
        self.results[number] = None
        for waiting in self.receivers:
            self.ended(*waiting)
        for sender, _ in self.senders:
            self.results[sender] = SEND_ON_CLOSED
        self.receivers, self.senders = [], []


async def perform(ch, name, value):
    """One operation on the real channel; errors become their texts."""
    try:
        if name == "close":
            return ch.close()
        if name == "send":
            return await ch.send(value)
        return await getattr(ch, name)()
    except ChanClosed as failure:
        return str(failure)


async def follow(capacity, script):
    """Start each operation in a goroutine of its own and compare when all is quiet."""
    model, ch, results = Queue(capacity), chan(capacity), {}

    async def operation(number, name):
        results[number] = await perform(ch, name, number)

    deadline = time.monotonic() + 5
    for number, (name, inline) in enumerate(script):
        model.do(number, name, number)
        if inline and number in model.results:
            await operation(number, name)  # main itself: it may not wait
        else:
            go(operation, number, name)
        # All is quiet when each operation so far is over or waits.
        while len(ch._recvq) + len(ch._sendq) + len(results) != number + 1:
            assert time.monotonic() < deadline, (number, results, model.results)
            await gosched()
        assert results == model.results
        assert (len(ch), list(ch._buffer)) == (len(model.buffer), model.buffer)
        assert (len(ch._recvq), len(ch._sendq)) == (len(model.receivers), len(model.senders))
        assert ch.closed is model.closed


names = st.sampled_from(["send"] * 5 + ["recv"] * 4 + ["recv_ok"] * 3 + ["close"])
scripts = st.lists(st.tuples(names, st.booleans()), max_size=25)


@pytest.mark.parametrize("machines", [1, 2])
@settings(max_examples=100 * LONGER, deadline=None)
@given(capacity=st.integers(0, 4), script=scripts)
def test_a_sequence_of_operations_gives_what_the_model_says(machines, capacity, script):
    start(follow, capacity, script, machines=machines, io="epoll")


# -- every interleaving -----------------------------------------------------------------------


def outcomes_allowed(capacities, program):
    """All outcomes a program may have: for each goroutine what its operations gave (fewer
    than it has: it hangs), and for each channel what is buffered and whether it is closed.

    There are no wait queues here: an operation happens in one instant when it can. A send on
    an unbuffered channel happens together with a receive.
    """
    start_ = (tuple(() for _ in program), tuple(((), False) for _ in capacities))
    seen, todo, outcomes = {start_}, [start_], set()
    while todo:
        state = todo.pop()
        following = set(steps_allowed(capacities, program, state))
        if not following:
            outcomes.add(state)
        todo += following - seen
        seen |= following
    return outcomes


def steps_allowed(capacities, program, state):
    logs, channels = state
    ready = [(i, ops[len(logs[i])]) for i, ops in enumerate(program) if len(logs[i]) < len(ops)]

    def after(channel, contents, *entries):
        new = list(logs)
        for i, entry in entries:
            new[i] = (*new[i], entry)
        return tuple(new), (*channels[:channel], contents, *channels[channel + 1 :])

    for i, (name, c) in ready:
        buffer, closed = channels[c]
        if name == "close":
            if closed:
                yield after(c, (buffer, True), (i, CLOSE_OF_CLOSED))
            else:
                yield after(c, (buffer, True), (i, None))
        elif name == "send":
            value = (i, len(logs[i]))
            if closed:
                yield after(c, (buffer, closed), (i, SEND_ON_CLOSED))
            elif len(buffer) < capacities[c]:
                yield after(c, ((*buffer, value), closed), (i, None))
            elif not capacities[c]:
                for j, (other, d) in ready:
                    if d == c and other.startswith("recv"):
                        got = value if other == "recv" else (value, True)
                        yield after(c, (buffer, closed), (i, None), (j, got))
        elif buffer:
            got = buffer[0] if name == "recv" else (buffer[0], True)
            yield after(c, (buffer[1:], closed), (i, got))
        elif closed:
            yield after(c, (buffer, closed), (i, END if name == "recv" else (None, False)))


@types.coroutine
def pause():
    yield None


class Stepped:
    """A program on real channels, one step of one goroutine at a time.

    A step is what a machine does: run the frame until it yields, then call the commit that
    it yielded. In between the channel must be locked, so that nobody finds the waiter.
    """

    def __init__(self, patch, capacities, program):
        self.channels = [chan(capacity) for capacity in capacities]
        self.logs = [[] for _ in program]
        self.gs, self.runnable, self.g = [], [], None
        for i, ops in enumerate(program):
            g = Goroutine()
            g.id, g.fn, g.joiners = i, None, None
            g.it = self.body(i, ops).__await__()
            self.gs.append(g)
            self.runnable.append(g)
        patch(self)

    async def body(self, i, ops):
        log = self.logs[i]
        for name, c in ops:
            if log:
                await pause()
            log.append(await perform(self.channels[c], name, (i, len(log))))

    def ready(self, g):
        assert g.it is not None, "a goroutine was woken after its end"
        assert g not in self.runnable, "a goroutine was woken twice"
        assert g is not self.g, "a goroutine was woken that runs"
        self.runnable.append(g)

    def step(self, g):
        self.runnable.remove(g)
        self.g = g
        try:
            commit = g.it.send(None)
        except StopIteration:
            g.it = self.g = None
        else:
            self.g = None
            locked = [ch for ch in self.channels if ch._lock.locked()]
            if commit is None:
                assert not locked
                self.runnable.append(g)
            else:
                assert len(locked) == 1
                commit(g)
        for ch in self.channels:
            assert not ch._lock.locked()
            waiting, buffered = len(ch._recvq), len(ch)
            assert not (ch._recvq and ch._sendq)
            assert not (waiting and (buffered or ch.closed))
            assert not (ch._sendq and (buffered < ch.capacity or ch.closed))

    def outcome(self):
        for g in self.gs:  # who is not done waits in exactly one place
            places = sum((*ch._recvq, *ch._sendq).count(g) for ch in self.channels)
            assert places == (g.it is not None)
        return (
            tuple(map(tuple, self.logs)),
            tuple((tuple(ch._buffer), ch.closed) for ch in self.channels),
        )

    def abandon(self):
        for g in self.gs:
            if g.it is not None:
                g.it.close()


def outcomes_found(patch, capacities, program):
    """The outcomes of the real channels, over all schedules."""
    outcomes, schedule, runs = set(), [], 0
    while True:
        runs += 1
        stepped, choices = Stepped(patch, capacities, program), []
        while stepped.runnable:
            depth = len(choices)
            if depth == len(schedule):
                schedule.append(0)
            who = sorted(stepped.runnable, key=lambda g: g.id)
            choices.append(len(who))
            stepped.step(who[schedule[depth]])
        outcomes.add(stepped.outcome())
        stepped.abandon()
        # The next schedule: the last choice that has an alternative left takes it.
        while schedule and schedule[-1] == choices[len(schedule) - 1] - 1:
            schedule.pop()
        if not schedule:
            return outcomes, runs
        schedule[-1] += 1


@pytest.fixture
def patch(monkeypatch):
    """Have the channel module use the hand-stepped program for its scheduler."""

    def patch(stepped):
        monkeypatch.setattr(goroutine.channel, "current", lambda: stepped)
        monkeypatch.setattr(goroutine.channel, "ready", stepped.ready)

    return patch


def compare(patch, capacities, program):
    found, runs = outcomes_found(patch, capacities, program)
    allowed = outcomes_allowed(capacities, program)
    assert found - allowed == set(), (capacities, program)
    assert allowed - found == set(), (capacities, program)
    return runs


def programs(goroutines, operations, alphabet):
    """All programs of so many goroutines with so many operations each, up to their order."""
    bodies = list(product([(name, 0) for name in alphabet], repeat=operations))
    return combinations_with_replacement(bodies, goroutines)


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_all_programs_of_two_goroutines(patch, capacity):
    runs = 0
    for program in programs(2, 3, ["send", "recv", "close"]):
        runs += compare(patch, [capacity], program)
    assert runs > 5_000


@pytest.mark.parametrize("capacity", [0, 1])
def test_all_programs_of_three_goroutines(patch, capacity):
    runs = 0
    for program in programs(3, 2, ["send", "recv", "close"]):
        runs += compare(patch, [capacity], program)
    assert runs > 5_000


@pytest.mark.parametrize("capacity", [0, 1])
def test_all_programs_of_four_goroutines_with_one_operation(patch, capacity):
    for program in programs(4, 1, ["send", "recv", "recv_ok", "close"]):
        compare(patch, [capacity], program)


bodies = st.lists(
    st.tuples(st.sampled_from(["send", "send", "recv", "recv_ok", "close"]), st.integers(0, 1)),
    min_size=1,
    max_size=3,
)


def test_programs_with_two_channels(patch):
    @settings(max_examples=60 * LONGER, deadline=None)
    @given(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.lists(bodies, max_size=2), bodies)
    def check(capacities, others, last):
        compare(patch, capacities, [*others, last])

    check()


def test_the_model_itself():
    """Spot checks, so that both sides can't be wrong in the same way."""
    meet = [[("send", 0)], [("recv", 0)]]
    assert outcomes_allowed([0], meet) == {(((None,), ((0, 0),)), (((), False),))}
    assert outcomes_allowed([0], [[("send", 0)]]) == {(((),), (((), False),))}
    assert outcomes_allowed([1], [[("send", 0)]]) == {(((None,),), ((((0, 0),), False),))}
    race = [[("send", 0)], [("close", 0)]]
    assert outcomes_allowed([1], race) == {
        (((None,), (None,)), ((((0, 0),), True),)),
        (((SEND_ON_CLOSED,), (None,)), (((), True),)),
    }
