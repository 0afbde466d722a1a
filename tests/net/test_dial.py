"""Dialling: names, failures that name the address, addresses and networks that are none."""

import errno
import socket

import pytest
from net_support import in_thread, raises

import goroutine
from goroutine import go, net


def unused_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_refused(run):
    port = unused_port()

    async def main():
        for address in (f"127.0.0.1:{port}", ("127.0.0.1", port)):
            failure = await raises(ConnectionRefusedError, "", net.dial("tcp", address))
            assert failure.errno == errno.ECONNREFUSED
            assert str(failure).endswith(f"dial tcp {address}: Connection refused")

    run(main)


def test_refused_many_at_once(run):
    port = unused_port()

    async def dial():
        try:
            await net.dial("tcp", f"127.0.0.1:{port}")
        except ConnectionRefusedError:
            return True

    async def main():
        for g in [go(dial) for _ in range(200)]:
            assert await g

    run(main)


def test_by_name(run_two):
    async def main():
        async with await net.listen("tcp4", "localhost:0") as listener:
            port = listener.address.rpartition(":")[2]
            client = await net.dial("tcp", f"localhost:{port}")
            server = await listener.accept()
            assert client.remote_address == f"127.0.0.1:{port}"
            client.close()
            server.close()

    run_two(main)


def test_a_name_that_does_not_exist(run_one):
    async def main():
        name = "does-not-exist.invalid"
        await raises(OSError, name, net.dial("tcp", f"{name}:80"))
        await raises(OSError, "not a valid host name", net.dial("tcp", "a" * 300 + ":80"))
        await raises(OSError, "no suitable address", net.dial("tcp6", "127.0.0.1:80"))
        await raises(OSError, "no suitable address", net.listen("tcp4", "[::1]:0"))

    run_one(main)


@pytest.mark.parametrize("call", [net.dial, net.listen])
@pytest.mark.parametrize("network", ["", "TCP", "sctp", "tcp5", None, 4, ["tcp"]])
def test_unknown_networks(run_one, call, network):
    async def main():
        await raises(ValueError, "unknown network", call(network, "127.0.0.1:80"))

    run_one(main)


@pytest.mark.parametrize("call", [net.dial, net.listen])
def test_addresses_that_are_none(run_one, call):
    async def main():
        for address in ("127.0.0.1", "::1:80", "1.2.3.4:99999", ("127.0.0.1", "80"), "[::1:80"):
            failure = await raises(ValueError, "address", call("tcp", address))
            assert repr(address) in str(failure)
        await raises(TypeError, "address", call("tcp", 80))

    run_one(main)


def test_an_address_of_another_machine(run_one):
    async def main():
        failure = await raises(OSError, "192.0.2.1:0", net.listen("tcp", "192.0.2.1:0"))
        assert failure.errno == errno.EADDRNOTAVAIL

    run_one(main)


def test_dial_needs_a_goroutine():
    with pytest.raises(RuntimeError, match="goroutine"):
        net.dial("tcp", "127.0.0.1:1").send(None)


def test_the_last_of_several_addresses_is_tried(run_one, monkeypatch):
    """A name with three addresses, the first two of which refuse."""
    refusing = unused_port()

    async def main():
        async with await net.listen("tcp", "127.0.0.1:0") as listener:
            port = int(listener.address.rpartition(":")[2])
            at = [("127.0.0.1", refusing), ("127.0.0.1", refusing), ("127.0.0.1", port)]
            infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in at]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: infos)
            client = await net.dial("tcp", "several.example:1")
            assert client.remote_address == listener.address
            client.close()
            (await listener.accept()).close()
            infos.pop()
            await raises(
                ConnectionRefusedError, "several.example:1", net.dial("tcp", "several.example:1")
            )

    run_one(main)


def test_a_peer_that_speaks_first(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            clients = [await net.dial("tcp", server.getsockname()) for _ in range(5)]
            for i, client in enumerate(clients):
                accepted, _ = await in_thread(server.accept)
                with accepted:
                    accepted.sendall(bytes([i]) * 100_000)
                    assert await client.read_exactly(100_000) == bytes([i]) * 100_000
                assert await client.read() == b""
                client.close()
        assert goroutine.num_goroutine() >= 1

    run(main)
