"""The real server under the real load."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goroutine.bench.facts import child_python

WITHOUT_IO_URING = Path(__file__).with_name("without_io_uring.py")


def bench(*arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, dict[str, Any], str]:
    command = [*prefix, sys.executable, "-m", "goroutine.bench", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    result = json.loads(done.stdout)
    if "unavailable" in result and not prefix:
        pytest.skip(f"no io_uring here: {result['unavailable']}")
    return done.returncode, result, done.stderr


@pytest.mark.parametrize("machines", [1, 2])
@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_echo(io: str, machines: int) -> None:
    status, result, said = bench(
        "echo", "--io", io, "--machines", str(machines), "--seconds", "0.3", "--connections", "8"
    )
    assert status == 0, said
    assert result["backend"] == io
    assert result["machines"] == machines
    assert result["requests"] > 0
    assert result["connection_min"] > 0
    assert result["server"]["in_order"] is True
    assert result["server"]["gil"] is (child_python()[1:] != ["-X", "gil=0"])


@pytest.mark.parametrize("io", ["io_uring", "epoll"])
def test_messages_longer_than_a_socket_buffer(io: str) -> None:
    status, result, said = bench(
        "echo", "--io", io, "--seconds", "0.3", "--connections", "2", "--size", "5000000"
    )
    assert status == 0, said
    assert result["requests"] > 0


def test_where_io_uring_is_forbidden() -> None:
    prefix = (sys.executable, str(WITHOUT_IO_URING))
    short = ("--seconds", "0.1", "--connections", "2")
    status, result, said = bench("echo", "--io", "io_uring", *short, prefix=prefix)
    assert status == 1
    assert "error: io_uring is not available here: " in said
    assert "Operation not permitted" in result["unavailable"]
    status, result, _ = bench("echo", "--io", "auto", *short, prefix=prefix)
    assert status == 0
    assert result["backend"] == "epoll"


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    command = [*child_python(), "-m", "goroutine.bench.echo_server", "--machines", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["event"] == "listening"
        assert line["port"] > 0
        yield process
        process.kill()


@pytest.mark.parametrize("how", ["signal", "input"])
def test_the_server_ends_in_order(server: subprocess.Popen[str], how: str) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    if how == "signal":
        os.kill(server.pid, signal.SIGTERM)
    else:
        server.stdin.close()
    line = json.loads(server.stdout.readline())
    assert line["event"] == "ended"
    assert line["in_order"] is True
    assert line["cpu_user_seconds"] > 0
    assert server.wait(5) == 0
