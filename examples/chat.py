"""A chat room: python -X gil=0 examples/chat.py [PORT]

Talk in it with `nc 127.0.0.1 8080`, from several terminals. One goroutine, the hub, owns the list
of who is here and hears of everything through channels, so there is nothing to lock. It never
waits for a guest: each has a channel with room for a few lines, and whoever lets it overflow is
shown the door, rather than keeping all the others waiting.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from signal import SIGINT, SIGTERM

from goroutine import Chan, chan, go, recv, select, send, signal, start
from goroutine.net import Conn, listen

ROOM = 64  # lines that may wait for a slow guest
LINE = 1024  # bytes; the rest of a longer one is dropped


class Guest:
    def __init__(self, conn: Conn) -> None:
        self.conn = conn
        self.name = conn.remote_address
        self.lines: Chan[str] = chan(ROOM)  # for it to read; the hub sends, and closes

    async def show(self) -> None:
        """Write what the hub sends, up to the end; then hang up."""
        try:
            async for line in self.lines:
                await self.conn.write(line.encode() + b"\n")
        except OSError:
            pass  # it has gone, or was shown the door
        self.conn.close()

    async def typed(self) -> AsyncIterator[str]:
        """The lines that it sends."""
        rest = b""
        while data := await self.conn.read():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line[:LINE].decode(errors="replace").strip()
            rest = rest[:LINE]


class Room:
    def __init__(self) -> None:
        self.entering: Chan[Guest] = chan()
        self.leaving: Chan[Guest] = chan()
        self.said: Chan[str] = chan()
        self.closing: Chan[None] = chan()

    async def hub(self) -> None:
        """The only one who has the list."""
        here: dict[Guest, None] = {}
        closing: Chan[None] | None = self.closing
        while True:
            match await select(
                recv(self.entering), recv(self.leaving), recv(self.said), recv(closing)
            ):
                case 0, guest, _:
                    here[guest] = None
                    news = f"* {guest.name} is here"
                case 1, guest, _:
                    if guest in here:
                        del here[guest]
                        guest.lines.close()
                    news = f"* {guest.name} has left"
                case 2, said, _:
                    news = said
                case _:
                    closing = None  # like Go's nil channel: never ready
                    news = "* closing time"
            for guest in list(here):
                sent = await select(send(guest.lines, news), default=True)
                if sent.index < 0:  # there was no room
                    del here[guest]
                    guest.conn.close()  # also under its goroutines, which are told
                    guest.lines.close()
            if closing is None:  # they read what there is, then they are out
                for guest in here:
                    guest.lines.close()
                here.clear()

    async def serve(self, conn: Conn) -> None:
        """One guest, from coming to leaving."""
        guest = Guest(conn)
        showing = go(guest.show)
        await self.entering.send(guest)
        try:
            async for line in guest.typed():
                await self.said.send(f"{guest.name}: {line}")
        except OSError:
            pass  # as above
        await self.leaving.send(guest)
        await showing


async def main(port: int = 8080) -> None:
    stop: Chan[int] = chan(1)
    signal.notify(stop, SIGINT, SIGTERM)
    room = Room()
    go(room.hub)
    listener = await listen("tcp", f"127.0.0.1:{port}")
    print("chatting on", listener.address, flush=True)
    go(listener.serve, room.serve)
    await stop.recv()
    room.closing.close()
    await listener.shutdown(2)  # the slow ones are cut off
    print("bye")


if __name__ == "__main__":
    start(main, *map(int, sys.argv[1:2]))
