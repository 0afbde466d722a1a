"""What the tests of files share: runs with a bound and a look for leaks.

A WAY is how operations are done: on each poller, and on each of them without the short cut
for what the kernel has in memory (RWF_NOWAIT), so that everything goes the long way.
"""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import goroutine
from goroutine.fs.bytesat import FileHandle
from goroutine.fs.call import Call
from goroutine.io.ioring import Ring
from goroutine.io.op import Op
from goroutine.runtime import scheduler

WAYS = ("io_uring", "ring", "epoll", "pool")
MACHINES = (1, 2, 4)
BOUND = 20.0  # seconds until a run counts as hung


def fds() -> dict[str, str]:
    """What is open: fd -> what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one that lists them
    return found


def io_uring() -> bool:
    try:
        Ring(entries=8).close()
    except OSError:
        return False
    return True


class Run:
    """Calls ``main`` in a run of its own, which must end in time and leave no fd behind."""

    def __init__(self, way: str, machines: int) -> None:
        self.way, self.machines = way, machines
        self.io = {"ring": "io_uring", "pool": "epoll"}.get(way, way)
        self.direct = way in ("ring", "pool")
        if self.io == "io_uring" and not io_uring():
            pytest.skip("io_uring is not available here")

    def __call__(self, main: Callable[..., Any], *args: Any, bound: float = BOUND) -> Any:
        before, threads = fds(), threading.active_count()
        guard = threading.Timer(bound, self.hang)
        guard.start()
        try:
            with pytest.MonkeyPatch.context() as patch:
                if self.direct:
                    patch.setattr(FileHandle, "read_cached", lambda *_: None)
                return goroutine.start(main, *args, machines=self.machines, io=self.io)
        finally:
            guard.cancel()
            guard.join()
            gc.collect()
            left = {fd: what for fd, what in fds().items() if fd not in before}
            assert left == {}, left
            assert threading.active_count() == threads, threading.enumerate()

    @staticmethod
    def hang() -> None:
        try:
            goroutine.go(_hung)
        except RuntimeError:
            pass  # it has just ended


async def _hung() -> None:
    raise AssertionError(f"the run had not ended after {BOUND} s")


class Cancelling:
    """Cancels what parks for a file, at the n-th time: n = 1, 2, … visits every such step."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left, self.cancel = 0, lambda: None
        for cls in (Op, Call):
            patch.setattr(cls, "park", self.wrapped(cls.park))

    def wrapped(self, park: Any) -> Any:
        def counting(op: Any, g: Any) -> None:
            park(op, g)
            self.left -= 1
            if self.left == 0:
                self.cancel()

        return counting

    def after(self, n: int, cancel: Callable[[], Any]) -> None:
        self.left, self.cancel = n, cancel


def ops() -> list[Any]:
    """The operations that are under way in all rings."""
    runtime = scheduler.running()
    assert runtime is not None
    return [op for m in runtime.machines for op in getattr(m.poller, "ops", {}).copy().values()]


def waiters() -> int:
    """How many goroutines wait for the kernel."""
    runtime = scheduler.running()
    assert runtime is not None
    return sum(m.poller.waiters() for m in runtime.machines)


async def raises(kind: Any, match: str, step: Awaitable[Any]) -> Any:
    """``await step`` fails with this."""
    with pytest.raises(kind, match=match or None) as caught:
        await step
    return caught.value


async def fails(code: int, step: Awaitable[Any]) -> OSError:
    """``await step`` is an OSError with this errno."""
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        await step
    assert caught.value.errno == code, errno.errorcode.get(caught.value.errno or 0)
    return caught.value


def make(folder: Path, content: bytes = b"", name: str = "file") -> str:
    """A file with this content; its path."""
    path = folder / name
    path.write_bytes(content)
    return str(path)


def fifo(folder: Path) -> str:
    path = str(folder / "fifo")
    os.mkfifo(path)
    return path
