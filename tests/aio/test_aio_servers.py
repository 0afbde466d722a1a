"""Two libraries as they are, against real servers: redis, and psycopg with PostgreSQL.

They are skipped where the library (``pip install --group aio``) or the server is missing. A
server is started in a folder of its own, on a free port or a socket there, and ended again.
"""

from __future__ import annotations

import asyncio
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from aio_support import asyncio_threads, fds

from goroutine import Canceled, Group, aio, chan, context, go, sleep, start

pytestmark = pytest.mark.timeout(60)


def program(name, *folders):
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def library(name):
    """Import it. (One that is not made for free threading would switch the GIL on, or warn.)"""
    why = f"{name} is not installed, or not all of it: pip install --group aio"
    pytest.importorskip(name, reason=why, exc_type=ImportError)
    assert not getattr(sys, "_is_gil_enabled", lambda: False)()


@pytest.fixture(scope="module")
def folder():
    """Short enough for a socket's path, and of a user that PostgreSQL accepts: not root."""
    path = Path(tempfile.mkdtemp(prefix="aio-", dir="/tmp"))
    if os.getuid() == 0:
        os.chown(path, user().pw_uid, user().pw_gid)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def user():
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    return pytest.skip("there is no user but root to run the server")


class Server:
    """A process of a server, which is ready when a connection is accepted."""

    def __init__(self, args, family, address, folder, env=None):
        self.output = folder / "output"
        who = user() if os.getuid() == 0 else None
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=env,
                user=who and who.pw_uid,
                group=who and who.pw_gid,
            )
        try:
            deadline = time.monotonic() + 20
            while not self.accepts(family, address):
                said = self.output.read_text()
                assert self.process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def accepts(self, family, address):
        with socket.socket(family) as s:
            return s.connect_ex(address) == 0

    def end(self, number):
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# -- redis -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_port(folder):
    library("redis")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    args = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = Server(args, socket.AF_INET, ("127.0.0.1", port), folder)
    yield port
    server.end(signal.SIGTERM)


def redis_pool(port, most=10):
    from redis import asyncio as redis

    pool = redis.BlockingConnectionPool(host="127.0.0.1", port=port, max_connections=most)
    return redis.Redis(connection_pool=pool, decode_responses=True)


def test_redis_pool_is_shared_by_goroutines_on_all_machines(redis_port, machines):
    async def worker(client, n):
        for _ in range(20):
            await aio.run(client.incr("hits"))
        await aio.run(client.set(f"worker:{n}", n))
        return int(await aio.run(client.get(f"worker:{n}")))

    async def main():
        client = redis_pool(redis_port)
        await aio.run(client.flushall())
        async with Group() as group:
            members = [group.go(worker, client, n) for n in range(20)]
        hits = int(await aio.run(client.get("hits")))
        await aio.run(client.aclose(close_connection_pool=True))
        return hits, [member.result() for member in members]

    before = fds()
    assert start(main, machines=machines) == (400, list(range(20)))
    assert fds() == before
    assert asyncio_threads() == []


def test_redis_messages_reach_a_channel(redis_port, machines):
    """A subscriber is asyncio code that runs until it is cancelled."""

    async def subscribe(client, ready, messages):
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("news")
            async for message in pubsub.listen():
                if message["type"] == "subscribe":
                    await asyncio.to_thread(ready.close)
                else:
                    await asyncio.to_thread(messages.send_blocking, int(message["data"]))

    async def main():
        client, ready, messages = redis_pool(redis_port), chan(), chan()
        async with Group() as group:
            group.go(aio.run(subscribe(client, ready, messages)))
            await ready.recv_ok()
            for n in range(20):
                await aio.run(client.publish("news", n))
            got = [await messages.recv() for _ in range(20)]
            group.context.cancel()
        await aio.run(client.aclose(close_connection_pool=True))
        return got

    assert start(main, machines=machines) == list(range(20))


def test_a_cancelled_redis_call_leaves_the_pool_usable(redis_port, machines):
    async def main():
        client = redis_pool(redis_port, most=1)
        await aio.run(client.delete("queue"))
        for _ in range(5):
            ctx = context.with_timeout(context.background(), 0.05)
            with pytest.raises(TimeoutError):
                await aio.run(client.blpop(["queue"], timeout=30), ctx=ctx)
        await aio.run(client.rpush("queue", "job"))
        got = await aio.run(client.blpop(["queue"], timeout=5))
        await aio.run(client.aclose(close_connection_pool=True))
        return got[1]

    assert start(main, machines=machines) in ("job", b"job")


# -- PostgreSQL ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres(folder):
    library("psycopg")
    binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    initdb, server = program("initdb", *binaries), program("postgres", *binaries)
    data = folder / "data"
    who = user() if os.getuid() == 0 else None
    done = subprocess.run(
        [initdb, "-D", data, "-U", "tester", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        user=who and who.pw_uid,
        group=who and who.pw_gid,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    args = [server, "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    running = Server(args, socket.AF_UNIX, str(folder / ".s.PGSQL.5432"), folder)
    yield f"host={folder} user=tester dbname=postgres"
    running.end(signal.SIGINT)  # PostgreSQL's fast shutdown


def test_postgres_queries_of_many_goroutines(postgres, machines):
    import psycopg

    async def add(connection, n):
        async with connection.transaction():
            await connection.execute("insert into numbers values (%s)", [n])

    async def worker(jobs):
        connection = await aio.run(psycopg.AsyncConnection.connect(postgres))
        try:
            async for n in jobs:
                await aio.run(add(connection, n))
        finally:
            await aio.run(connection.close())

    async def query(text):
        async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as connection:
            cursor = await connection.execute(text)
            return await cursor.fetchone() if cursor.description else None

    async def main():
        await aio.run(query("drop table if exists numbers"))
        await aio.run(query("create table numbers (n int)"))
        jobs = chan(8)
        async with Group() as group:
            for _ in range(4):
                group.go(worker, jobs)
            for n in range(60):
                await jobs.send(n)
            jobs.close()
        with pytest.raises(psycopg.errors.DivisionByZero):
            await aio.run(query("select 1 / 0"))
        return await aio.run(query("select count(*), sum(n) from numbers"))

    before = fds()
    assert start(main, machines=machines) == (60, sum(range(60)))
    assert fds() == before


def test_a_cancelled_query_is_cancelled_on_the_server(postgres):
    """psycopg tells the server so, while it cleans up: `run` waits for that."""
    import psycopg

    async def main():
        connection = await aio.run(psycopg.AsyncConnection.connect(postgres, autocommit=True))
        begun = time.monotonic()
        async with Group() as group:
            group.go(aio.run(connection.execute("select pg_sleep(30)")))
            await sleep(0.2)
            group.context.cancel()
        assert time.monotonic() - begun < 10
        cursor = await aio.run(connection.execute("select 'it still works'"))
        got = await aio.run(cursor.fetchone())
        await aio.run(connection.close())
        return got

    assert start(main) == ("it still works",)


def test_a_run_that_ends_during_a_query(postgres):
    import psycopg

    async def query():
        async with await psycopg.AsyncConnection.connect(postgres) as connection:
            log.append("begin")
            await connection.execute("select pg_sleep(30)")

    async def client():
        with pytest.raises(Canceled):
            await aio.run(query())

    async def main():
        go(client)
        while not log:
            await sleep(0.01)
        await sleep(0.1)

    log = []
    before = fds()
    begun = time.monotonic()
    start(main)
    assert time.monotonic() - begun < 10
    assert fds() == before
