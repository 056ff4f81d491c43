"""A row rule, and the texts of rules that logs and single payments share."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tsa.config.market import Market
from tsa.data.spelling import EARLIEST_SECONDS
from tsa.times import DAY_SECONDS

TEN_YEARS_SECONDS = 10 * 365.25 * DAY_SECONDS
ANY_TIME = (-6e10, 2e11)
"""The range of dates that date libraries support."""
ALL_DIGITS = "must have all its digits, which floats and spreadsheets drop: export whole numbers or texts"
NUMBER = ("not_a_number", "must be a number")
BOOLEAN = ("not_a_boolean", "must be true or false")
"""Names and texts of rules."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`broken` is true for the rows that break the rule. `name` is `rule:column`; `text` says what is expected."""

    name: str
    column: str
    text: str
    broken: pl.Expr


def readable_time(unit: str | None) -> str:
    """The text of the rule for a time."""
    return f"must be a number of {unit} with all its digits" if unit else "must be like 2018-05-07T12:00:00Z"


def degrees_text(limit: float) -> str:
    """The text of the rule for a latitude or longitude."""
    return f"must be between -{limit:g} and {limit:g} degrees"


def range_text(low: float, high: float) -> str:
    """The text of the rule for a number that a feature has to scale."""
    if low == -1.0:
        return 'must be above -1 and fit float32 to be scaled (transform = "signed_log1p" takes negative numbers)'
    return f"must be between {low:g} and {high:g} to be scaled"


def earliest(market: Market) -> float:
    """Epoch seconds of the earliest time that an event may have."""
    return EARLIEST_SECONDS if market.event.earliest is None else market.event.earliest.timestamp()


def plausible(market: Market, now: float) -> tuple[float, float]:
    """The range of epoch seconds in which a payment's time must lie."""
    if market.wire is not None and market.wire.accepts("implausible_time"):
        return ANY_TIME
    latest = market.event.latest
    return earliest(market), now + TEN_YEARS_SECONDS if latest is None else latest.timestamp()


def time_text(market: Market) -> str:
    """The text of the rule for an event's time."""
    first, last = market.event.earliest, market.event.latest
    begin = "1990" if first is None else first.date().isoformat()
    end = "ten years from now" if last is None else last.date().isoformat()
    return f"must be from {begin} to {end}"
