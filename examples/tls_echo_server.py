"""As echo_server.py, over TLS: python -X gil=0 examples/tls_echo_server.py CERT KEY [PORT]

CERT and KEY are PEM files; docs/tls.md has the command that makes them. Try it with
`openssl s_client -quiet -connect 127.0.0.1:8443`. Who says nothing for a minute is cut off: a
connection that is only held open costs memory for ever.
"""

from __future__ import annotations

import ssl
import sys
from signal import SIGINT, SIGTERM

from goroutine import Chan, chan, go, signal, start, time, tls

PATIENCE = 60  # seconds


async def echo(conn: tls.Conn) -> None:
    """One connection, its handshake done. `serve` closes it when this returns or fails."""
    conn.set_deadline(time.now() + PATIENCE)
    while data := await conn.read():
        await conn.write(data)
        conn.set_deadline(time.now() + PATIENCE)


async def main(cert: str, key: str, port: str = "8443") -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    stop: Chan[int] = chan(1)
    signal.notify(stop, SIGINT, SIGTERM)
    listener = await tls.listen("tcp", f"127.0.0.1:{port}", context)
    print("echoing on", listener.address, flush=True)
    go(listener.serve, echo)
    await stop.recv()
    await listener.shutdown(0)
    print("bye")


if __name__ == "__main__":
    start(main, *sys.argv[1:4])
