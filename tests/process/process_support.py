"""What the tests of goroutine.process share."""

import os
import sys
from pathlib import Path


def python(code):
    """The arguments that run a program in another interpreter."""
    return [sys.executable, "-S", "-E", "-X", "gil=0", "-c", code]


def children():
    """Number -> state ("Z": a zombie) of this process's children."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            numbers = (task / "children").read_text().split()
        except OSError:
            continue  # a thread that has just ended
        for number in numbers:
            try:
                fields = Path("/proc", number, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # just gone
            found[int(number)] = fields[0]
    return found


def fds():
    return sorted(os.listdir("/proc/self/fd"))
