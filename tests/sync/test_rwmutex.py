"""RWMutex: readers together, writers alone, and writers before new readers."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sync_support import Chaos, waiting
from waiting import until

import goroutine
from goroutine import Canceled, Group, context
from goroutine.sync import RWMutex
from goroutine.sync import rwmutex as module


def assert_free(m: RWMutex) -> None:
    assert not m._queue
    assert not m._readers
    assert not m._writing
    assert m._draining is None
    assert m.try_lock()
    assert not m.try_rlock()
    m.unlock()


class Counts:
    """Who is inside, counted under a lock of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = self.writers = 0
        self.reads = self.writes = 0
        self.most = 0
        self.broken = 0

    async def read(self) -> None:
        with self.lock:
            self.readers += 1
            self.reads += 1
            self.most = max(self.most, self.readers)
            self.broken += self.writers > 0
        await goroutine.gosched()
        with self.lock:
            self.broken += self.writers > 0
            self.readers -= 1

    async def write(self) -> None:
        with self.lock:
            self.writers += 1
            self.writes += 1
            self.broken += self.writers != 1 or self.readers > 0
        await goroutine.gosched()
        with self.lock:
            self.broken += self.writers != 1 or self.readers > 0
            self.writers -= 1


def test_readers_together_writers_alone() -> None:
    async def main() -> None:
        m = RWMutex()
        await m.rlock()
        await m.rlock()
        assert not m.try_lock()
        assert m.try_rlock()
        for _ in range(3):
            m.runlock()
        await m.lock()
        assert not m.try_rlock()
        assert not m.try_lock()
        m.unlock()
        async with m.reader(), m.reader():
            assert not m.try_lock()
        async with m:
            assert not m.reader().try_lock()
        reader = m.reader()
        await reader.lock()
        assert not m.try_lock()
        reader.unlock()
        assert_free(m)

    goroutine.start(main)


def test_misuse() -> None:
    m = RWMutex()
    unlocked, runlocked = (rf"^sync: {name} of unlocked RWMutex$" for name in ("Unlock", "RUnlock"))
    with pytest.raises(RuntimeError, match=unlocked):
        m.unlock()
    with pytest.raises(RuntimeError, match=runlocked):
        m.runlock()
    with pytest.raises(RuntimeError, match=runlocked):
        m.reader().unlock()
    assert m.try_rlock()
    with pytest.raises(RuntimeError, match=unlocked):
        m.unlock()
    m.runlock()
    assert m.try_lock()
    with pytest.raises(RuntimeError, match=runlocked):
        m.runlock()
    m.unlock()
    assert_free(m)


def test_a_waiting_writer_holds_new_readers_off(machines: int) -> None:
    """And all readers that have queued get in before the next writer does."""

    async def main() -> list[str]:
        m, order = RWMutex(), []

        async def write(name: str) -> None:
            async with m:
                order.append(name)

        async def read(go_on: goroutine.Chan[None]) -> None:
            async with m.reader():
                order.append("read")
                await go_on.recv()

        go_on = goroutine.chan()
        await m.rlock()
        goroutine.go(write, "first")
        await until(lambda: m._draining)
        assert not m.try_rlock()
        for n in range(3):
            goroutine.go(read, go_on)
            await until(lambda n=n: waiting(m) == n + 1)
        goroutine.go(write, "second")
        await until(lambda: waiting(m._writers) == 1)
        assert not order
        m.runlock()
        await until(lambda: len(order) == 4)
        for _ in range(3):
            await go_on.send(None)
        await until(lambda: len(order) == 5)
        await until(lambda: not m._writing)
        assert_free(m)
        return order

    order = goroutine.start(main, machines=machines)
    assert order == ["first", "read", "read", "read", "second"]


@pytest.mark.parametrize(("readers", "writers"), [(1, 1), (3, 1), (10, 2), (10, 10)])
def test_hammer(machines: int, readers: int, writers: int) -> None:
    """Seen to fail (with a deadlock) when runlock does not look for a writer, and when lock()
    doesn't wait for the readers inside."""

    async def main() -> tuple[Counts, RWMutex]:
        m, counts = RWMutex(), Counts()

        async def reader(n: int) -> None:
            for i in range(150):
                if (n + i) % 4:
                    async with m.reader():
                        await counts.read()
                elif m.try_rlock():
                    await counts.read()
                    m.runlock()
                else:
                    await goroutine.gosched()

        async def writer(n: int) -> None:
            for i in range(60):
                if (n + i) % 4:
                    async with m:
                        await counts.write()
                elif m.try_lock():
                    await counts.write()
                    m.unlock()
                else:
                    await goroutine.gosched()

        async with Group() as group:
            for n in range(readers):
                group.go(reader, n)
            for n in range(writers):
                group.go(writer, n)
        return counts, m

    counts, m = goroutine.start(main, machines=machines)
    assert counts.broken == 0
    assert counts.writes >= writers * 45
    assert counts.reads >= readers * 110
    if readers == 10 and machines == 1:  # (else they may happen to run one by one)
        assert counts.most > 1
    assert_free(m)


