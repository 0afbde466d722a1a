"""atomic: Int64, Bool, Value."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import goroutine
import goroutine.atomic as module
from goroutine import Group
from goroutine.atomic import Bool, Int64, Value

LEAST, MOST = -(1 << 63), (1 << 63) - 1

int64 = st.one_of(st.integers(LEAST, MOST), st.sampled_from([LEAST, -1, 0, 1, MOST]))
operations = st.one_of(
    st.tuples(st.sampled_from(["store", "swap", "add", "and_", "or_"]), int64),
    st.tuples(st.just("compare_and_swap"), int64, int64),
    st.tuples(st.just("compare and swap what it is"), int64),
    st.tuples(st.just("load")),
)


def wrapped(n: int) -> int:
    return (n - LEAST) % (1 << 64) + LEAST


@pytest.mark.parametrize("ordered", [True, False])
def test_int64_against_ints(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as it is on machines with a weaker memory order."""
    monkeypatch.setattr(module, "TOTAL_STORE_ORDER", ordered)

    @settings(max_examples=70, deadline=None)
    @given(int64, st.lists(operations, max_size=20))
    def check(now: int, calls: list[tuple[Any, ...]]) -> None:
        n = Int64(now)
        for name, *args in calls:
            if name == "compare and swap what it is":
                assert n.compare_and_swap(now, args[0])
                now = args[0]
            elif name == "compare_and_swap":
                assert n.compare_and_swap(*args) == (args[0] == now)
                now = args[1] if args[0] == now else now
            else:
                result = getattr(n, name)(*args)
                before = now
                match name:
                    case "store" | "swap":
                        now = args[0]
                    case "add":
                        now = wrapped(now + args[0])
                    case "and_":
                        now &= args[0]
                    case "or_":
                        now |= args[0]
                assert result == {"store": None, "add": now, "load": now}.get(name, before)
            assert n.load() == now

    check()


@pytest.mark.parametrize("name", ["store", "swap", "add", "and_", "or_"])
def test_int64_takes_64_bit_ints(name: str) -> None:
    n = Int64(7)
    for bad in MOST + 1, LEAST - 1, 10**30:
        with pytest.raises(OverflowError, match="64 bits"):
            getattr(n, name)(bad)
        with pytest.raises(OverflowError, match="64 bits"):
            n.compare_and_swap(7, bad)
        with pytest.raises(OverflowError, match="64 bits"):
            n.compare_and_swap(bad, 7)
    for bad in 1.0, "1", None, True:  # type: ignore[assignment]
        with pytest.raises(TypeError, match="holds an int"):
            getattr(n, name)(bad)
    with pytest.raises(OverflowError):
        Int64(MOST + 1)

    class Own(int):
        pass

    assert n.load() == 7
    n.swap(Own(9))
    assert n.load() == 9


def hammer(machines: int, work: Callable[[], object]) -> None:
    """8 workers: goroutines on machines, and a thread."""

    async def main() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        async with Group() as group:
            for _ in range(7):
                group.go(work)
        thread.join()

    goroutine.start(main, machines=machines)


def test_int64_hammer(machines: int) -> None:
    """Seen to fail with a plain store in the place of the compare-and-swap."""
    total, stack = Int64(), Int64(MOST - 700)
    highest = Int64(LEAST)

    def work() -> None:
        for i in range(300):
            total.add(i)
            stack.add(1)  # wraps around
            while i > (seen := highest.load()):
                highest.compare_and_swap(seen, i)

    hammer(machines, work)
    assert total.load() == 8 * sum(range(300))
    assert stack.load() == wrapped(MOST - 700 + 2400) < 0
    assert highest.load() == 299


@pytest.mark.parametrize("name", ["or_", "and_"])
def test_changed_between_the_look_and_the_swap(name: str) -> None:
    class Raced(Int64):
        __slots__ = ("raced",)

        def compare_and_swap(self, old: int, new: int) -> bool:
            if not hasattr(self, "raced"):
                self.raced = True
                self.store(0b1010)
            return super().compare_and_swap(old, new)

    n = Raced(0b0001)
    assert getattr(n, name)(0b0110) == 0b1010
    assert n.load() == (0b1110 if name == "or_" else 0b0010)


def test_each_has_a_bit(machines: int) -> None:
    bits, workers = Int64(), Int64()

    def work() -> None:
        mine = 1 << (7 * workers.add(1))
        for _ in range(300):
            assert not bits.or_(mine) & mine
            assert bits.load() & mine
            assert bits.and_(~mine) & mine

    hammer(machines, work)
    assert workers.load() == 8
    assert bits.load() == 0


def test_swap_hands_each_value_on_once(machines: int) -> None:
    place, ids = Int64(), Int64()
    got: list[int] = []

    def work() -> None:
        for _ in range(300):
            got.append(place.swap(ids.add(1)))

    hammer(machines, work)
    assert sorted([*got, place.load()]) == list(range(2401))


def test_a_finalizer_may_use_atomics() -> None:
    """In the midst of another operation of the same thread."""
    import gc

    dead, total = Int64(), Int64()

    class Node:
        def __init__(self) -> None:
            self.me = self  # garbage that only the collector finds

        def __del__(self) -> None:
            dead.add(1)
            dead.swap(dead.load())

    before = gc.get_threshold()
    gc.set_threshold(20, *before[1:])
    try:
        for i in range(2000):
            Node()
            assert total.add(3) == 3 * (i + 1)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert dead.load() == 2000


def test_bool() -> None:
    flag = Bool()
    assert flag.load() is False
    flag.store(True)
    assert flag.load() is True
    assert flag.swap(False) is True
    assert flag.compare_and_swap(True, True) is False
    assert flag.compare_and_swap(False, True) is True
    assert flag.load() is True
    for bad in 1, 0, None, "":
        with pytest.raises(TypeError, match="holds a bool"):
            flag.store(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="holds a bool"):
        Bool(1)  # type: ignore[arg-type]


def test_bool_is_taken_by_one(machines: int) -> None:
    flags = [Bool() for _ in range(300)]
    winners: list[int] = []

    def work() -> None:
        winners.extend(i for i, flag in enumerate(flags) if flag.compare_and_swap(False, True))

    hammer(machines, work)
    assert sorted(winners) == list(range(300))


def test_value() -> None:
    value: Value[Any] = Value()
    assert value.load() is None
    for call in value.store, value.swap, lambda new: value.compare_and_swap(None, new):
        with pytest.raises(TypeError, match=r"^sync/atomic: .* of nil value into Value$"):
            call(None)
    assert value.compare_and_swap(None, [1])
    assert not value.compare_and_swap(None, [2])
    assert value.load() == [1]
    for call in value.store, value.swap, lambda new: value.compare_and_swap(None, new):
        with pytest.raises(TypeError, match=r"of inconsistently typed value into Value$"):
            call((1,))
    with pytest.raises(TypeError, match=r"swap of inconsistently typed values$"):
        value.compare_and_swap((1,), [1])
    assert not value.compare_and_swap([2], [3])
    assert value.compare_and_swap([1], [2])  # an equal one
    assert value.swap([3]) == [2]
    value.store([4])
    assert value.load() == [4]


def test_value_hammer(machines: int) -> None:
    value: Value[int] = Value()
    value.store(0)

    def work() -> None:
        for _ in range(300):
            while True:
                seen = value.load()
                assert seen is not None
                if value.compare_and_swap(seen, seen + 1):
                    break

    hammer(machines, work)
    assert value.load() == 2400
