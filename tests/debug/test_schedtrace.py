"""GOROUTINE_DEBUG=schedtrace: Go's lines, at their times."""

import re
import threading
import time

import pytest

from goroutine import blocking, chan, go, gosched, sleep, start
from goroutine.debug import schedtrace
from goroutine.runtime.scheduler import running

pytestmark = pytest.mark.timeout(30)

LINE = re.compile(
    r"SCHED (?P<ms>\d+)ms: gomaxprocs=(?P<gomaxprocs>\d+) idleprocs=(?P<idleprocs>\d+)"
    r" threads=(?P<threads>\d+) spinningthreads=\d+ needspinning=0 idlethreads=(?P<idle>\d+)"
    r" runqueue=(?P<runqueue>\d+) \[(?P<queues>[\d ]*)\]"
)


def lines_of(text):
    found = [LINE.fullmatch(line) for line in text.splitlines() if line.startswith("SCHED")]
    assert all(found), text
    return found


async def waits(ch):
    await ch.recv()


def test_lines_come_while_all_sleep(monkeypatch, capfd, machines):
    monkeypatch.setenv("GOROUTINE_DEBUG", "schedtrace=50")

    async def main():
        await sleep(0.6)

    start(main, machines=machines)
    found = lines_of(capfd.readouterr().err)
    times = [int(line["ms"]) for line in found]
    assert 3 <= len(times) <= 14
    assert times == sorted(times)
    assert times[0] < 100
    amid = found[len(found) // 2]  # (the last one may come when the run is over)
    assert int(amid["gomaxprocs"]) == machines
    assert int(amid["idleprocs"]) == machines
    assert int(amid["threads"]) == machines + 1
    assert amid["queues"] == " ".join(["0"] * machines)


def test_lines_come_while_all_compute(monkeypatch, capfd, machines):
    monkeypatch.setenv("GOROUTINE_DEBUG", "schedtrace=20")
    until = time.monotonic() + 0.6

    def compute():
        while time.monotonic() < until:
            pass

    async def main():
        gs = [go(compute) for _ in range(machines)]
        for g in gs:
            await g

    start(main, machines=machines)
    found = lines_of(capfd.readouterr().err)
    assert len(found) >= 3
    assert any(line["idleprocs"] == "0" for line in found)


def test_a_period_longer_than_the_run(monkeypatch, capfd):
    """One line at the beginning, and nobody is kept waiting."""
    monkeypatch.setenv("GOROUTINE_DEBUG", "schedtrace=60000")

    async def main():
        await sleep(0.05)

    began = time.monotonic()
    start(main, machines=1)
    assert time.monotonic() - began < 10
    assert len(lines_of(capfd.readouterr().err)) == 1


def test_what_a_line_says():
    async def main():
        over = threading.Event()
        calls = [go(blocking, over.wait, 10) for _ in range(2)]
        while len(running().pool.threads) < 2:
            await sleep(0.001)
        for _ in range(5):
            go(waits, chan())
        line = LINE.fullmatch(schedtrace.line(running(), 1234))
        over.set()
        for g in calls:
            await g
        return line

    line = start(main, machines=1)
    assert line.groupdict() == {
        "ms": "1234",
        "gomaxprocs": "1",
        "idleprocs": "0",
        "threads": "4",
        "idle": "0",
        "runqueue": "0",
        "queues": "5",
    }


def test_detail():
    async def main():
        go(waits, chan())
        await gosched()
        go(waits, chan())
        return schedtrace.detail(running(), 5).split("\n")

    head, p, m, *gs = start(main, machines=1)
    assert head.startswith("SCHED 5ms: gomaxprocs=1 idleprocs=0 threads=2 ")
    assert head.endswith(" runqueue=0 gcwaiting=false nmidlelocked=0 stopwait=0 sysmonwait=false")
    assert re.fullmatch(
        r"  P0: status=1 schedtick=\d+ syscalltick=\d+ m=0 runqsize=1 gfreecnt=0 timerslen=0", p
    )
    assert m == (
        "  M0: p=0 curg=1 mallocing=0 throwing=0 preemptoff= locks=0 dying=0 spinning=false"
        " blocked=false lockedg=nil"
    )
    assert gs == [
        "  G1: status=2() m=0 lockedm=nil",
        "  G2: status=4(chan receive) m=nil lockedm=nil",
        "  G4: status=1() m=nil lockedm=nil",
    ]


def test_detail_by_the_environment(monkeypatch, capfd):
    monkeypatch.setenv("GOROUTINE_DEBUG", "schedtrace=30,scheddetail=1")

    async def main():
        await sleep(0.3)

    start(main, machines=2)
    err = capfd.readouterr().err
    assert err.count("SCHED ") >= 2
    assert err.count("  P1: ") == err.count("  M1: ") >= 1
    assert "  G1: status=4(sleep) m=nil lockedm=nil\n" in err


def test_off_there_is_no_thread():
    async def main():
        await sleep(0.001)
        return [thread.name for thread in threading.enumerate()]

    assert "goroutine-schedtrace" not in start(main, machines=1)
