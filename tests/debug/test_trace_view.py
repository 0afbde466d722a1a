"""``python -m goroutine trace view``: what is in the page, and that a browser draws it."""

import base64
import gzip
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from itertools import accumulate
from pathlib import Path

import pytest
from debug_support import environment

from goroutine import blocking, chan, debug, go, gosched, sleep, start
from goroutine.debug import trace_write
from goroutine.debug.view import command, page, read

pytestmark = pytest.mark.timeout(60)

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


async def sends(ch, n):
    for i in range(n):
        await ch.send(i)
    ch.close()


async def receives(ch):
    async for _ in ch:
        await gosched()


def traced(path, machines=2):
    async def main():
        for _ in range(2):
            ch = chan()
            g = go(sends, ch, 20)
            await receives(ch)
            await g
        go(sends, chan(), 1)  # waits to the end
        await blocking(int)
        await sleep(0.002)

    with debug.trace(path):
        start(main, machines=machines)
    return path


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return traced(tmp_path_factory.mktemp("traced") / "trace.json")


def view(*arguments):
    return command.main(["view", *map(str, arguments)])


# -- the page, read as the browser does ------------------------------------------------------


def text_of(page, id):
    return re.search(rf'<script type="[^"]*" id="{id}">(.*?)</script>', page, re.DOTALL)[1]


class Page:
    def __init__(self, text):
        self.about = json.loads(text_of(text, "about"))
        raw = zlib.decompress(base64.b64decode(text_of(text, "data")))
        self.lanes = [{} for _ in self.about["lanes"]]
        self.others = {}
        at = 0
        for where, name, count, planes in self.about["columns"]:
            numbers = [0] * count
            for plane in range(planes):
                for i in range(count):
                    numbers[i] += raw[at + i] << 8 * plane
                at += count
            if isinstance(where, list):
                if name == "begin":
                    numbers = list(accumulate(numbers))
                self.lanes[where[0]].setdefault(where[1], {})[name] = numbers
            else:
                self.others.setdefault(where, {})[name] = numbers
        assert at == len(raw)

    def slices(self, what):
        """(lane's name, each column's name: number) of each."""
        for (_, lane), kinds in zip(self.about["lanes"], self.lanes, strict=True):
            columns = kinds.get(what, {})
            for numbers in zip(*columns.values(), strict=True):
                yield lane, dict(zip(columns, numbers, strict=True))

    def goroutine(self, index, name):
        return self.others["goroutine"][name][index]


def ns(microseconds):
    return round(microseconds * 1000)


