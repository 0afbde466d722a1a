"""``python -m goroutine dump PID`` and the socket that answers."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from debug_support import Program, environment, header_of

from goroutine import chan, go, sleep, start
from goroutine.debug import client, server

pytestmark = pytest.mark.timeout(30)

PROGRAM = """
async def waits(ch):
    await ch.recv()

async def main():
    go(waits, chan())
    await sleep(0.01)
    print("ready", flush=True)
    await sleep(100)

start(main, machines=2)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty $XDG_RUNTIME_DIR, and nowhere else to look. (A socket's path is short.)"""
    home = Path("/tmp", f"goroutine-test-{os.getpid()}")
    home.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    folder = home / "goroutine"
    monkeypatch.setattr(server, "folders", lambda: [str(folder), str(home / "last")])
    monkeypatch.setattr(client, "folders", lambda: [str(folder), str(home / "last")])
    yield home
    shutil.rmtree(home)


@pytest.fixture
def on(monkeypatch):
    monkeypatch.setenv("GOROUTINE_DEBUG", "dump=1")


def run(*arguments, **more):
    """The command: status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "goroutine", "dump", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(**more),
        timeout=25,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def ask(pid, capsys):
    """The command's function: status, stdout, stderr."""
    status = client.main([str(pid)])
    return status, *capsys.readouterr()


# -- as commands -----------------------------------------------------------------------------


def test_a_program_is_asked(home):
    with Program(home, PROGRAM, debug="dump=1") as program:
        status, out, err = run(program.pid, XDG_RUNTIME_DIR=str(home))
        os.kill(program.pid, signal.SIGINT)
        program.end()
    assert (status, err) == (0, "")
    assert out.startswith("goroutine 1 [sleep]:\n")
    assert header_of(out, "waits").endswith(" [chan receive]:")
    assert not list(home.glob("goroutine/*"))


@pytest.mark.parametrize("arguments", [(), ("x",), ("-5",), ("1", "2"), ("²",), ("",)])
def test_wrong_usage(capsys, arguments):
    assert client.main(list(arguments)) == 2
    assert capsys.readouterr() == ("", "usage: python -m goroutine dump PID\n")


def test_help(capsys):
    assert client.main(["--help"]) == 0


# -- what may go wrong -----------------------------------------------------------------------


def ended():
    """The number of a process that is not there."""
    with subprocess.Popen(["true"]) as child:
        child.wait()
    return child.pid


def test_no_such_process(home, capsys):
    pid = ended()
    assert ask(pid, capsys) == (1, "", f"goroutine: there is no process {pid}\n")
    assert ask(10**30, capsys) == (1, "", f"goroutine: there is no process {10**30}\n")


def test_a_process_without(home, capsys):
    status, out, err = ask(os.getpid(), capsys)
    assert (status, out) == (1, "")
    assert err == (
        f"goroutine: process {os.getpid()} does not answer: it runs no goroutines,"
        " or was not started with GOROUTINE_DEBUG=dump=1\n"
    )


@pytest.mark.parametrize("we_are_root", [True, False])
def test_another_users(home, capsys, monkeypatch, we_are_root):
    if we_are_root:
        monkeypatch.setattr(os, "geteuid", lambda: os.stat(f"/proc/{os.getpid()}").st_uid + 1)
    else:

        def kill(pid, number):
            raise PermissionError

        monkeypatch.setattr(os, "kill", kill)
    said = f"goroutine: process {os.getpid()} belongs to another user\n"
    assert ask(os.getpid(), capsys) == (1, "", said)


def test_a_socket_that_was_left(home, capsys):
    """Nobody listens there; and one that a process of another number listens to."""
    folder = home / "goroutine"
    folder.mkdir(mode=0o700)
    path = folder / f"{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    assert "does not answer" in ask(os.getpid(), capsys)[2]
    path.unlink()
    with subprocess.Popen(["sleep", "20"]) as child:
        try:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(folder / f"{child.pid}.sock"))
                listening.listen()
                assert "does not answer" in ask(child.pid, capsys)[2]
        finally:
            child.kill()


# -- the socket ------------------------------------------------------------------------------


