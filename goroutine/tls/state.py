"""ConnectionState: what the two ends have agreed on."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

__all__ = ["ConnectionState"]


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """What a handshake has come to. Go: tls.ConnectionState.

    >>> tls.ConnectionState().handshake_complete
    False
    """

    handshake_complete: bool = False
    """Whether there has been one; all that follows has no value before."""
    version: str | None = None
    """"TLSv1.2" or "TLSv1.3"."""
    cipher: str | None = None
    """The cipher suite, by OpenSSL's name."""
    selected_alpn_protocol: str | None = None
    """The protocol that was agreed on by ALPN, if any."""
    server_hostname: str | None = None
    """The name that a client has asked for and verified. (A server: see
    ``ssl.SSLContext.sni_callback``.)"""
    session_reused: bool = False
    """Whether an earlier session was resumed."""
    peer_certificate: dict[str, Any] | None = None
    """The peer's certificate as ``ssl.SSLSocket.getpeercert()`` gives it: empty if it was not
    verified, None if there is none."""
    peer_certificates: tuple[bytes, ...] = ()
    """The chain that the peer has sent, its own certificate first, in DER."""


def state_of(made: ssl.SSLObject) -> ConnectionState:
    """That of a complete handshake, with the engine's lock held."""
    cipher = made.cipher()
    return ConnectionState(
        handshake_complete=True,
        version=made.version(),
        cipher=cipher and cipher[0],
        selected_alpn_protocol=made.selected_alpn_protocol(),
        server_hostname=made.server_hostname,
        session_reused=bool(made.session_reused),
        peer_certificate=made.getpeercert(),
        peer_certificates=tuple(made.get_unverified_chain()),
    )
