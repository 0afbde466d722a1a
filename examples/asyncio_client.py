"""An asyncio library, used by goroutines: python -X gil=0 examples/asyncio_client.py LINE...

It sends each LINE to a server that answers with a line, such as examples/echo_server.py on port
8080, and prints the answers. Client stands for a library: a driver of a database has the same
shape, and knows nothing of goroutines. All of it runs on asyncio's thread, call by call, by
`aio.run`; the goroutines beside it are on all cores.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Self

from goroutine import Group, aio, start

HOST, PORT = "127.0.0.1", 8080


class Client:
    """One connection; asyncio's lock keeps questions and answers together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.lock = reader, writer, asyncio.Lock()

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, line: str) -> str:
        async with self.lock:
            self.writer.write(f"{line}\n".encode())
            answer = await asyncio.wait_for(self.reader.readline(), 5)
        return answer.decode().rstrip()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def ask(client: Client, line: str) -> str:
    return await aio.run(client.ask(line))


async def main(*lines: str, port: int = PORT) -> None:
    client = await aio.run(Client.connect(HOST, port))
    try:
        async with Group() as group:  # one that fails cancels the others, there as well
            answers = [group.go(ask, client, line) for line in lines]
        for answer in answers:
            print(answer.result())
    finally:
        await aio.run(client.close())


if __name__ == "__main__":
    start(main, *sys.argv[1:])
