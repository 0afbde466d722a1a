"""cat(1) over io_uring: python examples/ioring_cat.py FILE...

Opening, reading, writing out and closing all go through the ring, one step at a
time: it shows the calls, not the speed.
"""

from __future__ import annotations

import os
import sys

from goroutine.io.ioring import Ring, ops

SIZE = 128 * 1024


def one(ring: Ring) -> int:
    """Submit what is queued, wait for one completion, return its result or raise it."""
    ring.submit_and_wait(1)
    (done,) = ring.completions()
    if done.res < 0:
        raise OSError(-done.res, os.strerror(-done.res))
    return done.res


def cat(ring: Ring, path: str, out: int) -> None:
    """Copy one file to the fd ``out``."""
    buffer = bytearray(SIZE)
    ops.openat(ring, path)
    fd = one(ring)
    try:
        while True:
            ops.read(ring, fd, buffer)
            count = one(ring)
            if not count:
                break
            data = memoryview(buffer)[:count]
            while data:
                ops.write(ring, out, data)
                data = data[one(ring) :]
    finally:
        ops.close(ring, fd)
        ring.submit_and_wait(1)
        ring.completions()


def main(paths: list[str]) -> int:
    """Print the files; the exit status is 1 if one couldn't be."""
    status = 0
    with Ring(8, 16) as ring:
        for path in paths:
            try:
                cat(ring, path, sys.stdout.fileno())
            except OSError as failure:
                print(f"ioring_cat: {path}: {failure.strerror}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/ioring_cat.py FILE...")
    sys.exit(main(sys.argv[1:]))
