"""The page of a trace: one file, with all that it needs in it.

The numbers are in it as text: each column in planes, first the lowest byte of every number, then
the next one, as many as the largest needs; all of them after each other, deflated, in base64.
(Times are differences.) So they are read into typed arrays in no time, and equal bytes beside
each other make deflate's work light.

What stands in a trace is anybody's text. It is in the page as JSON, without a ``<`` in it, and the
script puts it only where text is text. Beside, the page's policy has browsers run that one script
and no other, and ask no server for anything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from array import array
from collections.abc import Iterable
from importlib.resources import files
from itertools import pairwise
from typing import Any

from .read import COLUMNS, Trace

__all__ = ["page"]

SCRIPTS = ("data.js", "draw.js", "goroutines.js", "panel.js", "page.js")


def page(trace: Trace, title: str) -> str:
    """The text of the page."""
    here = files(__package__)
    script = '"use strict";\n' + "\n".join((here / name).read_text("utf-8") for name in SCRIPTS)
    style = (here / "page.css").read_text("utf-8")
    about, data = pack(trace, title)
    parts = {
        "title": html.escape(title),
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}",
        "style": style,
        "about": json.dumps(about, separators=(",", ":")).replace("<", "\\u003c"),
        "data": base64.b64encode(data).decode(),
        "script": script,
    }
    text = (here / "page.html").read_text("utf-8")
    first, *rest = text.split("{{")
    pieces = [first]
    for piece in rest:
        name, after = piece.split("}}", 1)
        pieces += parts[name], after
    return "".join(pieces)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def pack(trace: Trace, title: str) -> tuple[dict[str, Any], bytes]:
    """What is in the page: texts and where each column is; and the columns, deflated."""
    columns: list[list[Any]] = []
    deflate = zlib.compressobj(6)
    packed: list[bytes] = []

    def put(where: Any, name: str, numbers: Iterable[int], *, differences: bool = False) -> None:
        column = array("q", numbers)
        if differences and column:
            column = array("q", [column[0], *(b - a for a, b in pairwise(column))])
        planes = (max(column, default=0).bit_length() + 7) // 8
        raw = column.tobytes()
        packed.extend(deflate.compress(raw[plane::8]) for plane in range(planes))
        columns.append([where, name, len(column), planes])

    for lane in trace.lanes:
        for what, slices in lane.slices.items():
            for name, numbers in zip(COLUMNS[what], slices, strict=True):
                put([lane.index, what], name, numbers, differences=name == "begin")
    gs = trace.goroutines
    put("goroutine", "id", (g.id for g in gs))
    put("goroutine", "run", (g.run for g in gs))
    put("goroutine", "fn", (g.fn for g in gs))
    put("goroutine", "by", (g.by for g in gs))
    put("goroutine", "begin", (1 + g.since for g in gs))
    put("goroutine", "end", (1 + g.end for g in gs))
    for what, spans in (("wait", trace.waits), ("runnable", trace.runnables)):
        put(what, "g", (g for g, _ in spans))
        put(what, "end", (span[0] for _, span in spans))
        put(what, "begin", (span[1] for _, span in spans))
        put(what, "length", (span[2] for _, span in spans))
    packed.append(deflate.flush())
    about = {
        "title": title,
        "about": trace.about,
        "lanes": [[lane.run, lane.name or f"thread {lane.order}"] for lane in trace.lanes],
        "names": list(trace.names),
        "ends": [list(end) for end in trace.ends],
        "columns": columns,
    }
    return about, b"".join(packed)
