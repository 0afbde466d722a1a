"""The `goroutine-bench` command.

Exit status: 0, 1 (a run failed), 2 (usage).
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .errors import RunFailedError, UsageError
from .registry import Benchmark, Outcome, discover
from .terminal import Terminal

__all__ = ["main"]

_PROGRAM = "goroutine-bench"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line: the usage that argparse would print before it buries what is wrong.
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    benchmarks = discover()
    options = _parser(benchmarks).parse_args(argv)
    program = f"{_PROGRAM} {options.benchmark}"
    terminal = Terminal(json=options.json, color=not options.no_color)
    try:
        outcome = benchmarks[options.benchmark].run(options, terminal)
    except UsageError as error:
        terminal.error(program, str(error))
        return 2
    except RunFailedError as error:
        terminal.error(program, str(error))
        outcome = Outcome(text="", json={**error.details, "error": str(error)}, ok=False)
    except KeyboardInterrupt:
        terminal.error(program, "interrupted")
        outcome = Outcome(text="", json={"error": "interrupted"}, ok=False)
    if options.json:
        outcome = Outcome(
            text=json.dumps({"benchmark": options.benchmark, "ok": outcome.ok, **outcome.json}),
            ok=outcome.ok,
        )
    if outcome.text:
        _print(outcome.text)
    return 0 if outcome.ok else 1


def _parser(benchmarks: dict[str, Benchmark]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="What goroutine reaches on this machine.",
        epilog="Exit status: 0, 1 (a run failed), 2 (usage).",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(
        dest="benchmark", metavar="BENCHMARK", required=True, parser_class=_Parser
    )
    for benchmark in benchmarks.values():
        subparser = subparsers.add_parser(
            benchmark.name,
            help=benchmark.summary,
            description=benchmark.summary,
            allow_abbrev=False,
        )
        benchmark.add_arguments(subparser)
        subparser.add_argument(
            "--json", action="store_true", help="print one JSON object on stdout, and nothing else"
        )
        subparser.add_argument("--no-color", action="store_true", help="as NO_COLOR=1 does")
    return parser


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
