"""io_uring for Python, by ctypes alone: Linux 6.1 or later, nothing to compile.

    from goroutine.io.ioring import Ring, ops

    with Ring() as ring:
        buffer = bytearray(4096)
        ops.read(ring, 0, buffer, user_data=1)
        ring.submit_and_wait(1)
        for done in ring.completions():
            print(done.user_data, bytes(buffer[: done.res]))

A ``Ring`` belongs to one thread.  The caller keeps every buffer alive until its
completion; see ``ops``.  ``probe()`` tells what the kernel has, or raises the
``OSError`` that says why there is nothing.  ``BufferRing`` is a group of
receive buffers to choose from, ``registration`` what is told to a ring once,
and ``abi`` has all constants, under the kernel's names less ``IORING_``.
"""

from . import abi, ops, registration
from .buffers import BufferRing
from .completion import Completion
from .memory import RingMemory
from .probe import Probe, probe
from .ring import Ring
from .syscalls import Syscall, address_of, new_syscall

__all__ = [
    "BufferRing",
    "Completion",
    "Probe",
    "Ring",
    "RingMemory",
    "Syscall",
    "abi",
    "address_of",
    "new_syscall",
    "ops",
    "probe",
    "registration",
]
