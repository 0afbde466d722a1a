"""SIGQUIT and SIGUSR1: in the process of the tests where they may be, else in one of its own."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from debug_support import Program, environment, header_of

from goroutine import chan, go, gosched, sleep, start
from goroutine import signal as goroutine_signal
from goroutine.debug import signals

pytestmark = pytest.mark.timeout(30)

PROGRAM = """
def compute():
    n = 0
    while True:
        n += 1

async def waits(ch):
    await ch.recv()

async def main(machines, computing):
    go(waits, chan())
    await sleep(0.01)
    for _ in range(computing):
        go(compute)
    if computing < machines:
        print("ready", flush=True)
        await sleep(100)
    threading.Timer(0.3, print, ["ready"], {"flush": True}).start()
    compute()

machines = int(sys.argv[1])
start(main, machines, int(sys.argv[2]), machines=machines)
"""


@pytest.fixture
def defaults():
    """Both signals at their default, as in a process that was just started."""
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGQUIT, signal.SIGUSR1)}
    yield
    now = {n: signal.getsignal(n) for n in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert set(now.values()) == {signal.SIG_DFL}


# -- SIGQUIT ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("machines", "computing"), [(1, 1), (2, 0), (2, 1), (4, 4)])
def test_quit(tmp_path, machines, computing):
    """Whatever the machines do: all in loops of pure Python, main too; some; all asleep."""
    with Program(tmp_path, PROGRAM, machines, computing) as program:
        began = time.monotonic()
        os.kill(program.pid, signal.SIGQUIT)
        status, err = program.end()
        took = time.monotonic() - began
    assert status == 2, err
    text = err[err.index("SIGQUIT: quit\n") :]
    assert text.startswith("SIGQUIT: quit\n\ngoroutine 1 ["), err
    assert header_of(text, "waits").endswith(" [chan receive]:")
    assert text.count("it began as __main__.compute\n") <= computing
    running = text.count(" [running]:\n")
    assert min(1, computing) <= running <= min(machines, computing), text
    if computing < machines:
        assert text.split("\n")[2] == "goroutine 1 [sleep]:"
    assert took < 15


def test_quit_at_once_and_twice(tmp_path):
    """Also while another one is under way."""
    with Program(tmp_path, PROGRAM, 2, 0) as program:
        for _ in range(5):
            os.kill(program.pid, signal.SIGQUIT)
        status, err = program.end()
    assert status == 2
    assert err.count("SIGQUIT: quit\n") == 1


def test_the_second_one_starts_nothing(monkeypatch):
    started = []
    monkeypatch.setattr(signals, "start_new_thread", lambda *call: started.append(call))
    handlers = signals.Handlers(None, usr1=False)
    for _ in range(3):
        handlers._quit(signal.SIGQUIT, None)
    assert len(started) == 1


def test_what_is_at_its_default_is_taken_and_given_back(defaults):
    async def main():
        return signal.getsignal(signal.SIGQUIT), signal.getsignal(signal.SIGUSR1)

    for _ in range(2):
        quits, usr1 = start(main, machines=1)
        assert callable(quits)
        assert usr1 is signal.SIG_DFL


@pytest.mark.parametrize("fails", [False, True])
def test_given_back_however_it_ends(defaults, fails):
    async def main():
        raise ZeroDivisionError

    def no_coroutine():
        return 1

    with pytest.raises(ZeroDivisionError if fails else TypeError):
        start(main if fails else no_coroutine, machines=1)
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL


def test_the_programs_own_handler_stays():
    got = []
    before = signal.signal(signal.SIGQUIT, lambda number, frame: got.append(number))
    mine = signal.getsignal(signal.SIGQUIT)
    try:

        async def main():
            os.kill(os.getpid(), signal.SIGQUIT)
            until = time.monotonic() + 10
            while not got and time.monotonic() < until:
                await sleep(0.001)

        start(main, machines=1)
        assert got == [signal.SIGQUIT]
        assert signal.getsignal(signal.SIGQUIT) is mine
    finally:
        signal.signal(signal.SIGQUIT, before)


def test_one_that_it_sets_meanwhile_stays(defaults):
    def mine(number, frame):
        pass

    async def main():
        from goroutine.runtime.scheduler import running

        running().errands.do(lambda: signal.signal(signal.SIGQUIT, mine))

    try:
        start(main, machines=1)
        assert signal.getsignal(signal.SIGQUIT) is mine
    finally:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def test_ignored_stays_ignored():
    """As in what a shell starts with &."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:

        async def main():
            return signal.getsignal(signal.SIGQUIT)

        assert start(main, machines=1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGQUIT, before)


def test_who_is_notified_of_it_gets_it(defaults):
    """goroutine.signal takes it over, and gives it back to us."""

    async def main():
        ours = signal.getsignal(signal.SIGQUIT)
        ch = chan(1)
        goroutine_signal.notify(ch, signal.SIGQUIT)
        os.kill(os.getpid(), signal.SIGQUIT)
        got = await ch.recv()
        goroutine_signal.stop(ch)
        assert signal.getsignal(signal.SIGQUIT) == ours
        ch = chan(1)
        goroutine_signal.notify(ch, signal.SIGQUIT)  # until the end
        return got

    assert start(main, machines=1) is signal.SIGQUIT


def test_started_in_another_thread(defaults):
    """Handlers can be set in the main thread only; nothing comes of it."""
    results = []

    async def main():
        return signal.getsignal(signal.SIGQUIT)

    thread = threading.Thread(target=lambda: results.append(start(main, machines=1)))
    thread.start()
    thread.join()
    assert results == [signal.SIG_DFL]


# -- SIGUSR1 ---------------------------------------------------------------------------------


def test_usr1_prints_and_the_program_goes_on(defaults, monkeypatch, capfd, machines):
    monkeypatch.setenv("GOROUTINE_DEBUG", "sigusr1=1")
    texts = []

    async def waits(ch):
        await ch.recv()

    async def main():
        go(waits, chan())
        await gosched()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR1)
            until = time.monotonic() + 10
            text = ""
            while "created by" not in text:
                assert time.monotonic() < until
                await sleep(0.001)
                text += capfd.readouterr().err
            texts.append(text)
        return 1

    assert start(main, machines=machines) == 1
    for text in texts:
        assert text.startswith("SIGUSR1\n\ngoroutine 1 [")
        assert "\ngoroutine " in text
    assert header_of(texts[1], "test_usr1_prints_and_the_program_goes_on.<locals>.waits").endswith(
        " [chan receive]:"
    )


def test_usr1_kills_unless_it_is_asked_for(tmp_path):
    """(In a thread that only sleeps: nobody else would take it.)"""
    code = """
        async def main():
            print("ready", flush=True)
            await sleep(100)
        start(main, machines=1)
    """
    with Program(tmp_path, code) as program:
        os.kill(program.pid, signal.SIGUSR1)
        status, err = program.end()
    assert (status, err) == (-signal.SIGUSR1, "")


def test_nothing_is_imported_that_is_not_asked_for():
    code = (
        "import sys, goroutine\n"
        "async def main(): pass\n"
        "goroutine.start(main, machines=1)\n"
        "print([m for m in sys.modules if m.startswith('goroutine.debug.')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=20,
        check=True,
    )
    for name in ("server", "client", "schedtrace", "leaks"):
        assert f"goroutine.debug.{name}" not in done.stdout
