"""The usual operations, one function each: ``ops.recv(ring, fd, buffer, user_data=7)``.

Each queues one SQE (``Ring.prepare``) and returns nothing; the result comes as
a completion.  Common keywords: ``user_data`` (below 2**64, given back with
every completion), ``flags`` (IOSQE_… bits, for links, fixed files and the
like) and ``personality``.

**Keep buffers alive.** The kernel gets a buffer's address, and nothing here
keeps the object: the caller must, unmoved, until the completion has been read.
``ops.send(ring, fd, f(x))`` of a temporary reads freed memory; ``ops.recv``
into a dropped bytearray overwrites whatever lies there by then.  Cancelling
isn't enough; the cancelled operation's own completion is what counts.  Paths
and addresses are kept by the ring, as the kernel copies them on submission.

Negative results are ``-errno``.  Operations new in a kernel later than 6.1 say
so; older kernels complete them with ``-EINVAL``.
"""

from __future__ import annotations

import os
import socket as _socket
import sys
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from . import abi
from .syscalls import address_of

if TYPE_CHECKING:
    from collections.abc import Buffer

    from .ring import Ring

__all__ = [
    "STATX_SIZE",
    "Common",
    "accept",
    "accept_multishot",
    "cancel",
    "cancel_fd",
    "close",
    "connect",
    "fsync",
    "msg_ring",
    "nop",
    "openat",
    "poll_add",
    "poll_remove",
    "read",
    "read_multishot",
    "recv",
    "recv_multishot",
    "send",
    "shutdown",
    "sockaddr",
    "socket",
    "statx",
    "write",
]

AT_FDCWD: Final = -100
STATX_BASIC_STATS: Final = 0x7FF
STATX_SIZE: Final = 256
"""Bytes of the buffer ``statx`` fills in (``struct statx``)."""
_U64: Final = 0xFFFFFFFFFFFFFFFF


class Common(TypedDict, total=False):
    """Keywords every operation takes."""

    user_data: int
    flags: int
    personality: int


type Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def nop(ring: Ring, **common: Unpack[Common]) -> None:
    """Do nothing; completes with 0."""
    ring.prepare(abi.OP_NOP, **common)


# --- files -----------------------------------------------------------------------


def openat(
    ring: Ring,
    path: Path,
    open_flags: int = os.O_RDONLY,
    mode: int = 0o666,
    *,
    dir_fd: int = AT_FDCWD,
    **common: Unpack[Common],
) -> None:
    """Open a file; completes with the fd, which is close-on-exec."""
    name = os.fsencode(path) + b"\0"
    ring.prepare(
        abi.OP_OPENAT,
        fd=dir_fd,
        addr=address_of(name),
        length=mode,
        op_flags=open_flags | os.O_CLOEXEC,
        **common,
    )
    ring.pin(name)


def read(ring: Ring, fd: int, buffer: Buffer, offset: int = -1, **common: Unpack[Common]) -> None:
    """Read into a writable buffer at ``offset``, -1 for the file's own position.

    Completes with the number of bytes, 0 at the end.
    """
    ring.prepare(
        abi.OP_READ,
        fd=fd,
        off=offset & _U64,
        addr=address_of(buffer, writable=True),
        length=memoryview(buffer).nbytes,
        **common,
    )


def read_multishot(ring: Ring, fd: int, group: int, **common: Unpack[Common]) -> None:
    """Read a pipe or the like into buffers of a group, again and again (Linux 6.7)."""
    common["flags"] = common.get("flags", 0) | abi.IOSQE_BUFFER_SELECT
    ring.prepare(abi.OP_READ_MULTISHOT, fd=fd, off=_U64, buf_index=group, **common)


def write(ring: Ring, fd: int, data: Buffer, offset: int = -1, **common: Unpack[Common]) -> None:
    """Write at ``offset``, -1 for the file's own position; completes with how many bytes."""
    ring.prepare(
        abi.OP_WRITE,
        fd=fd,
        off=offset & _U64,
        addr=address_of(data),
        length=memoryview(data).nbytes,
        **common,
    )


