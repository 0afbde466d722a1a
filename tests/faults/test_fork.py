"""os.fork() amid goroutines: the parent goes on unharmed, the child may start anew.

One program for each poller does it all, under the eyes of connections in the parent that are
written to and read all the time. Without the hook in the child (runtime/forked.py) children go
on as their parent, whose rings they share, and this hangs.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from goroutine.runtime.forked import REFUSED

ROOT = Path(__file__).parents[2]

PRELUDE = """
    import contextlib, logging, multiprocessing, os, signal, sys, tempfile, threading, time
    import goroutine
    from goroutine import Group, blocking, chan, go, gosched, net, recv, select, sleep, sync
    from goroutine import io as gio

    IO = sys.argv[1]
    logging.getLogger("goroutine").setLevel(logging.ERROR)  # (forking takes its time)
    pid = os.getpid()


    def fds(words=()):
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                what = os.readlink(f"/proc/self/fd/{name}")
                if not words or any(word in what for word in words):
                    found.append(name)
        return found


    async def serve(conn):
        while data := await conn.read():
            await conn.write(data)


    async def chatter(address, over):
        "Talks to itself until told; every byte is looked at."
        turns = 0
        async with await net.dial("tcp", address) as conn:
            while not over:
                data = turns.to_bytes(8, "big") * 100
                await conn.write(data)
                assert await conn.read_exactly(800) == data
                turns += 1
                await sleep(0.002)
        return turns


    async def inner():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            go(listener.serve, serve)
            return await chatter(listener.address, Countdown(50))


    class Countdown:
        def __init__(self, n):
            self.n = n

        def __bool__(self):
            self.n -= 1
            return self.n < 0


    async def status(child, seconds=10):
        end = time.monotonic() + seconds
        while True:
            done, how = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(how)
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "hangs"
            await sleep(0.002)
