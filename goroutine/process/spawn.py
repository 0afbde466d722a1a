"""Starting a child, on a pool thread.

The pipes are made here, not by Popen, whose file objects we have no use for: the child gets
its ends as fds, ours don't block. (Whether an end blocks is a property of that end: the child
finds its own as usual.) Popen is left with the fork and the reaping, which it knows best; and
a child that is not waited for is reaped, as every Popen's, when another one is made.
"""

from __future__ import annotations

import os
import subprocess
import threading
import types
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime.goroutine import Commit
from ..runtime.offload import offload
from ..runtime.wait import check_ctx
from .handle import Handle

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Args", "Spawned", "kill_and_reap", "spawn"]

type Args = Sequence[str | bytes | os.PathLike[str]] | os.PathLike[str]

REAPING = 1.0  # seconds in which a child that was killed is gone, if it ever goes


class Spawned:
    """A child, our ends of its pipes (None: it has none), and what tells of its end."""

    def __init__(self, args: Args, options: dict[str, Any]) -> None:
        ours: list[Handle | None] = []
        theirs: list[int] = []
        try:
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                if options[name] != subprocess.PIPE:
                    ours.append(None)
                    continue
                pair = os.pipe()
                own, other = pair if number else pair[::-1]
                ours.append(Handle(own))
                theirs.append(other)
                os.set_blocking(own, False)
                options[name] = other
            self.popen = subprocess.Popen(args, **options)
        except BaseException:
            for handle in ours:
                if handle is not None:
                    handle.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.stdin, self.stdout, self.stderr = ours
        self.pidfd: Handle | None = None
        try:
            self.pidfd = Handle(os.pidfd_open(self.popen.pid))
        except OSError:
            pass  # forbidden, or no fds left: see Process.wait; or SIGCHLD is ignored

    def abandon(self) -> None:
        """Nobody wants it: kill it, and leave nothing behind."""
        for handle in (self.stdin, self.stdout, self.stderr, self.pidfd):
            if handle is not None:
                handle.close()
        kill_and_reap(self.popen)


def kill_and_reap(popen: subprocess.Popen[bytes]) -> None:
    """Kill a child and wait for its end, blocking the thread: that takes no time to speak of,
    unless the kernel can't let go of it; then it is left to subprocess."""
    popen.kill()
    try:
        popen.wait(REAPING)
    except subprocess.TimeoutExpired:
        pass


class _Handover:
    """Between the pool thread, which may come too late, and the goroutine, which may have gone.

    Under the lock one of the two is the second, and sees what the first has left. So a child
    is always somebody's.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.spawned: Spawned | None = None
        self.gone = False

    def spawn(self, args: Args, options: dict[str, Any]) -> None:
        """The pool thread's."""
        spawned = Spawned(args, options)
        with self.lock:
            if not self.gone:
                self.spawned = spawned
                return
        spawned.abandon()

    def leave(self) -> None:
        """The goroutine's, if it can't wait for it."""
        with self.lock:
            self.gone = True
            spawned, self.spawned = self.spawned, None
        if spawned is not None:
            spawned.abandon()


@types.coroutine
def spawn(
    args: Args, options: dict[str, Any], ctx: Context | None
) -> Generator[Commit, None, Spawned]:
    """Start a child. Cancel safety: there is none then, or it has been killed."""
    if isinstance(args, (str, bytes)):  # which are sequences, too
        raise TypeError(
            f"args is a sequence, the program first, not a {type(args).__name__}: there is no"
            ' shell (for one: ["sh", "-c", command])'
        )
    if ctx is not None:
        check_ctx(ctx)
    handover = _Handover()
    try:
        yield from offload(ctx, handover.spawn, args, options)
    except BaseException:
        handover.leave()
        raise
    assert handover.spawned is not None
    return handover.spawned
