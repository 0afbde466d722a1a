"""Groups: results, failures, cancellation told once, limits, nesting; nothing outlives one."""

# ruff: noqa: PT012 (what raises is the end of an `async with Group()`, hence all of it)

import contextvars
import gc
import os
import threading
import traceback

import pytest
from waiting import until

import goroutine
import goroutine.io
from goroutine import (
    Canceled,
    DeadlineExceeded,
    Group,
    chan,
    context,
    go,
    num_goroutine,
    recv,
    select,
    sleep,
    start,
)
from goroutine.runtime import scheduler
from goroutine.runtime.shared import scoped
from goroutine.runtime.wait import Waiter

pytestmark = pytest.mark.timeout(30)

LONG = 3600.0


def timers():
    return sum(len(m.p.timers) for m in scheduler.running().machines)


async def fail(text="x", seconds=0.0):
    await sleep(seconds)
    raise ValueError(text)


async def forever():
    await chan().recv()


async def double(x):
    await goroutine.gosched()
    return 2 * x


def failures(group):
    """The texts of an ExceptionGroup."""
    return sorted(str(failure) for failure in group.exceptions)


# -- results --------------------------------------------------------------------------------------


def test_results(machines):
    async def main():
        ch = chan(1)
        async with Group() as group:
            a = group.go(double, 2)
            b = group.go(lambda x, y: x + y, 1, y=2)  # a plain function
            c = group.go(double(5))  # a coroutine
            d = group.go(ch.send("sent"))  # an operation
            e = group.go(sleep, 0.001)
            assert [m.name for m in (a, b)] == [
                "test_group.double",
                "test_group.test_results.<locals>.main.<locals>.<lambda>",
            ]
        assert [m.result() for m in (a, b, c, d, e)] == [4, 3, 10, None, None]
        assert all(m.done for m in (a, b, c, d, e))
        assert await ch.recv() == "sent"
        assert num_goroutine() == 1
        assert not scoped

    start(main, machines=machines)


def test_an_empty_group():
    async def main():
        async with Group() as group:
            assert group.context.err() is None
        assert type(group.context.err()) is Canceled
        assert goroutine.current().scope is None

    start(main, machines=1)


def test_result_before_the_end():
    async def main():
        go_on = chan()
        async with Group() as group:
            member = group.go(go_on.recv)
            with pytest.raises(RuntimeError, match="has not ended yet"):
                member.result()
            assert not member.done
            await go_on.send(1)
        assert member.result() == 1

    start(main, machines=1)


def test_awaiting_members(machines):
    async def main():
        async with Group() as group:
            members = [group.go(double, i) for i in range(10)]
            assert [await member for member in members] == [2 * i for i in range(10)]
        assert await members[3] == 6
        async with Group() as group:
            first = group.go(double, 1)

            async def next_one(before):
                return 2 * await before

            for _ in range(10):
                first = group.go(next_one, first)
        assert first.result() == 2 * 2**10

    start(main, machines=machines)


def test_awaited_at_the_moment_of_its_end():
    """Between the last step of a member and its machine's look for who waits for it. (The
    one that awaited took the queue away, and the group was not told of the end.)"""
    woken = []

    class Other(Waiter):
        def wake(self):
            woken.append(self)

    class Owner:
        def __init__(self, real):
            self.real = real

        def discard(self, g):
            self.real.discard(g)
            g._join(Other(None))

    async def member():
        g = goroutine.current()
        g._owner = Owner(g._owner)

    async def main():
        async with Group() as group:
            group.go(member)

    start(main, machines=1)
    assert len(woken) == 1


def test_a_group_is_entered_once_and_in_a_goroutine():
    group = Group()
    with pytest.raises(RuntimeError, match="async with"):
        group.context  # noqa: B018
    with pytest.raises(RuntimeError, match="not open"):
        group.go(double, 1)

    async def main():
        async with group:
            with pytest.raises(RuntimeError, match="entered once"):
                await group.__aenter__()
        with pytest.raises(RuntimeError, match="entered once"):
            await group.__aenter__()

    start(main, machines=1)


