"""Cond: order, broadcast, cancellation; the mutex is held when wait() ends, come what may."""

import threading

import pytest
from sync_support import waiting
from waiting import until

import goroutine
from goroutine import Canceled, Group, context
from goroutine.sync import Cond, Mutex, RWMutex


def test_signal_wakes_the_oldest(machines: int) -> None:
    async def main() -> list[int]:
        cond, order = Cond(Mutex()), []

        async def wait(n: int) -> None:
            async with cond.mutex:
                await cond.wait()
                assert not cond.mutex.try_lock()
                order.append(n)

        cond.signal()  # nobody waits: not remembered
        cond.broadcast()
        for n in range(6):
            goroutine.go(wait, n)
            await until(lambda n=n: waiting(cond) == n + 1)
        assert not order
        for n in range(6):
            async with cond.mutex:
                cond.signal()
            await until(lambda n=n: len(order) == n + 1)
            assert waiting(cond) == 5 - n
        return order

    assert goroutine.start(main, machines=machines) == list(range(6))


def test_a_signal_as_soon_as_the_mutex_is_unlocked() -> None:
    """It finds who has unlocked it in order to wait."""

    async def main() -> None:
        threads = []

        class Watched(Mutex):
            __slots__ = ()

            def unlock(self) -> None:
                super().unlock()
                thread = threading.Thread(target=cond.signal)
                thread.start()
                # Until it has signalled; but rightly it can't before the waiter has stopped.
                thread.join(0.1)
                threads.append(thread)

        cond = Cond(Watched())
        with goroutine.hold():
            await cond.mutex.lock()
            waiter = goroutine.go(cond.wait())
            await until(lambda: threads)
            await until(lambda: waiter.done, seconds=5)
        threads[0].join()

    goroutine.start(main, machines=1)


def test_broadcast(machines: int) -> None:
    async def main() -> None:
        cond, awake = Cond(Mutex()), []

        async def wait(n: int) -> None:
            async with cond.mutex:
                await cond.wait()
                awake.append(n)

        for n in range(100):
            goroutine.go(wait, n)
        await until(lambda: waiting(cond) == 100)
        cond.broadcast()
        await until(lambda: len(awake) == 100)
        assert sorted(awake) == list(range(100))
        assert cond.mutex.try_lock()

    goroutine.start(main, machines=machines)


@pytest.mark.parametrize("signal", ["signal", "broadcast"])
def test_a_bounded_queue(machines: int, signal: str) -> None:
    """Producers and consumers with one Cond each way; nothing lost, nobody left waiting.

    Seen to fail when a cancelled wait() doesn't lock the mutex again.
    """

    async def main() -> list[int]:
        mutex = Mutex()
        room, filled = Cond(mutex), Cond(mutex)
        queue: list[int] = []
        taken: list[int] = []
        most, count = 3, 60

        async def produce(k: int) -> None:
            for i in range(count):
                async with mutex:
                    while len(queue) >= most:
                        await room.wait()
                    queue.append(k * count + i)
                    getattr(filled, signal)()

        async def consume() -> None:
            while True:
                async with mutex:
                    while not queue:
                        if len(taken) == 4 * count:
                            filled.broadcast()
                            return
                        try:
                            timeout = context.with_timeout(context.background(), 0.002)
                            await filled.wait(ctx=timeout)
                        except TimeoutError:
                            assert not mutex.try_lock()
                    taken.append(queue.pop(0))
                    getattr(room, signal)()

        async with Group() as group:
            for k in range(4):
                group.go(produce, k)
            for _ in range(4):
                group.go(consume)
        assert not room._queue
        assert not filled._queue
        assert mutex.try_lock()
        return taken

    taken = goroutine.start(main, machines=machines)
    assert sorted(taken) == list(range(240))


