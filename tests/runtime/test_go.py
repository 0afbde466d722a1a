"""go(): what it starts, what comes of it, and what a goroutine inherits."""

import asyncio
import contextvars
import functools
import gc
import itertools
import random
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

import goroutine
from goroutine import chan, go, gosched, hold, net, num_goroutine, sleep, start
from goroutine.runtime import scheduler
from goroutine.runtime.spawn import _returns_none

pytestmark = pytest.mark.timeout(40)


async def nothing() -> None:
    pass


async def rests() -> None:
    await sleep(1000)


async def add(a: int, b: int = 0, *, c: int = 0) -> int:
    await gosched()
    return a + b + c


def plain_add(a: int, b: int = 0, *, c: int = 0) -> int:
    return a + b + c


class Callables:
    async def method(self, a: int, b: int = 0, *, c: int = 0) -> int:
        return await add(a, b, c=c)

    def plain(self, a: int, b: int = 0, *, c: int = 0) -> int:
        return a + b + c

    @classmethod
    async def of_class(cls, a: int, b: int = 0, *, c: int = 0) -> int:
        return await add(a, b, c=c)

    @staticmethod
    async def static(a: int, b: int = 0, *, c: int = 0) -> int:
        return await add(a, b, c=c)


class AsyncCall:
    async def __call__(self, a: int, b: int = 0, *, c: int = 0) -> int:
        return await add(a, b, c=c)


class PlainCall:
    def __call__(self, a: int, b: int = 0, *, c: int = 0) -> int:
        return a + b + c


class PlainCallWithFunc(PlainCall):
    """Looks like a partial of a coroutine function, and isn't."""

    func = add


@types.coroutine
def generator_based(a: int, b: int = 0, *, c: int = 0) -> Iterator[Any]:
    yield from gosched()  # type: ignore[misc]
    return a + b + c


@functools.wraps(add)
def decorated(*args: Any, **kwargs: Any) -> Any:
    return 106


ADDERS: dict[str, Callable[..., Any]] = {
    "async def": add,
    "plain function": plain_add,
    "lambda": lambda a, b=0, *, c=0: a + b + c,
    "generator-based coroutine": generator_based,
    "bound method": Callables().method,
    "plain bound method": Callables().plain,
    "class method": Callables.of_class,
    "static method": Callables.static,
    "partial": functools.partial(add),
    "partial of a partial": functools.partial(functools.partial(add, 0), c=0),
    "partial of a method": functools.partial(Callables().method),
    "partial of an async callable": functools.partial(AsyncCall()),
    "plain partial": functools.partial(plain_add),
    "async callable": AsyncCall(),
    "plain callable": PlainCall(),
    "plain callable with func": PlainCallWithFunc(),
}


class TestKinds:
    @pytest.mark.parametrize("kind", ADDERS)
    def test_what_can_be_started(self, kind: str) -> None:
        fn = ADDERS[kind]
        two = (2,) if kind != "partial of a partial" else ()

        async def main() -> None:
            assert await go(fn, 1, *two) == 1 + sum(two)
            if kind != "partial of a partial":
                assert await go(fn, 1, b=5, c=100) == 106

        start(main, machines=1)

    def test_builtins_and_classes(self) -> None:
        async def main() -> None:
            assert await go(len, "four") == 4
            assert await go(int, "17", base=8) == 15
            assert await go("a-b".split, "-") == ["a", "b"]
            assert await go([3, 1, 2].sort) is None
            assert isinstance(await go(Callables), Callables)
            assert await go(decorated, 1) == 106
            assert await go(mock.Mock(return_value=4), 1) == 4

        start(main, machines=1)

    def test_coroutine_objects(self) -> None:
        async def main() -> None:
            assert await go(add(1, 2)) == 3
            assert await go(nothing()) is None
            inner = add(4, 5)
            with pytest.raises(TypeError, match="takes no further arguments"):
                go(inner, 1)
            assert await inner == 9

        start(main, machines=1)

    def test_operations_as_coroutine_objects(self) -> None:
        async def main() -> None:
            ch = chan()
            sender: Any = go(ch.send("hello"))
            receiver: Any = go(ch.recv())
            assert (await sender, await receiver) == (None, "hello")
            with pytest.raises(TypeError, match="not generator"):
                go(x for x in "any")  # type: ignore[call-overload]

        start(main, machines=1)

    @pytest.mark.parametrize(
        ("thing", "text"),
        [
            (None, "go of nil func value"),
            (3, "go\\(\\) takes a function or a coroutine, not int"),
            ("f", "not str"),
            ([nothing], "not list"),
        ],
    )
    def test_what_cannot(self, thing: Any, text: str) -> None:
        async def main() -> int:
            with pytest.raises(TypeError, match=text):
                go(thing)
            return num_goroutine()

        assert start(main, machines=1) == 1
        with pytest.raises(TypeError, match=text):
            go(thing)  # outside of a run, too

    def test_wrong_arguments(self) -> None:
        async def main() -> int:
            with pytest.raises(TypeError, match="positional"):
                go(nothing, 1)
            return num_goroutine()

        assert start(main, machines=1) == 1

    @pytest.mark.parametrize("fn", [nothing, add, plain_add, len, AsyncCall()])
    def test_outside_of_a_run(self, fn: Any) -> None:
        with pytest.raises(RuntimeError, match=r"no goroutine runtime is running.*start\(main\)"):
            go(fn, *([] if fn is nothing else [1]))
        start(nothing, machines=1)
        with pytest.raises(RuntimeError, match="no goroutine runtime is running"):
            go(fn, *([] if fn is nothing else [1]))

    def test_operations_outside_of_a_run(self) -> None:
        for operation in (sleep(1), chan().recv(), chan().send(1)):
            with pytest.raises(RuntimeError, match="not in a goroutine"):
                operation.send(None)

    def test_inside_asyncio(self) -> None:
        """What goroutine yields is nothing that asyncio can do, and the other way round."""

        async def main() -> str:
            with pytest.raises(RuntimeError, match="no running event loop"):
                await asyncio.sleep(0.01)
            return "went on"

        assert start(main, machines=1) == "went on"