def test_outside_a_run():
    entering = Group().__aenter__()
    with pytest.raises(RuntimeError):
        entering.send(None)


@pytest.mark.parametrize(
    ("limit", "kind"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError)]
)
def test_limits_are_checked(limit, kind):
    with pytest.raises(kind, match="limit must be"):
        Group(limit=limit)


def test_what_go_takes():
    async def main():
        async with Group() as group:
            with pytest.raises(TypeError, match="go of nil func value"):
                group.go(None)
            with pytest.raises(TypeError):
                group.go(3)
            steps = double(1)
            with pytest.raises(TypeError, match="no further arguments"):
                group.go(steps, 2)
            steps.close()  # which is still ours
            with pytest.raises(TypeError, match="positional argument"):
                group.go(double)

    start(main, machines=1)


def test_go_after_the_end(machines):
    async def main():
        async with Group() as group:
            pass
        with pytest.raises(RuntimeError, match="not open"):
            group.go(double, 1)  # (its coroutine is closed: no warning)
        with pytest.raises(RuntimeError, match="not open"):
            group.go(double(1))
        assert num_goroutine() == 1

    start(main, machines=machines)
    gc.collect()


def test_members_see_the_contextvars_of_who_starts_them():
    var = contextvars.ContextVar("var", default=0)

    async def main():
        var.set(7)
        async with Group() as group:
            member = group.go(var.get)
        assert member.result() == 7

    start(main, machines=1)


# -- who may start members ------------------------------------------------------------------------


def test_members_of_members(machines):
    async def main():
        count = []

        async def spawn(group, depth):
            count.append(1)
            if depth:
                group.go(spawn, group, depth - 1)
                group.go(spawn, group, depth - 1)

        async with Group() as group:
            group.go(spawn, group, 7)
        assert len(count) == 2**8 - 1
        assert num_goroutine() == 1

    start(main, machines=machines)


def test_started_by_other_goroutines_and_threads(machines):
    async def main():
        started = chan()

        async def other(group):
            await started.send(group.go(double, 3))

        members = []
        with goroutine.hold():
            async with Group() as group:
                go(other, group)
                members.append(await started.recv())
                keep = group.go(forever)
                thread = threading.Thread(target=lambda: members.append(group.go(double, 4)))
                thread.start()
                await until(lambda: len(members) == 2)
                assert await members[1] == 8
                group.context.cancel()
        thread.join()
        assert [member.result() for member in members] == [6, 8]
        with pytest.raises(Canceled):
            keep.result()

    start(main, machines=machines)


def test_a_thread_that_comes_too_late():
    async def main():
        async with Group() as group:
            pass
        with pytest.raises(RuntimeError, match="not open"):
            await goroutine.blocking(group.go, double, 1)
        return group

    group = start(main, machines=1)
    with pytest.raises(RuntimeError, match="not open"):
        group.go(double, 1)
    gc.collect()


# -- failures -------------------------------------------------------------------------------------


def test_a_failure_cancels_the_others_the_body_and_the_context(machines):
    async def main():
        said = []

        async def wait(name):
            try:
                await forever()
            except Canceled as failure:
                said.append((name, type(failure.__cause__)))
                raise

        group = Group()
        with pytest.raises(ValueError, match="x") as caught:
            async with group:
                members = [group.go(wait, i) for i in range(5)]
                failed = group.go(fail)
                await wait("body")
        assert sorted(said, key=str) == [
            ("body", ValueError),
            *((i, ValueError) for i in range(5)),
        ]
        assert context.cause(group.context) is caught.value
        for member in members:
            with pytest.raises(Canceled):
                member.result()
        with pytest.raises(ValueError, match="x"):
            failed.result()
        assert num_goroutine() == 1
        assert not group.context._hooks
        assert goroutine.current().scope is None

    start(main, machines=machines)


