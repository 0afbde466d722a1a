"""Pool: what was put back comes again, once, until the garbage is collected."""

import gc
import threading

import pytest

import goroutine
from goroutine import Group
from goroutine.sync import Pool


def test_get_and_put() -> None:
    assert Pool().get() is None
    pool = Pool(list)
    first = pool.get()
    assert first == []
    first.append(1)
    pool.put(first)
    assert pool.get() is first
    assert pool.get() == []
    pool.put(None)  # type: ignore[arg-type]
    assert pool.get() == []
    with pytest.raises(TypeError, match="function"):
        Pool(5)  # type: ignore[arg-type]


def test_from_another_thread() -> None:
    pool, item = Pool[object](), object()
    thread = threading.Thread(target=pool.put, args=(item,))
    thread.start()
    thread.join()
    assert pool.get() is item
    assert pool.get() is None


@pytest.mark.parametrize("own", [True, False])
def test_each_is_given_once(own: bool) -> None:
    """To its own thread or to another. Seen to fail (mostly) when an item is looked up
    and then removed, in two steps, on either way."""
    pool: Pool[int] = Pool()
    count = 100_000 if own else 30_000
    ready = threading.Barrier(3)
    got: list[list[int]] = [[], [], []]

    def fill() -> None:
        for i in range(count):
            pool.put(i + 1)

    def take(n: int) -> None:
        if own and n == 0:
            fill()
        mine = got[n]
        ready.wait()
        while (item := pool.get()) is not None:
            mine.append(item)

    enabled = gc.isenabled()
    gc.disable()  # nothing is to be given up
    try:
        if not own:
            fill()
        threads = [threading.Thread(target=take, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        if enabled:
            gc.enable()
    assert sorted(got[0] + got[1] + got[2]) == list(range(1, count + 1))


def test_a_list_for_each_machine(machines: int) -> None:
    """What a machine put back it gets again, before what others did."""

    async def main() -> None:
        pool = Pool[tuple[int, int]]()

        async def worker(n: int) -> None:
            for i in range(20):
                pool.put((threading.get_ident(), i))
                got = pool.get()
                assert got == (threading.get_ident(), i)
                await goroutine.gosched()

        async with Group() as group:
            for n in range(8):
                group.go(worker, n)
        assert pool.get() is None

    goroutine.start(main, machines=machines)


def test_collections_empty_it() -> None:
    """An object that lies unused through two collections is given up; one is not enough."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        pool, item = Pool[object](), object()
        pool.put(item)
        gc.collect()
        assert pool.get() is item
        pool.put(item)
        gc.collect()
        gc.collect()
        assert pool.get() is None
    finally:
        if enabled:
            gc.enable()


def test_a_pool_can_be_freed() -> None:
    from goroutine.sync import pool as module

    gc.collect()
    before = len(module._pools)
    pool = Pool(list)
    assert len(module._pools) == before + 1
    del pool
    gc.collect()
    assert len(module._pools) == before


def test_hammer(machines: int) -> None:
    """Nothing is ever given to two, while collections put the lists aside."""

    async def main() -> int:
        pool: Pool[list[int]] = Pool(lambda: [0])
        broken = 0

        async def worker(n: int) -> None:
            nonlocal broken
            for i in range(150):
                item = pool.get()
                other = pool.get()
                for mine in item, other:
                    mine[0] += 1
                if i % 3 == 0:
                    await goroutine.gosched()
                for mine in item, other:
                    broken += mine[0] != 1
                    mine[0] -= 1
                    pool.put(mine)
                if n == 0 and i % 40 == 0:
                    gc.collect()

        async with Group() as group:
            for n in range(8):
                group.go(worker, n)
        return broken

    assert goroutine.start(main, machines=machines) == 0