class Foreign:
    """An awaitable of another library."""

    def __init__(self, what: object) -> None:
        self.what = what

    def __await__(self) -> Iterator[object]:
        yield self.what


class TestForeignAwait:
    TEXT = "a goroutine awaited an object that goroutine doesn't know"

    @pytest.mark.parametrize("what", [5, "text", object(), [], asyncio.Event])
    def test_is_told_where_it_awaits(self, what: object, machines: int) -> None:
        variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

        async def main() -> int:
            told = 0
            for n in range(6):
                if n % 2:
                    variable.set(n)  # in the same step
                with pytest.raises(RuntimeError, match=self.TEXT):
                    await Foreign(what)
                told += 1
                await sleep(0.0001)
            return told

        if what is asyncio.Event:  # a callable that takes no goroutine
            what = lambda: None  # noqa: E731
        assert start(main, machines=machines) == 6

    def test_uncaught(self) -> None:
        async def main() -> None:
            await Foreign(5)

        with pytest.raises(RuntimeError, match=self.TEXT) as caught:
            start(main, machines=1)
        assert caught.traceback[-1].name == "__await__"
        assert caught.traceback[-2].name == "main"

    def test_its_finally_blocks_run_at_the_end(self) -> None:
        log = []

        async def child() -> None:
            try:
                try:
                    await Foreign(5)
                except RuntimeError:
                    await sleep(1000)
            finally:
                log.append("finally")

        async def main() -> None:
            go(child)
            await sleep(0.005)

        start(main, machines=1)
        assert log == ["finally"]

    def test_its_result(self) -> None:
        async def child() -> str:
            try:
                await Foreign(5)
            except RuntimeError:
                return "result"
            return ""

        async def main() -> None:
            assert await go(child) == "result"
            assert await go(child()) == "result"

        start(main, machines=1)


