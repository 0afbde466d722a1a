"""Operations on files, sockets and other operations, on the real kernel."""

import errno
import gc
import os
import select
import socket
import struct
from collections import Counter

import pytest

from goroutine.io.ioring import BufferRing, Ring, abi, address_of, ops, registration


@pytest.fixture
def ring():
    with Ring(8, 64) as ring:
        yield ring


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def one(ring, timeout=10):
    """Submit, and the one completion that follows."""
    ring.submit_and_wait(1, timeout)
    (done,) = ring.completions()
    return done


def collect(ring, count, timeout=10):
    """Submit, and so many completions."""
    ring.submit_and_wait(count, timeout)
    found = ring.completions()
    assert len(found) == count, found
    return found


# --- files -----------------------------------------------------------------------


def test_a_file_from_open_to_close(ring, tmp_path):
    path = tmp_path / "file"
    ops.openat(ring, path, os.O_RDWR | os.O_CREAT, 0o600)
    fd = one(ring).res
    assert fd >= 0
    assert not os.get_inheritable(fd)
    ops.write(ring, fd, b"hello, world")
    assert one(ring).res == 12
    ops.write(ring, fd, memoryview(b"HE"), 0)
    assert one(ring).res == 2
    ops.fsync(ring, fd)
    assert one(ring).res == 0
    ops.fsync(ring, fd, datasync=True)
    assert one(ring).res == 0
    buffer = bytearray(5)
    ops.read(ring, fd, buffer, 7)
    assert one(ring).res == 5
    assert buffer == b"world"
    ops.read(ring, fd, buffer)  # the file's own position: the end
    assert one(ring).res == 0
    ops.close(ring, fd)
    assert one(ring).res == 0
    ops.close(ring, fd)
    assert one(ring).res == -errno.EBADF
    assert path.read_bytes() == b"HEllo, world"
    assert path.stat().st_mode & 0o777 == 0o600


def test_paths_of_all_kinds_and_none(ring, tmp_path):
    (tmp_path / "ü").write_bytes(b"")
    directory = os.open(tmp_path, os.O_RDONLY)
    for path in (tmp_path / "ü", str(tmp_path / "ü"), os.fsencode(tmp_path / "ü")):
        ops.openat(ring, path)
        os.close(one(ring).res)
    ops.openat(ring, "ü", dir_fd=directory)
    os.close(one(ring).res)
    os.close(directory)
    ops.openat(ring, tmp_path / "none")
    assert one(ring).res == -errno.ENOENT


def test_paths_are_kept_until_submitted(ring, tmp_path):
    """More opens than the queue has room for, and nobody else holds the names."""
    for number in range(30):
        (tmp_path / f"a rather long name, number {number}").write_bytes(b"")
    for number in range(30):
        ops.openat(ring, str(tmp_path / f"a rather long name, number {number}"))
        gc.collect()
        bytes(100)
    results = [done.res for done in collect(ring, 30)]
    assert min(results) >= 0
    for fd in results:
        os.close(fd)


def test_statx(ring, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1234))
    buffer = bytearray(ops.STATX_SIZE)
    ops.statx(ring, path, buffer)
    assert one(ring).res == 0
    assert struct.unpack_from("=Q", buffer, 40)[0] == 1234  # stx_size
    with pytest.raises(ValueError, match="256 bytes"):
        ops.statx(ring, path, bytearray(10))


def test_pipes_block_until_there_is_data(ring, pipe):
    reader, writer = pipe
    buffer = bytearray(8)
    ops.read(ring, reader, buffer, user_data=1)
    ring.submit()
    assert ring.completions() == []
    ops.write(ring, writer, b"abc", user_data=2)
    assert {d.user_data: d.res for d in collect(ring, 2)} == {1: 3, 2: 3}
    assert buffer[:3] == b"abc"


def test_read_multishot(ring, pipe):
    reader, writer = pipe
    with BufferRing(ring, 3, 4, 64) as buffers:
        ops.read_multishot(ring, reader, 3)
        for text in (b"one", b"two"):
            os.write(writer, text)
            done = one(ring)
            if done.res == -errno.EINVAL:
                pytest.skip("Linux 6.7 or later")
            assert buffers.take(done.buffer_id, done.res) == text
            buffers.release(1)


