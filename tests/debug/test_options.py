"""GOROUTINE_DEBUG: what is understood, and what is said of the rest."""

import time

import pytest

from goroutine import start
from goroutine.debug import options
from goroutine.debug.options import Options, parse

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch):
    monkeypatch.setattr(options, "_warned", set())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Options()),
        (",,", Options()),
        ("leaks=1", Options(leaks=1)),
        ("leaks=0", Options()),
        (" schedtrace = 1000 , scheddetail=1,", Options(schedtrace=1000, scheddetail=1)),
        ("trace=/tmp/a b.json,leaks=1", Options(trace="/tmp/a b.json", leaks=1)),
        ("dump=1,sigusr1=1,leaks=1", Options(dump=1, sigusr1=1, leaks=1)),
        ("leaks=1,leaks=0", Options()),
        ("stuck=0", Options(stuck=0)),
        ("stuck=2000", Options(stuck=2000)),
    ],
)
def test_understood(text, wanted):
    assert parse(text) == (wanted, [])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gctrace=1", "there is no option 'gctrace'; there are dump, leaks, "),
        ("=1", "there is no option ''; "),
        ("Leaks=1", "there is no option 'Leaks'; "),
        ("_fields=1", "there is no option '_fields'; "),
        ("leaks", "leaks must be 0 or 1, not ''"),
        ("leaks=yes", "leaks must be 0 or 1, not 'yes'"),
        ("leaks=2", "leaks must be 0 or 1, not '2'"),
        ("leaks=1=1", "leaks must be 0 or 1, not '1=1'"),
        (
            "schedtrace=-5",
            "schedtrace must be a number of milliseconds, at most 86400000, not '-5'",
        ),
        ("stuck=soon", "stuck must be a number of milliseconds, at most 86400000, not 'soon'"),
        ("schedtrace=1_0", "schedtrace must be a number of milliseconds, "),
        ("schedtrace=1.5", "schedtrace must be a number of milliseconds, "),
        ("schedtrace=²", "schedtrace must be a number of milliseconds, "),
        ("schedtrace=99999999999999999999", "schedtrace must be a number of milliseconds, "),
    ],
)
def test_not_understood(text, complaint):
    found, complaints = parse(f"{text},sigusr1=1")
    assert found == Options(sigusr1=1)
    assert len(complaints) == 1
    assert complaints[0].startswith(complaint)
    assert "\n" not in complaints[0]


def test_told_once_a_line_for_each(monkeypatch, capsys):
    monkeypatch.setenv("GOROUTINE_DEBUG", "foo=1,leaks=x")

    async def main():
        return 1

    assert start(main, machines=1) == 1
    assert start(main, machines=1) == 1
    assert capsys.readouterr().err == (
        "goroutine: GOROUTINE_DEBUG: there is no option 'foo';"
        " there are dump, leaks, scheddetail, schedtrace, sigusr1, stuck, trace\n"
        "goroutine: GOROUTINE_DEBUG: leaks must be 0 or 1, not 'x'\n"
    )


@pytest.mark.parametrize(("text", "named"), [("stuck=20", True), ("stuck=0", False)])
def test_patience_with_who_computes(text, named, monkeypatch, caplog):
    """It computes until it has been named, or for longer than it takes by default."""

    async def computes():
        end = time.monotonic() + (10 if named else 0.3)
        while time.monotonic() < end and not caplog.records:
            pass

    monkeypatch.setenv("GOROUTINE_DEBUG", text)
    start(computes, machines=2)
    assert ["has kept machine" in record.message for record in caplog.records] == [True] * named
