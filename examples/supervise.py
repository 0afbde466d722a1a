"""Keep programs running: python -X gil=0 examples/supervise.py COMMAND...

Each COMMAND is one argument ("python3 -m http.server 8000"). What they print is printed with their
names before it. One that fails is started again, after a pause that doubles each time; one that
ends well is done. Ctrl-C, or SIGTERM, ends them all: SIGTERM first, SIGKILL for those that are
still there five seconds later.
"""

from __future__ import annotations

import shlex
import sys
from signal import SIGINT, SIGTERM

from goroutine import Canceled, Chan, Group, chan, context, go, process, signal, sleep, start, time

FIRST, MOST = 0.1, 30.0  # seconds before a program is started again
LAST = 5.0  # seconds that a program has to end


def say(name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)


async def run(command: list[str], stopping: context.Context) -> int:
    """Run it once; its exit status."""
    child = await process.start(command, stdout=process.PIPE, stderr=process.STDOUT)

    def end() -> None:
        child.terminate()
        time.after_func(LAST, child.kill)  # does nothing to one that has ended

    stop = context.after_func(stopping, end)
    async with child:
        assert child.stdout is not None
        async for line in child.stdout:
            say(command[0], line.decode(errors="replace").rstrip())
        status = await child.wait()
    stop()
    return status


async def keep(command: list[str], stopping: context.Context) -> None:
    """Run it until it ends well, or all are to end."""
    pause = FIRST
    while (status := await run(command, stopping)) and not stopping.err():
        say(command[0], f"ended with status {status}, again in {pause:g} s")
        try:
            await sleep(pause, ctx=stopping)
        except Canceled:
            return
        pause = min(2 * pause, MOST)


async def main(*commands: str) -> None:
    signals: Chan[int] = chan(1)
    signal.notify(signals, SIGINT, SIGTERM)
    stopping = context.with_cancel(context.background())

    async def wait_for_a_signal() -> None:
        await signals.recv()
        stopping.cancel()

    go(wait_for_a_signal)
    async with Group() as group:
        for command in commands:
            group.go(keep, shlex.split(command), stopping)
    print("bye")


if __name__ == "__main__":
    start(main, *sys.argv[1:])
