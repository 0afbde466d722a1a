"""A trace as columns of numbers, of what `debug.trace` wrote.

The file has an event a line, and is read so, some thousand at a time: a million of events are too
many for one tree of dicts. One that another tool has laid out anew, with the same events in the
same order, is read as a whole.

What is kept of it is what machines did, and how each step came about. Where goroutines waited
follows from that: from the end of one step, which says for what, until somebody woke it for the
next. Only what came before a goroutine's first step, and after its last one, is kept beside.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from array import array
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import IO, Any

__all__ = ["COLUMNS", "Goroutine", "Lane", "NotATrace", "Trace", "read"]

BY = "goroutine.debug.trace"

LINES = 2000
"""As many events are read at a time."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "run": ("begin", "length", "g", "end", "woken", "lane", "mark"),
    "poll": ("begin", "length", "n"),
    "sleep": ("begin", "length", "n"),
    "spin": ("begin", "length", "n"),
    "gc": ("begin", "length", "generation", "n"),
    "call": ("begin", "length", "g", "name"),
    "steal": ("begin", "length", "lane", "n"),
}
"""What is kept of each slice. Times are in nanoseconds since the trace began; ``woken`` is how
long before its begin a step could have run, and ``mark`` how long before it the arrow begins, on
``lane``. ``g``, ``end``, ``name`` are indices. All but begin and length are one more than what
they say, and 0 where it isn't known."""

_Span = tuple[int, int, int]  # what, begin, length


class NotATrace(Exception):
    """Says what is wrong with the file, in words that follow its name."""


class Lane:
    """A machine, a thread of blocking calls, or the collector."""

    def __init__(self, run: int, tid: int) -> None:
        self.run = run
        self.order = tid
        self.name = ""
        self.index = 0
        self.slices: dict[str, list[array[int]]] = {}

    def add(self, what: str, *numbers: int) -> None:
        columns = self.slices.get(what)
        if columns is None:
            columns = self.slices[what] = [array("q") for _ in COLUMNS[what]]
        for column, number in zip(columns, numbers, strict=True):
            column.append(number)

    def sort(self) -> None:
        """By begin. (They are told when they are over; most are in order.)"""
        for what, columns in self.slices.items():
            begins = columns[0]
            if any(b < a for a, b in pairwise(begins)):
                order = sorted(range(len(begins)), key=begins.__getitem__)
                self.slices[what] = [array("q", map(c.__getitem__, order)) for c in columns]


class Goroutine:
    """Of one goroutine what its steps don't say."""

    __slots__ = ("by", "drawn", "end", "fn", "id", "run", "runnable", "since", "steps", "waited")

    def __init__(self, run: int, id_: int) -> None:
        self.run = run
        self.id = id_
        self.fn = 0
        self.by = 0  # one more than the index of who made it
        self.since = -1  # its life, as far as it is in the trace
        self.end = -1
        self.steps = 0
        self.drawn = False  # whether it has a line of its own, with what it waited for
        self.waited: _Span | None = None  # the last wait and the last time it was runnable,
        self.runnable: _Span | None = None  # while no step has followed


class Trace:
    """All of it. (Lanes are in the order in which they are drawn.)"""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.lanes: list[Lane] = []
        self.goroutines: list[Goroutine] = []
        self.names: dict[str, int] = {"": 0}
        self.ends: dict[tuple[str, str], int] = {}
        self.waits: list[tuple[int, _Span]] = []  # before a first step or after a last one
        self.runnables: list[tuple[int, _Span]] = []


def read(path: str) -> Trace:
    """OSError, or NotATrace."""
    with open(path, "rb") as file:
        raw: IO[bytes] = file
        if file.peek(2)[:2] == b"\x1f\x8b":
            raw = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
        n = 0
        try:
            with io.TextIOWrapper(raw, "utf-8") as text:
                about, batches = _open(text)
                reader = _Reader(about)
                for batch in batches:
                    for event in batch:
                        reader.event(event)
                    n += len(batch)
        except EOFError:
            raise NotATrace(f"is cut off, after {n} events") from None
        except (gzip.BadGzipFile, zlib.error, UnicodeDecodeError):
            raise NotATrace("is no trace, or is damaged") from None
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            raise NotATrace(f"is damaged: after {n} events comes what is none") from None
    trace = reader.done()
    if not trace.lanes:
        raise NotATrace("has no events: nothing ran while it was made")
    return trace


