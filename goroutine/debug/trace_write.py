"""A trace as a file: the JSON of Chrome's trace events, which ui.perfetto.dev opens.

Each run has two processes in it. "machines" has a thread for each machine, with a slice for each
step, each poll and each sleep; one for each thread of blocking calls; and one for the collector.
"goroutines" has a thread for each goroutine: its life, and in it what it waited for. Arrows go from
who woke a goroutine, or made it, to its next step.

The events of all machines are merged by time, and one pass over them follows every goroutine from
one state to the next. Nothing else is kept, so that a long trace needs no more memory than it had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from heapq import merge
from typing import TYPE_CHECKING, Any

from ..runtime.probe import END, PARK, POLL, SLEEP, SPIN, STEAL, YIELD, Place
from .trace_record import FN, PLACE, SPAWN, TRACKS, WAKE, WAS

if TYPE_CHECKING:
    from .trace_record import Recorder, RunRecord

__all__ = ["write"]

_CALL, _FOREIGN = 11, 12
_MASK = (1 << FN - PLACE) - 1

_POOL, _COLLECTOR = 10_001, 20_001  # thread numbers, beside the machines'

_quote = lru_cache(10_000)(json.dumps)

Event = tuple[int, int, int, int, int]
"""As in a Recorder, and the number of the machine."""


def write(runs: list[RunRecord], put: Callable[[str], object], about: dict[str, Any]) -> None:
    """The whole file, in pieces. ``about`` is put into it as it is."""
    put('{"displayTimeUnit": "ns", "otherData": ' + json.dumps(about) + ',\n"traceEvents": [\n')
    zero = runs[0].began if runs else 0
    lines = _Lines(put, zero)
    for number, run in enumerate(runs):
        _Run(run, number, lines).write()
    lines.end()
    put("\n]}\n")


class _Lines:
    """Events, one a line."""

    def __init__(self, put: Callable[[str], object], zero: int) -> None:
        self._put = put
        self._zero = zero
        self._lines: list[str] = []
        self._first = True
        self.arrows = 0

    def add(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) >= 1000:
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            self._put(("" if self._first else ",\n") + ",\n".join(self._lines))
            self._lines.clear()
            self._first = False

    end = _flush

    def time(self, at: int) -> str:
        """Microseconds since the trace began, to the nanosecond."""
        at = max(0, at - self._zero)
        return f"{at // 1000}.{at % 1000:03d}"

    def slice(
        self, pid: int, tid: int, name: str, what: str, began: int, ended: int, args: str = ""
    ) -> None:
        began = max(began, self._zero)
        length = max(0, ended - began)
        self.add(
            f'{{"ph":"X","pid":{pid},"tid":{tid},"name":{_quote(name)},"cat":"{what}",'
            f'"ts":{self.time(began)},"dur":{length // 1000}.{length % 1000:03d}'
            + (f',"args":{{{args}}}}}' if args else "}")
        )

    def instant(self, pid: int, tid: int, name: str, at: int, args: str) -> None:
        self.add(
            f'{{"ph":"i","s":"t","pid":{pid},"tid":{tid},"name":{_quote(name)},'
            f'"cat":"machine","ts":{self.time(at)},"args":{{{args}}}}}'
        )

    def arrow(self, pid: int, name: str, tid: int, at: int, to: int, then: int) -> None:
        self.arrows += 1
        head = f'"pid":{pid},"id":{self.arrows},"name":"{name}","cat":"wake"'
        self.add(f'{{"ph":"s",{head},"tid":{tid},"ts":{self.time(at)}}}')
        self.add(f'{{"ph":"f","bp":"e",{head},"tid":{to},"ts":{self.time(then)}}}')

    def named(self, pid: int, tid: int | None, name: str, order: int) -> None:
        of = "process" if tid is None else "thread"
        where = f'"ph":"M","pid":{pid},"tid":{tid or 0}'
        self.add(f'{{{where},"name":"{of}_name","args":{{"name":{_quote(name)}}}}}')
        self.add(f'{{{where},"name":"{of}_sort_index","args":{{"sort_index":{order}}}}}')


class _G:
    """What is known of a goroutine at some instant."""

    __slots__ = ("born", "fn", "made", "place", "since", "woken")

    def __init__(self, born: int) -> None:
        self.born = born
        self.fn = ""
        self.made = ""
        self.since = 0  # when it parked; 0 if it hasn't, as far as is known
        self.place: Place | None = None
        # When, by whom (0: the machine), and where the arrow begins (None: nowhere).
        self.woken: tuple[int, int, int | None, int] | None = None


class _Run:
    def __init__(self, run: RunRecord, number: int, lines: _Lines) -> None:
        self._run = run
        self._lines = lines
        self._machines, self._goroutines = 2 * number + 1, 2 * number + 2  # pids
        self._title = f" of run {number + 1}" if number else ""
        self._gs: dict[int, _G] = {}
        self._tracks: set[int] = set()
        self._pool: dict[int, int] = {}  # thread ident -> its number here
        self._calls: dict[int, tuple[int, int]] = {}  # goroutine -> its last call: thread, end
        self._names: dict[int, tuple[list[str], list[Place]]] = {}
        self._latest: dict[int, tuple[int, int]] = {}  # machine -> begin and end of its last step
        self._running: set[int] = set()  # when it ended
        self._at = cache(_at)

    def write(self) -> None:
        run, lines = self._run, self._lines
        lines.named(self._machines, None, "machines" + self._title, 2 * self._machines)
        lines.named(self._goroutines, None, "goroutines" + self._title, 2 * self._machines + 1)
        for number in range(run.count):
            lines.named(self._machines, 1 + number, f"M{number}", number)
        streams: list[Iterable[Event]] = [
            _in_order(recorder, number) for number, recorder in list(run.recorders.items())
        ]
        for number, recorder in list(run.recorders.items()):
            self._names[number] = recorder.names.fns, recorder.names.places
        streams.append((at, _FOREIGN, id_, ident, -1) for at, id_, ident in list(run.wakes))
        calls = sorted(run.calls.copy(), key=lambda call: call[1])
        streams.append((call[1], _CALL, i, 0, -1) for i, call in enumerate(calls))
        self._first()
        do: dict[int, Callable[[Event], None]] = {
            PARK: self._step,
            YIELD: self._step,
            END: self._step,
            WAS: self._was,
            WAKE: self._wake,
            SPAWN: self._spawn,
            POLL: self._polled,
            SLEEP: self._slept,
            SPIN: self._spun,
            STEAL: self._stole,
            _FOREIGN: self._foreign,
            _CALL: lambda event: self._call(calls[event[2]]),
        }
        for event in merge(*streams):
            if event[0] >= run.ended:
                continue  # a machine that had not heard yet that the trace is over
            do[event[1] & 15](event)
        for began, ended, generation, found in list(run.collections):
            args = f'"generation":{generation},"found":{found}'
            lines.slice(self._machines, _COLLECTOR, "GC", "gc", began, ended, args)
        if run.collections:
            lines.named(self._machines, _COLLECTOR, "collector", _COLLECTOR)
        self._last()

    def _first(self) -> None:
        """What ran when the trace began, to the end of its step: that is not in the events."""
        run = self._run
        for number, (id_, fn) in run.first.items():
            recorder = run.recorders.get(number)
            if not id_ or recorder is None:
                continue
            g = self._goroutine(id_, run.began)
            g.fn = fn
            args = f'"g":{id_}'
            if number == run.inside:  # it began the trace, and ended it in the same step
                ended = run.ended
                self._running.add(id_)
                args += ',"end":"runs on"'
            else:
                g.since = ended = recorder.since
            self._lines.slice(self._machines, 1 + number, fn, "run", run.began, ended, args)

    def _goroutine(self, id_: int, born: int) -> _G:
        g = self._gs.get(id_)
        if g is None:
            g = self._gs[id_] = _G(born)
        return g

    # -- events -------------------------------------------------------------------------------

    def _spawn(self, event: Event) -> None:
        at, what, id_, by, m = event
        g = self._gs[id_] = _G(at)
        g.fn = self._names[m][0][what >> FN]
        g.made = f',"by":{by}' if by else ""
        g.woken = (at, by, 1 + m if by else None, at)

    def _was(self, event: Event) -> None:
        _, what, id_, _, m = event
        g = self._goroutine(id_, self._run.began)
        fns, places = self._names[m]
        if g.place is None:
            g.fn = fns[what >> FN]
            place = places[what >> PLACE & _MASK]
            if place.reason:
                g.place = place
                g.since = g.since or self._run.began

    def _wake(self, event: Event) -> None:
        at, _, id_, by, m = event
        g = self._goroutine(id_, self._run.began)
        if g.woken is None:
            # (What a poll delivers has the time of its end.)
            # A commit, too, may wake somebody: that is between two steps.
            mark = min(at, self._latest.get(m, (at, at))[1] - 1) if by > 0 else at
            g.woken = (at, max(by, 0), 1 + m if by else None, mark)

    def _foreign(self, event: Event) -> None:
        at, _, id_, ident, _ = event
        g = self._goroutine(id_, at if id_ == 1 else self._run.began)
        if g.woken is None:
            thread, ended = self._calls.get(id_, (0, 0))
            if thread and self._pool.get(ident) == thread:
                g.woken = (at, 0, thread, ended - 1)
            else:
                g.woken = (at, 0, None, at)

    def _step(self, event: Event) -> None:
        began, what, id_, length, m = event
        lines, how = self._lines, what & 15
        fns, places = self._names[m]
        ended = began + length
        self._latest[m] = began, ended
        g = self._gs.get(id_)
        if g is None:
            g = self._gs[id_] = _G(self._run.began)
        fn = g.fn = fns[what >> FN]
        own = self._track(id_, fn)
        woken = g.woken
        by = ""
        if woken is not None:
            at, waker, thread, mark = woken
            by = f',"by":{waker}' if waker else ""
            if thread is not None:
                lines.arrow(self._machines, "wake", thread, mark, 1 + m, began)
        else:
            at = began
        if own:
            if g.since:
                self._waited(id_, g, at)
            if woken is not None and at < began:
                lines.slice(self._goroutines, id_, "runnable", "runnable", at, began)
        args = f'"g":{id_}{by}'
        if how == PARK:
            place = places[what >> PLACE & _MASK]
            args += f',"end":{_quote(place.reason or "waits")}{self._at(place)}'
            g.place, g.since, g.woken = place, ended, None
        elif how == YIELD:
            args += ',"end":"gives way"'
            g.place, g.since, g.woken = None, 0, (ended, 0, None, 0)
        else:
            args += ',"end":"ends"'
            if own:
                self._lived(id_, g, ended)
            del self._gs[id_]
        lines.slice(self._machines, 1 + m, fn, "run", began, ended, args)

    def _polled(self, event: Event) -> None:
        began, _, n, length, m = event
        args = f'"delivered":{n}'
        self._lines.slice(self._machines, 1 + m, "poll", "poll", began, began + length, args)

    def _slept(self, event: Event) -> None:
        began, _, n, length, m = event
        args = f'"delivered":{n}'
        self._lines.slice(self._machines, 1 + m, "asleep", "sleep", began, began + length, args)

    def _spun(self, event: Event) -> None:
        began, _, found, length, m = event
        args = f'"found":{"true" if found else "false"}'
        self._lines.slice(
            self._machines, 1 + m, "looks for work", "spin", began, began + length, args
        )

    def _stole(self, event: Event) -> None:
        at, what, victim, _, m = event
        args = f'"from":"M{victim}","goroutines":{what >> FN}'
        self._lines.instant(self._machines, 1 + m, "steal", at, args)

    def _call(self, call: tuple[int, int, int, int, str]) -> None:
        began, ended, ident, id_, name = call
        thread = self._pool.get(ident)
        if thread is None:
            thread = self._pool[ident] = _POOL + len(self._pool)
            title = f"blocking {len(self._pool)}"
            self._lines.named(self._machines, thread, title, thread)
        self._calls[id_] = thread, ended
        self._lines.slice(self._machines, thread, name, "call", began, ended, f'"g":{id_}')

    # -- goroutines ---------------------------------------------------------------------------

    def _track(self, id_: int, fn: str) -> bool:
        """Whether it has a line of its own."""
        tracks = self._tracks
        if id_ in tracks:
            return True
        if len(tracks) >= TRACKS:
            return False
        tracks.add(id_)
        self._lines.named(self._goroutines, id_, f"{id_} {fn}", id_)
        return True

    def _waited(self, id_: int, g: _G, until: int) -> None:
        place = g.place
        reason = "waits" if place is None else place.reason or "waits"
        args = "" if place is None else self._at(place)[1:]
        self._lines.slice(self._goroutines, id_, reason, "wait", g.since, until, args)

    def _lived(self, id_: int, g: _G, ended: int) -> None:
        args = f'"g":{id_}{g.made}'
        self._lines.slice(self._goroutines, id_, g.fn, "goroutine", g.born, ended, args)

    def _last(self) -> None:
        """What goes on when the trace ends."""
        run, lines = self._run, self._lines
        end, running = run.ended, self._running
        for number, (sleeping, id_) in run.last.items():
            if number not in self._names:
                continue
            if sleeping:
                lines.slice(self._machines, 1 + number, "asleep", "sleep", sleeping, end)
            g = self._gs.get(id_)
            if g is None or id_ in running or (g.since and g.woken is None):
                continue  # nothing, or it was over just then
            # It ran on since it was woken, or since the last thing that is known of its machine.
            running.add(id_)
            since = max(self._latest.get(number, (0, 0))[1], g.woken[0] if g.woken else g.born)
            if g.since and self._track(id_, g.fn):
                self._waited(id_, g, since if g.woken is None else g.woken[0])
            args = f'"g":{id_},"end":"runs on"'
            lines.slice(self._machines, 1 + number, g.fn, "run", since, end, args)
        for id_, name in run.left:
            self._goroutine(id_, run.began).fn = name
        for id_, g in self._gs.items():
            if self._track(id_, g.fn):
                if id_ not in running:
                    if g.since:
                        self._waited(id_, g, end if g.woken is None else g.woken[0])
                    if g.woken is not None:
                        lines.slice(self._goroutines, id_, "runnable", "runnable", g.woken[0], end)
                self._lived(id_, g, end)


def _at(place: Place) -> str:
    if place.code is None:
        return ""
    where = f"{place.code.co_qualname} ({place.code.co_filename}:{place.line})"
    return f',"at":{_quote(where)}'


def _in_order(recorder: Recorder, number: int) -> Iterator[Event]:
    """By when they began. (What lasts is told when it is over, after what was within.)"""
    within: list[Event] = []
    for at, what, a, b in recorder.events():
        event = (at, what, a, b, number)
        if what & 15 in (WAKE, SPAWN, STEAL):
            within.append(event)
            continue
        if within:
            within.append(event)
            within.sort()
            yield from within
            within.clear()
        else:
            yield event
    yield from within