def test_buffers_must_be_buffers_and_writable(ring, pipe):
    with pytest.raises(BufferError, match="writable"):
        ops.read(ring, pipe[0], b"constant")
    with pytest.raises(BufferError, match="contiguous"):
        ops.write(ring, pipe[1], memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError):
        ops.write(ring, pipe[1], "text")
    assert ring.pending() == 0


def test_addresses():
    data = bytearray(b"0123456789")
    assert address_of(memoryview(data)[3:]) == address_of(data) + 3
    assert address_of(bytes(5)) != 0
    data += bytes(1000)  # nothing keeps it exported
    assert address_of(bytearray()) >= 0
    with pytest.raises(TypeError):
        address_of(5)


def test_fixed_files_and_buffers(ring, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"fixed")
    buffer = bytearray(4096)
    with open(path, "rb") as file:
        registration.register_files(ring, [-1, file.fileno()])
        registration.register_buffers(ring, [buffer])
        ring.prepare(
            abi.OP_READ_FIXED,
            flags=abi.IOSQE_FIXED_FILE,
            fd=1,
            addr=address_of(buffer),
            length=4096,
            buf_index=0,
        )
        assert one(ring).res == 5
        assert buffer[:5] == b"fixed"
        registration.update_files(ring, 0, [file.fileno(), -1])
        ops.read(ring, 1, buffer, flags=abi.IOSQE_FIXED_FILE)
        assert one(ring).res == -errno.EBADF
        registration.unregister_files(ring)
        registration.unregister_buffers(ring)
    with pytest.raises(OSError, match="io_uring_register") as caught:
        registration.unregister_files(ring)
    assert caught.value.errno == errno.ENXIO


def test_eventfd_counts_completions(ring):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    registration.register_eventfd(ring, fd)
    ops.nop(ring)
    one(ring)
    assert os.eventfd_read(fd) >= 1
    registration.unregister_eventfd(ring)
    ops.nop(ring)
    one(ring)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    os.close(fd)


# --- sockets ---------------------------------------------------------------------


def test_send_and_recv(ring, pair):
    buffer = bytearray(64)
    ops.recv(ring, pair[0].fileno(), buffer, user_data=1)
    ops.send(ring, pair[1].fileno(), b"ping", user_data=2)
    assert {d.user_data: d.res for d in collect(ring, 2)} == {1: 4, 2: 4}
    assert buffer[:4] == b"ping"
    ops.shutdown(ring, pair[1].fileno(), socket.SHUT_WR)
    assert one(ring).res == 0
    ops.recv(ring, pair[0].fileno(), buffer)
    assert one(ring).res == 0
    ops.send(ring, pair[1].fileno(), b"x")
    assert one(ring).res == -errno.EPIPE  # and no SIGPIPE


def test_send_waitall_sends_all_to_a_slow_reader(ring, pair):
    data = os.urandom(1 << 20)
    ops.send(ring, pair[0].fileno(), data, socket.MSG_WAITALL | socket.MSG_NOSIGNAL)
    ring.submit()
    received = bytearray()
    while len(received) < len(data):
        received += pair[1].recv(1 << 16)
        ring.enter(0)
    assert one(ring).res == len(data)
    assert received == data


def test_connect_and_accept(ring, listener):
    ops.socket(ring)
    client = socket.socket(fileno=one(ring).res)
    with client:
        assert not client.get_inheritable()
        ops.accept(ring, listener.fileno(), user_data=1)
        address = ops.sockaddr(socket.AF_INET, listener.getsockname())
        ops.connect(ring, client.fileno(), address, user_data=2)
        results = {done.user_data: done.res for done in collect(ring, 2)}
        assert results[2] == 0
        with socket.socket(fileno=results[1]) as server:
            assert not server.get_inheritable()
            server.send(b"hi")
            assert client.recv(5) == b"hi"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_connect_over_ipv6(ring):
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener, socket.socket(socket.AF_INET6) as client:
        ops.connect(ring, client.fileno(), ops.sockaddr(socket.AF_INET6, listener.getsockname()))
        assert one(ring).res == 0


@pytest.mark.parametrize("abstract", [False, True])
def test_connect_over_unix(ring, tmp_path, abstract):
    path = f"\0ioring-{os.getpid()}" if abstract else str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        ops.connect(ring, client.fileno(), ops.sockaddr(socket.AF_UNIX, path))
        assert one(ring).res == 0


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, ("127.0.0.1",)),
        (socket.AF_UNIX, "x" * 200),
        (socket.AF_UNIX, ("127.0.0.1", 1)),
        (socket.AF_PACKET, ("eth0", 1)),
    ],
)
def test_addresses_that_cannot_be_packed(family, address):
    with pytest.raises(ValueError, match="can't pack"):
        ops.sockaddr(family, address)