class TestResult:
    def test_many_await_one(self, io: str, machines: int) -> None:
        async def slow() -> object:
            await sleep(0.002)
            return thing

        async def waits(g: Any) -> object:
            return await g

        async def main() -> None:
            for fn in (slow, gosched_and_return, immediately):
                one = go(fn)
                several = [go(waits, one) for _ in range(50)]
                for g in several:
                    assert await g is thing
                assert await one is thing  # done by now, and once more
                assert await one is thing
                assert one.done

        async def gosched_and_return() -> object:
            await gosched()
            return thing

        async def immediately() -> object:
            return thing

        thing = object()
        start(main, machines=machines, io=io)

    def test_done_while_others_come_to_wait(self, machines: int) -> None:
        """The end of a goroutine against those that just now begin to wait for it."""

        async def short(n: int) -> int:
            for _ in range(n % 3):
                await gosched()
            return n

        async def waits(g: Any, n: int) -> None:
            for _ in range(n % 4):
                await gosched()
            assert await g == n
            seen.append(n)

        seen: list[int] = []

        async def main() -> None:
            waiters = []
            for n in range(1000):
                g = go(short, n)
                waiters += [go(waits, g, n) for _ in range(3)]
                if n % 50 == 0:
                    await gosched()
            for waiter in waiters:
                await waiter

        start(main, machines=machines)
        assert sorted(seen) == sorted(list(range(1000)) * 3)

    def test_awaiting_itself_is_forever_and_nothing_breaks(self) -> None:
        log = []

        async def selfish(ch: Any) -> None:
            try:
                me = await ch.recv()
                await me
            finally:
                log.append("closed")

        async def main() -> None:
            ch = chan()
            g = go(selfish, ch)
            await ch.send(g)
            await sleep(0.003)

        start(main, machines=1)
        assert log == ["closed"]

    def test_no_residue_of_operations(self) -> None:
        """Who returns nothing gives None, whatever was handed to it while it waited."""

        async def operations() -> None:
            await ch.recv()
            await ch.recv_ok()
            await buffered.send("sent")
            await full.send("sent")
            await sleep(0.0001)
            await gosched()
            listener = await net.listen("tcp", "127.0.0.1:0")
            dialled = await net.dial("tcp", listener.address)
            accepted = await listener.accept()
            await dialled.write(b"data")
            await accepted.read(10)
            async with accepted, dialled, listener:
                pass
            await go(plain_add, 4)
            with pytest.raises(goroutine.ChanClosed):
                await closed.send("unsent")

        async def main() -> None:
            g = go(operations)
            await ch.send("received")
            await ch.send("received")
            await sleep(0.001)
            await full.recv()
            await sleep(0.003)
            assert await g is None

        ch, buffered, full, closed = chan(), chan(1), chan(), chan()
        closed.close()
        start(main, machines=1)


class TestReturnsNone:
    """_returns_none decides whether a result is looked for at all."""

    def test_is_used_at_all(self) -> None:
        async def waits() -> None:
            for _ in range(3):
                await gosched()

        async def returns() -> None:
            if machines_seen:
                return
            await gosched()

        machines_seen: list[int] = []
        for fn in (nothing, waits, returns):
            assert _returns_none(fn.__code__)
        assert not _returns_none(add.__code__)

    EXPRESSIONS = (
        *("None", "x", "y", "x or None", "x and None", "None if x else y", "x if y else None"),
        *("(x or y) and None", "not x", "x == y or None", "(None, x)[y]", "x or (y or None)"),
        *("None or x", "None and x", "0", "''", "[]", "(x := None)", "(x := y)", "[None][0]"),
        *("await g(x)", "await g(None)", "await g(x) or None", "x and (await g(None))"),
        *("(lambda: None)()", "(lambda: x)()", "(yield_)", "f'{x}'", "x < y < 5 or None"),
    )

    def statement(self, dice: random.Random, depth: int) -> str:
        def block() -> str:
            count = dice.randint(1, 2)
            return textwrap.indent(
                "".join(self.statement(dice, depth - 1) for _ in range(count)), "    "
            )

        expression = dice.choice(self.EXPRESSIONS)
        kind = dice.randrange(4 if not depth else 12)
        match kind:
            case 0 | 1:
                return f"return {expression}\n"
            case 2:
                return dice.choice(("pass\n", "return\n", "x = None\n", f"{expression}\n"))
            case 3:
                return f"x = {expression}\n"
            case 4 | 5:
                return f"if {expression}:\n{block()}else:\n{block()}"
            case 6:
                return f"try:\n{block()}finally:\n{block()}"
            case 7:
                return f"try:\n    y[x]\n{block()}except TypeError:\n{block()}"
            case 8:
                return f"for x in (0, None, 3):\n{block()}"
            case 9:
                return f"async with c:\n{block()}"
            case 10:
                return f"while x:\n    x = None\n{block()}    break\n"
            case _:
                return f"match x:\n    case None | 3:\n{textwrap.indent(block(), '    ')}"

    def test_against_what_is_returned(self) -> None:
        @types.coroutine
        def g(x: object) -> Iterator[None]:
            yield
            return x

        class Manager:
            async def __aenter__(self) -> None:
                pass

            async def __aexit__(self, *_: object) -> None:
                pass

        def result(coroutine: Any) -> object:
            for _ in range(1000):
                try:
                    coroutine.send(None)
                except StopIteration as stop:
                    return stop.value
                except (TypeError, IndexError):
                    return None
            raise AssertionError("endless")

        nones = 0
        dice = random.Random(20)
        for _ in range(1500):
            body = "".join(self.statement(dice, 2) for _ in range(dice.randint(1, 3)))
            source = "async def f(x, y):\n" + textwrap.indent(body, "    ")
            namespace: dict[str, Any] = {"g": g, "c": Manager(), "yield_": 4}
            exec(compile(source, "fuzz", "exec", dont_inherit=True), namespace)
            f = namespace["f"]
            if _returns_none(f.__code__):
                nones += 1
                for x, y in itertools.product((None, 0, 3, []), (None, 0, 1, "y")):
                    assert result(f(x, y)) is None, source
        assert nones > 50  # it says so now and then

    def test_by_go(self) -> None:
        async def either(x: object) -> object:
            return x or None

        async def both(x: object) -> object:
            return x and None

        async def main() -> None:
            for x in (None, 0, 3, [], "text"):
                assert await go(either, x) == (x or None)
                assert await go(both, x) == (x and None)

        start(main, machines=1)


