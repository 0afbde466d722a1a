"""Which poller a run uses: io_uring, or epoll where that is asked for or all there is."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from ..runtime.fork import module_lock
from .poller import Poller

__all__ = ["make"]

_log = logging.getLogger("goroutine")
_lock = module_lock()  # machines are made at the same time
_refused: str | None = None  # why io_uring is not to be had in this process


def make(io: str, ready: Callable[[Any], None], number: int, machines: int) -> Poller:
    """A poller for the calling thread. ``io`` is "auto", "io_uring" or "epoll".

    "auto" takes epoll after any OSError from io_uring's set-up (forbidden by seccomp or
    sysctl, too old a kernel, no memory to lock) and logs one line that says why. "io_uring"
    raises that error, and both raise it when there are no fds left.
    """
    global _refused
    from .epoll import EpollPoller

    if io == "epoll" or (io == "auto" and _refused is not None):
        return EpollPoller(ready, number, machines)
    from .uring import UringPoller

    try:
        return UringPoller(ready, number, machines)
    except OSError as failure:
        if io == "io_uring" or failure.errno in (errno.EMFILE, errno.ENFILE):
            raise  # (it says nothing about io_uring, and epoll needs more of them)
        with _lock:
            first = _refused is None
            _refused = str(failure)
        if first:
            _log.warning("io_uring is not available (%s): using epoll", failure)
        return EpollPoller(ready, number, machines)
