"""Types of command-line arguments, and the ones that benchmarks of I/O share."""

import argparse
import os
import resource
from collections.abc import Callable

from .errors import UsageError

__all__ = ["IO", "add_load_arguments", "cpus_to_pin", "integer", "require_descriptors", "seconds"]

IO = ("auto", "io_uring", "epoll")

# Beside its connections a process has its rings, epolls, pipes and files.
_OTHER_DESCRIPTORS = 64


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"not a number: {text!r}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low:,} to {high:,}, not {text}")
        return value

    return parse


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}") from None
    if not 0.05 <= value <= 3600:  # a NaN isn't either
        raise argparse.ArgumentTypeError(f"must be from 0.05 to 3,600, not {text}")
    return value


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--load-processes",
        type=integer(1, 64),
        default=1,
        metavar="N",
        help="processes that share the connections (1)",
    )
    parser.add_argument(
        "--pin",
        type=_pin,
        default=((), ()),
        metavar="SERVER/LOAD",
        help="run the server and the load on these CPUs only: 0/1, 0-1/2,3 (not pinned)",
    )


def _pin(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    server, slash, load = text.partition("/")
    if not slash:
        raise argparse.ArgumentTypeError("must be SERVER/LOAD, such as 0/1 or 0-1/2,3")
    return _cpus(server), _cpus(load)


def _cpus(text: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise argparse.ArgumentTypeError(f"not a list of CPUs: {text!r}")
        found |= set(range(int(low), int(high if dash else low) + 1))
    return tuple(sorted(found))


def cpus_to_pin(options: argparse.Namespace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The server's CPUs and the load's; `UsageError` where this process may not use one."""
    server, load = options.pin
    usable = os.sched_getaffinity(0)
    missing = sorted({*server, *load} - usable)
    if missing:
        have = ", ".join(map(str, sorted(usable)))
        raise UsageError(f"--pin: there is no CPU {missing[0]} here (usable: {have})")
    return server, load


def require_descriptors(connections: int) -> None:
    """`UsageError` where a process may not open that many connections."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and connections + _OTHER_DESCRIPTORS > limit:
        most = limit - _OTHER_DESCRIPTORS
        raise UsageError(
            f"--connections: at most {most:,} here, a process may open {limit:,} files (ulimit -Hn)"
        )