class TestForeignThreads:
    def test_go_from_threads(self, io: str, machines: int) -> None:
        """Goroutines from threads that are no machine, while all machines sleep or work."""
        each, count = 200, 4

        async def child(n: int) -> None:
            await gosched()
            await out.send(n)

        def thread(start_: int) -> None:
            for n in range(start_, start_ + each):
                ids.append(go(child, n).id)

        async def main() -> list[int]:
            threads = [threading.Thread(target=thread, args=(n * each,)) for n in range(count)]
            with hold():
                for t in threads:
                    t.start()
                got = [await out.recv() for _ in range(each * count)]
            for t in threads:
                t.join()
            return got

        ids: list[int] = []
        out = chan()
        assert sorted(start(main, machines=machines, io=io)) == list(range(each * count))
        assert len(set(ids)) == each * count
        assert 1 not in ids

    def test_no_one_can_start_after_the_end(self) -> None:
        """A thread that goes on starting while the run ends is refused, sooner or later, and
        what it started before is closed."""
        begun, refused, stop = [], [], threading.Event()
        finals = []

        async def child() -> None:
            begun.append(1)
            try:
                await rests()
            finally:
                finals.append(1)

        def thread() -> None:
            while not stop.is_set():
                try:
                    go(child)
                except RuntimeError:
                    refused.append(1)
                    return

        async def main() -> None:
            while len(begun) < 20:
                await sleep(0.0005)

        for _ in range(5):
            t = threading.Thread(target=thread)
            begun.clear()
            finals.clear()
            refused.clear()

            async def starts_thread(t: threading.Thread = t) -> None:
                t.start()
                await main()

            start(starts_thread, machines=2)
            t.join(10)
            stop.set()
            assert not t.is_alive()
            stop.clear()
            assert refused
            assert len(finals) == len(begun)


