"""start() where the kernel gives nothing: no fds, no memory to lock, no io_uring, an old one."""

import errno
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from net_support import fds

import goroutine
from goroutine import go, net
from goroutine.io import backend
from goroutine.io.ioring import abi, setup, syscalls
from goroutine.runtime.shared import current

ROOT = Path(__file__).parents[2]

CHILD = """
    import contextlib, errno, logging, os, resource, sys, threading
    import goroutine
    import goroutine.io.uring
    from goroutine import go, net
    from goroutine.runtime.shared import current

    logging.getLogger("goroutine").addHandler(handler := logging.Handler())
    told = []
    handler.emit = lambda record: told.append((record.levelname, record.getMessage()))


    def left():
        return sorted(os.listdir("/proc/self/fd")), threading.active_count()


    async def echo(conn):
        while data := await conn.read():
            await conn.write(data)


    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            go(listener.serve, echo)
            async with await net.dial("tcp", listener.address) as conn:
                await conn.write(b"hello")
                assert await conn.read() == b"hello"
        return names()


    def names():
        return sorted({m.poller.name for m in current().runtime.machines})


    async def look():
        return names()


    # What is imported while it runs may be out of reach later, after setuid().
    goroutine.start(main, machines=2, io="epoll")
"""


def child(code):
    text = textwrap.dedent(CHILD) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "-W", "error", "-c", text],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_without_fds():
    """With every number of fds left, from none to enough: OSError, or it works; nothing stays."""
    output = child("""
        goroutine.start(main)  # what is opened once
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = left()
        highest = max(map(int, before[0]))
        for io in ("io_uring", "epoll", "auto"):
            outcomes = []
            for spare in range(24):
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
                try:
                    goroutine.start(look, machines=3, io=io)
                    outcomes.append("works")
                except OSError as failure:
                    assert failure.errno == errno.EMFILE, failure
                    assert "\\n" not in str(failure)
                    outcomes.append("fails")
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert left() == before, (left(), before)
            assert outcomes == sorted(outcomes) and len(set(outcomes)) == 2, outcomes
        assert goroutine.start(main) == ["io_uring"]  # that was no refusal
        print(told)
    """)
    assert output == "[]\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_memory_to_lock_and_rights():
    output = child("""
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        before = left()
        for io in ("auto", "epoll"):
            goroutine.start(main, machines=3, io=io)
            assert left() == before
        try:
            goroutine.start(main, machines=3, io="io_uring")
        except OSError as failure:
            assert failure.errno == errno.ENOMEM, failure
            assert [level for level, _ in told] == ["WARNING"]
        else:
            assert not told
        assert left() == before
        print("done")
    """)
    assert output == "done\n"


DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


@pytest.mark.skipif(
    os.getuid() != 0 or not DISABLED.exists() or not os.access(DISABLED, os.W_OK),
    reason="needs the sysctl, and root",
)
def test_disabled_by_sysctl():
    """For processes without rights (1), which doesn't touch whoever has them."""
    if DISABLED.read_text() != "0\n":
        pytest.skip("it is set already")
    output = child("""
        sysctl = "/proc/sys/kernel/io_uring_disabled"
        go_on, went_on = os.pipe(), os.pipe()
        if not os.fork():
            # Puts it back, whatever becomes of the other one.
            os.close(go_on[1])
            try:
                with open(sysctl, "w") as f:
                    f.write("1")
                os.write(went_on[1], b"x")
                os.read(go_on[0], 1)
            finally:
                with open(sysctl, "w") as f:
                    f.write("0")
                os._exit(0)
        os.close(go_on[0])
        os.read(went_on[0], 1)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            goroutine.start(main, machines=2, io="io_uring")
        except PermissionError as failure:
            print(failure)
        print(goroutine.start(main, machines=2))
        os.close(go_on[1])
        os.wait()
        print(told)
    """)
    refused, name, told = output.splitlines()
    assert refused == "[Errno 1] io_uring_setup: Operation not permitted"
    assert name == "['epoll']"
    assert told.count("WARNING") == 1
    assert DISABLED.read_text() == "0\n"


# -- kernels that are too old -----------------------------------------------------------------


async def echo(conn):
    while data := await conn.read():
        await conn.write(data)


async def talk():
    async with await net.listen("tcp", "127.0.0.1:0") as listener:
        go(listener.serve, echo)
        async with await net.dial("tcp", listener.address) as conn:
            await conn.write(b"hello")
            assert await conn.read() == b"hello"
    return {m.poller.name for m in current().runtime.machines}


def older(monkeypatch, how):
    """Have the kernel answer as older ones do."""
    if how == "no multishot receive":  # 5.19: everything that set-up asks for but one flag
        monkeypatch.setattr(setup, "FALLBACKS", setup.FALLBACKS[3:])
    elif how == "no buffer rings":  # 5.15
        register = syscalls.register

        def refuses(syscall, fd, op, argument, count):
            if op == abi.REGISTER_PBUF_RING:
                raise syscalls.error(errno.EINVAL, "io_uring_register")
            return register(syscall, fd, op, argument, count)

        monkeypatch.setattr(syscalls, "register", refuses)
    else:  # 5.4
        monkeypatch.setattr(setup, "_REQUIRED", 1 << 30)


OLD = ["no multishot receive", "no buffer rings", "no features"]


@pytest.mark.parametrize("how", OLD)
def test_old_kernels(monkeypatch, caplog, how):
    monkeypatch.setattr(backend, "_refused", None)
    older(monkeypatch, how)
    before = fds()
    with pytest.raises(OSError, match=r"io_uring") as caught:
        goroutine.start(talk, machines=3, io="io_uring")
    assert caught.value.errno in (errno.ENOSYS, errno.EINVAL)
    assert "\n" not in str(caught.value)
    assert fds() == before
    with caplog.at_level(logging.WARNING, "goroutine"):
        for _ in range(2):
            assert goroutine.start(talk, machines=3) == {"epoll"}
    (record,) = caplog.records
    assert record.message.startswith("io_uring is not available (")
    assert fds() == before
