"""Programs of channel operations: which outcomes they may have, and which the real ones have.

A program is a list of goroutines, each ``(mode, operations)``. The operations:

    ("send", c)  ("recv", c)  ("recv_ok", c)  ("close", c)  ("len", c)
    ("select", (("send", c), ("recv", c), ...), default)
    ("cancel", i)          cancels the context of goroutine i

``c`` is a channel's number, or None in a select: Go's nil channel. The mode says what the
context of a goroutine does: "plain" nothing, "scope" it is the goroutine's own (as a
group's), "ctx" its sends and receives are given it as ``ctx=``.

`outcomes_allowed` is the model: Go's rules without wait queues, each operation one instant.
`Stepped` runs the real channels and the real select without threads: it poses as the
machine of this thread, steps one goroutine at a time, and asks `Choices` which, and what
``random`` gives. `outcomes_found` goes through all choices there are.
"""

from __future__ import annotations

import os
import types
from _thread import get_ident
from itertools import islice

from goroutine import Canceled, ChanClosed, Goroutine, chan, context, recv, select, send
from goroutine.runtime.shared import machines

SEND_ON_CLOSED = "send on closed channel"
CLOSE_OF_CLOSED = "close of closed channel"
END = "receive from closed channel"
CANCELED = "canceled"

WAITING = ("send", "recv", "recv_ok", "select")


# -- the model ------------------------------------------------------------------------------


def outcomes_allowed(capacities, program):
    """All outcomes a program may have: for each goroutine what its operations gave (fewer
    than it has: it hangs), and for each channel what is buffered and whether it is closed.
    """
    begin = (
        tuple(() for _ in program),
        tuple(((), False) for _ in capacities),
        tuple(0 for _ in program),  # 1: cancelled; 2: and told so
    )
    seen, todo, outcomes = {begin}, [begin], set()
    while todo:
        state = todo.pop()
        following = set(steps_allowed(capacities, program, state))
        if not following:
            outcomes.add(state[:2])
        todo += following - seen
        seen |= following
    return outcomes


def alternatives(op):
    """The cases of an operation that may wait, and whether it does."""
    if op[0] == "select":
        return [(n, kind, c) for n, (kind, c) in enumerate(op[1]) if c is not None], not op[2]
    return [(0, "send" if op[0] == "send" else "recv", op[1])], True


def result(op, index, value, ok):
    """What an operation gives; ``ok`` is False if the channel was closed."""
    if op[0] == "select":
        if index >= 0 and op[1][index][0] == "send":
            return (index, None, True) if ok else SEND_ON_CLOSED
        return index, value, ok
    if op[0] == "send":
        return None if ok else SEND_ON_CLOSED
    if op[0] == "recv":
        return value if ok else END
    return value, ok


def steps_allowed(capacities, program, state):
    logs, channels, flags = state
    pending = {
        i: ops[len(logs[i])] for i, (_, ops) in enumerate(program) if len(logs[i]) < len(ops)
    }

    def after(entries, channel=None, contents=None, flag=None):
        new = list(logs)
        for i, entry in entries:
            new[i] = (*new[i], entry)
        newer = channels
        if channel is not None:
            newer = (*channels[:channel], contents, *channels[channel + 1 :])
        told = flags
        if flag is not None:
            told = (*flags[: flag[0]], flag[1], *flags[flag[0] + 1 :])
        return tuple(new), newer, told

    def doomed(i):
        """It is given a cancelled ctx: there is nothing else that can happen."""
        return program[i][0] == "ctx" and flags[i] and pending[i][0] != "select"

    def may_wait(op):
        """Whether somebody may be waiting in this operation now."""
        cases, blocks = alternatives(op)
        return blocks and not any(channels[c][1] or room_or_value(kind, c) for _, kind, c in cases)

    def room_or_value(kind, c):
        buffer = channels[c][0]
        return len(buffer) < capacities[c] if kind == "send" else buffer

    for i, op in pending.items():
        if op[0] == "cancel":
            yield after([(i, None)], flag=(op[1], max(1, flags[op[1]])))
            continue
        if op[0] == "len":
            yield after([(i, len(channels[op[1]][0]))])
            continue
        if op[0] == "close":
            buffer, closed = channels[op[1]]
            yield after([(i, CLOSE_OF_CLOSED if closed else None)], op[1], (buffer, True))
            continue
        if doomed(i):
            yield after([(i, CANCELED)])
            continue
        cases, blocks = alternatives(op)
        ready = False
        for n, kind, c in cases:
            buffer, closed = channels[c]
            if kind == "send":
                value = (i, len(logs[i]), n)
                if closed:
                    ready = True
                    yield after([(i, result(op, n, None, False))])
                elif len(buffer) < capacities[c]:
                    ready = True
                    contents = ((*buffer, value), closed)
                    yield after([(i, result(op, n, None, True))], c, contents)
                elif not capacities[c]:
                    # It meets a receiver, of which one at least must have been waiting.
                    for j, other in pending.items():
                        if j == i or other[0] not in WAITING or doomed(j):
                            continue
                        if not may_wait(op) and not may_wait(other):
                            continue
                        for k, its, d in alternatives(other)[0]:
                            if its == "recv" and d == c:
                                yield after(
                                    [
                                        (i, result(op, n, None, True)),
                                        (j, result(other, k, value, True)),
                                    ]
                                )
            elif buffer:
                ready = True
                yield after([(i, result(op, n, buffer[0], True))], c, (buffer[1:], closed))
            elif closed:
                ready = True
                yield after([(i, result(op, n, None, False))])
        if not ready:
            if not blocks:
                yield after([(i, result(op, -1, None, False))])
            elif program[i][0] == "scope" and flags[i] == 1:
                yield after([(i, CANCELED)], flag=(i, 2))


