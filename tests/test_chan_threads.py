"""Threads that run no goroutines, on channels: send_blocking and recv_blocking."""

from __future__ import annotations

import ctypes
import gc
import queue
import threading
import time
import weakref
from functools import partial

import pytest
from waiting import gosched_until as until
from waiting import until_in_thread as wait_until

import goroutine
from goroutine import ChanClosed, Deadlock, chan, go, recv, select, send, start
from goroutine.runtime.thread import ThreadWaiter, holds

pytestmark = pytest.mark.timeout(30)

SEND_ON_CLOSED = "^send on closed channel$"
END = "^receive from closed channel$"


def run(main, *args, machines=1, io="epoll"):
    return start(main, *args, machines=machines, io=io)


class Thread:
    """Calls a function on a thread of its own; `result` is what it returned or raised."""

    def __init__(self, fn, *args, **kwargs):
        self.answer = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, args=(partial(fn, *args, **kwargs),))
        self.thread.start()

    def run(self, call):
        try:
            self.answer.put((call(), None))
        except BaseException as failure:
            self.answer.put((None, failure))

    @property
    def done(self):
        return not self.thread.is_alive()

    def result(self, seconds=20.0):
        value, failure = self.answer.get(timeout=seconds)
        self.thread.join()
        if failure is not None:
            raise failure
        return value


def idle(ch):
    return not (ch._recvq or ch._sendq or ch._lock.locked() or holds.held)


# -- without any run ---------------------------------------------------------------------------


def test_a_buffer_between_threads():
    ch = chan(2)
    for i in range(2):
        ch.send_blocking(i)
    assert [ch.recv_blocking(), ch.recv_blocking()] == [0, 1]
    assert idle(ch)


@pytest.mark.parametrize("timeout", [None, 20])
def test_two_threads_meet(timeout):
    ch = chan()
    thread = Thread(ch.recv_blocking, timeout)
    wait_until(lambda: ch._recvq)
    ch.send_blocking("v", timeout)
    assert thread.result() == "v"
    thread = Thread(ch.send_blocking, "w", timeout=timeout)
    wait_until(lambda: ch._sendq)
    assert ch.recv_blocking(timeout=timeout) == "w"
    assert thread.result() is None
    assert idle(ch)


def test_a_full_buffer_and_a_waiting_thread():
    ch = chan(1)
    ch.send_blocking(0)
    thread = Thread(ch.send_blocking, 1)
    wait_until(lambda: ch._sendq)
    assert [ch.recv_blocking(), ch.recv_blocking()] == [0, 1]
    thread.result()
    assert idle(ch)


def test_closed():
    ch = chan(2)
    ch.send_blocking("left")
    ch.close()
    with pytest.raises(ChanClosed, match=SEND_ON_CLOSED):
        ch.send_blocking(1)
    assert ch.recv_blocking() == "left"
    for _ in range(2):
        with pytest.raises(ChanClosed, match=END):
            ch.recv_blocking()
    assert idle(ch)


@pytest.mark.parametrize("timeout", [None, 20])
def test_closed_while_it_waits(timeout):
    ch, full = chan(), chan(1)
    full.send_blocking(0)
    receiver = Thread(ch.recv_blocking, timeout)
    sender = Thread(full.send_blocking, "lost", timeout)
    wait_until(lambda: ch._recvq and full._sendq)
    ch.close()
    full.close()
    with pytest.raises(ChanClosed, match=END):
        receiver.result()
    with pytest.raises(ChanClosed, match=SEND_ON_CLOSED):
        sender.result()
    assert (list(full._buffer), idle(ch), idle(full)) == ([0], True, True)


def test_none_and_false_are_values():
    ch = chan()
    for value in (None, False, 0, ""):
        thread = Thread(ch.send_blocking, value)
        assert ch.recv_blocking(20) is value
        thread.result()


# -- timeouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, 0.0, 0.02])
def test_nothing_has_happened_after_a_timeout(timeout):
    ch, full = chan(), chan(1)
    full.send_blocking("first")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ch.recv_blocking(timeout)
    with pytest.raises(TimeoutError):
        ch.send_blocking("lost", timeout)
    with pytest.raises(TimeoutError):
        full.send_blocking("lost", timeout)
    assert time.monotonic() - began >= 3 * timeout
    assert idle(ch)
    assert idle(full)
    assert list(full._buffer) == ["first"]


