"""What is appended to files: python -X gil=0 examples/tail.py [-n LINES] FILE...

The last lines of each file, and then, until Ctrl-C, whatever is added to it. A file that is
cut short is read from its start again, one that is replaced (a log that is rotated) is opened
anew. One goroutine follows each file; a channel brings all they find to the one that prints.
"""

from __future__ import annotations

import argparse
import sys

from goroutine import Chan, chan, fs, go, sleep, start

BLOCK = 65536  # bytes read at a time
PAUSE = 0.1  # seconds between two looks at a file


async def last(file: fs.File, lines: int) -> int:
    """The offset at which the last lines begin."""
    at = await file.seek(0, 2)
    if not at or not lines:
        return at
    left = lines + (await file.pread(1, at - 1) == b"\n")  # newlines to find, from the end
    while at:
        block = await file.pread(min(BLOCK, at), max(at - BLOCK, 0))
        at -= len(block)
        end = len(block)
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            left -= 1
            if not left:
                return at + end + 1
    return 0


async def follow(path: str, lines: int, found: Chan[tuple[str, bytes]]) -> None:
    file = await fs.open(path)
    await file.seek(await last(file, lines))
    while True:
        while data := await file.read(BLOCK):
            await found.send((path, data))
        await sleep(PAUSE)
        try:
            there = await fs.stat(path)
        except FileNotFoundError:
            continue  # moved away; another one may come
        here = await file.stat()
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            rest = await file.read()  # what was written before that
            await file.close()
            file = await fs.open(path)
            await found.send((path, rest))
        elif here.st_size < file.tell():
            await file.seek(0)


async def main(paths: list[str], lines: int) -> None:
    found: Chan[tuple[str, bytes]] = chan()
    for path in paths:
        go(follow, path, lines, found)
    before = None
    async for path, data in found:
        if len(paths) > 1 and path != before and data:
            sys.stdout.buffer.write(f"==> {path} <==\n".encode())
            before = path
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print what is appended to files.")
    parser.add_argument("-n", dest="lines", type=int, default=10)
    parser.add_argument("paths", nargs="+", metavar="FILE")
    options = parser.parse_args()
    try:
        start(main, options.paths, options.lines)
    except KeyboardInterrupt:
        pass
