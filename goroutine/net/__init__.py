"""Networks: connections and datagrams that park a goroutine, not a thread. Go: package net.

`Conn`, `PacketConn` and `Listener` come from `dial` and `listen`.
"""

from ..io.conn import Conn
from ..io.listener import Listener
from ..io.packet import PacketConn
from .dialing import dial
from .listening import listen
from .memory import PipeConn, pipe
from .names import lookup_host

__all__ = [
    "Conn",
    "Listener",
    "PacketConn",
    "PipeConn",
    "dial",
    "listen",
    "lookup_host",
    "pipe",
]
