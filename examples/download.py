"""A file over HTTP, in pieces side by side: python -X gil=0 examples/download.py URL FILE [LIMIT]

Each piece comes over a connection of its own, at most LIMIT of them at a time. One that breaks
off is taken up again where it was. If that fails too often, the others are cancelled, and no
file is left behind; nor is one after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from urllib.parse import urlsplit

import h11

from goroutine import Group, sleep, start
from goroutine.net import dial
from goroutine.time import now

PIECE = 1 << 20  # bytes
STALL = 10.0  # seconds without a byte
PAUSES = (0.1, 0.5, 2.0)  # seconds before a piece is tried again


class Refused(Exception):
    """To ask again would not help."""


async def ask(
    url: str, method: str, *headers: tuple[str, str]
) -> AsyncGenerator[h11.Response | h11.Data]:
    """The answer: an ``h11.Response``, then its ``h11.Data``."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = [("Host", parts.netloc), ("Connection", "close"), *headers]
    question = h11.Request(method=method, target=target, headers=fields)
    http = h11.Connection(h11.CLIENT)
    async with await dial("tcp", (parts.hostname or "", parts.port or 80), timeout=STALL) as conn:
        await conn.write((http.send(question) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                conn.set_read_deadline(now() + STALL)
                http.receive_data(await conn.read())
            elif isinstance(event, h11.Response | h11.Data):
                if isinstance(event, h11.Response) and event.status_code not in (200, 206):
                    raise Refused(f"{url}: {event.status_code} {event.reason.decode()}")
                yield event


async def fetch(url: str, fd: int, first: int, end: int) -> int:
    """One piece of the file; returns how many connections it took."""
    at, pauses = first, list(PAUSES)
    while True:
        try:
            async with aclosing(ask(url, "GET", ("Range", f"bytes={at}-{end - 1}"))) as answer:
                async for event in answer:
                    if isinstance(event, h11.Data):
                        os.pwrite(fd, event.data, at)  # into memory; the kernel writes it out
                        at += len(event.data)
                    elif event.status_code == 200:
                        at = 0  # it knows nothing of ranges, and sends all
            if at == end:
                return 1 + len(PAUSES) - len(pauses)
            raise OSError(f"{url}: that was not all of it")
        except (OSError, h11.RemoteProtocolError):
            if not pauses:
                raise
        await sleep(pauses.pop(0))


async def main() -> int:
    url, path, *rest = sys.argv[1:]
    limit = int(rest[0]) if rest else 8
    part = f"{path}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        async with aclosing(ask(url, "HEAD")) as answer:
            response = await anext(answer)
            assert isinstance(response, h11.Response)
            headers = dict(response.headers)
        if b"content-length" not in headers:
            raise Refused(f"{url}: its length isn't known")
        length = int(headers[b"content-length"])
        ranges = headers.get(b"accept-ranges") == b"bytes"
        async with Group(limit=limit) as group:
            step = PIECE if ranges else max(length, 1)
            pieces = [
                group.go(fetch, url, fd, first, min(first + step, length))
                for first in range(0, length, step)
            ]
        os.rename(part, path)
    except (OSError, Refused, h11.RemoteProtocolError, ExceptionGroup) as failure:
        print(f"download: {failure}", file=sys.stderr)
        return 1
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(part)
    print(f"{length} bytes over {sum(piece.result() for piece in pieces)} connections")
    return 0


if __name__ == "__main__":
    sys.exit(start(main))
