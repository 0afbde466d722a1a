"""What a traced machine tells: steps, wakes, polls, and where its goroutines stand.

A probe belongs to one machine and is made in its thread. The machine calls it at the edges of
each step (traced.py), and what else it does comes by functions that the probe puts in the place
of the machine's own: `ready`, `spawn`, `poll`, `steal`. All of it goes on to a `Sink`: a trace,
a profile, or both. While there is no probe nothing of this exists, and nothing is asked for.

Where a goroutine stands is read when its step has ended and before its commit is called: for that
long its frames are this machine's, and the next instant they may be another's.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from time import monotonic_ns
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import dump
from .frames import deeper, inside, line_of
from .goroutine import Goroutine, describe
from .spawn import make_spawner, spawners

if TYPE_CHECKING:
    from .machine import Machine
    from .processor import Stealer

__all__ = [
    "END",
    "PARK",
    "POLL",
    "POLLED",
    "SLEEP",
    "SPIN",
    "STEAL",
    "YIELD",
    "Names",
    "Place",
    "Probe",
    "Sink",
]

PARK, YIELD, END, POLL, SLEEP, SPIN, STEAL = range(1, 8)
"""How a step ended; what else a machine has done."""

POLLED = -1

KNOWN = 50_000
"""The most goroutines of which a machine keeps where to begin to look, beyond those it has."""


class Sink(Protocol):
    """Who is told, by one machine. Times are of time.monotonic_ns(); ``fn`` and ``place`` are
    indices into that machine's Names."""

    def step(self, how: int, began: int, ended: int, id: int, fn: int, place: int) -> object:
        """Goroutine id ran, and ended so: PARK, YIELD or END."""

    def was(self, at: int, id: int, fn: int, place: int) -> object:
        """Goroutine id stood there when the trace began; it is about to run again."""

    def wake(self, at: int, id: int, by: int) -> object:
        """Goroutine id was made ready, by another, by a poll (POLLED), or (0) by something else
        between two steps, such as a timer."""

    def spawn(self, at: int, id: int, fn: int, by: int) -> object:
        """Goroutine id was made, and is ready."""

    def other(self, what: int, began: int, ended: int, a: int, b: int) -> object:
        """POLL and SLEEP (goroutines made ready), SPIN (whether it paid), STEAL (the victim's
        number, how many)."""


class Place(NamedTuple):
    """Where goroutines park."""

    reason: str
    """As in a dump; "" if it is not known."""
    code: CodeType | None
    """The innermost function of the program's own; None if there is none."""
    line: int