def check(path, text):
    """The page says what the trace does."""
    page = Page(text)
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    heads = {(e["pid"], e["tid"], ns(e["ts"])): e["id"] for e in events if e["ph"] == "f"}
    tails = {e["id"]: e for e in events if e["ph"] == "s"}
    runnable = {
        (e["tid"], ns(e["ts"]) + ns(e["dur"])): ns(e["ts"])
        for e in events
        if e.get("cat") == "runnable"
    }
    expected = {}
    for e in events:
        if e["ph"] == "X":
            expected.setdefault(e["cat"], []).append(e)

    def of(what):
        return sorted(expected.get(what, []), key=lambda e: (names[e["pid"], e["tid"]], e["ts"]))

    assert expected["run"]
    steps = []
    for e in of("run"):
        begin, args = ns(e["ts"]), e["args"]
        woken = mark = 0
        lane = ""
        tail = tails.get(heads.get((e["pid"], e["tid"], begin)))
        if tail is not None:
            lane = names[tail["pid"], tail["tid"]]
            mark = 1 + begin - ns(tail["ts"])
        if (e["pid"] + 1, args["g"]) not in names:
            woken = mark  # it has no line of its own
        for end in (begin, begin - 1, begin + 1):
            if (args["g"], end) in runnable:
                woken = 1 + begin - runnable[args["g"], end]
        how = [args.get("end", ""), args.get("at", "")]
        where = names[e["pid"], e["tid"]]
        steps.append((where, begin, ns(e["dur"]), args["g"], e["name"], how, woken, lane, mark))
    said = []
    for where, s in page.slices("run"):
        g = s["g"] - 1
        fn = page.about["names"][page.goroutine(g, "fn")]
        lane = page.about["lanes"][s["lane"] - 1][1] if s["lane"] else ""
        how = page.about["ends"][s["end"] - 1]
        id_ = page.goroutine(g, "id")
        said.append((where, s["begin"], s["length"], id_, fn, how, s["woken"], lane, s["mark"]))
    assert sorted(said) == sorted(steps)
    for what, argument in (("poll", "delivered"), ("sleep", "delivered"), ("spin", "found")):
        assert sorted(
            (where, s["begin"], s["length"], s["n"] - 1) for where, s in page.slices(what)
        ) == sorted(
            (
                names[e["pid"], e["tid"]],
                ns(e["ts"]),
                ns(e["dur"]),
                int(e.get("args", {}).get(argument, -1)),
            )
            for e in of(what)
        )
    assert sorted(
        (where, page.about["names"][s["name"] - 1], page.goroutine(s["g"] - 1, "id"))
        for where, s in page.slices("call")
    ) == sorted((names[e["pid"], e["tid"]], e["name"], e["args"]["g"]) for e in of("call"))
    lives = {
        e["tid"]: (ns(e["ts"]), ns(e["ts"]) + ns(e["dur"]), e["args"].get("by", 0))
        for e in of("goroutine")
    }
    columns = page.others["goroutine"]
    assert {
        id_: (begin - 1, end - 1, columns["id"][by - 1] if by else 0)
        for id_, by, begin, end in zip(
            *(columns[name] for name in ("id", "by", "begin", "end")), strict=True
        )
        if end
    } == lives
    return page


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_the_page_says_what_the_trace_does(tmp_path, capsys, machines, name):
    path = traced(tmp_path / name, machines)
    assert view(path) == 0
    target = tmp_path / "trace.html"
    out = capsys.readouterr().out
    assert re.fullmatch(rf"{re.escape(str(target))}: \d+\.\d MB\n", out)
    page = check(path, target.read_text())
    assert [name for _, name in page.about["lanes"]][:machines] == [
        f"M{i}" for i in range(machines)
    ]
    # Who is left waits on after its last step.
    waits = page.others["wait"]
    assert "chan send" in [page.about["ends"][end][0] for end in waits["end"]]


def test_of_many_only_the_steps_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_write, "TRACKS", 2)
    path = traced(tmp_path / "trace.json")
    assert view(path) == 0
    page = check(path, (tmp_path / "trace.html").read_text())
    columns = page.others["goroutine"]
    assert [id_ for id_, end in zip(columns["id"], columns["end"], strict=True) if not end]
    assert any(s["woken"] == s["mark"] > 1 for _, s in page.slices("run"))


def test_to_stdout(trace, capfdbinary):
    assert view(trace, "-o", "-") == 0
    out, err = capfdbinary.readouterr()
    assert err == b""
    check(trace, out.decode())


def test_the_same_page_each_time(trace, tmp_path):
    for name in ("a", "b"):
        assert view("-o", tmp_path / name, trace) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_two_runs(tmp_path):
    async def main():
        await go(gosched)

    with debug.trace(tmp_path / "t.json"):
        start(main, machines=1)
        start(main, machines=1)
    assert view(tmp_path / "t.json", "-o", tmp_path / "page") == 0
    page = Page((tmp_path / "page").read_text())
    assert page.about["lanes"] == [[0, "M0"], [1, "M0"]]
    assert sorted(page.others["goroutine"]["run"]) == [0, 0, 1, 1]


def test_one_that_was_laid_out_anew(trace, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(trace.read_text()), indent=1))
    pages = [page.page(read.read(str(path)), "t") for path in (trace, other)]
    assert pages[0] == pages[1]


def test_what_is_told_late_is_put_in_its_place(trace, tmp_path):
    """What lasts may be told after what came later."""
    whole = json.loads(trace.read_text())
    events = whole["traceEvents"]
    late = [e for e in events if e.get("cat") in ("poll", "sleep", "spin")]
    assert len(late) > 2
    whole["traceEvents"] = [e for e in events if e not in late] + late[::-1]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(whole))
    assert view(other) == 0
    check(trace, other.with_suffix(".html").read_text())


def test_what_was_dropped_is_told(tmp_path, capsys):
    async def main():
        for _ in range(1000):
            await gosched()

    with debug.trace(tmp_path / "t.json", events=100):
        start(main, machines=1)
    assert view(tmp_path / "t.json") == 0
    about = Page((tmp_path / "t.html").read_text()).about
    assert about["about"]["dropped"] > 800


