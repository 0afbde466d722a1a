"""What is particular to pipes in memory: no buffer, no fd. The rest is in test_stream_conns.py."""

from __future__ import annotations

import errno

import pytest
from net_support import fds, raises
from waiting import until

import goroutine
from goroutine import Canceled, ConnClosed, Deadlock, context, go, net
from goroutine.time import now

pytestmark = pytest.mark.timeout(20)

TEXT = "io: read/write on closed pipe"


def test_a_write_waits_until_all_is_read(machines):
    async def main():
        before = fds()
        a, b = net.pipe()
        g = go(a.write, b"hello")
        for part in (b"he", b"l", b"l"):
            assert await b.read(len(part)) == part
            await goroutine.sleep(0.001)
            assert not g.done
        assert await b.read() == b"o"
        assert await g == 5
        assert fds() == before
        assert a.local_address == b.remote_address == "pipe"

    goroutine.start(main, machines=machines)


def test_errors_at_both_ends(machines):
    async def main():
        a, b = net.pipe()
        a.close()
        a.close()
        assert await b.read() == b""
        failure = await raises(BrokenPipeError, TEXT, b.write(b"x"))
        assert failure.errno == errno.EPIPE
        await raises(BrokenPipeError, TEXT, b.write(b""))
        for step in (a.read(), a.read(0), a.read_exactly(0), a.write(b"x"), a.close_write()):
            await raises(ConnClosed, TEXT, step)
        with pytest.raises(ConnClosed, match=TEXT):
            a.set_deadline(None)
        assert "closed" in repr(a)
        assert "closed" not in repr(b)

    goroutine.start(main, machines=machines)


def test_what_was_not_read_is_not_read_later(machines):
    """A write that failed has left nothing behind, but for what was taken."""

    async def main():
        for how in ("ctx", "deadline", "closed"):
            a, b = net.pipe()
            ctx = context.with_cancel(context.background())
            kind = {"ctx": Canceled, "deadline": TimeoutError, "closed": ConnClosed}[how]
            g = go(raises, kind, "", a.write(b"0123456789", ctx=ctx))
            assert await b.read(3) == b"012"
            if how == "ctx":
                ctx.cancel()
            elif how == "deadline":
                a.set_write_deadline(now())
            else:
                a.close()
                assert await b.read() == b""
            await g
            if how != "closed":
                a.set_write_deadline(None)
                g = go(a.write, b"new")
                assert await b.read() == b"new"
                await g

    goroutine.start(main, machines=machines)


def test_a_turn_that_is_given_up(machines):
    """Who waits for its turn can be cancelled, and times out behind the one whose it is."""

    async def main():
        a, b = net.pipe()
        ctx = context.with_cancel(context.background())
        first = go(raises, TimeoutError, "i/o timeout", b.read())
        await until(lambda: b._in.reader is not None)
        second = go(raises, Canceled, "", b.read(ctx=ctx))
        third = go(raises, TimeoutError, "i/o timeout", b.read())
        await goroutine.sleep(0.002)
        ctx.cancel()
        await second
        assert not first.done
        b.set_read_deadline(now())
        await first
        await third
        b.set_read_deadline(None)
        g = go(a.write, b"x")
        assert await b.read() == b"x"
        await g

    goroutine.start(main, machines=machines)


def test_nobody_at_the_other_end_is_a_deadlock(capsys):
    """It is no I/O: nothing outside of the program can end the wait."""

    async def main():
        a, _ = net.pipe()
        await a.read()

    with pytest.raises(Deadlock):
        goroutine.start(main)
    assert "[pipe]" in capsys.readouterr().err


class Moved:
    """A deadline that has passed when it is looked at for the first time, and was moved then."""

    def __init__(self):
        self.looks = 0

    @property
    def late(self):
        self.looks += 1
        return self.looks == 1


def test_a_deadline_that_is_moved_while_it_is_looked_at():
    """It either counts or it doesn't: a write that nobody read was told as done, and a read as
    the end of the stream."""

    async def main():
        a, b = net.pipe()
        a._deadlines = (a._deadlines[0], Moved())
        await raises(TimeoutError, "i/o timeout", a.write(b"lost"))
        b._deadlines = (Moved(), b._deadlines[1])
        await raises(TimeoutError, "i/o timeout", b.read())
        g = go(a.write, b"hello")
        assert await b.read() == b"hello"
        assert await g == 5

    goroutine.start(main, machines=1)
