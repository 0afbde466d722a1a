"""A process in which nothing happens uses no CPU, and still hears what wakes it."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import children
import pytest

from goroutine import chan, go, gosched, hold, sleep, start
from goroutine.io.ioring import Ring
from goroutine.runtime.shared import idle

pytestmark = pytest.mark.timeout(40)

SECONDS = 2.5


def io_uring_works() -> bool:
    try:
        Ring(entries=8).close()
    except OSError:
        return False
    return True


IO = ("io_uring", "epoll") if io_uring_works() else ("epoll",)
MOST = 0.002  # CPU seconds per second

IDLE = f"""
    from goroutine import net

    async def waits_in_accept():
        listener = await net.listen("tcp", "127.0.0.1:0")
        await listener.accept()

    async def waits_in_read():
        listener = await net.listen("tcp", "127.0.0.1:0")
        conn = await net.dial("tcp", listener.address)
        await conn.read(1)

    async def main():
        for _ in range(20):
            go(chan().recv)
            go(sleep, 1000)
        kind = sys.argv[1]
        if kind != "sleep":
            go(globals()["waits_in_" + kind])
        await sleep(1000)

    def measure():
        # On a thread of its own: nothing wakes a machine. What has begun settles first
        # (spinning, sysmon's last looks).
        time.sleep(1.5)
        before = time.process_time(), time.monotonic()
        time.sleep({SECONDS})
        used, took = time.process_time() - before[0], time.monotonic() - before[1]
        print(used / took, flush=True)
        os._exit(0)

    threading.Thread(target=measure).start()
    start(main, machines=int(sys.argv[2]), io=sys.argv[3])
"""


def test_idle() -> None:
    """All at the same time: they do nothing, after all."""
    cases = list(itertools.product(("sleep", "accept", "read"), ("1", "2", "4"), IO))
    with ThreadPoolExecutor(len(cases)) as pool:
        outs = list(pool.map(lambda case: children.succeed(IDLE, *case), cases))
    used = {case: float(out) for case, out in zip(cases, outs, strict=True)}
    assert {case: share for case, share in used.items() if share > MOST} == {}


class TestWake:
    """While all machines are asleep, which is waited for here and not slept for."""

    def all_asleep(self, machines: int) -> None:
        end = time.monotonic() + 10
        still = 0
        while still < 20:
            assert time.monotonic() < end, "the machines don't go to sleep"
            time.sleep(0.001)
            still = still + 1 if len(idle) == machines else 0

    def test_go_from_a_thread(self, io: str, machines: int) -> None:
        async def child() -> None:
            await out.send(time.monotonic())

        def thread() -> None:
            for _ in range(20):
                self.all_asleep(machines)
                before = time.monotonic()
                go(child)
                answered.acquire()
                took.append(time.monotonic() - before)

        async def main() -> None:
            t = threading.Thread(target=thread)
            with hold():  # else it would be a deadlock while it waits for all to be asleep
                t.start()
                for _ in range(20):
                    await out.recv()
                    answered.release()
            t.join()

        out = chan()
        answered = threading.Semaphore(0)
        took: list[float] = []
        start(main, machines=machines, io=io)
        assert len(took) == 20
        assert min(took) < 0.05

    def test_close_from_a_thread(self, io: str, machines: int) -> None:
        """Closing a channel wakes everybody on it, on whatever machine they parked."""
        count = 200

        async def waits() -> None:
            await ch.recv_ok()
            woken.append(1)

        def thread() -> None:
            self.all_asleep(machines)
            ch.close()

        async def main() -> None:
            gs = [go(waits) for _ in range(count)]
            t = threading.Thread(target=thread)
            with hold():
                t.start()
                for g in gs:
                    await g
            t.join()

        ch = chan()
        woken: list[int] = []
        start(main, machines=machines, io=io)
        assert len(woken) == count

    def test_after_sysmon_has_gone_to_sleep(self, io: str) -> None:
        """A machine that gets stuck after a long quiet time is still noticed."""

        async def child(call: Any, out: Any) -> None:
            await call.recv()
            await out.send(None)

        async def main() -> float:
            call, out = chan(), chan(1)
            go(child, call, out)
            await sleep(0.8)  # longer than sysmon's patience
            await call.send(None)  # which wakes no machine: the child goes next on this one
            begun = time.monotonic()
            while not len(out) and time.monotonic() < begun + 10:
                pass  # one long step, with the child in this machine's runnext
            return time.monotonic() - begun

        assert start(main, machines=2, io=io) < 5

    def test_gosched_alone(self, io: str) -> None:
        """The only goroutine, giving way to nobody, doesn't go to sleep over it."""

        async def main() -> None:
            for _ in range(20_000):
                await gosched()

        begun = time.monotonic()
        start(main, machines=4, io=io)
        assert time.monotonic() - begun < 10
