"""Percentiles: the legacy system's look-up to the last pair, and a map of our own that keeps the order and the top apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.calibration.percentile import PercentileMap
from tsa.errors import CalibrationError

scores = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=60)


def test_golden(golden_scores: dict[str, Any]) -> None:
    found = PercentileMap.from_legacy(golden_scores["percentile_score"])(
        [one["raw"] for one in golden_scores["expected"]]
    )
    assert found.tolist() == [one["percentile"] for one in golden_scores["expected"]]
    assert found.dtype == np.float64


def look_up(pairs: list[list[float]], raw: float) -> float:
    """One score at a time: bisection that ends at an exact hit, then the next pair."""
    if raw <= 0 or raw >= 1:
        return 0.0 if raw <= 0 else 1.0
    low, high = 0, len(pairs) - 1
    while low <= high:
        middle = (low + high) // 2
        if pairs[middle][0] == raw:
            return pairs[min(middle + 1, len(pairs) - 1)][1]
        low, high = (middle + 1, high) if pairs[middle][0] < raw else (low, middle - 1)
    return pairs[min(low, len(pairs) - 1)][1]


@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.integers(0, 30), min_size=1, max_size=70), raw=st.lists(st.integers(-2, 32), max_size=20))
def test_look_up_with_ties(values: list[int], raw: list[int]) -> None:
    pairs = [[value / 30, at / len(values)] for at, value in enumerate(sorted(values))]
    asked = [one / 30 + shift for one in raw for shift in (0.0, 1e-9)]
    assert PercentileMap.from_legacy(pairs)(asked).tolist() == [look_up(pairs, one) for one in asked]


def test_below_the_first_pair_and_above_the_last() -> None:
    found = PercentileMap.from_legacy([[0.2, 0.0], [0.4, 0.5]])
    assert found([0.1, 0.2, 0.3, 0.4, 0.9]).tolist() == [0.0, 0.5, 0.5, 0.5, 0.5]


@settings(max_examples=150, deadline=None)
@given(values=scores, raw=scores)
def test_a_fitted_map_rises_and_is_the_share_below(values: list[float], raw: list[float]) -> None:
    if len(set(values)) < 2:
        return
    fitted = PercentileMap.fit(values)
    found = fitted(np.sort(raw))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    share = np.searchsorted(np.sort(values), values) / len(values)
    inside = (np.array(values) > 0) & (np.array(values) < 1)
    np.testing.assert_allclose(fitted(values)[inside], share[inside], rtol=0, atol=1e-12)
    assert PercentileMap.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_the_top_is_finer_than_a_thousand_quantiles() -> None:
    generator = np.random.default_rng(0)
    values = 1 / (1 + np.exp(4 - 2 * generator.normal(size=200_000)))
    fitted = PercentileMap.fit(values)
    assert 1000 < len(fitted.scores) < 2000
    other = np.sort(1 / (1 + np.exp(4 - 2 * generator.normal(size=50_000))))
    share = np.searchsorted(np.sort(values), other) / len(values)
    error = np.abs(fitted(other) - share)
    assert error.max() < 1e-3
    assert error[share > 0.99].max() < 1e-4
    assert error[share > 0.999].max() < 2e-5
    top = fitted(other[-500:])
    assert (np.diff(top) > 0).all(), "no two of the riskiest one percent are tied"
    original = PercentileMap.from_legacy(fitted.pairs())
    assert len(np.unique(original(other[-500:]))) < 15, "1000 quantiles tie them"
    assert np.abs(original(other) - share).max() < 2.1e-3


def test_scores_that_many_payments_share() -> None:
    values = np.concatenate([np.full(50_000, 0.01), np.linspace(0.2, 0.9, 50_000)])
    fitted = PercentileMap.fit(values)
    found = fitted([0.01, 0.2, 0.9, 0.95, 1.0])
    assert found[:3].tolist() == [0.0, 0.5, pytest.approx(0.99999)]
    assert found[2] < found[3] < found[4] == 1


def test_a_score_that_is_no_number_has_no_percentile() -> None:
    for broken in (np.nan, np.inf):
        with pytest.raises(CalibrationError, match=r"raw score must be a finite number .got 1 of 2"):
            PercentileMap.fit([0.1, 0.2])([0.1, broken])


@pytest.mark.parametrize("values", [[], [0.5], [0.5] * 2000])
def test_too_alike_to_rank(values: list[float]) -> None:
    with pytest.raises(CalibrationError, match=rf"need payments with different scores [(]got {len(values)} payments"):
        PercentileMap.fit(values)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([], "as many percentiles as scores"),
        ([[0.1, 0.2], [0.05, 0.3]], r"scores of a percentile map must rise [(]got 0.05 at 1"),
        ([[0.1, 0.2], [0.2, 0.1]], r"percentiles of a percentile map must rise [(]got 0.1 at 1"),
        ([[0.1, 0.2], [np.nan, 0.3]], r"must rise [(]got nan at 1"),
        ([[0.1, 0.2], [0.2, 1.3]], r"must lie in \[0, 1\]"),
        ([[0.1, 0.2, 0.3]], "must be pairs"),
    ],
)
def test_a_broken_map_is_refused(pairs: list[list[float]], text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        PercentileMap.from_legacy(pairs)


def test_scores_out_of_bounds_are_refused() -> None:
    for broken in (-0.1, 1.1, np.nan):
        with pytest.raises(CalibrationError, match=r"must lie in \[0, 1\]"):
            PercentileMap.fit([0.1, 0.2, broken])


def test_scores_too_small_to_tell_apart_are_zero() -> None:
    fitted = PercentileMap.fit([0.0, 5e-324, 1e-310, 0.5, 1.0])
    found = fitted([0.0, 5e-324, 1e-310, 1e-300, 0.25, 0.5])
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert found[-1] == 0.6