@pytest.mark.parametrize("timeout", [0, -1])
def test_without_time_it_takes_what_is_ready(timeout):
    ch = chan(1)
    ch.send_blocking("v", timeout)
    assert ch.recv_blocking(timeout) == "v"
    unbuffered = chan()
    thread = Thread(unbuffered.send_blocking, "w", 20)
    wait_until(lambda: unbuffered._sendq)
    assert unbuffered.recv_blocking(timeout) == "w"
    thread.result()


def test_not_a_number_of_seconds():
    ch = chan(1)
    for operation in (partial(ch.send_blocking, 1), ch.recv_blocking):
        with pytest.raises(ValueError, match="NaN"):
            operation(timeout=float("nan"))
    assert (len(ch), idle(ch)) == (0, True)


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_a_timeout_that_is_never(timeout):
    ch = chan()
    thread = Thread(ch.recv_blocking, timeout)
    wait_until(lambda: ch._recvq)
    ch.send_blocking("v", timeout)
    assert thread.result() == "v"


def test_those_behind_one_that_timed_out_are_served():
    ch = chan()
    early = Thread(ch.recv_blocking, 0.05)
    wait_until(lambda: len(ch._recvq) == 1)
    late = Thread(ch.recv_blocking, 20)
    wait_until(lambda: len(ch._recvq) == 2 or early.done)
    with pytest.raises(TimeoutError):
        early.result()
    ch.send_blocking("v", 20)
    assert late.result() == "v"
    assert idle(ch)


# -- interrupted -------------------------------------------------------------------------------


def interrupt(thread):
    """Raise KeyboardInterrupt in a thread once it runs Python code again."""
    ident = ctypes.c_ulong(thread.thread.ident)
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt))
    assert raised == 1


@pytest.mark.parametrize("operation", ["send", "recv"])
def test_an_interrupted_thread_has_left_the_queue(monkeypatch, operation):
    """Ctrl-C while it waits: Python raises it out of the wait."""
    ch = chan()
    real = ThreadWaiter.block

    def block(self, until):
        wait_until(lambda: self in ch._recvq or self in ch._sendq)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadWaiter, "block", block)
    with pytest.raises(KeyboardInterrupt):
        ch.recv_blocking() if operation == "recv" else ch.send_blocking("lost")
    assert idle(ch)
    monkeypatch.setattr(ThreadWaiter, "block", real)
    with pytest.raises(TimeoutError):
        ch.send_blocking("v", 0) if operation == "recv" else ch.recv_blocking(0)


@pytest.mark.parametrize("when", ["claimed", "woken"])
def test_an_interrupt_that_comes_too_late_loses_no_value(monkeypatch, when):
    """Somebody has claimed the thread, or even woken it: then it takes what it is given.

    It used to wait for a second wake-up when the first had just come.
    """
    ch = chan()
    real = ThreadWaiter.block
    claimed = threading.Event()

    def block(self, until):
        if when == "woken":
            real(self, until)
        else:
            wait_until(lambda: not self.token)
        claimed.set()
        raise KeyboardInterrupt

    def give(self, value):
        if when == "claimed":
            claimed.wait(20)
            time.sleep(0.01)
        super(ThreadWaiter, self).give(value)

    monkeypatch.setattr(ThreadWaiter, "block", block)
    monkeypatch.setattr(ThreadWaiter, "give", give)
    receiver = Thread(ch.recv_blocking)
    wait_until(lambda: ch._recvq)
    ch.send_blocking("v", 20)
    assert receiver.result() == "v"
    sender = Thread(ch.send_blocking, "w")
    wait_until(lambda: ch._sendq)
    assert ch.recv_blocking(20) == "w"
    assert sender.result() is None
    assert idle(ch)


