"""Channels against models of what a channel is.

Two independent ones. `Queue` says what a sequence of operations gives, one after the other,
who waits included; the real channel follows it on a running machine. `outcomes_allowed`
(stepped.py) says which outcomes a concurrent program may have at all, knows no wait queues,
and is compared with all that the real channel does in every interleaving: the goroutines
are stepped by hand, without threads.
"""

from __future__ import annotations

import os
import time
from itertools import combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stepped import (
    CANCELED,
    CLOSE_OF_CLOSED,
    END,
    SEND_ON_CLOSED,
    a_third,
    compare,
    outcomes_allowed,
)

from goroutine import ChanClosed, chan, go, gosched, start

pytestmark = pytest.mark.timeout(60)

LONGER = int(os.environ.get("GOROUTINE_STRESS", "1"))


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
@settings(max_examples=60 * LONGER, deadline=None)
@given(capacity=st.integers(0, 4), script=scripts)
def test_a_sequence_of_operations_gives_what_the_model_says(machines, capacity, script):
    start(follow, capacity, script, machines=machines, io="epoll")


# -- every interleaving -----------------------------------------------------------------------


def programs(goroutines, operations, alphabet):
    """All programs of so many goroutines with so many operations each, up to their order."""
    bodies = [("plain", ops) for ops in product(alphabet, repeat=operations)]
    return combinations_with_replacement(bodies, goroutines)


def on_one(*names):
    return [(name, 0) for name in names]


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_all_programs_of_two_goroutines(capacity):
    runs = 0
    for program in programs(2, 3, on_one("send", "recv", "close")):
        runs += compare([capacity], program)
    assert runs > 5_000


@pytest.mark.parametrize("capacity", [0, 1])
def test_all_programs_of_three_goroutines(capacity):
    runs = 0
    for program in a_third(programs(3, 2, on_one("send", "recv", "close"))):
        runs += compare([capacity], program)
    assert runs > 2_000


@pytest.mark.parametrize("capacity", [0, 1])
def test_all_programs_of_four_goroutines_with_one_operation(capacity):
    for program in programs(4, 1, on_one("send", "recv", "recv_ok", "close")):
        compare([capacity], program)


bodies = st.tuples(
    st.just("plain"),
    st.lists(
        st.tuples(
            st.sampled_from(["send", "send", "recv", "recv_ok", "close", "len"]),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=3,
    ),
)


@settings(max_examples=60 * LONGER, deadline=None)
@given(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.lists(bodies, max_size=2), bodies)
def test_programs_with_two_channels(capacities, others, last):
    compare(capacities, [*others, last])


@pytest.mark.parametrize("mode", ["scope", "ctx"])
@pytest.mark.parametrize("capacity", [0, 1])
def test_all_programs_with_a_cancel(mode, capacity):
    """Whoever is cancelled has sent or received nothing, in every order of the events.

    Fails when `Waiter.claim` always succeeds, when `_wait` doesn't `leave`, and when a hook
    is not put into its scope or not taken out again.
    """
    runs = 0
    victims = list(product(on_one("send", "recv", "recv_ok"), repeat=2))
    others = list(product([*on_one("send", "recv", "close"), ("cancel", 0)], repeat=2))
    for first, second in a_third(product(victims, others)):
        runs += compare([capacity], [(mode, first), ("plain", second)])
        runs += compare([capacity], [(mode, first), (mode, second), ("plain", [("cancel", 0)])])
    assert runs > 1_500


def test_cancelling_oneself():
    """One's own cancel is told at the next wait, once for a scope and always by a ctx."""
    ops = [("cancel", 0), ("send", 0), ("recv", 0), ("recv", 0), ("recv", 0)]
    once = ((None, None, (0, 1, 0), CANCELED),)
    assert outcomes_allowed([1], [("scope", ops)]) == {(once, (((), False),))}
    always = ((None, *[CANCELED] * 4),)
    assert outcomes_allowed([1], [("ctx", ops)]) == {(always, (((), False),))}
    for mode in ("scope", "ctx"):
        compare([1], [(mode, ops)])


def test_the_model_itself():
    """Spot checks, so that both sides can't be wrong in the same way."""

    def allowed(capacities, *program):
        return outcomes_allowed(capacities, [("plain", ops) for ops in program])

    meet = [[("send", 0)], [("recv", 0)]]
    assert allowed([0], *meet) == {(((None,), ((0, 0, 0),)), (((), False),))}
    assert allowed([0], [("send", 0)]) == {(((),), (((), False),))}
    assert allowed([1], [("send", 0)]) == {(((None,),), ((((0, 0, 0),), False),))}
    race = [[("send", 0)], [("close", 0)]]
    assert allowed([1], *race) == {
        (((None,), (None,)), ((((0, 0, 0),), True),)),
        (((SEND_ON_CLOSED,), (None,)), (((), True),)),
    }
    twice = [[("close", 0)], [("close", 0), ("recv", 0)]]
    assert allowed([0], *twice) == {
        (((None,), (CLOSE_OF_CLOSED, END)), (((), True),)),
        (((CLOSE_OF_CLOSED,), (None, END)), (((), True),)),
    }
