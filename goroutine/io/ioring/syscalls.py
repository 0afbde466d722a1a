"""The three system calls and addresses of Python buffers, by ctypes.

libc has no wrappers for io_uring, so everything goes through ``syscall(2)``.
Its function objects come without ``argtypes``: converting arguments by them
costs more than the system call itself.  The price: ctypes passes a Python
``int`` as a C ``int`` of 32 bits, so addresses must be wrapped in ``c_void_p``
and sizes in ``c_size_t`` (the seventh argument lies on the stack, where the
upper half of a 32-bit one would be left over from something else).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from .abi import PARAMS_SIZE, SYS_IO_URING_REGISTER, SYS_IO_URING_SETUP

if TYPE_CHECKING:
    from collections.abc import Buffer

__all__ = ["Syscall", "address_of", "error", "new_syscall", "register", "setup"]

type Syscall = Callable[..., int]
"""``syscall(number, *arguments) -> int``: -1 on failure, the errno by ``ctypes.get_errno()``."""

# Looking a function up by index makes a new function object each time, which
# is the point: whoever calls it often has one of its own (see new_syscall).
_detaching = ctypes.CDLL(None, use_errno=True)
_attached = ctypes.PyDLL(None, use_errno=True)


def new_syscall(*, blocking: bool = True) -> Syscall:
    """A private function object for libc's ``syscall``.

    Private, because calling an object that another thread calls too costs
    200 ns for its reference count alone.  ``blocking=True`` detaches the thread
    state during the call, as every call that may sleep must: the garbage
    collector stops all attached threads and waits for them.  ``blocking=False``
    saves that and is for calls that return at once.
    """
    function = (_detaching if blocking else _attached)["syscall"]
    function.restype = ctypes.c_long
    return function


def error(number: int | None = None, what: str | None = None) -> OSError:
    """The ``OSError`` (of the fitting subclass) for an errno, by default the last call's."""
    if number is None:
        number = ctypes.get_errno()
    text = os.strerror(number)
    return OSError(number, f"{what}: {text}" if what else text)


def setup(entries: int, params: bytearray) -> int:
    """``io_uring_setup(2)``: the ring's fd; ``params`` is filled in.  Raises OSError."""
    argument = (ctypes.c_char * PARAMS_SIZE).from_buffer(params)
    fd = new_syscall()(SYS_IO_URING_SETUP, ctypes.c_uint(entries), ctypes.byref(argument))
    if fd < 0:
        raise error(what="io_uring_setup")
    return fd


def register(syscall: Syscall, fd: int, op: int, argument: int, count: int) -> int:
    """``io_uring_register(2)`` with an address (or 0); raises OSError."""
    result = syscall(
        SYS_IO_URING_REGISTER,
        fd,
        ctypes.c_uint(op),
        ctypes.c_void_p(argument),
        ctypes.c_uint(count),
    )
    if result < 0:
        raise error(what="io_uring_register")
    return result


class _PyBuffer(ctypes.Structure):
    """CPython's ``Py_buffer``, part of the stable ABI."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def address_of(buffer: Buffer, *, writable: bool = False) -> int:
    """Address of the first byte of a contiguous buffer.

    The address is good for as long as the object lives and isn't resized;
    nothing here keeps it alive.  Raises ``TypeError`` for what isn't a buffer
    and ``BufferError`` for what isn't contiguous or, if it must be, writable.
    """
    if type(buffer) is bytes and not writable:
        return ctypes.c_void_p.from_buffer(ctypes.c_char_p(buffer)).value or 0
    view = _PyBuffer()
    api = ctypes.pythonapi
    api.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(view), int(writable))
    address: int = view.buf or 0
    api.PyBuffer_Release(ctypes.byref(view))
    return address
