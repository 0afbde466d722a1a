"""debug.trace(): what is in the file, of all that machines and goroutines do."""

import ast
import gc
import gzip
import inspect
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest
from debug_support import Program, environment

import goroutine
from goroutine import (
    Deadlock,
    GoroutinePanic,
    blocking,
    chan,
    context,
    debug,
    go,
    gosched,
    net,
    sleep,
    start,
    sync,
)
from goroutine.runtime import machine, traced

pytestmark = pytest.mark.timeout(30)


class Found:
    """The events of a file."""

    def __init__(self, path):
        opener = gzip.open if str(path).endswith(".gz") else open
        with opener(path, "rt") as file:
            self.all = json.load(file)
        self.events = self.all["traceEvents"]
        self.dropped = self.all["otherData"]["dropped"]

    def of(self, what, name=None):
        """Slices of a category, by time."""
        found = [e for e in self.events if e["ph"] == "X" and e["cat"] == what]
        if name is not None:
            found = [e for e in found if e["name"].endswith(name)]
        return sorted(found, key=lambda e: e["ts"])

    def names(self, what):
        return [e["name"] for e in self.of(what)]

    def threads(self):
        """(pid, tid) -> name."""
        return {
            (e["pid"], e["tid"]): e["args"]["name"]
            for e in self.events
            if e["ph"] == "M" and e["name"] == "thread_name"
        }

    def arrows(self):
        """Pairs of the slices at both ends (None where there is none)."""
        ends = {}
        for e in self.events:
            if e["ph"] in "sf":
                ends.setdefault(e["id"], {})[e["ph"]] = e
        return [(self.around(pair["s"]), self.around(pair["f"])) for pair in ends.values()]

    def around(self, e):
        inside = [
            s
            for s in self.events
            if s["ph"] == "X"
            and (s["pid"], s["tid"]) == (e["pid"], e["tid"])
            and s["ts"] <= e["ts"] <= s["ts"] + s["dur"]
        ]
        return min(inside, key=lambda s: s["dur"], default=None)

    def check(self):
        """What is true of any trace."""
        steps = self.of("run")
        by_machine = {}
        for s in steps:
            by_machine.setdefault((s["pid"], s["tid"]), []).append(s)
        for of_one in by_machine.values():
            for before, after in pairwise(of_one):
                assert before["ts"] + before["dur"] <= after["ts"] + 0.002, (before, after)
        by_g = {}
        for s in steps:
            by_g.setdefault((s["pid"], s["args"]["g"]), []).append(s)
        for of_one in by_g.values():
            for before, after in pairwise(of_one):
                assert before["ts"] + before["dur"] <= after["ts"] + 0.002, (before, after)
                assert before["args"].get("end") != "ends"
        for one, other in self.arrows():
            assert one is not None
            assert other is not None
            assert other["cat"] == "run"
        names = self.threads()
        for e in self.events:
            assert e["ph"] == "M" or (e["pid"], e["tid"]) in names
        return self


def traced_run(tmp_path, main, **options):
    path = tmp_path / "trace.json"
    with debug.trace(path):
        start(main, **options)
    return Found(path).check()


# -- what is in it ---------------------------------------------------------------------------


async def sends(ch, n):
    for i in range(n):
        await ch.send(i)
    ch.close()


async def receives(ch):
    async for _ in ch:
        pass


