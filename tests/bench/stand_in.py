"""An echo server on plain epoll, honest or not, with the one line that the benchmark's server says.

    python stand_in.py [FAULT]

FAULT is what it does wrong, after each connection has had its first few echoes:
corrupt, swap, drop, double, close, reset, mute (never answers again), never (not even at first),
die (kills itself), shout (writes to stderr), crash (fails before it listens), unavailable, silent
(listens and says nothing).
"""

import json
import os
import select
import signal
import socket
import struct
import sys
import time

HONEST = 3
"""Messages on a connection before the fault: the warm-up is among them."""


class Server:
    def __init__(self, fault):
        self.fault = fault
        self.epoll = select.epoll()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.epoll.register(self.listener, select.EPOLLIN)
        self.conns = {}
        self.messages = {}
        self.pending = {}
        self.held = None
        self.done = False

    def run(self):
        os.set_blocking(0, False)
        self.epoll.register(0, select.EPOLLIN)
        while True:
            for fd, events in self.epoll.poll():
                if fd == 0:
                    return
                if fd == self.listener.fileno():
                    conn, _ = self.listener.accept()
                    conn.setblocking(False)
                    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.conns[conn.fileno()] = conn
                    self.messages[conn.fileno()] = 0
                    self.epoll.register(conn, select.EPOLLIN)
                elif fd in self.conns:
                    if events & select.EPOLLOUT:
                        self.write(fd, b"")
                    if events & ~select.EPOLLOUT and fd in self.conns:
                        self.serve(fd)

    def serve(self, fd):
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.conns.pop(fd).close()
            return
        self.messages[fd] += 1
        if self.fault == "never":
            return
        if not self.done and self.fault and self.messages[fd] > HONEST:
            data = getattr(self, self.fault)(fd, data)
        if data:
            self.write(fd, data)

    def write(self, fd, data):
        data = self.pending.pop(fd, b"") + data
        try:
            sent = os.write(fd, data)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            return
        if sent < len(data):
            self.pending[fd] = data[sent:]
        self.epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if fd in self.pending else 0))

    # The faults: what is sent instead of `data`.

    def corrupt(self, _fd, data):
        self.done = True
        wrong = bytearray(data)
        wrong[-1] ^= 1
        return bytes(wrong)

    def swap(self, fd, data):
        if self.held is None:
            self.held = fd, data
            return b""
        self.done = True
        other, theirs = self.held
        self.write(other, data)
        return theirs

    def drop(self, _fd, _data):
        self.done = True
        return b""

    def double(self, _fd, data):
        self.done = True
        return data * 2

    def close(self, fd, _data):
        self.done = True
        self.conns.pop(fd).close()
        return b""

    def reset(self, fd, data):
        self.conns[fd].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return self.close(fd, data)

    def mute(self, _fd, _data):
        return b""

    def die(self, _fd, _data):
        os.kill(os.getpid(), signal.SIGKILL)

    def shout(self, _fd, data):
        self.done = True
        print("something is odd", file=sys.stderr)
        return data


def main():
    fault = sys.argv[1] if len(sys.argv) > 1 else ""
    if fault == "crash":
        sys.exit("no machine could be made")
    if fault == "unavailable":
        print(json.dumps({"event": "unavailable", "reason": "forbidden here"}), flush=True)
        sys.exit(1)
    server = Server(fault)
    if fault == "silent":
        time.sleep(60)
    line = {
        "event": "listening",
        "port": server.port,
        "backend": "stand-in",
        "machines": 1,
        "gil": False,
        "free_threaded": True,
        "python": "3.13",
    }
    print(json.dumps(line), flush=True)
    server.run()
    print(json.dumps({"event": "ended", "in_order": True, "cpu_user_seconds": 0.0}), flush=True)


if __name__ == "__main__":
    main()