def _open(text: IO[str]) -> tuple[dict[str, Any], Iterator[list[Any]]]:
    """What the trace says of itself, and its events."""
    begin = text.readline(1 << 16)
    if not begin.lstrip().startswith("{"):
        raise NotATrace("is no trace of goroutine.debug.trace")
    if begin.startswith('{"displayTimeUnit"') and begin.endswith(",\n"):
        try:
            about = json.loads(begin[:-2] + "}")
        except ValueError:
            raise NotATrace("is no trace of goroutine.debug.trace") from None
        if text.readline(100) == '"traceEvents": [\n':
            return _about(about), _lines(text)
        text.seek(0)
        begin = ""
    try:
        whole = json.loads(begin + text.read())
    except (RecursionError, ValueError):
        raise NotATrace("is no trace, or is cut off") from None
    about = _about(whole)
    if not isinstance(whole.get("traceEvents"), list):
        raise NotATrace("is no trace of goroutine.debug.trace")
    return about, iter([whole["traceEvents"]])


def _about(whole: Any) -> dict[str, Any]:
    about = whole.get("otherData") if isinstance(whole, dict) else None
    if not isinstance(about, dict) or about.get("by") != BY:
        raise NotATrace("is no trace of goroutine.debug.trace")
    return about


def _lines(text: IO[str]) -> Iterator[list[Any]]:
    n = 0
    ended = False
    while not ended:
        lines = list(islice(text, LINES))
        last = not lines or len(lines) < LINES
        while lines and not lines[-1].strip():
            lines.pop()
        if lines and lines[-1].rstrip() == "]}":
            lines.pop()
            ended = True
        try:
            batch = json.loads("[" + "".join(lines).rstrip().removesuffix(",") + "]")
        except ValueError:
            if last and not ended:
                raise NotATrace(f"is cut off, after some {n + len(lines) - 1} events") from None
            raise
        yield batch
        n += len(batch)
        if last and not ended:
            raise NotATrace(f"is cut off, after {n} events")


def _ns(microseconds: float) -> int:
    ns = round(microseconds * 1000)
    if not 0 <= ns < 1 << 53:
        raise ValueError("not a time")
    return ns