def test_a_single_failure_is_raised_as_itself():
    cause, before = KeyError("cause"), IndexError("context")
    failure = ValueError("itself")

    async def main():
        async def member():
            try:
                raise before
            except IndexError:
                raise failure from cause

        async with Group() as group:
            group.go(member)
            await forever()

    with pytest.raises(ValueError, match="itself") as caught:
        start(main, machines=1)
    assert caught.value is failure
    assert failure.__cause__ is cause
    assert failure.__context__ is before
    lines = "".join(traceback.format_exception(failure))
    assert "in member" in lines
    assert "_run" not in lines
    assert "context canceled" not in lines  # that the body was cancelled for it


def test_a_failure_without_a_context_stays_so():
    async def main():
        async with Group() as group:
            group.go(fail)
            await forever()

    with pytest.raises(ValueError, match="x") as caught:
        start(main, machines=1)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_several_failures_are_a_group(machines):
    async def main():
        async def late(text):
            try:
                await forever()
            finally:
                await sleep(0.001)
                raise KeyError(text)

        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                group.go(late, "a")
                group.go(late, "b")
                group.go(forever)
                group.go(fail)
                await sleep(LONG)
        assert failures(caught.value) == ["'a'", "'b'", "x"]
        assert str(caught.value.exceptions[0]) == "x"  # the first one first
        assert isinstance(caught.value.exceptions[0], ValueError)

    start(main, machines=machines)


def test_the_body_fails(machines):
    async def main():
        failure = ValueError("body")
        with pytest.raises(ValueError, match="body") as caught:
            async with Group() as group:
                member = group.go(forever)
                raise failure
        assert caught.value is failure
        assert context.cause(group.context) is failure
        with pytest.raises(Canceled) as said:
            member.result()
        assert said.value.__cause__ is failure

        async def late():
            try:
                await forever()
            finally:
                raise KeyError("member")

        with pytest.raises(ExceptionGroup) as both:
            async with Group() as group:
                group.go(late)
                await sleep(0.001)
                raise failure
        assert both.value.exceptions[0] is failure
        assert failures(both.value) == ["'member'", "body"]

    start(main, machines=machines)


class Fatal(BaseException):
    pass


def test_base_exceptions_of_members():
    async def main():
        def fatal():
            raise Fatal("f")

        with pytest.raises(Fatal, match="f"):
            async with Group() as group:
                group.go(fatal)
                await forever()
        with pytest.raises(BaseExceptionGroup) as caught:
            async with Group() as group:

                async def late():
                    try:
                        await forever()
                    finally:
                        raise ValueError("v")

                group.go(late)
                group.go(fatal)
        assert type(caught.value) is BaseExceptionGroup
        with pytest.raises(Fatal):
            async with Group() as group:
                group.go(late)
                await goroutine.gosched()
                raise Fatal

    start(main, machines=1)


def test_a_failure_that_is_awaited_is_one_failure(machines):
    # The members that await the failed one fail with the very same exception.
    async def main():
        async def wait_for(member):
            await member

        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                failed = group.go(fail)
                for _ in range(5):
                    group.go(wait_for, failed)
                await failed
        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                failed = group.go(fail, "x", 0.002)
                for _ in range(5):
                    group.go(wait_for, failed)
                await forever()

    start(main, machines=machines)


def test_a_failure_that_the_body_handles_still_counts():
    async def main():
        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                with pytest.raises(ValueError, match="x"):
                    await group.go(fail)

    start(main, machines=1)


def test_an_exception_group_of_an_inner_group_is_one_failure():
    async def main():
        async def inner():
            async def late():
                try:
                    await forever()
                finally:
                    raise KeyError

            async with Group() as group:
                group.go(late)
                group.go(fail)

        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                group.go(inner)
        assert len(caught.value.exceptions) == 2

    start(main, machines=1)


