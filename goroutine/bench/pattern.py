"""The bytes that a load sends: one fixed pseudo-random stream, in which every place is told apart.

A connection sends its own stretch of the stream, message after message. So a reply that was swapped
with another connection's, lost, doubled or changed can't equal what is expected, and one compare
with a slice finds it.
"""

import random

__all__ = ["PERIOD", "first_position", "make_pattern"]

PERIOD = 65521
"""Bytes after which the stream repeats: a prime, so that no message size divides it and the stretch
of a message moves on at every message."""

_STRIDE = 7919
"""Bytes between the starts of neighbouring connections: prime to `PERIOD`, so 65,521 connections
start at as many places."""


def make_pattern(size: int) -> bytes:
    """The stream, long enough that `size` bytes from any place below `PERIOD` are one slice."""
    # The generator is seeded, so that every load process and every run has the same stream.
    period = random.Random(20240229).randbytes(PERIOD)
    return period * (size // PERIOD + 2)


def first_position(connection: int) -> int:
    """Where in the stream connection number `connection` starts."""
    return connection * _STRIDE % PERIOD
