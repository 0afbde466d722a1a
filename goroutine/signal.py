"""Signals, sent into channels. Go: package os/signal.

While a channel is notified of a signal, that does not do what it else does: SIGTERM does not
end the program, and Ctrl-C no longer raises ``KeyboardInterrupt`` in `start`.

>>> import os
>>> from signal import SIGTERM
>>> from goroutine import signal
>>> async def main():
...     ch = goroutine.chan(1)
...     signal.notify(ch, SIGTERM)
...     os.kill(os.getpid(), SIGTERM)
...     got = await ch.recv()
...     signal.stop(ch)
...     return got
>>> goroutine.start(main)
<Signals.SIGTERM: 15>

How it is done. Handlers can be set in Python's main thread only, where `start` was called: it
does that on request (runtime/errand.py). The handler itself does nothing. Python's own, the
one in C, writes the signal's number into a pipe, on whatever thread the kernel has chosen (a
main thread asleep in a lock would not hear of it then); a thread of ours reads it and sends.
Sending in the handler would not do: it runs amid whatever the main thread is doing, which
may hold the very lock that is wanted. The thread and the pipe exist while a channel is
notified of something.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterable
from typing import Any

from .channel import Chan
from .runtime.errand import Errands, Over
from .runtime.fork import in_child
from .runtime.scheduler import running
from .runtime.thread import holds

__all__ = ["notify", "stop"]

_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""What an instruction raises that is then executed again: a handler that returns never ends."""

_UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)


def notify(ch: Chan[Any], *signals: int) -> None:
    """Send the signals, from now on, into ``ch``; all that can be caught if none is named.

    The values are of ``signal.Signals``. Sending never waits: a channel that is full, or
    closed, loses the signal, so give it room, for one at least. Several channels may have
    the same signal, and each gets it; calling it again for a channel adds signals.

    The signal's handler is replaced until `stop`, at the latest until the run ends. While
    any channel is notified of anything there is no `Deadlock`, since a signal may come.

    ``TypeError`` for what is no channel or no int, ``ValueError`` for a number that is no
    signal, or one that can't be caught (SIGKILL, SIGSTOP), or not in this way (SIGSEGV,
    SIGBUS, SIGFPE, SIGILL, and what a library handles without Python). ``RuntimeError``
    outside a run, or when `start` was not called in the main thread of the process: only
    there does Python allow it. From any goroutine or thread; returns when all is set.
    Go: signal.Notify.

    >>> import os
    >>> from signal import SIGUSR1, raise_signal
    >>> async def main():
    ...     ch = goroutine.chan(1)
    ...     signal.notify(ch, SIGUSR1)
    ...     raise_signal(SIGUSR1)
    ...     return (await ch.recv()).name
    >>> goroutine.start(main)
    'SIGUSR1'
    """
    if not isinstance(ch, Chan):
        raise TypeError(f"notify() takes a channel, not {type(ch).__name__}")
    if ch.timed:
        raise TypeError("notify() takes a channel that is no timer's")
    wanted = set(map(_number, signals))
    runtime = running()
    if runtime is None:
        raise RuntimeError("no goroutines are running: call this below goroutine.start(main)")
    errands = runtime.errands
    if errands.ident != threading.main_thread().ident:
        raise RuntimeError(
            "signals need goroutine.start() to be called in the main thread of the process:"
            " Python lets no other one set their handlers"
        )
    try:
        errands.do(lambda: _add(errands, ch, wanted))
    except Over:
        pass  # the run is ending: none will come


def stop(ch: Chan[Any]) -> None:
    """Send no more signals into ``ch``.

    What had come before has been sent when this returns, and nothing is sent afterwards. A
    signal that no other channel is notified of gets back the handler it had before. Does
    nothing for a channel that isn't notified, and outside a run. From any goroutine or
    thread. Go: signal.Stop.

    >>> from signal import SIGUSR1
    >>> async def main():
    ...     ch = goroutine.chan(1)
    ...     signal.notify(ch, SIGUSR1)
    ...     signal.stop(ch)
    >>> goroutine.start(main)
    """
    if not isinstance(ch, Chan):
        raise TypeError(f"stop() takes a channel, not {type(ch).__name__}")
    runtime = running()
    if runtime is None or _relay is None:
        return
    try:
        runtime.errands.do(lambda: _remove(ch))
    except Over:
        pass  # all are stopped


def _number(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"a signal is an int, not {type(number).__name__}")
    if number not in signal.valid_signals():
        raise ValueError(f"{int(number)} is not the number of a signal")
    if number in _UNCATCHABLE:
        raise ValueError(f"{signal.Signals(number).name} can't be caught")
    if number in _FAULTS:
        raise ValueError(
            f"{signal.Signals(number).name} can't be sent into a channel: it is a"
            " fault of the program's own"
        )
    return int(number)


def _handler(number: int, frame: object) -> None:
    """What Python calls in the main thread: all has been done by then."""


_relay: _Relay | None = None  # of the run, while a channel is notified