def test_no_references_are_left():
    class Marked(Exception):
        pass

    async def fails():
        raise Marked

    async def main():
        for _ in range(3):
            with pytest.raises(Marked):
                async with Group() as group:
                    group.go(fails)
                    group.go(forever)
                    await forever()
        del group

    start(main, machines=1)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Marked]


# -- cancellation is no failure -------------------------------------------------------------------


def test_a_member_that_ends_by_canceled_has_not_failed():
    async def main():
        ctx = context.with_cancel(context.background())
        async with Group() as group:
            canceled = group.go(chan().recv, ctx=ctx)
            other = group.go(double, 1)
            await until(lambda: other.done)
            ctx.cancel(ValueError("why"))
            await until(lambda: canceled.done)
            assert group.context.err() is None
        assert other.result() == 2
        with pytest.raises(Canceled) as caught:
            canceled.result()
        assert str(caught.value.__cause__) == "why"

    start(main, machines=1)


def test_a_deadline_of_an_operation_is_a_failure(machines):
    async def main():
        async def late():
            with context.with_timeout(context.background(), 0.002) as ctx:
                await chan().recv(ctx=ctx)

        with pytest.raises(DeadlineExceeded):
            async with Group() as group:
                group.go(late)
                group.go(forever)
                await forever()
        assert isinstance(context.cause(group.context), DeadlineExceeded)

        async def late_when_canceled():
            try:
                await forever()
            finally:
                await late()

        # Also when the group is being cancelled, by something that is no deadline.
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                group.go(late_when_canceled)
                group.go(fail)
        assert failures(caught.value) == ["context deadline exceeded", "x"]

        # But not when the group itself is late.
        with pytest.raises(DeadlineExceeded) as late_group:
            async with Group(context.with_timeout(context.background(), 0.002)) as group:
                group.go(late_when_canceled)
        assert late_group.value.__cause__ is None

    start(main, machines=machines)


def test_the_body_ends_by_a_canceled_of_its_own():
    async def main():
        ctx = context.with_cancel(context.background())
        ctx.cancel()
        with pytest.raises(Canceled):
            async with Group() as group:
                member = group.go(forever)
                await chan().recv(ctx=ctx)
        with pytest.raises(Canceled):
            member.result()

    start(main, machines=1)


def test_cancelling_the_groups_own_context_ends_it_quietly(machines):
    async def main():
        after = []
        async with Group() as group:
            member = group.go(forever)
            group.context.cancel()
            await forever()
            after.append("body went on")
        assert not after
        with pytest.raises(Canceled):
            member.result()
        await sleep(0)

    start(main, machines=machines)


# -- told once ------------------------------------------------------------------------------------


def test_finally_may_await(machines):
    async def main():
        log = []

        async def worker(name):
            try:
                await forever()
            finally:
                await sleep(0.001)
                ch = chan()
                go(ch.send(name))
                log.append(await ch.recv())
                async with Group() as inner:  # also this
                    inner.go(double, 1)
                await goroutine.gosched()
                log.append(name)

        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                for i in range(5):
                    group.go(worker, i)
                group.go(fail)
                await worker("body")
        assert sorted(map(str, log)) == sorted([*"0011223344", "body", "body"])

    start(main, machines=machines)


