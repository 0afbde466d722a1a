"""What goes along with a run for debugging: begun and ended by `start`, on its thread."""

from __future__ import annotations

from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING

from ..runtime.panic import print_report
from .options import read
from .signals import Handlers
from .trace import MOST, Trace
from .trace_run import attend

if TYPE_CHECKING:
    from ..runtime.scheduler import Runtime

__all__ = ["begin"]


def begin(runtime: Runtime) -> ExitStack:
    """Begin what GOROUTINE_DEBUG asks for, and take SIGQUIT. To be closed when the run is over.

    (What is asked for is imported then, and costs nothing else.)
    """
    with ExitStack() as session:
        options = read()
        session.enter_context(Handlers(runtime, bool(options.sigusr1)))
        runtime.sysmon.patience(options.stuck / 1e3 or inf)
        if options.leaks:
            from .leaks import watch

            watch(runtime)
        if options.schedtrace:
            from .schedtrace import Tracer

            session.enter_context(Tracer(runtime, options.schedtrace / 1e3, options.scheddetail))
        if options.dump:
            from .server import Server

            session.enter_context(Server(runtime))
        if options.trace:
            try:
                session.enter_context(Trace(options.trace, MOST))
            except (OSError, RuntimeError) as failure:
                print_report(f"goroutine: GOROUTINE_DEBUG: no trace: {failure}")
        session.enter_context(attend(runtime))
        return session.pop_all()
