"""Small programs with a mistake, and the same without it: (name, buggy, what it fails with, right).

Each fails in few of its schedules, and never in the one that a scheduler takes that switches only
where it must.
"""

from goroutine import ChanClosed, Deadlock, GoroutinePanic, Group, chan, go
from goroutine.sync import Cond, Mutex, WaitGroup


async def lost_update(bubble):
    """Each adds one; but between its two looks at the box another one may take it."""
    box = chan(1)
    await box.send(0)
    group = WaitGroup()

    async def add():
        value = await box.recv()
        await box.send(value)
        await box.recv()
        await box.send(value + 1)

    group.go(add)
    group.go(add)
    await group.wait()
    assert await box.recv() == 2


async def update(bubble):
    box = chan(1)
    await box.send(0)
    group = WaitGroup()

    async def add():
        await box.send(await box.recv() + 1)

    group.go(add)
    group.go(add)
    await group.wait()
    assert await box.recv() == 2


async def abba(bubble):
    """Two locks, taken in either order."""
    await _both_locks(turned=True)


async def abab(bubble):
    await _both_locks(turned=False)


async def _both_locks(turned):
    a, b = Mutex(), Mutex()

    async def use(first, second):
        async with first, second:
            pass

    async with Group() as group:
        group.go(use, a, b)
        group.go(use, *((b, a) if turned else (a, b)))


async def double_close(bubble):
    """Who is last closes; but two may see that they are."""
    await _close(atomic=False)


async def single_close(bubble):
    await _close(atomic=True)


async def _close(atomic):
    results, left, mutex = chan(2), [2], Mutex()

    async def work():
        left[0] -= 1
        if atomic:
            last = not left[0]
        else:
            async with mutex:
                pass
            last = not left[0]
        if last:
            results.close()

    go(work)
    go(work)
    assert await results.recv_ok() == (None, False)


async def missed_signal(bubble):
    """The flag is looked at without the lock: it may be set, and signalled, before the wait."""
    await _signal(locked=False)


async def signal(bubble):
    await _signal(locked=True)


async def _signal(locked):
    cond, ready = Cond(Mutex()), []

    async def waits():
        if locked:
            async with cond.mutex:
                while not ready:
                    await cond.wait()
        elif not ready:
            async with cond.mutex:
                await cond.wait()

    async def signals():
        async with cond.mutex:
            ready.append(True)
        cond.signal()

    async with Group() as group:
        group.go(waits)
        group.go(signals)


async def add_inside(bubble):
    """The goroutine counts itself: perhaps after the wait."""
    await _count(inside=True)


async def add_outside(bubble):
    await _count(inside=False)


async def _count(inside):
    group, done = WaitGroup(), []

    async def work():
        if inside:
            group.add()
        done.append(True)
        group.done()

    # As if something else were to be waited for: in the default schedule it has ended by then.
    other = chan()
    if not inside:
        group.add()
    go(work)
    go(other.send, None)
    await other.recv()
    await group.wait()
    assert done


BUGS = [
    ("lost update", lost_update, AssertionError, update),
    ("ABBA", abba, Deadlock, abab),
    ("double close", double_close, (GoroutinePanic, ChanClosed), single_close),
    ("missed signal", missed_signal, Deadlock, signal),
    ("Add inside", add_inside, AssertionError, add_outside),
]
