"""No false alarm: thousands of near-deadlocks, and hand-overs that take their time.

In every round all goroutines sleep and one small thing is about to wake one. Sysmon looks for
deadlocks all the time, not every 10 ms.

Sizes: ROUNDS for each kind of poller and number of machines; GOROUTINE_STRESS multiplies it.
"""

import inspect
import os
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from goroutine import (
    Canceled,
    DeadlineExceeded,
    Group,
    blocking,
    chan,
    context,
    go,
    gosched,
    hold,
    net,
    recv,
    select,
    sleep,
    start,
)
from goroutine import io as gio
from goroutine import time as gtime
from goroutine.io import backend
from goroutine.runtime import globalq, machine, offload, processor, sysmon, timers
from goroutine.runtime.gate import Gate
from goroutine.runtime.scheduler import Runtime
from goroutine.runtime.shared import machine_or_none

LONGER = float(os.environ.get("GOROUTINE_STRESS", "1"))
ROUNDS = int(500 * LONGER)
SEED = random.randrange(1 << 30)

pytestmark = pytest.mark.timeout(60 * max(1, LONGER))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sysmon looks incessantly. How often it did while all machines were asleep."""
    count = [0]
    look = sysmon.Sysmon.look

    def look_closely(self: Any, seen: Any) -> bool:
        runtime = self._runtime
        count[0] += all(m.poller.asleep[0] for m in runtime.machines)
        if runtime.asleep():
            runtime.deadlocked()
        return look(self, seen)

    monkeypatch.setattr(sysmon.Sysmon, "look", look_closely)
    monkeypatch.setattr(sysmon, "PERIOD", 0.00002)
    monkeypatch.setattr(sysmon, "SOON", 0.00002)
    monkeypatch.setattr(sysmon, "QUIET", 6)
    return count


# -- what is about to wake somebody -------------------------------------------------------------


class Situations:
    """Each waits for one thing that comes in a moment."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def moment(self) -> float:
        return self.dice.choice((0.0, 0.0, 0.00002, 0.0001, 0.0003, 0.001))

    def pause(self) -> None:
        """On a thread: up to a millisecond, or a few steps."""
        moment = self.moment()
        if moment:
            time.sleep(moment)
        for _ in range(self.dice.randrange(200)):
            pass

    def thread(self, fn: Callable[[], object]) -> threading.Thread:
        t = threading.Thread(target=fn)
        t.start()
        return t

    async def a_sleep(self) -> None:
        await sleep(self.moment() or 0.00001)

    async def a_sleep_of_another(self) -> None:
        await go(sleep, self.moment() or 0.00001)

    async def a_timer(self) -> None:
        await gtime.after(self.moment()).recv()

    async def one_of_two_timers(self) -> None:
        await select(
            recv(gtime.after(self.moment())),
            recv(gtime.after(1000)),
        )

    async def a_deadline(self) -> None:
        with (
            context.with_timeout(context.background(), self.moment()) as ctx,
            pytest.raises(DeadlineExceeded),
        ):
            await chan().recv(ctx=ctx)

    async def a_call(self) -> None:
        await blocking(self.pause)

    async def several_calls(self) -> None:
        for g in [go(blocking, self.pause) for _ in range(3)]:
            await g

    async def a_call_that_waits_for_a_goroutine(self) -> None:
        ch = chan()

        async def sends() -> None:
            await blocking(self.pause)
            await ch.send(1)

        def call() -> Any:
            go(sends)
            return ch.recv_blocking()

        assert await blocking(call) == 1

    async def a_canceled_call(self) -> None:
        ctx = context.with_cancel(context.background())

        async def calls() -> None:
            with pytest.raises(Canceled):
                async with Group(ctx):
                    await blocking(self.event.wait)

        self.event = threading.Event()
        g = go(calls)
        await gosched()
        ctx.cancel()
        await g
        self.event.set()

    async def a_thread_that_sends(self) -> None:
        ch = chan(self.dice.randrange(2))

        def run() -> None:
            self.pause()
            ch.send_blocking(1)

        with hold():
            t = self.thread(run)
            await ch.recv()
        t.join()

    async def a_thread_that_holds_itself(self) -> None:
        ch = chan()
        holding = hold()
        holding.__enter__()

        def run() -> None:
            self.pause()
            ch.send_blocking(1)
            holding.__exit__(None, None, None)

        t = self.thread(run)
        await ch.recv()
        t.join()

    async def a_thread_that_receives(self) -> None:
        there, back = chan(), chan()

        def run() -> None:
            with hold():
                self.pause()
                value = there.recv_blocking()
                self.pause()
                back.send_blocking(value)

        with hold():
            t = self.thread(run)
            await there.send(7)
            assert await back.recv() == 7
        t.join()

    async def a_thread_that_starts(self) -> None:
        ch = chan()
        holding = hold()
        holding.__enter__()

        def run() -> None:
            self.pause()
            go(ch.send, 1)
            holding.__exit__(None, None, None)

        t = self.thread(run)
        await ch.recv()
        t.join()

    async def a_pipe(self) -> None:
        """No hold: who waits for the kernel is no deadlock."""
        r, w = os.pipe()

        def run() -> None:
            self.pause()
            os.write(w, b"x")

        t = self.thread(run)
        assert await gio.read(r, 1) == b"x"
        t.join()
        os.close(r)
        os.close(w)

    async def a_connection(self) -> None:
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            host, port = listener.address.rsplit(":", 1)

            def run() -> None:
                self.pause()
                with socket.create_connection((host, int(port))) as peer:
                    self.pause()
                    peer.sendall(b"x")

            t = self.thread(run)
            conn = await listener.accept()
            assert await conn.read(1) == b"x"
            assert await conn.read(1) == b""
            conn.close()
            t.join()

    async def a_dial(self) -> None:
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            accepting = go(listener.accept)
            conn = await net.dial("tcp", listener.address)
            (await accepting).close()
            assert await conn.read(1) == b""
            conn.close()

    async def ping_pong(self) -> None:
        """Over all machines, as they steal from each other."""
        ring = [chan() for _ in range(self.dice.choice((2, 3, 9)))]

        async def passes(i: int) -> None:
            async for n in ring[i]:
                if not n:
                    for ch in ring:
                        if not ch.closed:
                            ch.close()
                    return
                go(ring[(i + 1) % len(ring)].send, n - 1)

        gs = [go(passes, i) for i in range(len(ring))]
        await ring[0].send(self.dice.randrange(40))
        for g in gs:
            await g

    def all(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            getattr(self, name)
            for name, fn in vars(Situations).items()
            if inspect.iscoroutinefunction(fn)
        ]