# -- what is written in a trace stays text ----------------------------------------------------

EVIL = "</script><script>document.body.dataset.evil = 1</script><!--<script>\u2028'\"&amp;{{data}}"


def evil(trace, tmp_path):
    """The same with names that would like to be more than that."""
    path = tmp_path / "<img src=x onerror=alert(1)>.json"
    whole = json.loads(trace.read_text())
    whole["otherData"]["python"] = EVIL
    for e in whole["traceEvents"]:
        for place, name in ((e, "name"), (e.get("args", {}), "end"), (e.get("args", {}), "at")):
            if e.get("cat") in ("run", "wait", "call", "goroutine") and name in place:
                place[name] = EVIL + place[name]
    path.write_text(json.dumps(whole))
    return path


def test_names_do_not_break_out(trace, tmp_path):
    path = evil(trace, tmp_path)
    target = tmp_path / "page.html"
    assert view(path, "-o", target) == 0
    text = target.read_text()
    clean = tmp_path / "clean.html"
    assert view(trace, "-o", clean) == 0
    assert text.lower().count("<script") == clean.read_text().lower().count("<script") == 3
    assert "<!--" not in text
    assert "<img" not in text
    names = Page(text).about["names"]
    assert any(name.startswith(EVIL) for name in names)
    assert f"<title>{html.escape(path.name)}</title>" in text


def test_nothing_comes_from_elsewhere(trace, tmp_path):
    assert view(trace, "-o", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|\bsrc=|<link|@import|url\(", text)


# -- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x"],
        ["view"],
        ["view", "a", "b"],
        ["view", "a", "-o"],
        ["view", "-x"],
        ["view", "-o", "b"],
    ],
)
def test_wrong_usage(arguments, capsys):
    assert command.main(arguments) == 2
    usage = "usage: python -m goroutine trace view FILE [-o PAGE]\n"
    assert capsys.readouterr() == ("", usage)


def test_help(capsys):
    assert command.main(["view", "--help"]) == 0