@pytest.mark.timeout(10)
def test_unlocked_while_one_goes_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first look, and before it has queued: the other side finds nobody to wake."""

    async def main() -> None:
        m, running = RWMutex(), module.running_goroutine

        def go_on_after(unlock: Callable[[], None]) -> Callable[[], Any]:
            def unlock_and_go_on() -> Any:
                unlock()
                return running()

            return unlock_and_go_on

        await m.lock()
        with monkeypatch.context() as patch:
            patch.setattr(module, "running_goroutine", go_on_after(m.unlock))
            await m.rlock()
            patch.setattr(module, "running_goroutine", go_on_after(m.runlock))
            await m.lock()
        m.unlock()
        assert_free(m)

    goroutine.start(main)


def test_cancelled_readers_and_writers() -> None:
    async def main() -> None:
        m = RWMutex()

        def soon() -> context.CancelContext:
            return context.with_timeout(context.background(), 0.003)

        await m.rlock()
        with pytest.raises(TimeoutError):
            await m.lock(ctx=soon())
        assert m.try_rlock(), "the writer is gone"
        m.runlock()

        # Readers behind a writer that is cancelled get in.
        ctx = context.with_cancel(context.background())
        writer = goroutine.go(expect_canceled, m.lock(ctx=ctx))
        await until(lambda: m._draining)
        reader = goroutine.go(m.rlock())
        await until(lambda: waiting(m) == 1)
        ctx.cancel()
        await writer
        await reader
        m.runlock()
        m.runlock()
        assert_free(m)

        await m.lock()
        with pytest.raises(TimeoutError):
            await m.rlock(ctx=soon())
        with pytest.raises(TimeoutError):
            await m.lock(ctx=soon())
        m.unlock()
        assert_free(m)

    async def expect_canceled(coro: object) -> None:
        with pytest.raises(Canceled):
            await coro  # type: ignore[misc]

    goroutine.start(main)


@pytest.mark.timeout(10)
def test_a_writer_waits_for_a_reader_that_turns_back() -> None:
    """One that saw the writer and is about to take its entry out of the list again."""

    async def main() -> None:
        m = RWMutex()
        m._readers.append(None)
        writer = goroutine.go(m.lock())
        await until(lambda: m._draining)
        assert not m._stay()
        await writer
        m.unlock()
        assert_free(m)

    goroutine.start(main)


def test_cancelled_at_random(machines: int) -> None:
    """Seen to fail when a cancelled writer keeps the other writers out."""

    async def main() -> tuple[Counts, list[int], RWMutex]:
        m, counts, chaos, done = RWMutex(), Counts(), Chaos(11), [0, 0]
        tally = threading.Lock()

        async def worker(n: int) -> None:
            writes = n % 3 == 0
            for _ in range(60):
                ctx = chaos.context()
                try:
                    if writes:
                        await m.lock(ctx=ctx)
                    else:
                        await m.rlock(ctx=ctx)
                except Canceled:
                    continue
                if writes:
                    await counts.write()
                    m.unlock()
                else:
                    await counts.read()
                    m.runlock()
                with tally:
                    done[writes] += 1
                ctx.cancel()

        await m.lock()
        async with Group() as group:
            for n in range(15):
                group.go(worker, n)
            await until(lambda: waiting(m) > 5)
            chaos.strike(0.3)
            canceller = goroutine.go(chaos.run)
            m.unlock()
        chaos.over = True
        await canceller
        return counts, done, m

    counts, done, m = goroutine.start(main, machines=machines)
    assert counts.broken == 0
    assert [counts.reads, counts.writes] == done
    assert 0 < sum(done) < 15 * 60
    assert_free(m)


def test_waiters_are_closed_with_the_run() -> None:
    m, closed = RWMutex(), []

    async def read() -> None:
        try:
            async with m.reader():
                await goroutine.sleep(1000)
        finally:
            closed.append("read")

    async def write() -> None:
        try:
            async with m:
                await goroutine.sleep(1000)
        finally:
            closed.append("write")

    async def main() -> None:
        goroutine.go(read)
        await until(lambda: m._readers)
        goroutine.go(write)
        await until(lambda: m._draining)
        for n in range(2):
            goroutine.go(read)
            await until(lambda n=n: waiting(m) == n + 1)
        goroutine.go(write)
        await until(lambda: waiting(m._writers) == 1)

    goroutine.start(main, machines=1)
    assert sorted(closed) == ["read"] * 3 + ["write"] * 2
    assert_free(m)
