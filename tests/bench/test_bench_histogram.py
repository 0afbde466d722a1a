"""The histogram against exact answers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goroutine.bench.histogram import BUCKETS, Histogram, bucket_bounds, bucket_of

values = st.integers(0, 2**44 - 1)


@given(values)
def test_a_value_lies_in_its_bucket(value: int) -> None:
    index = bucket_of(value)
    low, high = bucket_bounds(index)
    assert 0 <= index < BUCKETS
    assert low <= value <= high


@given(values)
def test_a_bucket_is_narrower_than_one_per_cent(value: int) -> None:
    low, high = bucket_bounds(bucket_of(value))
    assert high - low <= value / 128


def test_the_buckets_join_without_gap_or_overlap() -> None:
    expected = 0
    for index in range(BUCKETS):
        low, high = bucket_bounds(index)
        assert low == expected
        assert bucket_of(low) == bucket_of(high) == index
        expected = high + 1
    assert expected == 2**44


@given(st.lists(values, min_size=1, max_size=200), st.floats(0, 1))
def test_a_percentile_is_within_one_per_cent_of_the_exact_one(
    sample: list[int], fraction: float
) -> None:
    histogram = Histogram()
    for value in sample:
        histogram.record(value)
    exact = sorted(sample)[max(1, math.ceil(fraction * len(sample))) - 1]
    assert histogram.percentile(fraction) == pytest.approx(exact, rel=0.01)
    assert histogram.total == len(sample)
    assert max(sample) <= histogram.maximum <= max(sample) * 1.01


@given(st.lists(values, max_size=50), st.lists(values, max_size=50))
def test_merging_is_recording_in_one(left: list[int], right: list[int]) -> None:
    merged, other, whole = Histogram(), Histogram(), Histogram()
    for value in left:
        merged.record(value)
        whole.record(value)
    for value in right:
        other.record(value)
        whole.record(value)
    merged.add(other.pairs())
    assert merged.counts == whole.counts


def test_an_empty_histogram_has_zeros() -> None:
    histogram = Histogram()
    assert (histogram.total, histogram.maximum, histogram.percentile(0.5)) == (0, 0, 0)
    assert histogram.pairs() == []
    histogram.record(7)
    histogram.clear()
    assert histogram.total == 0
