"""A row rule, and the texts of rules that logs and single payments share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

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
    return f"must be a number of {unit}" if unit else "must be like 2018-05-07T12:00:00Z"


def degrees_text(limit: float) -> str:
    """The text of the rule for a latitude or longitude."""
    return f"must be between -{limit:g} and {limit:g} degrees"


def range_text(low: float, high: float) -> str:
    """The text of the rule for a number that a feature has to scale."""
    if math.isinf(high):
        return f'must be above {low:g} to be scaled (transform = "signed_log1p" takes any number)'
    return f"must be between {low:g} and {high:g} to be scaled"
