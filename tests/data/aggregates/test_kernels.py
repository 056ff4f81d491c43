from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsa.data.aggregates import kernels
from tsa.data.aggregates.axis import EventAxis, make_axis
from tsa.data.history import index_histories


def axis_of(n: int) -> EventAxis:
    return make_axis([index_histories(np.zeros(n, int))], [np.arange(n)], None, np.arange(float(n)))


def test_quantised_values_are_whole_and_bounded() -> None:
    values = np.array([[0.125], [np.nan], [-np.inf], [1e30], [19.99]])
    scaled, present = kernels.quantise(values, np.array([100.0]))
    assert scaled[:, 0].tolist() == [12, 0, -(2**31 - 1), 2**31 - 1, 1999]
    assert present[:, 0].tolist() == [True, False, True, True, True]


def test_sums_of_the_greatest_values_do_not_overflow() -> None:
    n = 5000
    values = np.full((n, 1), 2**31 - 1)
    values[::2] *= -1
    axis = axis_of(n)
    found = kernels.window_sums(axis, axis.low[:, None], values, np.ones((n, 1), bool))
    assert found.std[-1, 0, 0] == pytest.approx(2**31, rel=1e-6)
    assert found.total[-1, 0, 0] == -(2**31 - 1)
    assert math.isnan(found.mean[0, 0, 0])
    assert math.isnan(found.highest[0, 0, 0])


def test_a_small_deviation_of_great_values_is_found() -> None:
    values = np.array([[10**9], [10**9 + 300], [10**9 - 300], [0]])
    found = kernels.window_sums(axis_of(4), np.zeros((4, 1), int), values, np.ones((4, 1), bool))
    assert found.std[3, 0, 0] == pytest.approx(math.sqrt(2 * 300**2 / 3), rel=1e-3)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60), st.integers(1, 3))
def test_maxima_of_few_and_of_many(values: list[int], few: int) -> None:
    n = len(values)
    column = np.array(values)[:, None]
    starts = np.stack([np.maximum(np.arange(n) - width, 0) for width in (0, 1, 7, n)], axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "FEW", 0)
        many = kernels.window_maxima(column, starts, np.arange(n))
    some = np.arange(n)[-few:]
    np.testing.assert_array_equal(many[some], kernels.window_maxima(column, starts[some], some))
    for at in range(n):
        for window, start in enumerate(starts[at]):
            inside = values[start:at]
            assert many[at, window, 0] == (max(inside) if inside else kernels._LOWEST)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_repeats(codes: list[int]) -> None:
    found = kernels.repeats(axis_of(len(codes)), np.array([codes, [2**32 - 1] * len(codes)]).T)
    for at, code in enumerate(codes):
        before = [place for place in range(at) if codes[place] == code]
        assert found.count[at].tolist() == [len(before), at]
        assert found.last[at].tolist() == [before[-1] if before else -1, at - 1]
        assert found.distinct[at].tolist() == [len(set(codes[:at])), min(at, 1)]


def test_the_first_visible_may_become_so_after_later_ones() -> None:
    axis = axis_of(6)
    places, since = np.array([0, 1, 2]), np.array([4, 3, 6])
    assert kernels.first_visible(axis, places, since).tolist() == [-1, -1, -1, 1, 0, 0]
    assert kernels.last_visible(axis, places, np.array([4, 3, 5])).tolist() == [-1, -1, -1, 1, 1, 2]
    none = np.empty(0, np.int64)
    assert (
        kernels.first_visible(axis, none, none).tolist() == kernels.last_visible(axis, none, none).tolist() == [-1] * 6
    )


def test_visible_counts_and_sums() -> None:
    since, until = np.array([0, 1]), np.array([[2, 3], [1, 3]])
    assert kernels.visible_counts(since, until, 3).tolist() == [[1, 1], [1, 2], [0, 2]]
    assert kernels.visible_sums(since, until[:, 1], np.array([[5], [7]]), 3).tolist() == [[5], [12], [12]]
