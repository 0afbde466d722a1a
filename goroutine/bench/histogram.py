"""A log-linear histogram: any range of latencies in a few thousand counters, each within 0.4 %.

Every power of two is cut into 128 equal buckets, so a bucket is at most 1/128 of its own value wide
and its midpoint is off by at most half of that. Values below 256 have a bucket each.
"""

import math
from collections.abc import Iterable

__all__ = ["BUCKETS", "SUB_BITS", "Histogram", "bucket_bounds", "bucket_of"]

SUB_BITS = 7
_MAX_BITS = 44
"""Nanoseconds up to 2**44 (almost five hours) fit: longer than any run may take."""

BUCKETS = (_MAX_BITS - SUB_BITS + 1) << SUB_BITS


def bucket_of(value: int) -> int:
    """The index of the bucket that counts `value` (not negative)."""
    # The load's inner loop has these lines inlined: a call would cost more than they do.
    shift = value.bit_length() - (SUB_BITS + 1)
    return (shift << SUB_BITS) + (value >> shift) if shift > 0 else value


def bucket_bounds(index: int) -> tuple[int, int]:
    """The least and the greatest value that bucket `index` counts."""
    shift = max((index >> SUB_BITS) - 1, 0)
    low = (index - (shift << SUB_BITS)) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Counts of values, mergeable, with percentiles by nearest rank."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS

    def record(self, value: int) -> None:
        self.counts[bucket_of(value)] += 1

    def add(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Merges what `pairs()` of another histogram gave."""
        for index, count in pairs:
            self.counts[index] += count

    def pairs(self) -> list[tuple[int, int]]:
        """The buckets that are not empty as (index, count): small enough to send as JSON."""
        return [(index, count) for index, count in enumerate(self.counts) if count]

    def clear(self) -> None:
        self.counts = [0] * BUCKETS

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def maximum(self) -> int:
        """The upper bound of the highest bucket in use, 0 when empty."""
        for index in range(BUCKETS - 1, -1, -1):
            if self.counts[index]:
                return bucket_bounds(index)[1]
        return 0

    def percentile(self, fraction: float) -> float:
        """The value that `fraction` of the values don't exceed, within 0.4 %; 0 when empty."""
        total = self.total
        # Nearest rank: the smallest value with at least this many values at or below it.
        rank = max(1, math.ceil(fraction * total))
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                low, high = bucket_bounds(index)
                return (low + high) / 2
        return 0.0