def fsync(ring: Ring, fd: int, *, datasync: bool = False, **common: Unpack[Common]) -> None:
    """Write a file's changes through to its device."""
    ring.prepare(abi.OP_FSYNC, fd=fd, op_flags=abi.FSYNC_DATASYNC if datasync else 0, **common)


def statx(
    ring: Ring,
    path: Path,
    buffer: Buffer,
    *,
    dir_fd: int = AT_FDCWD,
    at_flags: int = 0,
    mask: int = STATX_BASIC_STATS,
    **common: Unpack[Common],
) -> None:
    """Fill ``buffer`` (STATX_SIZE bytes) with a ``struct statx``; see ``statx(2)``."""
    if memoryview(buffer).nbytes < STATX_SIZE:
        raise ValueError(f"statx needs a buffer of {STATX_SIZE} bytes")
    name = os.fsencode(path) + b"\0"
    ring.prepare(
        abi.OP_STATX,
        fd=dir_fd,
        off=address_of(buffer, writable=True),
        addr=address_of(name),
        length=mask,
        op_flags=at_flags,
        **common,
    )
    ring.pin(name)


def close(ring: Ring, fd: int, **common: Unpack[Common]) -> None:
    """Close an fd.  What other operations do with it is neither ended nor reported."""
    ring.prepare(abi.OP_CLOSE, fd=fd, **common)


# --- sockets ---------------------------------------------------------------------


def socket(
    ring: Ring,
    family: int = _socket.AF_INET,
    type: int = _socket.SOCK_STREAM,
    protocol: int = 0,
    **common: Unpack[Common],
) -> None:
    """Make a socket; completes with the fd, which is close-on-exec."""
    ring.prepare(
        abi.OP_SOCKET, fd=family, off=type | _socket.SOCK_CLOEXEC, length=protocol, **common
    )


def connect(ring: Ring, fd: int, address: bytes, **common: Unpack[Common]) -> None:
    """Connect to an address packed by ``sockaddr``; completes with 0 or, say, -ECONNREFUSED."""
    ring.prepare(abi.OP_CONNECT, fd=fd, off=len(address), addr=address_of(address), **common)
    ring.pin(address)


def accept(
    ring: Ring, fd: int, socket_flags: int = _socket.SOCK_CLOEXEC, **common: Unpack[Common]
) -> None:
    """Accept a connection; completes with its fd.  ``socket_flags`` may add SOCK_NONBLOCK."""
    ring.prepare(abi.OP_ACCEPT, fd=fd, op_flags=socket_flags, **common)


def accept_multishot(
    ring: Ring, fd: int, socket_flags: int = _socket.SOCK_CLOEXEC, **common: Unpack[Common]
) -> None:
    """Accept again and again, a completion each, until one comes without ``CQE_F_MORE``."""
    ring.prepare(abi.OP_ACCEPT, fd=fd, ioprio=abi.ACCEPT_MULTISHOT, op_flags=socket_flags, **common)


def recv(ring: Ring, fd: int, buffer: Buffer, msg_flags: int = 0, **common: Unpack[Common]) -> None:
    """Receive into a writable buffer; completes with the number of bytes, 0 at the end."""
    ring.prepare(
        abi.OP_RECV,
        fd=fd,
        addr=address_of(buffer, writable=True),
        length=memoryview(buffer).nbytes,
        op_flags=msg_flags,
        **common,
    )


def recv_multishot(ring: Ring, fd: int, group: int, **common: Unpack[Common]) -> None:
    """Receive again and again into buffers of a ``BufferRing``'s group.

    A completion for each piece of data, until one comes without ``CQE_F_MORE``:
    0 at the end of the stream, or an error, of which ENOBUFS only means that
    the group had run dry, and data and -ECANCELED in either order after a
    cancel.  Then queue it again if there is more to come.
    """
    common["flags"] = common.get("flags", 0) | abi.IOSQE_BUFFER_SELECT
    ring.prepare(abi.OP_RECV, fd=fd, ioprio=abi.RECV_MULTISHOT, buf_index=group, **common)


def send(
    ring: Ring,
    fd: int,
    data: Buffer,
    msg_flags: int = _socket.MSG_NOSIGNAL,
    **common: Unpack[Common],
) -> None:
    """Send; completes with the number of bytes, all of them if MSG_WAITALL is given."""
    ring.prepare(
        abi.OP_SEND,
        fd=fd,
        addr=address_of(data),
        length=memoryview(data).nbytes,
        op_flags=msg_flags,
        **common,
    )