def test_interrupted_at_any_moment_of_a_wait(monkeypatch):
    """An exception from outside while or after it blocks: no value is lost, none comes twice.

    Fails when `ThreadWaiter.wait` gives up what somebody has claimed, and hangs when it waits
    for a wake-up that it has had. (That it leaves the queue is seen after a timeout, above.)
    """
    ch = chan()
    got, inside, gate = [], set(), threading.Lock()
    interrupted = 0
    real = ThreadWaiter.block

    def block(self, until):
        me = threading.get_ident()
        inside.add(me)
        try:
            real(self, until)
        finally:
            with gate:  # what has been raised in this thread, is raised in here
                inside.discard(me)

    monkeypatch.setattr(ThreadWaiter, "block", block)

    def receive():
        nonlocal interrupted
        while True:
            try:
                got.append(ch.recv_blocking(0.001))
            except TimeoutError:
                pass
            except KeyboardInterrupt:
                interrupted += 1
            except ChanClosed:
                return

    def send():
        for i in range(500):
            if i % 10 == 0:
                time.sleep(0.003)
            while True:
                try:
                    ch.send_blocking(i, 0.001)
                    break
                except TimeoutError:
                    pass

    receiver, sender = Thread(receive), Thread(send)
    try:
        while not sender.done:
            with gate:
                if receiver.thread.ident in inside:
                    interrupt(receiver)
            time.sleep(0.0002)
        sender.result()
    finally:
        ch.close()
        receiver.result()
    assert got == list(range(500))
    assert interrupted
    assert idle(ch)


# -- threads and goroutines --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["send_blocking", "recv_blocking"])
def test_in_a_goroutine_it_is_an_error(machines, method):
    async def main():
        ch = chan(1)
        if method == "recv_blocking":
            await ch.send(1)
        args = (1,) if method == "send_blocking" else ()
        for timeout in (None, 0, 1):
            with pytest.raises(RuntimeError, match="would block the machine"):
                getattr(ch, method)(*args, timeout=timeout)

        def plainly():  # a plain function runs on a machine, too
            with pytest.raises(RuntimeError, match="would block the machine"):
                getattr(ch, method)(*args)

        await go(plainly)
        return len(ch), idle(ch)

    assert run(main, machines=machines) == (method == "recv_blocking", True)


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
@pytest.mark.parametrize("capacity", [0, 1, 4])
def test_there_and_back(machines, io, capacity):
    async def main():
        there, back = chan(capacity), chan(capacity)

        def echo():
            try:
                while True:
                    back.send_blocking(there.recv_blocking(20) + 1, 20)
            except ChanClosed:
                back.close()

        with goroutine.hold():
            thread = Thread(echo)
            v = 0
            for _ in range(100):
                await there.send(v)
                v = await back.recv()
            there.close()
            assert await back.recv_ok() == (None, False)
        thread.result()
        assert idle(there)
        assert idle(back)
        return v

    assert run(main, machines=machines, io=io) == 100


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_select_and_threads(machines, io):
    """A select takes from threads that wait, gives to them, and is woken by them."""

    async def main():
        a, b = chan(), chan()
        senders = [Thread(ch.send_blocking, ch, 20) for ch in (a, b)]
        await until(lambda: a._sendq and b._sendq)
        got = [(await select(recv(a), recv(b))).value for _ in range(2)]
        assert sorted(map(id, got)) == sorted(map(id, (a, b)))
        receivers = [Thread(ch.recv_blocking, 20) for ch in (a, b)]
        await until(lambda: a._recvq and b._recvq)
        for i in range(2):
            assert (await select(send(a, i), send(b, i))).ok
        assert sorted(r.result() for r in receivers) == [0, 1]
        for s in senders:
            s.result()
        for i, ch in enumerate((a, b) * 5):
            g = go(select(recv(a), recv(b)))
            await until(lambda: a._recvq and b._recvq)
            with goroutine.hold():
                thread = Thread(ch.send_blocking, i, 20)
                assert await g == (i % 2, i, True)
            thread.result()
        assert idle(a)
        assert idle(b)

    run(main, machines=machines, io=io)


