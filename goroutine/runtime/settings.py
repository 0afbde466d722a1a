"""What a run is set up with: how many machines, whether the GIL is off, when to collect."""

from __future__ import annotations

import os
import sys
import sysconfig
import warnings

__all__ = ["check_gil", "machine_count_of", "receive_buffers", "unread_bytes"]


def machine_count_of(machines: int | None) -> int:
    if machines is None:
        for name in ("GOROUTINE_MACHINES", "GOMAXPROCS"):
            text = os.environ.get(name)
            if text:
                try:
                    machines = int(text)
                except ValueError:
                    raise ValueError(f"{name} must be a whole number, not {text!r}") from None
                break
        else:
            return len(os.sched_getaffinity(0))
    if isinstance(machines, bool) or not isinstance(machines, int):
        raise TypeError(f"machines must be an int, not {type(machines).__name__}")
    if not 1 <= machines <= 1024:
        raise ValueError(f"machines must be between 1 and 1024, not {machines}")
    return machines


def receive_buffers(default: int) -> int:
    """How many buffers of 4 KiB a machine receives into, with io_uring: $GOROUTINE_BUFFERS."""
    count = _number("GOROUTINE_BUFFERS", default, 16, 32768)
    if count & (count - 1):
        raise ValueError(f"GOROUTINE_BUFFERS must be a power of two, not {count}")
    return count


def unread_bytes(default: int) -> int:
    """How much a connection may hold that nobody has read, with io_uring: $GOROUTINE_UNREAD."""
    return _number("GOROUTINE_UNREAD", default, 4096, 1 << 30)


def _number(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)


_warned = False


def check_gil() -> None:
    """With the GIL on everything works, one thread at a time: say so, once."""
    global _warned
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return
    text = "the GIL is on, so goroutines don't run in parallel: " + _gil_cause()
    if os.environ.get("GOROUTINE_GIL") == "require-off":
        raise RuntimeError(text)
    if not _warned:
        _warned = True
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def _gil_cause() -> str:
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this is not a free-threaded build of Python (python3.13t or newer)"
    option = sys._xoptions.get("gil", os.environ.get("PYTHON_GIL"))
    if option == "1":
        return "-X gil=1 or PYTHON_GIL=1 asks for it"
    if "_cffi_backend" in sys.modules:
        return "importing cffi switched it on; run with -X gil=0"
    return "an extension module that was imported switched it on; run with -X gil=0"
