"""Which poller a run gets: io_uring, or epoll where the kernel refuses it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import goroutine
from goroutine.io import backend
from goroutine.runtime.shared import current

ROOT = Path(__file__).parents[2]

SECCOMP = """
    import ctypes, struct

    def refuse(code):
        "io_uring_setup fails with this errno from now on, in all threads made later."
        libc = ctypes.CDLL(None, use_errno=True)
        steps = [
            (0x20, 0, 0, 0),            # load the system call's number
            (0x15, 0, 1, 425),          # io_uring_setup
            (0x06, 0, 0, 0x00050000 | code),
            (0x06, 0, 0, 0x7FFF0000),   # allowed
        ]
        text = b"".join(struct.pack("HBBI", *step) for step in steps)
        steps = ctypes.create_string_buffer(text, len(text))
        program = ctypes.create_string_buffer(
            struct.pack("HxxxxxxP", 4, ctypes.addressof(steps))
        )
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, program, 0, 0) == 0
"""

ECHO = """
    import os, sys, threading
    import goroutine
    from goroutine import go, net
    from goroutine.runtime.shared import current

    def left():
        return sorted(os.listdir("/proc/self/fd")), threading.active_count()

    async def echo(conn):
        while data := await conn.read():
            await conn.write(data)

    async def main():
        listener = await net.listen("tcp", "127.0.0.1:0")
        go(listener.serve, echo)
        conn = await net.dial("tcp", listener.address)
        await conn.write(b"hello")
        assert await conn.read_exactly(5) == b"hello"
        conn.close()
        listener.close()
        return sorted({m.poller.name for m in current().runtime.machines})
"""


def child(code, *args):
    """Output and standard error of the echo program with ``code`` at its end."""
    text = "".join(textwrap.dedent(part) for part in (SECCOMP, ECHO, code))
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "-W", "error", "-c", text, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# EPERM: containers and sysctl. ENOSYS: compiled out. ENOMEM: no memory may be locked.
# EINVAL: a kernel that knows none of the flags, nor fewer of them.
@pytest.mark.parametrize("name", ["EPERM", "ENOSYS", "ENOMEM", "EINVAL"])
def test_auto_takes_epoll_and_says_so_once(name):
    for machines in (1, 4):
        output, errors = child(
            """
            import errno
            refuse(getattr(errno, sys.argv[2]))
            before = left()
            for _ in range(2):
                print(*goroutine.start(main, machines=int(sys.argv[1])))
                assert left() == before
            """,
            machines,
            name,
        )
        assert output == "epoll\nepoll\n"
        (line,) = errors.splitlines()
        assert line.startswith("io_uring is not available (")
        assert line.endswith("): using epoll")


@pytest.mark.parametrize("machines", [1, 4])
def test_asked_for_and_refused(machines):
    output, errors = child(
        """
        import errno
        refuse(errno.EPERM)
        before = left()
        for _ in range(3):
            try:
                goroutine.start(main, machines=int(sys.argv[1]), io="io_uring")
            except PermissionError as failure:
                print("refused")
            assert left() == before, (left(), before)
        print(*goroutine.start(main, machines=int(sys.argv[1]), io="epoll"))
        assert left() == before
        """,
        machines,
    )
    assert output == "refused\n" * 3 + "epoll\n"
    assert errors == ""


def test_epoll_is_never_spoken_of_where_it_was_asked_for():
    output, errors = child(
        """
        import errno
        refuse(errno.EPERM)
        print(*goroutine.start(main, machines=2, io="epoll"))
        """
    )
    assert (output, errors) == ("epoll\n", "")


@pytest.mark.parametrize("io", ["io_uring", "epoll", "auto"])
def test_where_nothing_is_refused(io):
    async def main():
        return {m.poller.name for m in current().runtime.machines}

    assert goroutine.start(main, machines=2, io=io) == {"io_uring" if io == "auto" else io}


@pytest.mark.parametrize("io", ["", "uring", "EPOLL", None, 5])
def test_other_values(io):
    async def main():
        pass

    with pytest.raises(ValueError, match="io must be"):
        goroutine.start(main, io=io)


def test_one_machine_of_several_is_refused(monkeypatch, caplog):
    """Memory may give out at the third ring: that machine polls with epoll, beside the rest."""
    from goroutine.io import uring

    class Refused(uring.UringPoller):
        def __init__(self, ready, number=0, machines=1):
            if number == 2:
                raise MemoryErrorOfKernel
            super().__init__(ready, number, machines)

    MemoryErrorOfKernel = OSError(12, "Cannot allocate memory")
    monkeypatch.setattr(uring, "UringPoller", Refused)
    monkeypatch.setattr(backend, "_refused", None)

    async def echo(conn):
        while data := await conn.read():
            await conn.write(data)

    async def main():
        listener = await goroutine.net.listen("tcp", "127.0.0.1:0")
        goroutine.go(listener.serve, echo)
        for i in range(12):
            conn = await goroutine.net.dial("tcp", listener.address)
            await conn.write(bytes([i]))
            assert await conn.read() == bytes([i])
            conn.close()
        return "epoll" in {m.poller.name for m in current().runtime.machines}

    import goroutine.net

    assert goroutine.start(main, machines=4)
    assert len(caplog.records) == 1
