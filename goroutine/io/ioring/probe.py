"""What the running kernel offers."""

from __future__ import annotations

import platform
import re
import struct
from typing import NamedTuple

from . import abi, syscalls
from .ring import Ring

__all__ = ["Probe", "probe"]


class Probe(NamedTuple):
    """What the running kernel's io_uring can do, as ``probe()`` found it."""

    kernel: tuple[int, int]
    """Linux version, ``(6, 1)`` and the like."""
    features: int
    """FEAT_… bits."""
    flags: int
    """The set-up flags (SETUP_…) that a ring gets by default."""
    last_op: int
    """The highest opcode the kernel knows."""
    operations: frozenset[int]
    """The opcodes it supports."""

    def supports(self, op: int) -> bool:
        """Whether operation ``op`` (OP_…) is supported."""
        return op in self.operations


def probe() -> Probe:
    """Ask the kernel, by a ring of the least size that is closed again at once.

    Raises ``OSError`` as making a ``Ring`` does: ENOSYS (no io_uring, or one too
    old), EPERM (forbidden, by seccomp or the sysctl
    ``kernel.io_uring_disabled``), ENOMEM (memory, or RLIMIT_MEMLOCK), EMFILE.
    Costs some 100 µs; nothing is remembered.
    """
    with Ring(1, 2, register_fd=False) as ring:
        answer = bytearray(abi.PROBE_HEAD_SIZE + abi.PROBE_OPS_MAX * struct.calcsize(abi.PROBE_OP))
        ring.register(abi.REGISTER_PROBE, syscalls.address_of(answer), abi.PROBE_OPS_MAX)
        last_op, known = answer[0], answer[1]
        body = memoryview(answer)[abi.PROBE_HEAD_SIZE :]
        operations = frozenset(
            op
            for op, _, flags, _ in struct.Struct(abi.PROBE_OP).iter_unpack(body)
            if op < known and flags & abi.PROBE_OP_SUPPORTED
        )
        return Probe(_kernel_version(), ring.features, ring.flags, last_op, operations)


def _kernel_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)