class TestHandle:
    def test_ids_and_names(self, machines: int) -> None:
        def parallel() -> list[int]:
            return [go(nothing).id for _ in range(100)]

        async def main() -> list[int]:
            assert go(nothing).name == f"{__name__}.nothing"
            assert go(len, "").name == "builtins.len"
            assert go(Callables().method, 1).name == f"{__name__}.Callables.method"
            assert go(functools.partial(add, 1)).name == "functools.partial"
            assert go(add(1)).name.endswith("add")
            named = go(rests)
            named.name = "worker 7"
            assert repr(named) == f"<Goroutine {named.id} worker 7 alive>"
            done = go(nothing)
            await done
            assert done.done
            assert repr(done) == f"<Goroutine {done.id} {__name__}.nothing done>"
            gs = [go(parallel) for _ in range(20)]
            ids = [g.id for g in gs]
            for g in gs:
                ids += await g
            return ids

        ids = start(main, machines=machines)
        assert len(set(ids)) == len(ids) == 20 * 101
        assert min(ids) > 1

    def test_main_is_1(self) -> None:
        runtime: list[Any] = []

        async def main() -> None:
            runtime.append({g.id for g in scheduler.running().foreign})  # type: ignore[union-attr]

        start(main, machines=2)
        assert runtime == [{1}]

    def test_creator(self) -> None:
        async def grandchild(out: Any) -> None:
            await out.send(None)

        async def child(out: Any) -> None:
            await out.send(go(grandchild, out))

        async def main() -> None:
            out = chan(2)
            g = go(child, out)
            prefix = "created by test_go.TestHandle.test_creator.<locals>"
            assert g.creator == f"{prefix}.main in goroutine 1"
            got = [await out.recv(), await out.recv()]
            got.remove(None)
            assert got[0].creator == f"{prefix}.child in goroutine {g.id}"

        start(main, machines=1)

    def test_num_goroutine(self, machines: int) -> None:
        async def waits() -> None:
            await ch.recv_ok()

        async def main() -> None:
            assert num_goroutine() == 1
            gs = [go(waits) for _ in range(100)]
            assert num_goroutine() == 101
            await gosched()
            assert num_goroutine() == 101
            ch.close()
            for g in gs:
                await g
            assert num_goroutine() == 1

        ch = chan()
        start(main, machines=machines)
        assert num_goroutine() == 0

    def test_nobody_refers_to_them(self, machines: int) -> None:
        """Goroutines that are reachable only from what they wait for, which only they hold."""

        async def waits(n: int) -> None:
            ch = chan()
            wakers.append(ch.send)
            await ch.recv()
            await ch.recv()
            woken.append(n)

        async def main() -> None:
            for n in range(300):
                go(waits, n)
            while len(wakers) < 300:
                await sleep(0.001)
            mine = list(wakers)
            wakers.clear()
            for round_ in range(2):
                gc.collect()
                assert num_goroutine() == 301
                for send in mine:
                    await send(round_)
            while num_goroutine() > 1:
                await sleep(0.001)

        wakers: list[Any] = []
        woken: list[int] = []
        start(main, machines=machines)
        assert sorted(woken) == list(range(300))

    def test_unreachable_ones_are_kept(self) -> None:
        """Really nobody could wake these; they live until the end, and are closed there."""
        closed = []

        async def lost() -> None:
            try:
                await chan().recv()
            finally:
                closed.append(1)

        async def main() -> None:
            for _ in range(50):
                go(lost)
            await sleep(0.002)
            gc.collect()
            assert not closed
            assert num_goroutine() == 51

        start(main, machines=1)
        assert len(closed) == 50


VARIABLE: contextvars.ContextVar[object] = contextvars.ContextVar("VARIABLE", default="unset")