def _add(errands: Errands, ch: Chan[Any], wanted: set[int]) -> None:
    global _relay
    errands.at_end(_end)
    if _relay is None:
        _relay = _Relay()
    try:
        _relay.add(ch, wanted)
    finally:
        if not _relay.channels:
            _end()


def _remove(ch: Chan[Any]) -> None:
    if _relay is not None:
        _relay.remove(ch)
        if not _relay.channels:
            _end()


def _end() -> None:
    """As if nothing had been. If it is interrupted, another call goes on."""
    global _relay
    if _relay is not None:
        _relay.close()
        _relay = None


def _in_child() -> None:
    """The signals of a forked child are not its parent's."""
    global _relay
    if _relay is not None:
        _relay.abandon()
        _relay = None


in_child.append(_in_child)


class _Relay:
    """Reads the signals' pipe and sends. All but `read` and `send` is the main thread's."""

    def __init__(self) -> None:
        # Guards the channels, and is held while sending: so nothing is sent after remove().
        # Reentrant: a handler of the program's may call notify or stop amid another such call.
        self.lock = threading.RLock()
        self.channels: dict[int, list[Chan[Any]]] = {}  # by signal
        self.before: dict[int, Any] = {}  # the handlers that ours have replaced
        self.ended = False
        self.pipe, self.wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.wakeup_before: int | None = None
        self.thread = threading.Thread(target=self.read, name="goroutine-signals", daemon=True)
        self.key = holds.add()
        try:
            self.thread.start()
            self.wakeup_before = -1
            # Full, it loses signals, 65,536 behind: nobody need be warned of that.
            self.wakeup_before = signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        except BaseException:
            self.close()
            raise

    def add(self, ch: Chan[Any], wanted: set[int]) -> None:
        handled_elsewhere = {n for n in signal.valid_signals() if signal.getsignal(n) is None}
        if not wanted:
            wanted = {int(n) for n in signal.valid_signals()}
            wanted.difference_update(_FAULTS, _UNCATCHABLE, handled_elsewhere)
        elif wanted & handled_elsewhere:
            number = min(wanted & handled_elsewhere)
            raise ValueError(f"{_name(number)} is handled by a library, without Python")
        with self.lock:
            for number in wanted:
                channels = self.channels.setdefault(number, [])
                if ch not in channels:
                    channels.append(ch)
        # Ctrl-C last: until then it can still interrupt this.
        for number in sorted(wanted, key=lambda n: n == signal.SIGINT):
            if number not in self.before:
                self.before[number] = signal.getsignal(number)
                signal.signal(number, _handler)

    def remove(self, ch: Chan[Any]) -> None:
        mine = [number for number, channels in self.channels.items() if ch in channels]
        for number in mine:
            if self.channels[number] == [ch]:
                self.restore(number)
        with self.lock:
            self.send()  # what came before
            for number in mine:
                self.channels[number].remove(ch)
                if not self.channels[number]:
                    del self.channels[number]

    def restore(self, number: int) -> None:
        """Give a signal its handler back, unless the program has set another meanwhile."""
        if number in self.before and signal.getsignal(number) is _handler:
            signal.signal(number, self.before[number])
        self.before.pop(number, None)

    def close(self) -> None:
        # Ctrl-C last, for the same reason as above.
        for number in sorted(self.before, key=lambda n: n == signal.SIGINT):
            self.restore(number)
        if self.wakeup_before is not None:
            try:
                signal.set_wakeup_fd(self.wakeup_before)
            except (OSError, ValueError):  # it has been closed meanwhile
                signal.set_wakeup_fd(-1)
            self.wakeup_before = None
        self.ended = True
        if self.wakeup >= 0:
            self.wake()
        if self.thread.ident is not None:
            self.thread.join()
        with self.lock:
            self.channels.clear()
        if self.wakeup >= 0:
            fds = self.pipe, self.wakeup
            self.pipe = self.wakeup = -1
            for fd in fds:
                os.close(fd)
        holds.drop(self.key)

    def abandon(self) -> None:
        """In a forked child: handlers as they were, and the parent's pipe is left alone."""
        for number in list(self.before):
            self.restore(number)
        signal.set_wakeup_fd(-1)
        for fd in (self.pipe, self.wakeup):
            os.close(fd)

    def wake(self) -> None:
        try:
            os.write(self.wakeup, b"\0")
        except BlockingIOError:
            pass  # full: it will not sleep

    def read(self) -> None:
        """The thread: wait until there is something, send it.

        ``ended`` is set before `wake` writes, and looked at after `send` has read that, or
        after a poll that sees it: so it is not slept through.
        """
        poll = select.poll()
        poll.register(self.pipe, select.POLLIN)
        while not self.ended:
            poll.poll()
            with self.lock:
                self.send()

    def send(self) -> None:
        """Send all that has come. With the lock held."""
        while True:
            try:
                numbers: Iterable[int] = os.read(self.pipe, 4096)
            except BlockingIOError:
                return
            for number in numbers:
                for ch in self.channels.get(number, ()):
                    ch._offer(_name(number))


def _name(number: int) -> int:
    """As a ``Signals``, if it has a name there: most of the real-time ones don't."""
    try:
        return signal.Signals(number)
    except ValueError:
        return number
