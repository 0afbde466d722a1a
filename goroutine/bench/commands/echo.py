"""`goroutine-bench echo`: an echo server under a load that checks every byte."""

import argparse

from ..arguments import (
    IO,
    add_load_arguments,
    cpus_to_pin,
    integer,
    require_descriptors,
    seconds,
)
from ..errors import UnavailableError, UsageError
from ..facts import describe, warnings
from ..measure import EchoResult, EchoSpec, measure
from ..registry import Benchmark, Outcome
from ..terminal import Terminal, columns

__all__ = ["BENCHMARK"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--machines",
        type=integer(1, 1024),
        default=None,
        metavar="N",
        help="threads that run goroutines (the runtime's own default)",
    )
    parser.add_argument("--io", choices=IO, default="auto", help="the back-end (auto)")
    parser.add_argument(
        "--connections", type=integer(1, 60_000), default=64, metavar="N", help="(64)"
    )
    parser.add_argument(
        "--size", type=integer(1, 1 << 24), default=64, metavar="BYTES", help="of a message (64)"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=3.0, metavar="S", help="the measured window (3)"
    )
    add_load_arguments(parser)


def _run(options: argparse.Namespace, terminal: Terminal) -> Outcome:
    if options.load_processes > options.connections:
        raise UsageError("--load-processes: more than there are connections to share")
    require_descriptors(options.connections)
    server_cpus, load_cpus = cpus_to_pin(options)
    spec = EchoSpec(
        machines=options.machines,
        io=options.io,
        connections=options.connections,
        size=options.size,
        seconds=options.seconds,
        load_processes=options.load_processes,
        server_cpus=server_cpus,
        load_cpus=load_cpus,
    )
    try:
        with terminal.progress("echo") as progress:
            result = measure(spec, progress)
    except UnavailableError as error:
        text = f"{spec.io} is not available here: {error}"
        raise UnavailableError(text, error.details) from error
    for text in [*warnings(result.server), *result.notes]:
        terminal.warn(text)
    return Outcome(text=_text(result, terminal), json=result.as_json())


def _text(result: EchoResult, terminal: Terminal) -> str:
    spec = result.spec
    window = result.seconds
    processes = f"{spec.load_processes} process" + ("es" if spec.load_processes > 1 else "")
    rows = [
        ("requests/s", f"{result.requests_per_second:,.0f}", ""),
        ("latency p50", f"{result.percentile_us(0.5):,.1f}", "µs"),
        ("latency p99", f"{result.percentile_us(0.99):,.1f}", "µs"),
        ("latency p99.9", f"{result.percentile_us(0.999):,.1f}", "µs"),
        ("latency max", f"{result.histogram.maximum / 1000:,.1f}", "µs"),
        (
            "server CPU per request",
            f"{result.server_cpu_us_per_request:,.2f}",
            f"µs  ({result.server_cpu_seconds / window:.2f} CPUs busy)",
        ),
        (
            "load CPU",
            f"{sum(result.load_cpu_seconds) / window:.2f}",
            f"CPUs busy  ({processes})",
        ),
        ("other programs' CPU", f"{result.other_cpu_seconds / window:.2f}", "CPUs busy"),
        (
            "requests per connection",
            f"{min(result.per_connection):,}",
            f"to {max(result.per_connection):,}",
        ),
    ]
    size = f"{spec.size:,} byte" + ("s" if spec.size > 1 else "")
    title = (
        f"echo: {spec.connections:,} connections, messages of {size},"
        f" {result.requests:,} requests in {window:.2f} s"
    )
    lines = [terminal.bold(title), "every byte was checked", ""]
    lines += [f"  {line}" for line in columns(rows, "<><")]
    lines += ["", terminal.dim(describe(result.server, result.facts))]
    return "\n".join(lines)


BENCHMARK = Benchmark(
    name="echo",
    summary="An echo server under a closed-loop load that checks every byte.",
    add_arguments=_add_arguments,
    run=_run,
)
