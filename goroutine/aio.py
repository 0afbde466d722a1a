"""asyncio libraries, called from goroutines: one thread with an event loop for each run.

Code that awaits asyncio's futures needs asyncio's loop, and what such libraries make (pools
of connections, locks, queues) belongs to the loop it was made on. So all of a run's asyncio
code shares one loop, in a thread that the first `run` starts and the end of the run joins.

Who touches what. A call's task, its outcome and whether it was told to stop belong to the
loop's thread; everything that others want of it goes there by ``call_soon_threadsafe``, which
keeps their order. The goroutine sees the outcome when it has been woken, and it is woken once,
by the loop's thread, when the coroutine has really ended. A cancelled scope, too, only asks:
that the coroutine ends is what wakes the goroutine, so nothing runs on behind its back.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import types
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context as Variables
from contextvars import copy_context
from inspect import isawaitable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import Canceled
from .runtime.dump import waits_for
from .runtime.fork import in_child, module_lock
from .runtime.goroutine import Commit, Goroutine, close_steps
from .runtime.offload import Pool
from .runtime.offload import _Call as PoolCall
from .runtime.shared import machine_or_none, not_here
from .runtime.thread import holds
from .runtime.wait import Scope, Waiter, cancelable, check

if TYPE_CHECKING:
    from .context import Context
    from .runtime.scheduler import Runtime

__all__ = ["run"]

T = TypeVar("T")

GRACE = 5.0
"""Seconds that tasks have at the end of a run, from their being cancelled, to end."""


class _Call(Waiter):
    """One coroutine on the loop, the goroutine that waits for it, and what came of it."""

    __slots__ = ("asked", "awaitable", "failure", "key", "result", "task", "thread", "variables")

    def __init__(
        self, thread: _Thread, awaitable: Awaitable[Any], variables: Variables, g: Goroutine[Any]
    ) -> None:
        super().__init__(g)
        self.thread = thread
        self.awaitable: Awaitable[Any] | None = awaitable
        self.variables = variables
        # The loop's thread writes these; who has been woken reads them.
        self.task: asyncio.Task[None] | None = None  # None before it begins and when it has ended
        self.asked: Scope | None = None  # the first scope on whose account the task was cancelled
        self.result: Any = None
        self.failure: BaseException | None = None
        self.key: object = None

    def park(self, _: Goroutine[Any]) -> None:
        """Commit: from here on the loop's thread may make g ready."""
        self.key = holds.add()
        self.thread.calls[self] = True
        self.thread.loop.call_soon_threadsafe(self.begin)

    def cancel(self, scope: Scope) -> None:
        """Ask the task to stop; it is `answer` that ends the wait, as ever."""
        if not self.over:
            self.thread.post(self.stop, scope)

    # -- on the loop's thread -----------------------------------------------------------

    def begin(self) -> None:
        """The first step is made right here: so a task that is cancelled has always begun,
        and what needn't wait costs no pass of the loop."""
        task = asyncio.Task(
            self.steps(), loop=self.thread.loop, context=self.variables, eager_start=True
        )
        if not task.done():
            self.task = task

    async def steps(self) -> None:
        try:
            assert self.awaitable is not None
            self.result = await self.awaitable
        except asyncio.CancelledError as failure:
            # Ours, if we have asked. (The goroutine's Canceled says why.)
            if self.asked is not None:
                self.canceled = self.asked
            else:
                self.failure = failure
        except BaseException as failure:
            if isinstance(failure, GeneratorExit) and self.thread.gone:
                raise  # it has outlived the loop, and is closed by the collector
            self.failure = failure
        self.answer()

    def stop(self, scope: Scope) -> None:
        if self.task is not None and self.asked is None:
            self.asked = scope
            self.task.cancel()

    def answer(self) -> None:
        """The coroutine has ended: wake the goroutine.

        Unless the run has ended, and it is being closed where it waits. Holding ends when it
        has been woken: the deadlock rule asks for that order (Runtime.asleep).
        """
        self.task = self.awaitable = None
        self.thread.calls.pop(self, None)
        if not self.thread.ended:
            self.fire()
        elif self.failure is not None and not isinstance(self.failure, asyncio.CancelledError):
            self.thread.tell("failed while goroutine.start() was ending", self.failure)
        holds.drop(self.key)


