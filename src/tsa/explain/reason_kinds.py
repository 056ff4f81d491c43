"""The sentence for a feature, for the outcomes and for the pace of a history: the kind of reason, and its values.

Uses only facts: raw values, times and known outcomes.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsa.data.history import FRAUD, GENUINE
from tsa.explain.raw_values import UNKNOWN, Payment
from tsa.times import DAY_SECONDS

HOUR = 3600.0
MIN_EVENTS = 3
"""Minimum number of earlier values before one counts as usual."""
NEAR = 1.25
"""A number counts as near the usual one if their ratio is within this factor."""
USUAL_RANGE = (0.1, 0.9)
"""Quantiles of earlier values, gaps or counts: what is between them is usual."""
RARE = 0.1
"""A value is rare if it, and all that are as rare, make up at most this share of the earlier payments."""
OFTEN_NEW = 0.25
"""A new value means nothing if more than this share of the earlier payments have a value that occurred once."""
RECENT = 7 * DAY_SECONDS
"""A value is recent if it was first seen within this time, in a history that is at least three times as old."""
SELDOM, MIN_TIMES = 0.05, 20
"""An hour or day is unusual if a smaller share of earlier payments had it (hours: within two hours), of at least 20."""
MANY = ((HOUR, 3), (DAY_SECONDS, 4), (7 * DAY_SECONDS, 0))
"""A time span, and the number of payments in it, including the current one, that counts as many where nothing is known of
what is usual; in a week, nothing does."""
TIMES_BEFORE = 2.0
"""So many times as many as before are many, where a busy key's history is too short to say more of what is usual."""
MIN_BURST, MIN_WINDOWS = 3, 5
"""Payments that are more than usual; and times of the same length that show what is usual."""
FEW, ENOUGH = 3, 10
"""Up to this many earlier payments of a key are few; from so many on it is well known."""
PAUSE = 7 * DAY_SECONDS
FOR, EITHER, AGAINST = 1, 0, -1
"""What a sentence may be said for: fraud, if it names something unusual; against it, if something usual."""


