"""GOROUTINE_DEBUG=dump=1: answers ``python -m goroutine dump PID`` on a Unix socket.

The socket is ``goroutine/PID.sock`` in the user's $XDG_RUNTIME_DIR, or ``PID.sock`` in
/tmp/goroutine-UID: a folder of the user's own, mode 0700, so that nobody else can come near it.
Who connects is asked for by its user id all the same (SO_PEERCRED), and so is who answers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..runtime.panic import print_report
from .signals import text_of

if TYPE_CHECKING:
    from ..runtime.scheduler import Runtime

__all__ = ["REQUEST", "Server", "folders", "peer"]

REQUEST = b"dump\n"

TIMEOUT = 10.0
"""Seconds that the other side may take."""


def folders() -> list[str]:
    """Where the sockets may be, the place where they should be first."""
    uid = os.geteuid()
    found = [os.path.join(f"/run/user/{uid}", "goroutine"), f"/tmp/goroutine-{uid}"]
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir and os.path.isabs(runtime_dir):
        found.insert(0, os.path.join(runtime_dir, "goroutine"))
    return list(dict.fromkeys(found))


def _make_folder() -> str:
    """The first that can be had; OSError if none can."""
    *others, last = folders()
    for folder in others:
        if _owner(os.path.dirname(folder)) == os.geteuid():
            try:
                return _own(folder)
            except OSError:
                pass
    return _own(last)


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


def _own(folder: str) -> str:
    """The folder, ours alone; OSError if it isn't. (In /tmp anybody may have made it.)"""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)  # not what a link points to
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not a folder of this user's")
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(folder, 0o700)
    return folder


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user id of who is at the other end."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return pid, uid


class Server:
    """Answers while it is entered. If it can't, it says so in a line, and the run goes on."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._path = ""
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="goroutine-dump", daemon=True)

    def __enter__(self) -> Self:
        try:
            folder = _make_folder()
            _sweep(folder)
            path = os.path.join(folder, f"{os.getpid()}.sock")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of a process that had this number
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listening.bind(path)
                os.chmod(path, 0o600)
                listening.listen(8)
            except BaseException:
                listening.close()
                raise
            self._path, self._socket = path, listening
            self._thread.start()
        except OSError as failure:
            print_report(f"goroutine: GOROUTINE_DEBUG: no socket for dumps: {failure}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._socket.shutdown(socket.SHUT_RDWR)  # this ends accept(); close() would not
        self._thread.join(TIMEOUT)
        self._socket.close()

    def _run(self) -> None:
        assert self._socket is not None
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT)
        if peer(connection)[1] != os.geteuid():
            return
        request = b""
        while not request.endswith(b"\n") and len(request) < 64:
            data = connection.recv(64)
            if not data:
                return
            request += data
        if request == REQUEST:
            connection.sendall(text_of(self._runtime).encode(errors="backslashreplace"))


def _sweep(folder: str) -> None:
    """Remove what processes left behind that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            number, dot, _ = name.partition(".sock")
            if dot and number.isdigit() and not os.path.exists(f"/proc/{number}"):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, name))
