"""The start line: machines begin together, once all of them could be made."""

from __future__ import annotations

import threading

__all__ = ["Gate"]


class Gate:
    """Lets the machines begin together, once all of them could be made."""

    def __init__(self, count_: int) -> None:
        self._missing = count_
        self._condition = threading.Condition()
        self._failure: BaseException | None = None
        self._open = False
        self._abandoned = False

    def arrive(self) -> bool:
        """A machine is made; wait for the others. False: go home again."""
        with self._condition:
            self._missing -= 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._open)
            return not self._abandoned

    def failed(self, failure: BaseException) -> None:
        with self._condition:
            self._failure = failure
            self._condition.notify_all()

    def wait(self) -> None:
        """The starting thread: until all are made; raises what one of them failed with."""
        with self._condition:
            self._condition.wait_for(lambda: self._failure is not None or not self._missing)
            if self._failure is not None:
                raise self._failure

    def open(self, abandon: bool = False) -> None:
        with self._condition:
            if not self._open:
                self._open = True
                self._abandoned = abandon
                self._condition.notify_all()
