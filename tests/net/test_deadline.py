"""Deadlines of connections and listeners: who waits fails, and nothing else is changed by it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from net_support import (
    connect,
    in_thread,
    is_reading,
    pair,
    raises,
    raw_pair,
    receive_all,
    waits_to_write,
)
from waiting import until

import goroutine
from goroutine import ConnClosed, go, net
from goroutine.runtime.shared import current
from goroutine.time import now

pytestmark = pytest.mark.timeout(30)

BIG = bytes(range(256)) * 40_000  # 10 MB: more than any socket takes
TIMEOUT = "^i/o timeout$"


def past() -> float:
    return now() - 1


def timers() -> int:
    return sum(len(m.p.timers) for m in current().runtime.machines)


async def times_out(step: Any) -> None:
    failure = await raises(TimeoutError, TIMEOUT, step)
    assert not isinstance(failure, goroutine.Canceled)


# -- reading -------------------------------------------------------------------------------------


def test_a_read_that_waits_times_out_and_takes_nothing(run):
    async def main():
        a, b = await pair()
        begin = time.monotonic()
        b.set_read_deadline(now() + 0.03)
        for _ in range(3):
            await times_out(b.read())
            assert time.monotonic() - begin >= 0.03
        await a.write(b"hello")
        await goroutine.sleep(0.01)
        await times_out(b.read())  # also when data is there
        await times_out(b.read_exactly(3))
        await times_out(b.read_into(bytearray(3)))
        b.set_read_deadline(now() + 60)
        assert await b.read(2) == b"he"
        assert await b.read_exactly(3) == b"llo"
        b.set_read_deadline(None)
        g = go(b.read)
        await a.write(b"again")
        assert await g == b"again"
        a.close()
        b.close()

    run(main)


def test_a_deadline_in_the_past_holds_at_once(run):
    async def main():
        a, b = await pair()
        await a.write(b"hello")
        assert await b.read(1) == b"h"
        for when in (past(), 0, -1e300, -(10**400), float("-inf"), now()):
            b.set_deadline(when)
            await times_out(b.read())
            await times_out(b.write(b"x"))
            await times_out(b.write(b""))
            await times_out(b.writev([b"x", b"y"]))
        for when in (None, now() + 60, 1e300, 10**400, float("inf")):
            b.set_deadline(past())
            b.set_deadline(when)
            assert await b.write(b"x") == 1
        assert await a.read_exactly(5) == b"xxxxx"
        assert await b.read() == b"ello"
        a.close()
        b.close()

    run(main)


@pytest.mark.parametrize("who", ["goroutine", "thread"])
def test_set_while_a_read_waits(run, who):
    async def main():
        a, b = await pair()
        for when in (past, lambda: now() + 0.02):
            g = go(times_out, b.read())
            await until(lambda: is_reading(b))
            if who == "thread":
                await in_thread(lambda when=when: b.set_read_deadline(when()))
            else:
                b.set_read_deadline(when())
            await g
            b.set_read_deadline(None)
        await a.write(b"x")
        assert await b.read() == b"x"
        a.close()
        b.close()

    run(main)


def test_a_deadline_that_is_put_off(run):
    """Its timer fires all the same, and sets another."""

    async def main():
        a, b = await pair()
        b.set_read_deadline(now() + 0.1)
        deadline = b.deadline(False)
        early = deadline._timer
        b.set_read_deadline(now() + 60)
        assert deadline._timer is early
        g = go(b.read)
        await until(lambda: deadline._timer not in (early, None))
        assert is_reading(b)
        assert timers() <= 2  # and the one of until()
        last = deadline._timer
        b.set_read_deadline(now() + 30)  # nearer again
        assert deadline._timer.when < last.when
        b.set_read_deadline(None)
        assert deadline._timer is None
        await until(lambda: timers() <= 1)
        await a.write(b"x")
        assert await g == b"x"
        a.close()
        b.close()

    run(main)


def test_a_firing_that_comes_late_does_nothing(run_one):
    async def main():
        a, b = await pair()
        deadline = b.deadline(False)
        stale = []
        for following in (None, now() + 60, now() + 30):
            b.set_read_deadline(None)
            b.set_read_deadline(now() + 90)
            timer = deadline._timer
            stale.append((timer.fire, timer.arg))
            b.set_read_deadline(following)
            for fire, serial in stale:
                deadline._when = 0.0  # were it taken for the current one, it would be due
                fire(serial)
                assert not deadline.late
                assert not b.barred
        a.close()
        b.close()

    run_one(main)


def test_who_waits_for_a_turn_times_out_too(run):
    async def main():
        a, b = await pair()
        readers = [go(times_out, a.read()) for _ in range(5)]
        writers = [go(times_out, a.write(BIG)) for _ in range(5)]
        await until(lambda: a.queues and [len(queue) for queue in a.queues] == [4, 4])
        a.set_deadline(past())
        for g in readers + writers:
            await g
        assert not any(map(len, a.queues))
        a.close()
        b.close()

    run(main)


def test_read_exactly_gives_back_what_it_had(run):
    async def main():
        a, b = await pair()
        g = go(times_out, b.read_exactly(10))
        await a.write(b"12345")
        await until(lambda: is_reading(b))
        await goroutine.sleep(0.005)
        b.set_read_deadline(past())
        await g
        b.set_read_deadline(None)
        await a.write(b"67890")
        assert await b.read_exactly(10) == b"1234567890"
        a.close()
        b.close()

    run(main)


def test_a_deadline_that_passes_when_the_data_has_been_handed_over(run_one):
    """The reader has been woken and not run yet: it has the data, or that is left for later.

    (Seen to fail when a reader that was handed data looked at the deadline before taking it.)
    """

    async def main():
        a, b = await pair()
        g = go(tolerant, b)
        await until(lambda: is_reading(b))
        await a.write(b"data")
        while is_reading(b):
            await goroutine.gosched()
        assert not g.done  # it is behind us in the queue
        b.set_read_deadline(past())
        first = await g
        b.set_read_deadline(None)
        await a.write(b"more")
        assert first + await b.read_exactly(8 - len(first)) == b"datamore"
        a.close()
        b.close()

    async def tolerant(conn):
        try:
            return await conn.read()
        except TimeoutError:
            return b""

    run_one(main)


def test_no_byte_is_lost(run):
    """Reads that time out at any moment."""

    data = bytes(range(251)) * 400

    async def feed(conn):
        for at in range(0, len(data), 500):
            await conn.write(data[at : at + 500])
            await goroutine.gosched()
        conn.close()

    async def main():
        a, b = await pair()
        go(feed, a)
        got = bytearray()
        late = 0
        while True:
            b.set_read_deadline(now() + (0.0, 1e-5, 1e-4, 1e-3)[late & 3])
            try:
                part = await (b.read(700) if late & 4 else b.read_exactly(251))
            except TimeoutError:
                late += 1
                continue
            except EOFError:
                break
            if not part:
                break
            got += part
        assert bytes(got) == data[: len(got)]
        assert len(data) - len(got) < 251  # that read_exactly had when the end came
        assert late
        b.close()

    run(main)


class Flickering(net.Conn):
    """Its deadline is lifted at the worst moment: when a read has just seen that it passed."""

    __slots__ = ()

    @property  # type: ignore[override]
    def barred(self) -> bool:
        late: bool = net.Conn.barred.__get__(self)  # type: ignore[attr-defined]
        net.Conn.barred.__set__(self, False)  # type: ignore[attr-defined]
        return late

    @barred.setter
    def barred(self, late: bool) -> None:
        net.Conn.barred.__set__(self, late)  # type: ignore[attr-defined]


def test_a_deadline_that_is_lifted_as_a_read_finds_it_passed(run_one):
    """That is no end of the stream."""

    async def main():
        a, b = await pair()
        async with a, b:
            a.__class__ = Flickering
            for _ in range(3):
                a.set_read_deadline(now() - 1)
                await times_out(a.read())
                a.set_read_deadline(None)
                await b.write(b"x")
                assert await a.read() == b"x"
            a.__class__ = net.Conn

    run_one(main)


def test_the_end_of_the_stream_comes_after_the_deadline(run):
    async def main():
        a, b = await pair()
        a.close()
        b.set_read_deadline(past())
        await times_out(b.read())
        b.set_read_deadline(None)
        assert await b.read() == b""
        b.set_read_deadline(past())
        await times_out(b.read())
        b.close()
        await raises(ConnClosed, "", b.read())

    run(main)


# -- a timer that fires on another thread --------------------------------------------------------


def test_a_lone_machine_and_a_firing_on_sysmons_thread(run_one):
    """Between the reader's look and its parking: nobody but the machine may look for it.

    (Seen to hang with wake_reader called on the firing thread.)
    """

    async def main():
        a, b = await pair()
        b.set_read_deadline(now() + 60)
        await a.write(b"x")
        assert await b.read() == b"x"
        park = b.park

        def slowly(g: Any) -> None:
            b.park = park
            thread = threading.Thread(target=b.set_read_deadline, args=(past(),))
            thread.start()
            thread.join()
            assert b.barred
            park(g)

        b.park = slowly
        await times_out(b.read())
        b.set_read_deadline(None)
        await a.write(b"y")
        assert await b.read() == b"y"
        a.close()
        b.close()

    run_one(main)


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["before", "goroutine", "thread"])
def test_a_write_that_waits_times_out(run, who):
    async def main():
        client, conn = await raw_pair(RCVBUF=65_536)
        if who == "before":
            conn.set_write_deadline(now() + 0.05)
        g = go(times_out, conn.write(BIG))
        await until(lambda: waits_to_write(conn) or g.done)
        if who == "thread":
            await in_thread(lambda: conn.set_write_deadline(past()))
        elif who == "goroutine":
            conn.set_write_deadline(past())
        await g
        await until(lambda: not waits_to_write(conn))
        await times_out(conn.write(b"x"))
        await conn.close_write()  # is under no deadline
        sent = await in_thread(lambda: receive_all(client))
        assert len(sent) < len(BIG)
        assert sent or who == "before"  # that one may have passed before the write began
        assert sent == BIG[: len(sent)]
        client.sendall(b"ok")  # nor is reading under that one
        assert await conn.read() == b"ok"
        client.close()
        conn.close()

    run(main)


def test_writing_goes_on_under_a_later_deadline(run):
    async def main():
        a, b = await pair()
        a.set_write_deadline(past())
        await times_out(a.write(b"x"))
        a.set_write_deadline(now() + 60)
        writing = go(a.write, BIG)
        await until(lambda: waits_to_write(a))
        a.set_write_deadline(None)
        assert await b.read_exactly(len(BIG)) == BIG
        assert await writing == len(BIG)
        a.close()
        b.close()

    run(main)


def test_a_deadline_that_passes_as_the_writer_parks(run_one):
    """After its try, before the poller knows of it. (Seen to hang without the look in park.)"""

    async def main():
        client, conn = await raw_pair(RCVBUF=65_536)
        poller = current().poller
        wait = poller.wait

        def late(blocked: Any) -> None:
            poller.wait = wait
            conn.set_write_deadline(past())
            wait(blocked)

        poller.wait = late
        await times_out(conn.write(BIG))
        assert poller.wait == wait
        assert not poller.waits or await until(lambda: not waits_to_write(conn)) is None
        client.close()
        conn.close()

    run_one(main)


# -- the end -------------------------------------------------------------------------------------


def test_nothing_is_left_in_a_heap(run):
    async def main():
        a, b = await pair()
        for conn in (a, b):
            conn.set_deadline(now() + 600)
        assert timers() == 4
        a.set_deadline(None)
        assert timers() == 2
        b.close()
        assert timers() == 0
        for set_ in (b.set_deadline, b.set_read_deadline, b.set_write_deadline):
            with pytest.raises(ConnClosed, match="use of closed network connection"):
                set_(now())
        a.close()
        listener = await net.listen("tcp", "127.0.0.1:0")
        listener.set_deadline(now() + 600)
        assert timers() == 1
        listener.close()
        assert timers() == 0
        with pytest.raises(ConnClosed):
            listener.set_deadline(None)

    run(main)


def test_closing_after_the_deadline(run):
    """Closing gives back the fd of a connection whose deadlines have passed."""

    async def main():
        for delay in (-1, 0.005):
            a, b = await pair()
            a.set_deadline(now() + delay)
            b.set_deadline(now() + delay)
            for g in (go(times_out, a.read()), go(times_out, a.write(BIG))):
                await g
            a.close()
            b.close()
            await until(lambda a=a, b=b: a.gone and b.gone)
            await raises(ConnClosed, "", a.write(b"x"))
            await raises(ConnClosed, "", a.close_write())

    run(main)


def test_closing_and_deadlines_at_once(run):
    async def main():
        for i in range(60):
            a, b = await pair()

            async def read(b=b):
                try:
                    while True:
                        try:
                            await b.read()
                        except TimeoutError:
                            await goroutine.gosched()
                except ConnClosed:
                    pass

            async def fiddle(b=b, i=i):
                try:
                    for k in range(50):
                        b.set_deadline(now() + ((i + k) % 5 - 2) * 1e-4)
                        await goroutine.gosched()
                except ConnClosed:
                    pass

            running = [go(read), go(fiddle), go(fiddle)]
            for _ in range(i % 7):
                await goroutine.gosched()
            b.close()
            a.close()
            for g in running:
                await g
            await until(lambda a=a, b=b: a.gone and b.gone)
        assert timers() <= 1

    run(main)


def test_what_is_no_deadline(run_one):
    async def main():
        a, b = await pair()
        for nothing in ("soon", [1], object(), 1j):
            with pytest.raises(TypeError, match="a deadline is a number"):
                a.set_deadline(nothing)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NaN"):
            a.set_deadline(float("nan"))
        assert await a.write(b"x") == 1
        a.close()
        b.close()

    run_one(main)


# -- listeners -----------------------------------------------------------------------------------


def test_accept_times_out(run):
    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            begin = time.monotonic()
            listener.set_deadline(now() + 0.03)
            for g in [go(times_out, listener.accept()) for _ in range(4)]:
                await g
            assert time.monotonic() - begin >= 0.03
            await times_out(listener.accept())
            await times_out(listener.serve(None))
            with connect(listener):
                await until(lambda: listener.chunks)
                await times_out(listener.accept())  # also when a connection is there
                listener.set_deadline(None)
                (await listener.accept()).close()
            for where in ("here", "thread"):
                g = go(times_out, listener.accept())
                await until(lambda: len(listener._waiting) == 1)
                if where == "thread":
                    await in_thread(lambda: listener.set_deadline(past()))
                else:
                    listener.set_deadline(past())
                await g
                listener.set_deadline(now() + 60)
            g = go(listener.accept)
            with connect(listener):
                (await g).close()

    run(main)


def test_for_over_a_listener_sees_the_time_out(run_one):
    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            listener.set_deadline(now() + 0.01)

            async def accept():
                async for conn in listener:
                    conn.close()

            await times_out(accept())

    run_one(main)
