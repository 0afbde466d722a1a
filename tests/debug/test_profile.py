"""debug.profile(): what goroutines did with their time, by function and place."""

import json
import threading
import time

import pytest

from goroutine import blocking, chan, debug, go, gosched, sleep, start, sync, testing
from goroutine.runtime.shared import current

pytestmark = pytest.mark.timeout(30)


def by_name(profile):
    return {f.name.rpartition(".")[2]: f for f in profile.functions()}


async def sends(ch, n):
    for i in range(n):
        await ch.send(i)
    ch.close()


async def receives(ch):
    async for _ in ch:
        pass


def test_waits_and_places(machines):
    async def sleeps():
        await sleep(0.02)
        await sleep(0.01)

    async def main():
        gs = [go(sleeps) for _ in range(3)]
        for g in gs:
            await g

    with debug.profile() as p:
        start(main, machines=machines)
    found = by_name(p)["sleeps"]
    assert (found.goroutines, found.steps) == (3, 9)
    assert 0 < found.running < 0.05
    assert 0.08 <= found.waiting <= 1
    longer, shorter = found.waits
    assert (longer.reason, longer.count) == (shorter.reason, shorter.count) == ("sleep", 3)
    assert longer.seconds >= 0.055
    assert shorter.seconds >= 0.025
    assert longer.line + 1 == shorter.line
    assert longer.file == __file__
    assert longer.function.endswith("sleeps")
    assert found.waiting == pytest.approx(longer.seconds + shorter.seconds)


def test_running():
    async def computes():
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass

    async def waits_its_turn():
        pass

    async def main():
        later = go(waits_its_turn)
        go(computes)  # runs next
        await later

    with debug.profile() as p:
        start(main, machines=1)
    found = by_name(p)
    assert 0.05 <= found["computes"].running <= 1
    assert found["computes"].waiting == 0
    assert found["waits_its_turn"].runnable >= 0.05
    assert p.functions()[0].name.endswith("computes")


def test_steps_and_messages(machines):
    """A step for each time it runs, wherever."""

    async def main():
        ch = chan()
        gs = [go(receives, ch) for _ in range(4)]
        await sends(ch, 1000)
        for g in gs:
            await g

    with debug.profile() as p:
        start(main, machines=machines)
    found = by_name(p)
    waits = {w.reason: w for w in found["receives"].waits}
    assert set(waits) == {"chan receive"}
    # Each that had to wait was woken once, and each has begun.
    assert found["receives"].steps == waits["chan receive"].count + 4
    assert found["main"].steps >= 1


def test_what_still_waits():
    async def main():
        with debug.profile() as p:
            go(receives, chan())
            await sleep(0.02)
            during = by_name(p)["receives"]
            await sleep(0.02)
        await sleep(0.02)
        after = by_name(p)["receives"]
        assert during.waits[0].count == after.waits[0].count == 1
        assert 0.015 <= during.waiting < after.waiting
        again = by_name(p)["receives"]
        assert again == after
        return p

    start(main, machines=1)


def test_in_the_middle_of_a_run(machines):
    """Who was parked before has waited from the beginning."""

    async def waits(ch):
        await ch.recv()

    async def main():
        ch = chan()
        g = go(waits, ch)
        await sleep(0.02)
        with debug.profile() as p:
            await sleep(0.02)
            await ch.send(1)
            await g
        return p

    found = by_name(start(main, machines=machines))
    (wait,) = found["waits"].waits
    assert (wait.reason, wait.count) == ("chan receive", 1)
    assert wait.seconds >= 0.015
    assert found["waits"].goroutines == 0


def test_beside_a_trace_and_another(tmp_path):
    async def main():
        with debug.profile() as one:
            await go(sleep, 0.001)
            with debug.trace(tmp_path / "t.json"), debug.profile() as other:
                await go(sleep, 0.001)
            await go(sleep, 0.001)
        return one, other

    one, other = start(main, machines=2)
    assert by_name(one)["sleep"].goroutines == 3
    assert by_name(other)["sleep"].goroutines == 1
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [e for e in events if e.get("cat") == "goroutine" and e["name"].endswith("sleep")]


def test_nothing_is_left_behind():
    async def main():
        m = current()
        before = type(m), m.ready, m.poller.poll
        with debug.profile():
            await gosched()
            assert type(m) is not before[0]
        await gosched()
        assert (type(m), m.ready, m.poller.poll) == before

    start(main, machines=1)


def test_parked_ones_are_forgotten(machines):
    """What goes from machine to machine leaves nothing on the way."""

    async def main():
        with debug.profile() as p:
            mutex = sync.Mutex()

            async def locks():
                for _ in range(20):
                    async with mutex:
                        await gosched()
                    await blocking(int)

            gs = [go(locks) for _ in range(10)]
            for g in gs:
                await g
            kept = [dict(m.parked) for m in list(p._current.values())]
            assert sum(map(len, kept)) <= 1
            assert by_name(p)["locks"].steps >= 10 * 20 * 2
        return p

    found = by_name(start(main, machines=machines))["locks"]
    waits = {w.reason: w for w in found.waits}
    assert waits["blocking call"].count == 200


def test_from_another_thread():
    read = threading.Event()

    def reads(p):
        str(p)
        read.set()

    async def main():
        with debug.profile() as p:
            thread = threading.Thread(target=reads, args=(p,))
            thread.start()
            while not read.is_set():
                await go(gosched)
            thread.join()

    start(main, machines=2)


# -- what it is written as -------------------------------------------------------------------


def profiled():
    async def main():
        with debug.profile() as p:
            ch = chan()
            go(sends, ch, 3)
            await receives(ch)
            await sleep(0.01)
        return p

    return start(main, machines=1)


def test_table():
    lines = str(profiled()).split("\n")
    assert lines[0].split() == ["running", "runnable", "waiting", "steps", "begun"]
    (main,) = [i for i, line in enumerate(lines) if line.endswith(".main")]
    waits = lines[main + 1 :]
    assert any("    sleep in " in line and "test_profile.py:" in line for line in waits)
    assert all(len(line) < 120 for line in lines)


def test_flame_graph(tmp_path):
    path = tmp_path / "p.json"
    p = profiled()
    p.save(path)
    found = json.loads(path.read_text())
    assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    running, waiting = found["profiles"]
    frames = found["shared"]["frames"]
    for part in (running, waiting):
        assert part["type"] == "sampled"
        assert len(part["samples"]) == len(part["weights"])
        assert part["endValue"] == pytest.approx(sum(part["weights"]))
        assert all(0 <= i < len(frames) for stack in part["samples"] for i in stack)
    assert waiting["endValue"] == pytest.approx(sum(f.waiting for f in p.functions()))
    stacks = [[frames[i] for i in stack] for stack in waiting["samples"]]
    (slept,) = [stack for stack in stacks if stack[1] == {"name": "sleep"}]
    assert slept[0]["name"].endswith("main")
    assert slept[2]["file"] == __file__


def test_outside_a_run():
    with debug.profile() as p:
        pass
    assert p.functions() == []
    assert len(str(p).split("\n")) == 1


async def go_and_wait():
    await go(gosched)


def test_a_bubble_has_none(tmp_path):
    async def traces(bubble):
        with pytest.raises(RuntimeError, match="bubble"), debug.profile():
            pass
        with pytest.raises(RuntimeError, match="bubble"), debug.trace(tmp_path / "t.json"):
            pass

    testing.run(traces)
    with debug.trace(tmp_path / "t.json"), debug.profile() as p:  # nothing has stayed behind
        start(go_and_wait, machines=1)
    assert by_name(p)["gosched"].steps == 2