def test_names_are_not_resolved():
    with pytest.raises(OSError, match="illegal IP address"):
        ops.sockaddr(socket.AF_INET, ("localhost", 80))


def test_connect_refused_is_the_result(ring):
    with socket.socket() as bound, socket.socket() as client:
        bound.bind(("127.0.0.1", 0))  # and not listening
        address = ops.sockaddr(socket.AF_INET, bound.getsockname())
        ops.connect(ring, client.fileno(), address, user_data=5)
        assert one(ring) == (5, -errno.ECONNREFUSED, 0)


def test_accept_multishot(ring, listener):
    ops.accept_multishot(ring, listener.fileno(), user_data=1)
    ring.submit()
    clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
    accepted = []
    while len(accepted) < 5:
        ring.submit_and_wait(1, 10)
        for done in ring.completions():
            assert done.user_data == 1
            assert done.more
            accepted.append(socket.socket(fileno=done.res))
    peers = {server.getpeername() for server in accepted}
    assert peers == {client.getsockname() for client in clients}
    ring.sync_cancel(1)
    (done,) = ring.completions()
    assert (done.res, done.more) == (-errno.ECANCELED, False)
    for each in clients + accepted:
        each.close()


# --- readiness and cancelling ------------------------------------------------------------


def test_poll(ring, pair):
    ops.poll_add(ring, pair[0].fileno(), select.POLLIN | select.POLLOUT, user_data=1)
    assert one(ring).res == select.POLLOUT
    ops.poll_add(ring, pair[0].fileno(), select.POLLIN, user_data=2)
    ring.submit()
    assert ring.completions() == []
    pair[1].send(b"x")
    assert one(ring) == (2, select.POLLIN, 0)


def test_poll_multishot_until_removed(ring, pair):
    ops.poll_add(ring, pair[0].fileno(), select.POLLIN, multishot=True, user_data=1)
    ring.submit()
    for _ in range(3):
        pair[1].send(b"x")
        done = one(ring)
        assert (done.user_data, done.res & select.POLLIN) == (1, select.POLLIN)
        assert done.more
    ops.poll_remove(ring, 1, user_data=2)
    results = {done.user_data: done for done in collect(ring, 2)}
    assert results[2].res == 0
    assert (results[1].res, results[1].more) == (-errno.ECANCELED, False)
    ops.poll_remove(ring, 1, user_data=3)
    assert one(ring).res == -errno.ENOENT


def test_cancel_by_user_data(ring, pair):
    buffer = bytearray(8)
    ops.recv(ring, pair[0].fileno(), buffer, user_data=1)
    ring.submit()
    ops.cancel(ring, 1, user_data=2)
    assert {d.user_data: d.res for d in collect(ring, 2)} == {1: -errno.ECANCELED, 2: 0}
    ops.cancel(ring, 1, user_data=3)
    assert one(ring) == (3, -errno.ENOENT, 0)


def test_cancel_all_with_a_user_data(ring, pair):
    buffers = [bytearray(8) for _ in range(3)]
    for buffer in buffers:
        ops.recv(ring, pair[0].fileno(), buffer, user_data=1)
    ring.submit()
    ops.cancel(ring, 1, all=True, user_data=2)
    found = collect(ring, 4)
    assert Counter((d.user_data, d.res) for d in found) == {(1, -errno.ECANCELED): 3, (2, 3): 1}


def test_cancel_by_fd(ring, pair):
    mine = bytearray(8)
    ops.recv(ring, pair[0].fileno(), mine, user_data=1)
    ops.poll_add(ring, pair[0].fileno(), select.POLLIN, user_data=2)
    ops.poll_add(ring, pair[1].fileno(), select.POLLIN, user_data=3)
    ring.submit()
    ops.cancel_fd(ring, pair[0].fileno(), user_data=4)
    assert {d.user_data: d.res for d in collect(ring, 3)} == {
        1: -errno.ECANCELED,
        2: -errno.ECANCELED,
        4: 2,
    }
    pair[0].send(b"x")
    assert one(ring).user_data == 3


