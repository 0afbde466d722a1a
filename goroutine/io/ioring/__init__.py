"""io_uring for Python, on ctypes alone."""

from .buffers import BufferRing
from .completion import Completion
from .ring import Ring

__all__ = ["BufferRing", "Completion", "Ring"]
