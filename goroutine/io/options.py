"""Options of sockets, by their numbers, and those by name that servers and clients set."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Options", "TCPOptions"]

T = TypeVar("T")


class Options:
    """What has a socket. From any goroutine or thread; `ConnClosed` once it is closed."""

    __slots__ = ()

    def with_socket(self, call: Callable[[socket.socket], T]) -> T:
        """``call(socket)``, while nobody can give the fd back."""
        raise NotImplementedError

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        """An option of the socket: an int, or so many bytes if ``size`` is given.

        ``level`` and ``option`` are constants of `socket`. ``OSError`` if there is none.
        Python: socket.getsockopt. Go: SyscallConn.
        """
        if size:
            return self.with_socket(lambda s: s.getsockopt(level, option, size))
        return self.with_socket(lambda s: s.getsockopt(level, option))

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket; the other way round from `getsockopt`.

        >>> import socket
        >>> async def main():
        ...     listener = await net.listen("tcp", "127.0.0.1:0")
        ...     async with listener, await net.dial("tcp", listener.address) as conn:
        ...         conn.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
        ...         return conn.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
        >>> goroutine.start(main)
        5
        """
        self.with_socket(lambda s: s.setsockopt(level, option, value))


class TCPOptions(Options):
    """Of TCP, by name. ``OSError`` for connections of another kind."""

    __slots__ = ()

    def set_no_delay(self, on: bool) -> None:
        """Whether what is written is sent at once (as it is from the beginning), or small
        pieces wait for the answer to those before. Go: TCPConn.SetNoDelay."""
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(on))

    def set_keep_alive(self, seconds: float | None) -> None:
        """Ask a peer that has been silent for so long whether it is there, and again every
        so many seconds; after nine times without an answer reads fail with
        ``TimeoutError("Connection timed out")``. None: never, as it is from the beginning.

        In whole seconds, rounded up, from 1 to 32767; else ``ValueError``. Go:
        TCPConn.SetKeepAlive and SetKeepAlivePeriod.
        """
        if seconds is None:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
            return
        if not 0 < seconds <= 32767:
            raise ValueError(f"keep-alive must be more than 0 and at most 32767 s, not {seconds}")
        whole = math.ceil(seconds)

        def set_all(s: socket.socket) -> None:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, whole)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, whole)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

        self.with_socket(set_all)
