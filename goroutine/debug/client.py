"""``python -m goroutine dump PID``: asks a running program what its goroutines are doing."""

from __future__ import annotations

import os
import socket
import sys

from .server import REQUEST, TIMEOUT, folders, peer

__all__ = ["main"]

USAGE = "usage: python -m goroutine dump PID"


class _Failure(Exception):
    """What is printed, in one line."""


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 (no dump), 2 (usage)."""
    if len(arguments) != 1 or not (arguments[0].isascii() and arguments[0].isdigit()):
        print(USAGE, file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        sys.stdout.write(ask(int(arguments[0])))
        sys.stdout.flush()
    except _Failure as failure:
        print(f"goroutine: {failure}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # ``| head``; nor at exit
        return 1
    return 0


def ask(pid: int) -> str:
    """The dump of that process."""
    try:
        os.kill(pid, 0)
        other = os.stat(f"/proc/{pid}").st_uid != os.geteuid()
    except (ProcessLookupError, OverflowError):
        raise _Failure(f"there is no process {pid}") from None
    except PermissionError:
        other = True
    except FileNotFoundError:
        other = False  # it has just ended, or there is no /proc
    if other:
        raise _Failure(f"process {pid} belongs to another user")
    for folder in folders():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(3 * TIMEOUT)
            try:
                connection.connect(os.path.join(folder, f"{pid}.sock"))
            except OSError:
                continue
            # (Under a number that was another's, and whose socket was left, nobody answers.)
            if peer(connection) != (pid, os.geteuid()):
                continue
            try:
                return _read(connection)
            except OSError as failure:
                raise _Failure(f"process {pid} did not answer: {failure}") from None
    raise _Failure(
        f"process {pid} does not answer: it runs no goroutines,"
        " or was not started with GOROUTINE_DEBUG=dump=1"
    )


def _read(connection: socket.socket) -> str:
    connection.sendall(REQUEST)
    parts = []
    while data := connection.recv(1 << 16):
        parts.append(data)
    if not parts:
        raise ConnectionResetError("it hung up")
    return b"".join(parts).decode()