@pytest.mark.parametrize("under", ["group", "child", "child of the group's parent", "parent"])
@pytest.mark.parametrize("parked", [False, True])
@pytest.mark.parametrize("op", ["recv", "readable"])
def test_told_once_also_under_a_context_of_the_groups_family(op, under, parked, machines):
    # Told by the operation's ctx=, it is not told once more by the group. (The two operations
    # ask in different ways before they wait: each of the three calls of told() is needed.)
    a, b = os.pipe()

    async def main():
        top = context.with_cancel(context.background())
        told = []

        async def member(group):
            ctx = {
                "group": group.context,
                "child": context.with_timeout(group.context, LONG),
                "child of the group's parent": context.with_timeout(top, LONG),
                "parent": top,
            }[under]
            try:
                if not parked:
                    while group.context.ended is None:
                        pass
                if op == "recv":
                    await chan().recv(ctx=ctx)
                else:
                    await goroutine.io.readable(a, ctx=ctx)
            except Canceled:
                told.append(1)
                await goroutine.gosched()
                await sleep(0.001)
                await sleep(0.001, ctx=context.background())
                told.append(2)
                raise

        with pytest.raises(Canceled):
            async with Group(top) as group:
                members = [group.go(member, group) for _ in range(1 if not parked else 3)]
                if parked:
                    await sleep(0.002)
                    top.cancel()
                else:
                    threading.Timer(0.005, top.cancel).start()
        assert len(told) == 2 * len(members)

    try:
        start(main, machines=machines)
    finally:
        os.close(a)
        os.close(b)


def test_a_timeout_of_its_own_does_not_hide_the_groups_cancellation(machines):
    # Both at about the same time: told of the one, it is told of the other at the next park.
    async def main():
        for i in range(20):
            rounds = []

            async def member(rounds=rounds):
                while True:
                    rounds.append(1)
                    try:
                        with context.with_timeout(context.background(), 0.001) as ctx:
                            await chan().recv(ctx=ctx)
                    except DeadlineExceeded:
                        pass

            with pytest.raises(ValueError, match="x"):
                async with Group() as group:
                    for _ in range(4):
                        group.go(member)
                    group.go(fail, "x", 0.001 * (i % 4))
            assert rounds

    start(main, machines=machines)


def test_who_never_parks_is_told_when_giving_way(machines):
    async def main():
        async def spin():
            while True:
                await goroutine.gosched()

        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                spinning = [group.go(spin) for _ in range(3)]
                group.go(fail)
                await spin()
        for member in spinning:
            with pytest.raises(Canceled):
                member.result()

    start(main, machines=machines)


def test_what_was_ready_is_had_before_the_cancellation_is_told():
    async def main():
        ch = chan(3)
        got = []

        async def member(group):
            group.context.cancel()
            for i in range(3):
                await ch.send(i)
            for _ in range(3):
                got.append(await ch.recv())
            await ch.recv()
            got.append("never")

        async with Group() as group:
            group.go(member, group)
        assert got == [0, 1, 2]

    start(main, machines=1)


# -- ctx, and groups inside groups ----------------------------------------------------------------


@pytest.mark.parametrize("by", ["body", "thread", "deadline", "before"])
def test_the_outer_context(by, machines):
    async def main():
        why = ValueError("why")
        ctx = context.with_cancel(context.background())
        kind = Canceled
        if by == "deadline":
            ctx = context.with_timeout(context.background(), 0.005, cause=why)
            kind = DeadlineExceeded
        elif by == "before":
            ctx.cancel(why)
        with pytest.raises(kind) as caught:
            async with Group(ctx) as group:
                member = group.go(forever)
                if by == "body":
                    await until(lambda: group.context._hooks)
                    ctx.cancel(why)
                elif by == "thread":
                    await goroutine.blocking(ctx.cancel, why)
        assert type(caught.value) is kind
        assert caught.value.__cause__ is why
        with pytest.raises(kind):
            member.result()
        await sleep(0.001)  # main itself isn't cancelled
        assert not ctx._children
        assert not ctx._hooks
        assert timers() == 0

    start(main, machines=machines)


def test_cancelled_in_the_body_leaves_with_the_bodys_canceled(machines):
    async def main():
        ctx = context.with_timeout(context.background(), 0.002)
        with pytest.raises(DeadlineExceeded):
            async with Group(ctx):
                await forever()
        await sleep(0)

    start(main, machines=machines)


def test_nobody_was_told():
    # All was done before anybody parked: then it is done.
    async def main():
        ctx = context.with_cancel(context.background())
        async with Group(ctx) as group:
            member = group.go(lambda: 3)
            ctx.cancel()
        assert member.result() == 3

    start(main, machines=1)