@dataclass(frozen=True)
class ReasonTemplate:
    """A kind of reason (`tsa.config.reason_texts.REASONS`), and the values for its text."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    history: str | None = None
    speaks: int = EITHER
    feature: str | None = None
    """The key of another history, if it is about one."""

    def fits(self, attribution: float) -> bool:
        """Whether it may be said of an attribution for fraud (above 0) or against it."""
        return self.speaks * attribution >= 0


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


def of_number(name: str, value: float | None, pasts: Sequence[HistoryContext]) -> list[ReasonTemplate]:
    """Compare a number with those of each of `pasts` that has enough values."""
    if value is None:
        return _missing(name, pasts)
    compared = [(past, values) for past in pasts if len(values := past.values(name)) >= MIN_EVENTS]
    return [_compared(value, values, past.name) for past, values in compared] or [
        ReasonTemplate("value", {"value": number(value)})
    ]


def _missing(name: str, pasts: Sequence[HistoryContext]) -> list[ReasonTemplate]:
    """A missing value, compared with each history: usual where it is often missing."""
    shares = [1 - len(past.values(name)) / len(past.payments) for past in pasts if len(past.payments) >= MIN_EVENTS]
    return [ReasonTemplate("missing_value", speaks=FOR if share < RARE else AGAINST) for share in shares] or [
        ReasonTemplate("missing_value")
    ]


def _compared(value: float, values: Sequence[float], history: str) -> ReasonTemplate:
    usual = statistics.median(values)
    low, high = (float(edge) for edge in np.quantile(np.asarray(values, np.float64), USUAL_RANGE))
    facts = {"value": number(value), "usual": number(usual), "total": len(values)}
    positive = usual > 0 and value >= 0
    if value == usual or (positive and usual / NEAR <= value <= usual * NEAR):
        return ReasonTemplate("near_usual", facts, history, speaks=AGAINST)
    if low <= value <= high:
        facts |= {"low": number(low, 3), "high": number(high, 3)}
        return ReasonTemplate("in_usual_range", facts, history, speaks=AGAINST)
    if not positive:
        return ReasonTemplate("other_than_usual", facts, history, speaks=FOR)
    facts |= {"ratio": number(value / usual, 2)}
    higher = value > high
    return ReasonTemplate(
        "higher_than_usual" if higher else "lower_than_usual", facts, history, FOR if higher else EITHER
    )


def of_text(
    name: str, value: str | None, known: bool, pasts: Sequence[HistoryContext], fixed: Collection[str] = ()
) -> list[ReasonTemplate]:
    """Compare a categorical value with those of each of `pasts` that has enough values.

    Args:
        known: Whether the encoder knows the value.
        fixed: Histories whose payments all have the same value by nature, such as the category of a merchant: only another
            one is worth a sentence.
    """
    if value is None:
        return _missing(name, pasts)
    compared = [past for past in pasts if value != UNKNOWN and len(past.values(name)) >= MIN_EVENTS]
    if not compared:
        return [
            ReasonTemplate("value", {"value": value})
            if known
            else ReasonTemplate("unknown_value", {"value": value}, None, FOR)
        ]
    sentences = [_seen_before(name, value, past) for past in compared]
    return [one for one in sentences if one is not None and not (one.history in fixed and one.speaks == AGAINST)]


def _seen_before(name: str, value: str, past: HistoryContext) -> ReasonTemplate | None:
    """Whether the value is new, recent, rare or usual in a history; None if it is new where most values are new."""
    pairs = [
        (p.values[name], age) for p, age in zip(past.payments, past.ages, strict=True) if p.values.get(name) is not None
    ]
    counts = Counter(other for other, _ in pairs)
    count, total = counts[value], len(pairs)
    facts: dict[str, Any] = {"value": value, "count": count, "total": total}
    once = sum(n == 1 for other, n in counts.items() if other != value)
    mostly_new = once > OFTEN_NEW * total
    if not count:
        return None if mostly_new else ReasonTemplate("new_value", facts, past.name, FOR)
    ages = [age for other, age in pairs if other == value]
    before = sum(age > max(ages) for _, age in pairs)
    is_recent = max(ages) <= RECENT and before >= MIN_EVENTS and max(age for _, age in pairs) >= 3 * max(ages)
    if is_recent and not mostly_new:
        return ReasonTemplate("recent_value", facts | {"span": span(max(ages))}, past.name, FOR)
    rarer = sum(n for n in counts.values() if n <= count)
    if rarer <= RARE * total:
        return ReasonTemplate("rare_value", facts, past.name, FOR)
    return ReasonTemplate("known_value", facts, past.name, AGAINST)


def of_calendar(name: str, value: str | None, pasts: Sequence[HistoryContext]) -> list[ReasonTemplate]:
    """Compare an hour, day or month with those of each of `pasts` that has enough values."""
    if value is None:
        return [ReasonTemplate("missing_value")]
    sentences = []
    for past in pasts:
        if len(values := past.values(name)) >= MIN_EVENTS:
            differences = [abs(int(value) - int(other)) for other in values]
            near = [min(a, 24 - a) <= 2 if name == "hour_of_day" else a == 0 for a in differences]
            facts = {"value": value, "count": sum(near), "total": len(values)}
            if sum(near) >= SELDOM * len(near):
                sentences.append(ReasonTemplate("usual_time", facts, past.name, AGAINST))
            elif len(near) >= MIN_TIMES:
                sentences.append(ReasonTemplate("unusual_time", facts, past.name, FOR))
    return sentences or [ReasonTemplate("value", {"value": value})]


def of_outcomes(past: HistoryContext) -> list[ReasonTemplate]:
    """The known outcomes of a history; none if nothing is known."""
    frauds = [age for age, outcome in zip(past.ages, past.outcomes, strict=True) if outcome == FRAUD]
    known = len(frauds) + sum(outcome == GENUINE for outcome in past.outcomes)
    facts = {"count": len(frauds), "total": known}
    if not known:
        return []
    if not frauds:
        return [ReasonTemplate("no_known_fraud", facts, past.name, AGAINST)]
    kind = "known_fraud" if len(frauds) == 1 else "known_frauds"
    return [ReasonTemplate(kind, facts | {"span": span(max(frauds))}, past.name, FOR)]


def of_key(name: str, past: HistoryContext) -> list[ReasonTemplate]:
    """How many payments of a history have the current one's key of another history; nothing if it has few payments, or
    if the key is one of many.
    """
    if name not in past.same_key or len(past.payments) < MIN_EVENTS:
        return []
    count = past.same_key[name]
    facts = {"count": count, "total": len(past.payments)}
    if not count:
        return [ReasonTemplate("new_key", facts, past.name, FOR, name)]
    return [ReasonTemplate("known_key", facts, past.name, AGAINST, name)] if count >= RARE * len(past.payments) else []


def of_pace(past: HistoryContext) -> list[ReasonTemplate]:
    """The number of payments and their age, what is unusual first; none if there are no payments."""
    if not past.ages:
        return []
    sentences = [one for limit, many in MANY if (one := _burst(past, limit, many)) is not None]
    gaps = -np.diff(np.asarray(past.ages))
    if past.ages[-1] >= PAUSE and (not len(gaps) or past.ages[-1] >= np.quantile(gaps, USUAL_RANGE[1])):
        sentences.append(ReasonTemplate("after_pause", {"span": span(past.ages[-1])}, past.name, FOR))
    facts = {"count": _count(past, len(past.ages)), "span": span(past.ages[0])}
    if len(past.ages) <= FEW and not past.full:
        sentences.append(ReasonTemplate("few_payments", facts, past.name, FOR))
    elif len(past.ages) >= ENOUGH or past.full:
        sentences.append(ReasonTemplate("few_payments", facts, past.name, AGAINST))
    return sentences


def _burst(past: HistoryContext, limit: float, many: int) -> ReasonTemplate | None:
    """More payments within `limit` than usual; where too little is known of what is usual, at least `many`."""
    within = sum(age <= limit for age in past.ages)
    usual = usual_counts(past.ages, limit)
    facts = {"count": _count(past, within, 1), "span": span(limit)}
    if usual is None:
        is_many = limit <= DAY_SECONDS and within + 1 >= max(many, TIMES_BEFORE * _count_before(past.ages, limit))
        return ReasonTemplate("many_payments", facts, past.name, FOR) if is_many else None
    if within + 1 < max(MIN_BURST, usual[1] + min(usual[1], 2), 1.25 * usual[1]):
        return None
    low, high = usual
    return ReasonTemplate(
        "more_payments", facts | {"usual": str(high) if low == high else f"{low} to {high}"}, past.name, FOR
    )


def _count_before(ages: Sequence[float], limit: float) -> float:
    """The mean count in a time of `limit` seconds, before the last such time; 0 if the payments reach back less far."""
    time = (ages[0] if len(ages) else 0.0) - limit
    return sum(age > limit for age in ages) * limit / time if time >= limit else 0.0


def usual_counts(ages: Sequence[float], limit: float) -> tuple[int, int] | None:
    """The usual least and most number of payments in a time of `limit` seconds, before the last such time.

    The range of 80 % of all times of that length since the first of the payments (ages in seconds, oldest first); None if
    there are too few of them.
    """
    n = int(ages[0] / limit) - 1 if len(ages) else 0
    if n < MIN_WINDOWS:
        return None
    window = (np.asarray(ages) // limit).astype(np.int64) - 1
    counts = np.bincount(window[(window >= 0) & (window < n)], minlength=n)
    low, high = (
        np.quantile(counts, USUAL_RANGE[0], method="lower"),
        np.quantile(counts, USUAL_RANGE[1], method="higher"),
    )
    return int(low), int(high)


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
