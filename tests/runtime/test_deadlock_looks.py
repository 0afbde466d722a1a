"""No false alarm: whatever happens while the deadlock detector looks from one thing to the next.

Sysmon looks at one thing after the other, and others act in between; what they do must not be
missed because they did it behind its back. As a race this takes microseconds, and would be seen
once in years. Here sysmon's steps are traced: at the k-th of them, for every k there is, somebody
acts, from the first thing to the last.
"""

import dis
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

from goroutine import Canceled, Group, blocking, chan, context, go, gosched, hold, sleep, start
from goroutine import io as gio
from goroutine.runtime import scheduler, sysmon

pytestmark = pytest.mark.timeout(60)

LOOKS = ("BINARY_SUBSCR", "CALL", "LOAD_ATTR", "POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE", "TO_BOOL")
"""The instructions that read what others may change, and those after them."""


class Tracer:
    """Has ``act()`` called at the k-th step of Runtime.asleep, or when that is about to return."""

    def __init__(self, k: int, act: Callable[[], None]) -> None:
        self.k = k
        self.act = act
        self.steps = 0
        self.acted = False
        self.at_return = False
        self.answer: bool | None = None  # of asleep(), of the call during which it acted
        self.withheld: list[Callable[[], None]] = []

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_qualname.startswith("Runtime.asleep"):
            return None
        leaves = event == "return" and code.co_name == "asleep"
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode" and dis.opname[code.co_code[frame.f_lasti]] in LOOKS:
            self.steps += 1
        if not self.acted and (self.steps == self.k or leaves):
            self.acted = True
            self.at_return = leaves
            self.act()
        if leaves:
            self.steps = 0
            if self.acted and self.answer is None:
                self.answer = arg
                for wake in self.withheld:
                    wake()
        return self

    def withhold(self) -> None:
        """The kernel lets machines come out of their sleep only when asleep() has returned."""
        for m in the_run().machines:
            m.poller.wake = self.later(m.poller.wake)

    def later(self, wake: Callable[[], None]) -> Callable[[], None]:
        def later() -> None:
            if self.acted and self.answer is None:
                self.withheld.append(wake)
            else:
                wake()

        return later


def the_run() -> Any:
    runtime = scheduler.running()
    assert runtime is not None
    return runtime


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0)


def at_every_step(
    monkeypatch: pytest.MonkeyPatch, outside: "type[Outside]", withhold: bool
) -> None:
    monkeypatch.setattr(sysmon, "PERIOD", 0.001)

    async def main(it: Outside, tracer: Tracer) -> Any:
        if withhold:
            tracer.withhold()
        await it.begin()
        value = await it.out.recv()
        for t in it.threads:
            await blocking(t.join)
        return value

    for k in range(1, 10_000):
        it = outside()
        tracer = Tracer(k, it.act)
        sys.settrace(tracer)
        try:
            assert start(main, it, tracer, machines=2) == "sent", k
        finally:
            sys.settrace(None)
        assert tracer.acted
        assert not tracer.answer
        if tracer.at_return:
            break
    assert k > 4, "asleep() doesn't get far"


class Outside:
    """Somebody who is no machine, for one run, and in the end has "sent" sent to ``out``."""

    def __init__(self) -> None:
        self.out: Any = chan(1)
        self.event = threading.Event()
        self.threads: list[threading.Thread] = []

    async def begin(self) -> None:
        """In main: afterwards all depends on act()."""
        raise NotImplementedError

    def act(self) -> None:
        """On sysmon's thread: all that is left to do outside. Returns when it is over."""
        raise NotImplementedError

    def thread(self, fn: Callable[[], object]) -> None:
        t = threading.Thread(target=fn)
        self.threads.append(t)
        t.start()


class AThreadThatHolds(Outside):
    async def begin(self) -> None:
        holding = hold()
        holding.__enter__()

        def run() -> None:
            self.event.wait(10)
            self.does()
            holding.__exit__(None, None, None)

        self.thread(run)

    def does(self) -> None:
        self.out.send_blocking("sent")

    def act(self) -> None:
        self.event.set()
        self.threads[0].join(10)
        assert not self.threads[0].is_alive()


class AThreadThatStarts(AThreadThatHolds):
    """It starts a goroutine."""

    def does(self) -> None:
        go(self.out.send, "sent")


