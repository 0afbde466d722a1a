"""Waiting: timeouts, signals, threads."""

import errno
import os
import select
import signal
import threading
import time

import pytest

from goroutine.io.ioring import Ring, abi, ops


@pytest.fixture
def ring():
    with Ring(8, 16) as ring:
        yield ring


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def alarms():
    """Starts SIGALRM every so many seconds, with a handler."""
    old = signal.getsignal(signal.SIGALRM)

    def start(interval, handler):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, interval, interval)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("timeout", [1e-9, 0.0001, 0.001, 0.01, 0.1, 1.05])
@pytest.mark.parametrize("queued", [False, True])
def test_a_timeout_is_never_short(ring, timeout, queued):
    if queued:
        ops.nop(ring)
    start = time.monotonic()
    assert ring.submit_and_wait(2, timeout) == queued
    passed = time.monotonic() - start
    assert timeout <= passed < timeout + 1
    assert len(ring.completions()) == queued


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_no_time_is_no_wait(ring, timeout):
    ops.nop(ring)
    assert ring.submit_and_wait(5, timeout) == 1
    assert len(ring.completions()) == 1


@pytest.mark.parametrize("timeout", [None, 1e8, 1e300, float("inf")])
def test_long_timeouts_wait(ring, timeout):
    ops.nop(ring)
    assert ring.submit_and_wait(1, timeout) == 1
    assert len(ring.completions()) == 1


def test_enough_unread_completions_end_a_wait_at_once(ring):
    for _ in range(3):
        ops.nop(ring)
    ring.submit()
    start = time.monotonic()
    assert ring.enter(0, 3, 10) == 0
    assert time.monotonic() - start < 5
    assert ring.ready() == 3


def test_told_more_than_is_queued_it_waits_all_the_same(ring):
    start = time.monotonic()
    assert ring.enter(5, 1, 0.02) == 0
    assert time.monotonic() - start >= 0.02


def test_signals_do_not_shorten_a_timeout(ring, alarms):
    seen = []
    alarms(0.01, lambda *_: seen.append(time.monotonic()))
    start = time.monotonic()
    assert ring.submit_and_wait(1, 0.2) == 0
    assert time.monotonic() - start >= 0.2
    assert len(seen) >= 3  # the handlers ran during the wait


def test_signals_do_not_end_a_wait_after_a_submission(ring, alarms):
    """The kernel hides EINTR behind the number submitted."""
    seen = []
    alarms(0.01, lambda *_: seen.append(1))
    ops.nop(ring)
    start = time.monotonic()
    assert ring.submit_and_wait(2, 0.1) == 1
    assert time.monotonic() - start >= 0.1
    assert seen


def test_a_handler_can_end_a_wait_by_completing_something(ring, pipe, alarms):
    reader, writer = pipe
    alarms(0.01, lambda *_: os.write(writer, b"x"))
    ops.poll_add(ring, reader, select.POLLIN, user_data=3)
    assert ring.submit_and_wait(1) == 1
    assert ring.completions() == [(3, select.POLLIN, 0)]


def test_what_a_handler_raises_comes_out(ring, alarms):
    def handler(*_):
        raise InterruptedError("by the handler")

    alarms(0.01, handler)
    with pytest.raises(InterruptedError, match="by the handler"):
        ring.submit_and_wait(1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    ops.nop(ring, user_data=1)
    ring.submit_and_wait(1)
    assert ring.completions() == [(1, 0, 0)]


def run(function):
    """Run it in a thread; its result, or the exception it raised."""
    results = []

    def body():
        try:
            results.append(function())
        except BaseException as failure:
            results.append(failure)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return results[0]


def test_another_thread_may_not_use_a_ring(ring):
    ops.nop(ring)
    failure = run(ring.submit)
    assert isinstance(failure, OSError)
    assert failure.errno in (errno.EEXIST, errno.EBADF, errno.EINVAL)
    failure = run(ring.close)
    assert isinstance(failure, RuntimeError)
    assert not ring.closed
    assert ring.submit_and_wait(1) == 1
    assert len(ring.completions()) == 1


def test_another_thread_may_not_use_a_ring_by_its_fd():
    with Ring(8, 16, register_fd=False) as ring:
        ops.nop(ring)
        failure = run(ring.submit)
        assert isinstance(failure, OSError)
        assert failure.errno == errno.EEXIST


def test_a_ring_whose_thread_has_ended_can_be_closed():
    ring = run(lambda: Ring(8, 16))
    fd = ring.fd
    ring.close()
    assert ring.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_two_rings_in_two_threads():
    """Each echoes over its own pipe as fast as it can; nothing is mixed up."""
    barrier = threading.Barrier(2, timeout=10)
    failures = []

    def body(name):
        reader, writer = os.pipe()
        try:
            with Ring(8, 16) as ring:
                barrier.wait()
                buffer = bytearray(16)
                for number in range(3000):
                    text = b"%s %d" % (name, number)
                    ops.read(ring, reader, buffer, user_data=2 * number)
                    ops.write(ring, writer, text, user_data=2 * number + 1)
                    ring.submit_and_wait(2)
                    found = {done.user_data: done.res for done in ring.completions()}
                    assert found == {2 * number: len(text), 2 * number + 1: len(text)}
                    assert buffer[: len(text)] == text
        except BaseException as failure:
            failures.append(failure)
        finally:
            os.close(reader)
            os.close(writer)

    threads = [threading.Thread(target=body, args=(name,)) for name in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures


def test_msg_ring_reaches_another_thread():
    fds, ready, results = [], threading.Event(), []

    def body():
        with Ring(8, 16) as ring:
            fds.append(ring.fd)
            ready.set()
            ring.submit_and_wait(1, 10)
            results.extend(ring.completions())

    thread = threading.Thread(target=body)
    thread.start()
    assert ready.wait(10)
    with Ring(8, 16) as ring:
        ops.msg_ring(ring, fds[0], 77, -5, user_data=1)
        ring.submit_and_wait(1, 10)
        assert ring.completions() == [(1, 0, 0)]
    thread.join(10)
    assert results == [(77, -5, 0)]


def test_completions_that_trickle_in_are_all_waited_for(ring, pipe):
    reader, writer = pipe
    buffers = [bytearray(1) for _ in range(4)]
    for number, buffer in enumerate(buffers):
        ops.read(ring, reader, buffer, user_data=number)
    ring.submit()

    def trickle():
        for letter in b"abcd":
            time.sleep(0.005)
            os.write(writer, bytes([letter]))

    thread = threading.Thread(target=trickle)
    thread.start()
    ring.submit_and_wait(4, 10)
    thread.join()
    assert ring.ready() == 4
    assert b"".join(sorted(map(bytes, buffers))) == b"abcd"


def test_a_disabled_ring_is_enabled_by_its_thread():
    from goroutine.io.ioring import registration

    flags = abi.SETUP_R_DISABLED | abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN
    with Ring(8, 16, flags) as ring:
        ops.nop(ring)
        with pytest.raises(OSError, match="io_uring_enter") as caught:
            ring.submit()
        assert caught.value.errno == errno.EBADFD
        registration.enable(ring)
        ring.submit_and_wait(1)
        assert len(ring.completions()) == 1
