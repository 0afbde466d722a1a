"""Each example runs as its docstring says, silently but for what it prints."""

from __future__ import annotations

import ast
import contextlib
import http.client
import http.server
import io
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import types
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


def spoken(err):
    """But for what is said of a machine that stands still, as all do when others have the CPU."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if "goroutine.gosched() now and then" not in line)


def python(*arguments):
    return [sys.executable, "-X", "gil=0", "-W", "error", *map(str, arguments)]


def example(name, *arguments, machines=None, module=False, status=0, err=""):
    """Run an example to its end; returns its output."""
    runner = ["-m", "goroutine"] if module else []
    done = subprocess.run(
        python(*runner, f"examples/{name}.py", *arguments),
        cwd=ROOT,
        env=environment(machines),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, spoken(done.stderr)) == (status, err), done.stdout
    return done.stdout


@contextlib.contextmanager
def process(*command, machines):
    child = subprocess.Popen(
        python(*command),
        cwd=ROOT,
        env=environment(machines),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


class Server:
    """One of the servers, on a free port."""

    def __init__(self, child):
        self.child = child
        self.line = child.stdout.readline()
        host, port = re.fullmatch(r"\w+ing on ([\d.]+):(\d+)\n", self.line).groups()
        self.address = host, int(port)

    def connect(self, **options):
        client = socket.socket()
        client.settimeout(20)
        for name, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        try:
            client.connect(self.address)
        except BaseException:
            client.close()
            raise
        return client

    def end(self, number=signal.SIGTERM, says="bye\n", err=""):
        """Send a signal, wait until it has ended; returns how long that took."""
        began = time.monotonic()
        self.child.send_signal(number)
        self.has_ended(says, err)
        return time.monotonic() - began

    def has_ended(self, says="bye\n", err=""):
        out, errors = self.child.communicate(timeout=20)
        assert (self.child.returncode, out, spoken(errors)) == (0, says, err)


@contextlib.contextmanager
def server(name, *arguments, machines, **constants):
    """``constants`` are to be others than in the file."""
    command = [f"examples/{name}.py", "0", *arguments]
    if constants:
        code = f"import {name}, goroutine; vars({name}).update({constants});"
        code += f"goroutine.start({name}.main, 0, *{arguments})"
        command = ["-c", f"import sys; sys.path.insert(0, 'examples'); {code}"]
    with process(*command, machines=machines) as child:
        yield Server(child)


everywhere = pytest.mark.parametrize("machines", [1, 4])
by_signals = pytest.mark.parametrize(
    ("machines", "number"), [(1, signal.SIGINT), (4, signal.SIGTERM)]
)


def test_the_list_is_complete():
    assert EXAMPLES == [
        "asyncio_client",
        "chat",
        "download",
        "echo_server",
        "http_server",
        "pingpong",
        "port_scanner",
        "sieve",
        "supervise",
        "tail",
        "tls_echo_server",
        "worker_pool",
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_small_and_says_how_it_is_run(name):
    source = (ROOT / f"examples/{name}.py").read_text()
    assert 15 <= len(source.splitlines()) <= 150
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


@pytest.mark.parametrize(("machines", "rounds"), [(2, 0), (2, 1), (1, 2001), (4, 2001)])
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


# -- echo_server ---------------------------------------------------------------------------------


@everywhere
def test_echo_server(machines):
    with server("echo_server", machines=machines) as echo, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(echo.connect()) for _ in range(5)]
        for turn in range(3):
            for i, client in enumerate(clients):
                client.sendall(b"%d in turn %d" % (i, turn))
            for i, client in enumerate(clients):
                expected = b"%d in turn %d" % (i, turn)
                assert client.recv(len(expected), socket.MSG_WAITALL) == expected
        clients[0].shutdown(socket.SHUT_WR)
        assert clients[0].recv(1) == b""  # the server closes when it has seen the end
        echo.end(signal.SIGINT)  # others are still connected
        assert clients[1].recv(1) == b""


def test_echo_server_by_the_runner():
    """On its own port, 8080, which may be in use."""
    with process("-m", "goroutine", "examples/echo_server.py", machines=2) as child:
        line = child.stdout.readline()
        if line:
            assert line == "echoing on 127.0.0.1:8080\n"
            child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=20)
        if line:
            assert (child.returncode, out, spoken(err)) == (0, "bye\n", "")
        else:
            assert child.returncode == 1
            assert err.endswith("listen tcp 127.0.0.1:8080: Address already in use\n")


# -- chat ----------------------------------------------------------------------------------------


class Guest:
    """Who talks in the room."""

    def __init__(self, chat, **options):
        self.socket = chat.connect(**options)
        self.file = self.socket.makefile("rb")
        self.name = "{}:{}".format(*self.socket.getsockname())

    def says(self, *lines):
        self.socket.sendall("".join(f"{line}\n" for line in lines).encode())

    def hears(self, *lines):
        """The next lines are these."""
        assert [self.file.readline().decode() for _ in lines] == [f"{line}\n" for line in lines]

    def hears_no_more(self):
        assert self.file.read() == b""

    def leaves(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def guests():
    """Makes them, and sees to it that they leave."""
    with contextlib.ExitStack() as stack:

        def enter(chat, **options):
            guest = Guest(chat, **options)
            stack.callback(guest.leaves)
            return guest

        yield enter


@by_signals
def test_chat(guests, machines, number):
    with server("chat", machines=machines) as chat:
        anna = guests(chat)
        anna.hears(f"* {anna.name} is here")
        bert = guests(chat)
        for guest in anna, bert:
            guest.hears(f"* {bert.name} is here")
        anna.says("hello", "\N{GREEK SMALL LETTER PI} = " + 2000 * "3")
        bert.socket.sendall(b"no")  # not a line as yet
        long = f"{anna.name}: \N{GREEK SMALL LETTER PI} = " + 1019 * "3"
        for guest in anna, bert:
            guest.hears(f"{anna.name}: hello", long)
        bert.says(" way")
        for guest in anna, bert:
            guest.hears(f"{bert.name}: no way")
        bert.socket.shutdown(socket.SHUT_WR)
        bert.hears_no_more()
        anna.hears(f"* {bert.name} has left")
        chat.end(number)
        anna.hears("* closing time")
        anna.hears_no_more()


BIG = 100_000  # bytes of a line: some dozens fill any socket


@everywhere
def test_chat_shows_who_is_slow_the_door(guests, machines):
    """And nobody waits on that account."""
    with server("chat", machines=machines, ROOM=8, LINE=BIG) as chat:
        slow = guests(chat, SO_RCVBUF=4096)
        slow.hears(f"* {slow.name} is here")
        loud = guests(chat)
        loud.hears(f"* {loud.name} is here")
        for said in range(1000):
            loud.says(f"{said} {'!' * (BIG - 10)}")
            line = loud.file.readline().decode()
            if line == f"* {slow.name} has left\n":
                break
            assert line.startswith(f"{loud.name}: {said} !")
        else:
            pytest.fail("no socket has room for that much")


def test_chat_cuts_off_who_does_not_read_to_the_end(guests):
    with server("chat", machines=2, LINE=BIG) as chat:
        loud = guests(chat)
        loud.hears(f"* {loud.name} is here")
        slow = guests(chat, SO_RCVBUF=4096)
        for guest in loud, slow:
            guest.hears(f"* {slow.name} is here")
        for _ in range(60):  # fewer than would show it the door
            loud.says("!" * BIG)
            loud.hears(f"{loud.name}: {'!' * BIG}")
        assert 2 <= chat.end() < 10
        loud.hears("* closing time")
        loud.hears_no_more()


# -- http_server ---------------------------------------------------------------------------------


def answer_of(client, *, head=False):
    """One answer on a socket: status, headers, body."""
    answer = http.client.HTTPResponse(client, method="HEAD" if head else "GET")
    answer.begin()
    return answer.status, dict(answer.getheaders()), answer.read()


@contextlib.contextmanager
def http_server(*arguments, machines=2, **constants):
    with server("http_server", *arguments, machines=machines, **constants) as http_:
        yield http_


@everywhere
def test_http_server_keeps_connections_alive(machines):
    with http_server(machines=machines) as web:
        clients = [http.client.HTTPConnection(*web.address, timeout=20) for _ in range(4)]
        for turn in range(3):
            for client in clients:
                client.request("GET", "/")
            for client in clients:
                answer = client.getresponse()
                assert (answer.status, answer.read()) == (200, b"hello\n")
                if not turn:
                    client.first = client.sock
                assert client.sock is client.first is not None
        for path, status in ("/nothing", 404), ("/count/many", 500):
            client.request("GET", path)
            answer = client.getresponse()
            assert answer.status == status
            answer.read()
        assert client.sock is client.first
        web.child.send_signal(signal.SIGTERM)
        out, err = web.child.communicate(timeout=20)
        assert (web.child.returncode, out) == (0, "bye\n")
        assert "ValueError: invalid literal for int() with base 10: 'many'" in err
        for client in clients:
            assert client.sock.recv(1) == b""
            client.close()


@everywhere
def test_http_server_bodies(machines):
    """By their length and in chunks, in both directions."""
    with http_server(machines=machines) as web:
        client = http.client.HTTPConnection(*web.address, timeout=20)
        body = bytes(range(256)) * 1000
        for kind in (body, iter([b"a", b"bc" * 50_000, b"d"])):
            client.request("POST", "/echo", body=kind)
            answer = client.getresponse()
            assert answer.headers["Transfer-Encoding"] is None
            expected = body if kind is body else b"a" + b"bc" * 50_000 + b"d"
            assert (answer.status, answer.read()) == (200, expected)
        client.request("GET", "/count/3")
        answer = client.getresponse()
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.read() == b"0\n1\n2\n"
        client.request("POST", "/echo", body=b"!" * ((1 << 20) + 1))
        answer = client.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
        client.close()
        web.end()


def test_http_server_sends_as_it_comes():
    with http_server() as web, web.connect() as client:
        client.sendall(b"GET /count/1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        file = client.makefile("rb")
        while file.readline() != b"\r\n":
            pass
        assert [file.readline() for _ in range(4)] == [b"2\r\n", b"0\n", b"\r\n", b"2\r\n"]
        file.close()


@everywhere
def test_http_server_answers_what_was_sent_ahead_in_order(machines):
    with http_server(machines=machines) as web, web.connect() as client:
        one = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"
        whole = b"".join(one % i for i in range(5)) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        client.sendall(whole[:-3])
        file = client.makefile("rb")
        keep = types.SimpleNamespace(makefile=lambda _: NotClosed(file))
        for i in range(5):
            assert answer_of(keep)[::2] == (200, b"%d" % i)
        client.sendall(whole[-3:])
        assert answer_of(keep)[::2] == (200, b"hello\n")
        client.shutdown(socket.SHUT_WR)
        assert file.read() == b""
        file.close()


class NotClosed(io.BufferedIOBase):
    """A file that HTTPResponse may close, as it does."""

    def __init__(self, file):
        self.read, self.readline, self.readinto = file.read, file.readline, file.readinto

    def flush(self):
        pass

    def readable(self):
        return True


def test_http_server_100_continue():
    with http_server() as web, web.connect() as client:
        header = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        client.sendall(header + b"Expect: 100-continue\r\n\r\n")
        expected = b"HTTP/1.1 100 \r\n\r\n"
        assert client.recv(len(expected), socket.MSG_WAITALL) == expected
        client.sendall(b"hello")
        assert answer_of(client)[::2] == (200, b"hello")
        client.sendall(header + b"Expect: 100-continue\r\n\r\nhello")  # who doesn't wait
        assert answer_of(client)[::2] == (200, b"hello")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_http_server_refuses(sent, status):
    with http_server() as web:
        with web.connect() as client:
            client.sendall(sent)
            code, headers, _ = answer_of(client)
            assert (code, headers["Connection"]) == (status, "close")
        with web.connect() as client:  # and goes on
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert answer_of(client)[::2] == (200, b"hello\n")
            assert client.recv(1) == b""
        web.end()


@everywhere
def test_http_server_does_not_wait_for_slow_peers_for_ever(machines):
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(http_server(machines=machines, IDLE=0.6, HEADER=0.3, STALL=0.3))
        idle, header, body, greedy = (stack.enter_context(web.connect()) for _ in range(4))
        header.sendall(b"GET / HTTP/1.1\r\nHo")
        body.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
        assert answer_of(header)[0] == 408
        assert answer_of(body)[0] == 408
        assert idle.recv(1) == b""  # nothing was asked
        # One that asks and asks, and doesn't read. (No socket has room for so much.)
        ask = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        with pytest.raises(OSError, match=r"reset|Broken pipe"):  # noqa: PT012
            for _ in range(100):
                greedy.sendall(ask + b"!" * 1_000_000)
        web.end()


def test_http_server_one_header_has_one_deadline():
    """Who sends a byte now and then gains nothing by it."""
    with http_server(HEADER=0.5) as web, web.connect() as client:
        began = time.monotonic()
        client.settimeout(0.05)
        client.sendall(b"GET / HTTP/1.1\r\n")
        while time.monotonic() < began + 10:
            try:
                assert client.recv(15) == b"HTTP/1.1 408 \r\n"
                break
            except TimeoutError:
                client.sendall(b"X: y\r\n")
        assert 0.4 < time.monotonic() - began < 9


@by_signals
def test_http_server_ends_gently(machines, number):
    """Idle connections are closed, what runs is finished, and nobody new is let in."""
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(http_server(machines=machines))
        idle, used, busy, ahead = (stack.enter_context(web.connect()) for _ in range(4))
        hello = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        used.sendall(hello)
        assert answer_of(used)[0] == 200
        busy.sendall(b"GET /count/10 HTTP/1.1\r\nHost: x\r\n\r\n")
        ahead.sendall(b"GET /count/8 HTTP/1.1\r\nHost: x\r\n\r\n" + hello)
        for client in busy, ahead:
            assert client.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"  # they are being answered
        web.child.send_signal(number)
        assert idle.recv(1) == used.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            web.connect()
        assert answer_of(busy)[::2] == (200, b"".join(b"%d\n" % i for i in range(10)))
        file = ahead.makefile("rb")
        keep = types.SimpleNamespace(makefile=lambda _: NotClosed(file))
        assert answer_of(keep)[::2] == (200, b"".join(b"%d\n" % i for i in range(8)))
        status, headers, body = answer_of(keep)  # it was sent in time
        assert (status, headers["Connection"], body) == (200, "close", b"hello\n")
        file.close()
        web.has_ended()


@everywhere
def test_http_server_says_that_an_answer_is_the_last(machines):
    """To a request that is read when the end has begun."""
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(http_server(machines=machines))
        late, idle = (stack.enter_context(web.connect()) for _ in range(2))
        body = b"hello, at last"
        late.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n")
        late.sendall(b"Content-Length: %d\r\n\r\n" % len(body))
        assert late.recv(17, socket.MSG_WAITALL) == b"HTTP/1.1 100 \r\n\r\n"
        web.child.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        late.sendall(body)
        status, headers, got = answer_of(late)
        assert (status, headers["Connection"], got) == (200, "close", body)
        web.has_ended()


@everywhere
def test_http_server_cuts_off_after_a_while(machines):
    with http_server(0.3, machines=machines) as web, web.connect() as client:
        client.sendall(b"GET /count/1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4, socket.MSG_PEEK) == b"HTTP"
        assert 0.3 <= web.end(says="some were cut off\n") < 10
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer_of(client)


def test_http_server_a_second_signal_ends_it_at_once():
    with http_server(60) as web, web.connect() as client, web.connect() as idle:
        client.sendall(b"GET /count/1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4, socket.MSG_PEEK) == b"HTTP"
        web.child.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        web.child.send_signal(signal.SIGTERM)
        assert web.child.wait(timeout=20) == -signal.SIGTERM


# -- download ------------------------------------------------------------------------------------


class Files(http.server.ThreadingHTTPServer):
    """Serves one file, in ranges or not, and counts."""

    daemon_threads = False

    def __init__(self, content, ranges=True, fails=0, status=None):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.ranges, self.fails, self.status = content, ranges, fails, status
        self.lock = threading.Lock()
        self.now = self.most = self.asked = 0
        self.stop = threading.Event()
        self.stop.set()

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def url(self):
        return "http://{}:{}/the%20file?really".format(*self.server_address)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        assert self.path == "/the%20file?really"
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked += 1
            server.now += 1
            server.most = max(server.most, server.now)
            breaks_off = server.fails > 0
            server.fails -= breaks_off
        try:
            self.send(breaks_off)
        finally:
            with server.lock:
                server.now -= 1

    def send(self, breaks_off):
        server = self.server
        first, last = 0, len(server.content) - 1
        if server.ranges:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(server.status or (206 if server.ranges else 200))
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        middle = (first + last) // 2
        self.wfile.write(server.content[first:middle])
        server.stop.wait()
        if breaks_off:
            self.close_connection = True
        else:
            self.wfile.write(server.content[middle : last + 1])


CONTENT = bytes(range(251)) * 25_000  # six pieces


@everywhere
def test_download(machines, tmp_path):
    path = tmp_path / "got"
    with Files(CONTENT) as files:
        out = example("download", files.url, path, 3, machines=machines)
        assert files.asked == 6
        assert 1 <= files.most <= 3
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["got"]
    assert out == f"{len(CONTENT)} bytes over 6 connections\n"


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_download_without_ranges(content, tmp_path):
    with Files(content, ranges=False) as files:
        out = example("download", files.url, tmp_path / "got", machines=2)
    assert (tmp_path / "got").read_bytes() == content
    assert out == f"{len(content)} bytes over {min(len(content), 1)} connections\n"


@pytest.mark.parametrize(("machines", "ranges"), [(1, True), (4, True), (2, False)])
def test_download_goes_on_where_it_broke_off(machines, ranges, tmp_path):
    with Files(CONTENT, ranges=ranges, fails=2) as files:
        out = example("download", files.url, tmp_path / "got", machines=machines)
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert out == f"{len(CONTENT)} bytes over {8 if ranges else 3} connections\n"


def test_download_gives_up(tmp_path):
    """And leaves nothing behind."""
    with Files(CONTENT, status=403) as files:
        command = [files.url, tmp_path / "got", 1]
        err = f"download: {files.url}: 403 Forbidden\n"
        example("download", *command, machines=2, status=1, err=err)
        assert files.asked == 1
    assert os.listdir(tmp_path) == []
    err = f"download: [Errno 111] dial tcp {files.server_address}: Connection refused\n"
    example("download", *command, machines=2, status=1, err=err)
    assert os.listdir(tmp_path) == []


def test_download_gives_up_after_some_tries(tmp_path):
    """A failure of one piece ends the others, which would wait."""
    with Files(b"short", fails=4) as files:
        arguments = [files.url, tmp_path / "got"]
        code = "import sys; sys.path.insert(0, 'examples'); import download, goroutine;"
        code += "download.PAUSES = (0.01, 0.02, 0.03); sys.exit(goroutine.start(download.main))"
        with process("-c", code, *arguments, machines=2) as child:
            out, err = child.communicate(timeout=20)
        assert (child.returncode, out) == (1, "")
        assert spoken(err).startswith("download: peer closed connection")
        assert files.asked == 4
    assert os.listdir(tmp_path) == []


@everywhere
def test_download_interrupted(machines, tmp_path):
    with Files(CONTENT) as files:
        files.stop.clear()
        command = ["-m", "goroutine", "examples/download.py", files.url, tmp_path / "got", 2]
        with process(*command, machines=machines) as child:
            end = time.monotonic() + 20
            while files.now < 2:
                assert time.monotonic() < end
                time.sleep(0.005)
            assert os.listdir(tmp_path) == ["got.part"]
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=20)
        assert (child.returncode, out, spoken(err)) == (130, "", "")
        assert files.most == 2
    assert os.listdir(tmp_path) == []


# -- TLS -----------------------------------------------------------------------------------------


@everywhere
def test_tls_echo_server(machines, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test"
    command += " -addext subjectAltName=IP:127.0.0.1"
    done = subprocess.run(
        [*command.split(), "-keyout", key, "-out", cert], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    trusting = ssl.create_default_context(cafile=cert)
    with process("examples/tls_echo_server.py", cert, key, "0", machines=machines) as child:
        echo = Server(child)
        with (
            echo.connect() as stranger,
            trusting.wrap_socket(echo.connect(), server_hostname="127.0.0.1") as client,
        ):
            stranger.sendall(b"no TLS at all\n" * 10)
            for i in range(3):
                client.sendall(b"hello %d" % i)
                assert client.recv(7) == b"hello %d" % i
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=20)
        assert (child.returncode, out) == (0, "bye\n"), err


# -- processes -----------------------------------------------------------------------------------


def test_supervise_starts_again_what_fails(tmp_path):
    """Twice it fails; the third time it ends well."""
    (tmp_path / "app.sh").write_text('echo "$0"; echo x >> tries; test $(wc -l < tries) -ge 3\n')
    out = example("supervise", f"sh -c 'cd {tmp_path}; . ./app.sh'", "echo hello").splitlines()
    assert out.count("echo: hello") == 1
    assert [line for line in out if line.startswith("sh:")] == [
        "sh: sh",
        "sh: ended with status 1, again in 0.1 s",
        "sh: sh",
        "sh: ended with status 1, again in 0.2 s",
        "sh: sh",
    ]
    assert out[-1] == "bye"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervise_ends_them_all(number):
    """One ends by SIGTERM, one ignores it and is killed."""
    gentle = "sh -c 'echo gentle; exec sleep 1000'"
    deaf = "sh -c 'trap \"\" TERM; echo deaf; exec sleep 1000'"
    code = "import supervise, goroutine, sys; supervise.LAST = 0.2;"
    code += "goroutine.start(supervise.main, *sys.argv[1:])"
    code = f"import sys; sys.path.insert(0, 'examples'); {code}"
    with process("-c", code, gentle, deaf, machines=2) as child:
        assert {child.stdout.readline(), child.stdout.readline()} == {"sh: gentle\n", "sh: deaf\n"}
        child.send_signal(number)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, spoken(err)) == (0, "bye\n", "")


# -- an asyncio library --------------------------------------------------------------------------


@everywhere
def test_asyncio_client(machines):
    with server("echo_server", machines=machines) as echo:
        code = "import sys; sys.path.insert(0, 'examples'); import asyncio_client, goroutine;"
        code += (
            f"goroutine.start(lambda: asyncio_client.main('a', 'b', 'c', port={echo.address[1]}))"
        )
        with process("-c", code, machines=machines) as child:
            out, err = child.communicate(timeout=20)
        assert (child.returncode, out, spoken(err)) == (0, "a\nb\nc\n", "")
        echo.end()