@pytest.mark.parametrize("how", [0, abi.IOSQE_ASYNC])
@pytest.mark.parametrize("what", [0, abi.IOSQE_ASYNC])
@pytest.mark.parametrize("flags", [None, abi.SETUP_COOP_TASKRUN])
def test_cancel_and_target_complete_in_either_order(pipe, how, what, flags):
    """An asynchronous cancel comes after its target here, any other before: take both."""
    with Ring(8, 16, flags) as ring:
        buffer = bytearray(8)
        ops.read(ring, pipe[0], buffer, user_data=1, flags=what)
        ring.submit()
        ops.cancel(ring, 1, user_data=2, flags=how)
        results: dict[int, int] = {}
        for again in range(3, 50):
            ring.submit_and_wait(2 - len(results), 0.2)
            results.update((done.user_data, done.res) for done in ring.completions())
            if 1 in results:
                break
            # A worker thread that had begun, but not yet blocked, does not notice (EALREADY).
            ops.cancel(ring, 1, user_data=again, flags=how)
        assert results[1] in (-errno.ECANCELED, -errno.EINTR)
        assert results.get(2, 0) in (0, -errno.EALREADY)


def test_data_taken_before_a_cancel_is_delivered(ring, pair):
    with BufferRing(ring, 1, 4, 64) as buffers:
        ops.recv_multishot(ring, pair[0].fileno(), 1, user_data=1)
        ring.submit()
        pair[1].send(b"data")
        ring.enter(0)
        ops.cancel(ring, 1, user_data=2)
        received = [done for done in collect(ring, 3) if done.user_data == 1]
        assert buffers.take(received[0].buffer_id, received[0].res) == b"data"
        assert received[0].more
        assert (received[1].res, received[1].more) == (-errno.ECANCELED, False)


def test_data_not_taken_before_a_cancel_stays_in_the_socket(ring, pair):
    """With DEFER_TASKRUN what arrives is taken inside enter, where the cancel comes first."""
    assert ring.flags & abi.SETUP_DEFER_TASKRUN
    with BufferRing(ring, 1, 4, 64):
        ops.recv_multishot(ring, pair[0].fileno(), 1, user_data=1)
        ring.submit()
        pair[1].send(b"data")
        ops.cancel(ring, 1, user_data=2)
        results = {done.user_data: done.res for done in collect(ring, 2)}
        assert results == {1: -errno.ECANCELED, 2: 0}
        assert pair[0].recv(64) == b"data"


@pytest.mark.parametrize("asynchronous", [0, abi.IOSQE_ASYNC])
def test_sync_cancel_by_user_data(ring, pipe, asynchronous):
    """When it returns the completions are there, of operations on worker threads too."""
    buffers = [bytearray(8) for _ in range(3)]
    for buffer in buffers:
        ops.read(ring, pipe[0], buffer, user_data=1, flags=asynchronous)
    ops.poll_add(ring, pipe[0], select.POLLIN, user_data=2)
    ring.submit()
    ring.sync_cancel(1, timeout=10)
    assert [d.user_data for d in ring.completions()] == [1, 1, 1]
    os.write(pipe[1], b"x")
    assert one(ring).user_data == 2
    assert buffers == [bytes(8)] * 3


def test_sync_cancel_by_fd_and_of_everything(ring, pair):
    for number in range(3):
        ops.poll_add(ring, pair[0].fileno(), select.POLLIN, user_data=number)
    ops.poll_add(ring, pair[1].fileno(), select.POLLIN, user_data=3)
    ring.submit()
    ring.sync_cancel(fd=pair[0].fileno())
    assert {(d.user_data, d.res) for d in ring.completions()} == {
        (number, -errno.ECANCELED) for number in range(3)
    }
    ring.sync_cancel()
    assert [(d.user_data, d.res) for d in ring.completions()] == [(3, -errno.ECANCELED)]
    ring.sync_cancel()  # nothing left, no error
    ring.sync_cancel(99)
    ring.sync_cancel(fd=pair[0].fileno())
    with pytest.raises(ValueError, match="not by both"):
        ring.sync_cancel(1, fd=2)


def test_closing_an_fd_under_an_operation_ends_nothing(ring):
    """Why a poller must cancel or shut down before it closes."""
    one_end, other = socket.socketpair()
    buffer = bytearray(8)
    ops.recv(ring, one_end.fileno(), buffer, user_data=1)
    ring.submit()
    one_end.close()
    ring.submit_and_wait(1, 0.02)
    assert ring.completions() == []
    other.send(b"late")
    assert one(ring)[:2] == (1, 4)
    assert buffer[:4] == b"late"
    other.close()
