"""What an aggregate may be said for: fraud where its value is unusual in that direction, the opposite where it is usual."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tsa.data.aggregates.spec import ALL, Aggregate
from tsa.explain.reason_kinds import AGAINST, EITHER, FOR, MIN_EVENTS, NEAR

FAR = 1.5
"""A number is unusual for a history from this many times its average, or below the inverse."""
MOSTLY_NEW = 0.5
"""A new value means nothing where more than this share of a history's events have different values."""
OFTEN = 0.1
"""A value is usual if at least this share of a history's events have it."""
FRAUD_RATE = 0.05
"""Known outcomes of a history speak for fraud from this share of frauds."""


def speaks_of(aggregate: Aggregate, values: Mapping[str, float], *, scaled: bool = False) -> int | None:
    """FOR, AGAINST or EITHER; None if a sentence on this aggregate would say nothing.

    Args:
        values: All aggregates of the payment, by name; NaN where there was nothing to aggregate.
        scaled: Whether numbers are scaled, as for rows that carry their own history.
    """
    value = values[aggregate.name]
    if aggregate.kind == "number":
        return _of_number(aggregate, value, values, scaled=scaled)
    if aggregate.kind in ("categorical", "key"):
        return _of_value(aggregate, value, values)
    if aggregate.kind == "outcome":
        return _of_outcome(aggregate, value, values)
    if aggregate.kind == "fraud_number" and aggregate.statistic == "ratio":
        return FOR if 1 / NEAR <= value <= NEAR else None
    return None  # the pace of a history is said with what is usual (`tsa.explain.reason_kinds.of_pace`)


def _other(aggregate: Aggregate, kind: str, statistic: str, values: Mapping[str, float], window: str = ALL) -> float:
    """Another aggregate of the same history; NaN if there is none."""
    feature = aggregate.feature if kind == aggregate.kind else ""
    other = Aggregate(aggregate.history, kind, feature, statistic, window, aggregate.role)  # type: ignore[arg-type]
    return values.get(other.name, math.nan)


def _of_number(aggregate: Aggregate, value: float, values: Mapping[str, float], *, scaled: bool) -> int | None:
    if math.isnan(value) or not _other(aggregate, "events", "count", values, aggregate.window) >= MIN_EVENTS:
        return None
    if scaled and aggregate.statistic == "difference":
        spread = _other(aggregate, "number", "std", values, aggregate.window)
        return AGAINST if abs(value) <= spread else FOR if value > 0 else EITHER
    if scaled or aggregate.statistic != "ratio" or aggregate.window[-1] in "mh" or aggregate.window == "1d":
        return None  # payments of one day say little of what is usual
    if 1 / NEAR <= value <= NEAR:
        return AGAINST
    difference = _other(aggregate, "number", "difference", values, aggregate.window)
    if not abs(difference) > _other(aggregate, "number", "std", values, aggregate.window):
        return None
    return FOR if value >= FAR else EITHER if value <= 1 / FAR else None


def _of_value(aggregate: Aggregate, value: float, values: Mapping[str, float]) -> int | None:
    events = _other(aggregate, "events", "count", values)
    if not events >= MIN_EVENTS:
        return None
    is_new = math.isnan(value) if aggregate.statistic == "last_seconds" else value == 0
    if aggregate.statistic != "distinct" and is_new:
        different = _other(aggregate, aggregate.kind, "distinct", values)
        return None if different > MOSTLY_NEW * events else FOR
    often = _other(aggregate, aggregate.kind, "share", values) >= OFTEN
    return AGAINST if aggregate.statistic in ("count", "share", "last_seconds") and often else None


def _of_outcome(aggregate: Aggregate, value: float, values: Mapping[str, float]) -> int | None:
    if math.isnan(value) or aggregate.statistic in ("known", "first_fraud_seconds"):
        return None
    if aggregate.statistic == "last_fraud_seconds":
        return FOR
    if aggregate.statistic == "fraud" and value == 0:
        return AGAINST if _other(aggregate, "outcome", "known", values, aggregate.window) > 0 else None
    if aggregate.statistic == "fraud_rate" and value:
        return FOR if value >= FRAUD_RATE else None
    return FOR if value else AGAINST
