from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Numerical
from tsa.data.encoding.fit_scalers import fit_scalers
from tsa.data.encoding.scaler import LIMIT, Scaler, ScalerGroup
from tsa.data.encoding.training_rows import TrainingRows
from tsa.errors import DataError

SCALES = ("minmax", "standard", "quantile")
TRANSFORMS = ("none", "log1p", "signed_log1p")
values = st.one_of(st.none(), st.floats(0, 1e9), st.integers(0, 3).map(float))
features = st.builds(Numerical, name=st.just("x"), transform=st.sampled_from(TRANSFORMS), scale=st.sampled_from(SCALES))


def _frame(rows: Sequence[float | None]) -> pl.DataFrame:
    return pl.DataFrame({"x": rows}, schema={"x": pl.Float64})


def _fitted(features: Sequence[Numerical], rows: pl.DataFrame) -> ScalerGroup:
    return ScalerGroup(fit_scalers(features, TrainingRows(rows.lazy())))


def _fit(rows: Sequence[float | None], **settings: str) -> ScalerGroup:
    return _fitted([Numerical.model_validate({"name": "x", **settings})], _frame(rows))


def test_standard_and_minmax() -> None:
    rows = [1.0, 2.0, 3.0, 6.0]
    standard = _fit(rows, scale="standard").encode(_frame(rows))[:, 0]
    assert standard.mean() == pytest.approx(0, abs=1e-6)
    assert standard.std() == pytest.approx(1)
    assert _fit(rows, scale="minmax").encode(_frame([1.0, 6.0, 11.0]))[:, 0].tolist() == [0, 1, 2]


def test_log1p_then_scale() -> None:
    fitted = _fit([0.0, math.e - 1], transform="log1p", scale="minmax")
    assert fitted.encode(_frame([math.e**2 - 1]))[0, 0] == pytest.approx(2)
    signed = _fit([0.0, math.e - 1], transform="signed_log1p", scale="minmax")
    assert signed.encode(_frame([1 - math.e]))[0, 0] == pytest.approx(-1)


def test_log1p_refuses_what_it_has_no_value_for() -> None:
    with pytest.raises(DataError, match=r"'x' must be above -1 for log1p [(]got -1\.0 \(and 1 more\)"):
        _fit([0.0, -1.0, -2.0], transform="log1p")
    with pytest.raises(DataError, match="signed_log1p"):
        _fit([0.0, 1.0], transform="log1p").encode(_frame([-1.5]))


def test_quantile_is_the_share_of_training_values_below() -> None:
    fitted = _fit([float(i) for i in range(10_001)], scale="quantile")
    assert len(fitted.scalers[0].knots) == 1000
    encoded = fitted.encode(_frame([-5.0, 0.0, 2500.0, 5000.0, 10_000.0, 1e6]))[:, 0]
    assert encoded == pytest.approx([0, 0, 0.25, 0.5, 1, 1], abs=1e-6)


def test_quantile_of_a_value_that_many_rows_share_is_the_middle_of_its_range() -> None:
    fitted = _fit([0.0] * 500 + [1.0 + i for i in range(501)], scale="quantile")
    assert fitted.encode(_frame([0.0]))[0, 0] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("scale", SCALES)
def test_a_constant_feature_is_not_divided_by_zero(scale: str) -> None:
    encoded = _fit([7.1] * 13, scale=scale).encode(_frame([7.1, 8.1]))
    assert np.isfinite(encoded).all()


@pytest.mark.parametrize("scale", SCALES)
def test_a_feature_without_any_training_value_stays_finite(scale: str) -> None:
    encoded = _fit([None, None], scale=scale).encode(_frame([None, 8.1]))
    assert np.isfinite(encoded).all()
    assert encoded[:, 1].tolist() == [1, 0]


def test_values_far_outside_stay_finite() -> None:
    fitted = _fit([0.0, 1e-300], scale="minmax")
    assert fitted.encode(_frame([1e300, -1e300]))[:, 0].tolist() == [LIMIT, -LIMIT]
    with pytest.raises(DataError, match="can be scaled"):
        _fit([-1.7e308, 1.7e308], scale="minmax")


def test_missing_values_are_marked(caplog: pytest.LogCaptureFixture) -> None:
    rows = pl.DataFrame({"a": [1.0, None, 3.0], "b": [1.0, 2.0, 3.0]})
    fitted = _fitted([Numerical(name="a"), Numerical(name="b")], rows)
    assert fitted.names == ("a", "b", "a is missing", "another value is missing")
    with caplog.at_level(logging.WARNING):
        encoded = fitted.encode(pl.DataFrame({"a": [None, 2.0, 2.0], "b": [2.0, None, 2.0]}))
    assert encoded.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert "b: 1 rows have no value" in caplog.text
    assert _fitted([Numerical(name="a")], rows).names == ("a", "a is missing")
    assert ScalerGroup(()).encode(rows).shape == (3, 0)


def test_a_column_that_is_absent_no_number_or_infinite_is_refused() -> None:
    fitted = _fit([0.0, 1.0])
    with pytest.raises(DataError, match="'x' must be a column"):
        fitted.encode(pl.DataFrame({"y": [1.0]}))
    with pytest.raises(DataError, match=r"must be of a numeric type [(]got String"):
        fitted.encode(pl.DataFrame({"x": ["1"]}))
    with pytest.raises(DataError, match="must be finite, but 1 rows are infinite"):
        fitted.encode(_frame([math.inf]))


@settings(max_examples=80, deadline=None)
@given(feature=features, train=st.lists(values, max_size=30), rows=st.lists(values, min_size=1, max_size=20))
def test_a_row_is_encoded_alone(feature: Numerical, train: list[float | None], rows: list[float | None]) -> None:
    fitted = _fitted([feature], _frame(train))
    together = fitted.encode(_frame(rows))
    alone = np.concatenate([fitted.encode(_frame([value])) for value in rows])
    assert together.tobytes() == alone.tobytes()
    assert np.isfinite(together).all()
    assert together[:, 1].tolist() == [float(value is None) for value in rows]


@settings(max_examples=80, deadline=None)
@given(feature=features, train=st.lists(values, min_size=1, max_size=30), rows=st.lists(st.floats(0, 1e9), max_size=20))
def test_scaling_keeps_the_order_of_values(feature: Numerical, train: list[float | None], rows: list[float]) -> None:
    (scaler,) = _fitted([feature], _frame(train)).scalers
    encoded = scaler.encode(np.sort(np.array(rows)))
    assert (np.diff(encoded) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(feature=features, train=st.lists(values, max_size=30))
def test_json_round_trip_is_exact(feature: Numerical, train: list[float | None]) -> None:
    (scaler,) = _fitted([feature], _frame(train)).scalers
    assert Scaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler
