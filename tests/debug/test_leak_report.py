"""GOROUTINE_DEBUG=leaks=1: who is left at the end."""

import pytest

from goroutine import Deadlock, chan, go, gosched, sleep, start

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(autouse=True)
def asked_for(monkeypatch):
    monkeypatch.setenv("GOROUTINE_DEBUG", "leaks=1")


async def waits(ch):
    await ch.recv()


async def makes(ch, count):
    for _ in range(count):
        go(waits, ch)


def test_none(capfd, machines):
    async def ends():
        pass

    async def main():
        await go(ends)

    start(main, machines=machines)
    assert capfd.readouterr().err == ""


def test_by_creator(capfd, machines):
    async def main():
        ch = chan()
        go(waits, ch)
        for _ in range(2):
            await go(makes, ch, 3)
        await sleep(0.05)

    start(main, machines=machines)
    err = capfd.readouterr().err
    head, first, stacks, second, *_ = err.split("\n\n")
    assert head == "goroutine: 7 goroutines were left when the program ended"
    assert first == "6 created by test_leak_report.makes:"
    assert stacks.startswith("6 goroutines [chan receive]: ")
    assert "await ch.recv()\n" in stacks
    assert stacks.endswith("created by test_leak_report.makes")
    assert second == "1 created by test_leak_report.test_by_creator.<locals>.main:"
    creator = "test_leak_report.test_by_creator.<locals>.main"
    assert err.endswith(f"created by {creator} in goroutine 1\n")


def test_one_that_had_not_begun(capfd):
    """(It is closed without having run.)"""

    async def main():
        for _ in range(200):
            go(waits, chan())

    start(main, machines=1)
    assert "goroutines were left when the program ended\n" in capfd.readouterr().err


def test_when_main_raises(capfd):
    async def main():
        go(waits, chan())
        await gosched()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start(main, machines=1)
    assert capfd.readouterr().err.startswith("goroutine: 1 goroutine was left when")


def test_a_deadlock_tells_of_them_once(capfd):
    async def main():
        go(waits, chan())
        await chan().recv()

    with pytest.raises(Deadlock):
        start(main, machines=1)
    err = capfd.readouterr().err
    assert err.startswith("fatal error: all goroutines are asleep - deadlock!\n")
    assert "left" not in err


def test_finally_blocks_run_all_the_same(capfd):
    closed = []

    async def tidies():
        try:
            await chan().recv()
        finally:
            closed.append(1)

    async def main():
        go(tidies)
        await gosched()

    start(main, machines=1)
    assert closed == [1]
    assert "tidies" in capfd.readouterr().err


def test_not_asked_for(monkeypatch, capfd):
    monkeypatch.delenv("GOROUTINE_DEBUG")

    async def main():
        go(waits, chan())
        await gosched()

    start(main, machines=1)
    assert capfd.readouterr().err == ""
