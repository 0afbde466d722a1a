"""An HTTP/1.1 server, on h11: python -X gil=0 examples/http_server.py [PORT [DRAIN]]

h11 knows the protocol and does no I/O. All that waits is here, in plain calls with deadlines:
connections that are kept alive, pipelined requests, bodies in chunks, 100-continue, slow peers.
On SIGTERM or Ctrl-C nobody can connect any more, connections that wait for a request are closed,
and what is being answered has DRAIN seconds. Try `curl 127.0.0.1:8080/count/5`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from signal import SIGINT, SIGTERM

import h11

from goroutine import Canceled, Chan, chan, context, go, signal, sleep, start
from goroutine.context import Context
from goroutine.net import Conn, listen
from goroutine.time import now

IDLE = 60.0  # seconds until the next request begins
HEADER = 5.0  # from its first byte to the end of its header
STALL = 10.0  # for some more of its body to come, and for a piece of the answer to go
MOST = 1 << 20  # bytes of a body

type Answer = tuple[int, bytes | AsyncIterator[bytes]]  # the status; all of it, or as it comes


async def app(request: h11.Request, body: bytes) -> Answer:
    """What this server is for."""
    path, _, number = request.target.decode().rpartition("/")
    if request.target == b"/":
        return 200, b"hello\n"
    if request.target == b"/echo":
        return 200, body
    if path == "/count":
        return 200, count(int(number))
    return 404, b"not here\n"


async def count(n: int) -> AsyncIterator[bytes]:
    for i in range(n):
        yield f"{i}\n".encode()
        await sleep(0.1)


class Peer:
    """A connection, and what h11 knows of it."""

    def __init__(self, conn: Conn, closing: Context) -> None:
        self.conn, self.closing = conn, closing
        self.http = h11.Connection(h11.SERVER)

    async def send(self, *events: h11.Event) -> None:
        self.conn.set_write_deadline(now() + STALL)
        await self.conn.write(b"".join([self.http.send(event) or b"" for event in events]))

    async def event(self) -> h11.Event:
        """The next thing that the peer says."""
        while not isinstance(event := self.http.next_event(), h11.Event):  # it needs data
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self.http.receive_data(await self.conn.read())
        return event

    async def request(self) -> h11.Request | None:
        """The next one; None if the peer, or the server, is done."""
        if not self.http.trailing_data[0]:  # none was sent ahead
            self.conn.set_read_deadline(now() + IDLE)
            try:
                self.http.receive_data(await self.conn.read(ctx=self.closing))
            except (TimeoutError, Canceled):  # and then nothing has been read
                return None
        self.conn.set_read_deadline(now() + HEADER)
        event = await self.event()
        return event if isinstance(event, h11.Request) else None

    async def body(self) -> bytes:
        body = bytearray()
        while len(body) <= MOST:
            self.conn.set_read_deadline(now() + STALL)
            event = await self.event()
            if not isinstance(event, h11.Data):
                return bytes(body)
            body += event.data
        raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)

    async def answer(self, status: int, content: bytes | AsyncIterator[bytes]) -> None:
        headers = [("Connection", "close")] if self.closing.err() else []
        if isinstance(content, bytes):
            headers.append(("Content-Length", str(len(content))))
            response = h11.Response(status_code=status, headers=headers)
            await self.send(response, h11.Data(data=content), h11.EndOfMessage())
        else:  # h11 puts it into chunks
            await self.send(h11.Response(status_code=status, headers=headers))
            async for data in content:
                await self.send(h11.Data(data=data))
            await self.send(h11.EndOfMessage())

    async def refuse(self, status: int) -> None:
        """The last answer, if there was none yet."""
        if self.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=status, headers=[("Connection", "close")])
            await self.send(response, h11.EndOfMessage())
            await self.conn.close_write()
            self.conn.set_read_deadline(now() + 1)
            with suppress(OSError):
                while await self.conn.read():  # to close before is a reset, which may overtake it
                    pass


async def serve(peer: Peer) -> None:
    """The requests of one connection, one after the other."""
    try:
        while request := await peer.request():
            body = await peer.body()
            try:
                answer = await app(request, body)
            except Exception:
                logging.exception("%s", request.target)
                answer = 500, b"something is broken here\n"
            await peer.answer(*answer)
            if peer.http.our_state is not h11.DONE:  # one of us has said that this was the last
                return
            peer.http.start_next_cycle()
    except h11.RemoteProtocolError as failure:
        await peer.refuse(failure.error_status_hint)
    except TimeoutError:
        await peer.refuse(408)


async def main(port: int = 8080, drain: float = 10) -> None:
    stop: Chan[int] = chan(1)
    signal.notify(stop, SIGINT, SIGTERM)
    closing = context.with_cancel(context.background())
    listener = await listen("tcp", f"127.0.0.1:{port}")
    print("serving on", listener.address, flush=True)
    go(listener.serve, lambda conn: serve(Peer(conn, closing)))
    await stop.recv()
    signal.stop(stop)  # a second one ends the program at once
    listener.close()
    closing.cancel()
    print("bye" if await listener.shutdown(drain) else "some were cut off")


if __name__ == "__main__":
    start(main, int(sys.argv[1]) if sys.argv[1:] else 8080, *map(float, sys.argv[2:3]))
