"""An aggregate's value in words, for reasons: "7 payments of this customer in the last hour"."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tsa.data.aggregates.spec import ALL, Aggregate

_UNITS = {"m": "minute", "h": "hour", "d": "day"}
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0


def describe(
    aggregate: Aggregate, value: float, names: Mapping[str, str] | None = None, *, scaled: bool = False
) -> str:
    """An aggregate of a payment in words.

    Args:
        aggregate: One of `AggregateSpec.aggregates`.
        value: Its value; NaN where there was nothing to aggregate.
        names: What features and histories are called, as `[reasons.names]`; by default by their own names.
        scaled: Whether numbers are of scaled values, as for rows that carry their own history: such a value is not
            stated, since nobody knows its unit.
    """
    called = dict(names or {})
    history = called.get(aggregate.history, aggregate.history)
    history += f" as {called.get(aggregate.role, aggregate.role)}" if aggregate.role else ""
    feature = called.get(aggregate.feature, aggregate.feature)
    text = _TEXTS[aggregate.kind, aggregate.statistic]
    if aggregate.kind == "outcome":
        text = _of_outcomes(aggregate, value)
    if scaled and aggregate.kind == "number":
        text = _SCALED.get(aggregate.statistic, _SCALED["mean"])
    never = aggregate.kind in ("categorical", "key") and aggregate.statistic in ("count", "share") and value == 0
    if math.isnan(value) or never:
        text = _MISSING.get(aggregate.kind, "no earlier payment of this {history} to compare with")
    one = value == 1
    return text.format(
        history=history,
        feature=feature,
        span=_span(aggregate.window, history),
        payments="1 payment" if one else f"{value:,.0f} payments",
        frauds="fraud" if one else "frauds",
        outcomes="outcome" if one else "outcomes",
        count=f"{value:,.0f}",
        times="once" if one else f"{value:,.0f} times",
        values="1 different value" if one else f"{value:,.0f} different values",
        percent=_percent(value),
        ago=_duration(value),
        ratio=_number(value),
        number=_number(value),
        signed=f"{_number(abs(value))} {'above' if value >= 0 else 'below'}",
        side="above" if value >= 0 else "below",
        fraud="fraud" if value else "genuine",
    )


_TEXTS: dict[tuple[str, str], str] = {
    ("events", "count"): "{payments} of this {history}{span}",
    ("gap", "last_seconds"): "last payment of this {history} {ago} ago",
    ("gap", "before_seconds"): "{ago} between the two payments of this {history} before",
    ("gap", "mean_seconds"): "a payment of this {history} every {ago} on average",
    ("gap", "first_seconds"): "first payment of this {history} {ago} ago",
    ("number", "total"): "{feature} of this {history} adds up to {number}{span}",
    ("number", "mean"): "average {feature} of this {history} {number}{span}",
    ("number", "std"): "{feature} of this {history} varies by {number}{span}",
    ("number", "highest"): "highest {feature} of this {history} {number}{span}",
    ("number", "ratio"): "{feature} {ratio} times this {history}'s average{span}",
    ("number", "difference"): "{feature} {signed} this {history}'s average{span}",
    ("outcome", "known"): "{count} known {outcomes} of this {history}",
    ("outcome", "fraud"): "{count} known {frauds} of this {history}",
    ("outcome", "fraud_rate"): "{percent} of this {history}'s known outcomes are fraud",
    ("outcome", "no_fraud_rate"): "none of this {history}'s known outcomes is fraud",
    ("outcome", "last_fraud_seconds"): "last known fraud of this {history} {ago} ago",
    ("outcome", "first_fraud_seconds"): "first known fraud of this {history} {ago} ago",
    ("outcome", "last_is_fraud"): "last known outcome of this {history}: {fraud}",
    ("fraud_number", "mean"): "average {feature} of this {history}'s known frauds {number}",
    ("fraud_number", "ratio"): "{feature} {ratio} times the average of this {history}'s known frauds",
}
for _kind in ("categorical", "key"):
    _TEXTS |= {
        (_kind, "count"): "same {feature} {times} before in this {history}'s payments",
        (_kind, "last_seconds"): "same {feature} last seen {ago} ago for this {history}",
        (_kind, "share"): "same {feature} in {percent} of this {history}'s payments",
        (_kind, "distinct"): "{values} of {feature} for this {history}",
    }

_BECAME_KNOWN = {
    "known": "{count} {outcomes} of this {history} became known{span}",
    "fraud": "{count} {frauds} of this {history} became known{span}",
    "fraud_rate": "{percent} of this {history}'s outcomes that became known{span} are fraud",
    "no_fraud_rate": "none of this {history}'s outcomes that became known{span} is fraud",
}
"""Windows of outcomes are of the time when they became known, not of the payments."""

_SCALED = {
    "difference": "{feature} {side} what is usual for this {history}{span}",
    "mean": "the usual {feature} of this {history}{span}",
    "std": "how much {feature} of this {history} varies{span}",
}

_MISSING = {
    "outcome": "no such known outcome of this {history}",
    "fraud_number": "no known fraud of this {history}",
    "categorical": "{feature} not seen before for this {history}",
    "key": "{feature} not seen before for this {history}",
}


def _of_outcomes(aggregate: Aggregate, value: float) -> str:
    """The text of an aggregate of known outcomes."""
    none = aggregate.statistic == "fraud_rate" and value == 0
    statistic = "no_fraud_rate" if none else aggregate.statistic
    known = _TEXTS["outcome", statistic]
    return known if aggregate.window == ALL else _BECAME_KNOWN.get(statistic, known)


def _span(window: str, history: str) -> str:
    if window == ALL:
        return ""
    count, unit = int(window[:-1]), _UNITS[window[-1]]
    return f" in the last {unit}" if count == 1 else f" in the last {count} {unit}s"


def _percent(value: float) -> str:
    return "0 %" if value == 0 else f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 10 else f"{value:.1f}"


def _duration(seconds: float) -> str:
    for size, unit in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}" if not math.isnan(seconds) else ""