# -- the real ones --------------------------------------------------------------------------


class Choices:
    """What is left open: the first time always the first; `advance` goes to the next."""

    def __init__(self):
        self.taken, self.widths, self.at = [], [], 0

    def choose(self, n):
        if n == 1:
            return 0
        if self.at == len(self.taken):
            self.taken.append(0)
            self.widths.append(n)
        self.at += 1
        return self.taken[self.at - 1]

    def advance(self):
        self.at = 0
        while self.taken and self.taken[-1] == self.widths[-1] - 1:
            self.taken.pop()
            self.widths.pop()
        if not self.taken:
            return False
        self.taken[-1] += 1
        return True


@types.coroutine
def pause():
    yield None


def of(waiter):
    """The goroutine of what is in a queue."""
    return waiter if waiter.plain else waiter.g


def living(queue):
    return [waiter for waiter in queue if waiter.plain or waiter.token]


class Stepped:
    """A program on real channels, one step of one goroutine at a time.

    A step is what a machine does: run the frame until it yields, then call the commit that
    it yielded. In between the channels must be locked, so that nobody finds the waiter.
    """

    def __init__(self, capacities, program, choose, ways=2):
        self.program = program
        self.channels = [chan(capacity) for capacity in capacities]
        self.contexts = [context.with_cancel(context.background()) for _ in program]
        self.logs = [[] for _ in program]
        self.choose, self.ways = choose, ways
        self.gs, self.runnable, self.g = [], [], None
        for i, (mode, ops) in enumerate(program):
            g = Goroutine()
            g.id, g.fn, g.joiners = i, None, None
            g.scope = self.contexts[i] if mode == "scope" else None
            g.it = self.body(i, mode, ops).__await__()
            self.gs.append(g)
            self.runnable.append(g)

    def random(self):
        return (self.choose(self.ways) + 0.5) / self.ways

    async def body(self, i, mode, ops):
        log = self.logs[i]
        for op in ops:
            if log:
                await pause()
            log.append(await self.perform(op, (i, len(log)), i if mode == "ctx" else None))

    async def perform(self, op, value, i):
        """One operation; errors become their texts."""
        name, c, *_ = op
        ctx = None if i is None else self.contexts[i]
        try:
            if name == "select":
                cases = [self.case(n, value, *case) for n, case in enumerate(op[1])]
                return tuple(await select(*cases, default=op[2]))
            if name == "cancel":
                return self.contexts[c].cancel()
            if name == "close":
                return self.channels[c].close()
            if name == "len":
                return len(self.channels[c])
            if name == "send":
                return await self.channels[c].send((*value, 0), ctx=ctx)
            return await getattr(self.channels[c], name)(ctx=ctx)
        except ChanClosed as failure:
            return str(failure)
        except Canceled:
            return CANCELED

    def case(self, n, value, kind, c):
        ch = None if c is None else self.channels[c]
        return send(ch, (*value, n)) if kind == "send" else recv(ch)

    # What channels ask of a machine.

    def ready(self, g):
        assert g.it is not None, "a goroutine was woken after its end"
        assert g not in self.runnable, "a goroutine was woken twice"
        assert g is not self.g, "a goroutine was woken that runs"
        self.runnable.append(g)

    def run(self):
        """Until nobody can go on; the outcome."""
        ident = get_ident()
        machines[ident] = self
        try:
            while self.runnable:
                who = sorted(self.runnable, key=lambda g: g.id)
                self.step(who[self.choose(len(who))])
            return self.outcome()
        finally:
            for g in self.gs:
                if g.it is not None:
                    g.it.close()
            del machines[ident]
            for ch in self.channels:
                assert not ch._lock.locked()
                assert not ch._recvq
                assert not ch._sendq

    def step(self, g):
        self.runnable.remove(g)
        self.g = g
        try:
            commit = g.it.send(None)
        except StopIteration:
            g.it = self.g = None
        else:
            self.g = None
            locked = {id(ch) for ch in self.channels if ch._lock.locked()}
            if commit is None:
                assert not locked
                self.runnable.append(g)
            else:
                assert locked == {id(ch) for ch in self.channels if g in self.waiting(ch)}
                commit(g)
        for ch in self.channels:
            self.look_at(ch)

    def waiting(self, ch):
        return {of(waiter) for waiter in living(ch._recvq) + living(ch._sendq)}

    def look_at(self, ch):
        """The invariants of a channel between two steps."""
        assert not ch._lock.locked()
        receivers, senders = living(ch._recvq), living(ch._sendq)
        buffered = len(ch)
        assert buffered <= ch.capacity
        assert not (receivers and (buffered or ch.closed))
        assert not (senders and (buffered < ch.capacity or ch.closed))
        # Both sides wait only if it is one and the same goroutine, which selects on both.
        assert not (receivers and senders) or len({of(w) for w in receivers + senders}) == 1

    def outcome(self):
        for i, g in enumerate(self.gs):
            # Who is not done waits in all places of its operation, others nowhere.
            places = sum(of(w) is g for ch in self.channels for w in (*ch._recvq, *ch._sendq))
            _, ops = self.program[i]
            if g.it is None:
                assert places == 0
            else:
                assert places == len(alternatives(ops[len(self.logs[i])])[0])
            hooks = list(self.contexts[i]._hooks)
            assert all(hook.g.it is not None and not hook.over for hook in hooks)
        for ch in self.channels:
            assert living((*ch._recvq, *ch._sendq)) == [*ch._recvq, *ch._sendq]
        return (
            tuple(map(tuple, self.logs)),
            tuple((tuple(ch._buffer), ch.closed) for ch in self.channels),
        )


