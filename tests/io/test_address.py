"""Addresses as Go writes them."""

import socket

import pytest

from goroutine.io.address import family_of, format_address, literal, parse


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("[fe80::1%lo]:65535", ("fe80::1%lo", 65535)),
        (":8080", ("", 8080)),
        (":", ("", 0)),
        ("host:", ("host", 0)),
        ("[]:1", ("", 1)),
        ("localhost:http", ("localhost", 80)),
        ("a.b-c.example:0080", ("a.b-c.example", 80)),
        (("::1", 80), ("::1", 80)),
        (("", 0), ("", 0)),
    ],
)
def test_parse(address, parsed):
    assert parse(address) == parsed


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "missing port"),
        ("127.0.0.1", "missing port"),
        ("::1:80", "too many colons"),
        ("[::1:80", "missing ']'"),
        ("[::1]", "missing ']'|missing port|unexpected"),
        ("a[b]:80", "unexpected bracket"),
        ("[[::1]]:80", "unexpected bracket"),
        ("host:65536", "invalid port 65536"),
        ("host:99999999999999999999", "invalid port"),
        ("host:-1", "unknown port"),
        ("host:+80", "unknown port"),
        ("host: 80", "unknown port"),
        ("host:8_0", "unknown port"),
        ("host:\u0661", "unknown port"),
        ("host:no-such-service", "unknown port"),
        ("host\0:80", "null character"),
        (("host", "80"), "port must be an int"),
        (("host", True), "port must be an int"),
        (("host", 8.0), "port must be an int"),
        (("host", -1), "invalid port"),
        (("host", 65536), "invalid port"),
        ((b"host", 80), "want .host, port."),
        (("host",), "want .host, port."),
        (("host", 80, 0, 0), "want .host, port."),
        ((), "want .host, port."),
    ],
)
def test_what_is_no_address_is_named(address, why):
    with pytest.raises(ValueError, match=why) as caught:
        parse(address)
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize("address", [None, 80, b"host:80", ["host", 80], object])
def test_other_types(address):
    with pytest.raises(TypeError, match="address"):
        parse(address)


def test_families():
    assert family_of("tcp") == socket.AF_UNSPEC
    assert family_of("tcp4") == socket.AF_INET
    assert family_of("tcp6") == socket.AF_INET6
    for network in ("", "tcp ", "TCP", None, []):
        with pytest.raises(ValueError, match="unknown network"):
            family_of(network)


def test_literals():
    assert literal("127.0.0.1") == socket.AF_INET
    assert literal("::1") == literal("fe80::1%eth0") == socket.AF_INET6
    for name in ("", "localhost", "1.2.3", "1.2.3.4.5", "0x7f.1", "256.0.0.1", ":::"):
        assert literal(name) is None


def test_format():
    assert format_address(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert format_address(("::1", 80, 0, 0)) == "[::1]:80"
    assert format_address("/a/path") == "/a/path"
    for text in ("127.0.0.1:80", "[::1]:8080"):
        assert format_address(parse(text)) == text
