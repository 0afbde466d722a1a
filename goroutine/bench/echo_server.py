"""The server that `goroutine-bench echo` measures, in a process of its own.

    python -X gil=0 -m goroutine.bench.echo_server --machines 4 --io io_uring --port 0

Prints one JSON line when it listens, and one with the CPU time it took when it has ended, which is
when standard input ends (so never after the process that started it) or SIGTERM comes.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .facts import describe_interpreter

if TYPE_CHECKING:
    from goroutine.net import Conn, Listener

__all__ = ["main"]

_READ = 65536
_GRACE_SECONDS = 3.0
"""How long the runtime may take to end before the process ends without it."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="echo_server", description="The benchmark's echo server.")
    parser.add_argument("--machines", type=int, default=None)
    parser.add_argument("--io", default="auto")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cpus", default="", help="run on these CPUs only: 0,1")
    options = parser.parse_args(argv)
    if options.cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in options.cpus.split(",")})
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    # Blocked before the runtime's threads are made, so that only the one that waits for it has it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    import goroutine

    began: list[bool] = []
    try:
        goroutine.start(_serve, options.port, began, machines=options.machines, io=options.io)
    except OSError as error:
        # Before the first goroutine has run, it is the back-end that this machine doesn't give.
        if began or options.io != "io_uring":
            raise
        _say(event="unavailable", reason=error.strerror or str(error))
        return 1
    _say_end(in_order=True)
    return 0


async def _serve(port: int, began: list[bool]) -> None:
    began.append(True)
    import goroutine
    from goroutine import net

    listener = await net.listen("tcp", f"127.0.0.1:{port}")
    for wait in (_wait_for_signal, _wait_for_end_of_input):
        threading.Thread(target=_end_after, args=(wait, listener), daemon=True).start()
    _say(
        event="listening",
        port=int(str(listener.address).rpartition(":")[2]),
        backend=_backend(),
        machines=goroutine.machines(),
        **describe_interpreter(),
    )
    await listener.serve(_echo)


async def _echo(conn: "Conn") -> None:
    while data := await conn.read(_READ):
        await conn.write(data)


def _backend() -> str:
    """What the runtime really uses, whatever was asked for: its rings are open descriptors."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{fd}"):
                return "io_uring"
        except OSError:
            continue  # the descriptor of the listing itself
    return "epoll"


# The end. Threads of our own, so that the process ends even when the runtime hangs.


def _wait_for_signal() -> None:
    signal.sigwait({signal.SIGTERM})


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass


def _end_after(wait: Callable[[], None], listener: "Listener") -> None:
    wait()
    import goroutine

    try:
        goroutine.go(listener.close)  # then `serve` returns, and so does `start`
    except RuntimeError:
        return  # it ends already
    time.sleep(_GRACE_SECONDS)
    _say_end(in_order=False)
    os._exit(1)


def _say_end(*, in_order: bool) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _say(
        event="ended",
        in_order=in_order,
        cpu_user_seconds=used.ru_utime,
        cpu_system_seconds=used.ru_stime,
        max_rss_bytes=used.ru_maxrss * 1024,
    )


def _say(**fields: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(sys.stdout.fileno(), json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