class AThreadThatCancels(AThreadThatHolds):
    """It cancels a goroutine that waits."""

    async def begin(self) -> None:
        self.ctx = context.with_cancel(context.background())

        async def waits() -> None:
            try:
                await chan().recv(ctx=self.ctx)
            except Canceled:
                await self.out.send("sent")

        go(waits)
        await super().begin()

    def does(self) -> None:
        self.ctx.cancel()


class AThreadThatSets(AThreadThatHolds):
    """It sets a timer."""

    def does(self) -> None:
        ctx = context.with_timeout(context.background(), 0.005)
        context.after_func(ctx, lambda: go(self.sends))

    async def sends(self) -> None:
        await self.out.send("sent")


class AThreadThatHandsOver(AThreadThatHolds):
    """It has another thread go on, which holds, too."""

    def does(self) -> None:
        holding = hold()
        holding.__enter__()

        def run() -> None:
            time.sleep(0.005)
            self.out.send_blocking("sent")
            holding.__exit__(None, None, None)

        self.thread(run)


class ABlockingCall(Outside):
    async def begin(self) -> None:
        async def calls() -> None:
            await blocking(self.call)
            await self.out.send("sent")

        go(calls)
        while not the_run().pool.threads or the_run().pool.calls:
            await sleep(0.0005)

    def call(self) -> None:
        self.event.wait(10)

    def act(self) -> None:
        pool = the_run().pool
        self.event.set()
        wait_for(lambda: not pool.busy())


class ACallThatLeavesAHold(ABlockingCall):
    """Its caller was cancelled, so it wakes nobody. But it leaves a thread behind."""

    async def begin(self) -> None:
        ctx = context.with_cancel(context.background())

        async def calls() -> None:
            with pytest.raises(Canceled):
                async with Group(ctx):
                    await blocking(self.call)

        g = go(calls)
        while not the_run().pool.threads or the_run().pool.calls:
            await sleep(0.0005)
        ctx.cancel()
        await g

    def call(self) -> None:
        self.event.wait(10)
        AThreadThatHandsOver.does(self)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "outside",
    [
        AThreadThatHolds,
        AThreadThatStarts,
        AThreadThatCancels,
        AThreadThatSets,
        AThreadThatHandsOver,
        ABlockingCall,
        ACallThatLeavesAHold,
    ],
)
def test_threads_act_between_two_looks(
    outside: type[Outside], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While machines that were woken have not come out of their sleep yet.

    Broken by looking at the global queue, or at the holds, before the blocking calls; by
    looking at the global queue before the holds; by counting a call as finished before its
    goroutine is in the queue.
    """
    at_every_step(monkeypatch, outside, withhold=True)


class AMachine(Outside):
    """It wakes up, runs a goroutine that waited for a pipe, and falls asleep again."""

    async def begin(self) -> None:
        self.pipe = os.pipe()
        self.moved = False

        async def waits() -> None:
            await gio.readable(self.pipe[0])
            for fd in self.pipe:
                os.close(fd)
            go(self.goes_on)
            await gosched()
            self.moved = True

        go(waits)
        await sleep(0.001)

    async def goes_on(self) -> None:
        raise NotImplementedError

    def act(self) -> None:
        os.write(self.pipe[1], b"x")
        run = the_run()
        wait_for(
            lambda: run.outcome or (self.moved and all(m.poller.asleep[0] for m in run.machines))
        )


class AMachineThatSleeps(AMachine):
    async def goes_on(self) -> None:
        await sleep(0.01)
        await self.out.send("sent")


class AMachineThatCalls(AMachine):
    async def goes_on(self) -> None:
        await blocking(time.sleep, 0.01)
        await self.out.send("sent")


class AMachineThatIsHeld(AMachine):
    async def goes_on(self) -> None:
        AThreadThatHandsOver.does(self)  # type: ignore[arg-type]


class AMachineThatWaits(AMachine):
    async def goes_on(self) -> None:
        r, w = os.pipe()
        threading.Timer(0.01, os.write, (w, b"x")).start()
        await gio.readable(r)
        await self.out.send("sent")
        os.close(r)
        os.close(w)


@pytest.mark.parametrize(
    "outside", [AMachineThatSleeps, AMachineThatCalls, AMachineThatIsHeld, AMachineThatWaits]
)
def test_a_machine_acts_between_two_looks(
    outside: type[Outside], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has left was seen, what it goes on to is not: but its passes are counted.

    Broken by leaving out the comparison of the ticks."""
    at_every_step(monkeypatch, outside, withhold=False)