def shutdown(ring: Ring, fd: int, how: int = _socket.SHUT_RDWR, **common: Unpack[Common]) -> None:
    """Shut one or both directions of a connection down."""
    ring.prepare(abi.OP_SHUTDOWN, fd=fd, length=how, **common)


def sockaddr(family: int, address: tuple[Any, ...] | str | bytes) -> bytes:
    """Pack an address, in the form the ``socket`` module has it, as a ``struct sockaddr``.

    AF_INET ``(host, port)``, AF_INET6 ``(host, port[, flowinfo[, scope_id]])``, with
    numeric hosts (``OSError`` otherwise), and AF_UNIX paths; a leading NUL makes
    an abstract one.  ``ValueError`` for anything else.
    """
    head = family.to_bytes(2, sys.byteorder)
    match address:
        case (str(host), int(port)) if family == _socket.AF_INET:
            return head + port.to_bytes(2) + _socket.inet_pton(family, host) + bytes(8)
        case (str(host), int(port), *rest) if family == _socket.AF_INET6 and len(rest) <= 2:
            flow, scope = map(int, (*rest, 0, 0)[:2])
            packed = flow.to_bytes(4) + _socket.inet_pton(family, host)
            return head + port.to_bytes(2) + packed + scope.to_bytes(4, sys.byteorder)
        case str() | bytes() if family == _socket.AF_UNIX:
            path = os.fsencode(address)
            if path[:1] != b"\0":
                path += b"\0"
            if len(path) <= 108:
                return head + path
    raise ValueError(f"can't pack {address!r} as an address of family {family}")


# --- readiness, cancelling, other rings ------------------------------------------------


def poll_add(
    ring: Ring,
    fd: int,
    events: int,
    *,
    multishot: bool = False,
    **common: Unpack[Common],
) -> None:
    """Wait for events (``select.POLLIN`` and so on); completes with those that are there.

    ``multishot``: a completion at each change, until one without ``CQE_F_MORE``.
    """
    if sys.byteorder == "big":
        events = (events & 0xFFFF) << 16 | events >> 16
    ring.prepare(
        abi.OP_POLL_ADD,
        fd=fd,
        length=abi.POLL_ADD_MULTI if multishot else 0,
        op_flags=events,
        **common,
    )


def poll_remove(ring: Ring, target: int, **common: Unpack[Common]) -> None:
    """End the ``poll_add`` that has ``target`` as its user_data (-ENOENT: there is none)."""
    ring.prepare(abi.OP_POLL_REMOVE, addr=target, **common)


def cancel(ring: Ring, target: int, *, all: bool = False, **common: Unpack[Common]) -> None:
    """Cancel the operation that has ``target`` as its user_data, or all that have.

    Completes with 0 (with ``all``: how many), -ENOENT (there is none; it may
    have completed just now) or -EALREADY (it runs and may or may not stop).  The
    operation itself completes too, before or after, with -ECANCELED or
    with a result.
    """
    ring.prepare(
        abi.OP_ASYNC_CANCEL,
        addr=target,
        op_flags=abi.ASYNC_CANCEL_ALL if all else 0,
        **common,
    )


def cancel_fd(ring: Ring, target: int, **common: Unpack[Common]) -> None:
    """Cancel all operations on an fd; completes with how many, else like ``cancel``."""
    ring.prepare(
        abi.OP_ASYNC_CANCEL,
        fd=target,
        op_flags=abi.ASYNC_CANCEL_FD | abi.ASYNC_CANCEL_ALL,
        **common,
    )


def msg_ring(
    ring: Ring, target_fd: int, target_user_data: int, res: int = 0, **common: Unpack[Common]
) -> None:
    """Post a completion (``target_user_data``, ``res``) to another ring, known by its fd.

    The one way to reach another thread's ring.  Completes here with 0.
    """
    ring.prepare(
        abi.OP_MSG_RING,
        fd=target_fd,
        off=target_user_data,
        addr=abi.MSG_DATA,
        length=res & 0xFFFFFFFF,
        **common,
    )
