"""Engine: TLS without a connection: bytes of the peer's in, bytes for the peer out.

An ``ssl.SSLObject`` between two ``ssl.MemoryBIO``. Nothing here waits for anybody: what is to
be sent is returned, and what has not come yet is told by None.

The lock. One goroutine reads while another one writes, on two machines, and an SSLObject is not
for that: OpenSSL's state, both BIOs and the fields below would be changed by two threads at
once. So every method holds ``lock`` from its first look to its last, and since none suspends, a
machine waits for it no longer than a step of the other's takes: to decrypt what one read of the
connection has brought, or to encrypt one piece. (Callbacks of the context run under it, in the
handshake.) What `seal` has encrypted leaves ``_out`` under the same hold; so if two could seal,
the bytes would still be complete records, and it is up to the caller that they are sent in the
order in which they were made (conn.py: whoever has the turn to write seals and sends).

Reading can make bytes that are to be sent: alerts, answers to what a peer may ask in the middle
of the stream. They stay in ``_out`` and go before what is sealed next; ``answers`` says that there
are some, for peers that wait for them. Writing never makes it necessary to read, because
renegotiation, which could, is turned off (it was taken out of TLS 1.3; Go: RenegotiateNever).
An answer to TLS 1.3's key update is made by OpenSSL with the next seal, as the standard has it.

A server of TLS 1.3 ends its handshake with tickets that the client may resume the session with.
Nobody waits for these, and so they don't hold up the handshake: they are kept for the first
seal. (A client that writes and closes without ever reading would otherwise find them unread in
its socket, and then the kernel resets the connection, which can cost what the client has
written. And over a pipe without a buffer both ends would wait for each other.)
"""

from __future__ import annotations

import copy
import ssl
import threading

__all__ = ["PIECE", "Engine", "truncated", "want_context"]

PIECE = 1 << 16
"""Bytes that may be sealed at once: four records, some 50 µs."""

RECORD = 1 << 14  # the most that a record carries
RECORDS = 64  # that are decrypted under one hold of the lock; a record may carry a single byte


class Engine:
    """One end of a TLS connection. For any thread, but see above for the order of what is sent."""

    __slots__ = (
        "_drained",
        "_early",
        "_ended",
        "_failure",
        "_in",
        "_kept",
        "_out",
        "_read",
        "_write",
        "answers",
        "eof",
        "lock",
        "object",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None,
        session: ssl.SSLSession | None,
    ) -> None:
        want_context(context)
        if context.check_hostname and not (server_side or server_hostname):
            # ssl leaves this to others, and would then accept the certificate of any host.
            raise ValueError("check_hostname requires server_hostname")
        if not context.options & ssl.OP_NO_RENEGOTIATION:
            context.options |= ssl.OP_NO_RENEGOTIATION
        self.lock = threading.Lock()
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._in, self._out, server_side, server_hostname or None, session
        )
        self._read = self.object.read
        self._write = self.object.write
        self._kept = memoryview(b"")  # decrypted, and not yet read
        self._early = b""  # the tickets
        self._drained = True  # there is nothing to decrypt: raising SSLWantReadError costs 3 µs
        self._ended = False  # by the peer's close_notify
        self._failure: ssl.SSLError | None = None  # nothing is decrypted or encrypted after it
        self.eof = False
        """The connection has ended."""
        self.answers = False
        """Reading has made something that is to be sent."""

    def handshake(self) -> tuple[bool, bytes]:
        """Go on with it: whether it is complete, and what is to be sent before anything else.

        Raises ``ssl.SSLError``, or what a callback of the context does; there may be an alert
        in `outgoing` then.
        """
        with self.lock:
            try:
                self.object.do_handshake()
            except ssl.SSLWantReadError:
                return False, self._out.read()
            self._drained = not self._in.pending  # else data has come with it
            out = self._out.read()
            if self.object.server_side and self.object.version() == "TLSv1.3":
                self._early, out = out, b""
            return True, out

    def feed(self, data: bytes) -> None:
        """What the peer has sent; b"" is the end of the connection."""
        with self.lock:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        if data:
            self._in.write(data)
            self._drained = False
        else:
            self.eof = True

    def take(self, n: int, fed: bytes | None = None) -> bytes | None:
        """Feed; then up to n bytes of plaintext, b"" after the peer's close_notify, None if
        more must be fed. ``ssl.SSLError`` for what the peer must not send, and for its alerts;
        ``ssl.SSLEOFError`` after the end of a connection that was not announced."""
        with self.lock:
            if fed is not None:
                self._feed(fed)
            if self._kept:
                data = bytes(self._kept[:n])
                self._kept = self._kept[n:]
                return data
            if not self._drained:
                data = self._decrypt(n)
                if data:
                    return data
            if self._failure is not None:
                raise copy.copy(self._failure)
            if self._ended:
                return b""
            if self.eof:
                if self.object.context.options & ssl.OP_IGNORE_UNEXPECTED_EOF:
                    return b""
                raise truncated()
            return None

    def _decrypt(self, n: int) -> bytes:
        """Up to n bytes of what was fed; b"" if there are none (any more)."""
        parts: list[bytes] = []
        incoming = self._in
        try:
            while n and len(parts) < RECORDS:
                most = min(n, incoming.pending or RECORD)
                data = self._read(most)
                if not data:
                    self._ended = self._drained = True
                    break
                if not incoming.pending and (len(data) < most or not self.object.pending()):
                    self._drained = True
                    if not parts:
                        return data
                parts.append(data)
                n -= len(data)
                if self._drained:
                    break
        except ssl.SSLWantReadError:
            self._drained = True
        except ssl.SSLZeroReturnError:  # the same as b"" when our end has been told before
            self._ended = self._drained = True
        except ssl.SSLError as failure:
            self._drained = True
            self._failure = failure.with_traceback(None)
        finally:
            if self._out.pending:
                self.answers = True
        return b"".join(parts)

    def put_back(self, parts: list[bytes]) -> None:
        """What was taken last is to be taken again."""
        with self.lock:
            self._kept = memoryview(b"".join((*parts, self._kept)))

    def seal(self, data: bytes | memoryview) -> bytes:
        """Encrypt some plaintext; what is to be sent for it. Not more than PIECE, nor less
        than a byte."""
        with self.lock:
            if self._failure is not None:
                raise copy.copy(self._failure)
            self._write(data)
            return self._outgoing()

    def outgoing(self) -> bytes:
        """What is to be sent by itself."""
        with self.lock:
            return self._outgoing()

    def _outgoing(self) -> bytes:
        out = self._out.read()
        self.answers = False
        if self._early:
            out, self._early = self._early + out, b""
        return out

    def farewell(self) -> bytes:
        """The last that is to be sent: close_notify, or the alert that there is instead.

        Reading goes on. To send close_notify, OpenSSL also looks for the peer's, and takes
        data that it finds then for an error: so the data is decrypted before.
        """
        with self.lock:
            parts = [bytes(self._kept)]
            while not self._drained:
                parts.append(self._decrypt(PIECE))
            self._kept = memoryview(b"".join(parts))
            if self._failure is None:
                try:
                    self.object.unwrap()
                except ssl.SSLError:
                    pass  # the peer's has not come: SSLWantReadError, or SSLSyscallError
            return self._outgoing()


def want_context(context: object) -> None:
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"want an ssl.SSLContext, not {type(context).__name__}")


def truncated() -> ssl.SSLEOFError:
    """What is raised for the end of a connection that no close_notify has announced: somebody
    between the peers may have cut it. Go: io.ErrUnexpectedEOF."""
    return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "unexpected EOF: no close_notify from the peer")
