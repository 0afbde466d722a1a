"""A TCP server that sends back what it gets: python -X gil=0 examples/echo_server.py [PORT]

Try it with `nc 127.0.0.1 8080`, or with many connections: one goroutine serves each, and
one that waits for data costs a few hundred bytes and no thread.
"""

from __future__ import annotations

import sys
from signal import SIGINT, SIGTERM

from goroutine import Chan, chan, go, signal, start
from goroutine.net import Conn, listen


async def echo(conn: Conn) -> None:
    """One connection. `serve` closes it when this returns or fails."""
    while data := await conn.read():  # b"" is the end of the stream
        await conn.write(data)


async def main(port: int = 8080) -> None:
    stop: Chan[int] = chan(1)
    signal.notify(stop, SIGINT, SIGTERM)
    listener = await listen("tcp", f"127.0.0.1:{port}")
    print("echoing on", listener.address, flush=True)
    go(listener.serve, echo)  # a goroutine for every connection
    await stop.recv()
    await listener.shutdown(0)  # who is connected is cut off; with 10, gets 10 s to finish
    print("bye")


if __name__ == "__main__":
    start(main, *map(int, sys.argv[1:2]))
