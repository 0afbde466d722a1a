"""``python -m goroutine.testing module:function``: run a function in a bubble, or run it again."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any

from ..runtime.dump import ours
from .choice import strategy_of
from .running import Runs
from .schedule import parse
from .steps import Printed


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 (it failed), 2 (usage)."""
    parser = argparse.ArgumentParser(
        prog="python -m goroutine.testing", description="Run an async def f(bubble) in a bubble."
    )
    parser.add_argument("function", help="module:function, or path/to/file.py:function")
    parser.add_argument("--seed", type=lambda word: int(word, 0), metavar="N")
    parser.add_argument("--schedule", metavar="S", help="what a failure's note says, e.g. 3:1,7:2")
    parser.add_argument("--strategy", default="random", help="random, pct or exhaustive")
    parser.add_argument("--runs", type=int, default=1, metavar="N")
    parser.add_argument("--steps", action="store_true", help="print who goes on, and from where")
    options = parser.parse_args(arguments)
    sys.path.insert(0, os.getcwd())
    try:
        strategy = strategy_of(options.strategy)
        fn = find(options.function)
        if options.schedule is not None:
            parse(options.schedule)
        if options.runs < 1:
            raise ValueError("--runs must be at least 1")
    except (AttributeError, ImportError, OSError, ValueError) as failure:
        parser.error(f"{type(failure).__name__}: {failure}")
    try:
        runs = Runs(
            fn,
            seed=options.seed,
            strategy=strategy,
            runs=options.runs,
            schedule=options.schedule,
            shrink=not options.steps,  # (those of which run?)
        )
        if options.steps:
            runs.told = Printed()
        result = runs.make()
    except KeyboardInterrupt:
        return 130
    except Exception as failure:
        tb = failure.__traceback__
        while tb is not None and ours(tb.tb_frame.f_code):
            tb = tb.tb_next
        traceback.print_exception(failure.with_traceback(tb))
        return 1
    print("ok" if result is None else f"ok: {result!r}")
    return 0


def find(name: str) -> Any:
    """The function of that name."""
    place, colon, function = name.rpartition(":")
    if not colon:
        raise ValueError(f"{name!r} is not like module:function")
    found: Any = _load(place) if place.endswith(".py") else importlib.import_module(place)
    for part in function.split("."):
        found = getattr(found, part)
    return found


def _load(path: str) -> ModuleType:
    """A file as a module; its folder is where it finds its neighbours."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
