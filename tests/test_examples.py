"""Each example runs as its docstring says, silently but for what it prints."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# That one has a test of its own: it shows the io_uring binding, without goroutines.
EXAMPLES = sorted(p.stem for p in ROOT.glob("examples/*.py") if p.stem != "ioring_cat")

pytestmark = pytest.mark.timeout(60)


def environment(machines=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GOROUTINE_", "GOMAXPROCS"))}
    env["PYTHONPATH"] = str(ROOT)
    if machines is not None:
        env["GOROUTINE_MACHINES"] = str(machines)
    return env


def example(name, *arguments, machines=None, module=False):
    """Run an example to its end; returns its output."""
    done = subprocess.run(
        [
            *[sys.executable, "-X", "gil=0", "-W", "error"],
            *(["-m", "goroutine"] if module else []),
            *[f"examples/{name}.py", *map(str, arguments)],
        ],
        cwd=ROOT,
        env=environment(machines),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@contextlib.contextmanager
def echo_server(machines):
    """The server on a free port; gives the process and where it listens."""
    server = subprocess.Popen(
        [sys.executable, "-X", "gil=0", "-W", "error", "examples/echo_server.py", "0"],
        cwd=ROOT,
        env=environment(machines),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        host, port = re.fullmatch(r"echoing on ([\d.]+):(\d+)\n", server.stdout.readline()).groups()
        yield server, (host, int(port))
    finally:
        server.kill()
        server.communicate()


everywhere = pytest.mark.parametrize("machines", [1, 2, 4])


def test_the_list_is_complete():
    assert EXAMPLES == ["echo_server", "pingpong", "port_scanner", "sieve", "worker_pool"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_small_and_says_how_it_is_run(name):
    source = (ROOT / f"examples/{name}.py").read_text()
    assert 15 <= len(source.splitlines()) <= 60
    tree = ast.parse(source)
    assert f"python -X gil=0 examples/{name}.py" in ast.get_docstring(tree)
    assert "main" in [node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)]


@everywhere
def test_sieve(machines):
    expected = [n for n in range(2, 180) if all(n % d for d in range(2, n))][:40]
    assert example("sieve", 40, machines=machines) == "".join(f"{n}\n" for n in expected)


def test_sieve_by_default_and_by_the_runner():
    for module in (False, True):
        primes = example("sieve", module=module).split()
        assert (len(primes), primes[-1]) == (100, "541")


@everywhere
@pytest.mark.parametrize("rounds", [0, 1, 2001])
def test_pingpong(machines, rounds):
    lines = example("pingpong", rounds, machines=machines).splitlines()
    ping, pong = (rounds + 1) // 2, rounds // 2
    assert lines[:2] == [f"ping: {ping} hits", f"pong: {pong} hits"]
    assert re.fullmatch(rf"{rounds} passes, [\d.]+ us each", lines[2])
    assert len(lines) == 3


@everywhere
def test_worker_pool(machines):
    first, second = example("worker_pool", 3, 8, machines=machines).splitlines()
    # The longest chain below 4,001 is that of 3,711, as the OEIS has it (A006877).
    assert first == "3711 takes 237 steps, the most of all below 4001"
    assert second.startswith("jobs by worker: ")
    counts = [int(n) for n in second.split(": ")[1].split()]
    assert (len(counts), sum(counts)) == (3, 8)


def test_worker_pool_has_one_worker_for_each_machine():
    assert len(example("worker_pool", 0, 2, machines=3).splitlines()[1].split()) == 3 + 3


@everywhere
def test_port_scanner(machines):
    with contextlib.ExitStack() as stack:
        listening = []
        for _ in range(3):
            s = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listening.append(s.getsockname()[1])
        first, last = min(listening) - 20, max(listening) + 20
        if last - first > 2000:  # far apart: one is enough
            last = (first := listening[0] - 300) + 600
        last = min(last, 65535)
        lines = example("port_scanner", first, last, machines=machines).splitlines()
    found = [re.fullmatch(r"127\.0\.0\.1:(\d+) is open", line)[1] for line in lines[:-1]]
    assert lines[-1] == f"{last - first + 1} ports scanned"
    # Others may listen on this computer, too.
    assert {port for port in listening if first <= port <= last} <= set(map(int, found))
    assert list(map(int, found)) == sorted(map(int, found))


@everywhere
def test_echo_server(machines):
    with echo_server(machines) as (server, address), contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(5)
        ]
        for turn in range(3):
            for i, client in enumerate(clients):
                client.sendall(b"%d in turn %d" % (i, turn))
            for i, client in enumerate(clients):
                expected = b"%d in turn %d" % (i, turn)
                assert client.recv(len(expected), socket.MSG_WAITALL) == expected
        clients[0].shutdown(socket.SHUT_WR)
        assert clients[0].recv(1) == b""  # the server closes when it has seen the end
        server.send_signal(signal.SIGINT)  # others are still connected
        out, err = server.communicate(timeout=20)
        assert (server.returncode, out, err) == (0, "bye\n", "")
        assert clients[1].recv(1) == b""
