"""What an aggregate may be said for: nothing usual for fraud, nothing unusual against it, and nothing that says nothing."""

from __future__ import annotations

import math

import pytest

from tsa.data.aggregates.spec import Aggregate
from tsa.explain.reason_kinds import AGAINST, EITHER, FOR
from tsa.explain.tree_reasons import speaks_of


def named(*parts: str) -> Aggregate:
    kind, feature, statistic, window = parts
    return Aggregate("card", kind, feature, statistic, window)  # type: ignore[arg-type]


COUNT = named("events", "", "count", "all")
RATIO, DIFFERENCE, STD = (named("number", "amount", name, "all") for name in ("ratio", "difference", "std"))
SHARE, TIMES, LAST, DISTINCT = (
    named("key", "shop", name, "all") for name in ("share", "count", "last_seconds", "distinct")
)
KNOWN, FRAUD, RATE = (named("outcome", "", name, "30d") for name in ("known", "fraud", "fraud_rate"))
CASES = {
    "3 times the average, beyond its spread": (RATIO, 3.0, {DIFFERENCE: 20.0, STD: 5.0}, FOR),
    "3 times the average, as often": (RATIO, 3.0, {DIFFERENCE: 20.0, STD: 30.0}, None),
    "a little more than the average": (RATIO, 1.4, {DIFFERENCE: 4.0, STD: 1.0}, None),
    "near the average": (RATIO, 1.1, {DIFFERENCE: 1.0, STD: 5.0}, AGAINST),
    "much less than the average": (RATIO, 0.2, {DIFFERENCE: -8.0, STD: 5.0}, EITHER),
    "an average of two payments": (RATIO, 3.0, {DIFFERENCE: 20.0, STD: 5.0, COUNT: 2.0}, None),
    "how much it varies": (STD, 8.0, {}, None),
    "a new shop of a card that has few": (SHARE, 0.0, {DISTINCT: 3.0}, FOR),
    "the same by its count": (TIMES, 0.0, {DISTINCT: 3.0}, FOR),
    "the same by its time": (LAST, math.nan, {DISTINCT: 3.0}, FOR),
    "a new shop of a card that has many": (SHARE, 0.0, {DISTINCT: 9.0}, None),
    "a shop that the card often uses": (SHARE, 0.4, {}, AGAINST),
    "a shop that it seldom uses": (SHARE, 0.05, {}, None),
    "how many shops": (DISTINCT, 9.0, {}, None),
    "known frauds": (FRAUD, 2.0, {KNOWN: 5.0}, FOR),
    "no fraud among known outcomes": (FRAUD, 0.0, {KNOWN: 5.0}, AGAINST),
    "no known outcomes": (FRAUD, 0.0, {KNOWN: 0.0}, None),
    "many known outcomes": (KNOWN, 200.0, {}, None),
    "a small rate": (RATE, 0.01, {}, None),
    "a great rate": (RATE, 0.2, {}, FOR),
    "a rate of 0": (RATE, 0.0, {}, AGAINST),
    "no rate": (RATE, math.nan, {}, None),
    "the first known fraud": (named("outcome", "", "first_fraud_seconds", "all"), 9.0, {}, None),
    "the last known fraud": (named("outcome", "", "last_fraud_seconds", "all"), 9.0, {}, FOR),
    "as known frauds": (named("fraud_number", "amount", "ratio", "all"), 1.1, {}, FOR),
    "not as known frauds": (named("fraud_number", "amount", "ratio", "all"), 3.0, {}, None),
    "payments in an hour": (named("events", "", "count", "1h"), 5.0, {}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_it_speaks_for(name: str) -> None:
    aggregate, value, others, expected = CASES[name]
    values = {COUNT.name: 10.0, **{other.name: seen for other, seen in others.items()}, aggregate.name: value}
    assert speaks_of(aggregate, values) == expected


@pytest.mark.parametrize(("value", "expected"), [(2.0, FOR), (0.5, AGAINST), (-0.5, AGAINST), (-2.0, EITHER)])
def test_scaled_numbers_by_their_spread(value: float, expected: int) -> None:
    """The average of scaled values is no amount, so a ratio of them says nothing."""
    values = {COUNT.name: 10.0, RATIO.name: 3.0, DIFFERENCE.name: value, STD.name: 1.0}
    assert speaks_of(DIFFERENCE, values, scaled=True) == expected
    assert speaks_of(RATIO, values, scaled=True) is None


def test_a_day_is_too_short_to_say_what_is_usual() -> None:
    day = named("number", "amount", "ratio", "1d")
    values = {named("events", "", "count", "1d").name: 9.0, day.name: 3.0}
    assert speaks_of(day, values) is None
