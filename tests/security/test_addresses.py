"""Any text whatever for an address: a result, or an error of one line that has the text in it."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goroutine import net
from goroutine.io.address import format_address, literal, parse, parse_path

PIECES = "[ ] : :: ::1 127.0.0.1 localhost % %lo 0 80 65535 65536 -1 http é ٣ 1e3 0x50 .".split()  # noqa: SIM905
ODD = [" ", "\n", "\t", "\0", "\x7f", "\u2028", "\ud800", "\udc80", "\U0001f600", "a" * 70]
# (Not st.text() of everything: that makes tables for half a minute, in every new checkout.)
LETTERS = st.text("".join(ODD)[:9] + "aZ09_-.:[]%@/\\'\"é\xa0\xff", max_size=20)
TEXT = st.one_of(LETTERS, st.lists(st.sampled_from(PIECES + ODD), max_size=6).map("".join))


def one_line(failure):
    assert str(failure).isprintable()


def refused(failure, text):
    one_line(failure)
    assert "address" in str(failure), text


@settings(max_examples=150, deadline=None)
@given(TEXT)
def test_parse(text):
    try:
        host, port = parse(text)
    except ValueError as failure:
        refused(failure, text)
        return
    assert isinstance(host, str)
    assert 0 <= port <= 65535
    # It means what it says: written down and read again, it is the same.
    brackets = f"[{host}]" if ":" in host or text.startswith("[") else host
    assert parse(f"{brackets}:{port}") == (host, port)
    literal(host)


@settings(max_examples=100, deadline=None)
@given(st.tuples(TEXT, st.one_of(st.integers(), LETTERS, st.booleans(), st.none())))
def test_parse_of_a_pair(pair):
    try:
        assert parse(pair) == pair
    except ValueError as failure:
        refused(failure, pair)
    else:
        assert 0 <= pair[1] <= 65535


@settings(max_examples=100, deadline=None)
@given(st.one_of(TEXT, TEXT.map(lambda text: text * 9)))
def test_parse_path(text):
    try:
        parsed = parse_path(text)
    except (ValueError, OSError) as failure:
        one_line(failure)
        return
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(parsed)
        except OSError:
            pass  # the kernel's word, not ours


@given(
    st.one_of(
        st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535)),
        st.tuples(st.ip_addresses(v=6).map(str), st.integers(0, 65535)),
    )
)
@settings(max_examples=100, deadline=None)
def test_there_and_back(sockaddr):
    """What the kernel says is an address to dial."""
    text = format_address(sockaddr)
    host, port = parse(text)
    assert port == sockaddr[1]
    mapped = sockaddr[0].removeprefix("::ffff:")
    assert host == (mapped if "." in mapped else sockaddr[0])


HOSTS = ["a\0b", "\ud800", "\udc80", "a" * 64, "a" * 300, "a..b", ".", "xn--\xff", "fe80::1%nope"]


@pytest.mark.parametrize("host", [*HOSTS, "1.2.3", "0x7f.1", "[::1]", "127.0.0.1\n", "-", "%"])
def test_hosts_that_are_none(run_one, host, monkeypatch):
    """An OSError or ValueError of one line from whatever takes an address; nothing else."""
    getaddrinfo = socket.getaddrinfo

    def no_network(host, *args, **kwargs):
        return getaddrinfo(host, *args, **kwargs | {"flags": socket.AI_NUMERICHOST})

    monkeypatch.setattr(socket, "getaddrinfo", no_network)

    async def main():
        for step in (
            lambda: net.dial("tcp", (host, 1), timeout=5),
            lambda: net.dial("udp", (host, 1), timeout=5),
            lambda: net.listen("tcp", (host, 0)),
            lambda: net.lookup_host(host),
        ):
            try:
                made = await step()
            except (OSError, ValueError) as failure:
                one_line(failure)
            else:
                if not isinstance(made, list):
                    made.close()

    run_one(main)