def test_a_ping_pong(tmp_path, machines):
    async def main():
        ch = chan()
        g = go(sends, ch, 50)
        await receives(ch)
        await g

    found = traced_run(tmp_path, main, machines=machines)
    assert found.dropped == 0
    assert sorted(n for (pid, _), n in found.threads().items() if pid == 1 and n[0] == "M") == [
        f"M{i}" for i in range(machines)
    ]
    (life,) = found.of("goroutine", "sends")
    assert life["args"]["by"] == 1
    steps = found.of("run", "sends")
    assert steps[-1]["args"]["end"] == "ends"
    assert life["ts"] <= steps[0]["ts"]
    assert abs(life["ts"] + life["dur"] - steps[-1]["ts"] - steps[-1]["dur"]) < 0.01
    # One or the other waits for each value.
    waits = Counter(found.names("wait"))
    assert 45 <= waits["chan send"] + waits["chan receive"] <= 110
    assert all("sends" in w["args"]["at"] for w in found.of("wait", "chan send"))
    assert all("receives" in w["args"]["at"] for w in found.of("wait", "chan receive"))
    pairs = Counter(
        (one["args"]["g"], other["args"]["g"])
        for one, other in found.arrows()
        if one["cat"] == "run"
    )
    one, other = 1, life["args"]["g"]
    assert pairs[one, other] + pairs[other, one] >= 45


def test_reasons(tmp_path):
    async def waits_for_mutex(mutex):
        await mutex.lock()
        mutex.unlock()

    async def main():
        mutex = sync.Mutex()
        await mutex.lock()
        g = go(waits_for_mutex, mutex)
        await sleep(0.001)
        mutex.unlock()
        await g
        await gosched()
        await blocking(time.sleep, 0.001)
        with (
            context.with_timeout(context.background(), 0.001) as ctx,
            pytest.raises(goroutine.errors.Canceled),
        ):
            await chan().recv(ctx=ctx)

    found = traced_run(tmp_path, main, machines=1)
    assert found.names("wait").count("sync.Mutex.Lock") == 1
    assert {"sleep", "blocking call", "chan receive"} <= set(found.names("wait"))
    assert "gives way" in {s["args"]["end"] for s in found.of("run")}
    (slept,) = found.of("wait", "sleep")
    assert slept["dur"] >= 1000


def test_blocking_calls(tmp_path):
    async def main():
        await blocking(time.sleep, 0.005)

    found = traced_run(tmp_path, main, machines=1)
    (call,) = found.of("call")
    assert call["name"] == "time.sleep"
    assert call["dur"] >= 4900
    assert found.threads()[1, call["tid"]] == "blocking 1"
    ((one, other),) = [pair for pair in found.arrows() if pair[0]["cat"] == "call"]
    assert one is not other
    assert one == call
    assert other["args"]["g"] == 1


def test_polls_sleeps_and_collections(tmp_path, io):
    async def echo(conn):
        while data := await conn.read(100):
            await conn.write(data)
        conn.close()

    async def serve(listener):
        go(echo, await listener.accept())

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        go(serve, listener)
        conn = await net.dial("tcp", listener.address)
        for _ in range(10):
            await conn.write(b"x")
            await conn.read(100)
        await sleep(0.002)
        gc.collect()
        conn.close()
        listener.close()

    found = traced_run(tmp_path, main, machines=1, io=io)
    assert "IO wait" in found.names("wait")
    delivered = sum(e["args"].get("delivered", 0) for e in found.of("poll") + found.of("sleep"))
    assert delivered >= 10
    assert any(one["cat"] in ("poll", "sleep") for one, _ in found.arrows())
    assert found.of("sleep")
    assert any(e["args"]["generation"] == 2 for e in found.of("gc"))
    assert "collector" in found.threads().values()


def test_steals(tmp_path):
    """One machine is kept busy while it has others to run: another takes them."""
    done = threading.Event()

    async def computes():
        # Until another machine has run what waits behind this.
        assert done.wait(10)

    def other():
        done.set()

    async def main():
        go(other)
        go(computes)
        await gosched()
        await sleep(0.01)

    found = traced_run(tmp_path, main, machines=2)
    stolen = [e for e in found.events if e["ph"] == "i" and e["name"] == "steal"]
    assert stolen
    assert all(e["args"]["goroutines"] >= 1 for e in stolen)


# -- begin and end ---------------------------------------------------------------------------