def test_who_may_come_near_it(home, on):
    umask = os.umask(0)

    async def main():
        (path,) = (home / "goroutine").iterdir()
        assert path.name == f"{os.getpid()}.sock"
        return [stat.S_IMODE(os.stat(p).st_mode) for p in (path.parent, path)]

    try:
        assert start(main, machines=1) == [0o700, 0o600]
    finally:
        os.umask(umask)
    assert not list((home / "goroutine").iterdir())


def test_a_folder_that_others_can_read_is_shut(home, on):
    (home / "goroutine").mkdir()
    (home / "goroutine").chmod(0o777)

    async def main():
        return stat.S_IMODE((home / "goroutine").stat().st_mode)

    assert start(main, machines=1) == 0o700


@pytest.mark.parametrize("what", ["a link", "a file", "another's folder"])
def test_a_folder_that_is_not_ours_is_not_used(home, on, what, capfd, monkeypatch):
    """Somebody may have put it there, in /tmp."""
    folder = home / "last"
    monkeypatch.setattr(server, "folders", lambda: [str(folder)])
    if what == "a link":
        (home / "other").mkdir(mode=0o700)
        folder.symlink_to(home / "other")
    elif what == "a file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    async def main():
        return 1

    assert start(main, machines=1) == 1
    err = capfd.readouterr().err
    assert err == (
        "goroutine: GOROUTINE_DEBUG: no socket for dumps:"
        f" {folder} is not a folder of this user's\n"
    )
    assert not list((home / "other").iterdir()) if what == "a link" else True


def test_the_next_place_is_taken(home, on, capsys):
    (home / "goroutine").write_text("in the way")

    async def main():
        await sleep(0.001)
        return [path.name for path in (home / "last").iterdir()]

    assert start(main, machines=1) == [f"{os.getpid()}.sock"]


def test_what_killed_ones_left_is_removed(home, on):
    folder = home / "goroutine"
    folder.mkdir(mode=0o700)
    dead, other, mine = (
        folder / f"{ended()}.sock",
        folder / "x.sock",
        folder / f"{os.getpid()}.sock",
    )
    for path in (dead, other, mine):
        path.write_text("")

    async def main():
        return {path.name for path in folder.iterdir()}

    assert start(main, machines=1) == {other.name, mine.name}


def connect(home):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(home / "goroutine" / f"{os.getpid()}.sock"))
    return connection


def served(home, talk):
    """What a thread's ``talk(connection)`` gives, in a program that answers."""

    async def waits(ch):
        await ch.recv()

    async def main():
        from goroutine import blocking

        go(waits, chan())
        await sleep(0.001)

        def client():
            with connect(home) as connection:
                return talk(connection)

        return await blocking(client)

    return start(main, machines=1)


def read_all(connection):
    parts = []
    while data := connection.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def test_a_request_in_pieces(home, on):
    def talk(connection):
        for piece in (b"du", b"mp", b"\n"):
            connection.sendall(piece)
            time.sleep(0.01)
        return read_all(connection)

    assert b" [blocking call]:\n" in served(home, talk)


@pytest.mark.parametrize("request_", [b"stop\n", b"x" * 100, b""])
def test_other_requests_get_nothing(home, on, request_):
    def talk(connection):
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        try:
            return read_all(connection)
        except ConnectionResetError:  # it had not read all of it
            return b""

    assert served(home, talk) == b""


def test_another_user_who_got_there_gets_nothing(home, on, monkeypatch):
    monkeypatch.setattr(server, "peer", lambda connection: (1, os.geteuid() + 1))

    def talk(connection):
        connection.sendall(server.REQUEST)
        try:
            return read_all(connection)
        except ConnectionResetError:
            return b""

    assert served(home, talk) == b""


def test_the_command_in_the_same_process(home, on, capsys):
    async def main():
        from goroutine import blocking

        return await blocking(client.ask, os.getpid())

    text = start(main, machines=1)
    assert text.startswith("goroutine 1 [blocking call]:\n")


def test_off_there_is_no_socket(home):
    async def main():
        return list(home.iterdir())

    assert start(main, machines=1) == []
