"""Contexts: trees of them, causes, deadlines, values, after_func; nothing is left behind."""

import threading
import time as clock
from contextlib import contextmanager
from math import inf, nan

import pytest
from waiting import until

import goroutine
from goroutine import Canceled, DeadlineExceeded, chan, context, go, recv, select, start
from goroutine.runtime import scheduler
from goroutine.time import now

pytestmark = pytest.mark.timeout(30)

LONG = 3600.0


def timers():
    """How many timers this run has."""
    return sum(len(m.p.timers) for m in scheduler.running().machines)


def is_empty(ctx):
    """Whether nothing below or beside ctx is kept by it."""
    return not ctx._children and not ctx._hooks


class Own:
    """A context of the program's own type, that knows nothing of ours but the four methods."""

    def __init__(self, values=None, deadline=None):
        self.channel = chan()
        self.why = None
        self.values = values or {}
        self.when = deadline

    def done(self):
        return self.channel

    def err(self):
        return self.why

    def deadline(self):
        return self.when

    def value(self, key):
        return self.values.get(key)

    def end(self, why):
        self.why = why
        self.channel.close()


class Calling(Own):
    """The same, with an after_func of its own, that counts what is registered."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def after_func(self, fn):
        key = object()
        self.calls[key] = fn
        return lambda: self.calls.pop(key, None) is not None

    def end(self, why):
        super().end(why)
        while self.calls:
            self.calls.popitem()[1]()


class Based(context.Context, Own):
    """The same with our base: may be given as ctx=."""

    done, err, deadline, value = Own.done, Own.err, Own.deadline, Own.value


# -- roots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [context.background(), context.todo()])
def test_a_root_never_ends(root):
    assert root.done() is None
    assert root.err() is None
    assert root.deadline() is None
    assert root.value("key") is None
    assert context.cause(root) is None
    assert root._scope() is None
    assert context.after_func(root, print)() is True


def test_names():
    assert repr(context.background()) == "<background>"
    assert repr(context.todo()) == "<todo>"
    a = context.with_cancel(context.background())
    b = context.with_value(context.without_cancel(a), "user", 1)
    c = context.with_timeout(b, LONG)
    assert repr(c) == "<background, cancel, without cancel, 'user', deadline>"
    a.cancel()
    c.cancel()
    assert repr(c) == "<background, cancel (canceled), without cancel, 'user', deadline (canceled)>"
    assert repr(context.with_timeout(a, 0)) == (
        "<background, cancel (canceled), deadline (canceled)>"
    )
    assert "late" in repr(context.with_timeout(context.background(), 0))


# -- cancel ---------------------------------------------------------------------------------------


def test_cancel_ends_it_and_what_is_below_but_nothing_above():
    top = context.with_cancel(context.background())
    middle = context.with_cancel(context.with_value(top, "k", 1))
    beside = context.with_cancel(top)
    below = context.with_value(context.with_cancel(middle), "k", 2)
    middle.cancel()
    assert type(middle.err()) is Canceled
    assert str(middle.err()) == "context canceled"
    assert type(below.err()) is Canceled
    assert middle.done().closed
    assert below.done().closed
    assert top.err() is None
    assert beside.err() is None
    assert not top.done().closed
    top.cancel()
    assert beside.err() is not None


def test_only_the_first_cancel_counts():
    ctx = context.with_cancel(context.background())
    ctx.cancel(ValueError("first"))
    ctx.cancel(ValueError("second"))
    ctx.cancel()
    assert str(context.cause(ctx)) == "first"


def test_a_child_of_a_cancelled_parent_is_cancelled_at_once_with_its_cause():
    why = ValueError("why")
    parent = context.with_cancel(context.background())
    parent.cancel(why)
    for child in (
        context.with_cancel(parent),
        context.with_timeout(parent, LONG, cause=KeyError()),
        context.with_cancel(context.with_value(parent, "k", 1)),
    ):
        assert type(child.err()) is Canceled
        assert child.err().__cause__ is why
        assert context.cause(child) is why
        assert child.done().closed
    assert is_empty(parent)


def test_done_is_one_channel():
    ctx = context.with_cancel(context.background())
    below = context.with_value(ctx, "k", 1)
    assert ctx.done() is ctx.done() is below.done()
    before = ctx.done()
    ctx.cancel()
    assert ctx.done() is before
    late = context.with_cancel(ctx)
    assert late.done() is late.done()


def test_who_closes_done_does_not_keep_it_from_being_cancelled():
    ctx = context.with_cancel(context.background())
    below = context.with_cancel(ctx)
    ctx.done().close()
    ctx.cancel()
    assert ctx.err() is not None
    assert below.err() is not None


@pytest.mark.parametrize("way", ["cancel", "with", "expired", "parent"])
def test_a_child_that_ended_is_not_kept_by_its_parent(way):
    async def main():
        parent = context.with_cancel(context.background())
        for _ in range(3):
            child = context.with_cancel(context.with_value(parent, "k", 1))
            if way == "cancel":
                child.cancel()
            elif way == "with":
                with child:
                    pass
                async with context.with_cancel(parent):
                    pass
            elif way == "expired":
                child.cancel()
                child = context.with_timeout(parent, 0.001)
                await child.done().recv_ok()
            else:
                parent.cancel()
        assert is_empty(parent)
        assert is_empty(child)
        assert timers() == 0

    start(main, machines=1)


def test_with_gives_the_context_and_cancels_it_also_after_a_failure():
    with context.with_cancel(context.background()) as ctx:
        assert ctx.err() is None
    assert ctx.err() is not None
    with pytest.raises(ValueError, match="x"), context.with_cancel(context.background()) as ctx:
        raise ValueError("x")
    assert ctx.err() is not None
    assert ctx.err().__cause__ is None


def test_err_is_new_each_time():
    # An exception that is raised gets a traceback and a context: no two may share one.
    ctx = context.with_cancel(context.background())
    ctx.cancel()
    assert ctx.err() is not ctx.err()


def test_err_keeps_what_was_being_handled():
    ctx = context.with_cancel(context.background())
    ctx.cancel()

    def fail():
        try:
            raise ValueError
        except ValueError:
            raise ctx.err()  # noqa: B904

    with pytest.raises(Canceled) as caught:
        fail()
    assert isinstance(caught.value.__context__, ValueError)
    assert not caught.value.__suppress_context__


class Watching(dict):
    """The hooks of a context. When those of the top are taken out, all must be marked."""

    def __init__(self, tree, saw):
        super().__init__()
        self.tree, self.saw = tree, saw

    def popitem(self):
        self.saw.append([ctx.ended is not None for ctx in self.tree])
        return super().popitem()


def test_all_of_a_tree_is_marked_before_anybody_is_woken():
    top = context.with_cancel(context.background())
    tree = [top, context.with_cancel(top), context.with_cancel(top)]
    tree.append(context.with_cancel(tree[1]))
    saw = []
    for ctx in tree:
        hooks = Watching(tree, saw)
        ctx._hooks = hooks
        context.after_func(ctx, print)  # outside a run: not called
    top.cancel()
    assert saw == [[True] * 4] * 4


@pytest.mark.parametrize("threads", [2, 4])
def test_done_is_closed_when_err_tells_and_err_tells_when_done_is_closed(threads):
    # Fails when failure() doesn't wait for the marks, or err() doesn't close the channel, or
    # the channel is closed before the mark is set: within some hundred rounds.
    wrong = []

    def look(ctx, below, done, ready):
        ready.wait()
        while True:
            closed = below.done().closed
            failure = below.err()
            if closed and failure is None:
                wrong.append("closed, and no err")
            if failure is not None and not done.closed:
                wrong.append("err, and not closed")
            if ctx.err() is not None:
                if below.err() is None:
                    wrong.append("the parent ended, and the child not")
                return

    for _ in range(300):
        ctx = context.with_cancel(context.background())
        below = ctx
        for _ in range(5):
            below = context.with_cancel(below)
        ready = threading.Barrier(threads)
        looking = [
            threading.Thread(target=look, args=(ctx, below, below.done(), ready))
            for _ in range(threads - 1)
        ]
        for thread in looking:
            thread.start()
        ready.wait()
        ctx.cancel()
        assert below.err() is not None
        for thread in looking:
            thread.join()
    assert not wrong


def test_every_cancel_returns_with_the_whole_tree_ended():
    # Also that which came second. Fails in a few rounds when _end doesn't wait for the first.
    wrong = []

    def cancel(ctx, leaves, ready):
        ready.wait()
        ctx.cancel()
        if any(leaf.ended is None for leaf in leaves):
            wrong.append(1)

    for _ in range(50):
        ctx = context.with_cancel(context.background())
        leaves = [context.with_cancel(ctx) for _ in range(300)]
        ready = threading.Barrier(3)
        threads = [threading.Thread(target=cancel, args=(ctx, leaves, ready)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_many_goroutines_cancel_and_make_children_at_once(machines):
    async def main():
        for _ in range(30):
            top = context.with_cancel(context.background())
            made, finished = [], chan(100)

            async def worker(i, top=top, made=made, finished=finished):
                mine = context.with_cancel(top)
                for j in range(10):
                    made.append(context.with_cancel(mine if j % 2 else top))
                    if i == 3 and j == 5:
                        top.cancel(ValueError("why"))
                    if j == 7:
                        mine.cancel(KeyError("mine"))
                    await goroutine.gosched()
                await finished.send(i)

            for i in range(8):
                go(worker, i)
            for _ in range(8):
                await finished.recv()
            assert all(ctx.err() is not None and is_empty(ctx) for ctx in made)
            assert {type(context.cause(ctx)) for ctx in made} <= {ValueError, KeyError}
            assert is_empty(top)

    start(main, machines=machines)


# -- causes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parent_first", "parent_cause", "child_cause", "expected_parent", "expected_child"),
    [
        (True, "p", "c", "p", "p"),
        (False, "p", "c", "p", "c"),
        (True, None, "c", None, None),
        (False, None, "c", None, "c"),
        (True, "p", None, "p", "p"),
        (False, "p", None, "p", None),
        (True, None, None, None, None),
    ],
)
def test_causes(parent_first, parent_cause, child_cause, expected_parent, expected_child):
    def cancel(ctx, name):
        ctx.cancel(None if name is None else ValueError(name))

    def look(ctx, expected):
        assert type(ctx.err()) is Canceled
        if expected is None:
            assert type(context.cause(ctx)) is Canceled
            assert ctx.err().__cause__ is None
        else:
            assert str(context.cause(ctx)) == expected
            assert ctx.err().__cause__ is context.cause(ctx)

    parent = context.with_cancel(context.background())
    child = context.with_cancel(context.with_value(parent, "k", 1))
    assert context.cause(parent) is None
    assert context.cause(child) is None
    if parent_first:
        cancel(parent, parent_cause)
        cancel(child, child_cause)
    else:
        cancel(child, child_cause)
        cancel(parent, parent_cause)
    look(parent, expected_parent)
    look(child, expected_child)
    look(context.with_value(child, "x", 1), expected_child)
    assert context.cause(context.without_cancel(child)) is None


def test_the_cause_of_a_deadline_is_for_that_only():
    why = ValueError("late")
    late = context.with_timeout(context.background(), 0, cause=why)
    assert type(late.err()) is DeadlineExceeded
    assert context.cause(late) is why
    assert late.err().__cause__ is why
    other = context.with_timeout(context.background(), LONG, cause=why)
    assert context.cause(other) is None
    other.cancel()
    assert type(other.err()) is Canceled
    assert type(context.cause(other)) is Canceled
    # The parent's deadline is earlier: so it is the parent's cause.
    below = context.with_timeout(late, LONG, cause=KeyError())
    assert context.cause(below) is why
    parent = context.with_timeout(context.background(), LONG, cause=why)
    parent.cancel(KeyError("k"))
    assert isinstance(context.cause(context.with_timeout(parent, 0, cause=why)), KeyError)


@pytest.mark.parametrize("cause", ["text", ValueError, 3])
def test_a_cause_is_an_exception(cause):
    ctx = context.with_cancel(context.background())
    with pytest.raises(TypeError, match="a cause is an exception"):
        ctx.cancel(cause)
    assert ctx.err() is None
    with pytest.raises(TypeError, match="a cause is an exception"):
        context.with_timeout(ctx, 1, cause=cause)
    with pytest.raises(TypeError, match="a cause is an exception"):
        context.with_deadline(ctx, 1, cause=cause)
    assert is_empty(ctx)


# -- deadlines ------------------------------------------------------------------------------------


def test_a_deadline_ends_it(machines):
    async def main():
        before = now()
        ctx = context.with_timeout(context.background(), 0.02)
        below = context.with_cancel(context.with_value(ctx, "k", 1))
        assert ctx.err() is None
        assert before + 0.02 <= ctx.deadline() <= now() + 0.02
        assert below.deadline() == ctx.deadline()
        await below.done().recv_ok()
        assert now() >= ctx.deadline()
        for each in (ctx, below):
            failure = each.err()
            assert type(failure) is DeadlineExceeded
            assert isinstance(failure, TimeoutError)
            assert isinstance(failure, Canceled)
            assert str(failure) == "context deadline exceeded"
            assert type(context.cause(each)) is DeadlineExceeded
        assert timers() == 0

    start(main, machines=machines)


def test_the_earlier_deadline_is_what_counts():
    async def main():
        parent = context.with_timeout(context.background(), LONG)
        later = context.with_timeout(parent, 2 * LONG)
        assert later.deadline() == parent.deadline()
        assert timers() == 1  # it is like a with_cancel
        earlier = context.with_timeout(context.with_value(later, "k", 1), 0.01)
        assert earlier.deadline() < parent.deadline()
        assert timers() == 2
        await earlier.done().recv_ok()
        assert type(earlier.err()) is DeadlineExceeded
        assert parent.err() is later.err() is None
        with context.with_timeout(context.background(), 0.01) as parent:
            below = context.with_timeout(parent, LONG)
            await below.done().recv_ok()
            assert type(below.err()) is DeadlineExceeded

    start(main, machines=1)


@pytest.mark.parametrize("seconds", [0, -1, -inf, 1e-12])
def test_a_deadline_that_has_passed(seconds):
    async def main():
        for ctx in (
            context.with_timeout(context.background(), seconds),
            context.with_deadline(context.background(), now() + seconds),
        ):
            assert type(ctx.err()) is DeadlineExceeded
            assert ctx.done().closed
            assert timers() == 0
            assert type(context.with_cancel(ctx).err()) is DeadlineExceeded

    start(main, machines=1)
    ctx = context.with_timeout(context.background(), seconds)
    assert type(ctx.err()) is DeadlineExceeded


def test_no_deadline_at_all():
    async def main():
        for seconds in (inf, 1e400, 10**400):
            ctx = context.with_timeout(context.background(), seconds)
            assert ctx.deadline() is None
            assert ctx.err() is None
        assert context.with_deadline(context.background(), inf).deadline() is None
        assert timers() == 0
        far = context.with_timeout(context.background(), 1e300)
        assert far.deadline() > now() + 1e299
        assert timers() == 1
        far.cancel()
        assert timers() == 0

    start(main, machines=1)


def test_a_deadline_is_a_number():
    with pytest.raises(ValueError, match="NaN"):
        context.with_timeout(context.background(), nan)
    with pytest.raises(ValueError, match="NaN"):
        context.with_deadline(context.background(), nan)
    with pytest.raises(TypeError):
        context.with_timeout(context.background(), "1")
    with pytest.raises(TypeError):
        context.with_deadline(context.background(), None)


def test_the_given_deadline_is_what_deadline_gives():
    when = now() + LONG
    assert context.with_deadline(context.background(), when).deadline() == when


def test_a_computation_sees_its_deadline():
    # No timer is fired while the only machine is inside this step.
    async def main():
        ctx = context.with_timeout(context.background(), 0.01)
        below = context.with_value(context.with_cancel(ctx), "k", 1)
        while below.err() is None:
            pass
        assert type(ctx.err()) is DeadlineExceeded

    start(main, machines=1)


def test_made_before_the_run():
    ctx = context.with_timeout(context.background(), 0.05)
    below = context.with_cancel(ctx)
    by_done = context.with_timeout(context.background(), 0.05)
    called = context.with_timeout(context.background(), 0.05)
    calls = []
    context.after_func(called, lambda: calls.append(1))

    async def main():
        with pytest.raises(DeadlineExceeded):
            await chan().recv(ctx=below)
        await by_done.done().recv_ok()
        assert type(by_done.err()) is DeadlineExceeded
        assert called.err() is not None
        await until(lambda: calls)

    start(main, machines=2)
    assert type(ctx.err()) is DeadlineExceeded


def test_made_before_the_run_and_late_by_then():
    ctx = context.with_timeout(context.background(), 0.01)
    below = context.with_cancel(ctx)
    clock.sleep(0.02)
    assert ctx.ended is None

    async def main():
        with pytest.raises(DeadlineExceeded):
            await chan().recv(ctx=below)

    start(main, machines=1)


def test_used_in_two_runs():
    ctx = context.with_timeout(context.background(), 0.3)

    async def first():
        below = context.with_cancel(ctx)
        assert timers() == 1
        below.cancel()
        assert ctx.err() is None

    async def second():
        with pytest.raises(DeadlineExceeded):
            await chan().recv(ctx=ctx)
        assert timers() == 0

    start(first, machines=1)
    start(second, machines=1)
    assert is_empty(ctx)


def test_a_run_that_is_over_is_not_kept():
    ctx = context.with_timeout(context.background(), LONG)
    runs = []

    async def main():
        runs.append(scheduler.running().over)
        assert ctx.err() is None
        assert timers() == 1

    start(main, machines=1)
    assert ctx._run is runs[0]
    ctx.cancel()


@pytest.mark.parametrize("where", ["goroutine", "thread", "parent"])
def test_cancel_gives_the_timer_back(where, machines):
    async def main():
        parent = context.with_cancel(context.background())
        contexts = [context.with_timeout(parent, LONG) for _ in range(200)]
        assert timers() == 200
        if where == "goroutine":
            for ctx in contexts:
                await go(ctx.cancel)
        elif where == "parent":
            parent.cancel()
        else:
            await goroutine.blocking(lambda: [ctx.cancel() for ctx in contexts])
        assert timers() == 0
        assert is_empty(parent)

    start(main, machines=machines)


def test_timers_set_while_being_cancelled():
    # Fails in some rounds when the timer is put into the heap after the lock is released.
    async def main():
        for _ in range(500):
            ctx = context.CancelContext(context.background())
            ctx._when = clock.monotonic() + LONG
            ctx._timed = ctx
            g = go(ctx.cancel)
            ctx._arm()
            await g
            assert timers() == 0

    start(main, machines=4)


def test_a_deadline_set_by_a_thread_wakes_the_machine():
    async def main():
        ch = chan()

        def make():
            ctx = context.with_timeout(context.background(), 0.05)
            context.after_func(ctx, ch.close)

        with goroutine.hold():
            thread = threading.Thread(target=make)
            thread.start()
            thread.join()
            before = clock.monotonic()
            await ch.recv_ok()
            assert clock.monotonic() - before < 5

    start(main, machines=2)


# -- values ---------------------------------------------------------------------------------------


def test_values():
    key = object()
    a = context.with_value(context.background(), "a", 1)
    b = context.with_cancel(context.with_value(a, "b", None))
    c = context.with_value(context.with_timeout(b, LONG), "a", 3)
    d = context.with_value(c, key, 4)
    assert [each.value("a") for each in (a, b, c, d)] == [1, 1, 3, 3]
    assert [each.value("b") for each in (a, b, c, d)] == [None] * 4
    assert d.value(key) == 4
    assert d.value(object()) is None
    assert d.value([]) is None
    assert context.without_cancel(d).value("a") == 3
    assert context.with_value(a, 1, "one").value(1.0) == "one"  # Python's idea of equal


def test_a_key_that_is_not_equal_to_itself():
    assert context.with_value(context.background(), nan, 1).value(nan) == 1


def test_a_value_context_ends_with_its_parent():
    ctx = context.with_timeout(context.background(), LONG)
    value = context.with_value(ctx, "k", 1)
    assert value.deadline() == ctx.deadline()
    assert value.done() is ctx.done()
    ctx.cancel(ValueError("why"))
    assert str(context.cause(value)) == "why"


@pytest.mark.parametrize(
    "make",
    [
        context.with_cancel,
        context.without_cancel,
        lambda parent: context.with_timeout(parent, 1),
        lambda parent: context.with_deadline(parent, 1),
        lambda parent: context.with_value(parent, "k", 1),
        lambda parent: context.after_func(parent, print),
    ],
)
def test_the_parent_is_checked(make):
    with pytest.raises(TypeError, match="cannot create context from nil parent"):
        make(None)
    with pytest.raises(TypeError, match="a context's parent is a Context, not str"):
        make("text")


def test_keys_are_checked():
    with pytest.raises(TypeError, match="nil key"):
        context.with_value(context.background(), None, 1)
    with pytest.raises(TypeError, match="key is not comparable"):
        context.with_value(context.background(), [], 1)


def test_without_cancel():
    parent = context.with_timeout(context.with_value(context.background(), "k", 1), LONG)
    ctx = context.without_cancel(parent)
    below = context.with_cancel(ctx)
    timed = context.with_timeout(ctx, 2 * LONG)
    assert ctx.value("k") == below.value("k") == 1
    assert ctx.done() is None
    assert ctx.deadline() is below.deadline() is None
    assert timed.deadline() > parent.deadline()
    parent.cancel(ValueError())
    assert ctx.err() is below.err() is timed.err() is None
    assert context.cause(ctx) is context.cause(below) is None
    assert is_empty(parent)


# -- deep and wide --------------------------------------------------------------------------------


def test_deep_trees():
    why = ValueError("why")
    top = context.with_cancel(context.with_value(context.background(), "top", 1))
    ctx = top
    for i in range(10_000):
        ctx = context.with_cancel(ctx) if i % 2 else context.with_value(ctx, i, i)
    assert ctx.deadline() is None
    assert ctx.value("top") == 1
    assert ctx.value(2) == 2
    assert ctx.err() is None
    assert repr(ctx).count(", ") == 10_002
    timed = context.with_timeout(ctx, LONG)
    below = timed
    for _ in range(10_000):
        below = context.with_timeout(below, 2 * LONG)
    assert below.deadline() == timed.deadline()
    calls = []

    async def main():
        context.after_func(below, lambda: calls.append(1))
        top.cancel(why)
        await until(lambda: calls)
        with pytest.raises(Canceled):
            await goroutine.sleep(1, ctx=below)

    start(main, machines=1)
    assert context.cause(below) is why


def test_deep_trees_of_values_alone():
    ctx = top = context.with_cancel(context.background())
    for i in range(10_000):
        ctx = context.with_value(ctx, i, i)
    assert ctx.done() is top.done()
    assert ctx.deadline() is None
    top.cancel()
    assert ctx.err() is not None
    assert context.cause(ctx) is not None


def test_many_children():
    parent = context.with_cancel(context.background())
    children = [context.with_cancel(parent) for _ in range(10_000)]
    for child in children[::2]:
        child.cancel()
    assert len(parent._children) == 5_000
    parent.cancel()
    assert all(child.err() is not None for child in children)
    assert is_empty(parent)


# -- after_func -----------------------------------------------------------------------------------


def test_after_func_runs_once_in_a_goroutine_of_its_own(machines):
    async def main():
        ctx = context.with_cancel(context.background())
        ids = []

        def note():
            ids.append(goroutine.current().id)

        async def note_async():
            await goroutine.sleep(0)
            note()

        stops = [context.after_func(ctx, fn) for fn in (note, note_async)]
        await goroutine.sleep(0.001)
        assert not ids
        ctx.cancel()
        ctx.cancel()
        await until(lambda: len(ids) == 2)
        assert 1 not in ids
        assert len(set(ids)) == 2
        assert [stop() for stop in stops] == [False, False]
        context.after_func(ctx, note)  # it has been cancelled already
        await until(lambda: len(ids) == 3)
        assert is_empty(ctx)

    start(main, machines=machines)


def test_stop_before():
    async def main():
        ctx = context.with_cancel(context.background())
        calls = []
        stop = context.after_func(ctx, lambda: calls.append("stopped"))
        context.after_func(context.with_value(ctx, "k", 1), lambda: calls.append("run"))
        assert stop() is True
        assert stop() is False
        assert len(ctx._hooks) == 1
        ctx.cancel()
        await until(lambda: calls)
        assert calls == ["run"]

    start(main, machines=1)


def test_stop_and_cancel_at_once(machines):
    # Exactly one of the two gets it. Fails when stop() only looks.
    async def main():
        for _ in range(300):
            ctx = context.with_cancel(context.background())
            called, stopped = chan(2), chan(1)
            stop = context.after_func(ctx, lambda called=called: go(called.send(1)))

            async def stopping(stop=stop, stopped=stopped):
                await stopped.send(stop())

            go(stopping)
            g = go(ctx.cancel)
            was = await stopped.recv()
            await g
            if not was:
                await called.recv()
            await goroutine.gosched()
            assert len(called) == 0
            assert is_empty(ctx)

    start(main, machines=machines)


def test_after_func_takes_a_function():
    with pytest.raises(TypeError, match="after_func"):
        context.after_func(context.background(), "text")


def test_a_function_that_cannot_be_called_is_a_panic_not_the_cancellers_trouble(capsys):
    async def main():
        ctx = context.with_cancel(context.background())
        below = context.with_cancel(ctx)

        async def one(_):
            pass

        context.after_func(ctx, one)
        ctx.cancel()
        assert below.err() is not None
        await chan().recv()

    with pytest.raises(goroutine.GoroutinePanic):
        start(main, machines=1)
    assert "TypeError" in capsys.readouterr().err


def test_outside_a_run_nothing_is_called():
    ctx = context.with_cancel(context.background())
    calls = []
    stop = context.after_func(ctx, lambda: calls.append(1))
    ctx.cancel()
    assert stop() is False
    assert not calls


def test_stop_does_not_wait():
    async def main():
        ctx = context.with_cancel(context.background())
        begun, go_on = chan(), chan()

        async def fn():
            await begun.send(1)
            await go_on.recv()

        stop = context.after_func(ctx, fn)
        ctx.cancel()
        await begun.recv()
        assert stop() is False
        await go_on.send(1)

    start(main, machines=1)


# -- types of the program's own -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Own, Calling, Based])
def test_a_foreign_parent(kind, machines):
    async def main():
        own = kind()
        own.values["k"] = 1
        ctx = context.with_cancel(context.with_value(own, "x", 2))
        assert ctx.value("k") == 1
        assert ctx.value("x") == 2
        assert ctx.err() is None
        below = context.with_cancel(ctx)
        own.end(ValueError("own"))
        await below.done().recv_ok()
        assert type(ctx.err()) is Canceled
        assert str(context.cause(below)) == "own"
        assert context.with_cancel(own).err() is not None  # at once
        await until(lambda: goroutine.num_goroutine() == 1)

    start(main, machines=machines)


@pytest.mark.parametrize("kind", [Own, Calling, Based])
def test_a_child_that_ends_leaves_a_foreign_parent(kind):
    async def main():
        own = kind()
        ctx = context.with_cancel(own)
        if kind is Calling:
            assert len(own.calls) == 1
            assert goroutine.num_goroutine() == 1
        else:
            assert goroutine.num_goroutine() == 2  # which watches
        ctx.cancel()
        await until(lambda: goroutine.num_goroutine() == 1)
        assert kind is not Calling or not own.calls
        assert not own.channel._recvq

    start(main, machines=1)


def test_the_deadline_of_a_foreign_parent():
    own = Calling()
    own.when = now() + LONG
    ctx = context.with_cancel(own)
    assert ctx.deadline() == own.when
    assert context.with_timeout(ctx, 2 * LONG).deadline() == own.when
    assert context.with_timeout(ctx, 1).deadline() < own.when
    own.end(TimeoutError("late"))
    assert type(ctx.err()) is DeadlineExceeded
    assert isinstance(context.cause(ctx), TimeoutError)


def test_a_foreign_parent_that_never_ends():
    own = Own()
    own.channel = None
    ctx = context.with_cancel(own)
    assert ctx.err() is None
    ctx.cancel()


@pytest.mark.parametrize("wrapped", [False, True])
def test_waiting_under_a_foreign_context(wrapped, machines):
    async def main():
        own = Based()
        ctx = context.with_value(own, "k", 1) if wrapped else own
        ch = chan()
        for i in range(20):
            g = go(ch.recv(ctx=ctx))
            await until(lambda: ch._recvq)
            await ch.send(i)
            assert await g == i
        await until(lambda: goroutine.num_goroutine() == 1)  # nobody watches any more
        assert not own.channel._recvq
        caught = chan(1)

        async def wait():
            try:
                await ch.recv(ctx=ctx)
            except Canceled as failure:
                await caught.send(failure)

        go(wait)
        await until(lambda: ch._recvq)
        own.end(ValueError("own"))
        failure = await caught.recv()
        assert str(failure.__cause__) == "own"
        assert not ch._recvq
        with pytest.raises(Canceled):
            await ch.recv(ctx=ctx)
        stop = context.after_func(ctx, caught.close)
        await caught.recv_ok()
        assert stop() is False

    start(main, machines=machines)


def test_ctx_must_be_a_context():
    async def main():
        with pytest.raises(TypeError, match="ctx must be a Context, not str"):
            await chan().recv(ctx="text")

    start(main, machines=1)


# -- with select, from threads --------------------------------------------------------------------


def test_select_on_done(machines):
    async def main():
        parent = context.with_cancel(context.background())
        told = chan()

        async def wait(ctx):
            chosen = await select(recv(chan()), recv(ctx.done()))
            assert ctx.err() is not None  # done is closed, so err tells
            await told.send(chosen.index)

        for _ in range(50):
            go(wait, context.with_cancel(parent))
        await goroutine.gosched()
        await goroutine.blocking(parent.cancel)  # by a thread
        assert [await told.recv() for _ in range(50)] == [1] * 50
        assert is_empty(parent)

    start(main, machines=machines)


def test_a_thread_waits_for_done():
    async def main():
        ctx = context.with_timeout(context.background(), 0.01)
        with pytest.raises(goroutine.ChanClosed):
            await goroutine.blocking(ctx.done().recv_blocking, 10)
        assert ctx.err() is not None

    start(main, machines=1)


def test_who_holds_the_lock_of_done_may_ask_whether_it_ended():
    # As a select does that waits for it, under the lock, in a group that is being cancelled.
    # (A deadlock, when the channels are closed among the marks.)
    ctx = context.with_cancel(context.background())
    below = context.with_cancel(ctx)
    done, told = ctx.done(), []
    with done._lock:
        thread = threading.Thread(target=ctx.cancel)
        thread.start()
        asking = threading.Thread(target=lambda: told.append(below.failure()))
        while below.ended is None:
            pass
        asking.start()
        asking.join(10)
    thread.join()
    assert type(told[0]) is Canceled
    assert done.closed


def test_done_is_waited_for_under_the_context_itself(machines):
    async def main():
        for _ in range(200):
            ctx = context.with_cancel(context.background())
            done = ctx.done()

            async def wait(ctx=ctx, done=done):
                try:
                    await done.recv_ok(ctx=ctx)
                except Canceled:
                    pass

            gs = [go(wait) for _ in range(4)]
            gs.append(go(ctx.cancel))
            for g in gs:
                await g
            assert is_empty(ctx)
            assert not done._recvq

    start(main, machines=machines)


@contextmanager
def collected_at_the_end():
    import gc
    import weakref

    refs = []
    yield lambda thing: refs.append(weakref.ref(thing))
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


def test_nothing_keeps_a_context_that_has_ended():
    async def main():
        parent = context.with_timeout(context.background(), LONG)
        with collected_at_the_end() as look:
            for _ in range(3):
                with context.with_timeout(parent, 1) as ctx:
                    look(ctx)
                    ctx.cancel()
                    with pytest.raises(Canceled):
                        await chan().recv(ctx=ctx)
                del ctx
        parent.cancel()

    start(main, machines=1)
