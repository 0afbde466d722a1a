"""Any file descriptor: reads and writes that park a goroutine, not a thread.

For pipes, terminals, eventfds, sockets of other libraries. The fd stays the caller's: close
it only when nothing waits on it. Blocking-mode fds work too and don't block the machine.
The io_uring binding on its own is `goroutine.io.ioring`.
"""

from .fd import read, read_into, readable, writable, write

__all__ = ["read", "read_into", "readable", "writable", "write"]