class _Reader:
    def __init__(self, about: dict[str, Any]) -> None:
        self.trace = Trace()
        self.trace.about = about
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._gs: dict[tuple[int, int], int] = {}
        # What is told before the step that it is about:
        self._tails: dict[Any, tuple[Lane, int]] = {}
        self._heads: dict[tuple[int, int], tuple[Lane, int, int]] = {}

    def event(self, e: dict[str, Any]) -> None:
        match e["ph"]:
            case "X":
                self._slice(e)
            case "s":
                self._tails[e["id"]] = self._lane(e), _ns(e["ts"])
            case "f":
                tail = self._tails.pop(e["id"], None)
                if tail is not None:
                    self._heads[e["pid"], e["tid"]] = *tail, _ns(e["ts"])
            case "i" if e["name"] == "steal":
                args = e["args"]
                victim = self._of(e["pid"], 1 + int(args["from"][1:]))
                n = 1 + int(args["goroutines"])
                self._lane(e).add("steal", _ns(e["ts"]), 0, 1 + victim.order, n)
            case "M" if e["name"] == "thread_name":
                self._name(e)

    def _slice(self, e: dict[str, Any]) -> None:
        begin, length = _ns(e["ts"]), _ns(e["dur"])
        args = e.get("args") or {}
        match e["cat"]:
            case "run":
                self._run(e, args, begin, length)
            case "poll" | "sleep" as what:
                self._lane(e).add(what, begin, length, 1 + int(args.get("delivered", -1)))
            case "spin":
                self._lane(e).add("spin", begin, length, 1 + int(args.get("found", -1)))
            case "gc":
                generation, found = 1 + int(args["generation"]), 1 + int(args["found"])
                self._lane(e).add("gc", begin, length, generation, found)
            case "call":
                g = 1 + self._g(e["pid"], args["g"]) if args.get("g") else 0
                self._lane(e).add("call", begin, length, g, 1 + self._text(e["name"]))
            case "wait":
                end = self._end(e["name"], args.get("at", ""))
                self._goroutine(e).waited = end, begin, length
            case "runnable":
                self._goroutine(e).runnable = 0, begin, length
            case "goroutine":
                life = self._goroutine(e)
                life.fn = life.fn or self._text(e["name"])
                life.since, life.end = begin, begin + length
                if "by" in args:
                    life.by = 1 + self._g(e["pid"], args["by"])

    def _run(self, e: dict[str, Any], args: dict[str, Any], begin: int, length: int) -> None:
        index = self._g(e["pid"], args["g"])
        g = self.trace.goroutines[index]
        g.fn = self._text(e["name"]) or g.fn
        if not g.steps and g.waited is not None:
            self.trace.waits.append((index, g.waited))
        woken = mark = lane = 0
        if g.runnable is not None and abs(g.runnable[1] + g.runnable[2] - begin) <= 1:
            woken = 1 + max(0, begin - g.runnable[1])
        head = self._heads.pop((e["pid"], e["tid"]), None)
        if head is not None and head[2] == begin:
            lane, mark = 1 + head[0].order, 1 + max(0, begin - head[1])
            if not g.drawn:
                woken = mark
        g.waited = g.runnable = None
        g.steps += 1
        end = 1 + self._end(args.get("end", ""), args.get("at", ""))
        self._lane(e).add("run", begin, length, 1 + index, end, woken, lane, mark)

    # -- what they are about ------------------------------------------------------------------

    def _lane(self, e: dict[str, Any]) -> Lane:
        return self._of(e["pid"], e["tid"])

    def _of(self, pid: int, tid: int) -> Lane:
        lane = self._lanes.get((pid, tid))
        if lane is None:
            lane = self._lanes[pid, tid] = Lane((int(pid) - 1) // 2, int(tid))
        return lane

    def _goroutine(self, e: dict[str, Any]) -> Goroutine:
        return self.trace.goroutines[self._g(e["pid"], e["tid"])]

    def _g(self, pid: int, id_: int) -> int:
        run = (pid - 1) // 2
        index = self._gs.get((run, id_))
        if index is None:
            if not 0 < id_ < 1 << 53:
                raise ValueError("not a goroutine")
            index = self._gs[run, id_] = len(self.trace.goroutines)
            self.trace.goroutines.append(Goroutine(int(run), int(id_)))
        return index

    def _text(self, text: str) -> int:
        return self.trace.names.setdefault(str(text), len(self.trace.names))

    def _end(self, end: str, at: str) -> int:
        return self.trace.ends.setdefault((str(end), str(at)), len(self.trace.ends))

    def _name(self, e: dict[str, Any]) -> None:
        if e["pid"] % 2:
            self._lane(e).name = str(e["args"]["name"])
        else:
            self._goroutine(e).drawn = True

    def done(self) -> Trace:
        trace = self.trace
        for index, g in enumerate(trace.goroutines):
            if g.waited is not None:
                trace.waits.append((index, g.waited))
            if g.runnable is not None:
                trace.runnables.append((index, g.runnable))
        lanes = sorted(self._lanes.values(), key=lambda lane: (lane.run, lane.order))
        for index, lane in enumerate(lanes):
            lane.index = index
        trace.lanes = lanes
        for lane in lanes:
            lane.sort()
            # Lanes that a slice speaks of: by their place in the list, now that it is known.
            places = {other.order: other.index for other in lanes if other.run == lane.run}
            for what, columns in lane.slices.items():
                names = COLUMNS[what]
                if "lane" not in names:
                    continue
                at = names.index("lane")
                columns[at] = array("q", (1 + places[n - 1] if n else 0 for n in columns[at]))
        return trace
