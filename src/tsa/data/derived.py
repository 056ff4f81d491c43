"""Compute derived features from typed columns, with one Polars expression each, for logs and single payments alike.

The value of a row depends on that row alone. A missing input gives a missing value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from tsa.config.derived import Derived, DerivedInput, InputKind
from tsa.config.market import Market
from tsa.times import DAY_SECONDS

EARTH_RADIUS_KM = 6371.0088
"""The mean radius (IUGG)."""
YEARS_PER_SECOND = 1.0 / (365.2425 * DAY_SECONDS)
"""The mean year of the Gregorian calendar."""
LIMITS: dict[InputKind, float] = {"latitude": 90.0, "longitude": 180.0}
"""Degrees of a place, up to these on both sides of 0."""
IS_TEXT: dict[InputKind, bool] = {"text": True, "digits": True}


def input_name(feature: Derived, at: int) -> str:
    """The column with a typed input of a derived feature. No column of a market begins with two underscores."""
    return f"__input:{feature.name}:{at}"


def inputs_of(market: Market) -> dict[str, DerivedInput]:
    """All inputs of the market's derived features, by `input_name`."""
    event = market.event
    return {
        input_name(feature, at): item
        for feature in market.features.derivations
        for at, item in enumerate(feature.inputs(event.time, event.time_unit))
    }


def input_columns(market: Market) -> dict[str, InputKind]:
    """The columns of the log that derived features are computed from, with how the first of them reads each."""
    kinds: dict[str, InputKind] = {}
    for item in inputs_of(market).values():
        kinds.setdefault(item.column, item.kind)
    return kinds


def derived_columns(market: Market, columns: Callable[[str], pl.Expr] = pl.col) -> dict[str, pl.Expr]:
    """An expression for each derived feature: Float64, or String where the market uses it as a text.

    Args:
        columns: The expression of a typed input by `input_name`: Float64 (numbers, epoch seconds) or String.
    """
    numbers = market.number_columns
    made = {}
    for feature in market.features.derivations:
        inputs = [columns(input_name(feature, at)) for at in range(len(feature.inputs(market.event.time, None)))]
        made[feature.name] = _typed(feature, _VALUES[feature.kind](feature, inputs), feature.name in numbers)
    return made


def derive(market: Market, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The derived features of B payments, given the typed inputs of each by `input_name`."""
    schema = {name: pl.String() if IS_TEXT.get(item.kind) else pl.Float64() for name, item in inputs_of(market).items()}
    frame = pl.DataFrame([dict(row) for row in inputs], schema=schema, orient="row")
    return frame.select(**derived_columns(market)).to_dicts()


def _typed(feature: Derived, value: pl.Expr, as_number: bool) -> pl.Expr:
    if feature.kind in ("prefix", "pattern"):
        return value
    if as_number:
        value = value.cast(pl.Float64)
        return pl.when(value.is_finite()).then(value)
    return value.cast(pl.String)


def _distance(_: Derived, inputs: Sequence[pl.Expr]) -> pl.Expr:
    """The haversine formula (Sinnott 1984)."""
    latitude, longitude, other_latitude, other_longitude = (degrees.radians() for degrees in inputs)
    half = ((other_latitude - latitude) / 2).sin() ** 2
    half += latitude.cos() * other_latitude.cos() * ((other_longitude - longitude) / 2).sin() ** 2
    return 2 * EARTH_RADIUS_KM * half.clip(0.0, 1.0).sqrt().arcsin()


def _seconds(_: Derived, inputs: Sequence[pl.Expr]) -> pl.Expr:
    return inputs[1] - inputs[0]


def _equal(_: Derived, inputs: Sequence[pl.Expr]) -> pl.Expr:
    return inputs[0] == inputs[1]


def _local(feature: Derived, inputs: Sequence[pl.Expr]) -> pl.Expr:
    """The time in the feature's zone."""
    microseconds = inputs[0].floor().cast(pl.Int64) * 1_000_000
    moment = microseconds.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return moment.dt.convert_time_zone(feature.zone or "UTC")


def _weekday(feature: Derived, inputs: Sequence[pl.Expr]) -> pl.Expr:
    """Monday is 0, as in `features.calendar`."""
    return _local(feature, inputs).dt.weekday() - 1


def _ratio(_: Derived, inputs: Sequence[pl.Expr]) -> pl.Expr:
    return pl.when(inputs[1] != 0).then(inputs[0] / inputs[1])


_VALUES: dict[str, Callable[[Derived, Sequence[pl.Expr]], pl.Expr]] = {
    "distance_km": _distance,
    # a product: Polars divides one row and many rows by a constant with different rounding
    "years_between": lambda feature, inputs: _seconds(feature, inputs) * YEARS_PER_SECOND,
    "seconds_between": _seconds,
    "ratio": _ratio,
    "difference": lambda _, inputs: inputs[0] - inputs[1],
    "equal": _equal,
    "prefix": lambda feature, inputs: inputs[0].str.slice(0, feature.length),
    "length": lambda _, inputs: inputs[0].str.len_chars().cast(pl.Int64),
    "pattern": lambda feature, inputs: inputs[0].str.extract(feature.pattern or "", feature.group),
    "hour_of_day": lambda feature, inputs: _local(feature, inputs).dt.hour(),
    "day_of_week": _weekday,
    "day_of_month": lambda feature, inputs: _local(feature, inputs).dt.day(),
    "is_weekend": lambda feature, inputs: _weekday(feature, inputs) >= 5,
}
