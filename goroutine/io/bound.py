"""The file of a Unix socket that is listened on: made by bind(2), removed when that is closed."""

from __future__ import annotations

import os
import socket

__all__ = ["BoundPath"]


class BoundPath:
    """What a socket was bound to: one file, not any that has its path later."""

    __slots__ = ("_file", "_path")

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)  # the program may go to another directory
        found = os.stat(path)
        self._file = (found.st_dev, found.st_ino)

    @classmethod
    def of(cls, s: socket.socket) -> BoundPath | None:
        """That of a socket; None if it has none (an abstract name, or another family)."""
        name = s.getsockname() if s.family == socket.AF_UNIX else b""
        return cls(name) if isinstance(name, str) and name else None

    def remove(self) -> None:
        """Unlink it, unless it is gone or somebody else's by now."""
        try:
            found = os.stat(self._path)
            if (found.st_dev, found.st_ino) == self._file:
                os.unlink(self._path)
        except OSError:
            pass
