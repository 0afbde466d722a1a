"""An echo server as a user writes it, for load generators: --port N --workers MACHINES."""

from __future__ import annotations

import argparse
import signal
import sys

import goroutine.net as net
from goroutine import start


async def echo(conn: net.Conn) -> None:
    while data := await conn.read(16384):
        await conn.write(data)


async def main(port: int) -> None:
    listener = await net.listen("tcp", f"127.0.0.1:{port}")
    await listener.serve(echo)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--io", default="auto")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    start(main, options.port, machines=options.workers, io=options.io)
