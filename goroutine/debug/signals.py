"""SIGQUIT prints the dump and ends the process with status 2; SIGUSR1, if asked for, prints it.

Only a signal that is at its default is taken, and only in Python's main thread: elsewhere
handlers can't be set. They are given back when the run ends.

The handler runs in the midst of whatever the main thread is doing, which may hold any lock.
So it only starts a thread, in a way that takes none (threading.Thread.start would), and that
one does the work. The main thread is in sysmon and hears of a signal at once, whatever the
machines compute.
"""

from __future__ import annotations

import os
import signal
import threading
from _thread import start_new_thread
from time import sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..runtime.dump import render
from .dumping import GROUP_ABOVE, looks

if TYPE_CHECKING:
    from ..runtime.scheduler import Runtime

__all__ = ["Handlers", "text_of"]


def text_of(runtime: Runtime) -> str:
    """The dump of a run."""
    seen = looks(runtime)
    return render(seen, len(seen) > GROUP_ABOVE) + "\n"


def write(text: str) -> None:
    """To stderr itself: sys.stderr may be anything, and locked."""
    rest = memoryview(text.encode(errors="backslashreplace"))
    try:
        while rest:
            rest = rest[os.write(2, rest) :]
    except OSError:
        pass


class Handlers:
    """Those of one run. A context manager, for the starting thread."""

    def __init__(self, runtime: Runtime, usr1: bool) -> None:
        self._runtime = runtime
        self._wanted: dict[int, Any] = {signal.SIGQUIT: self._quit}
        if usr1:
            self._wanted[signal.SIGUSR1] = self._print
        self._quitting = False
        self._printing = threading.Lock()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._wanted.items():
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._wanted.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, signal.SIG_DFL)
        while self._quitting:
            sleep(1)  # the process ends any moment, with status 2

    def _quit(self, number: int, frame: object) -> None:
        if not self._quitting:
            self._quitting = True
            start_new_thread(self._dump_and_exit, ())

    def _dump_and_exit(self) -> None:
        try:
            write(f"SIGQUIT: quit\n\n{text_of(self._runtime)}")
        finally:
            os._exit(2)

    def _print(self, number: int, frame: object) -> None:
        start_new_thread(self._dump, ())

    def _dump(self) -> None:
        with self._printing:
            write(f"SIGUSR1\n\n{text_of(self._runtime)}\n")