class Preempted(Stepped):
    """As if there were a second machine: it makes steps in the midst of those of the first.

    It may do so wherever a lock has been released or is about to be taken (and none is
    held), where a waiter that was claimed is about to be woken, and where hooks are put into
    a context or taken out. ``preemptions`` bounds how often it does.
    """

    def __init__(self, capacities, program, choose, ways=2, preemptions=1):
        super().__init__(capacities, program, choose, ways)
        self.left = preemptions
        for ch in self.channels:
            ch._lock = lock = Lock(self.point)
            ch._acquire, ch._release = lock.acquire, lock.__exit__
        for ctx in self.contexts:
            ctx._hooks = Hooks(self.point)
        self.stepping = False

    def point(self):
        """The second machine may step goroutines here; the first goes on afterwards."""
        if not self.left or not self.stepping or any(ch._lock.locked() for ch in self.channels):
            return
        at_all = False
        g = self.g
        while self.runnable:
            who = sorted(self.runnable, key=lambda g: g.id)
            n = self.choose(1 + len(who))
            if not n:
                break
            if not at_all:
                at_all = True
                self.left -= 1
            self.step(who[n - 1])
            self.stepping = True
        self.g = g

    def step(self, g):
        self.stepping = True
        super().step(g)
        self.stepping = False

    def ready(self, g):
        self.point()
        super().ready(g)


class Lock:
    def __init__(self, point):
        self.held, self.point = False, point

    def acquire(self):
        self.point()
        assert not self.held, "a deadlock"
        self.held = True

    def release(self):
        assert self.held
        self.held = False
        self.point()

    def locked(self):
        return self.held

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()


class Hooks(dict):
    def __init__(self, point):
        self.point = point

    def __setitem__(self, hook, _):
        self.point()
        super().__setitem__(hook, None)
        self.point()

    def pop(self, *args):
        self.point()
        return super().pop(*args)

    def popitem(self):
        self.point()
        return super().popitem()


def outcomes_found(capacities, program, ways=2, kind=Stepped):
    """The outcomes of the real channels, over all schedules, and how many those are."""
    outcomes, runs, choices = set(), 0, Choices()
    while True:
        runs += 1
        outcomes.add(kind(capacities, program, choices.choose, ways).run())
        if not choices.advance():
            return outcomes, runs


def compare(capacities, program, ways=2, kind=Stepped):
    """Each outcome that is found is allowed, and each that is allowed is found.

    (Not each with several equal cases in one select: who finds that waiting takes the
    first, as in Go.) Returns the number of schedules.
    """
    found, runs = outcomes_found(capacities, program, ways, kind)
    allowed = outcomes_allowed(capacities, program)
    assert found - allowed == set(), (capacities, program)
    if not any(doubled(op) for _, ops in program for op in ops):
        assert allowed - found == set(), (capacities, program)
    return runs


def a_third(programs):
    """Every third of many programs; with GOROUTINE_STRESS all."""
    return islice(programs, 0, None, 3 if os.environ.get("GOROUTINE_STRESS", "1") == "1" else 1)


def doubled(op):
    return op[0] == "select" and len({case for case in op[1] if case[1] is not None}) < sum(
        case[1] is not None for case in op[1]
    )
