"""Bytes that tell whose they are, and where they belong: nothing is lost, doubled, late or
somebody else's unseen."""

UNIT = 16


def stream(number: int, start: int, length: int) -> bytes:
    """``length`` bytes of the stream of connection ``number``, from ``start`` on."""
    first, at = divmod(start, UNIT)
    text = b"".join(b"%06d.%08d|" % (number, first + i) for i in range(length // UNIT + 2))
    return text[at : at + length]
