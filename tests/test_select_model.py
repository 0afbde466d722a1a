"""select against the model of stepped.py: small programs in every interleaving, larger ones
in random ones.

Seen to fail when `_Entry.claim` always succeeds, when `_leave` is skipped, when a select
looks at one of its channels only before it waits, or not again at all, and when `publish`
in wait.py watches no scope. (The `check` before a wait only saves the wait: `watch` sees
the same.)
"""

from __future__ import annotations

import os
import random
from itertools import combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stepped import CANCELED, SEND_ON_CLOSED, Preempted, Stepped, a_third, compare, outcomes_allowed

pytestmark = pytest.mark.timeout(60)

LONGER = int(os.environ.get("GOROUTINE_STRESS", "1"))

R0, R1, S0, S1 = ("recv", 0), ("recv", 1), ("send", 0), ("send", 1)


def select(*cases, default=False):
    return ("select", cases, default)


def plain(*bodies):
    return [("plain", ops) for ops in bodies]


# -- all interleavings ------------------------------------------------------------------------

ONE_CHANNEL = [
    select(R0),
    select(S0, default=True),
    select(R0, default=True),
    select(R0, S0),
    S0,
    ("close", 0),
]


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_all_programs_of_two_goroutines_on_one_channel(capacity):
    runs = 0
    for program in a_third(combinations_with_replacement(product(ONE_CHANNEL, repeat=2), 2)):
        runs += compare([capacity], plain(*program))
    assert runs > 1_000


TWO_CHANNELS = [select(R0, R1), select(R0, S1), select(S1, S0), S0, R1, ("close", 1)]


@pytest.mark.parametrize("capacities", [(0, 0), (0, 1), (1, 1)])
def test_all_programs_of_two_goroutines_on_two_channels(capacities):
    runs = 0
    for program in a_third(combinations_with_replacement(product(TWO_CHANNELS, repeat=2), 2)):
        runs += compare(capacities, plain(*program))
    assert runs > 1_000


@pytest.mark.parametrize("capacities", [(0, 0), (0, 1)])
def test_all_programs_of_three_goroutines_that_select_first(capacities):
    """Two that wait in several queues, and a third that may be served by either."""
    selects = [select(R0, R1), select(R0, S1), select(S0, S1), select(R0, S0)]
    others = list(product([S0, R0, R1, ("close", 0)], repeat=2))
    runs = 0
    pairs = combinations_with_replacement(selects, 2)
    for (first, second), ops in a_third(product(pairs, others)):
        runs += compare(capacities, plain([first], [second], ops))
    assert runs > 1_000


def test_all_programs_of_four_selects():
    selects = [select(R0, R1), select(S0, S1), select(S0, R1)]
    for program in combinations_with_replacement(selects, 4):
        compare((0, 0), plain(*[[op] for op in program]))
    for program in combinations_with_replacement([*selects, select(R0, S1, default=True)], 3):
        compare((1, 0), plain(*[[op] for op in program]))


def test_duplicates_and_nil_channels():
    """The same case several times, with a value of its own each; channels that are None."""
    nil = ("recv", None)
    for op in (
        select(R0, R0),
        select(nil, R0, nil),
        select(R0, S0, R0),
        select(("send", None), nil),
        select(nil, default=True),
        select(),
        select(default=True),
    ):
        for others in (
            [[S0]],
            [[R0]],
            [[select(S0, S0)], [("close", 0)]],
            [[select(R0, S0)]],
        ):
            for capacity in (0, 1):
                compare([capacity], plain([op], *others), ways=3)


def test_all_programs_with_a_cancelled_select():
    """A cancelled select has done nothing; one that has done something is not cancelled."""
    runs = 0
    selects = [select(R0, R1), select(S0, R1), select(S0, S0)]
    victims = [*[[op] for op in selects], [selects[0], R0], [selects[1], S1]]
    others = list(product([S0, R0, ("close", 1), ("cancel", 0)], repeat=2))
    for first, second in a_third(product(victims, others)):
        for capacities in ((0, 0), (0, 1)):
            cancel = ("plain", [("cancel", 0)])
            runs += compare(capacities, [("scope", first), ("plain", second), cancel])
    assert runs > 1_000


# -- two machines at once ---------------------------------------------------------------------
#
# Preempted lets a second machine make steps in the midst of an operation. This is where a
# claim, the locks of a select and the second looks in wait.py are needed.


def twice(*args):
    return Preempted(*args, preemptions=2)


@pytest.mark.parametrize("capacities", [(0, 0), (1, 0)])
def test_preempted_selects(capacities):
    """Fails when `_lock_all` locks nothing, and when `_Entry.claim` always succeeds."""
    selects = [select(R0, R1), select(S1, S0), select(R0, S1), select(S0, S0)]
    others = [[S0], [R0], [("close", 0)], [select(R0, default=True)], [select(S1, R1)]]
    runs = 0
    for op, (first, second) in a_third(product(selects, combinations_with_replacement(others, 2))):
        runs += compare(capacities, plain([op], first, second), kind=Preempted)
    assert runs > 800