class _Job(PoolCall):
    """A call of asyncio's default executor, on the threads of `blocking`."""

    __slots__ = ("future",)

    def __init__(self, pool: Pool, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        super().__init__(pool, Variables(), fn, args, kwargs)
        self.future: Future[Any] = Future()
        self.token.clear()  # no goroutine waits for it

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.fn(*self.args, **self.kwargs))
            except BaseException as failure:
                self.future.set_exception(failure)
        self.pool.finished(self)


class _Executor(ThreadPoolExecutor):  # asyncio accepts no other kind
    """What ``asyncio.to_thread`` and name look-ups use.

    The run's own pool, for three reasons: one limit for all; the deadlock detector knows of
    its calls; and a thread that is stuck in ``send_blocking`` does not keep the interpreter
    from exiting, as one of concurrent.futures' would.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(max_workers=1)  # which it never starts
        self._calls = pool

    def submit[**P, R](self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        job = _Job(self._calls, fn, args, kwargs)
        self._calls.put(job)
        return job.future


class _Thread:
    """The asyncio thread of one run."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.calls: dict[_Call, bool] = {}  # those that have not ended
        # Of the loop's thread, these three:
        self.ended = False  # the run is over: nobody is woken any more
        self.last: asyncio.Task[None] | None = None  # wind_up(); asyncio would not keep it alive
        self.gone = False  # that is over, too
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Executor(runtime.pool))
        # (Until it runs, the loop keeps what is called there.)
        self.thread = threading.Thread(target=self.live, name="goroutine-asyncio")
        try:
            self.thread.start()
        except BaseException:
            self.loop.close()
            raise

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Have it called on the loop; not if that is closed. From any thread."""
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def live(self) -> None:
        """The thread's life. The loop runs again if something stops it before its time: a
        callback that calls ``loop.stop()``, or that raises what asyncio lets through."""
        try:
            while not self.gone:
                try:
                    self.loop.run_forever()
                except BaseException as failure:
                    # sys.exit() or Ctrl-C of a background task: as in a goroutine, it means
                    # the program. (One that a goroutine waits for hands it to that.)
                    if not self.ended:
                        self.runtime.end(None, failure)
                    elif isinstance(failure, KeyboardInterrupt):
                        self.gone = True  # the user insists: see close()
                    else:
                        self.tell("failed while goroutine.start() was ending", failure)
        finally:
            self.gone = True
            for call in self.calls:
                holds.drop(call.key)
            self.calls.clear()
            self.loop.close()

    def close(self) -> None:
        """End the loop and its thread, on the starting thread. All machines have left.

        Tasks are cancelled and waited for, GRACE seconds at most. Ctrl-C is passed on to the
        code that runs, and ends the waiting.
        """
        global _thread
        _thread = None
        self.post(self.end)
        while self.thread.is_alive():
            try:
                self.thread.join()
            except KeyboardInterrupt:
                self.post(self.leave)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
                )

    def end(self) -> None:
        self.ended = True
        self.last = self.loop.create_task(self.wind_up())

    def leave(self) -> None:
        self.gone = True
        self.loop.stop()

    async def wind_up(self) -> None:
        """As asyncio.run ends: cancel all tasks, wait for them, close what is left open."""
        until = monotonic() + GRACE
        try:
            while True:  # those that end may start others
                tasks = asyncio.all_tasks() - {self.last}
                if not tasks:
                    break
                for task in tasks:
                    task.cancel()
                _, stuck = await asyncio.wait(tasks, timeout=max(0.0, until - monotonic()))
                for task in tasks - stuck:
                    if not task.cancelled() and (failure := task.exception()) is not None:
                        self.tell("failed while goroutine.start() was ending", failure, task)
                if stuck:
                    for task in stuck:
                        text = f"did not end in {GRACE} s after goroutine.start() had cancelled it"
                        self.tell(text, None, task)
                    break
            await asyncio.wait_for(
                self.loop.shutdown_asyncgens(), timeout=max(0.1, until - monotonic())
            )
        except TimeoutError:
            self.tell("asynchronous generators did not end with goroutine.start()", None)
        finally:
            self.leave()

    def tell(
        self, text: str, failure: BaseException | None, task: asyncio.Task[Any] | None = None
    ) -> None:
        """By asyncio's own way: its logger, which prints on stderr where nobody asked for
        something else."""
        about: dict[str, Any] = {"message": f"an asyncio task {text}"}
        if failure is not None:
            about["exception"] = failure
        if task is not None:
            about["task"] = task
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it has been told
        self.loop.call_exception_handler(about)


_lock = module_lock()  # held while the thread is started
_thread: _Thread | None = None  # that of this run, once there is one


def _in_child() -> None:
    global _thread
    _thread = None


in_child.append(_in_child)


def _thread_of(runtime: Runtime) -> _Thread:
    global _thread
    thread = _thread
    if thread is None:
        with _lock:
            thread = _thread
            if thread is None:
                at_end = runtime.at_end  # (first: a bubble has none, and no threads)
                thread = _thread = _Thread(runtime)
                at_end.append(thread.close)
    return thread


def _goroutine() -> tuple[Runtime, Goroutine[Any]]:
    """The run and the running goroutine."""
    m = machine_or_none()
    if m is not None:
        if m.g is None:
            raise RuntimeError("in a goroutine that is being closed: nobody can wait here")
        return m.runtime, m.g
    thread = _thread
    if thread is not None and thread.thread is threading.current_thread():
        raise RuntimeError("aio.run() on the asyncio thread itself: await the coroutine there")
    raise RuntimeError(not_here())


def _drop(awaitable: Any) -> None:
    """It will not be awaited, and Python need not warn of that."""
    if isinstance(awaitable, (types.CoroutineType, types.GeneratorType)):
        close_steps(awaitable)


@types.coroutine
def run[T](coro: Awaitable[T], *, ctx: Context | None = None) -> Generator[Commit, None, T]:
    """Run an asyncio coroutine on the asyncio thread; returns or raises what it does.

    All calls of one run share one thread and one loop, so what one has made there (a pool of
    connections) the next one can use. The thread begins with the first call. At the end of
    `start` tasks that are left are cancelled and get 5 seconds to end; then the loop is
    closed and the thread joined. Contextvars are carried along, and what the coroutine sets
    stays its own, as in ``asyncio.create_task``.

    Who is cancelled here (`Canceled`) waits until the coroutine has ended: it is cancelled
    with asyncio's ``CancelledError``, and may clean up. What it returns or raises all the same
    is what `run` returns or raises; it was done before it could be cancelled, or its cleaning
    up failed. If it is cancelled there, without our asking, `Canceled` is raised here, with
    asyncio's error as the cause. ``TypeError`` for what can't be awaited; ``RuntimeError``
    outside a goroutine, as on the asyncio thread itself.

    Cancel safety: that of the coroutine. Go: calling into another runtime's thread by cgo.

    >>> import asyncio
    >>> async def add(a, b):
    ...     await asyncio.sleep(0.01)
    ...     return a + b
    >>> async def main():
    ...     return await aio.run(add(1, 2))
    >>> goroutine.start(main)
    3
    """
    if not isawaitable(coro):
        raise TypeError(f"aio.run() takes a coroutine, not {type(coro).__name__}")
    try:
        runtime, g = _goroutine()
        check(g, ctx)
        call = _Call(_thread_of(runtime), coro, copy_context(), g)
    except BaseException:
        _drop(coro)
        raise
    del coro  # its frames end with the call, not with this one
    yield from cancelable(call, call.park, g, ctx)
    failure = call.failure
    if failure is None:
        result: T = call.result
        return result
    try:
        if isinstance(failure, asyncio.CancelledError):
            raise Canceled("asyncio task canceled") from failure
        if failure.__traceback__ is not None:
            failure.__traceback__ = failure.__traceback__.tb_next  # without that of steps()
        raise failure
    finally:
        del failure  # else it and this frame keep each other alive
        call.failure = None


waits_for("asyncio call", run)