def test_cancelled_waiters_hold_the_mutex() -> None:
    async def main() -> None:
        cond, seen = Cond(Mutex()), []
        ctx = context.with_cancel(context.background())

        async def wait(name: str, ctx: context.Context) -> None:
            async with cond.mutex:
                try:
                    await cond.wait(ctx=ctx)
                except Canceled:
                    seen.append(f"{name} canceled")
                    assert not cond.mutex.try_lock()
                else:
                    seen.append(f"{name} signalled")

        goroutine.go(wait, "first", ctx)
        await until(lambda: waiting(cond) == 1)
        goroutine.go(wait, "second", context.background())
        await until(lambda: waiting(cond) == 2)
        await cond.mutex.lock()
        ctx.cancel()
        cond.signal()  # not for the first one, who was cancelled
        await until(lambda: waiting(cond.mutex) == 2)
        assert not seen, "they wait for the mutex"
        cond.mutex.unlock()
        await until(lambda: len(seen) == 2)
        assert sorted(seen) == ["first canceled", "second signalled"]
        async with cond.mutex:
            with pytest.raises(Canceled):  # before anything is unlocked
                await cond.wait(ctx=ctx)
            assert not cond.mutex.try_lock()
        assert cond.mutex.try_lock()

    goroutine.start(main, machines=1)


def test_a_group_is_cancelled_while_the_mutex_is_awaited() -> None:
    """wait() gets the mutex all the same; the cancellation is told at the next wait."""

    async def main() -> None:
        cond, seen = Cond(Mutex()), []

        async def wait() -> None:
            async with cond.mutex:
                await cond.wait()
                seen.append(cond.mutex.try_lock())
                try:
                    await goroutine.sleep(1000)
                except Canceled:
                    seen.append("canceled")
                    raise

        with pytest.raises(KeyError):  # noqa: PT012
            async with Group() as group:
                group.go(wait)
                await until(lambda: waiting(cond))
                await cond.mutex.lock()
                cond.signal()
                await until(lambda: waiting(cond.mutex))
                goroutine.go(unlock_when, cond, group.context.err)
                raise KeyError
        assert seen == [False, "canceled"]
        assert cond.mutex.try_lock()

    async def unlock_when(cond: Cond, condition: object) -> None:
        await until(condition)  # type: ignore[arg-type]
        cond.mutex.unlock()

    goroutine.start(main)


def test_the_mutex_must_be_locked() -> None:
    async def main() -> None:
        cond = Cond(Mutex())
        with pytest.raises(RuntimeError, match="unlock of unlocked mutex"):
            await cond.wait()
        assert not cond._queue
        cond.signal()
        with pytest.raises(TypeError, match="mutex"):
            Cond(5)  # type: ignore[arg-type]

    goroutine.start(main)


@pytest.mark.parametrize("kind", ["writer", "reader"])
def test_with_an_rwmutex(kind: str) -> None:
    async def main() -> None:
        m = RWMutex()
        cond = Cond(m if kind == "writer" else m.reader())
        awake = []

        async def wait() -> None:
            async with cond.mutex:
                await cond.wait()
                assert not m.try_lock()
                awake.append(True)

        for n in range(3):
            goroutine.go(wait)
            await until(lambda n=n: waiting(cond) == n + 1)
        assert m.try_lock(), "who waits doesn't hold it"
        m.unlock()
        cond.broadcast()
        await until(lambda: len(awake) == 3)
        assert m.try_lock()

    goroutine.start(main)


@pytest.mark.parametrize("kind", ["mutex", "writer", "reader"])
def test_waiters_are_closed_with_the_run(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Each inside its ``async with``, which unlocks once more, while another holds the mutex:
    no complaint, and it is free then."""
    m = RWMutex()
    mutex = {"mutex": Mutex(), "writer": m, "reader": m.reader()}[kind]
    cond, closed = Cond(mutex), []

    async def wait() -> None:
        try:
            async with mutex:
                await cond.wait()
        finally:
            closed.append(True)

    async def hold() -> None:
        try:
            async with mutex:
                await goroutine.sleep(1000)
        finally:
            closed.append(True)

    async def main() -> None:
        for n in range(2):
            goroutine.go(wait)
            await until(lambda n=n: waiting(cond) == n + 1)
        goroutine.go(hold)
        await until(lambda: mutex._lock.locked() if kind == "mutex" else m._held or m._readers)
        goroutine.go(wait)
        queue = {"mutex": mutex, "writer": m._writers, "reader": cond}[kind]
        await until(lambda: waiting(queue) == (3 if kind == "reader" else 1))

    goroutine.start(main, machines=1)
    assert len(closed) == 4
    assert capfd.readouterr().err == ""
    assert not cond._queue
    free = mutex if kind == "mutex" else m
    assert free.try_lock()
    free.unlock()
    with pytest.raises(RuntimeError, match="nlock of unlocked"):
        free.unlock()
