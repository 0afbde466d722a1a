"""What is done with paths, on a thread: each is `goroutine.blocking` of the one in os.

Cancel safety of all: who is cancelled goes on at once; the call runs to its end all the same.
"""

from __future__ import annotations

import os

from ..runtime.offload import blocking
from .statx import Path

__all__ = ["listdir", "mkdir", "remove", "rename"]


async def remove(path: Path) -> None:
    """Remove a file, or an empty directory. ``OSError`` as os.remove() or os.rmdir(). Go:
    os.Remove.

    >>> import os, tempfile
    >>> async def main(folder):
    ...     await fs.mkdir(os.path.join(folder, "new"))
    ...     await fs.remove(os.path.join(folder, "new"))
    ...     return await fs.listdir(folder)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     goroutine.start(main, folder)
    []
    """
    await blocking(_remove, path)


def _remove(path: Path) -> None:
    try:
        os.remove(path)
    except (IsADirectoryError, PermissionError) as failure:  # Linux says EISDIR, POSIX EPERM
        try:
            os.rmdir(path)
        except NotADirectoryError:
            raise failure from None


async def rename(source: Path, target: Path) -> None:
    """Give a file another path, replacing what is there. ``OSError`` as os.replace(). Go:
    os.Rename.

    >>> import os, tempfile
    >>> async def main(folder):
    ...     await fs.write_bytes(os.path.join(folder, "old"), b"")
    ...     await fs.rename(os.path.join(folder, "old"), os.path.join(folder, "new"))
    ...     return await fs.listdir(folder)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     goroutine.start(main, folder)
    ['new']
    """
    await blocking(os.replace, source, target)


async def mkdir(path: Path, perm: int = 0o777, *, parents: bool = False) -> None:
    """Make a directory; with ``parents`` also those above it, and it may exist. ``OSError`` as
    os.mkdir(). Go: os.Mkdir, os.MkdirAll.

    >>> import os, tempfile
    >>> async def main(folder):
    ...     await fs.mkdir(os.path.join(folder, "a", "b"), parents=True)
    ...     return await fs.listdir(folder)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     goroutine.start(main, folder)
    ['a']
    """
    if parents:
        await blocking(os.makedirs, path, perm, exist_ok=True)
    else:
        await blocking(os.mkdir, path, perm)


async def listdir[P: (str, bytes)](path: P | os.PathLike[P]) -> list[P]:
    """The names in a directory, sorted. ``OSError`` as os.listdir(). Go: os.ReadDir.

    >>> async def main():
    ...     return "null" in await fs.listdir("/dev")
    >>> goroutine.start(main)
    True
    """
    return sorted(await blocking(os.listdir, path))
