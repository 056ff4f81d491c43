"""Stores whose rows are worked on in parts are those that are made in one piece."""

from __future__ import annotations

import itertools

import pytest

from tsa.data.workers import GROUP_ROWS, Workers


@pytest.mark.parametrize("n", [0, 1, 5, 1000, 3 * GROUP_ROWS + 5, 20 * GROUP_ROWS])
@pytest.mark.parametrize("workers", [Workers(), Workers(least=2), Workers(least=7)])
@pytest.mark.parametrize("most", [3, GROUP_ROWS, 4 * GROUP_ROWS])
def test_parts_have_each_row_once(n: int, workers: Workers, most: int) -> None:
    if n > 1000 * most:
        return
    parts = workers.parts(n, most)
    assert (parts[0][0], parts[-1][1]) == (0, n)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(parts))
    assert len(parts) >= min(workers.least, n, 1 + n // GROUP_ROWS)
    assert max(last - first for first, last in parts) <= most + GROUP_ROWS * (n >= GROUP_ROWS and most >= GROUP_ROWS)
    assert n == 0 or min(last - first for first, last in parts) > 0