@pytest.mark.parametrize("kind", ["value", "foreign"])
def test_contexts_of_other_kinds(kind, machines):
    async def main():
        top = context.with_cancel(context.background())

        class Own:
            done, err = top.done, top.err

            def deadline(self):
                return None

            def value(self, key):
                return "v"

        ctx = context.with_value(top, "k", "v") if kind == "value" else Own()
        with pytest.raises(Canceled):
            async with Group(ctx) as group:
                assert group.context.value("k") == "v"
                group.go(forever)
                top.cancel()
        async with Group(context.without_cancel(context.with_cancel(context.background()))) as g:
            g.go(double, 1)
        await until(lambda: num_goroutine() == 1)

    start(main, machines=machines)


def test_ctx_must_be_a_context():
    async def main():
        with pytest.raises(TypeError, match="a context's parent is a Context, not str"):
            await Group("text").__aenter__()

    start(main, machines=1)


@pytest.mark.parametrize("ctx", [None, context.background()])
@pytest.mark.parametrize("where", ["member", "body"])
def test_outer_cancellation_reaches_through(ctx, where, machines):
    # Also into a group that has a ctx of its own.
    async def main():
        log = []

        async def nest(depth):
            try:
                if depth:
                    async with Group(ctx) as inner:
                        if where == "member":
                            inner.go(nest, depth - 1)
                        else:
                            await nest(depth - 1)
                else:
                    await forever()
            finally:
                await sleep(0.001)
                log.append(depth)

        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                member = group.go(nest, 4)
                group.go(fail, "x", 0.005)
        assert log == [0, 1, 2, 3, 4]
        with pytest.raises(Canceled) as caught:
            member.result()
        assert str(caught.value.__cause__) == "x"
        assert num_goroutine() == 1
        assert not group.context._children

    start(main, machines=machines)


def test_an_inner_failure_leaves_the_outer_alone(machines):
    async def main():
        async def member():
            with pytest.raises(ValueError, match="x"):
                async with Group() as inner:
                    inner.go(fail)
                    await forever()
            await sleep(0.001)
            return "handled"

        async with Group() as group:
            handled = group.go(member)
            other = group.go(double, 1)
            await member()
            assert group.context.err() is None
            assert not group.context._children
        assert handled.result() == "handled"
        assert other.result() == 2

    start(main, machines=machines)


def test_an_inner_failure_goes_out(machines):
    async def main():
        async def member():
            async with Group() as inner:
                inner.go(fail)
                await forever()

        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                group.go(member)
                await forever()

    start(main, machines=machines)


def test_told_of_an_inner_failure_is_still_told_of_the_outer_one():
    # The body is told of the inner failure; while it cleans up, the outer group is cancelled.
    # That must not get lost, or the outer group would wait for ever.
    async def main():
        log = []

        async def member(outer):
            try:
                async with Group() as inner:
                    inner.go(fail)
                    try:
                        await forever()
                    finally:
                        outer.context.cancel()
                        await sleep(0.001)
            except ValueError:
                log.append("inner")
            await forever()

        async with Group() as group:
            group.go(member, group)
        assert log == ["inner"]

    start(main, machines=1)


def test_ended_by_itself_before_the_outer_one_it_ends_quietly():
    async def main():
        log = []

        async def member(outer):
            async with Group() as inner:
                inner.context.cancel()
                try:
                    await forever()
                finally:
                    outer.context.cancel()
            log.append("left")
            await forever()

        async with Group() as group:
            group.go(member, group)
        assert log == ["left"]

    start(main, machines=1)


def test_a_failure_in_the_place_of_a_cancellation_does_not_hide_it():
    async def main():
        log = []

        async def late():
            try:
                await forever()
            finally:
                raise KeyError

        async def member():
            try:
                async with Group() as inner:
                    inner.go(late)
                    inner.go(forever)
            except KeyError:
                log.append("inner")
            await forever()

        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                group.go(member)
                group.go(fail, "x", 0.002)
        assert log == ["inner"]

    start(main, machines=1)


