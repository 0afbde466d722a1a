"""Bytes that tell whose they are, and where they belong: nothing is lost, doubled, late or
somebody else's unseen."""

from array import array

UNIT = 8


def stream(number: int, start: int, length: int) -> bytes:
    """``length`` bytes of the stream of connection ``number``, from ``start`` on."""
    first, at = divmod(start, UNIT)
    first += number << 32
    return array("Q", range(first, first + length // UNIT + 2)).tobytes()[at : at + length]
