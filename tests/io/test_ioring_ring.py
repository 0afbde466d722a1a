"""Queueing, submitting, completions: the ring itself, on the real kernel."""

import ctypes
import errno
import struct

import pytest

from goroutine.io.ioring import Ring, abi, ops


@pytest.fixture
def ring():
    with Ring(8, 16) as ring:
        yield ring


def nops(ring, numbers):
    for number in numbers:
        ops.nop(ring, user_data=number)


def test_nop_round_trip(ring):
    ops.nop(ring, user_data=2**64 - 1)
    assert ring.pending() == 1
    assert ring.submit_and_wait(1) == 1
    assert ring.pending() == 0
    (done,) = ring.completions()
    assert done == (2**64 - 1, 0, 0)
    assert not done.more
    assert done.buffer_id is None
    assert ring.completions() == []


def test_queues_wrap_many_times(ring):
    for start in range(0, 5000, 5):
        nops(ring, range(start, start + 5))
        assert ring.submit_and_wait(5) == 5
        assert [done.user_data for done in ring.completions()] == list(range(start, start + 5))


def test_completions_across_the_end_of_the_queue(ring):
    nops(ring, range(5))
    ring.submit()
    assert len(ring.completions()) == 5
    nops(ring, range(8))
    ring.submit()
    nops(ring, range(8, 13))
    ring.submit()
    assert ring.ready() == 13  # slots 5 to 15, then 0 and 1
    assert [done.user_data for done in ring.completions()] == list(range(13))


def test_full_submission_queue_is_submitted_not_overwritten(ring):
    nops(ring, range(9))
    assert ring.pending() == 1
    ring.submit()
    assert [done.user_data for done in ring.completions()] == list(range(9))


def test_make_room_tells_how_much_there_is(ring):
    assert ring.make_room() == 8
    nops(ring, range(8))
    assert ring.pending() == 8
    assert ring.make_room() == 8
    assert ring.ready() == 8


def test_completion_queue_overflow_is_flushed_in_order(ring):
    nops(ring, range(100))
    ring.submit()
    assert ring.sq_flags[0] & abi.SQ_CQ_OVERFLOW
    seen = []
    while found := ring.completions():
        seen += [done.user_data for done in found]
    assert seen == list(range(100))
    assert ring.cq_overflow[0] == 0
    assert not ring.sq_flags[0] & abi.SQ_CQ_OVERFLOW


def test_waiting_for_more_than_fits_waits_for_a_full_queue(ring):
    nops(ring, range(40))
    ring.submit_and_wait(1000)
    assert ring.ready() == 16


def test_entries_are_rounded_and_clamped():
    with Ring(5, 9) as ring:
        assert (ring.sq_entries, ring.cq_entries) == (8, 16)
        assert (ring.sq_mask, ring.cq_mask) == (7, 15)
    with Ring(1 << 20, 1 << 21) as ring:
        assert ring.sq_entries < 1 << 20


@pytest.mark.parametrize(
    "flags",
    [
        0,
        abi.SETUP_COOP_TASKRUN,
        abi.SETUP_COOP_TASKRUN | abi.SETUP_TASKRUN_FLAG,
        abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN,
    ],
)
@pytest.mark.parametrize("register_fd", [False, True])
def test_other_flags_and_the_plain_fd(flags, register_fd):
    with Ring(8, 16, flags, register_fd=register_fd) as ring:
        assert ring.flags == flags | abi.SETUP_CQSIZE | abi.SETUP_CLAMP
        assert bool(ring.enter_flags) == register_fd
        for start in range(0, 60, 6):
            nops(ring, range(start, start + 6))
            ring.submit_and_wait(6)
            assert [done.user_data for done in ring.completions()] == list(range(start, start + 6))


def test_a_bad_sqe_is_a_completion_not_an_error(ring):
    ops.nop(ring, user_data=1)
    ring.prepare(255, user_data=2)
    ops.nop(ring, user_data=3)
    assert ring.submit() == 3
    assert [(d.user_data, d.res) for d in ring.completions()] == [
        (1, 0),
        (2, -errno.EINVAL),
        (3, 0),
    ]


def test_without_submit_all_the_rest_is_submitted_too():
    with Ring(8, 16, abi.SETUP_COOP_TASKRUN) as ring:
        ops.nop(ring, user_data=1)
        ring.prepare(255, user_data=2)
        ops.nop(ring, user_data=3)
        assert ring.submit_and_wait(3) == 3
        assert [d.user_data for d in ring.completions()] == [1, 2, 3]


def test_fields_that_do_not_fit_queue_nothing(ring):
    with pytest.raises(struct.error):
        ring.prepare(abi.OP_NOP, user_data=-1)
    with pytest.raises(struct.error):
        ring.prepare(abi.OP_NOP, user_data=1 << 64)
    assert ring.pending() == 0
    nops(ring, [7])
    ring.submit()
    assert ring.completions() == [(7, 0, 0)]


