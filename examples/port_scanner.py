"""Open TCP ports on this computer: python -X gil=0 examples/port_scanner.py [FIRST [LAST]]

One goroutine asks for each port, and a channel with room for LIMIT tokens bounds how many do
so at the same time. Only scan hosts that are yours; this one asks loopback.
"""

from __future__ import annotations

import sys

from goroutine import Chan, chan, go, start
from goroutine.net import dial

HOST = "127.0.0.1"
LIMIT = 200


async def probe(port: int, tokens: Chan[None], found: Chan[int | None]) -> None:
    """Try to connect; send the port if somebody listens there, else None."""
    await tokens.send(None)  # waits while LIMIT others are at it
    try:
        conn = await dial("tcp", f"{HOST}:{port}")
    except OSError:
        result = None
    else:
        conn.close()
        result = port
    await tokens.recv()
    await found.send(result)


async def main(first: int = 1, last: int = 10_000) -> None:
    tokens: Chan[None] = chan(LIMIT)
    found: Chan[int | None] = chan(LIMIT)
    ports = range(first, last + 1)
    for port in ports:
        go(probe, port, tokens, found)
    results = [await found.recv() for _ in ports]
    for port in sorted(port for port in results if port is not None):
        print(f"{HOST}:{port} is open")
    print(f"{len(ports)} ports scanned")


if __name__ == "__main__":
    start(main, *map(int, sys.argv[1:3]))