class Names:
    """Functions and places that one machine came across, by index."""

    __slots__ = ("_codes", "_fns", "_keep", "_others", "_places", "_reasons", "fns", "places")

    def __init__(self) -> None:
        self.fns = [""]
        self.places = [Place("", None, 0)]
        self._fns: dict[Any, int] = {}
        self._places: dict[tuple[int, int, int], int] = {(0, 0, 0): 0}
        self._others: dict[Place, int] = {}
        # id() of a code object -> 0 if it is the program's, -1 if ours, else a reason's index.
        # (Its hash is slow.) Each is kept, so that its id stays its own.
        self._codes: dict[int, int] = {}
        self._keep: list[Any] = []
        self._reasons = [""]

    def fn(self, fn: Any) -> int:
        """The index of what a goroutine was started with."""
        try:
            return self._fns[id(fn.__code__)]
        except (AttributeError, KeyError):
            return self._new_fn(fn)

    def _new_fn(self, fn: Any) -> int:
        code = getattr(fn, "__code__", None)
        # (No reference to anything but code: what is traced must not live longer for it.)
        key = describe(fn) if code is None else id(code)
        index = self._fns.get(key)
        if index is None:
            if code is not None:
                self._keep.append(code)
            index = self._fns[key] = len(self.fns)
            self.fns.append(describe(fn))
        return index

    def finder(self) -> Callable[[Any], int]:
        """`place`, quick where a function of the program's awaits an operation of ours."""
        # By the code of both, and the instruction of the former; 0: look closer.
        sites: dict[tuple[int, int, int], int] = {}
        look, codes = self.place, self._codes
        generator, coroutine = GeneratorType, CoroutineType

        def place(top: Any) -> int:
            it, outer = top, None
            while True:
                kind = type(it)
                if kind is coroutine:
                    inner = it.cr_await
                elif kind is generator:
                    inner = it.gi_yieldfrom
                else:
                    return look(top)
                if inner is None:
                    break
                outer, it = it, inner
            if kind is not generator or type(outer) is not coroutine:
                return look(top)
            key = id(it.gi_code), id(outer.cr_code), outer.cr_frame.f_lasti
            try:
                return sites[key] or look(top)
            except KeyError:
                index = look(top)
                quick = codes.get(id(it.gi_code), 0) > 0 and not codes.get(id(outer.cr_code))
                sites[key] = index if quick else 0
                return index

        return place

    def place(self, it: Any) -> int:
        """The index of where it stands: a generator or coroutine that nobody steps."""
        reason = 0
        innermost: Any = None
        codes = self._codes
        while it is not None:
            kind = type(it)
            if kind is GeneratorType:
                code, inner = it.gi_code, it.gi_yieldfrom
            elif kind is CoroutineType:
                code, inner = it.cr_code, it.cr_await
            elif kind is AsyncGeneratorType:
                code, inner = it.ag_code, it.ag_await
            else:
                it = deeper(it)
                continue
            try:
                known = codes[id(code)]
            except KeyError:
                known = self._new_code(code)
            if known > 0:
                reason = known
            elif not known:
                innermost = it
            it = inner
        own: CodeType | None = None
        if innermost is None:
            key = reason, 0, 0
        else:
            kind = type(innermost)
            frame: Any
            if kind is CoroutineType:
                own, frame = innermost.cr_code, innermost.cr_frame
            elif kind is GeneratorType:
                own, frame = innermost.gi_code, innermost.gi_frame
            else:
                own, frame = innermost.ag_code, innermost.ag_frame
            key = reason, id(own), 0 if frame is None else frame.f_lasti
        try:
            return self._places[key]
        except KeyError:
            return self._new_place(key, own)

    def same(self, other: Names, fn: int, place: int) -> tuple[int, int]:
        """The indices here of what is a function and a place there."""
        key = other.fns[fn]
        if key not in self._fns:
            self._fns[key] = len(self.fns)
            self.fns.append(key)
        its = other.places[place]
        if its not in self._others:
            self._others[its] = len(self.places)
            self.places.append(its)
        return self._fns[key], self._others[its]

    def _new_code(self, code: CodeType) -> int:
        self._keep.append(code)
        reason = dump.reason(code)
        if reason:
            known = len(self._reasons)
            self._reasons.append(reason)
        else:
            known = -1 if dump.ours(code) else 0
        self._codes[id(code)] = known
        return known

    def _new_place(self, key: tuple[int, int, int], code: CodeType | None) -> int:
        index = self._places[key] = len(self.places)
        line = 0 if code is None else line_of(code, key[2])
        self.places.append(Place(self._reasons[key[0]], code, line))
        return index


class Probe:
    """One machine's. What it has to call is in attributes, each a function with all it needs."""

    __slots__ = (
        "attach",
        "detach",
        "ended",
        "names",
        "old",
        "other",
        "sleeping",
        "stopped",
        "was",
    )

    old: set[int]
    """Numbers of goroutines that there were before it, and that have not run since."""
    was: Callable[[Goroutine[Any]], None]
    """A step begins, while there are such."""
    stopped: Callable[[Goroutine[Any], object, int], None]
    """It has ended, having begun then, and the commit is yet to be called; None: it gives way."""
    ended: Callable[[Goroutine[Any], int], None]
    """It was the last one, having begun then (0: that is known already)."""
    other: Callable[[int, int, int, int, int], object]
    sleeping: Callable[[], int]
    """Since when the machine sleeps; 0: it does not. From any thread."""

    def __init__(self, m: Machine, sink: Sink, names: Names, old: set[int]) -> None:
        self.names = names
        self.old = old
        self.other = sink.other
        self.was, self.stopped, self.ended = _steps(m, sink, names, old)
        sleeping = [0]
        self.sleeping = lambda: sleeping[0]
        self.attach, self.detach = _functions(m, sink, names, sleeping)


