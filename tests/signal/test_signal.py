"""goroutine.signal: signals sent into channels; what they did before is given back.

Seen to fail: when the thread looks whether it has ended before it has sent, not after (the
end hangs: test_again_and_again); when `remove` doesn't send what had come, or doesn't wait for
what is being sent; when nothing holds; when a handler of the program's is not left alone; when
an errand's caller doesn't call the starting thread, or not out of its long sleep; when
`Errands.close` forgets those who wait, or does not refuse those who come later.
"""

import os
import signal
import threading
import time
from signal import SIG_IGN, SIGHUP, SIGINT, SIGKILL, SIGSEGV, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2

import pytest
from signal_support import asleep, kill, program, state
from waiting import until

import goroutine
from goroutine import Chan, Deadlock, chan, context, go, recv, select, sleep, start
from goroutine import signal as gsignal
from goroutine import time as gtime
from goroutine.runtime import scheduler
from goroutine.runtime.thread import holds

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(autouse=True)
def left_as_it_was():
    before = state()
    yield
    assert state() == before
    assert not holds.held


@pytest.fixture
def no_handlers():
    """SIGUSR1 and SIGUSR2 as they are; given back at the end of the test."""
    before = {n: signal.getsignal(n) for n in (SIGUSR1, SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# -- sent, and to whom ---------------------------------------------------------------------------


def test_into_a_channel(machines, io):
    async def main():
        ch = chan(1)
        gsignal.notify(ch, SIGUSR1)
        got = []
        for _ in range(3):
            kill(SIGUSR1)
            got.append(await ch.recv())
        return got

    got = start(main, machines=machines, io=io)
    assert got == [SIGUSR1] * 3
    assert {type(number) for number in got} == {signal.Signals}


def test_a_receiver_without_a_buffer(machines):
    """One that is parked is reached; else it is lost."""

    async def main():
        ch, all_ = chan(), chan(10)
        gsignal.notify(ch, SIGUSR1)
        gsignal.notify(all_, SIGUSR1)
        kill(SIGUSR1)
        await all_.recv()  # ch comes first
        g = go(ch.recv)
        await until(lambda: ch._recvq)
        kill(SIGUSR1)
        assert await g == SIGUSR1
        assert await select(recv(ch), default=True) == (-1, None, False)

    start(main, machines=machines)


def test_a_select_and_a_receive_under_a_context(machines):
    async def main():
        ch = chan()
        gsignal.notify(ch, SIGUSR1)
        with context.with_timeout(context.background(), 10) as ctx:
            chooses = go(select, recv(ch), recv(ctx.done()))
            await until(lambda: ch._recvq)
            kill(SIGUSR1)
            assert await chooses == (0, SIGUSR1, True)
            waits = go(ch.recv, ctx=ctx)
            await until(lambda: ch._recvq)
            kill(SIGUSR1)
            assert await waits == SIGUSR1

    start(main, machines=machines)


def test_several_channels_and_several_signals(machines):
    async def main():
        one, two, both = chan(5), chan(5), chan(5)
        gsignal.notify(one, SIGUSR1)
        gsignal.notify(two, SIGUSR2)
        gsignal.notify(both, SIGUSR1)
        gsignal.notify(both, SIGUSR2, SIGUSR1)  # adds one, and the other is there once
        for number in (SIGUSR1, SIGUSR2):
            kill(number)
            assert await both.recv() == number
        assert await one.recv() == SIGUSR1
        assert await two.recv() == SIGUSR2
        assert (len(one), len(two), len(both)) == (0, 0, 0)

    start(main, machines=machines)


def test_a_full_channel_loses_them(machines):
    async def main():
        small, all_ = chan(1), chan(10)
        gsignal.notify(small, SIGUSR1, SIGUSR2)
        gsignal.notify(all_, SIGUSR1, SIGUSR2)
        for number in (SIGUSR1, SIGUSR2, SIGUSR2):
            kill(number)
            await all_.recv()
        assert len(small) == 1
        assert await small.recv() == SIGUSR1
        kill(SIGUSR2)
        await all_.recv()
        assert await small.recv() == SIGUSR2

    start(main, machines=machines)


def test_a_closed_channel_loses_them():
    async def main():
        closed, ch = chan(1), chan(1)
        gsignal.notify(closed, SIGUSR1)
        gsignal.notify(ch, SIGUSR1)
        closed.close()
        kill(SIGUSR1)
        assert await ch.recv() == SIGUSR1
        assert await closed.recv_ok() == (None, False)

    start(main)


def test_real_time_signals_are_all_heard(machines):
    """The kernel queues those; threads send them, the machines' own among the targets."""
    each = 300

    async def main():
        ch = chan(4 * each)
        number = signal.SIGRTMIN + 3
        gsignal.notify(ch, number)
        targets = [thread.ident for thread in scheduler.running().threads]

        def send(to_threads):
            for n in range(each):
                if to_threads:
                    signal.pthread_kill(targets[n % len(targets)], number)
                else:
                    kill(number)

        threads = [threading.Thread(target=send, args=(i % 2,)) for i in range(4)]
        for thread in threads:
            thread.start()
        got = [await ch.recv() for _ in range(4 * each)]
        for thread in threads:
            thread.join()
        assert got == [number] * 4 * each

    start(main, machines=machines)


def test_all_that_can_be_caught():
    faults = {SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    before = {n: signal.getsignal(n) for n in signal.valid_signals()}

    async def main():
        ch = chan(5)
        gsignal.notify(ch)
        left_alone = {n for n, handler in before.items() if signal.getsignal(n) == handler}
        of_libraries = {n for n, handler in before.items() if handler is None}
        assert left_alone == faults | {SIGKILL, SIGSTOP} | of_libraries
        for number in (SIGINT, SIGTERM, SIGHUP, signal.SIGTSTP, signal.SIGRTMAX - 1):
            kill(number)
            assert await ch.recv() == number

    start(main)


# -- what they did before ------------------------------------------------------------------------


def test_handlers_are_given_back(no_handlers):
    calls = []

    def mine(number, frame):
        calls.append(number)

    signal.signal(SIGUSR1, mine)
    signal.signal(SIGUSR2, SIG_IGN)

    async def main():
        one, two = chan(1), chan(1)
        gsignal.notify(one, SIGUSR1, SIGUSR2)
        gsignal.notify(two, SIGUSR1)
        gsignal.stop(one)
        assert signal.getsignal(SIGUSR2) is SIG_IGN
        kill(SIGUSR1)
        assert await two.recv() == SIGUSR1
        assert not calls
        gsignal.stop(two)
        assert signal.getsignal(SIGUSR1) is mine
        kill(SIGUSR1)
        await until(lambda: calls)
        assert (len(one), len(two)) == (0, 0)

    start(main)
    assert calls == [SIGUSR1]


def test_the_end_of_the_run_gives_them_back(no_handlers):
    def mine(number, frame):
        pass

    signal.signal(SIGUSR1, mine)

    async def main():
        gsignal.notify(chan(1), SIGUSR1)
        gsignal.notify(chan(1))
        assert signal.getsignal(SIGUSR1) is not mine

    start(main)
    assert signal.getsignal(SIGUSR1) is mine

    async def fails():
        gsignal.notify(chan(1), SIGUSR1)
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        start(fails)
    assert signal.getsignal(SIGUSR1) is mine


def test_what_the_program_has_set_meanwhile_stays(no_handlers):
    """In a handler of another signal, say: that is where it can, while a run lasts."""
    done = threading.Event()

    def mine(number, frame):
        pass

    def sets(number, frame):
        signal.signal(SIGUSR1, mine)
        done.set()

    signal.signal(SIGUSR2, sets)

    async def main():
        ch = chan(1)
        gsignal.notify(ch, SIGUSR1)
        kill(SIGUSR2)
        await until(done.is_set)
        gsignal.stop(ch)

    start(main)
    assert signal.getsignal(SIGUSR1) is mine


def test_a_wakeup_fd_of_the_program_is_given_back():
    reader, writer = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    try:

        async def main():
            ch = chan(1)
            gsignal.notify(ch, SIGUSR1)
            kill(SIGUSR1)
            assert await ch.recv() == SIGUSR1

        start(main)
        assert signal.set_wakeup_fd(-1) == writer
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def test_a_handler_of_the_program_may_notify_and_stop(no_handlers):
    """It runs on the starting thread, amid what that does."""
    ch = chan(2)

    def handler(number, frame):
        gsignal.notify(ch, SIGUSR1)

    signal.signal(SIGUSR2, handler)

    async def main():
        kill(SIGUSR2)
        await until(lambda: signal.getsignal(SIGUSR1) is not signal.SIG_DFL)
        kill(SIGUSR1)
        assert await ch.recv() == SIGUSR1
        gsignal.stop(ch)

    start(main)


# -- stop ----------------------------------------------------------------------------------------


def test_stop_sends_what_had_come(machines):
    """As in Go, where Stop waits for it. (To this very thread: it has come, then.)"""

    async def main():
        for n in range(1, 30):
            ch, other = chan(2), chan(60)
            gsignal.notify(ch, SIGUSR1, SIGUSR2)
            if n % 2:
                gsignal.notify(other, SIGUSR1)
            signal.pthread_kill(threading.get_ident(), SIGUSR1)
            signal.pthread_kill(threading.get_ident(), SIGUSR2)
            gsignal.stop(ch)
            assert len(ch) == 2
            gsignal.stop(other)

    start(main, machines=machines)


def test_nothing_comes_after_stop(machines):
    async def main():
        keeps = chan(1)
        gsignal.notify(keeps, SIGUSR1)
        over = threading.Event()

        def send():
            while not over.wait(0.0002):
                kill(SIGUSR1)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            for _ in range(30):
                ch = chan(1000)
                gsignal.notify(ch, SIGUSR1)
                await ch.recv()
                gsignal.stop(ch)
                n = len(ch)
                await keeps.recv()
                await keeps.recv()
                assert len(ch) == n
        finally:
            over.set()
            thread.join()

    start(main, machines=machines)


def test_stop_waits_for_what_is_being_sent():
    class Slow(Chan):
        __slots__ = ()

        def _offer(self, value):
            begun.set()
            release.wait(10)
            return super()._offer(value)

    begun, release = threading.Event(), threading.Event()
    seen = []

    async def main():
        ch = Slow(5)
        gsignal.notify(ch, SIGUSR1)
        gsignal.notify(chan(1), SIGUSR2)  # so that the thread stays
        kill(SIGUSR1)
        await until(begun.is_set)

        def stops():
            gsignal.stop(ch)
            seen.append(len(ch))

        thread = threading.Thread(target=stops)
        thread.start()
        await sleep(0.1)
        assert not seen
        release.set()
        await goroutine.blocking(thread.join)
        assert seen == [1]
        assert len(ch) == 1

    start(main)


def test_stop_where_there_is_nothing_to_stop():
    gsignal.stop(chan(1))

    async def main():
        gsignal.stop(chan(1))
        ch, other = chan(1), chan(1)
        gsignal.notify(ch, SIGUSR1)
        gsignal.stop(other)
        kill(SIGUSR1)
        assert await ch.recv() == SIGUSR1
        gsignal.stop(ch)
        gsignal.stop(ch)

    start(main)


def test_again_and_again(machines):
    """Thread and pipe come and go."""

    async def main():
        for _ in range(50):
            ch = chan(1)
            gsignal.notify(ch, SIGUSR1)
            kill(SIGUSR1)
            assert await ch.recv() == SIGUSR1
            gsignal.stop(ch)

    start(main, machines=machines)
    for _ in range(30):

        async def leaves_it_on():
            ch = chan(1)
            gsignal.notify(ch, SIGUSR1)
            kill(SIGUSR1)
            await ch.recv()

        start(leaves_it_on, machines=1)


# -- the run as a whole --------------------------------------------------------------------------


def test_no_deadlock_while_one_may_come(machines):
    said = []

    async def main():
        runtime = scheduler.running()
        ch = chan(1)
        gsignal.notify(ch, SIGUSR1)

        def send():
            asleep(runtime)
            kill(SIGUSR1)

        thread = threading.Thread(target=send)
        thread.start()
        said.append(await ch.recv())
        thread.join()
        gsignal.stop(ch)
        await ch.recv()

    with pytest.raises(Deadlock):
        start(main, machines=machines)
    assert said == [SIGUSR1]


@pytest.mark.parametrize("to", ["process", "machine"])
def test_while_all_are_asleep(machines, io, to):
    """At once, also if the kernel gives it to another thread than the one that sleeps in a lock."""
    took = []

    async def main():
        runtime = scheduler.running()
        ch = chan(1)
        gsignal.notify(ch, SIGUSR1)

        def send():
            asleep(runtime)
            took.append(time.monotonic())
            if to == "process":
                kill(SIGUSR1)
            else:
                signal.pthread_kill(runtime.threads[-1].ident, SIGUSR1)

        thread = threading.Thread(target=send)
        thread.start()
        await ch.recv()
        took.append(time.monotonic())
        thread.join()

    start(main, machines=machines, io=io)
    assert took[1] - took[0] < 2


def test_notify_and_stop_from_a_thread_while_all_are_asleep():
    """They need the starting thread, and call it."""
    done = chan(1)

    async def main():
        runtime = scheduler.running()
        ch = chan(1)

        def other():
            for _ in range(3):
                asleep(runtime)
                gsignal.notify(ch, SIGUSR1)
                asleep(runtime)
                gsignal.stop(ch)
            done.send_blocking(None)

        with goroutine.hold():
            threading.Thread(target=other).start()
            await done.recv()

    start(main)


def test_at_the_end_of_a_run():
    """Calls that come while the starting thread is about to leave, or has left: they return."""
    over = threading.Event()
    calls = [0, 0]

    def hammer(which):
        while not over.is_set():
            ch = chan(1)
            try:
                gsignal.notify(ch, SIGUSR1)
                calls[which] += 1
            except RuntimeError:
                pass  # between two runs
            gsignal.stop(ch)

    async def main():
        await goroutine.gosched()

    threads = [threading.Thread(target=hammer, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            start(main, machines=1)
            assert signal.getsignal(SIGUSR1) is signal.SIG_DFL
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert all(calls)


def test_a_goroutine_that_is_being_closed():
    """The run is over: nothing happens, and nothing waits."""

    async def main():
        ch = chan(1)
        gsignal.notify(ch, SIGUSR1)

        async def waits():
            try:
                await sleep(1000)
            finally:
                gsignal.stop(ch)
                gsignal.notify(ch, SIGUSR1)

        go(waits)
        await goroutine.gosched()

    start(main, machines=1)


def test_a_machine_that_computes_at_the_end():
    """It asks for the starting thread, which waits for the machines by then."""
    begun, release = threading.Event(), threading.Event()
    said = []

    async def main():
        def computes():
            begun.set()
            release.wait(10)
            ch = chan(1)
            gsignal.notify(ch, SIGUSR1)
            said.append(signal.getsignal(SIGUSR1))
            gsignal.stop(ch)

        go(computes)
        await until(begun.is_set)
        threading.Timer(0.1, release.set).start()

    start(main, machines=2)
    assert said == [signal.SIG_DFL]


# -- errors --------------------------------------------------------------------------------------


def test_what_is_no_channel_or_no_signal():
    async def main():
        ch = chan(1)
        with pytest.raises(TypeError, match="no timer's"):
            gsignal.notify(gtime.after(60), SIGUSR1)
        for what in (None, 5, "ch"):
            with pytest.raises(TypeError, match="takes a channel"):
                gsignal.notify(what, SIGUSR1)
            with pytest.raises(TypeError, match="takes a channel"):
                gsignal.stop(what)
        for what in ("SIGINT", 2.0, None, True):
            with pytest.raises(TypeError, match="a signal is an int"):
                gsignal.notify(ch, what)
        for what in (0, -1, 65, 1000):
            with pytest.raises(ValueError, match="not the number of a signal"):
                gsignal.notify(ch, SIGUSR1, what)
        for what in (SIGKILL, SIGSTOP):
            with pytest.raises(ValueError, match=f"{what.name} can't be caught"):
                gsignal.notify(ch, what)
        with pytest.raises(ValueError, match="SIGSEGV can't be sent"):
            gsignal.notify(ch, SIGSEGV)
        assert signal.getsignal(SIGUSR1) is signal.SIG_DFL
        assert not holds.held

    start(main)


def test_outside_a_run():
    with pytest.raises(RuntimeError, match="no goroutines are running"):
        gsignal.notify(chan(1), SIGUSR1)


def test_a_run_that_was_not_started_in_the_main_thread():
    failures = []

    async def main():
        try:
            gsignal.notify(chan(1), SIGUSR1)
        except RuntimeError as failure:
            failures.append(str(failure))

    thread = threading.Thread(target=start, args=(main,))
    thread.start()
    thread.join()
    assert len(failures) == 1
    assert "main thread" in failures[0]


def test_one_that_a_library_handles(monkeypatch):
    real = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda n: None if n == SIGUSR2 else real(n))

    async def main():
        ch = chan(1)
        with pytest.raises(ValueError, match="handled by a library"):
            gsignal.notify(ch, SIGUSR1, SIGUSR2)
        assert not holds.held
        gsignal.notify(ch)  # all the others
        kill(SIGUSR1)
        assert await ch.recv() == SIGUSR1

    start(main)


# -- whole programs ------------------------------------------------------------------------------


def test_ctrl_c_is_taken_and_given_back():
    code = """
        async def main():
            ch = chan(1)
            signal.notify(ch, SIGINT, SIGTERM)
            for number in (SIGINT, SIGTERM, SIGINT):
                os.kill(os.getpid(), number)
                print((await ch.recv()).name)
            signal.stop(ch)
            os.kill(os.getpid(), SIGINT)
            await sleep(10)

        try:
            start(main)
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
    """
    assert program(code) == (0, "SIGINT\nSIGTERM\nSIGINT\nKeyboardInterrupt\n", "")


def test_a_default_that_ends_the_program_is_given_back():
    code = """
        async def main():
            ch = chan(1)
            signal.notify(ch, SIGTERM)
            os.kill(os.getpid(), SIGTERM)
            print((await ch.recv()).name, flush=True)

        start(main)
        os.kill(os.getpid(), SIGTERM)
    """
    assert program(code) == (-SIGTERM, "SIGTERM\n", "")


def test_ctrl_c_works_while_a_machine_does_not_end():
    """Main has returned, and another goroutine computes for ever: it is given back by then."""
    code = """
        from signal import default_int_handler, getsignal

        begun = threading.Event()

        def computes():
            begun.set()
            while True:
                pass

        async def main():
            signal.notify(chan(1), SIGINT)
            go(computes)
            while not begun.is_set():
                await gosched()
            def interrupt():
                while getsignal(SIGINT) is not default_int_handler:
                    time.sleep(0.01)
                os.kill(os.getpid(), SIGINT)
            threading.Thread(target=interrupt, daemon=True).start()

        start(main, machines=2)
        print("ended")
    """
    assert program(code) == (0, "ended\n", "")


def test_a_deadlock_after_stop_has_its_exit_status():
    code = """
        async def main():
            ch = chan(1)
            signal.notify(ch, SIGTERM)
            signal.stop(ch)
            await ch.recv()

        start(main)
    """
    status, _, err = program(code)
    assert status == 2
    assert "all goroutines are asleep - deadlock!" in err


@pytest.mark.timeout(40)
def test_it_costs_nothing_to_wait():
    code = """
        def measure():
            time.sleep(1)  # what has begun settles
            before = time.process_time()
            time.sleep(1.5)
            print((time.process_time() - before) / 1.5, flush=True)
            os.kill(os.getpid(), SIGTERM)

        async def main():
            ch = chan(1)
            signal.notify(ch)
            threading.Thread(target=measure).start()
            while True:
                if await ch.recv() == SIGTERM:
                    break

        start(main, machines=2)
    """
    status, out, err = program(code)
    assert (status, err) == (0, "")
    assert float(out) < 0.002
