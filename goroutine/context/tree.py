"""The tree of contexts: what they have in common, and those that only pass on."""

from __future__ import annotations

from typing import Any

from ..channel import Chan
from ..errors import Canceled
from ..runtime.wait import Scope

__all__ = [
    "Child",
    "Context",
    "Root",
    "Value",
    "WithoutCancel",
    "check_parent",
    "node_of",
    "scope_of",
]


class Context:
    """What a piece of work is done under. `background` is the root of all.

    Any number of goroutines and threads may use one at the same time. A type of the
    program's own may be a parent, too, if it has these four methods; it should have this
    one as its base to be given as ``ctx=``. Go: context.Context.

    >>> ctx = context.with_value(context.background(), "user", "gopher")
    >>> ctx.value("user"), ctx.err(), ctx.deadline(), ctx.done()
    ('gopher', None, None, None)
    """

    __slots__ = ()

    def done(self) -> Chan[None] | None:
        """A channel that is closed when the context is cancelled, for `select`; None if that
        never happens. (A deadline needs a run: call this in the one that waits.) Go: Done."""
        return None

    def err(self) -> Canceled | None:
        """Why it was cancelled: `Canceled`, or `DeadlineExceeded` (a ``TimeoutError``), with
        the cause, if one was given, as ``__cause__``. None while it is not. Go: Err."""
        return None

    def deadline(self) -> float | None:
        """When it ends by itself, on `goroutine.time.now`; None if never. Go: Deadline."""
        return None

    def value(self, key: Any) -> Any:
        """What the nearest `with_value` up the tree has for the key, else None. Go: Value."""
        return None

    def _scope(self) -> Scope | None:
        """What `runtime.wait` has to do with: None if this can't be cancelled."""
        return scope_of(node_of(self))


class Root(Context):
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


class Child(Context):
    """What is made from a parent. Trees may be deep: nothing here goes up by recursion."""

    __slots__ = ("_parent",)

    _parent: Any  # a Context, or what looks like one

    def done(self) -> Chan[None] | None:
        node: Any = node_of(self)
        return None if node is None else node.done()

    def err(self) -> Canceled | None:
        node: Any = node_of(self)
        return None if node is None else node.err()

    def deadline(self) -> float | None:
        node: Any = node_of(self)
        return None if node is None else node.deadline()

    def value(self, key: Any) -> Any:
        ctx: Any = self
        while isinstance(ctx, Child):
            if isinstance(ctx, Value) and (ctx.key is key or ctx.key == key):
                return ctx.its
            ctx = ctx._parent
        return ctx.value(key)

    def _kind(self) -> str:
        return ""

    def __repr__(self) -> str:
        kinds = []
        ctx: Any = self
        while isinstance(ctx, Child):
            kinds.append(ctx._kind())
            ctx = ctx._parent
        return f"<{', '.join([f'{ctx!r}'.strip('<>'), *reversed(kinds)])}>"


class Value(Child):
    __slots__ = ("its", "key")

    def __init__(self, parent: Any, key: Any, its: Any) -> None:
        self._parent = parent
        self.key = key
        self.its = its

    def _kind(self) -> str:
        return repr(self.key)


class WithoutCancel(Child):
    __slots__ = ()

    def __init__(self, parent: Any) -> None:
        self._parent = parent

    def _kind(self) -> str:
        return "without cancel"


def node_of(ctx: Any) -> Any:
    """The nearest up the tree, ctx included, on which it depends whether ctx is cancelled: a
    CancelContext, or one of a type of the program's own. None if nothing ever cancels ctx."""
    while type(ctx) is Value:
        ctx = ctx._parent
    return None if isinstance(ctx, (Root, WithoutCancel)) else ctx


def scope_of(node: Any) -> Scope | None:
    """What to wait under that a node (see `node_of`) can end."""
    from .cancel import CancelContext, Foreign  # they are made of this module

    return node if node is None or isinstance(node, CancelContext) else Foreign(node)


def check_parent(parent: Any) -> None:
    if parent is None:
        raise TypeError("cannot create context from nil parent")
    if not isinstance(parent, Context) and not hasattr(parent, "done"):
        raise TypeError(f"a context's parent is a Context, not {type(parent).__name__}")
