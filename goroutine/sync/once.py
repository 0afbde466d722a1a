"""Once: something that is done a single time, by whoever comes first. Go: sync.Once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..runtime.spawn import isgeneratorcoroutine
from .mutex import Mutex

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Once", "once_func", "once_value"]

T = TypeVar("T")


class Once:
    """Has a function called a single time, by `do`. Go: sync.Once.

    >>> from goroutine.sync import Once
    >>> async def main():
    ...     once = Once()
    ...     for word in "first", "second":
    ...         await once.do(lambda: print(word))
    >>> goroutine.start(main)
    first
    """

    __slots__ = ("_done", "_mutex")

    def __init__(self) -> None:
        # Set when the call has ended, not when it begins: those who come meanwhile wait.
        self._done = False
        self._mutex = Mutex()

    async def do(
        self, fn: Callable[[], Coroutine[Any, Any, object] | object], *, ctx: Context | None = None
    ) -> None:
        """Call ``fn()``, a function or an ``async def``, if none was called here before.

        When it returns, the one call has ended, whoever made it. It counts also if it failed
        or was cancelled: that is raised here, by the caller that made it, and not to others.
        ``fn`` must not use this Once. `Canceled` if ``ctx`` is cancelled while another
        caller's call goes on (``ctx`` is not for ``fn``). Go: Once.Do.
        """
        if not self._done:
            await self._do(fn, ctx)

    async def _do(self, fn: Callable[[], object], ctx: Context | None) -> None:
        await self._mutex.lock(ctx=ctx)
        try:
            if not self._done:
                try:
                    await _call(fn)
                finally:
                    self._done = True
        finally:
            self._mutex.unlock()

    def __repr__(self) -> str:
        return f"<Once {'done' if self._done else 'not done'}>"


async def _call(fn: Callable[[], Any]) -> Any:
    """``fn()``, a function's or an ``async def``'s."""
    result = fn()
    if isinstance(result, Coroutine) or isgeneratorcoroutine(result):
        result = await result  # type: ignore[misc, unused-ignore]
    return result


@overload
def once_value[R](fn: Callable[[], Coroutine[Any, Any, R]], /) -> Callable[[], Awaitable[R]]: ...
@overload
def once_value[R](fn: Callable[[], R], /) -> Callable[[], Awaitable[R]]: ...
def once_value(fn: Callable[[], Any], /) -> Callable[[], Awaitable[Any]]:
    """An ``async def`` that calls ``fn()`` the first time, and each time gives what that gave.

    If it failed, the same exception is raised each time; being cancelled inside ``fn`` is a
    failure, too. ``fn`` is a function or an ``async def``. Go: sync.OnceValue.

    >>> from goroutine.sync import once_value
    >>> @once_value
    ... def config():
    ...     print("reading")
    ...     return {"size": 3}
    >>> async def main():
    ...     return await config() is await config()
    >>> goroutine.start(main)
    reading
    True
    """
    once = Once()
    # Of the one call; stored before the Once is done, and read after that.
    value: Any = None
    failure: BaseException | None = None
    call: Callable[[], Any] | None = fn

    async def run() -> None:
        nonlocal value, failure, call
        assert call is not None
        try:
            value = await _call(call)
        except BaseException as error:
            failure = error
            raise
        finally:
            call = None  # what it holds is needed no more

    async def get() -> Any:
        if not once._done:
            await once.do(run)
        if failure is not None:
            # Without the frames of those it was raised in before, which add up.
            raise failure.with_traceback(None)
        return value

    return get


@overload
def once_func(
    fn: Callable[[], Coroutine[Any, Any, object]], /
) -> Callable[[], Awaitable[None]]: ...
@overload
def once_func(fn: Callable[[], object], /) -> Callable[[], Awaitable[None]]: ...
def once_func(fn: Callable[[], object], /) -> Callable[[], Awaitable[None]]:
    """An ``async def`` that calls ``fn()`` the first time it is called, and only then.

    If that failed, the same exception is raised each time. Go: sync.OnceFunc.

    >>> from goroutine.sync import once_func
    >>> async def main():
    ...     hello = once_func(lambda: print("hello"))
    ...     await hello()
    ...     await hello()
    >>> goroutine.start(main)
    hello
    """
    get = once_value(fn)

    async def call() -> None:
        await get()

    return call
