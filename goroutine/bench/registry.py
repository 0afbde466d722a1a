"""What a benchmark is, and how `goroutine-bench` finds them: each file in `commands/` is one.

A file defines `BENCHMARK`. The order on the help page is that of the names.
"""

import argparse
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .terminal import Terminal

__all__ = ["Benchmark", "Outcome", "discover"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A result both ways: `text` for people, `json` for programs."""

    text: str
    json: dict[str, Any] = field(default_factory=dict)
    ok: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A subcommand.

    `run` may raise `UsageError` (exit status 2) and `RunFailedError` (1). `--json` and `--no-color`
    are there for every benchmark and need no adding.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Terminal], Outcome]


def discover() -> dict[str, Benchmark]:
    from . import commands

    found = {}
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda info: info.name):
        benchmark = importlib.import_module(f"{commands.__name__}.{module.name}").BENCHMARK
        assert isinstance(benchmark, Benchmark)
        found[benchmark.name] = benchmark
    return found
