"""What a run has taken from the system it has given back when start() returns."""

import gc
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from goroutine import GoroutinePanic, chan, go, gosched, net, num_goroutine, sleep, start
from goroutine.runtime.goroutine import Goroutine
from goroutine.runtime.scheduler import Runtime
from goroutine.runtime.shared import flags, idle, machines, spinning

pytestmark = pytest.mark.timeout(60)

RUNS = {"io_uring": 40, "epoll": 20}

PLENTY = bytes(8_000_000)  # more than the kernel takes for a peer that doesn't read


def fds() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass  # that of the listing itself
    return found


def resident() -> int:
    """Bytes of memory this process really has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alive(*kinds: type) -> dict[str, int]:
    gc.collect()
    objects = gc.get_objects()
    return {kind.__name__: sum(isinstance(o, kind) for o in objects) for kind in kinds}


async def returns() -> None:
    async def child() -> None:
        await gosched()

    for g in [go(child) for _ in range(20)]:
        await g


async def fails() -> None:
    go(sleep, 1000)
    await gosched()
    raise LookupError


async def panics() -> None:
    go(lambda: 1 / 0)
    await sleep(1000)


async def leaves_goroutines() -> None:
    """Parked in all places there are."""
    ch, full = chan(), chan()
    for _ in range(5):
        go(ch.recv)
        go(full.send, bytearray(10_000))
        go(sleep, 1000)
    for _ in range(80):
        go(returns)  # most of which will not even begin
    await gosched()


async def leaves_connections() -> None:
    """Open, read from, written to until they block, not yet accepted; nothing is closed."""
    listener = await net.listen("tcp", "127.0.0.1:0")
    again = await net.listen("tcp", "127.0.0.1:0")
    go(listener.serve, _reads)
    go(again.accept)
    for _ in range(3):
        conn = await net.dial("tcp", listener.address)
        await conn.write(b"some")
        go(conn.read, 10)
        go(conn.write, PLENTY)
        await net.dial("tcp", again.address)
    await sleep(0.001)


async def _reads(conn: net.Conn) -> None:
    await conn.read(4)
    await conn.read_exactly(10**9)


@pytest.mark.parametrize(
    ("main", "error"),
    [
        (returns, None),
        (fails, LookupError),
        (panics, GoroutinePanic),
        (leaves_goroutines, None),
        (leaves_connections, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_run_after_run(
    main: Callable[[], Coroutine[Any, Any, None]], error: type[Exception] | None, io: str
) -> None:
    def run(times: int) -> None:
        for n in range(times):
            try:
                start(main, machines=(1, 2, 4)[n % 3], io=io)
            except Exception as failure:
                if error is None or not isinstance(failure, error):
                    raise

    run(9)
    gc.collect()
    before = fds(), set(threading.enumerate()), resident()
    objects = alive(Runtime, Goroutine, threading.Thread)
    run(RUNS[io])
    assert set(threading.enumerate()) == before[1]
    assert len(os.listdir("/proc/self/task")) <= len(before[1]) + 1
    assert num_goroutine() == 0
    assert not machines
    assert not idle
    assert not spinning
    assert flags["runq"] is False or main is leaves_goroutines
    now = alive(Runtime, Goroutine, threading.Thread)
    assert fds() == before[0]
    assert {k: n for k, n in now.items() if n > objects[k] + 1} == {}
    # What threads have freed comes and goes by some 30 MB, without growing. (A ring that is not
    # given back shows in the fds.)
    assert resident() - before[2] < 60_000_000


def test_fds_are_given_back_without_the_collector(io: str) -> None:
    gc.collect()
    gc.disable()
    try:
        before = fds()
        for _ in range(5):
            start(leaves_connections, machines=2, io=io)
            assert fds() == before
    finally:
        gc.enable()


def test_a_run_that_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second machine's poller can't be made: the first one goes home again."""
    from goroutine.io import backend

    make = backend.make

    def fail_for_1(io: str, ready: Any, number: int, count: int) -> Any:
        if number == 1:
            raise OSError(24, "Too many open files")
        return make(io, ready, number, count)

    monkeypatch.setattr(backend, "make", fail_for_1)
    before = fds(), set(threading.enumerate())
    for _ in range(5):
        with pytest.raises(OSError, match="Too many open files"):
            start(returns, machines=3)
        assert fds() == before[0]
        assert set(threading.enumerate()) == before[1]
    monkeypatch.undo()
    start(returns, machines=3)


def test_thresholds_of_the_collector() -> None:
    before = gc.get_threshold()

    async def main() -> tuple[int, ...]:
        return gc.get_threshold()

    assert start(main, machines=1) >= before
    assert gc.get_threshold() == before