def test_threads_and_goroutines_wait_in_one_order():
    async def main():
        ch = chan()
        waiting = []
        for i in range(10):
            waiting.append(Thread(ch.recv_blocking, 20) if i % 2 else go(ch.recv))
            await until(lambda: len(ch._recvq) == i + 1)  # noqa: B023
        for i in range(10):
            await ch.send(i)
        return [w.result() if i % 2 else await w for i, w in enumerate(waiting)]

    assert run(main) == list(range(10))


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_a_thread_that_waits_is_no_deadlock(io):
    """All goroutines wait; a thread inside of recv_blocking may be about to go on."""
    ch, wake = chan(), chan()
    waits = Thread(ch.recv_blocking)
    wait_until(lambda: ch._recvq)

    def later():
        time.sleep(0.3)
        wake.send_blocking("woken", 20)

    async def main():
        return await wake.recv()

    thread = Thread(later)
    try:
        assert run(main, io=io) == "woken"
    finally:
        ch.close()
        thread.result()
        with pytest.raises(ChanClosed):
            waits.result()


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_when_the_thread_gives_up_it_is_a_deadlock(io, capfd):
    ch = chan()
    waits = Thread(ch.recv_blocking, 0.2)
    wait_until(lambda: ch._recvq)
    began = time.monotonic()

    async def main():
        await chan().recv()

    with pytest.raises(Deadlock):
        run(main, io=io)
    assert time.monotonic() - began > 0.1
    with pytest.raises(TimeoutError):
        waits.result()
    capfd.readouterr()


def test_closing_wakes_threads_and_goroutines(machines):
    async def main():
        ch = chan()
        gs = [go(ch.recv_ok) for _ in range(3)]
        threads = [Thread(ch.recv_blocking) for _ in range(3)]
        await until(lambda: len(ch._recvq) == 6)
        ch.close()
        for g in gs:
            assert await g == (None, False)
        for thread in threads:
            with pytest.raises(ChanClosed):
                thread.result()
        return idle(ch)

    assert run(main, machines=machines)


# -- across runs -------------------------------------------------------------------------------


def test_a_thread_that_waits_outlives_a_run():
    """The goroutines of the first run are forgotten, the thread is served in the second."""
    ch = chan()

    async def first():
        go(ch.recv)
        await until(lambda: len(ch._recvq) == 1)
        thread = Thread(ch.recv_blocking, 20)
        await until(lambda: len(ch._recvq) == 2)
        go(select(recv(ch), recv(chan())))
        await until(lambda: len(ch._recvq) == 3)
        return thread

    thread = run(first)
    assert [type(w) for w in ch._recvq] == [ThreadWaiter]

    async def second():
        await ch.send("v")

    run(second)
    assert thread.result() == "v"
    assert idle(ch)


def test_a_thread_sends_before_between_and_after_runs(machines):
    ch = chan(1)
    ch.send_blocking("before")

    async def take():
        return await ch.recv()

    assert run(take, machines=machines) == "before"
    thread = Thread(ch.send_blocking, "between")
    assert run(take, machines=machines) == "between"
    thread.result()

    async def leave():
        await ch.send("after")

    run(leave, machines=machines)
    assert ch.recv_blocking() == "after"


def test_a_thread_closes_the_channel_that_main_waits_for():
    ch = chan()

    async def main():
        async for _ in ch:
            pass
        return "closed"

    def close():
        wait_until(lambda: ch._recvq)
        ch.close()

    with goroutine.hold():
        thread = Thread(close)
        assert run(main) == "closed"
    thread.result()


# -- kept alive --------------------------------------------------------------------------------


class Token:
    pass


def test_nothing_is_kept_alive_not_even_until_a_collection():
    def waiters():
        return sum(type(x) is ThreadWaiter for x in gc.get_objects())

    ch = chan()
    gc.collect()
    gc.disable()
    try:
        before = waiters()
        thread = Thread(ch.recv_blocking)
        wait_until(lambda: ch._recvq)
        token = Token()
        alive = weakref.ref(token)
        ch.send_blocking(token)
        del token
        assert isinstance(thread.result(), Token)
        del thread
        wait_until(lambda: alive() is None, 5)
        token = Token()
        alive = weakref.ref(token)
        with pytest.raises(TimeoutError):
            ch.send_blocking(token, 0)
        del token
        wait_until(lambda: alive() is None, 5)
        assert waiters() == before
    finally:
        gc.enable()
