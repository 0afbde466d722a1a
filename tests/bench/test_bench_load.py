"""The load against a server that is honest, and against ones that aren't."""

import os
import time
from collections.abc import Callable

import pytest

from goroutine.bench.histogram import Histogram
from goroutine.bench.load import Load, LoadSpec, ParentGoneError
from goroutine.bench.pattern import PERIOD, first_position, make_pattern


def spec(port: int, **options: object) -> LoadSpec:
    given: dict[str, object] = {
        "connections": 4,
        "size": 64,
        "seconds": 0.2,
        "connect_seconds": 2.0,
        "drain_seconds": 1.0,
    }
    return LoadSpec(host="127.0.0.1", port=port, **(given | options))  # type: ignore[arg-type]


def run(load: Load, report: Callable[[Histogram], None] | None = None) -> None:
    assert load.connect() == load.spec.connections
    load.run(time.monotonic_ns(), report)
    load.drain()


@pytest.mark.parametrize("size", [1, 10, 64, 1000, 65536, PERIOD, 1_000_003])
def test_an_honest_server_has_no_errors(stand_in: Callable[..., int], size: int) -> None:
    # A million bytes don't fit into a socket's buffer: parts are sent and come back meanwhile.
    with Load(spec(stand_in(), size=size)) as load:
        run(load)
        assert load.first_error is None
        assert not any(load.errors.values())
        assert load.histogram.total > 0
        assert sum(load.per_connection) == load.histogram.total
        assert len(load.per_connection) == 4
        assert load.ended_ns - load.started_ns == pytest.approx(0.2e9, rel=0.01)
        assert load.histogram.maximum < 2e9
        assert 0 < load.cpu_seconds < 1


@pytest.mark.parametrize(
    ("fault", "kind", "count"),
    [
        ("corrupt", "mismatch", 1),
        ("swap", "mismatch", 2),
        ("double", "mismatch", 1),
        ("drop", "unanswered", 1),
        ("mute", "unanswered", 4),
        ("close", "closed", 1),
        ("reset", "closed", 1),
    ],
)
def test_a_fault_is_found(stand_in: Callable[..., int], fault: str, kind: str, count: int) -> None:
    with Load(spec(stand_in(fault))) as load:
        run(load)
        assert load.errors == {name: count * (name == kind) for name in load.errors}
        assert load.first_error is not None
        assert load.first_error.startswith("connection ")


@pytest.mark.parametrize("size", [3000, 500_000])
def test_a_wrong_byte_in_a_long_message_is_found(stand_in: Callable[..., int], size: int) -> None:
    with Load(spec(stand_in("corrupt"), size=size)) as load:
        load.connect()
        load.run(time.monotonic_ns())
        load.drain()
        assert load.errors["mismatch"] == 1 or load.errors["connect"] == 1


def test_every_connection_lost_ends_the_window(stand_in: Callable[..., int]) -> None:
    with Load(spec(stand_in("die"), seconds=10)) as load:
        began = time.monotonic()
        run(load)
        assert time.monotonic() - began < 3
        assert load.errors["closed"] == 4


def test_a_server_that_never_answers_has_no_connection_up(stand_in: Callable[..., int]) -> None:
    with Load(spec(stand_in("never"), connect_seconds=0.3)) as load:
        assert load.connect() == 0
        assert load.errors["connect"] == 4


def test_nobody_listening() -> None:
    with Load(spec(1)) as load:
        assert load.connect() == 0
        assert load.errors["connect"] == 4
        assert load.first_error == "connection 0: Connection refused"


def test_reports_grow(stand_in: Callable[..., int]) -> None:
    totals: list[int] = []
    with Load(spec(stand_in(), seconds=0.3, report_seconds=0.05)) as load:
        run(load, lambda histogram: totals.append(histogram.total))
        assert 1 <= len(totals) <= 6
        assert totals == sorted(totals)
        assert totals[-1] <= load.histogram.total


def test_a_parent_that_is_gone_ends_the_load(stand_in: Callable[..., int]) -> None:
    reader, writer = os.pipe()
    try:
        with Load(spec(stand_in(), seconds=10), watch=reader) as load:
            load.connect()
            os.close(writer)
            with pytest.raises(ParentGoneError):
                load.run(time.monotonic_ns())
    finally:
        os.close(reader)


def test_neighbouring_connections_send_different_bytes() -> None:
    pattern = make_pattern(16)
    stretches = {pattern[first_position(number) :][:16] for number in range(1000)}
    assert len(stretches) == 1000
    assert len(pattern) >= PERIOD + 16
