"""Provided-buffer rings."""

import errno
import os
import random
import socket

import pytest

from goroutine.io.ioring import BufferRing, Ring, abi, ops

GROUP = 1


@pytest.fixture
def ring():
    with Ring(64, 256) as ring:
        yield ring


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def drain(ring, buffers, wait=0):
    """Copy out all that has come, release it at once; (user_data, data) pairs and the rest."""
    ring.submit_and_wait(wait, 10)
    data, rest = [], []
    for done in ring.completions():
        if done.buffer_id is not None:
            data.append((done.user_data, buffers.take(done.buffer_id, done.res)))
        if done.res <= 0 or not done.more:
            rest.append(done)
    buffers.release(len(data))
    return data, rest


def test_multishot_receive(ring, pair):
    with BufferRing(ring, GROUP, 4, 64) as buffers:
        ops.recv_multishot(ring, pair[0].fileno(), GROUP, user_data=7)
        ring.submit()
        for number in range(50):
            text = b"message %d" % number
            pair[1].send(text)
            assert drain(ring, buffers, 1) == ([(7, text)], [])
        pair[1].close()
        data, (end,) = drain(ring, buffers, 1)
        assert data in ([], [(7, b"")])
        assert (end.user_data, end.res, end.more) == (7, 0, False)


def test_long_data_takes_several_buffers_in_order(ring, pair):
    with BufferRing(ring, GROUP, 8, 16) as buffers:
        ops.recv_multishot(ring, pair[0].fileno(), GROUP)
        pair[1].send(bytes(range(100)))
        data, rest = drain(ring, buffers, 7)
        assert b"".join(each for _, each in data) == bytes(range(100))
        assert [len(each) for _, each in data] == [16] * 6 + [4]
        assert rest == []


def test_running_dry_ends_with_enobufs_and_loses_nothing(ring, pair):
    with BufferRing(ring, GROUP, 4, 16) as buffers:
        ops.recv_multishot(ring, pair[0].fileno(), GROUP, user_data=1)
        sent = os.urandom(100)
        pair[1].send(sent)
        received, rearmed = b"", 0
        while len(received) < len(sent):
            data, rest = drain(ring, buffers, 1)
            received += b"".join(each for _, each in data)
            for done in rest:
                assert (done.res, done.more) == (-errno.ENOBUFS, False)
                ops.recv_multishot(ring, pair[0].fileno(), GROUP, user_data=1)
                rearmed += 1
        assert received == sent
        assert rearmed >= 1


def test_the_tail_wraps(ring, pair):
    """More buffers than a 16-bit tail counts, twice over."""
    with BufferRing(ring, GROUP, 64, 8) as buffers:
        ops.recv_multishot(ring, pair[0].fileno(), GROUP)
        for _ in range(2300):
            pair[1].send(bytes(8 * 60))
            data, rest = drain(ring, buffers, 60)
            assert len(data) == 60
            assert rest == []
        assert buffers.tail == (64 + 2300 * 60) & 0xFFFF


def test_the_largest_ring():
    with Ring(8, 16) as ring, BufferRing(ring, 65535, 32768, 1) as buffers:
        if buffers_available(buffers) is not None:
            assert buffers_available(buffers) == 32768
        one, other = socket.socketpair()
        with one, other:
            ops.recv_multishot(ring, one.fileno(), 65535)
            other.send(b"ab")
            assert [data for _, data in drain(ring, buffers, 2)[0]] == [b"a", b"b"]


def buffers_available(buffers):
    """As many as the kernel has left; None before Linux 6.8."""
    try:
        return buffers.available()
    except OSError as failure:
        if failure.errno != errno.EINVAL:
            raise
        return None


def test_available(ring, pair):
    with BufferRing(ring, GROUP, 4, 16) as buffers:
        if buffers_available(buffers) is None:
            pytest.skip("Linux 6.8 or later")
        ops.recv_multishot(ring, pair[0].fileno(), GROUP)
        pair[1].send(b"x")
        ring.submit_and_wait(1)
        (done,) = ring.completions()
        assert buffers.available() == 3
        buffers.recycle([done.buffer_id])
        assert buffers.available() == 4


def test_held_buffers_are_left_alone_by_recycle(ring, pair):
    """Keep some buffers for long, give the others back in any order: nothing is overwritten."""
    choice = random.Random(1)
    with BufferRing(ring, GROUP, 8, 16) as buffers:
        ops.recv_multishot(ring, pair[0].fileno(), GROUP)
        held, number = {}, 0
        for _ in range(2000):
            while len(held) < 6:
                text = b"text %d" % number
                number += 1
                pair[1].send(text)
                ring.submit_and_wait(1, 10)
                (done,) = ring.completions()
                assert done.more
                assert done.buffer_id not in held
                held[done.buffer_id] = text
            for bid, text in held.items():
                assert buffers.take(bid, len(text)) == text
            give = choice.sample(sorted(held), choice.randint(1, 6))
            buffers.recycle(give)
            for bid in give:
                del held[bid]


def test_release_after_recycle(ring, pair):
    """Slots may be in any order by then; whole batches still go back with one store."""
    with BufferRing(ring, GROUP, 8, 16) as buffers:
        ops.recv_multishot(ring, pair[0].fileno(), GROUP)
        for _ in range(3):
            for letter in b"abc":
                pair[1].send(bytes([letter]))
                ring.submit_and_wait(1)
            ids = [done.buffer_id for done in ring.completions()]
            buffers.recycle(reversed(ids))
            for number in range(100):
                pair[1].send(b"%d" % number)
                assert drain(ring, buffers, 1)[0] == [(0, b"%d" % number)]


