"""Map: against a dict, and under several machines."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import goroutine
from goroutine import Group
from goroutine.sync import Map

NOTHING = (None, False)

keys = st.integers(0, 3)
values = st.one_of(st.integers(0, 2), st.just(None), st.booleans(), st.just("x"))
operations = st.one_of(
    st.tuples(st.sampled_from(["load", "load_and_delete", "delete"]), keys),
    st.tuples(
        st.sampled_from(["store", "load_or_store", "swap", "compare_and_delete"]), keys, values
    ),
    st.tuples(st.just("compare_and_swap"), keys, values, values),
    st.tuples(st.just("clear")),
)


class Model:
    """The same operations on a plain dict."""

    def __init__(self) -> None:
        self.d: dict[Any, Any] = {}

    def load(self, key: Any) -> Any:
        return (self.d[key], True) if key in self.d else NOTHING

    def store(self, key: Any, value: Any) -> None:
        self.d[key] = value

    def load_or_store(self, key: Any, value: Any) -> Any:
        if key in self.d:
            return self.d[key], True
        self.d[key] = value
        return value, False

    def load_and_delete(self, key: Any) -> Any:
        return (self.d.pop(key), True) if key in self.d else NOTHING

    def delete(self, key: Any) -> None:
        self.d.pop(key, None)

    def swap(self, key: Any, value: Any) -> Any:
        before = self.load(key)
        self.d[key] = value
        return before

    def compare_and_swap(self, key: Any, old: Any, new: Any) -> bool:
        if key not in self.d or self.d[key] != old:
            return False
        self.d[key] = new
        return True

    def compare_and_delete(self, key: Any, old: Any) -> bool:
        if key not in self.d or self.d[key] != old:
            return False
        del self.d[key]
        return True

    def clear(self) -> None:
        self.d.clear()


@settings(max_examples=80, deadline=None)
@given(st.lists(operations, max_size=30))
def test_like_a_dict(calls: list[tuple[Any, ...]]) -> None:
    m: Map[Any, Any] = Map()
    model = Model()
    for name, *args in calls:
        assert getattr(m, name)(*args) == getattr(model, name)(*args), (name, args)
        assert dict(m.items()) == model.d
        assert len(m) == len(model.d)
        ranged: dict[Any, Any] = {}
        m.range(ranged.__setitem__)
        assert ranged == model.d


def test_range_stops_at_false() -> None:
    m: Map[int, int] = Map()
    for n in range(5):
        m.store(n, n * n)
    seen = []

    def look(key: int, value: int) -> bool:
        seen.append((key, value))
        m.delete(key + 1)  # it may change the map
        return len(seen) < 3

    m.range(look)
    assert len(seen) == 3
    assert bool(Map())


def test_a_value_that_is_not_equal_to_itself() -> None:
    m: Map[str, float] = Map()
    nan = float("nan")
    m.store("a", nan)
    assert m.compare_and_swap("a", nan, 1.0)  # it is the same one
    assert not m.compare_and_delete("a", nan)


def test_unhashable_keys() -> None:
    m: Map[Any, Any] = Map()
    m.store("a", 1)
    for call in m.load, m.delete, lambda key: m.store(key, 1):
        with pytest.raises(TypeError, match="unhashable"):
            call([])
    assert len(m) == 1
    assert m.swap("a", 2) == (1, True)  # the lock is free


def test_code_of_keys_and_values_may_use_the_map() -> None:
    m: Map[Any, Any] = Map()
    died = []

    class Thing:
        def __eq__(self, other: object) -> bool:
            m.store("compared", True)
            return isinstance(other, Thing)

        def __hash__(self) -> int:
            return 5

        def __del__(self) -> None:
            m.store("died", True)
            died.append(True)

    m.store(Thing(), Thing())
    assert m.load(Thing())[1]
    assert m.compare_and_swap(Thing(), Thing(), 1)
    m.swap(Thing(), 2)
    m.delete(Thing())
    assert m.load("compared") == (True, True)
    assert died


@pytest.mark.parametrize("what", ["swap", "delete"])
def test_changed_while_it_compares(what: str) -> None:
    m: Map[str, Any] = Map()

    class Sly:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            m.store("key", "changed")
            return True

    m.store("key", Sly())
    if what == "swap":
        assert not m.compare_and_swap("key", "old", "new")
    else:
        assert not m.compare_and_delete("key", "old")
    assert m.load("key") == ("changed", True)


def test_stored_while_it_looks() -> None:
    m: Map[Any, str] = Map()

    class Key:
        looks = 0

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Key)

        def __hash__(self) -> int:
            Key.looks += 1
            if Key.looks == 2:  # it was not there at the first look
                m.store(Key(), "first")
            return 5

    assert m.load_or_store(Key(), "second") == ("first", True)
    assert m.load(Key()) == ("first", True)


def count_by(machines: int, change: Callable[[Map[str, int]], None]) -> Map[str, int]:
    """800 changes, by goroutines on machines and by a thread."""

    async def main() -> Map[str, int]:
        m: Map[str, int] = Map()

        def work() -> None:
            for _ in range(100):
                change(m)

        thread = threading.Thread(target=work)
        thread.start()
        async with Group() as group:
            for _ in range(7):
                group.go(work)
        thread.join()
        return m

    return goroutine.start(main, machines=machines)


def test_compare_and_swap_loses_nothing(machines: int) -> None:
    def change(m: Map[str, int]) -> None:
        while True:
            n, _ = m.load_or_store("n", 0)
            if m.compare_and_swap("n", n, n + 1):
                return

    assert count_by(machines, change).load("n") == (800, True)


def test_each_value_is_taken_once(machines: int) -> None:
    """swap, load_or_store and load_and_delete hand every value to one caller."""
    taken: list[int] = []

    def change(m: Map[str, int]) -> None:
        mine = id(object())
        unique = object()
        loaded: list[Any] = [m.swap("n", unique), m.load_and_delete("n")]  # type: ignore[arg-type]
        taken.extend(id(value) for value, ok in loaded if ok)
        keep.extend(value for value, ok in loaded if ok)
        keep.append(unique)
        del mine

    keep: list[Any] = []
    m = count_by(machines, change)
    left, ok = m.load("n")
    assert len(taken) == len(set(taken))
    assert len(taken) + ok == 800
    del left


def test_stored_once(machines: int) -> None:
    stored: list[bool] = []

    def change(m: Map[str, int]) -> None:
        for key in "abc":
            _, loaded = m.load_or_store(key, 1)
            if not loaded:
                stored.append(True)

    m = count_by(machines, change)
    assert len(stored) == len(m) == 3
