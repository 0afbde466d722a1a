"""Which traces and profiles there are, and how the machines of a run come to tell them."""

from __future__ import annotations

from _thread import get_ident
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from ..runtime.fork import module_lock
from ..runtime.probe import Names, Probe, Sink
from ..runtime.scheduler import running
from ..runtime.shared import bubbles, machine_or_none
from ..runtime.traced import attach, detach

if TYPE_CHECKING:
    from ..runtime.machine import Machine
    from ..runtime.scheduler import Runtime

__all__ = ["Watcher", "add", "attend", "check", "remove"]


class Watcher(Protocol):
    """A trace or a profile. It may see no run, one, or several after each other."""

    def begin(self, runtime: Runtime) -> None:
        """A run begins, or is under way. May be told twice."""

    def sink(self, m: Machine, names: Names) -> Sink:
        """Of one machine; called by it, and again when other watchers come and go."""

    def end(self, runtime: Runtime) -> None:
        """That run is over, or is not watched any more; some machines may not know yet."""


# Guards the rest. (Never held while a halt is asked for: who halts waits for machines that may
# wait for this.)
_lock = module_lock()
_watchers: list[Watcher] = []
_runtime: Runtime | None = None  # the run that the watchers were told of
_old: frozenset[int] = frozenset()  # the goroutines that there were when the last one came


def check() -> None:
    """``RuntimeError`` where nobody can watch."""
    if get_ident() in bubbles:
        raise RuntimeError("a bubble can't be traced or profiled: nothing in it takes time")


def add(watcher: Watcher) -> None:
    """Have it watch the run that is under way, and those to come. From any thread."""
    check()
    with _lock:
        runtime = running()
        if runtime is not None and runtime.outcome is None:
            _tell(runtime, [watcher])
        _watchers.append(watcher)
        runtime = _runtime
    if runtime is not None:
        m = machine_or_none()
        if m is not None:
            _fit(m)  # for what the calling goroutine does up to the end of its step
        runtime.halt.change(_fit)


def remove(watcher: Watcher) -> None:
    """Have it watch no more. From any thread."""
    global _runtime
    with _lock:
        _watchers.remove(watcher)
        runtime = _runtime
        if runtime is not None:
            watcher.end(runtime)
            if not _watchers:
                _runtime = None
    if runtime is not None:
        runtime.halt.change(_fit)


def attend(runtime: Runtime) -> ExitStack:
    """A run begins: have it watched, if anybody wants that. To be closed when it is over."""
    with ExitStack() as stack:
        if _watchers:
            with _lock:
                _tell(runtime, _watchers)
            runtime.halt.change(_fit)
        stack.callback(_over, runtime)
        return stack.pop_all()


def _over(runtime: Runtime) -> None:
    global _runtime
    if _runtime is runtime:
        with _lock:
            for watcher in _watchers:
                watcher.end(runtime)
            _runtime = None


def _tell(runtime: Runtime, watchers: list[Watcher]) -> None:
    global _runtime, _old
    for watcher in watchers:
        watcher.begin(runtime)
    _runtime = runtime
    _old = frozenset(g.id for home in runtime.homes() for g in list(home))


def _fit(m: Machine) -> None:
    """As the watchers are now; by the machine itself."""
    with _lock:
        watchers, old = list(_watchers), set(_old)
    names = Names() if m.probe is None else m.probe.names
    detach(m)
    sinks = [watcher.sink(m, names) for watcher in watchers]
    if sinks:
        attach(m, Probe(m, sinks[0] if len(sinks) == 1 else _All(sinks), names, old))


class _All:
    """Several sinks."""

    __slots__ = ("_sinks",)

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def step(self, how: int, began: int, ended: int, id: int, fn: int, place: int) -> None:
        for sink in self._sinks:
            sink.step(how, began, ended, id, fn, place)

    def was(self, at: int, id: int, fn: int, place: int) -> None:
        for sink in self._sinks:
            sink.was(at, id, fn, place)

    def wake(self, at: int, id: int, by: int) -> None:
        for sink in self._sinks:
            sink.wake(at, id, by)

    def spawn(self, at: int, id: int, fn: int, by: int) -> None:
        for sink in self._sinks:
            sink.spawn(at, id, fn, by)

    def other(self, what: int, began: int, ended: int, a: int, b: int) -> None:
        for sink in self._sinks:
            sink.other(what, began, ended, a, b)
