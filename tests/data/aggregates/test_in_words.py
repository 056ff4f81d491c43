from __future__ import annotations

import math

import pytest

from tsa.data.aggregates.in_words import describe
from tsa.data.aggregates.spec import Aggregate

CASES = {
    ("events", "", "count", "1h", 7): "7 payments of this customer in the last hour",
    ("events", "", "count", "30d", 1): "1 payment of this customer in the last 30 days",
    ("events", "", "count", "all", 1200): "1,200 payments of this customer",
    ("gap", "", "last_seconds", "all", 7200): "last payment of this customer 2 hours ago",
    ("gap", "", "last_seconds", "all", 1): "last payment of this customer 1 second ago",
    ("gap", "", "last_seconds", "all", math.nan): "no earlier payment of this customer to compare with",
    ("number", "amount", "ratio", "7d", 3.24): "price 3.2 times this customer's average in the last 7 days",
    ("number", "amount", "difference", "1d", -20.0): "price 20.0 below this customer's average in the last day",
    ("number", "amount", "total", "1d", 0.0): "price of this customer adds up to 0 in the last day",
    ("categorical", "device", "count", "all", 0): "device not seen before for this customer",
    ("key", "terminal", "share", "all", 0): "shop not seen before for this customer",
    ("key", "terminal", "count", "all", 1): "same shop once before in this customer's payments",
    ("categorical", "device", "last_seconds", "all", math.nan): "device not seen before for this customer",
    ("key", "terminal", "share", "all", 0.42): "same shop in 42 % of this customer's payments",
    ("key", "terminal", "distinct", "all", 1): "1 different value of shop for this customer",
    ("outcome", "", "fraud", "7d", 2): "2 frauds of this customer became known in the last 7 days",
    ("outcome", "", "fraud", "all", 1): "1 known fraud of this customer",
    (
        "outcome",
        "",
        "fraud_rate",
        "1d",
        0,
    ): "none of this customer's outcomes that became known in the last day is fraud",
    ("outcome", "", "fraud_rate", "all", 0): "none of this customer's known outcomes is fraud",
    ("outcome", "", "fraud_rate", "all", 0.004): "0.4 % of this customer's known outcomes are fraud",
    ("outcome", "", "last_is_fraud", "all", 1): "last known outcome of this customer: fraud",
    ("outcome", "", "last_fraud_seconds", "all", math.nan): "no such known outcome of this customer",
    ("fraud_number", "amount", "mean", "all", math.nan): "no known fraud of this customer",
}


@pytest.mark.parametrize(("column", "text"), CASES.items())
def test_in_words(column: tuple[str, str, str, str, float], text: str) -> None:
    kind, feature, statistic, window, value = column
    aggregate = Aggregate("customer", kind, feature, statistic, window)  # type: ignore[arg-type]
    assert describe(aggregate, value, {"amount": "price", "terminal": "shop"}) == text


def test_a_scaled_number_is_not_stated() -> None:
    """Rows that carry their own history have scaled numbers, in no unit that an analyst knows."""
    texts = {
        name: describe(Aggregate("customer", "number", "amount", name, "1d"), -0.25, scaled=True)
        for name in ("total", "mean", "std", "highest", "ratio", "difference")
    }
    assert texts["difference"] == "amount below what is usual for this customer in the last day"
    assert texts["std"] == "how much amount of this customer varies in the last day"
    assert {texts[name] for name in ("total", "mean", "highest", "ratio")} == {
        "the usual amount of this customer in the last day"
    }
    count = Aggregate("customer", "events", "", "count", "1d")
    assert describe(count, 7, scaled=True) == "7 payments of this customer in the last day"
