"""The sentence for a feature, for the outcomes and for the pace of a history: the kind of reason, and its values.

Uses only facts: raw values, times and known outcomes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tsa.data.history import FRAUD, GENUINE
from tsa.explain.raw_values import UNKNOWN, Payment
from tsa.times import DAY_SECONDS

HOUR = 3600.0
MIN_EVENTS = 3
"""Minimum number of earlier values before one counts as usual."""
FAR = 1.5
"""A number counts as near the usual one if their ratio is within this factor."""
SELDOM = 0.05
"""An hour or day is unusual if a smaller share of earlier payments had it (hours: within two hours)."""
MANY = ((HOUR, 3), (DAY_SECONDS, 4))
"""A time span, and the number of payments in it, including the current one, that counts as many."""
PAUSE = 7 * DAY_SECONDS


@dataclass(frozen=True)
class ReasonTemplate:
    """A kind of reason (`tsa.config.optional_tables.REASONS`), and the values for its text."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    history: str | None = None


@dataclass(frozen=True)
class HistoryContext:
    """A history's e earlier payments, oldest first, with ages (e,) and outcomes (e,); `full`: there may be more.

    `same_key`: how many of them have the current payment's key of another history, by its name.
    """

    name: str
    payments: Sequence[Payment]
    ages: Sequence[float]
    outcomes: Sequence[int]
    full: bool
    same_key: Mapping[str, int] = field(default_factory=dict)

    def values(self, name: str) -> list[Any]:
        """The known earlier values of a feature."""
        return [p.values[name] for p in self.payments if p.values.get(name) is not None]


def of_number(name: str, value: float | None, pasts: Sequence[HistoryContext]) -> ReasonTemplate:
    """Compare a number with the usual one of the first of `pasts` with enough values."""
    if value is None:
        return ReasonTemplate("missing_value")
    fields = {"value": number(value)}
    for past in pasts:
        if len(values := past.values(name)) < MIN_EVENTS:
            continue
        usual = statistics.median(values)
        facts = {**fields, "usual": number(usual), "total": len(values)}
        if value == usual:
            return ReasonTemplate("near_usual", facts, past.name)
        if usual <= 0 or value < 0:
            return ReasonTemplate("other_than_usual", facts, past.name)
        kind = "higher_than_usual" if value >= FAR * usual else "lower_than_usual"
        near = usual / FAR < value < usual * FAR
        ratio = {} if near else {"ratio": number(value / usual, 2)}
        return ReasonTemplate("near_usual" if near else kind, facts | ratio, past.name)
    return ReasonTemplate("value", fields)


def of_text(name: str, value: str | None, known: bool, pasts: Sequence[HistoryContext]) -> ReasonTemplate:
    """A value of a categorical feature: new in a history, or its number of occurrences. known: to the encoder."""
    if value is None:
        return ReasonTemplate("missing_value")
    for past in pasts:
        if value != UNKNOWN and len(values := past.values(name)) >= MIN_EVENTS:
            count = values.count(value)
            facts = {"value": value, "count": count, "total": len(values)}
            return ReasonTemplate("known_value" if count else "new_value", facts, past.name)
    return ReasonTemplate("value" if known else "unknown_value", {"value": value})


def of_calendar(name: str, value: str | None, pasts: Sequence[HistoryContext]) -> ReasonTemplate:
    """Compare an hour, day or month with those of the first of `pasts` with enough values."""
    if value is None:
        return ReasonTemplate("missing_value")
    for past in pasts:
        if len(values := past.values(name)) >= MIN_EVENTS:
            differences = [abs(int(value) - int(other)) for other in values]
            near = [min(a, 24 - a) <= 2 if name == "hour_of_day" else a == 0 for a in differences]
            facts = {"value": value, "count": sum(near), "total": len(values)}
            return ReasonTemplate("unusual_time" if sum(near) < SELDOM * len(near) else "usual_time", facts, past.name)
    return ReasonTemplate("value", {"value": value})


def of_outcomes(past: HistoryContext) -> ReasonTemplate | None:
    """The known outcomes of a history; None if there are none."""
    frauds = [age for age, outcome in zip(past.ages, past.outcomes, strict=True) if outcome == FRAUD]
    known = len(frauds) + sum(outcome == GENUINE for outcome in past.outcomes)
    facts = {"count": len(frauds), "total": known}
    if not known:
        return None
    if not frauds:
        return ReasonTemplate("no_known_fraud", facts, past.name)
    return ReasonTemplate(
        "known_fraud" if len(frauds) == 1 else "known_frauds", facts | {"span": span(max(frauds))}, past.name
    )


def of_key(name: str, past: HistoryContext) -> ReasonTemplate | None:
    """How many payments of a history have the current one's key of another history; None if there are no payments."""
    if name not in past.same_key or not past.payments:
        return None
    count = past.same_key[name]
    facts = {"count": count, "total": len(past.payments)}
    return ReasonTemplate("known_key" if count else "new_key", facts, past.name)


def of_pace(past: HistoryContext) -> ReasonTemplate | None:
    """The number of payments and their age; None if there are none."""
    if not past.ages:
        return None
    for limit, many in MANY:
        within = sum(age <= limit for age in past.ages)
        if within + 1 >= many:
            return ReasonTemplate("many_payments", {"count": _count(past, within, 1), "span": span(limit)}, past.name)
    if past.ages[-1] >= PAUSE:
        return ReasonTemplate("after_pause", {"span": span(past.ages[-1])}, past.name)
    return ReasonTemplate(
        "few_payments", {"count": _count(past, len(past.ages)), "span": span(past.ages[0])}, past.name
    )


def _count(past: HistoryContext, n: int, more: int = 0) -> str:
    """A count of payments; "at least" if the history may reach further back."""
    prefix = "at least " if past.full and n == len(past.ages) else ""
    return f"{prefix}{n + more}"


def span(seconds: float) -> str:
    """A time in hours up to two days, else in days, rounded up."""
    hours = max(1, math.ceil(seconds / HOUR - 1e-9))
    if hours == 24:
        return "day"
    if hours < 48:
        return "hour" if hours == 1 else f"{hours} hours"
    return f"{math.ceil(seconds / DAY_SECONDS - 1e-9)} days"


def number(value: float, digits: int = 6) -> str:
    """A number with the given significant digits, without an exponent if possible."""
    value = float(f"{value:.{digits}g}")
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    return f"{value:.10f}".rstrip("0").rstrip(".")