def run_situations(machines: int, io: str, seed: int, rounds: int) -> None:
    situations = Situations(seed)
    every = situations.all()

    async def main() -> None:
        for n in range(rounds):
            situation = every[n % len(every)]
            now.append(situation.__name__)
            await situation()

    now: list[str] = []
    try:
        start(main, machines=machines, io=io)
    except BaseException as failure:
        failure.add_note(f"seed {seed}, round {len(now)}: {now[-1] if now else ''}")
        raise


def test_near_deadlocks(machines: int, io: str, looks: list[int]) -> None:
    run_situations(machines, io, SEED, ROUNDS)
    assert looks[0] > ROUNDS // 4


# -- hand-overs that take long --------------------------------------------------------------------

LONG = 0.005
"""What takes a microsecond takes so many seconds: sysmon looks dozens of times meanwhile."""


def slow_poller(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel has reported is handed over late."""
    make = backend.make

    def slow_make(io: str, ready: Callable[[Any], None], *rest: Any) -> Any:
        def slow(g: Any) -> None:
            time.sleep(LONG)
            ready(g)

        return make(io, slow, *rest)

    monkeypatch.setattr(backend, "make", slow_make)


def slow_before_and_after(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        call = getattr(owner, name)

        def slow(*args: Any) -> Any:
            time.sleep(LONG)
            result = call(*args)
            time.sleep(LONG)
            return result

        monkeypatch.setattr(owner, name, slow)

    apply.__name__ = f"{owner.__name__.rpartition('.')[2]}.{name}"
    return apply


def slow_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls have been taken out, and are made later."""

    def slow(self: Any) -> None:
        calls = []
        while self.inbox:
            calls.append(self.inbox.popleft())
        time.sleep(LONG)
        for call in calls:
            call()

    monkeypatch.setattr(machine.Machine, "drain_inbox", slow)


def slow_thieves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep what they have stolen in their hands for a while."""
    stealer = processor.Processor.stealer

    def slow_stealer(self: Any) -> Any:
        steal = stealer(self)

        def slow(runnext_too: bool) -> Any:
            got = steal(runnext_too)
            if got:
                time.sleep(LONG)
            return got

        return slow

    monkeypatch.setattr(processor.Processor, "stealer", slow_stealer)


def slow_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look for work and the poll."""
    init = processor.Processor.__init__

    def slow_init(self: Any, *args: Any) -> None:
        init(self, *args)
        sweep = self.sweep

        def slow() -> None:
            sweep()
            time.sleep(LONG / 5)

        self.sweep = slow

    monkeypatch.setattr(processor.Processor, "__init__", slow_init)


def slow_to_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was woken comes out of the kernel late, also when it was by a thread that is gone
    by then."""
    wake, await_machines = machine.Machine.wake, Runtime.await_machines
    on_their_way = []

    def late(self: machine.Machine) -> None:
        if machine_or_none() is None:
            on_their_way.append(threading.Timer(LONG, wake, (self,)))
            on_their_way[-1].start()
        else:
            wake(self)

    def await_all(runtime: Runtime, gate: Gate) -> None:
        await_machines(runtime, gate)
        while on_their_way:
            on_their_way.pop().join()

    monkeypatch.setattr(machine.Machine, "wake", late)
    monkeypatch.setattr(Runtime, "await_machines", await_all)


@pytest.mark.parametrize(
    "slow",
    [
        slow_poller,
        slow_before_and_after(globalq.GlobalQueue, "put"),
        slow_before_and_after(globalq.GlobalQueue, "take"),
        slow_before_and_after(offload.Pool, "finished"),
        slow_before_and_after(offload._Call, "wake"),
        slow_before_and_after(timers.TimerHeap, "take_due"),
        slow_inbox,
        slow_thieves,
        slow_to_sleep,
        slow_to_wake,
    ],
    ids=lambda slow: slow.__name__,
)
@pytest.mark.parametrize("count", [1, 4])
def test_slow(
    slow: Callable[[pytest.MonkeyPatch], None],
    count: int,
    looks: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A race of microseconds is milliseconds wide.

    Fails when a poller unsets ``asleep`` only after it has handed over (slow_poller), when a
    call stops being pending before its goroutine is in the queue (Pool.finished, _Call.wake)."""
    slow(monkeypatch)
    every = len(Situations(0).all())
    run_situations(count, "auto", SEED, every)
    run_situations(count, "epoll", SEED, every)
