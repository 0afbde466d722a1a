"""Op: one operation in a machine's ring, and the goroutine that waits for its completion.

For what only completes and is never ready: files. Who asks fills in the fields of an SQE; the
commit queues it on the machine that ran the goroutine, whose poller keeps the Op in ``ops``
until the completion is reaped, and with it, in ``keep``, all that the kernel reads or writes.
So memory is freed after the kernel has let go of it, whatever becomes of the goroutine.

Cancelling asks the kernel (ASYNC_CANCEL, from the home machine) and the goroutine goes on
waiting: only the completion, which comes in any case, says what has happened, and only then
is the buffer free. If the operation succeeded nevertheless its result counts: the goroutine
gets it, and is told of the cancellation at its next wait. ``asked`` is stored before ``m`` is
looked at, and ``m`` before ``asked``, so one of the two sides queues the cancellation.

A goroutine may be closed with its run before it sees the result. If the completion had been
reaped, the goroutine's side notices; else the poller does when it is closed (`end_all`). Either
calls `lost`, once, which gives back what the kernel has given (an fd).
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..runtime.dump import waits_for
from ..runtime.goroutine import Commit
from ..runtime.shared import current
from ..runtime.wait import Hook, Scope, cancelable, check
from . import ioring

if TYPE_CHECKING:
    from ..runtime.machine import Machine
    from .ioring import Ring

__all__ = ["INTERRUPTED", "Op", "end_all", "supported"]

INTERRUPTED = frozenset((-errno.ECANCELED, -errno.EINTR, -512))
"""Results of an operation that was stopped. (512 is ERESTARTSYS, which the kernel lets out
when an openat is stopped on a worker thread.)"""

U64 = (1 << 64) - 1


class Op(Hook):
    """See above. The arguments are fields of the SQE (ioring.Ring.prepare).

    ``result`` is None until it has completed: then what the system call would have returned,
    or a negative errno.
    """

    __slots__ = (
        "addr",
        "asked",
        "code",
        "fd",
        "flags",
        "g",
        "keep",
        "key",
        "length",
        "m",
        "off",
        "op_flags",
        "place",
        "result",
    )

    def __init__(
        self,
        code: int,
        fd: int,
        *,
        off: int = 0,
        addr: int = 0,
        length: int = 0,
        op_flags: int = 0,
        flags: int = 0,
        keep: Any = None,
    ) -> None:
        self.canceled = None
        self.over = False
        self.code = code
        self.fd = fd
        self.off = off & U64
        self.addr = addr
        self.length = length
        self.op_flags = op_flags
        self.flags = flags
        self.keep = keep
        self.g: Any = None
        self.m: Machine | None = None
        self.key = 0
        self.place = 0  # of its SQE among all that were ever queued on this ring
        self.asked: Any = None  # the scope that wants it cancelled; True: somebody else does
        self.result: int | None = None

    def run(self, ctx: Any = None) -> Generator[Commit, None, int]:
        """Have it done; the result, in which errors are negative. Once per Op.

        `Canceled` if ctx, or the goroutine's group, was cancelled and it has not happened.
        """
        g = current().g
        if g is None:
            raise RuntimeError("nobody can wait in a goroutine that is being closed")
        try:
            if ctx is None and g.scope is None:
                yield self.park
            else:
                check(g, ctx)
                yield from cancelable(self, self.park, g, ctx)
        except BaseException:
            if self.result is not None:
                self.lost(self.result)
            raise
        assert self.result is not None
        return self.result

    def park(self, g: Any) -> None:
        """Commit. (The completion is reaped by this very thread, later.)"""
        self.g = g
        m = self.m = current()
        m.poller.submit(self)  # type: ignore[attr-defined]
        if self.asked is not None:
            m.poller.stop(self)  # type: ignore[attr-defined]

    def cancel(self, scope: Scope) -> None:
        if self.asked is None:
            self.asked = scope
            self.ask()

    def abort(self) -> None:
        """Stop it for another reason than a scope: the result says whether that was in time.
        From any thread."""
        if self.asked is None:
            self.asked = True
            self.ask()

    def ask(self) -> None:
        m = self.m
        if m is not None:
            m.post(lambda: m.poller.stop(self))  # type: ignore[attr-defined]

    def done(self, result: int) -> None:
        """The poller's, before it makes g ready."""
        if result in INTERRUPTED and self.asked not in (None, True):
            self.canceled = self.asked
        self.result = result

    def lost(self, result: int) -> None:
        """Nobody is going to see this result."""


def end_all(ring: Ring, ops: dict[int, Op]) -> list[ioring.Completion]:
    """The run is over, and its goroutines are closed: have the kernel let go of all that
    ``ops`` keep. In the ring's thread, which closes it next. Returns what else had completed."""
    try:
        ring.sync_cancel(timeout=1.0)
    except OSError:
        pass
    others = []
    for completion in ring.completions():
        op = ops.pop(completion.user_data, None)
        if op is None:
            others.append(completion)
        else:
            op.result = completion.res
            op.lost(completion.res)
    submitted = ring.tail - ring.pending()
    for op in ops.values():
        if op.place >= submitted:
            op.lost(-errno.ECANCELED)
        else:
            _stuck.append(op)
    ops.clear()
    return others


_stuck: list[Op] = []
"""What the kernel can't stop (a dead disk): it may yet write into these buffers."""


_known: frozenset[int] | None = None


def supported(*codes: int) -> bool:
    """Whether this kernel has all these operations (OP_…)."""
    global _known
    if _known is None:
        try:
            _known = ioring.probe().operations
        except OSError:
            _known = frozenset()
    return _known.issuperset(codes)


waits_for("IO wait", Op.run)
