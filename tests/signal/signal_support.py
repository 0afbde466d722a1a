"""What the tests of goroutine.signal share."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import goroutine
from goroutine.runtime.shared import flags

PRELUDE = """
import os, sys, threading, time
from signal import SIGINT, SIGTERM, SIGHUP, SIGUSR1
__import__("signal").signal(SIGINT, __import__("signal").default_int_handler)  # else ignored with &
import goroutine
from goroutine import *
from goroutine import signal
"""


def program(code, timeout=20):
    """Run a program; (status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "-W", "error", "-c", PRELUDE + textwrap.dedent(code)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(goroutine.__file__).parent.parent)},
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def state():
    """What a run has to leave as it was."""
    handlers = {n: signal.getsignal(n) for n in signal.valid_signals()}
    wakeup = signal.set_wakeup_fd(-1)
    if wakeup >= 0:
        signal.set_wakeup_fd(wakeup)
    threads = [t for t in threading.enumerate() if t.name.startswith("goroutine")]
    return handlers, wakeup, threads, sorted(os.listdir("/proc/self/fd"))


def asleep(runtime, seconds=10.0):
    """Wait, in a thread, until the starting thread sleeps without a timeout: all are asleep."""
    end = time.monotonic() + seconds
    while flags["sysmon"] or not all(m.poller.asleep[0] for m in runtime.machines):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)
    time.sleep(0.02)  # from its last look to the lock


def kill(number):
    os.kill(os.getpid(), number)
