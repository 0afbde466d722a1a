"""A child process that speaks one JSON object a line, and is never left behind.

The child's standard input is a pipe whose closing tells it to end; so it ends with this process
too, however this process ends. Its standard error goes to a file: nobody needs to read it for the
child to go on, and it is there when the child has failed.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from .errors import RunFailedError

__all__ = ["Child"]

_GRACE_SECONDS = 5.0


class Child:
    """Use as a context manager: at its end the process is gone."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """`name` is what messages call the child ("the server")."""
        self.name = name
        self._lines: deque[dict[str, Any]] = deque()
        self._partial = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the child's end)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
            )
        except OSError as error:
            self._stderr.close()
            raise RunFailedError(f"{name} could not be started: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stdout.close()
        self._stderr.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when `take` has something, the end of the child's output included."""
        return self._stdout.fileno()

    def send(self, **fields: object) -> None:
        """Writes one JSON line to the child; that the child has ended is found out by `take`."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(fields).encode() + b"\n")

    def take(self) -> list[dict[str, Any]]:
        """The lines that have come, without waiting; `RunFailedError` when no more will come."""
        ended = self._read()
        lines = list(self._lines)
        self._lines.clear()
        if ended and not lines:
            raise RunFailedError(self.obituary())
        return lines

    def expect(self, seconds: float, doing: str) -> dict[str, Any]:
        """The next line, within `seconds`; `doing` is what the child ought to be doing."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while not self._lines:
                left = deadline - time.monotonic()
                if left <= 0:
                    text = f"{self.name} did not answer within {seconds:g} s ({doing})"
                    raise RunFailedError(text)
                if selector.select(left) and self._read() and not self._lines:
                    raise RunFailedError(self.obituary())
        return self._lines.popleft()

    def _read(self) -> bool:
        """Reads what is there into `_lines`; whether the child's output has ended."""
        while True:
            try:
                data = os.read(self._stdout.fileno(), 65536)
            except BlockingIOError:
                return False
            if not data:
                return True
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                try:
                    fields = json.loads(line)
                except ValueError:
                    fields = None
                if not isinstance(fields, dict):
                    text = line[:80].decode(errors="replace")
                    raise RunFailedError(f"{self.name} printed something unexpected: {text}")
                self._lines.append(fields)

    def obituary(self) -> str:
        """One line that says how the child ended, for one that should not have."""
        try:
            status = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return f"{self.name} closed its output and goes on"
        if status == -signal.SIGALRM:
            return f"{self.name} overran its time limit"
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with {status}"
        )
        said = self.stderr().splitlines()
        return f"{self.name} {how}" + (f": {said[-1].strip()}" if said else "")

    def alive(self) -> bool:
        return self._process.poll() is None

    def ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def cpu_seconds(self) -> float | None:
        """CPU time of all the child's threads so far; None when it has ended.

        From the process's CPU clock: what /proc/PID/stat gives as utime + stime in steps of 10 ms,
        but to the nanosecond, so that short windows are measured as well.
        """
        if not self.alive():
            return None
        try:
            # CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it.
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return None

    def stderr(self) -> str:
        """What the child has written to standard error (the last 64 KiB of it)."""
        size = os.fstat(self._stderr.fileno()).st_size
        start = max(0, size - 65536)
        return os.pread(self._stderr.fileno(), 65536, start).decode(errors="replace")

    def finish(self) -> dict[str, Any]:
        """Closes the child's input and gives the last line it says then, or an empty one."""
        self._stdin.close()
        last: dict[str, Any] = {}
        try:
            while True:
                last = self.expect(_GRACE_SECONDS, "ending")
        except RunFailedError:
            return last

    def stop(self) -> None:
        """Closes the child's input, asks it to end, and ends it when it doesn't."""
        self._stdin.close()
        if self.alive():
            self._process.terminate()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