def test_cancelled_from_outside_and_the_group_goes_on_after_the_inner_one():
    # Nobody in the inner group was told, so it ends well, and the next park tells.
    async def main():
        log = []

        async def member(outer):
            async with Group() as inner:
                inner.go(outer.context.cancel)
            log.append("left")
            try:
                await sleep(LONG)
            except Canceled:
                log.append("told")
            await sleep(0.001)

        async with Group() as group:
            group.go(member, group)
        assert log == ["left", "told"]

    start(main, machines=1)


# -- limit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_never_more_than_limit_at_once(limit, machines):
    async def main():
        lock = threading.Lock()
        running = most = 0
        done = []

        async def work(i):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            while most < limit:  # as many as may are inside at once
                await goroutine.gosched()
            await sleep(0.001 if i % 3 else 0)
            with lock:
                running -= 1
            done.append(i)
            return i

        async with Group(limit=limit) as group:
            members = [group.go(work, i) for i in range(30)]
        assert most == limit
        assert sorted(done) == list(range(30))
        assert [member.result() for member in members] == list(range(30))

    start(main, machines=machines)


def test_cancelled_before_it_began(machines):
    async def main():
        begun = []

        async def work(i):
            begun.append(i)
            await forever()

        with pytest.raises(ValueError, match="x"):
            async with Group(limit=2) as group:
                members = [group.go(work, i) for i in range(10)]
                members += [group.go(work(i)) for i in range(10, 20)]
                await until(lambda: len(group._slots._queue) == 18)
                raise ValueError("x")
        assert len(begun) == 2
        for member in members:
            with pytest.raises(Canceled):
                member.result()
        assert not group._slots._queue
        assert group._slots._free == 2

    start(main, machines=machines)
    gc.collect()  # "was never awaited" would be an error


def test_every_end_gives_its_place_back(machines):
    async def main():
        async def ends(i):
            await goroutine.gosched()
            if i % 3 == 0:
                goroutine.goexit()
            if i % 3 == 1:
                await chan().recv(ctx=gone)

        gone = context.with_cancel(context.background())
        gone.cancel()
        async with Group(limit=2) as group:
            for i in range(30):
                group.go(ends, i)
        assert group._slots._free == 2

    start(main, machines=machines)


def test_members_of_members_with_a_limit():
    async def main():
        async def work(group, depth):
            if depth:
                for _ in range(2):
                    group.go(work, group, depth - 1)

        async with Group(limit=1) as group:
            group.go(work, group, 5)

    start(main, machines=2)


# -- other ends of members and bodies -------------------------------------------------------------


def test_goexit(machines):
    async def main():
        log = []

        async def leave():
            try:
                await sleep(0)
                goroutine.goexit()
            finally:
                await sleep(0.001)
                log.append("finally")

        async with Group() as group:
            member = group.go(leave)
            other = group.go(double, 1)
        assert log == ["finally"]
        assert member.done
        assert member.result() is None
        assert other.result() == 2

        async def body():
            try:
                async with Group() as group:
                    group.go(forever)
                    goroutine.goexit()
            finally:
                log.append("left")

        await go(body)
        assert log == ["finally", "left"]
        assert num_goroutine() == 1

    start(main, machines=machines)


def test_sys_exit_in_a_member():
    async def main():
        def leave():
            raise SystemExit(3)

        async with Group() as group:
            group.go(forever)
            group.go(leave)

    with pytest.raises(SystemExit) as caught:
        start(main, machines=2)
    assert caught.value.code == 3


def test_sys_exit_in_the_body():
    async def main():
        async with Group() as group:
            group.go(forever)
            raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        start(main, machines=2)
    assert caught.value.code == 3


