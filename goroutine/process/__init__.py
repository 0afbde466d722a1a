"""Child processes, waited for and talked to without a thread. Go: package os/exec.

`run` is like ``subprocess.run``; `start` gives a `Process` to talk to. There is no shell:
``args`` is a sequence, the program first. What is not said here is as in ``subprocess``,
whose exceptions are raised, and whose Popen does the starting (on a thread of
`goroutine.blocking`, since a fork blocks).

>>> from goroutine import process
>>> async def main():
...     done = await process.run(["cat"], input="hello", capture_output=True, text=True)
...     return done.stdout, done.returncode
>>> goroutine.start(main)
('hello', 0)
"""

from subprocess import DEVNULL, PIPE, STDOUT

from .child import Process, start
from .run import run
from .stream import Reader, Writer

__all__ = [
    "run",
    "start",
    "Process",
    "Reader",
    "Writer",
    "PIPE",
    "DEVNULL",
    "STDOUT",
]
