"""``python -m goroutine trace view FILE``: makes a page of a trace."""

from __future__ import annotations

import os
import sys

from .page import page
from .read import NotATrace, read

__all__ = ["main"]

USAGE = "usage: python -m goroutine trace view FILE [-o PAGE]"


class _Failure(Exception):
    """What is printed, in one line."""


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 (no page), 2 (usage)."""
    if arguments in (["-h"], ["--help"], ["view", "-h"], ["view", "--help"]):
        print(USAGE, file=sys.stderr)
        return 0
    match arguments:
        case ["view", path] | ["view", "--", path] if not path.startswith("-") or "--" in arguments:
            target = beside(path)
        case ["view", path, "-o", target] | ["view", "-o", target, path] if path[:1] != "-":
            pass
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    try:
        size = view(path, target)
    except _Failure as failure:
        print(f"goroutine: {failure}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # ``| head``; nor at exit
        return 1
    except KeyboardInterrupt:
        return 130
    if target != "-":
        print(f"{target}: {size / 1e6:.1f} MB")
    return 0


def beside(path: str) -> str:
    """The name of the page of that trace."""
    for ending in (".gz", ".json"):
        path = path.removesuffix(ending)
    return path + ".html"


def view(path: str, target: str) -> int:
    """Write the page; how large it is. It is opened when all of the trace has been read."""
    try:
        text = page(read(path), os.path.basename(path)).encode()
    except NotATrace as failure:
        raise _Failure(f"{path} {failure}") from None
    except OSError as failure:
        raise _Failure(f"can't read {path}: {failure.strerror or failure}") from None
    if target == "-":
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        return len(text)
    try:
        if os.path.exists(target) and os.path.samefile(path, target):
            raise _Failure(f"{target} is the trace itself: name another file, with -o")
        with open(target, "wb") as file:
            file.write(text)
    except OSError as failure:
        raise _Failure(f"can't write {target}: {failure.strerror or failure}") from None
    return len(text)
