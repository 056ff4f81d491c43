"""What is fitted on rows in parts is what is fitted on all of them, to the bit, and quantiles are NumPy's."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Categorical, Numerical
from tsa.data.encoding import exact_sums
from tsa.data.encoding.exact_sums import exact_sum, mean_of, quantile_of
from tsa.data.encoding.fit_scalers import fit_scalers
from tsa.data.encoding.training_rows import TrainingRows
from tsa.data.encoding.vocabulary import fit_vocabularies
from tsa.data.workers import Workers

FEATURES = [Numerical(name="x", scale=scale) for scale in ("minmax", "standard", "quantile")]
values = st.one_of(st.none(), st.floats(-1e9, 1e9), st.just(-0.0), st.integers(-3, 3).map(float))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(values, max_size=60), count=st.integers(2, 5), seed=st.integers(0, 9))
def test_parts_and_order_change_no_bit(rows: list[float | None], count: int, seed: int) -> None:
    frame = pl.DataFrame({"x": rows, "c": list(map(str, rows))}, schema={"x": pl.Float64, "c": pl.String})
    mixed = frame.sample(fraction=1.0, shuffle=True, seed=seed)
    for feature in FEATURES:
        expected = fit_scalers([feature], TrainingRows(frame.lazy()))
        for one in (frame, mixed):
            assert fit_scalers([feature], TrainingRows(one.lazy(), Workers(least=count))) == expected
    known = [Categorical(name="c", min_count=1)]
    parts = TrainingRows(mixed.lazy(), Workers(least=count))
    assert fit_vocabularies(known, parts, 1) == fit_vocabularies(known, TrainingRows(frame.lazy()), 1)


def test_quantiles_are_those_of_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_sums, "MAX_PART_SAMPLE", 40)
    monkeypatch.setattr(exact_sums, "MAX_SAMPLE", 60)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.lognormal(size=9000), np.full(3000, 1.5), rng.integers(0, 5, 500)])
    rng.shuffle(drawn)
    (scaler,) = fit_scalers([FEATURES[2]], TrainingRows(pl.LazyFrame({"x": drawn}), Workers(least=7)))
    levels = np.linspace(0, 1, 1000)
    knots, group = np.unique(np.quantile(drawn, levels), return_inverse=True)
    assert scaler.knots == tuple(knots)
    assert scaler.levels == tuple(np.bincount(group, weights=levels) / np.bincount(group))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_sums_are_exact(drawn: list[float]) -> None:
    total = exact_sum(np.array(drawn, np.float64))
    assert Fraction(total, 2**exact_sums.LOWEST_EXPONENT) == sum(map(Fraction, drawn))
    if drawn and math.isfinite(sum(drawn)):
        assert mean_of(total, len(drawn)) == pytest.approx(math.fsum(drawn) / len(drawn), rel=1e-15)
    assert mean_of(exact_sum(np.array([1.0, math.inf])), 2) == math.inf


@pytest.mark.parametrize("level", [0.0, 0.013, 0.5, 0.99, 1.0])
def test_a_quantile_of_pieces_is_that_of_all_values(level: float) -> None:
    drawn = np.random.default_rng(1).exponential(size=30_001).round(3)
    assert quantile_of(lambda: iter(np.array_split(drawn, 4)), len(drawn), level) == np.quantile(drawn, level)
    assert quantile_of(lambda: iter([drawn[:1]]), 1, level) == drawn[0]
