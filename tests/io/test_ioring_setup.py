"""Making and unmaking rings: fall-back, refusals, leaks, use after close, fork."""

import errno
import fcntl
import gc
import mmap
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from goroutine.io.ioring import BufferRing, Ring, abi, ops, probe, setup, syscalls

ROOT = Path(__file__).parents[2]


def fds():
    """The open fds, less the one that lists them."""
    return sorted(int(name) for name in os.listdir("/proc/self/fd") if is_open(int(name)))


def is_open(fd):
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def mappings():
    return sum("io_uring" in line for line in Path("/proc/self/maps").read_text().splitlines())


def child(code):
    """Run code in a new interpreter; its standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# --- probing ---------------------------------------------------------------------


def test_probe():
    before = fds()
    found = probe()
    assert found.kernel >= (6, 1)
    assert found.last_op >= abi.OP_SENDMSG_ZC
    assert found.supports(abi.OP_RECV)
    assert not found.supports(255)
    assert found.features & abi.FEAT_EXT_ARG
    assert found.flags & abi.SETUP_SUBMIT_ALL
    assert fds() == before


def test_names_of_operations():
    assert abi.OP_NAMES[abi.OP_NOP] == "NOP"
    assert sorted(abi.OP_NAMES) == list(range(abi.OP_PIPE + 1))


# --- fall-back ---------------------------------------------------------------------


class Kernel:
    """Stands in for io_uring_setup and knows only some flags."""

    def __init__(self, monkeypatch, known):
        self.known = known | abi.SETUP_CQSIZE | abi.SETUP_CLAMP
        self.asked = []
        self.real = syscalls.setup
        monkeypatch.setattr(syscalls, "setup", self.setup)

    def setup(self, entries, params):
        flags = int.from_bytes(params[8:12], sys.byteorder)
        self.asked.append(flags)
        if flags & ~self.known:
            raise OSError(errno.EINVAL, "unknown flags")
        return self.real(entries, params)


SIZES = abi.SETUP_CQSIZE | abi.SETUP_CLAMP
LINUX_6_1 = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN | abi.SETUP_SUBMIT_ALL
LINUX_6_0 = abi.SETUP_SINGLE_ISSUER | abi.SETUP_COOP_TASKRUN | abi.SETUP_SUBMIT_ALL


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (LINUX_6_1 | abi.SETUP_COOP_TASKRUN | abi.SETUP_NO_SQARRAY, setup.FALLBACKS[0]),
        (LINUX_6_1 | abi.SETUP_COOP_TASKRUN, LINUX_6_1),
        (LINUX_6_0, LINUX_6_0),
        (abi.SETUP_SUBMIT_ALL | abi.SETUP_COOP_TASKRUN, setup.FALLBACKS[3]),
        (0, 0),
    ],
)
def test_falls_back_to_the_flags_the_kernel_knows(monkeypatch, known, expected):
    kernel = Kernel(monkeypatch, known)
    with Ring(8, 16) as ring:
        assert ring.flags == expected | SIZES
        assert kernel.asked[-1] == ring.flags
        for number in range(20):
            ops.nop(ring, user_data=number)
        ring.submit_and_wait(16)
        ring.submit_and_wait(16)
        assert [done.user_data for done in ring.completions()] == list(range(20))
    assert len(kernel.asked) == setup.FALLBACKS.index(expected) + 1


def test_given_flags_are_used_as_they_are(monkeypatch):
    kernel = Kernel(monkeypatch, LINUX_6_0)
    with pytest.raises(OSError, match="unknown flags") as caught:
        Ring(8, 16, LINUX_6_1)
    assert caught.value.errno == errno.EINVAL
    assert kernel.asked == [LINUX_6_1 | SIZES]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.ENOMEM])
def test_other_refusals_are_not_retried(monkeypatch, number):
    asked = []

    def refuse(entries, params):
        asked.append(entries)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(syscalls, "setup", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        Ring()
    assert caught.value.errno == number
    assert len(asked) == 1


def test_flags_that_change_the_layout_are_refused():
    for flags in (abi.SETUP_SQE128, abi.SETUP_CQE32, abi.SETUP_SQPOLL, abi.SETUP_NO_MMAP):
        with pytest.raises(ValueError, match="not supported"):
            Ring(8, 16, flags)


def test_impossible_sizes_have_the_kernels_errno():
    before = fds()
    for entries, cq_entries in ((0, 16), (8, 4)):
        with pytest.raises(OSError, match="io_uring_setup") as caught:
            Ring(entries, cq_entries)
        assert caught.value.errno == errno.EINVAL
    assert fds() == before


# --- failing half-way -----------------------------------------------------------------


@pytest.mark.parametrize("failing", [1, 2])
def test_no_leak_when_mapping_fails(monkeypatch, failing):
    before, calls, real = fds(), [], mmap.mmap

    def refuse(*arguments, **options):
        calls.append(arguments)
        if len(calls) == failing:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return real(*arguments, **options)

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="memory") as caught:
        Ring(8, 16)
    assert caught.value.errno == errno.ENOMEM
    monkeypatch.undo()
    assert len(calls) == failing
    assert fds() == before
    assert mappings() == 0


def test_no_leak_when_the_rest_fails(monkeypatch):
    before = fds()

    def refuse(ring):
        raise MemoryError

    monkeypatch.setattr(Ring, "register_ring_fd", refuse)
    with pytest.raises(MemoryError):
        Ring(8, 16)
    gc.collect()
    assert fds() == before
    assert mappings() == 0


def test_a_kernel_without_the_features_is_too_old(monkeypatch):
    before, real = fds(), syscalls.setup

    def old(entries, params):
        fd = real(entries, params)
        params[20:24] = abi.FEAT_SINGLE_MMAP.to_bytes(4, sys.byteorder)
        return fd

    monkeypatch.setattr(syscalls, "setup", old)
    with pytest.raises(OSError, match="too old") as caught:
        Ring(8, 16)
    assert caught.value.errno == errno.ENOSYS
    assert fds() == before


def test_out_of_fds():
    assert (
        child("""
        import errno, os, resource
        from goroutine.io.ioring import Ring, probe
        before = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1, 4096))
        for make in (Ring, probe):
            try:
                make()
            except OSError as failure:
                assert failure.errno == errno.EMFILE, failure
            else:
                raise AssertionError("made")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        assert len(os.listdir("/proc/self/fd")) == before
        Ring().close()
        print("done")
    """)
        == "done\n"
    )


def test_out_of_lockable_memory():
    """Some kernels count rings, all count registered buffers: ENOMEM, and nothing leaks."""
    assert (
        child("""
        import errno, mmap, os, resource
        from goroutine.io.ioring import Ring, registration
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        before = os.listdir("/proc/self/fd")
        try:
            with Ring(8, 16) as ring:
                registration.register_buffers(ring, [mmap.mmap(-1, 1 << 20)])
        except OSError as failure:
            assert failure.errno == errno.ENOMEM, failure
        else:
            raise AssertionError("registered")
        assert os.listdir("/proc/self/fd") == before
        print("done")
    """)
        == "done\n"
    )


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="filter not written")
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_forbidden_by_seccomp(number):
    """What containers do: a filter that answers io_uring_setup with an errno."""
    assert (
        child(f"""
        import ctypes, os, struct
        libc = ctypes.CDLL(None, use_errno=True)
        program = b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in (
                (0x20, 0, 0, 0),  # load the system call's number
                (0x15, 0, 1, 425),
                (0x06, 0, 0, 0x00050000 | {number}),  # fail with the errno
                (0x06, 0, 0, 0x7FFF0000),  # allow
            )
        )
        code = ctypes.create_string_buffer(program, len(program))
        filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(code)))
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
        assert libc.prctl(22, 2, filter, 0, 0) == 0, os.strerror(ctypes.get_errno())
        from goroutine.io.ioring import Ring, probe
        before = os.listdir("/proc/self/fd")
        for make in (Ring, probe):
            try:
                make()
            except OSError as failure:
                assert failure.errno == {number}, failure
                print(type(failure).__name__)
        assert os.listdir("/proc/self/fd") == before
    """)
        == ("PermissionError\n" if number == errno.EPERM else "OSError\n") * 2
    )


# --- closing -----------------------------------------------------------------------


def test_close_twice():
    ring = Ring(8, 16)
    assert not ring.closed
    ring.close()
    ring.close()
    assert ring.closed
    assert repr(ring) == "<Ring closed>"


def test_context_manager_closes_on_errors():
    before = fds()
    with pytest.raises(KeyError), Ring(8, 16) as ring:
        raise KeyError
    assert ring.closed
    assert fds() == before
    assert mappings() == 0


def test_use_after_close_is_a_clear_error():
    ring = Ring(8, 16)
    buffers = BufferRing(ring, 1, 4, 64)
    ops.nop(ring)
    ring.close()
    assert buffers.closed
    for use in (
        lambda: ops.nop(ring),
        ring.make_room,
        ring.pending,
        ring.submit,
        lambda: ring.submit_and_wait(1, 0.1),
        lambda: ring.enter(0),
        ring.completions,
        lambda: ring.register(abi.REGISTER_PROBE, 0, 0),
        ring.register_ring_fd,
        ring.sync_cancel,
        lambda: BufferRing(ring, 1, 4, 64),
        buffers.available,
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    for view in (ring.sqes, ring.cq_head, ring.cq_tail, ring.sq_tail, ring.timespec):
        with pytest.raises(ValueError, match="released"):
            view[0]
    for mapping in (ring.ring_mm, ring.sqe_bytes, buffers.data):
        with pytest.raises(ValueError, match="closed"):
            mapping[0:1]
    with pytest.raises(ValueError, match="released"):
        buffers.release(1)
    with pytest.raises(ValueError, match="closed"):
        buffers.take(0, 1)


def test_a_view_that_is_still_held_does_not_stop_close():
    before = fds()
    ring = Ring(8, 16)
    view = memoryview(ring.ring_mm)
    ring.close()
    assert fds() == before
    assert len(view[0:16].tobytes()) == 16  # unmapped with the last view
    del view, ring
    assert mappings() == 0


def test_close_cancels_what_is_in_flight():
    before = fds()
    reader, writer = os.pipe()
    ring = Ring(8, 16)
    polled, worked = bytearray(8), bytearray(8)
    ops.read(ring, reader, polled)
    ops.read(ring, reader, worked, flags=abi.IOSQE_ASYNC)
    ring.submit()
    ring.close()
    os.write(writer, b"too late")
    assert os.read(reader, 8) == b"too late"
    assert polled == worked == bytes(8)
    os.close(reader)
    os.close(writer)
    assert fds() == before


def test_the_fd_is_close_on_exec():
    with Ring(8, 16) as ring:
        assert fcntl.fcntl(ring.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_thousand_rings_give_everything_back():
    def rings(count):
        for _ in range(count):
            with Ring(8, 16) as ring:
                BufferRing(ring, 1, 8, 512)
                ops.nop(ring)
                ring.submit_and_wait(1)
                assert len(ring.completions()) == 1
                assert ring.enter_flags  # its index too was given back

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    rings(50)
    before, memory = fds(), resident()
    rings(1000)
    assert fds() == before
    assert mappings() == 0
    assert resident() - memory < 4 << 20


def test_more_rings_than_can_be_registered():
    rings = [Ring(4, 8) for _ in range(20)]
    try:
        assert {bool(ring.enter_flags) for ring in rings} == {True, False}
        for ring in rings:
            ops.nop(ring, user_data=5)
            ring.submit_and_wait(1)
            assert ring.completions() == [(5, 0, 0)]
    finally:
        for ring in rings:
            ring.close()


def test_unregister_and_register_the_ring_fd():
    with Ring(8, 16) as ring:
        ring.unregister_ring_fd()
        assert (ring.enter_fd, ring.enter_flags) == (ring.fd, 0)
        ops.nop(ring)
        ring.submit_and_wait(1)
        assert ring.register_ring_fd()
        assert ring.enter_flags == abi.ENTER_REGISTERED_RING
        ops.nop(ring)
        ring.submit_and_wait(2)
        assert len(ring.completions()) == 2


def test_a_forked_child_closes_only_its_copy():
    assert (
        child("""
        import os, socket
        from goroutine.io.ioring import BufferRing, Ring, ops
        mine, other = socket.socketpair()
        ring = Ring(8, 16)
        buffers = BufferRing(ring, 1, 4, 64)
        ops.recv_multishot(ring, mine.fileno(), 1, user_data=1)
        ring.submit()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                assert ring.forked
                before = len(os.listdir("/proc/self/fd"))
                ring.close()
                ring.close()
                assert buffers.closed
                assert len(os.listdir("/proc/self/fd")) == before - 1
                with Ring(8, 16) as own:
                    ops.nop(own)
                    own.submit_and_wait(1)
                    assert len(own.completions()) == 1
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert not ring.forked
        for text in (b"one", b"two", b"three", b"four", b"five"):
            other.send(text)
            ring.submit_and_wait(1, 5)
            (done,) = ring.completions()
            assert buffers.take(done.buffer_id, done.res) == text
            buffers.release(1)
        ring.close()
        mine.close()
        other.close()
        print("done")
    """)
        == "done\n"
    )
