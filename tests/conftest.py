"""What all tests share: fixtures, and what is printed when a test hangs.

A test that runs into its time limit ends the process, after it has printed every goroutine
(where it waits) and every thread. The frames of a goroutine that runs are never read: that
is a use after free in free-threaded CPython. So the machines are told to stop first, and
what one of them is still inside of is only named.
"""

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import types
from typing import Any

import pytest

from goroutine.io.ioring import Ring
from goroutine.runtime import scheduler
from goroutine.runtime.shared import flags

HANGING = "+++ this test hangs: "

_stderr = pytest.StashKey[int]()
_timer = pytest.StashKey[threading.Timer]()


def _io_uring() -> bool:
    try:
        Ring(entries=8).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=["io_uring", "epoll"])
def io(request: pytest.FixtureRequest) -> str:
    """Each kind of poller."""
    if request.param == "io_uring" and not _io_uring():
        pytest.skip("io_uring is not available here")
    return str(request.param)


@pytest.fixture(params=[1, 2, 4])
def machines(request: pytest.FixtureRequest) -> int:
    """Numbers of machines."""
    return int(request.param)


def pytest_collection_finish() -> None:
    """What has been collected stays to the end, and need not be looked at by every collection
    of garbage: 16 ms instead of 75."""
    gc.collect()
    gc.freeze()


# -- a test that hangs ---------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it puts in the background (&) with Ctrl-C ignored, and so would be
    # every child of ours; tests that send one mean it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before anything is captured.
    config.stash[_stderr] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _stderr in config.stash:
        os.close(config.stash[_stderr])
        del config.stash[_stderr]


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """pytest-timeout's clock, with our last words."""
    timer = threading.Timer(settings.timeout, _hangs, (item,))
    timer.name = "test timeout"
    timer.daemon = True
    item.stash[_timer] = timer
    timer.start()
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    timer = item.stash.get(_timer, None)
    if timer is not None:
        timer.cancel()
        timer.join()
        del item.stash[_timer]
    return True


def _hangs(item: pytest.Item) -> None:
    fd = item.config.stash[_stderr]
    try:
        os.write(fd, f"\n{HANGING}{item.nodeid}\n".encode())
        os.write(fd, goroutines().encode(errors="replace"))
        os.write(fd, b"+++ threads\n")
        faulthandler.dump_traceback(fd, all_threads=True)
    finally:
        os._exit(1)


def waits_for_ever() -> None:
    threading.Event().wait()


def goroutines() -> str:
    """All goroutines of the run in this process. Stops its machines for good."""
    runtime = scheduler.running()
    if runtime is None:
        return "+++ no run\n"
    # The starting thread must not close the goroutines that are to be looked at.
    runtime.await_machines = lambda gate: waits_for_ever()  # type: ignore[method-assign]
    flags["stop"] = True
    for m in runtime.machines:
        m.wake()
    time.sleep(0.3)  # whatever still runs by now is inside of a step, and ``m.g`` says which
    running = {id(m.g): m.id for m in runtime.machines if m.g is not None}
    queued: dict[int, str] = {id(g): "global queue" for g in list(runtime.globalq._queue)}
    lines = []
    for m in runtime.machines:
        p = m.p
        lines.append(
            f"M{m.id}: pass {m.tick}, runnext {len(p.runnext)}, queue {p.length()},"
            f" timers {len(p.timers)}, poll waiters {m.poller.waiters()}"
        )
        for where, gs in (
            ("runnext", p.runnext),
            ("batch", p.batch),
            ("yielded", p.yielded),
            ("ring", (g for g in p.ring.slots if g is not None)),  # also stale ones
        ):
            queued.update((id(g), f"{where} of M{m.id}") for g in list(gs))
    everyone = [g for home in _homes(runtime) for g in list(home)]
    lines.append(f"+++ {len(everyone)} goroutines")
    for g in sorted(everyone, key=lambda g: g.id):
        if id(g) in running:
            lines.append(f"goroutine {g.id} ({g.name}) [running on M{running[id(g)]}]")
            continue
        lines.append(f"goroutine {g.id} ({g.name}) [{queued.get(id(g), 'parked')}]")
        lines.extend(f"    {place}" for place in waits_at(g.it))
        if len(lines) > 1000:
            lines.append("...")
            break
    return "\n".join(lines) + "\n"


def _homes(runtime: scheduler.Runtime) -> list[set[Any]]:
    return [m.p.goroutines for m in runtime.machines] + [runtime.foreign]


def waits_at(it: Any) -> list[str]:
    """Where the chain of suspended coroutines ``it`` stands, outermost first."""
    places = []
    while it is not None and len(places) < 50:
        it = getattr(it, "_it", it)  # InContext
        if type(it).__name__ == "coroutine_wrapper":  # what coroutine.__await__() gives
            it = gc.get_referents(it)[0]
        if isinstance(it, types.CoroutineType):
            frame, inner, suspended = it.cr_frame, it.cr_await, it.cr_suspended
        elif isinstance(it, types.GeneratorType):
            frame, inner, suspended = it.gi_frame, it.gi_yieldfrom, it.gi_suspended
        else:
            places.append(f"{type(it).__qualname__} object")
            break
        if frame is None:
            break
        code = frame.f_code
        state = "" if suspended else " (not begun)"
        places.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}{state}")
        it = inner
    return places