class TestContext:
    @pytest.mark.parametrize("early", [True, False])
    def test_children_get_copies(self, early: bool, machines: int) -> None:
        async def child(*parks: object) -> list[object]:
            seen = [VARIABLE.get()]
            for _ in parks:
                await gosched()
                seen.append(VARIABLE.get())
            VARIABLE.set("child's")
            seen.append(VARIABLE.get())
            for _ in parks:
                await gosched()
                seen.append(VARIABLE.get())
            seen.extend(await go(grandchild))
            return seen

        async def grandchild() -> list[object]:
            return [VARIABLE.get()]

        async def main() -> None:
            if early:
                await gosched()
            first = go(child)
            VARIABLE.set("parent's")  # too late for the first
            second = go(child, 1)
            if early:
                await gosched()
            third = go(child, 1, 2)
            plain = go(VARIABLE.get)
            VARIABLE.set("parent's later")
            assert await first == ["unset", "child's", "child's"]
            assert await second == ["parent's"] * 2 + ["child's"] * 3
            assert await third == ["parent's"] * 3 + ["child's"] * 4
            assert await plain == "parent's"
            assert VARIABLE.get() == "parent's later"

        start(main, machines=machines)
        assert VARIABLE.get() == "unset"

    def test_main_gets_a_copy_of_the_callers(self, machines: int) -> None:
        async def main() -> object:
            seen = VARIABLE.get()
            VARIABLE.set("main's")
            await gosched()
            assert await go(VARIABLE.get) == "main's"
            return seen

        def caller() -> object:
            VARIABLE.set("caller's")
            seen = start(main, machines=machines)
            assert VARIABLE.get() == "caller's"
            return seen

        assert contextvars.Context().run(caller) == "caller's"

    def test_from_a_foreign_thread(self) -> None:
        async def child() -> None:
            before = VARIABLE.get()
            VARIABLE.set("child's")
            await out.send(before)

        def thread() -> None:
            go(child)
            VARIABLE.set("thread's")
            go(child)
            assert VARIABLE.get() == "thread's"

        async def main() -> list[object]:
            t = threading.Thread(target=thread)
            with hold():
                t.start()
                got = [await out.recv() for _ in range(2)]
            t.join()
            return got

        out = chan()
        assert sorted(map(str, start(main, machines=1))) == ["thread's", "unset"]

    def test_reset_and_nested_contexts(self) -> None:
        async def main() -> None:
            token = VARIABLE.set(1)
            await gosched()
            VARIABLE.set(2)
            await gosched()
            VARIABLE.reset(token)
            assert VARIABLE.get() == "unset"
            await gosched()
            assert VARIABLE.get() == "unset"
            inside = contextvars.copy_context()
            inside.run(VARIABLE.set, 3)
            assert VARIABLE.get() == "unset"
            assert await go(inside.run, VARIABLE.get) == 3

        start(main, machines=1)

    def test_set_in_finally_blocks_at_the_end(self) -> None:
        seen = []

        async def child(n: int) -> None:
            VARIABLE.set(n) if n % 2 else None
            try:
                await rests()
            finally:
                seen.append((n, VARIABLE.get()))
                VARIABLE.set("left over")

        async def main() -> None:
            for n in range(4):
                go(child, n)
            await sleep(0.003)

        contextvars.Context().run(start, main, machines=1)
        assert seen == [(0, "unset"), (1, 1), (2, "unset"), (3, 3)]
        assert VARIABLE.get() == "unset"

    def test_nothing_leaks(self, io: str, machines: int) -> None:
        """Thousands on all machines, of which some set the variable: nobody sees another's."""
        wrong: list[object] = []

        async def sets(n: int, ch: Any) -> None:
            if VARIABLE.get() != "main's":
                wrong.append((n, VARIABLE.get()))
            VARIABLE.set(n)
            for step in range(n % 5):
                match (n + step) % 4:
                    case 0:
                        await gosched()
                    case 1:
                        await sleep(0.0001)
                    case 2:
                        await ch.send(n)
                    case _:
                        await ch.recv_ok()
                if VARIABLE.get() != n:
                    wrong.append((n, VARIABLE.get()))
            if n % 7 == 0:
                got = await go(VARIABLE.get)
                if got != n:
                    wrong.append((n, got))

        async def looks(n: int) -> None:
            for _ in range(n % 3):
                if VARIABLE.get() != "main's":
                    wrong.append(VARIABLE.get())
                await gosched()

        def sets_and_ends(n: int) -> None:
            if VARIABLE.get() != "main's":
                wrong.append(VARIABLE.get())
            VARIABLE.set(("plain", n))

        async def main(value: object) -> None:
            if value != "unset":
                VARIABLE.set(value)
            ch = chan(10_000)
            for _ in range(1000):
                await ch.send(0)
            gs: list[Any] = []
            for n in range(600):
                gs += [go(sets, n, ch), go(looks, n), go(sets_and_ends, n)]
                if n % 40 == 0:
                    await gosched()
            for g in gs:
                await g
            if VARIABLE.get() != value:
                wrong.append(VARIABLE.get())

        start(main, "main's", machines=machines, io=io)
        assert wrong == []

    def test_nothing_leaks_from_the_empty_context(self, machines: int) -> None:
        """The same where main has set nothing, so that all share the machines' own context."""
        wrong: list[object] = []

        async def sets(n: int) -> None:
            if VARIABLE.get() != "unset":
                wrong.append(VARIABLE.get())
            VARIABLE.set(n)
            if n % 3:
                await gosched()
                if VARIABLE.get() != n:
                    wrong.append(VARIABLE.get())

        async def looks(n: int) -> None:
            for _ in range(n % 3 + 1):
                if VARIABLE.get() != "unset":
                    wrong.append(VARIABLE.get())
                await gosched()

        async def main() -> None:
            gs = []
            for n in range(1500):
                gs += [go(sets, n), go(looks, n), go(VARIABLE.set, n)]
                if n % 30 == 0:
                    await gosched()
            for g in gs:
                await g

        contextvars.Context().run(start, main, machines=machines)
        assert wrong == []

    def test_failed_handlers_leave_nothing(self, io: str, caplog: pytest.LogCaptureFixture) -> None:
        """A goroutine that sets, fails, and whose failure does not end the program."""
        seen = []

        async def handler(conn: net.Conn) -> None:
            seen.append(VARIABLE.get())
            VARIABLE.set("handler's")
            raise LookupError("of the handler")

        async def main() -> None:
            listener = await net.listen("tcp", "127.0.0.1:0")
            go(listener.serve, handler)
            for _ in range(10):
                async with await net.dial("tcp", listener.address) as conn:
                    assert await conn.read(1) == b""
                assert VARIABLE.get() == "unset"
                assert await go(VARIABLE.get) == "unset"
            listener.close()

        contextvars.Context().run(start, main, machines=1, io=io)
        assert seen == ["unset"] * 10
        assert len(caplog.records) == 10
