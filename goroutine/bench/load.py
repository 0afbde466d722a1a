"""The load: connections that each keep one message outstanding, and a check of every byte.

Closed loop: a connection sends its next message when the last one has come back whole. Latency is
from just before the send to just after the read that completes the message. A slow reply delays the
next request, so tails look better than an open-loop load would show them (coordinated omission),
and with many connections the load's own queueing is in the figures.

A run has three parts. `connect` brings every connection up, each with one echo that is not counted.
`run` is the measured window. `drain` waits a little for what is still owed (not counted) and finds
what came unasked.

Errors, each once per connection, which is then dropped and never reopened:
connect (didn't come up), closed (by the server), socket (another failure), mismatch (wrong bytes);
and unanswered, one per message that never came back on a connection that stayed open.
"""

import itertools
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from .histogram import SUB_BITS, Histogram
from .pattern import PERIOD, first_position, make_pattern

__all__ = ["CONNECT_SECONDS", "DRAIN_SECONDS", "ERRORS", "Load", "LoadSpec", "ParentGoneError"]

CONNECT_SECONDS = 10.0
DRAIN_SECONDS = 1.0
ERRORS = ("connect", "closed", "socket", "mismatch", "unanswered")

# Connections being set up at a time: a listener with a short backlog must not overflow.
_BURST = 4
_MAX_READ = 256 * 1024
# Between two looks at the clock when nothing comes.
_IDLE_SECONDS = 0.1
_SECOND = 1_000_000_000


class ParentGoneError(Exception):
    """The process that wanted this load has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    host: str
    port: int
    connections: int
    size: int
    seconds: float
    first_connection: int = 0
    """The number of this load's first connection among those of all load processes."""
    connect_seconds: float = CONNECT_SECONDS
    drain_seconds: float = DRAIN_SECONDS
    report_seconds: float | None = None
    """How often `run` calls its `report`; None is never."""


