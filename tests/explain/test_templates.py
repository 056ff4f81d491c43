"""Which sentence tells of which facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tsa.data.history import FRAUD, GENUINE, UNKNOWN_OUTCOME
from tsa.explain.raw_values import UNKNOWN, Payment
from tsa.explain.templates import (
    HOUR,
    HistoryContext,
    number,
    of_calendar,
    of_key,
    of_number,
    of_outcomes,
    of_pace,
    of_text,
    span,
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
    ("value", "earlier", "kind", "facts"),
    [
        (82.0, [10.0, 20.0, 30.0], "higher_than_usual", {"ratio": "4.1", "usual": "20", "total": 3}),
        (2.0, [10.0, 20.0, 30.0], "lower_than_usual", {"ratio": "0.1"}),
        (21.0, [10.0, 20.0, None, 30.0], "near_usual", {"value": "21", "usual": "20"}),
        (5.0, [0.0, 0.0, 1.0], "other_than_usual", {"usual": "0"}),
        (-5.0, [2.0, 2.0, 1.0], "other_than_usual", {"value": "-5"}),
        (0.0, [0.0, 0.0, 0.0], "near_usual", {}),
        (5.0, [1.0, 1.0], "value", {"value": "5"}),
        (None, [1.0, 1.0, 1.0], "missing_value", {}),
    ],
)
def test_numbers(value: float | None, earlier: list[float], kind: str, facts: dict[str, Any]) -> None:
    found = of_number("x", value, [past(x=earlier)])
    assert found.kind == kind
    assert facts.items() <= found.facts.items()


@pytest.mark.parametrize(
    ("value", "earlier", "known", "kind"),
    [
        ("a", ["b", "c", "b"], True, "new_value"),
        ("a", ["b", "a", None, "b"], True, "known_value"),
        ("a", ["b", "b"], True, "value"),
        ("a", ["b", "b"], False, "unknown_value"),
        ("a", ["b", "b", "c"], False, "new_value"),
        (UNKNOWN, ["b", "b", "c"], False, "unknown_value"),
        (None, ["b", "b", "c"], True, "missing_value"),
    ],
)
def test_texts(value: str | None, earlier: list[str], known: bool, kind: str) -> None:
    assert of_text("x", value, known, [past(x=earlier)]).kind == kind


def test_the_first_history_with_enough_values_is_compared_with() -> None:
    few, enough = past(x=["a"]), past(x=["b", "b", "a"])
    found = of_text("x", "a", True, [few, enough])
    assert found.facts == {"value": "a", "count": 1, "total": 3}


@pytest.mark.parametrize(
    ("name", "value", "earlier", "kind"),
    [
        ("hour_of_day", "3", ["12", "13", "14"], "unusual_time"),
        ("hour_of_day", "23", ["1", "13", "14"], "usual_time"),
        ("day_of_week", "6", ["0", "1", "1"], "unusual_time"),
        ("day_of_week", "6", ["6", "1", "1"], "usual_time"),
        ("hour_of_day", "3", ["12"], "value"),
    ],
)
def test_times(name: str, value: str, earlier: list[str], kind: str) -> None:
    assert of_calendar(name, value, [past(**{name: earlier})]).kind == kind


def test_outcomes() -> None:
    ages = [40 * DAY_SECONDS, 8.2 * DAY_SECONDS, 7.5 * DAY_SECONDS, DAY_SECONDS]
    several = of_outcomes(past(ages, [GENUINE, FRAUD, FRAUD, UNKNOWN_OUTCOME]))
    assert several is not None
    assert (several.kind, several.facts) == ("known_frauds", {"count": 2, "total": 3, "span": "9 days"})
    one, none = of_outcomes(past(ages, [FRAUD, 2, 2, 1])), of_outcomes(past(ages, [2, 2, 1, 1]))
    assert one is not None
    assert one.kind == "known_fraud"
    assert none is not None
    assert none.kind == "no_known_fraud"
    assert of_outcomes(past(ages, [UNKNOWN_OUTCOME] * 4)) is None


def test_keys() -> None:
    earlier = replace(past([3.0, 2.0, 1.0]), same_key={"merchant": 2, "device": 0})
    known, new = of_key("merchant", earlier), of_key("device", earlier)
    assert known is not None
    assert new is not None
    assert (known.kind, known.facts, known.history) == ("known_key", {"count": 2, "total": 3}, "card")
    assert new.kind == "new_key"
    assert of_key("terminal", earlier) is None, "the payment has no such key"
    assert of_key("merchant", replace(past(), same_key={"merchant": 0})) is None, "no earlier payments"


@pytest.mark.parametrize(
    ("ages", "full", "kind", "facts"),
    [
        ([9 * DAY_SECONDS, 3000.0, 2000.0, 10.0], False, "many_payments", {"count": "4", "span": "hour"}),
        ([3000.0, 2000.0, 10.0], True, "many_payments", {"count": "at least 4", "span": "hour"}),
        ([20 * HOUR, 3 * HOUR, 2 * HOUR], False, "many_payments", {"count": "4", "span": "day"}),
        ([50 * DAY_SECONDS, 22.5 * DAY_SECONDS], False, "after_pause", {"span": "23 days"}),
        ([50 * DAY_SECONDS, 2 * DAY_SECONDS], False, "few_payments", {"count": "2", "span": "50 days"}),
        ([50 * DAY_SECONDS, 2 * DAY_SECONDS], True, "few_payments", {"count": "at least 2"}),
    ],
)
def test_pace(ages: list[float], full: bool, kind: str, facts: dict[str, str]) -> None:
    found = of_pace(past(ages, full=full))
    assert found is not None
    assert found.kind == kind
    assert facts.items() <= found.facts.items()


def test_no_history_no_pace() -> None:
    assert of_pace(past([])) is None


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
