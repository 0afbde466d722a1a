"""Files that park a goroutine, not a thread. Go: package os.

Through io_uring where there is one, else through threads of `goroutine.blocking`'s. Bytes.
"""

from .file import File
from .opening import open
from .paths import listdir, mkdir, remove, rename
from .statx import stat
from .whole import read_bytes, write_bytes

__all__ = [
    "open",
    "File",
    "read_bytes",
    "write_bytes",
    "stat",
    "listdir",
    "mkdir",
    "remove",
    "rename",
]
