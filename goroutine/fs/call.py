"""Call: a system call on a pool thread, for what the ring can't do or where there is none.

Unlike `goroutine.blocking` a call that has begun is waited for even by who is cancelled: it
works on a file and with a buffer that are somebody's again as soon as its goroutine goes on,
and a disk answers in bounded time. One that hasn't begun is not made at all: ``begin`` holds one
token, which both the pool thread and the canceller try to take. (Opening may wait for ever,
for the other end of a FIFO: with ``waits=False`` the goroutine goes on at once.)

Whatever the call gives when nobody waits for it any more goes to ``lost``: under the lock one
of the two, thread and goroutine, is the second, and sees that the other has gone.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.offload import _Call
from ..runtime.shared import current
from ..runtime.wait import Scope, cancelable, check

__all__ = ["Call"]


class Call(_Call):
    """``fn(*args)`` on a pool thread. ``keep`` lives at least as long as the call goes on."""

    __slots__ = ("begin", "done", "gone", "keep", "lock", "lost", "waits")

    def __init__(
        self,
        fn: Callable[..., Any],
        *args: Any,
        keep: Any = None,
        waits: bool = True,
        lost: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(current().runtime.pool, Context(), fn, args, {})
        self.keep = keep
        self.waits = waits
        self.lost = lost
        self.begin = [True]
        self.lock = threading.Lock()
        self.done = self.gone = False

    @types.coroutine
    def wait(self, ctx: Any = None, *, firm: bool = False) -> Generator[Commit, None, Any]:
        """Have it made: its result or exception. ``firm``: nothing cancels it."""
        g = current().g
        if g is None:
            raise RuntimeError("nobody can wait in a goroutine that is being closed")
        try:
            if firm or (ctx is None and g.scope is None):
                yield self.park
            else:
                check(g, ctx)
                yield from cancelable(self, self.park, g, ctx)
        except BaseException:
            self.leave()
            raise
        if self.failure is not None:
            try:
                raise self.failure
            finally:
                self.failure = None
        return self.result

    def cancel(self, scope: Scope) -> None:
        with self.lock:  # a thread that finds the call withdrawn finds it claimed, too
            if self.begin:
                self.begin.pop()
            elif self.waits:
                return
            if not self.claim():
                return
            self.canceled = scope
        self.wake()

    def withdraw(self) -> bool:
        """Take the right to begin; False if it has been taken."""
        with self.lock:
            return bool(self.begin and self.begin.pop())

    def run(self) -> None:
        """The pool thread's."""
        if not self.withdraw():
            self.pool.finished(self)
            return
        try:
            result = self.fn(*self.args)
        except BaseException as failure:
            self.failure = failure
        else:
            with self.lock:
                self.done = True
                self.result = result
                gone = self.gone
            if gone and self.lost is not None:
                self.lost(result)
        self.pool.finished(self)

    def leave(self) -> None:
        """The goroutine's: it isn't going to see the result."""
        with self.lock:
            self.gone = True
            done = self.done
        if done and self.lost is not None:
            self.lost(self.result)


waits_for("syscall", Call.wait)