def test_in_the_middle_of_a_run(tmp_path, machines):
    """Those that were parked before have a life from the beginning, and what they waited for."""
    path = tmp_path / "trace.json"

    async def main():
        before, after = chan(), chan()
        early = go(receives, before)
        stays = go(receives, chan())
        await sleep(0.01)
        with debug.trace(path):
            late = go(sends, after, 3)
            await receives(after)
            before.close()
            await early
        assert late.done
        assert machine_classes() <= {machine.Machine, traced.TracedMachine}
        for _ in range(100):
            await gosched()
        found = machine_classes_of_this()
        return found, stays.id

    def machine_classes():
        runtime = goroutine.runtime.scheduler.running()
        return {type(m) for m in runtime.machines}

    def machine_classes_of_this():
        from goroutine.runtime.shared import current

        return type(current())

    kind, stays = start(main, machines=machines)
    assert kind is machine.Machine
    found = Found(path).check()
    lives = {e["args"]["g"]: e for e in found.of("goroutine")}
    assert lives[1]["ts"] == lives[stays]["ts"] == 0
    assert lives[stays]["dur"] == lives[1]["dur"]
    (early,) = [w for w in found.of("wait", "chan receive") if w["pid"] == 2 and w["ts"] == 0]
    assert "receives" in early["args"]["at"]
    assert found.of("goroutine", "sends")[0]["ts"] > 0


def test_twice_and_again(tmp_path):
    async def main():
        for i in range(3):
            with debug.trace(tmp_path / f"{i}.json"):
                with pytest.raises(RuntimeError, match="under way already"):
                    debug.trace(tmp_path / "other.json").__enter__()
                await go(gosched)
        assert not (tmp_path / "other.json").exists()

    start(main, machines=2)
    for i in range(3):
        assert Found(tmp_path / f"{i}.json").check().of("run")


def test_several_runs(tmp_path):
    async def main():
        await go(sleep, 0.001)

    path = tmp_path / "trace.json"
    with debug.trace(path):
        start(main, machines=1)
        start(main, machines=2)
    found = Found(path).check()
    assert {e["pid"] for e in found.of("run")} == {1, 3}
    assert {e["pid"] for e in found.of("goroutine")} == {2, 4}


def test_without_a_run(tmp_path):
    path = tmp_path / "trace.json"
    with debug.trace(path):
        pass
    assert Found(path).events == []


def test_from_another_thread(tmp_path):
    path = tmp_path / "trace.json"
    go_on = threading.Event()

    def traces():
        with debug.trace(path):
            time.sleep(0.02)
        go_on.set()

    async def main():
        thread = threading.Thread(target=traces)
        thread.start()
        while not go_on.is_set():
            await gosched()
        thread.join()

    start(main, machines=2)
    assert len(Found(path).check().of("run", "main")) > 10


def test_a_failure_is_in_the_file(tmp_path):
    async def fails():
        await sleep(0.001)
        raise ValueError("oh")

    async def main():
        go(fails)
        await sleep(10)

    path = tmp_path / "trace.json"
    with pytest.raises(GoroutinePanic), debug.trace(path):
        start(main, machines=2)
    found = Found(path).check()
    assert found.of("run", "fails")[-1]["args"]["end"] == "ends"


def test_a_deadlock_is_in_the_file(tmp_path):
    async def main():
        await chan().recv()

    path = tmp_path / "trace.json"
    with pytest.raises(Deadlock), debug.trace(path):
        start(main, machines=1)
    (wait,) = Found(path).check().of("wait")
    assert wait["name"] == "chan receive"


def test_what_does_not_fit_is_counted(tmp_path, capsys):
    async def main():
        for _ in range(5000):
            await gosched()

    path = tmp_path / "trace.json"
    with debug.trace(path, events=800) as trace:
        start(main, machines=1)
    found = Found(path).check()
    assert len(found.of("run")) <= 800
    assert trace.dropped == found.dropped
    assert 5000 <= len(found.of("run")) + trace.dropped <= 5010
    assert f"{trace.dropped} more were dropped" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least 1"):
        debug.trace(path, events=0)