"""

PROGRAM = """
    GOING_ON = {}


    def going_on(step):
        GOING_ON[step.__name__] = step
        return step


    @going_on
    async def sleeps(conn, listener):
        await sleep(0.001)


    @going_on
    async def gives_way(conn, listener):
        while True:
            await gosched()


    @going_on
    async def receives(conn, listener):
        await chan().recv()


    @going_on
    async def sends(conn, listener):
        await chan().send(1)


    @going_on
    async def selects(conn, listener):
        await select(recv(chan()))


    @going_on
    async def locks(conn, listener):
        mutex = sync.Mutex()
        await mutex.lock()
        await mutex.lock()


    @going_on
    async def joins(conn, listener):
        await goroutine.current()


    @going_on
    async def starts(conn, listener):
        go(sleep, 1)


    @going_on
    async def groups(conn, listener):
        async with Group() as group:
            group.go(sleep, 1)


    @going_on
    async def blocks(conn, listener):
        await blocking(time.sleep, 0)


    @going_on
    async def reads(conn, listener):
        await conn.read()


    @going_on
    async def writes(conn, listener):
        await conn.write(bytes(1 << 24))


    @going_on
    async def accepts(conn, listener):
        await listener.accept()


    @going_on
    async def dials(conn, listener):
        await net.dial("tcp", listener.address)


    @going_on
    async def waits(conn, listener):
        await gio.readable(conn.fd)


    @going_on
    async def ignores(conn, listener):
        for _ in range(3):
            with contextlib.suppress(RuntimeError):
                await sleep(0.001)
        await gives_way(conn, listener)


    async def goes_on(step, path, listener):
        "Forks, and awaits in the child: that ends with an error, and so does the child."
        async with await net.dial("tcp", listener.address) as conn:
            child = os.fork()
            if not child:
                error = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(error, 2)
                if step.__name__ == "ignores":
                    await step(conn, listener)
                    sys.exit("never here")
                try:
                    await step(conn, listener)
                finally:
                    conn.close()  # which is nothing to the parent
            assert await status(child) == 2, step
            await conn.write(b"x")  # it is still open
            assert await conn.read() == b"x"
        with open(path) as f:
            told = f.read()
        assert told.startswith((
            "panic: RuntimeError: goroutines don't go on in a forked child",
            "panic: RuntimeError: not in a goroutine",
            "panic: RuntimeError: no goroutine runtime is running",
            "panic: ConnClosed: [Errno 9] use of closed network connection",
        )), told
        print(step.__name__, "refused")


    def anew(end):
        assert goroutine.start(inner, io=IO, machines=2) == 50
        assert not fds(["io_uring", "eventpoll", "eventfd"]), "what start() made, it gives back"
        end.send((goroutine.num_goroutine(), goroutine.start(inner, io=IO)))


    async def main():
        folder = tempfile.mkdtemp()
        path = folder + "/errors"
        listener = await net.listen("tcp", "127.0.0.1:0")
        named = await net.listen("unix", folder + "/socket")
        go(listener.serve, serve)
        over = []
        chatters = [go(chatter, listener.address, over) for _ in range(4)]
        heard = chan(10)
        goroutine.signal.notify(heard, signal.SIGUSR1)

        for step in GOING_ON.values():
            await go(goes_on, step, path, listener)

        # An end of the child's own.
        async def ends(how):
            child = os.fork()
            if not child:
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                return how()
            return await status(child)

        def fails():
            raise ValueError("of the child")

        assert await go(ends, lambda: None) == 0
        assert await go(ends, lambda: os._exit(5)) == 5
        assert await go(ends, lambda: sys.exit(7)) == 7
        assert await go(ends, lambda: sys.exit("text")) == 1
        assert await go(ends, fails) == 2  # a panic
        with open(path) as f:
            assert "ValueError: of the child" in f.read()
        assert await go(ends, lambda: os.kill(os.getpid(), signal.SIGUSR1)) == -signal.SIGUSR1
        await sleep(0.02)
        assert not len(heard), "the parent was told of its child's signal"
        print("ends")

        # A blocking call that returns twice.
        child = await blocking(os.fork)
        assert await status(child) == 0

        # Goroutines anew: as plain fork(), and as multiprocessing does it.
        child = os.fork()
        if not child:
            code = 1
            try:
                assert not fds(["io_uring", "eventpoll", "eventfd"])
                assert goroutine.num_goroutine() == 0
                code = goroutine.start(inner, io=IO, machines=2)
            finally:
                os._exit(code)
        assert await status(child) == 50
        processes = multiprocessing.get_context("fork")
        for begin in (lambda process: blocking(process.start), None):
            ours, theirs = processes.Pipe()
            process = processes.Process(target=anew, args=(theirs,))
            if begin is None:
                process.start()
            else:
                await begin(process)
            theirs.close()
            assert await blocking(ours.recv) == (0, 50)
            await blocking(process.join)
            assert process.exitcode == 0
            process.close()
            ours.close()
        print("anew")

        # A hook that makes subprocess call the hooks for children, too.
        import subprocess
        done = await blocking(subprocess.run, ["echo", "hi"], stdout=-1, preexec_fn=os.setsid)
        assert done.stdout == b"hi\\n"

        assert os.path.exists(folder + "/socket")
        os.kill(pid, signal.SIGUSR1)
        assert await heard.recv() == signal.SIGUSR1
        over.append(True)
        for g in chatters:
            assert await g > 50
        listener.close()
        named.close()
        os.unlink(path)
        os.rmdir(folder)


    import goroutine.signal
    before = len(fds())
    goroutine.start(main, machines=2, io=IO)
    assert os.getpid() == pid
    assert len(fds()) == before and threading.active_count() == 1
    print("parent done")
"""

IN_A_HANDLER = """
    def handler(number, frame):
        child = os.fork()
        if child:
            children.append(child)
        os.write(1, b"forked\\n")

    children = []
    signal.signal(signal.SIGUSR1, handler)


    async def main():
        go(sleep, 100)
        os.kill(pid, signal.SIGUSR1)
        while not children:
            await sleep(0.001)
        print(await status(children[0]))


    try:
        goroutine.start(main, machines=2, io=IO)
    except RuntimeError as failure:
        assert os.getpid() != pid
        print(failure)
        sys.stdout.flush()
        os._exit(goroutine.start(inner, io=IO))
"""


def program(code, *args):
    """Its output."""
    text = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    warned = "-W", "ignore::DeprecationWarning"  # of forking with several threads
    done = subprocess.run(
        [sys.executable, "-X", "gil=0", "-W", "error", *warned, "-c", text, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_fork(io):
    *refused, ends, anew, done = program(PROGRAM, io).splitlines()
    assert len(refused) == PROGRAM.count("@going_on")
    assert (ends, anew, done) == ("ends", "anew", "parent done")


def test_fork_in_a_signal_handler():
    """On the starting thread, which is no goroutine: start() raises in the child."""
    lines = program(IN_A_HANDLER, "io_uring").splitlines()
    assert sorted(lines) == ["50", "forked", "forked", REFUSED]