def _steps(m: Machine, sink: Sink, names: Names, old: set[int]) -> tuple[Any, Any, Any]:
    """The edges of a step. (Few attributes: each costs 30 ns.)"""
    # By id: the outermost generator or coroutine, and the index of the function. From the first
    # wait on: many goroutines end without one.
    known: dict[int, tuple[Any, int]] = {}
    forget = known.pop
    function, place = names.fn, names.finder()
    step, clock = sink.step, monotonic_ns

    def was(g: Goroutine[Any]) -> None:
        if g.id in old:
            old.discard(g.id)
            sink.was(clock(), g.id, function(g.fn), place(inside(g.it)))

    def stopped(g: Goroutine[Any], commit: object, began: int) -> None:
        now = clock()
        id_ = g.id
        try:
            top, fn = known[id_]
        except KeyError:
            if len(known) > KNOWN and len(known) > KNOWN + len(m.p.goroutines):
                known.clear()  # most have ended on other machines
            top, fn = known[id_] = inside(g.it), function(g.fn)
        if commit is None:
            step(2, began, now, id_, fn, 0)  # YIELD
        else:
            step(1, began, now, id_, fn, place(top))  # PARK

    def ended(g: Goroutine[Any], began: int) -> None:
        now = clock()
        id_ = g.id
        last = forget(id_, None)  # (Many never waited: raising KeyError would cost more.)
        if began:
            step(3, began, now, id_, function(g.fn) if last is None else last[1], 0)  # END

    return was, stopped, ended


def _functions(m: Machine, sink: Sink, names: Names, sleeping: list[int]) -> tuple[Any, Any]:
    """What stands in the machine's place of its own functions; to put it there, and back."""
    ident = get_ident()
    own_ready, own_spawn, own_poll = m.ready, spawners[ident], m.poller.poll
    own_stealers = list(m.stealers)
    batch, add = m.p.batch, m.p.goroutines.add
    function = names.fn
    wake, told, other, clock = sink.wake, sink.spawn, sink.other, monotonic_ns

    # All is told before a goroutine is published: else it could run before that, and what is told
    # then would be taken for the present.
    def ready(g: Goroutine[Any]) -> None:
        by = m.g
        wake(clock(), g.id, 0 if by is None else by.id)
        own_ready(g)

    def register(g: Goroutine[Any]) -> None:
        add(g)
        by = m.g
        told(clock(), g.id, function(g.fn), 0 if by is None else by.id)

    def poll(timeout: float | None) -> int:
        began = clock()
        if timeout == 0:
            n = own_poll(0)
            if not n:
                return 0
            what = POLL
        else:
            sleeping[0] = began
            n = own_poll(timeout)
            sleeping[0] = 0
            what = SLEEP
        now = clock()
        # Those it has delivered are the last in the queue, but for what was stolen meanwhile.
        for at in range(-n, 0):
            try:
                id_ = batch[at].id
            except IndexError:
                continue
            wake(now, id_, POLLED)
        other(what, began, now + 1, n, 0)
        return n

    def traced(steal: Stealer, victim: int) -> Stealer:
        def stolen(runnext_too: bool) -> list[Goroutine[Any]]:
            got = steal(runnext_too)
            if got:
                now = clock()
                other(STEAL, now, now, victim, len(got))
            return got

        return stolen

    spawn = make_spawner(m, register)

    def attach() -> None:
        m.ready, m.poller.poll = ready, poll
        spawners[ident] = spawn
        m.stealers[:] = [(traced(steal, victim.id), victim) for steal, victim in own_stealers]

    def detach() -> None:
        m.ready, m.poller.poll = own_ready, own_poll
        spawners[ident] = own_spawn
        m.stealers[:] = own_stealers

    return attach, detach