def test_contexts_and_foreign_objects(tmp_path):
    """Steps that leave the loop: by a context variable that was set, or by an error."""
    from contextvars import ContextVar

    variable = ContextVar("variable")

    async def sets(i):
        variable.set(i)
        await gosched()
        assert variable.get() == i
        await sleep(0.001)
        assert variable.get() == i

    class Strange:
        def __await__(self):
            yield "not ours"

    async def main():
        gs = [go(sets, i) for i in range(5)]
        for g in gs:
            await g
        with pytest.raises(RuntimeError, match="doesn't know"):
            await Strange()

    found = traced_run(tmp_path, main, machines=1)
    assert len(found.of("run", "sets")) == 15
    assert len(found.of("goroutine", "sets")) == 5


def test_compressed(tmp_path):
    async def main():
        await gosched()

    path = tmp_path / "trace.json.gz"
    with debug.trace(str(path)):
        start(main)
    assert Found(path).check().of("run")


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="nowhere"), debug.trace(tmp_path / "nowhere" / "x"):
        pytest.fail("not reached")
    with debug.trace(tmp_path / "x"):
        pass  # nothing is under way


def test_by_the_environment(tmp_path):
    path = tmp_path / "trace.json"
    code = """
        async def main():
            print("ready", flush=True)
            await go(sleep, 0.01)

        start(main)
    """
    with Program(tmp_path, code, debug=f"trace={path}") as program:
        assert program.end() == (0, "")
    assert Found(path).check().of("goroutine", "sleep")


def test_by_the_environment_where_it_cannot_be_written(tmp_path):
    code = """
        async def main():
            print("ready", flush=True)

        start(main)
    """
    with Program(tmp_path, code, debug="trace=/nowhere/x") as program:
        status, err = program.end()
    assert status == 0
    assert err.startswith("goroutine: GOROUTINE_DEBUG: no trace: ")


# -- cost ------------------------------------------------------------------------------------


def loop_of(cls):
    (node,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls.loop))).body
    node.body = node.body[1:]  # without the docstring
    return node


class Untraced(ast.NodeTransformer):
    """Without the statements that name the probe."""

    def visit(self, node):
        super().visit(node)
        for name in ("body", "orelse"):
            kept = getattr(node, name, None)
            if isinstance(kept, list):
                setattr(node, name, [n for n in kept if "probe" not in simple(n)])
        return node


def simple(node):
    """The names in a statement, without the statements inside it."""
    if isinstance(node, ast.If):
        return ast.dump(node.test)
    return "" if isinstance(getattr(node, "body", None), list) else ast.dump(node)


def test_the_traced_loop_is_the_loop():
    """But for what it tells: whoever changes one, changes the other."""
    ours = ast.dump(Untraced().visit(loop_of(traced.TracedMachine)))
    assert "probe" not in ours
    assert ours == ast.dump(loop_of(machine.Machine))
    assert "probe" in ast.dump(loop_of(traced.TracedMachine))


def test_nothing_is_left_behind(tmp_path):
    async def main():
        from goroutine.runtime.shared import current

        m = current()
        before = m.ready, m.poller.poll, gc.callbacks[:], m.runtime.pool.put, m.runtime.globalq.put
        with debug.trace(tmp_path / "x"):
            await gosched()
            assert m.ready is not before[0]
            assert type(m) is traced.TracedMachine
        await gosched()
        assert type(m) is machine.Machine
        assert m.probe is None
        after = m.ready, m.poller.poll, gc.callbacks[:], m.runtime.pool.put, m.runtime.globalq.put
        assert after == before

    start(main, machines=1)


def test_it_is_imported_without_the_writer():
    """What only a trace needs costs the others nothing."""
    code = "import goroutine, sys\nasync def main(): pass\ngoroutine.start(main)\n"
    code += "assert not {'json', 'gzip', 'goroutine.debug.trace_write'} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-X", "gil=0", "-c", code], check=True, env=environment(), timeout=20
    )
