"""Which sentence tells of which facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tsa.data.history import FRAUD, GENUINE, UNKNOWN_OUTCOME
from tsa.explain.raw_values import UNKNOWN, Payment
from tsa.explain.reason_kinds import (
    AGAINST,
    EITHER,
    FOR,
    HOUR,
    HistoryContext,
    ReasonTemplate,
    number,
    of_calendar,
    of_key,
    of_number,
    of_outcomes,
    of_pace,
    of_text,
    span,
    usual_counts,
)
from tsa.times import DAY_SECONDS


def past(
    ages: list[float] | None = None, outcomes: list[int] | None = None, full: bool = False, **values: Any
) -> HistoryContext:
    n = len(next(iter(values.values()), ages or outcomes or []))
    payments = [Payment(at, 0.0, {name: column[at] for name, column in values.items()}) for at in range(n)]
    return HistoryContext(
        "card", payments, ages or [DAY_SECONDS * (n - at) for at in range(n)], outcomes or [UNKNOWN_OUTCOME] * n, full
    )


@pytest.mark.parametrize(
    ("value", "earlier", "kind", "facts", "speaks"),
    [
        (82.0, [10.0, 20.0, 30.0], "higher_than_usual", {"ratio": "4.1", "usual": "20", "total": 3}, FOR),
        (2.0, [10.0, 20.0, 30.0], "lower_than_usual", {"ratio": "0.1"}, EITHER),
        (21.0, [10.0, 20.0, None, 30.0], "near_usual", {"value": "21", "usual": "20"}, AGAINST),
        (25.0, [10.0, 20.0, 30.0], "near_usual", {"usual": "20"}, AGAINST),
        (26.0, [10.0, 20.0, 30.0], "in_usual_range", {"low": "12", "high": "28", "usual": "20"}, AGAINST),
        (50.11, [20.0, 34.77, 34.77, 36.0, 90.0], "in_usual_range", {"value": "50.11"}, AGAINST),
        (5.0, [0.0, 0.0, 1.0], "other_than_usual", {"usual": "0"}, FOR),
        (-5.0, [2.0, 2.0, 1.0], "other_than_usual", {"value": "-5"}, FOR),
        (0.0, [0.0, 0.0, 0.0], "near_usual", {}, AGAINST),
        (5.0, [1.0, 1.0], "value", {"value": "5"}, EITHER),
        (None, [1.0, 1.0, 1.0], "missing_value", {}, FOR),
        (None, [1.0, None, 1.0], "missing_value", {}, AGAINST),
        (None, [1.0], "missing_value", {}, EITHER),
    ],
)
def test_numbers(value: float | None, earlier: list[float], kind: str, facts: dict[str, Any], speaks: int) -> None:
    found = of_number("x", value, [past(x=earlier)])[0]
    assert (found.kind, found.speaks) == (kind, speaks)
    assert facts.items() <= found.facts.items()


OFTEN = ["b"] * 19


@pytest.mark.parametrize(
    ("value", "earlier", "known", "kind", "speaks"),
    [
        ("a", ["b", "c", "b", "c"], True, "new_value", FOR),
        ("a", ["b", "c", "d", "e"], True, None, None),
        ("a", ["b", "a", None, "b"], True, "known_value", AGAINST),
        ("a", ["a", *OFTEN], True, "rare_value", FOR),
        ("a", [f"{at}" for at in range(19)] + ["a"], True, "known_value", AGAINST),
        ("a", [*OFTEN, "a", "a", "b"], True, "recent_value", FOR),
        ("a", ["a", "a", "a", "a"], True, "known_value", AGAINST),
        ("a", ["b", "b"], True, "value", EITHER),
        ("a", ["b", "b"], False, "unknown_value", FOR),
        ("a", ["b", "b", "c", "c"], False, "new_value", FOR),
        (UNKNOWN, ["b", "b", "c"], False, "unknown_value", FOR),
        (None, ["b", "b", "c"], True, "missing_value", FOR),
    ],
)
def test_texts(value: str | None, earlier: list[str], known: bool, kind: str | None, speaks: int | None) -> None:
    found = of_text("x", value, known, [past(x=earlier)])
    if kind is None:
        assert found == [], "where most values are new, a new one says nothing"
    else:
        assert (found[0].kind, found[0].speaks) == (kind, speaks)


def test_a_recent_value_is_said_with_its_time() -> None:
    found = of_text(
        "x", "a", True, [past([100 * HOUR, 90 * HOUR, 80 * HOUR, 20 * HOUR, HOUR], x=["b", "c", "b", "a", "a"])]
    )
    assert found[0].kind == "recent_value"
    assert found[0].facts == {"value": "a", "count": 2, "total": 5, "span": "20 hours"}


def test_a_history_with_enough_values_is_compared_with() -> None:
    few, enough = past(x=["a"]), past(x=["b", "b", "a"])
    found = of_text("x", "a", True, [few, enough])
    assert [one.facts for one in found] == [{"value": "a", "count": 1, "total": 3}]


def test_what_never_changes_in_a_history_is_not_said() -> None:
    """All payments of a merchant have its category; only another one is worth a sentence."""
    of_merchant = past(x=["a", "a", "a", "a"])
    assert of_text("x", "a", True, [of_merchant], fixed=["card"]) == []
    assert of_text("x", "a", True, [of_merchant])[0].kind == "known_value"
    assert of_text("x", "b", True, [of_merchant], fixed=["card"])[0].kind == "new_value"


@pytest.mark.parametrize(
    ("name", "value", "earlier", "kind", "speaks"),
    [
        ("hour_of_day", "3", ["12", "13", "14"] * 7, "unusual_time", FOR),
        ("hour_of_day", "23", ["1", "13", "14"], "usual_time", AGAINST),
        ("day_of_week", "6", ["0", "1", "1"] * 7, "unusual_time", FOR),
        ("day_of_week", "6", ["6", "1", "1"], "usual_time", AGAINST),
        ("hour_of_day", "3", ["12"], "value", EITHER),
    ],
)
def test_times(name: str, value: str, earlier: list[str], kind: str, speaks: int) -> None:
    found = of_calendar(name, value, [past(**{name: earlier})])[0]
    assert (found.kind, found.speaks) == (kind, speaks)


def test_a_few_payments_at_other_times_are_not_unusual_yet() -> None:
    assert of_calendar("day_of_week", "6", [past(day_of_week=["0", "1", "1"])])[0].kind == "value"


def test_outcomes() -> None:
    ages = [40 * DAY_SECONDS, 8.2 * DAY_SECONDS, 7.5 * DAY_SECONDS, DAY_SECONDS]
    (several,) = of_outcomes(past(ages, [GENUINE, FRAUD, FRAUD, UNKNOWN_OUTCOME]))
    assert (several.kind, several.facts) == ("known_frauds", {"count": 2, "total": 3, "span": "9 days"})
    (one,), (none,) = of_outcomes(past(ages, [FRAUD, 2, 2, 1])), of_outcomes(past(ages, [2, 2, 1, 1]))
    assert (one.kind, one.speaks) == ("known_fraud", FOR)
    assert (none.kind, none.speaks) == ("no_known_fraud", AGAINST)
    assert of_outcomes(past(ages, [UNKNOWN_OUTCOME] * 4)) == []


LONG = [DAY_SECONDS * at for at in range(60, 2, -2)]
"""A payment every other day for two months."""


def test_keys() -> None:
    earlier = replace(past([3.0, 2.0, 1.0]), same_key={"merchant": 2, "device": 0})
    (known,), (new,) = of_key("merchant", earlier), of_key("device", earlier)
    assert (known.kind, known.facts, known.history) == ("known_key", {"count": 2, "total": 3}, "card")
    assert (known.speaks, new.kind, new.speaks) == (AGAINST, "new_key", FOR)
    assert of_key("terminal", earlier) == [], "the payment has no such key"
    assert of_key("merchant", replace(past(), same_key={"merchant": 0})) == [], "no earlier payments"


@pytest.mark.parametrize(
    ("ages", "full", "kind", "facts", "speaks"),
    [
        ([3.5 * HOUR, 3000.0, 2000.0, 10.0], False, "many_payments", {"count": "4", "span": "hour"}, FOR),
        ([3000.0, 2000.0, 10.0], True, "many_payments", {"count": "at least 4", "span": "hour"}, FOR),
        ([20 * HOUR, 3 * HOUR, 2 * HOUR], False, "many_payments", {"count": "4", "span": "day"}, FOR),
        ([*LONG, 600.0, 500.0, 400.0, 300.0, 200.0, 100.0], False, "more_payments", {"count": "7", "usual": "0"}, FOR),
        ([*LONG, 9 * HOUR, 6 * HOUR], False, "more_payments", {"count": "3", "span": "day", "usual": "0 to 1"}, FOR),
        ([DAY_SECONDS * at for at in (50, 49, 48, 47, 22.5)], False, "after_pause", {"span": "23 days"}, FOR),
        ([50 * DAY_SECONDS, 22.5 * DAY_SECONDS], False, "few_payments", {"span": "50 days"}, FOR),
        ([50 * DAY_SECONDS, 2 * DAY_SECONDS], False, "few_payments", {"count": "2", "span": "50 days"}, FOR),
        (LONG, False, "few_payments", {"count": "29"}, AGAINST),
        (LONG, True, "few_payments", {"count": "at least 29"}, AGAINST),
    ],
)
def test_pace(ages: list[float], full: bool, kind: str, facts: dict[str, str], speaks: int) -> None:
    found = of_pace(past(ages, full=full))[0]
    assert (found.kind, found.speaks) == (kind, speaks)
    assert facts.items() <= found.facts.items()


def test_what_a_busy_key_does_every_day_is_not_unusual() -> None:
    busy = [HOUR * at for at in range(400, 0, -3)]
    assert of_pace(past(busy))[0].kind == "few_payments"
    assert usual_counts(busy, DAY_SECONDS) == (8, 8)
    assert usual_counts([3 * HOUR, HOUR], HOUR) is None
    days = [HOUR * at for at in range(90, 0, -2)]  # full, and reaching back less than four days
    assert usual_counts(days, DAY_SECONDS) is None
    assert of_pace(past(days, full=True))[0].kind == "few_payments"
    assert of_pace(past([*days, *range(3000, 1000, -100)], full=True))[0].kind == "more_payments"
    sudden = [*(DAY_SECONDS * at for at in (3.5, 3, 2.5, 2, 1.5)), *(HOUR * at for at in range(20, 0, -4))]
    assert of_pace(past(sudden))[0].kind == "many_payments"
    assert usual_counts([], HOUR) is None


def test_nothing_usual_is_said_for_fraud_and_nothing_unusual_against_it() -> None:
    usual, unusual, either = (ReasonTemplate("value", speaks=speaks) for speaks in (AGAINST, FOR, EITHER))
    assert (usual.fits(-1.0), usual.fits(1.0)) == (True, False)
    assert (unusual.fits(-1.0), unusual.fits(1.0)) == (False, True)
    assert either.fits(-1.0)
    assert either.fits(1.0)


def test_no_history_no_pace() -> None:
    assert of_pace(past([])) == []


def test_spans_and_numbers() -> None:
    assert [span(s) for s in (1, HOUR, 1.5 * HOUR, DAY_SECONDS, 40 * HOUR, 2 * DAY_SECONDS, 2.1 * DAY_SECONDS)] == [
        "hour",
        "hour",
        "2 hours",
        "day",
        "40 hours",
        "2 days",
        "3 days",
    ]
    values = (0.0, 4.0, 1234567.0, 52.34, -0.5, 1e-7, 1e20)
    assert [number(value) for value in values] == ["0", "4", "1234570", "52.34", "-0.5", "1e-07", "1e+20"]
    assert number(4.13, 2) == "4.1"
    assert number(123.0, 2) == "120"
