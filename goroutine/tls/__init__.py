"""TLS over any connection of a stream, by ``ssl.SSLContext``. Go: package crypto/tls.

`client` and `server` take a connection, `dial` and `listen` make one. What certificates and
protocols there are, and what is asked of the peer, an ``ssl.SSLContext`` says.
"""

from .conn import Conn
from .connecting import client, dial, server
from .listener import Listener, listen
from .state import ConnectionState
from .stream import Stream

__all__ = [
    "Conn",
    "ConnectionState",
    "Listener",
    "Stream",
    "client",
    "dial",
    "listen",
    "server",
]
