"""WaitGroup: counting, waiting, misuse."""

import threading
from typing import Any

import pytest
from sync_support import waiting
from waiting import until

import goroutine
from goroutine import Canceled, GoroutinePanic, Group, context
from goroutine.atomic import Int64
from goroutine.sync import WaitGroup
from goroutine.sync import waitgroup as module

NEGATIVE = r"^sync: negative WaitGroup counter$"
REUSED = r"^sync: WaitGroup is reused before previous Wait has returned$"
CONCURRENT = r"^sync: WaitGroup misuse: Add called concurrently with Wait$"


def test_waits_until_zero(machines: int) -> None:
    """Many rounds with the same one: those who wait see all that was done before."""

    async def main() -> None:
        first, second = WaitGroup(), WaitGroup()
        for _ in range(20):
            done = Int64()
            first.add(8)
            second.add(8)

            async def worker(done: Int64 = done) -> None:
                done.add(1)
                first.done()
                await first.wait()
                assert done.load() == 8
                second.done()

            for _ in range(8):
                goroutine.go(worker)
            await first.wait()
            assert done.load() == 8
            await second.wait()
        await first.wait()
        assert not first._queue

    goroutine.start(main, machines=machines)


@pytest.mark.timeout(10)
def test_done_while_one_goes_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        group, running = WaitGroup(), module.running_goroutine

        def done_and_go_on() -> Any:
            group.done()
            return running()

        group.add()
        monkeypatch.setattr(module, "running_goroutine", done_and_go_on)
        await group.wait()

    goroutine.start(main)


def test_a_negative_counter() -> None:
    group = WaitGroup()
    with pytest.raises(RuntimeError, match=NEGATIVE):
        group.done()
    group.add(2)
    with pytest.raises(RuntimeError, match=NEGATIVE):
        group.add(-3)
    group.add(-2)
    with pytest.raises(RuntimeError, match=NEGATIVE):
        group.done()


def test_reused_before_wait_has_returned() -> None:
    async def main() -> None:
        group = WaitGroup()
        group.add()
        told = []

        async def wait() -> None:
            with pytest.raises(RuntimeError, match=REUSED):
                await group.wait()
            told.append(True)

        goroutine.go(wait)
        await until(lambda: waiting(group))
        group.done()  # on this machine, the only one: the waiter has not run yet
        group.add()
        await until(lambda: told)

    goroutine.start(main, machines=1)


def test_add_while_waiters_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter leaves zero between the wake-ups of two waiters."""

    async def main() -> None:
        group, woken, told = WaitGroup(), WaitGroup(), []
        group.add()
        woken.add(2)

        async def wait() -> None:
            await group.wait()
            woken.done()

        for n in range(2):
            goroutine.go(wait)
            await until(lambda n=n: waiting(group) == n + 1)

        take = group._queue.take

        class Queue(type(group._queue)):  # type: ignore[misc]
            def take(self) -> object:
                waiter = super().take()
                if self:
                    told.append(waiter)
                return waiter

        group._queue = Queue(group._queue)
        del take
        wake = type(group._queue[0]).wake

        def wake_and_add(waiter: object) -> None:
            wake(waiter)
            if waiting(group):
                with pytest.raises(RuntimeError, match=CONCURRENT):
                    group.add()

        with monkeypatch.context() as patch:
            patch.setattr(type(group._queue[0]), "wake", wake_and_add)
            group.done()
        assert len(told) == 1
        await woken.wait()
        group.add()
        group.done()

    goroutine.start(main, machines=1)


def test_done_on_a_thread(machines: int) -> None:
    async def main() -> None:
        group = WaitGroup()
        group.add(4)
        with goroutine.hold():
            threads = [threading.Thread(target=group.done) for _ in range(4)]
            for thread in threads:
                thread.start()
            await group.wait()
        for thread in threads:
            thread.join()

    goroutine.start(main, machines=machines)


def test_go(machines: int) -> None:
    async def main() -> None:
        group, total = WaitGroup(), Int64()

        async def add(n: int, *, twice: bool = False) -> int:
            await goroutine.gosched()
            total.add(n * (1 + twice))
            return n

        for n in range(50):
            group.go(add, n)
        g = group.go(add, 3, twice=True)
        assert "add" in g.name
        group.go(lambda: total.add(1000))
        group.go(add(10))
        await group.wait()
        assert total.load() == sum(range(50)) + 6 + 1000 + 10
        assert await g == 3
        with pytest.raises(TypeError, match="nil"):
            group.go(None)  # type: ignore[call-overload]
        assert group._n == 0

    goroutine.start(main, machines=machines)


def test_go_from_a_thread_and_outside_a_run() -> None:
    group = WaitGroup()

    async def nothing() -> None:
        pass

    with pytest.raises(RuntimeError, match="no goroutine runtime"):
        group.go(nothing)
    assert group._n == 0

    async def main() -> None:
        group.add()

        def thread() -> None:
            group.go(nothing)
            group.done()

        with goroutine.hold():
            other = threading.Thread(target=thread)
            other.start()
            await group.wait()
        other.join()

    goroutine.start(main)


def test_goexit_is_an_end_too() -> None:
    async def main() -> None:
        group = WaitGroup()

        async def leave() -> None:
            goroutine.goexit()

        group.go(leave)
        await group.wait()

    goroutine.start(main)


@pytest.mark.timeout(20)
def test_a_panic_is_not_done(capfd: pytest.CaptureFixture[str]) -> None:
    """Who waits must not go on: the program ends by the panic, and not in main's way."""
    went_on = []

    async def main() -> None:
        group = WaitGroup()

        async def fail() -> None:
            raise KeyError("this")

        group.go(fail)
        await group.wait()
        went_on.append(True)

    with pytest.raises(GoroutinePanic, match="this"):
        goroutine.start(main)
    assert not went_on
    assert "panic: KeyError" in capfd.readouterr().err


def test_cancelled(machines: int) -> None:
    async def main() -> None:
        group = WaitGroup()
        group.add()
        ctx = context.with_timeout(context.background(), 0.003)
        with pytest.raises(TimeoutError):
            await group.wait(ctx=ctx)
        assert not group._queue
        group.done()
        with pytest.raises(TimeoutError):
            await group.wait(ctx=ctx)
        await group.wait()

        group.add()
        cancelled = []

        async def wait() -> None:
            try:
                await group.wait()
            except Canceled:
                cancelled.append(True)
                raise

        with pytest.raises(KeyError):  # noqa: PT012
            async with Group() as members:
                members.go(wait)
                await until(lambda: waiting(group))
                raise KeyError
        assert cancelled
        assert not group._queue

    goroutine.start(main, machines=machines)


def test_the_end_of_a_run() -> None:
    """Who waits is closed; a goroutine that is counted counts as ended."""
    group = WaitGroup()

    async def main() -> None:
        async def sleep() -> None:
            await goroutine.sleep(1000)

        group.go(sleep)
        goroutine.go(group.wait)
        await until(lambda: waiting(group))

    goroutine.start(main)
    assert not group._queue
    assert group._n == 0
