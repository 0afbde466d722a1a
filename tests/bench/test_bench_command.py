"""`goroutine-bench` as a user has it: exit status, output, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goroutine.bench import child, facts
from goroutine.bench.__main__ import main

SHORT = ["--seconds", "0.2", "--connections", "4"]


def children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except (FileNotFoundError, ProcessLookupError):
            pass  # a thread that was joined may take a moment to be gone
    return found


@pytest.fixture(autouse=True)
def _no_child_left_behind() -> Any:
    before = children()
    yield
    assert children() <= before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "BENCHMARK"),
        (["swim"], "invalid choice: 'swim'"),
        (["echo", "--io", "kqueue"], "--io"),
        (["echo", "--machines", "0"], "--machines: must be from 1 to 1,024, not 0"),
        (["echo", "--connections", "x"], "--connections: not a number: 'x'"),
        (["echo", "--size", "0"], "--size: must be from 1"),
        (["echo", "--seconds", "-1"], "--seconds"),
        (["echo", "--seconds", "nan"], "--seconds: must be from 0.05 to 3,600, not nan"),
        (["echo", "--seconds", "soon"], "--seconds: not a number"),
        (["echo", "--load-processes", "65"], "--load-processes"),
        (["echo", "--load-processes", "5", "--connections", "4"], "more than there are"),
        (["echo", "--pin", "0"], "--pin: must be SERVER/LOAD"),
        (["echo", "--pin", "0/one"], "not a list of CPUs: 'one'"),
        (["echo", "--pin", "0/4000"], "there is no CPU 4000 here"),
        (["echo", "--frobnicate"], "--frobnicate"),
        (["echo", "more"], "more"),
        (["table", "--machines", "1"], "--machines"),
        (["table", "--load-processes", "5"], "at most 4"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: Any = main(arguments)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert complaint in err
    assert err.startswith("goroutine-bench")
    assert err.count("\n") == 1


def test_more_connections_than_descriptors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 100))
    assert main(["echo", "--connections", "50"]) == 2
    assert "--connections: at most 36 here" in capsys.readouterr().err


def test_help_names_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "echo" in out
    assert "table" in out


def test_echo_in_text(serve_by: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    serve_by("")
    assert main(["echo", *SHORT]) == 0
    out, err = capsys.readouterr()
    for label in ("requests/s", "p50", "p99.9", "server CPU per request", "GIL", "Linux"):
        assert label in out
    assert "\x1b" not in out + err
    assert "every byte was checked" in out


@pytest.mark.parametrize("processes", [1, 3])
def test_echo_in_json(
    serve_by: Callable[..., None], capsys: pytest.CaptureFixture[str], processes: int
) -> None:
    serve_by("")
    assert main(["echo", *SHORT, "--json", "--load-processes", str(processes)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result["benchmark"] == "echo"
    assert result["ok"] is True
    assert result["backend"] == "stand-in"
    assert (result["connections"], result["size"]) == (4, 64)
    assert result["requests"] > 0
    assert result["requests_per_second"] == pytest.approx(result["requests"] / 0.2, rel=0.02)
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"] <= result["max_us"]
    assert result["server_cpu_us_per_request"] > 0
    assert 0 < result["server_cpus_used"] < 1.5
    assert len(result["load_cpus_used"]) == processes
    assert 0 <= result["other_cpus_used"] < result["facts"]["cpus"] + 1
    assert 0 < result["connection_min"] <= result["connection_max"]
    assert not any(result["errors"].values())
    assert result["server"]["in_order"] is True
    assert set(result["facts"]) == {"kernel", "cpu", "cpus", "load_average"}


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("corrupt", "connections with wrong bytes: 1 (connection "),
        ("drop", "messages that never came back: 1 (connection "),
        ("close", "connections closed by the server: 1 (connection "),
        ("die", "the server was killed by SIGKILL"),
        ("crash", "the server ended with 1: no machine could be made"),
        ("unavailable", "auto is not available here: forbidden here"),
    ],
)
def test_a_failed_run_says_why_and_status_1(
    serve_by: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    fault: str,
    complaint: str,
) -> None:
    serve_by(fault)
    assert main(["echo", *SHORT, "--json"]) == 1
    out, err = capsys.readouterr()
    assert complaint in err
    assert err.count("\n") == 1
    result = json.loads(out)
    assert result["ok"] is False
    assert complaint in result["error"]


def test_a_failed_run_prints_no_figures(
    serve_by: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    serve_by("mute")
    assert main(["echo", *SHORT]) == 1
    assert capsys.readouterr().out == ""


def test_a_server_that_never_listens(
    serve_by: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goroutine.bench.measure._START_SECONDS", 0.3)
    serve_by("silent")
    assert main(["echo", *SHORT]) == 1
    assert "the server did not answer within 0.3 s (starting to listen)" in capsys.readouterr().err


def test_what_the_server_writes_to_stderr_is_told(
    serve_by: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    serve_by("shout")
    assert main(["echo", *SHORT]) == 0
    assert "the last: something is odd" in capsys.readouterr().err


def test_table(serve_by: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    serve_by("", "unavailable", "")
    assert main(["table", "--seconds", "0.1"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.lstrip()[:1] in "124"]
    assert [row[:2] for row in rows if len(row) > 1][:6] == [
        [machines, io] for machines in "124" for io in ("io_uring", "epoll")
    ]
    assert out.count("n/a (forbidden here)") == 1
    for figure in ("48,620", "47 k", "24-48 k", "19-31 k", "38 k", "12-28 k", "4-12 k"):
        assert figure in out


def test_table_in_json_with_a_cell_that_failed(
    serve_by: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    serve_by("", "unavailable", "crash", "")
    assert main(["table", "--seconds", "0.1", "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert "no machine could be made" in err
    assert result["ok"] is False
    assert [cell["ok"] for cell in result["cells"]] == [True, True, False, True, True, True]
    assert result["cells"][1]["unavailable"] == "forbidden here"
    assert result["cells"][0]["requests"] > 0
    assert result["seed"]["best"] == 48620
    assert result["seed"]["published"]["4"] == [19000, 31000]


def test_an_interrupt_ends_everything(
    serve_by: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("goroutine.bench.measure._judge", interrupt)
    serve_by("")
    assert main(["echo", *SHORT]) == 1
    assert "interrupted" in capsys.readouterr().err


def test_children_end_when_the_command_is_killed() -> None:
    program = (
        "import sys\n"
        "from goroutine.bench import measure, __main__\n"
        f"measure.server_command = lambda spec: [sys.executable, {str(STAND_IN)!r}]\n"
        "__main__.main(['echo', '--seconds', '30'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as command:
        try:
            pids = wait_for(lambda: two_children(command.pid))
        finally:
            command.kill()
    wait_for(lambda: not any(runs(pid) for pid in pids))


STAND_IN = Path(__file__).with_name("stand_in.py")


def two_children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(pid) for pid in found] if len(found) == 2 else []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_child_that_ignores_all_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_GRACE_SECONDS", 0.2)
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('{}', flush=True)\n"
        "time.sleep(60)\n"
    )
    with child.Child("it", [sys.executable, "-c", program]) as stubborn:
        assert stubborn.expect(5, "starting") == {}
    assert not runs(stubborn.pid)


def test_a_child_that_prints_nonsense() -> None:
    with (
        child.Child("it", [sys.executable, "-c", "print('hello')"]) as talkative,
        pytest.raises(child.RunFailedError, match="it printed something unexpected: hello"),
    ):
        talkative.expect(5, "starting")


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(child.RunFailedError, match="it could not be started"):
        child.Child("it", ["/nowhere/at/all"])


def test_cpu_time_is_that_of_proc_stat() -> None:
    program = "import time\nt = time.process_time\nwhile t() < 0.3: pass\nprint('{}', flush=True)\n"
    program += "time.sleep(60)\n"
    with child.Child("it", [sys.executable, "-c", program]) as busy:
        busy.expect(20, "computing")
        fields = Path(f"/proc/{busy.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        assert busy.cpu_seconds() == pytest.approx(ticks, abs=0.03)
        assert ticks >= 0.28
        os.kill(busy.pid, signal.SIGKILL)
        assert busy.ended_within(5)
        assert busy.cpu_seconds() is None


def test_warnings() -> None:
    assert "the GIL is on (" in facts.warnings({"gil": True, "free_threaded": False})[0]
    assert "the GIL is on:" in facts.warnings({"gil": True, "free_threaded": True})[0]


def test_bytecode_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert any("PYTHONDONTWRITEBYTECODE" in text for text in facts.warnings({}))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert facts.warnings({}) == []


def test_the_gil_is_only_turned_off_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "free_threaded", lambda: False)
    assert facts.child_python() == [sys.executable, "-W", "ignore:the GIL is on"]
    monkeypatch.setattr(facts, "free_threaded", lambda: True)
    assert facts.child_python() == [sys.executable, "-X", "gil=0"]