def test_reads_of_files_complete_in_any_order(ring, tmp_path):
    """Worker threads hold buffers while others complete: recycle, not release."""
    blocks = [bytes([number]) * 64 for number in range(256)]
    path = tmp_path / "blocks"
    path.write_bytes(b"".join(blocks))
    with open(path, "rb") as file, BufferRing(ring, GROUP, 8, 64) as buffers:
        todo, flying, done_blocks = list(range(256)), 0, 0
        while done_blocks < 256:
            while todo and flying < 8:
                number = todo.pop()
                ring.prepare(
                    abi.OP_READ,
                    flags=abi.IOSQE_BUFFER_SELECT | abi.IOSQE_ASYNC,
                    fd=file.fileno(),
                    off=number * 64,
                    length=64,
                    user_data=number,
                    buf_index=GROUP,
                )
                flying += 1
            ring.submit_and_wait(1, 10)
            for done in ring.completions():
                flying -= 1
                if done.res == -errno.ENOBUFS:
                    todo.append(done.user_data)
                    continue
                assert buffers.take(done.buffer_id, done.res) == blocks[done.user_data]
                buffers.recycle([done.buffer_id])
                done_blocks += 1


def test_many_connections_share_a_small_group(ring):
    pairs = [socket.socketpair() for _ in range(20)]
    sent = {number: os.urandom(3000) for number in range(20)}
    received = {number: bytearray() for number in range(20)}
    with BufferRing(ring, GROUP, 16, 32) as buffers:
        for number, (one, other) in enumerate(pairs):
            ops.recv_multishot(ring, one.fileno(), GROUP, user_data=number)
            other.send(sent[number])
            other.shutdown(socket.SHUT_WR)
        ended = set()
        while len(ended) < 20:
            data, rest = drain(ring, buffers, 1)
            for number, each in data:
                received[number] += each
            for done in rest:
                if done.res == 0:
                    ended.add(done.user_data)
                elif not done.more:
                    assert done.res > 0 or done.res == -errno.ENOBUFS
                    ops.recv_multishot(
                        ring,
                        pairs[done.user_data][0].fileno(),
                        GROUP,
                        user_data=done.user_data,
                    )
    assert received == sent
    for one, other in pairs:
        one.close()
        other.close()


def test_overflow_of_the_completion_queue_loses_no_data(pair):
    """A multishot receive that meets a full queue stops, and is queued again."""
    with Ring(8, 8) as ring, BufferRing(ring, GROUP, 64, 8) as buffers:
        sent = os.urandom(4000)
        pair[1].send(sent)
        received = b""
        ops.recv_multishot(ring, pair[0].fileno(), GROUP)
        while len(received) < len(sent):
            data, rest = drain(ring, buffers, 1)
            received += b"".join(each for _, each in data)
            if rest:
                ops.recv_multishot(ring, pair[0].fileno(), GROUP)
        assert received == sent


def test_impossible_arguments(ring):
    for count in (0, -1, 3, 65536):
        with pytest.raises(ValueError, match="power of two"):
            BufferRing(ring, GROUP, count, 16)
    with pytest.raises(ValueError, match="positive"):
        BufferRing(ring, GROUP, 4, 0)
    with pytest.raises(ValueError, match="not supported"):
        BufferRing(ring, GROUP, 4, 16, abi.IOU_PBUF_RING_INC)


def test_a_group_is_taken_once(ring):
    with BufferRing(ring, GROUP, 4, 16) as first:
        with pytest.raises(OSError, match="io_uring_register") as caught:
            BufferRing(ring, GROUP, 4, 16)
        assert caught.value.errno == errno.EEXIST
        assert ring.buffer_rings == [first]
    with BufferRing(ring, GROUP, 4, 16):
        pass
    assert ring.buffer_rings == []


def test_close_twice_and_use_after_close(ring):
    buffers = BufferRing(ring, GROUP, 4, 16)
    assert repr(buffers) == "<BufferRing group=1 4 x 16>"
    buffers.close()
    buffers.close()
    assert buffers.closed
    assert repr(buffers) == "<BufferRing closed>"
    for use in (
        lambda: buffers.take(0, 1),
        lambda: buffers.release(1),
        lambda: buffers.recycle([0]),
        buffers.available,
    ):
        with pytest.raises(ValueError, match=r"closed|released"):
            use()


def test_receiving_from_a_closed_group_ends(ring, pair):
    buffers = BufferRing(ring, GROUP, 4, 16)
    ops.recv_multishot(ring, pair[0].fileno(), GROUP)
    ring.submit()
    buffers.close()
    pair[1].send(b"x")
    ring.submit_and_wait(1, 10)
    (done,) = ring.completions()
    assert done.res in (-errno.ENOBUFS, -errno.ENOENT)
    assert not done.more


def test_the_ring_closes_its_groups():
    ring = Ring(8, 16)
    first, second = BufferRing(ring, 1, 4, 16), BufferRing(ring, 2, 4, 16)
    ring.close()
    assert first.closed
    assert second.closed