def test_as_a_command(trace, tmp_path):
    """All of it, in a process of its own; and nothing of it is there without being asked for."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "goroutine", "trace", "view", str(tmp_path / "no")],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"goroutine: can't read {tmp_path}/no: No such file or directory\n"
    code = "import sys, goroutine.debug; print([m for m in sys.modules if 'debug.view' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout == "[]\n"


def refused(path, capsys, *more):
    assert view(path, *more) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("goroutine: ")
    return err.removeprefix("goroutine: ").strip().replace(str(path), "FILE")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "{}",
        "{",
        '{"traceEvents": []}',
        '{"otherData": {"by": "x"}}',
        "\x00\xff",
        "1" * 5000,
        '{"otherData": {"by": "goroutine.debug.trace"}, "traceEvents": 1}',
        '{"otherData": ' + "[" * 100_000,
    ],
)
def test_no_trace(text, tmp_path, capsys):
    path = tmp_path / "t.json"
    path.write_bytes(text.encode("latin-1"))
    assert refused(path, capsys).startswith("FILE is no trace")
    assert not (tmp_path / "t.html").exists()


@pytest.mark.parametrize("part", [0.3, 0.7, -1, -4])
def test_cut_off(trace, tmp_path, capsys, part):
    raw = trace.read_bytes()
    path = tmp_path / "t.json"
    path.write_bytes(raw[: part if part < 0 else int(part * len(raw))].rstrip(b"\n]}"))
    assert "FILE is cut off, after " in refused(path, capsys)


def test_cut_off_compressed(trace, tmp_path, capsys):
    raw = gzip.compress(trace.read_bytes())
    path = tmp_path / "t.json.gz"
    path.write_bytes(raw[: len(raw) // 2])
    assert "FILE is cut off, after " in refused(path, capsys)
    path.write_bytes(raw[:100] + bytes(1000))
    assert refused(path, capsys).startswith("FILE is")


@pytest.mark.parametrize(
    "event",
    [
        "5",
        "null",
        "{}",
        '{"ph": "X"}',
        '{"ph":"X","pid":1,"tid":1,"name":"f","cat":"run","ts":NaN,"dur":1,"args":{"g":1}}',
        '{"ph":"X","pid":1,"tid":1,"name":"f","cat":"run","ts":-5,"dur":1,"args":{"g":1}}',
        '{"ph":"X","pid":1,"tid":1,"name":"f","cat":"run","ts":1e300,"dur":1,"args":{"g":1}}',
        '{"ph":"X","pid":1,"tid":1,"name":"f","cat":"run","ts":1,"dur":1,"args":{"g":-7}}',
        '{"ph":"X","pid":1,"tid":1,"name":"f","cat":"run","ts":1,"dur":1,"args":7}',
        '{"ph":"X","pid":1,"tid":[],"name":"f","cat":"poll","ts":1,"dur":1}',
    ],
)
def test_damaged(trace, tmp_path, capsys, event):
    path = tmp_path / "t.json"
    lines = trace.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:10], event + ",\n", *lines[10:]]))
    assert refused(path, capsys).startswith("FILE is damaged: ")


def test_nothing_in_it(tmp_path, capsys):
    with debug.trace(tmp_path / "t.json"):
        pass
    assert "FILE has no events" in refused(tmp_path / "t.json", capsys)


def test_a_folder_as_a_file(trace, tmp_path, capsys):
    assert refused(tmp_path, capsys) == "can't read FILE: Is a directory"
    assert refused(trace, capsys, "-o", tmp_path).startswith(f"can't write {tmp_path}: ")
    nowhere = tmp_path / "no" / "page.html"
    assert "No such file" in refused(trace, capsys, "-o", nowhere)


def test_the_trace_is_not_written_over(trace, tmp_path, capsys):
    path = tmp_path / "t.html"
    shutil.copy(trace, path)
    assert "is the trace itself" in refused(path, capsys, "-o", path)
    assert path.read_bytes() == trace.read_bytes()


def test_a_reader_that_leaves(trace, monkeypatch):
    """``| head``"""

    class Gone(io.BytesIO):
        def flush(self):
            raise BrokenPipeError

    out = io.TextIOWrapper(Gone())
    closed = []
    monkeypatch.setattr(os, "dup2", lambda *fds: closed.append(fds))
    monkeypatch.setattr(sys, "stdout", out)
    assert view(trace, "-o", "-") == 1
    ((fd, of),) = closed
    os.close(fd)
    assert of == 1
    monkeypatch.undo()
    out.buffer.flush = lambda: None


# -- in a browser -----------------------------------------------------------------------------


def opened(path, tmp_path, *more, see=""):
    """The body's attributes, after its script has run."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'chromium'}",
            "--window-size=1600,900",
            "--virtual-time-budget=5000",
            *more,
            "--dump-dom",
            path.as_uri() + see,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=50,
        check=True,
    )
    body = re.search(r"<body([^>]*)>", done.stdout)[1]
    found = re.findall(r'data-(\w+)="([^"]*)"', body)
    return {name: html.unescape(value) for name, value in found}, done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_browser_draws_it(trace, tmp_path):
    """With names that would like to be more, and a goroutine selected."""
    path = evil(trace, tmp_path)
    target = tmp_path / "page.html"
    assert view(path, "-o", target) == 0
    said, dom = opened(target, tmp_path, see="#g=1")
    assert "error" not in said
    assert "evil" not in said
    assert said["ready"] == "1"
    assert "<img" not in dom
    whole = Page(target.read_text())
    steps = list(whole.slices("run"))
    assert int(said["steps"]) == len(steps)
    assert int(said["lanes"]) == len(whole.about["lanes"])
    assert int(said["goroutines"]) == len(whole.others["goroutine"]["id"])
    assert said["selected"] == "1"
    assert int(said["drawn"]) > 20
    functions = json.loads(said["functions"])
    assert sum(f["runs"] for f in functions) == len(steps)
    assert sum(f["running"] for f in functions) == sum(s["length"] for _, s in steps)
    # What it makes of waits is what the trace says of them.
    events = json.loads(path.read_text())["traceEvents"]
    for what, kind in (("waiting", "wait"), ("runnable", "runnable")):
        expected = sum(ns(e["dur"]) for e in events if e.get("cat") == kind)
        assert sum(f[what] for f in functions) == pytest.approx(expected, abs=3 * len(steps) + 3)
    assert "goroutine 1 " in dom


def test_the_scripts_are_in_the_package():
    folder = Path(page.__file__).parent
    for name in ("page.html", "page.css", *page.SCRIPTS):
        assert (folder / name).is_file()