class Load:
    """One thread, one epoll, `spec.connections` sockets. Use as a context manager."""

    def __init__(self, spec: LoadSpec, watch: int | None = None) -> None:
        """`watch`: a descriptor whose hang-up means that nobody wants the result any more."""
        self.spec = spec
        self.histogram = Histogram()
        self.errors = dict.fromkeys(ERRORS, 0)
        self.first_error: str | None = None
        self.started_ns = self.ended_ns = 0
        self.cpu_seconds = 0.0
        """Of this process in the window: near one per second, the load is the bottleneck."""
        self.per_connection: list[int] = []
        """Messages in the window of each connection that came up."""
        self._pattern = make_pattern(spec.size)
        self._watch = watch
        self._epoll = select.epoll()
        if watch is not None:
            self._epoll.register(watch, 0)  # a hang-up is always reported
        self._sockets: dict[int, socket.socket] = {}
        self._numbers: dict[int, int] = {}
        # By descriptor, as lists: the cheapest look-up that Python has.
        self._expected: list[bytes | None] = []
        self._position: list[int] = []  # in the stream, of the message in flight or the next one
        self._sent_at: list[int] = []
        # Messages that are not all sent (bytes gone) or not all back (bytes here): rare.
        self._partly_sent: dict[int, int] = {}
        self._partly_back: dict[int, int] = {}
        self._owed: set[int] = set()  # kept only outside the window, where it costs nothing

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._epoll.close()

    # Before the window

    def connect(self) -> int:
        """Brings the connections up, each with one uncounted echo; returns how many are up."""
        limit = time.monotonic_ns() + int(self.spec.connect_seconds * _SECOND)
        for index in range(self.spec.connections):
            number = self.spec.first_connection + index
            left = (limit - time.monotonic_ns()) / _SECOND
            try:
                sock = socket.create_connection(
                    (self.spec.host, self.spec.port), timeout=max(left, 0.001)
                )
            except OSError as error:
                self._note("connect", f"connection {number}: {error.strerror or error}")
                continue
            self._admit(sock, number)
            self._settle(_BURST - 1, limit)
        self._settle(0, limit)
        for fd in list(self._owed):
            self._drop(fd, "connect", "no echo in time")
        # What was lost on the way up is one kind of error: these never took part.
        self.errors["connect"] += sum(self.errors[kind] for kind in ("closed", "socket"))
        self.errors["closed"] = self.errors["socket"] = 0
        return len(self._sockets)

    def _admit(self, sock: socket.socket, number: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = sock.fileno()
        missing = fd + 1 - len(self._expected)
        if missing > 0:
            self._expected += [None] * missing
            self._position += [0] * missing
            self._sent_at += [0] * missing
        self._sockets[fd] = sock
        self._numbers[fd] = number
        self._position[fd] = first_position(number)
        self._epoll.register(fd, select.EPOLLIN)
        self._send(fd)

    def _send(self, fd: int) -> None:
        """Sends the next message, outside the inner loop."""
        start = self._position[fd] % PERIOD
        message = self._pattern[start : start + self.spec.size]
        self._expected[fd] = message
        self._sent_at[fd] = time.monotonic_ns()
        self._owed.add(fd)
        try:
            sent = os.write(fd, message)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(fd, error)
            return
        if sent < len(message):
            self._hold_back(fd, sent)

    def _settle(self, owed: int, limit: int) -> None:
        """Takes what comes back, sending nothing new, until at most `owed` replies are missing."""
        while len(self._owed) > owed and time.monotonic_ns() < limit:
            for fd, events in self._epoll.poll(0.02):
                self._take(fd, events)

    def _take(self, fd: int, events: int) -> None:
        """One readiness event outside the window."""
        if events != select.EPOLLIN and not self._unusual(fd, events):
            return
        try:
            data = os.read(fd, min(self.spec.size, _MAX_READ))
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(fd, error)
            return
        if data == self._expected[fd] or self._part(fd, data):
            self._expected[fd] = None
            self._position[fd] += self.spec.size
            self._owed.discard(fd)

    # The window

    def run(self, start_ns: int, report: Callable[[Histogram], None] | None = None) -> None:
        """The measured window: from `start_ns` (monotonic clock) for `spec.seconds`.

        `report` gets the histogram so far every `spec.report_seconds`.
        Ends early when no connection is left.
        """
        time.sleep(max(0.0, (start_ns - time.monotonic_ns()) / _SECOND))
        deadline = start_ns + int(self.spec.seconds * _SECOND)
        before = {fd: self._position[fd] for fd in self._sockets}
        cpu_ns = time.process_time_ns()
        self.started_ns = start_ns
        for fd in list(self._sockets):
            self._send(fd)
        self._window(deadline, report)
        self.ended_ns = min(deadline, time.monotonic_ns())
        self.cpu_seconds = (time.process_time_ns() - cpu_ns) / _SECOND
        self.per_connection = [
            (self._position[fd] - position) // self.spec.size for fd, position in before.items()
        ]

    def _window(self, deadline: int, report: Callable[[Histogram], None] | None) -> None:
        """The inner loop. All it touches is in locals; what is rare is a call away."""
        size, pattern, counts = self.spec.size, self._pattern, self.histogram.counts
        expected, positions, sent_at = self._expected, self._position, self._sent_at
        poll, read, write, clock = self._epoll.poll, os.read, os.write, time.monotonic_ns
        chunk = min(size, _MAX_READ)
        readable = select.EPOLLIN
        batch = min(len(self._sockets), 256) + 1
        every = int((self.spec.report_seconds or 0) * _SECOND) if report is not None else 0
        next_report = min(clock() + every, deadline) if every else deadline
        fd = -1
        while self._sockets:
            now = clock()
            if now >= next_report:
                if now >= deadline:
                    return
                if report is not None:
                    report(self.histogram)
                next_report = min(now + every, deadline)
            # One `try` for the batch: epoll is level-triggered, so what an exception leaves
            # behind is reported again.
            try:
                for fd, events in poll(min((next_report - now) / _SECOND, _IDLE_SECONDS), batch):
                    if events != readable and not self._unusual(fd, events):
                        continue
                    data = read(fd, chunk)
                    now = clock()
                    if data != expected[fd] and not self._part(fd, data):
                        continue
                    if now >= deadline:
                        # Too late to count: the reply is taken, and nothing is sent any more.
                        expected[fd] = None
                        continue
                    # As `bucket_of`, without the case below 128 ns: two system calls take longer.
                    latency = now - sent_at[fd]
                    shift = latency.bit_length() - (SUB_BITS + 1)
                    counts[(shift << SUB_BITS) + (latency >> shift)] += 1
                    sent_at[fd] = now
                    positions[fd] = position = positions[fd] + size
                    start = position % PERIOD
                    expected[fd] = message = pattern[start : start + size]
                    sent = write(fd, message)
                    if sent != size:
                        self._hold_back(fd, sent)
            except BlockingIOError:
                # Only the write comes after `sent_at`; a read that found nothing needs no care.
                if sent_at[fd] == now:
                    self._hold_back(fd, 0)
            except OSError as error:
                self._lost(fd, error)

    # After the window

    def drain(self) -> None:
        """Waits for what is owed, then looks for bytes that nobody asked for."""
        self._owed = {
            fd for fd in self._sockets if self._expected[fd] is not None or fd in self._partly_back
        }
        self._settle(0, time.monotonic_ns() + int(self.spec.drain_seconds * _SECOND))
        for fd, events in self._epoll.poll(0):
            self._take(fd, events)
        for fd in self._owed:
            self._note("unanswered", f"connection {self._numbers[fd]}: a message never came back")

    # What is rare

    def _unusual(self, fd: int, events: int) -> bool:
        """Deals with all but plain readability; whether there is something to read, too."""
        if fd == self._watch:
            raise ParentGoneError
        if fd not in self._sockets:
            return False  # dropped earlier in the same batch
        if events & select.EPOLLOUT:
            self._send_rest(fd)
        # A hang-up or an error is told by the read that follows.
        return bool(events & ~select.EPOLLOUT) and fd in self._sockets

    def _hold_back(self, fd: int, sent: int) -> None:
        """The socket took only `sent` bytes of the message: the rest goes when there is room."""
        self._partly_sent[fd] = sent
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def _send_rest(self, fd: int) -> None:
        sent = self._partly_sent[fd]
        start = self._position[fd] % PERIOD
        rest = memoryview(self._pattern)[start + sent : start + self.spec.size]
        try:
            sent += os.write(fd, rest)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(fd, error)
            return
        if sent < self.spec.size:
            self._partly_sent[fd] = sent
        else:
            del self._partly_sent[fd]
            self._epoll.modify(fd, select.EPOLLIN)

    def _part(self, fd: int, data: bytes) -> bool:
        """`data` isn't the whole message: a part of it, the end of the connection, or wrong.

        Returns whether it makes the message complete.
        """
        if not data:
            self._drop(fd, "closed", "closed by the server")
            return False
        if self._expected[fd] is None and fd not in self._partly_back:
            self._drop(fd, "mismatch", f"{len(data)} bytes came that nobody asked for")
            return False
        back = self._partly_back.pop(fd, 0)
        start = self._position[fd] % PERIOD + back
        wanted = self._pattern[start : start + len(data)]
        end = back + len(data)
        if data != wanted or end > self._partly_sent.get(fd, self.spec.size):
            same = itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(data, wanted, strict=False)
            )
            place = min(back + sum(1 for _ in same), self.spec.size)
            self._drop(fd, "mismatch", f"byte {place} of a reply isn't what was sent")
            return False
        if end == self.spec.size:
            return True
        self._partly_back[fd] = end
        self._expected[fd] = None  # nothing equals None, so the next part comes here as well
        return False

    def _lost(self, fd: int, error: OSError) -> None:
        if isinstance(error, ConnectionError):
            self._drop(fd, "closed", "reset by the server")
        else:
            self._drop(fd, "socket", error.strerror or str(error))

    def _drop(self, fd: int, kind: str, text: str) -> None:
        self._note(kind, f"connection {self._numbers[fd]}: {text}")
        self._sockets.pop(fd).close()
        self._owed.discard(fd)
        self._partly_sent.pop(fd, None)
        self._partly_back.pop(fd, None)

    def _note(self, kind: str, text: str) -> None:
        self.errors[kind] += 1
        if self.first_error is None:
            self.first_error = text