def test_a_panic_elsewhere_meanwhile(capsys):
    log = []

    async def main():
        async def member():
            try:
                await forever()
            finally:
                log.append("closed")

        async with Group() as group:
            for _ in range(3):
                group.go(member)
            go(fail, "elsewhere", 0.005)

    with pytest.raises(goroutine.GoroutinePanic, match="elsewhere"):
        start(main, machines=2)
    assert log == ["closed"] * 3
    assert "panic: ValueError: elsewhere" in capsys.readouterr().err
    assert not scoped


def test_a_deadlock_inside_a_group(capsys):
    async def main():
        async with Group() as group:
            group.go(forever)

    with pytest.raises(goroutine.Deadlock):
        start(main, machines=2)
    report = capsys.readouterr().err
    assert "[group wait]" in report
    assert "in forever" in report


@pytest.mark.parametrize("limit", [None, 2])
def test_open_groups_at_the_end_of_the_run(limit, machines):
    ctx = context.with_cancel(context.background())
    log = []

    async def main():
        async def member(i):
            try:
                await forever()
            finally:
                log.append(i)

        async def holder():
            async with Group(ctx, limit=limit) as group:
                for i in range(4):
                    group.go(member, i)
                async with Group() as inner:
                    inner.go(member, 4)
                    await forever()

        go(holder)
        await until(lambda: num_goroutine() == 7)
        await sleep(0.002)

    start(main, machines=machines)
    gc.collect()
    assert len(log) == (5 if limit is None else 3)  # (those never begun have no finally)
    assert not ctx._children
    assert not ctx._hooks
    assert not scoped


def test_members_that_were_never_begun_at_the_end_of_the_run():
    async def main():
        async def holder():
            async with Group() as group:
                group.go(double, 1)
                group.go(double(1))
                goroutine.current()
                ended.append(1)
                scheduler.running().end(None, None)

        ended = []
        await go(holder)

    start(main, machines=1)
    gc.collect()  # "was never awaited" would be an error


# -- many -----------------------------------------------------------------------------------------


def test_ten_thousand_members(machines):
    async def main():
        async with Group() as group:
            members = [group.go(double, i) for i in range(10_000)]
        assert sum(member.result() for member in members) == 10_000 * 9_999
        with pytest.raises(ValueError, match="x"):
            async with Group() as group:
                ch = chan()
                for _ in range(2_000):
                    group.go(ch.recv)
                group.go(fail)
        assert not ch._recvq
        assert num_goroutine() == 1

    start(main, machines=machines)


def test_many_failures():
    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                for i in range(2_000):

                    async def late(i=i):
                        try:
                            await forever()
                        finally:
                            raise ValueError(i)

                    group.go(late)
                await until(lambda: len(group.context._hooks) == 2_000)
                group.context.cancel()
        assert len(caught.value.exceptions) == 2_000

    start(main, machines=2)


def test_again_and_again(machines):
    # After each group: no goroutine but main, nothing in a queue, a context, a heap.
    async def main():
        a, b = chan(), chan(2)
        for round_ in range(100):
            failing = round_ % 2

            async def member(i):
                if i % 4 == 0:
                    await a.recv()
                elif i % 4 == 1:
                    await select(recv(a), recv(b))
                elif i % 4 == 2:
                    await sleep(LONG)
                else:
                    async with Group() as inner:
                        inner.go(a.recv)
                        await b.recv()

            try:
                async with Group(limit=None if round_ % 3 else 8) as group:
                    if failing:
                        group.go(fail, "x", 0.0005 * (round_ % 5))
                    for i in range(12):
                        group.go(member, i)
                    if failing:
                        await a.recv()
                    else:
                        await goroutine.gosched()
                        group.context.cancel()
            except ValueError:
                assert failing
            else:
                assert not failing
            assert num_goroutine() == 1
            assert not a._recvq
            assert not b._recvq
            assert not group.context._hooks
            assert not group.context._children
            assert timers() == 0
            assert not scoped
            assert goroutine.current().scope is None

    start(main, machines=machines)
