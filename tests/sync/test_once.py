"""Once, once_func, once_value."""

import pytest
from sync_support import waiting
from waiting import until

import goroutine
from goroutine import Canceled, Group, context
from goroutine.atomic import Int64
from goroutine.sync import Once, once_func, once_value


def test_once(machines: int) -> None:
    """Whoever comes second finds it done, not only begun."""

    async def main() -> None:
        once, begun, ended = Once(), Int64(), Int64()

        async def work() -> None:
            begun.add(1)
            for _ in range(5):
                await goroutine.gosched()
            ended.add(1)

        async def caller() -> None:
            await once.do(work)
            assert ended.load() == 1

        async with Group() as group:
            for _ in range(20):
                group.go(caller)
        assert begun.load() == 1
        assert not once._mutex._queue

    goroutine.start(main, machines=machines)


def test_functions_of_both_kinds() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        once = Once()
        await once.do(lambda: seen.append("plain"))
        await once.do(lambda: seen.append("second"))

        async def later() -> None:
            await goroutine.gosched()
            seen.append("async")

        await Once().do(later)
        await Once().do(goroutine.gosched)  # an awaitable of another kind
        return seen

    assert goroutine.start(main) == ["plain", "async"]


def test_done_also_when_it_failed() -> None:
    async def main() -> None:
        once, calls = Once(), []

        async def fail() -> None:
            calls.append(True)
            await goroutine.gosched()
            raise KeyError

        async def second() -> None:
            await once.do(fail)  # waits, and sees no failure

        g = goroutine.go(second)
        with pytest.raises(KeyError):
            await once.do(fail)
        await g
        await once.do(fail)
        assert len(calls) == 1
        assert not once._mutex._lock.locked()

    goroutine.start(main, machines=1)


def test_cancelled_while_another_runs_it() -> None:
    async def main() -> None:
        once, go_on = Once(), goroutine.chan()
        ctx = context.with_cancel(context.background())
        g = goroutine.go(once.do, go_on.recv)
        await until(once._mutex._lock.locked)
        ended = []

        async def wait() -> None:
            with pytest.raises(Canceled):
                await once.do(go_on.recv, ctx=ctx)
            ended.append(True)

        goroutine.go(wait)
        await until(lambda: waiting(once._mutex))
        ctx.cancel()
        await until(lambda: ended)
        assert not once._done
        await go_on.send(None)
        await g
        await once.do(go_on.recv)

    goroutine.start(main)


def test_cancelled_while_running_it() -> None:
    """That is the function's failure, and the one call."""

    async def main() -> None:
        once, calls = Once(), []

        async def work() -> None:
            calls.append(True)
            await goroutine.chan().recv()

        with pytest.raises(KeyError):  # noqa: PT012
            async with Group() as group:
                group.go(once.do, work)
                await until(lambda: calls)
                raise KeyError
        await once.do(work)
        assert len(calls) == 1

    goroutine.start(main)


@pytest.mark.parametrize("plain", [True, False])
def test_once_value(machines: int, plain: bool) -> None:
    async def main() -> None:
        calls = Int64()

        def make() -> object:
            calls.add(1)
            return object()

        async def make_later() -> object:
            await goroutine.gosched()
            return make()

        value = once_value(make if plain else make_later)
        async with Group() as group:
            members = [group.go(value) for _ in range(10)]
        assert len({id(member.result()) for member in members}) == 1
        assert calls.load() == 1

    goroutine.start(main, machines=machines)


def test_once_func_and_failures() -> None:
    """The same failure each time, and its traceback doesn't grow."""

    async def main() -> None:
        calls = []

        @once_func
        def call() -> int:
            calls.append(True)
            return 5

        assert await call() is None
        await call()
        assert len(calls) == 1

        @once_func
        async def fail() -> None:
            calls.append(True)
            raise KeyError("this")

        depths, failures = set(), set()
        with pytest.raises(KeyError):
            await fail()
        for _ in range(3):
            with pytest.raises(KeyError, match="this") as caught:
                await fail()
            failures.add(caught.value)
            depths.add(len(caught.traceback))
        assert len(failures) == 1
        assert len(depths) == 1
        assert len(calls) == 2

    goroutine.start(main)
