"""Process: a child that runs, to be talked to and waited for.

Its end is awaited at a pidfd, which is readable from then on: no thread, no SIGCHLD. Reaping
is Popen's, under a lock of its own, by whoever looks first. Signals are sent through the
pidfd too: unlike a pid it is never another process's.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from ..io.poller import POLLIN
from ..runtime.shared import current
from ..runtime.sleep import sleep
from ..runtime.wait import check_ctx
from .spawn import Args, Spawned, kill_and_reap, spawn
from .stream import Reader, Writer

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["File", "Process", "start"]

type File = int | IO[Any] | None

SOONEST, LATEST = 0.001, 0.05
"""Seconds between two looks for the end of a child where the kernel gives no pidfd."""


class Process:
    """A child process, made by `start`.

    ``async with p:`` leaves no process behind: at its end the pipes are closed and the child
    is waited for; if the body fails or is cancelled, or the run ends, the child is killed
    first. Without it a child lives on when the run ends, as in Go, and somebody has to
    `wait` for it; one that was not waited for when it is forgotten is a ``ResourceWarning``,
    as in ``subprocess``.

    Any number of goroutines and threads may use it at the same time. Go: exec.Cmd, os.Process.

    >>> async def main():
    ...     async with await process.start(["sleep", "60"]) as p:
    ...         p.terminate()
    ...         return await p.wait()
    >>> goroutine.start(main)
    -15
    """

    args: Args
    stdin: Writer | None
    """Its stdin, if it was started with ``stdin=PIPE``; the others likewise."""
    stdout: Reader | None
    stderr: Reader | None

    def __init__(self, args: Args, spawned: Spawned) -> None:
        self.args = args
        self.stdin = None if spawned.stdin is None else Writer(spawned.stdin)
        self.stdout = None if spawned.stdout is None else Reader(spawned.stdout)
        self.stderr = None if spawned.stderr is None else Reader(spawned.stderr)
        self._popen = spawned.popen
        self._pidfd = spawned.pidfd

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, -N if signal N ended it, None while it runs. From any thread."""
        code = self._popen.poll()
        if code is not None and self._pidfd is not None:
            self._pidfd.close()
        return code

    async def wait(self, *, ctx: Context | None = None) -> int:
        """Wait until it has ended; the `returncode`.

        A child that writes much into a pipe that nobody reads doesn't end. `Canceled` if
        ``ctx`` is or meanwhile gets cancelled. Cancel safety: the child goes on.
        Go: Process.Wait.
        """
        if ctx is not None:
            check_ctx(ctx)
        pause = SOONEST
        while (code := self.returncode) is None:
            if self._pidfd is not None:
                await self._pidfd.wait(POLLIN, ctx)
            else:
                await sleep(pause, ctx=ctx)
                pause = min(2 * pause, LATEST)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal. Nothing happens if it has ended. From any thread.

        ``OSError`` if that is no signal, or not allowed. Go: Process.Signal.
        """
        if self.returncode is not None:
            return
        try:
            if self._pidfd is None:
                self._popen.send_signal(number)
            else:
                self._pidfd.call(signal.pidfd_send_signal, number)
        except ProcessLookupError:
            pass  # it has just ended
        except ValueError:
            if self.returncode is None:  # else that is why the pidfd is closed
                raise

    def terminate(self) -> None:
        """`send_signal` of SIGTERM: ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """`send_signal` of SIGKILL: end it. Go: Process.Kill."""
        self.send_signal(signal.SIGKILL)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_pipes()
        if failure is not None:
            await self._end(failure)
            return
        try:
            await self.wait()
        except BaseException as ended:
            await self._end(ended)
            raise

    def _close_pipes(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    async def _end(self, failure: BaseException) -> None:
        """Kill it and wait for that, come what may."""
        self._close_pipes()
        self.kill()
        g = current().g
        if isinstance(failure, GeneratorExit) or g is None:
            self._end_now()  # nobody can wait here
            return
        scope, g.scope = g.scope, None  # it won't be long: nothing keeps us from it
        try:
            await self.wait()
        except BaseException:
            self._end_now()
            raise
        finally:
            g.scope = scope

    def _end_now(self) -> None:
        """The same, blocking the thread."""
        kill_and_reap(self._popen)
        if self._pidfd is not None:
            self._pidfd.close()

    def __repr__(self) -> str:
        code = self.returncode
        return f"<Process {self.pid} {'running' if code is None else f'returncode={code}'}>"


async def start(
    args: Args,
    *,
    stdin: File = None,
    stdout: File = None,
    stderr: File = None,
    cwd: str | bytes | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
    start_new_session: bool = False,
    process_group: int | None = None,
    ctx: Context | None = None,
) -> Process:
    """Start a program: ``args[0]``, which is looked for on $PATH if it has no slash.

    ``stdin``, ``stdout`` and ``stderr`` are ``PIPE``, ``DEVNULL``, a file or fd, or None for
    our own; ``stderr=STDOUT`` joins it to the other. All options are as in
    ``subprocess.Popen``. ``OSError`` (``FileNotFoundError``, …) if it can't be started,
    ``TypeError`` for a string: there is no shell. `Canceled` if ``ctx`` is, or gets,
    cancelled before it has been started; later this doesn't concern it. Cancel safety: no
    process is left behind; one that comes too late is killed as it comes. Go: Cmd.Start.

    >>> async def main():
    ...     p = await process.start(["sh", "-c", "echo hello; exit 3"], stdout=process.PIPE)
    ...     async with p:
    ...         return await p.stdout.read(), await p.wait()
    >>> goroutine.start(main)
    (b'hello\\n', 3)
    """
    options = {
        "stdin": stdin,
        "stdout": stdout,
        "stderr": stderr,
        "cwd": cwd,
        "env": env,
        "pass_fds": pass_fds,
        "start_new_session": start_new_session,
        "process_group": process_group,
    }
    if process_group is None:
        del options["process_group"]
    return Process(args, await spawn(args, options, ctx))
