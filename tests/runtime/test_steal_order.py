"""The order in which a thief looks at the others."""

import pytest

from goroutine.runtime.machine import coprimes


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 7, 12, 16, 31])
def test_every_stride_visits_everyone_once(n: int) -> None:
    assert coprimes(n)
    for stride in coprimes(n):
        assert sorted(stride * k % n for k in range(n)) == list(range(n))
