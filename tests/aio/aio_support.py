"""What the tests of goroutine.aio share."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from goroutine import sleep

NAME = "goroutine-asyncio"


def asyncio_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def fds() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass  # that of the listing itself
    return found


async def until(condition: Callable[[], Any]) -> None:
    """In a goroutine: until the condition holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await sleep(0.001)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def loop_of() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
