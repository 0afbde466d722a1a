"""Contexts: deadlines, cancellation and values that go along with a piece of work. Go: context.

A context is made from a parent. Cancelling one cancels those made from it, never its
parent. Operations that wait take one as ``ctx=``; a `Group` carries one for its members.

>>> from goroutine import context
>>> async def main():
...     with context.with_timeout(context.background(), 0.01) as ctx:
...         try:
...             await goroutine.chan().recv(ctx=ctx)
...         except TimeoutError as failure:
...             return failure
>>> goroutine.start(main)
DeadlineExceeded('context deadline exceeded')
"""

from .cancel import CancelContext, cause
from .make import (
    after_func,
    background,
    todo,
    with_cancel,
    with_deadline,
    with_timeout,
    with_value,
    without_cancel,
)
from .tree import Context

__all__ = [
    "CancelContext",
    "Context",
    "after_func",
    "background",
    "cause",
    "todo",
    "with_cancel",
    "with_deadline",
    "with_timeout",
    "with_value",
    "without_cancel",
]
