"""Fit scalers on training rows that come in parts: what is learned of each part is added up exactly.

The mean and the width are rounded once. Quantiles are those of all values: a first pass over the rows finds limits of bins, a
second counts the values between them, and a third reads the values of the bins that have a quantile.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from tsa.config.market import Numerical
from tsa.data.encoding.exact_sums import (
    Float64,
    Int64,
    OrderStatistics,
    counts_between,
    exact_sum,
    joined_samples,
    mean_of,
    sample_of,
    values_in,
)
from tsa.data.encoding.scaler import Scaler, float_column, transformed
from tsa.data.encoding.training_rows import Rows
from tsa.errors import DataError

MAX_QUANTILES = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one pass learns of a feature."""

    count: int
    missing: int
    low: float
    high: float
    total: int | float
    """As `exact_sum` returns it."""
    sample: Float64

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            count=self.count + other.count,
            missing=self.missing + other.missing,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            total=self.total + other.total,
            sample=joined_samples(self.sample, other.sample),
        )


def fit_scalers(features: Sequence[Numerical], rows: Rows) -> tuple[Scaler, ...]:
    """Fit the scalers of the features. A constant feature is not divided.

    Raises:
        DataError: For values outside the domain of log1p, or values whose range is too wide for float64.
    """
    if not features:
        return ()
    names = [feature.name for feature in features]
    summaries: dict[str, Summary] = {}
    for in_part in rows.each(_summaries, names, tuple(features)):
        summaries = {name: summaries[name] + one if name in summaries else one for name, one in in_part.items()}
    later = [feature for feature in features if _has_width(summaries[feature.name])]
    settings = {
        feature.name: _limits(feature, summaries[feature.name]) for feature in later if feature.scale == "minmax"
    }
    settings |= _spread([feature for feature in later if feature.scale == "standard"], summaries, rows)
    valued = [feature for feature in features if feature.scale == "quantile" and summaries[feature.name].count]
    settings |= _quantiles(valued, summaries, rows)
    return tuple(_scaler(feature, summaries[feature.name], settings.get(feature.name)) for feature in features)


def _has_width(summary: Summary) -> bool:
    return bool(summary.count) and summary.low != summary.high


def _scaler(feature: Numerical, summary: Summary, settings: Mapping[str, Any] | None) -> Scaler:
    if not summary.count:
        _log.warning("%s: no training row has a value", feature.name)
    constant = {"centre": summary.low} if summary.count and feature.scale != "quantile" else {}
    return Scaler(
        name=feature.name,
        transform=feature.transform,
        scale=feature.scale,
        had_missing=summary.missing > 0,
        **(constant if settings is None else settings),
    )


def _moved(frame: pl.DataFrame, feature: Numerical) -> Float64:
    """The values of a feature that are not missing, transformed. There is one zero, or the first of several would count."""
    values = float_column(frame, feature.name)
    return transformed(feature.name, feature.transform, values[~np.isnan(values)]) + 0.0


def _summaries(frame: pl.DataFrame, features: Sequence[Numerical]) -> dict[str, Summary]:
    in_part = {}
    for feature in features:
        values = _moved(frame, feature)
        in_part[feature.name] = Summary(
            count=len(values),
            missing=len(frame) - len(values),
            low=float(values.min(initial=math.inf)),
            high=float(values.max(initial=-math.inf)),
            total=exact_sum(values) if feature.scale == "standard" else 0,
            sample=sample_of(values) if feature.scale == "quantile" else np.empty(0),
        )
    return in_part


def _limits(feature: Numerical, summary: Summary) -> dict[str, float]:
    return _checked(feature, summary, summary.low, summary.high - summary.low)


def _checked(feature: Numerical, summary: Summary, centre: float, width: float) -> dict[str, float]:
    if not (math.isfinite(centre) and math.isfinite(width)):
        shown = f"{summary.low} to {summary.high}"
        raise DataError(f"numerical feature {feature.name!r} must have values that can be scaled (got {shown})")
    return {"centre": centre, "width": width or 1.0}


def _spread(features: Sequence[Numerical], summaries: Mapping[str, Summary], rows: Rows) -> dict[str, dict[str, float]]:
    """The mean and the standard deviation of features."""
    if not features:
        return {}
    means = {f.name: mean_of(summaries[f.name].total, summaries[f.name].count) for f in features}
    totals: dict[str, int | float] = dict.fromkeys(means, 0)
    for in_part in rows.each(_squares, list(means), (tuple(features), means)):
        totals = {name: totals[name] + in_part[name] for name in totals}
    return {
        feature.name: _checked(
            feature,
            summaries[feature.name],
            means[feature.name],
            math.sqrt(mean_of(totals[feature.name], summaries[feature.name].count)),
        )
        for feature in features
    }


def _squares(frame: pl.DataFrame, wanted: tuple[Sequence[Numerical], Mapping[str, float]]) -> dict[str, int | float]:
    """The sums of the squared differences from the means."""
    features, means = wanted
    with np.errstate(over="ignore", invalid="ignore"):
        return {feature.name: exact_sum((_moved(frame, feature) - means[feature.name]) ** 2) for feature in features}


def _between(count: int) -> tuple[Float64, Int64, Int64, Float64]:
    """The levels of the quantiles of `count` numbers, and by level the places of the numbers next to it, and how far it is
    from the first to the second.
    """
    levels = np.linspace(0.0, 1.0, min(MAX_QUANTILES, max(count, 2)))
    place = levels * (count - 1)
    below = np.floor(place).astype(np.int64)
    return levels, below, np.minimum(below + 1, count - 1), place - below


def _quantiles(
    features: Sequence[Numerical], summaries: Mapping[str, Summary], rows: Rows
) -> dict[str, dict[str, Any]]:
    """Strictly ascending knots and the share of values up to each. A frequent value gets the middle of its range."""
    if not features:
        return {}
    limits = {feature.name: summaries[feature.name].sample for feature in features}
    settings = {name: (own,) for name, own in limits.items()}
    counts: dict[str, Int64] = {}
    for in_part in rows.each(partial(_binned, counts_between), list(limits), (tuple(features), settings)):
        counts = {name: counts[name] + one if name in counts else one for name, one in in_part.items()}
    bins = {name: OrderStatistics(limits[name], counts[name]) for name in limits}
    between = {name: _between(summaries[name].count) for name in limits}
    places = {name: np.unique(np.concatenate(between[name][1:3])) for name in limits}
    wanted = {name: (limits[name], bins[name].wanted(places[name])) for name in limits}
    parts = list(rows.each(partial(_binned, values_in), list(limits), (tuple(features), wanted)))
    made = {}
    for name, (levels, below, above, share) in between.items():
        numbers = bins[name].at(places[name], [one[name] for one in parts])
        low, high = (numbers[np.searchsorted(places[name], which)] for which in (below, above))
        quantiles = np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))
        knots, group = np.unique(quantiles, return_inverse=True)
        of_knots = np.bincount(group, weights=levels) / np.bincount(group)
        made[name] = {"knots": tuple(knots.tolist()), "levels": tuple(of_knots.tolist())}
    return made


def _binned(work: Any, frame: pl.DataFrame, wanted: tuple[Sequence[Numerical], Mapping[str, Any]]) -> dict[str, Any]:
    features, settings = wanted
    return {feature.name: work(_moved(frame, feature), *settings[feature.name]) for feature in features}
