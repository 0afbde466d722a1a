"""A machine that is stuck inside a step: what others do for it takes nothing away."""

import logging
import socket
import time

from net_support import Run

import goroutine
from goroutine import net
from goroutine.context import background, with_timeout


def test_datagrams_are_left_alone(run: Run, caplog):
    """Nobody but who reads them receives datagrams; what receives for the connections of a
    stuck machine took the first, with io_uring, and nobody ever saw it."""

    async def main():
        async with await net.listen("udp", "127.0.0.1:0") as here:
            host, _, port = here.local_address.rpartition(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                for i in range(3):
                    s.sendto(b"%d" % i, (host, int(port)))
                end = time.monotonic() + 0.15
                while time.monotonic() < end:
                    pass
                s.sendto(b"3", (host, int(port)))
                with with_timeout(background(), 5) as ctx:
                    for i in range(4):
                        assert (await here.read_from(ctx=ctx))[0] == b"%d" % i
            await goroutine.gosched()

    with caplog.at_level(logging.CRITICAL, "goroutine"):
        run(main)