def test_linked_operations_stop_at_the_first_failure(ring):
    ops.close(ring, 1 << 20, user_data=1, flags=abi.IOSQE_IO_LINK)
    ops.nop(ring, user_data=2)
    ring.submit_and_wait(2)
    results = {done.user_data: done.res for done in ring.completions()}
    assert results == {1: -errno.EBADF, 2: -errno.ECANCELED}


def test_cqe_skip_success(ring):
    ops.nop(ring, user_data=1, flags=abi.IOSQE_CQE_SKIP_SUCCESS)
    ops.nop(ring, user_data=2)
    ring.submit()
    assert [done.user_data for done in ring.completions()] == [2]


def failing_once(ring, number):
    """Let the ring's next system call fail with this errno."""
    real = ring.syscall

    def syscall(*arguments):
        ring.syscall = real
        ctypes.set_errno(number)
        return -1

    ring.syscall = syscall


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN])
def test_busy_is_retried_after_collecting(ring, number):
    nops(ring, range(3))
    failing_once(ring, number)
    assert ring.submit() == 3
    assert len(ring.completions()) == 3


def test_busy_with_something_to_read_returns_it(ring):
    nops(ring, range(3))
    ring.submit()
    nops(ring, range(3, 5))
    failing_once(ring, errno.EBUSY)
    assert ring.submit_and_wait(1) == 0
    assert len(ring.completions()) == 3
    assert ring.pending() == 2
    assert ring.submit_and_wait(2) == 2
    assert [done.user_data for done in ring.completions()] == [3, 4]


def test_busy_for_good_is_an_error_and_loses_nothing(ring):
    real = ring.syscall

    def syscall(number, fd, to_submit, *rest):
        if to_submit:
            ctypes.set_errno(errno.EBUSY)
            return -1
        return real(number, fd, to_submit, *rest)

    nops(ring, range(8))
    ring.syscall = syscall
    with pytest.raises(OSError, match="busy") as caught:
        ops.nop(ring, user_data=8)
    assert caught.value.errno == errno.EBUSY
    ring.syscall = real
    ops.nop(ring, user_data=8)
    ring.submit()
    assert [done.user_data for done in ring.completions()] == list(range(9))


@pytest.mark.parametrize("number", [errno.EBADR, errno.EFAULT, errno.EPERM])
def test_other_failures_have_their_errno(ring, number):
    failing_once(ring, number)
    with pytest.raises(OSError, match="io_uring_enter") as caught:
        ring.enter(0)
    assert caught.value.errno == number


def test_lost_completions_do_not_lose_those_that_are_there(ring):
    nops(ring, range(40))
    ring.submit()
    failing_once(ring, errno.EBADR)
    assert [done.user_data for done in ring.completions()][:16] == list(range(16))


def test_a_loop_on_the_attributes_alone():
    """What RingMemory promises, used as a poller's hot loop uses it."""
    with Ring(16, 32) as ring:
        sqes, sq_tail, cq_head, cq_tail = ring.sqes, ring.sq_tail, ring.cq_head, ring.cq_tail
        syscall, fd = ring.syscall, ring.enter_fd
        bits = abi.ENTER_GETEVENTS | ring.enter_flags
        unpack = struct.Struct("<QiHH").iter_unpack
        memory, base = ring.ring_mm, ring.cq_offset
        seen = []
        for start in range(0, 300, 10):
            if start % 20:  # by hand, or by the other way of queueing
                for number in range(start, start + 10):
                    word = (ring.tail & ring.sq_mask) * abi.SQE_WORDS
                    sqes[word] = abi.OP_NOP
                    for other in range(1, abi.SQE_WORDS):
                        sqes[word + other] = 0
                    sqes[word + 4] = number
                    ring.tail += 1
            else:
                nops(ring, range(start, start + 10))
            sq_tail[0] = ring.tail & 0xFFFFFFFF
            assert syscall(abi.SYS_IO_URING_ENTER, fd, 10, 10, bits, None, None) == 10
            head, tail = cq_head[0], cq_tail[0]
            while head != tail:
                at = base + (head & ring.cq_mask) * abi.CQE_SIZE
                seen += [user_data for user_data, _, _, _ in unpack(memory[at : at + 16])]
                head += 1
            cq_head[0] = tail
        assert seen == list(range(300))

        ring.timespec[0], ring.timespec[1] = 0, 1_000_000
        result = syscall(
            abi.SYS_IO_URING_ENTER,
            fd,
            0,
            1,
            bits | abi.ENTER_EXT_ARG,
            ring.timeout_ptr,
            ring.timeout_size,
        )
        assert (result, ctypes.get_errno()) == (-1, errno.ETIME)
        assert ring.syscall_nb(abi.SYS_IO_URING_ENTER, fd, 0, 0, bits, None, None) == 0
        assert ring.syscall_nb(abi.SYS_IO_URING_ENTER, fd, 0, 0, 1 << 30, None, None) == -1
        assert ctypes.get_errno() == errno.EINVAL


def test_function_objects_are_the_rings_own(ring):
    with Ring(8, 16) as other:
        assert ring.syscall is not other.syscall
        assert ring.syscall_nb is not other.syscall_nb