def test_selects_preempted_twice():
    runs = 0
    selects = [select(R0, R1), select(S1, S0), select(R0, S0), S0]
    for program in combinations_with_replacement(selects, 3):
        runs += compare((0, 0), plain(*[[op] for op in program]), kind=Preempted)
    for first, second in combinations_with_replacement(selects, 2):
        runs += compare((0, 1), plain([first, R1], [second]), kind=twice)
    assert runs > 2_000


@pytest.mark.parametrize("mode", ["scope", "ctx"])
def test_preempted_cancels(mode):
    """Fails when `publish` doesn't look whether the wait is over (the hook stays in its
    context then), when `watch` doesn't look whether the context has ended, and when a cancel
    doesn't claim.
    """
    victims = [[R0], [S0], [S0, R0], *([] if mode == "ctx" else [[select(R0, R1)]])]
    cancel = [("cancel", 0)]
    runs = 0
    for ops in victims:
        for other in ([S0], [R0], [("close", 0)], [select(S0, R0)]):
            two = [(mode, ops), ("plain", other)]
            runs += compare((0, 0), two, kind=twice)  # its context must keep nothing
            runs += compare((0, 0), [*two, ("plain", cancel)], kind=Preempted)
            runs += compare((1, 0), [(mode, ops), ("plain", [*other, *cancel])], kind=twice)
    assert runs > 1_000


# -- random programs ----------------------------------------------------------------------------

channels = st.integers(0, 2)
cases = st.tuples(st.sampled_from(["send", "recv"]), st.one_of(channels, channels, st.none()))
operations = st.one_of(
    st.tuples(st.sampled_from(["send", "recv", "recv_ok"]), channels),
    st.tuples(st.just("select"), st.lists(cases, max_size=4).map(tuple), st.booleans()),
    st.tuples(st.just("select"), st.lists(cases, max_size=4).map(tuple), st.just(False)),
    st.tuples(st.sampled_from(["close", "len"]), channels),
    st.tuples(st.just("cancel"), st.integers(0, 2)),
)
bodies = st.tuples(
    st.sampled_from(["plain", "scope", "ctx"]), st.lists(operations, min_size=1, max_size=3)
)


@settings(max_examples=60 * LONGER, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.lists(bodies, min_size=3, max_size=4),
    st.integers(0, 2**32),
)
def test_random_programs_have_allowed_outcomes(capacities, program, seed):
    allowed = outcomes_allowed(capacities, program)
    rng = random.Random(seed)
    for _ in range(10):
        assert Stepped(capacities, program, rng.randrange, ways=4).run() in allowed


bodies_of_two = st.tuples(
    st.sampled_from(["plain", "scope", "ctx"]), st.lists(operations, min_size=1, max_size=2)
)


@settings(max_examples=40 * LONGER, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.lists(bodies_of_two, min_size=3, max_size=3),
)
def test_random_small_programs_in_all_interleavings(capacities, program):
    # (With random numbers 1/8, 3/8, ... each of four cases has a number that chooses it.)
    compare(capacities, program, ways=4 if any_of_more_than_two(program) else 2)


def any_of_more_than_two(program):
    return any(
        op[0] == "select" and sum(c is not None for _, c in op[1]) > 2
        for _, ops in program
        for op in ops
    )


def test_the_model_itself():
    def allowed(capacities, *bodies):
        return {logs for logs, _ in outcomes_allowed(capacities, plain(*bodies))}

    v = (0, 0, 0)
    # It may come too early for the receiver, or just in time.
    poll = select(S0, default=True)
    assert allowed([0], [poll], [R0]) == {
        (((-1, None, False),), ()),
        (((0, None, True),), (v,)),
    }
    # Two that don't wait never meet.
    assert allowed([0], [poll], [select(R0, default=True)]) == {
        (((-1, None, False),), ((-1, None, False),))
    }
    # Nobody meets himself; two of a kind do meet, either way round.
    both = select(R0, S0)
    assert allowed([0], [both]) == {((),)}
    assert allowed([0], [both], [both]) == {
        (((1, None, True),), ((0, (0, 0, 1), True),)),
        (((0, (1, 0, 1), True),), ((1, None, True),)),
    }
    # A default is never taken while a case can be.
    assert allowed([1], [poll]) == {(((0, None, True),),)}
    assert allowed([1], [S0, poll]) == {((None, (-1, None, False)),)}
    assert allowed([0], [("close", 0), poll]) == {((None, SEND_ON_CLOSED),)}
    program = [("scope", [("cancel", 0), select(R0), select(R0, default=True)])]
    assert {logs for logs, _ in outcomes_allowed([0], program)} == {
        ((None, CANCELED, (-1, None, False)),)
    }
