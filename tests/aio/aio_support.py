"""What the tests of goroutine.aio share."""

import asyncio
import os
import threading

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


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def loop_of() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
