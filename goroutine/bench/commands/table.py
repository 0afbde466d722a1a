"""`goroutine-bench table`: the seed's own benchmark, and its figures beside ours.

The seed is the C++20 framework that this project grew from. Its benchmark is 4 connections that
echo 10-byte messages. What it published doesn't say on which machine, so a second column has what
it reached when it was measured again on two cores.
"""

import argparse
from typing import Any

from ..arguments import add_load_arguments, cpus_to_pin, seconds
from ..errors import RunFailedError, UnavailableError, UsageError
from ..facts import describe, warnings
from ..measure import EchoResult, EchoSpec, measure
from ..registry import Benchmark, Outcome
from ..terminal import Terminal, columns

__all__ = ["BENCHMARK"]

_CONNECTIONS = 4
_SIZE = 10
_BACKENDS = ("io_uring", "epoll")
_SEED_BEST = 48_620
# Requests per second by machines, least and most: as published, and as measured again on two cores.
_SEED_PUBLISHED = {1: (47_000, 47_000), 2: (24_000, 48_000), 4: (19_000, 31_000)}
_SEED_AGAIN = {1: (38_000, 38_000), 2: (12_000, 28_000), 4: (4_000, 12_000)}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=seconds, default=2.0, metavar="S", help="the window of each cell (2)"
    )
    add_load_arguments(parser)


def _run(options: argparse.Namespace, terminal: Terminal) -> Outcome:
    if options.load_processes > _CONNECTIONS:
        raise UsageError(f"--load-processes: at most {_CONNECTIONS}, one for each connection")
    server_cpus, load_cpus = cpus_to_pin(options)
    cells = []
    results = []
    runs = [(machines, io) for machines in _SEED_PUBLISHED for io in _BACKENDS]
    for number, (machines, io) in enumerate(runs, start=1):
        spec = EchoSpec(
            machines=machines,
            io=io,
            connections=_CONNECTIONS,
            size=_SIZE,
            seconds=options.seconds,
            load_processes=options.load_processes,
            server_cpus=server_cpus,
            load_cpus=load_cpus,
        )
        cell: dict[str, Any] = {"machines": machines, "io": io}
        label = f"{number}/{len(runs)} {machines} {io}"
        try:
            with terminal.progress(label) as progress:
                result = measure(spec, progress)
        except UnavailableError as error:
            cell |= {"ok": True, "unavailable": str(error)}
        except RunFailedError as error:
            # The other cells still say something.
            cell |= {"ok": False, "error": str(error), **error.details}
            terminal.error(f"machines {machines}, {io}", str(error))
        else:
            results.append(result)
            cell |= {"ok": True, **_figures(result)}
            for text in [*warnings(result.server), *result.notes]:
                terminal.warn(text)
        cells.append(cell)
    return Outcome(
        text=_text(cells, results, options.seconds, terminal),
        json=_as_json(cells, results, options.seconds),
        ok=all(cell["ok"] for cell in cells),
    )


def _figures(result: EchoResult) -> dict[str, Any]:
    """Of the result's JSON what differs between cells."""
    whole = result.as_json()
    return {key: whole[key] for key in whole if key not in ("facts", "server", "machines", "io")}


def _as_json(
    cells: list[dict[str, Any]], results: list[EchoResult], window: float
) -> dict[str, Any]:
    return {
        "connections": _CONNECTIONS,
        "size": _SIZE,
        "seconds": window,
        "cells": cells,
        "seed": {
            "best": _SEED_BEST,
            "published": {str(machines): each for machines, each in _SEED_PUBLISHED.items()},
            "two_cores": {str(machines): each for machines, each in _SEED_AGAIN.items()},
        },
        "server": results[0].server if results else None,
        "facts": results[0].facts if results else None,
    }


def _text(
    cells: list[dict[str, Any]], results: list[EchoResult], window: float, terminal: Terminal
) -> str:
    head = ("machines", "back-end", "requests/s", "p50 µs", "p99 µs", "CPU µs/request")
    rows = [(*head, "seed", "seed on 2 cores")]
    for cell in cells:
        machines = cell["machines"]
        rows.append(
            (
                str(machines),
                cell["io"],
                *_cell_text(cell),
                _range(_SEED_PUBLISHED[machines]),
                _range(_SEED_AGAIN[machines]),
            )
        )
    best = max((result.requests_per_second for result in results), default=None)
    ours = "-" if best is None else f"{best:,.0f}"
    rows.append(("best", "", ours, "", "", "", f"{_SEED_BEST:,}", ""))
    header, *body = columns(rows, "><>>>>>>")
    title = f"echo: {_CONNECTIONS} connections, messages of {_SIZE} bytes, {window:g} s for each"
    lines = [terminal.bold(title), "", terminal.bold(header), *body, ""]
    lines.append(
        "seed: the C++20 framework goroutine grew from, requests/s as it published them (its"
        " machine isn't\nknown) and as measured again on two cores, by its own load; for both of"
        " our back-ends."
    )
    if results:
        lines.append(terminal.dim(describe(results[0].server, results[0].facts, backend=False)))
    return "\n".join(lines)


def _cell_text(cell: dict[str, Any]) -> tuple[str, str, str, str]:
    if "unavailable" in cell:
        return f"n/a ({cell['unavailable']})", "", "", ""
    if not cell["ok"]:
        return "failed", "", "", ""
    return (
        f"{cell['requests_per_second']:,.0f}",
        f"{cell['p50_us']:,.1f}",
        f"{cell['p99_us']:,.1f}",
        f"{cell['server_cpu_us_per_request']:,.2f}",
    )


def _range(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return f"{low // 1000} k" if low == high else f"{low // 1000}-{high // 1000} k"


BENCHMARK = Benchmark(
    name="table",
    summary="The seed's benchmark (4 connections, 10-byte messages) and its figures beside ours.",
    add_arguments=_add_arguments,
    run=_run,
)
