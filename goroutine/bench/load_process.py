"""One load in a process of its own: `python -m goroutine.bench.load_process`, spoken to in JSON.

One line in: the fields of a `LoadSpec`. One line out when the connections are up. One line in: when
the window starts on the monotonic clock, which all processes of a machine share. Then a progress
line for each report, with what came since the last one, and the result as the last line.

It can't outlive its parent (standard input hangs up) nor overrun (an alarm ends the process).
"""

import gc
import json
import os
import resource
import signal
import sys
import time
from typing import Any

from .histogram import Histogram
from .load import Load, LoadSpec, ParentGoneError

__all__ = ["HARD_STOP_SECONDS", "main"]

HARD_STOP_SECONDS = 5.0
"""What a part of the run may take beyond its own limits before the process is ended."""

_STDIN = 0


def main() -> int:
    order = _receive()
    cpus = order.pop("cpus", None)
    spec = LoadSpec(**order)
    if cpus:
        os.sched_setaffinity(0, cpus)
    # A process that is stuck is ended by the alarm's default action, whatever it is stuck in.
    signal.setitimer(signal.ITIMER_REAL, spec.connect_seconds + HARD_STOP_SECONDS)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with Load(spec, watch=_STDIN) as load:
        ready = load.connect()
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(event="ready", ready=ready, errors=load.errors, first_error=load.first_error)
        start_ns = _receive()["start_ns"]
        ahead = max(0.0, (start_ns - time.monotonic_ns()) / 1e9)
        bound = ahead + spec.seconds + spec.drain_seconds + HARD_STOP_SECONDS
        signal.setitimer(signal.ITIMER_REAL, bound)
        # Nothing here makes cycles; a collection would only show as a slow reply.
        gc.collect()
        gc.freeze()
        gc.disable()
        load.run(start_ns, _Reporter().report)
        load.drain()
        _send(
            event="result",
            seconds=(load.ended_ns - load.started_ns) / 1e9,
            histogram=load.histogram.pairs(),
            per_connection=load.per_connection,
            cpu_seconds=load.cpu_seconds,
            errors=load.errors,
            first_error=load.first_error,
        )
    return 0


class _Reporter:
    """Sends what a growing histogram has gained since the last report."""

    def __init__(self) -> None:
        self._before = Histogram().counts

    def report(self, histogram: Histogram) -> None:
        before, self._before = self._before, histogram.counts.copy()
        gained = [
            (index, now - then)
            for index, (now, then) in enumerate(zip(self._before, before, strict=True))
            if now != then
        ]
        _send(event="progress", histogram=gained)


def _receive() -> dict[str, Any]:
    # Unbuffered, so that nothing is read ahead of what the load watches for a hang-up.
    line = bytearray()
    while not line.endswith(b"\n"):
        data = os.read(_STDIN, 65536)
        if not data:
            raise ParentGoneError
        line += data
    received: dict[str, Any] = json.loads(line)
    return received


def _send(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ParentGoneError, BrokenPipeError, KeyboardInterrupt):
        # Ctrl-C goes to the whole group: the parent tells the story.
        os._exit(1)
