"""What is wrong with wire rows: at most one thing per row is kept, the first that was found.

It does not know how things are found, nor whether a row is refused alone or with others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tsa.errors import DataError
from tsa.text import truncate_repr

TEXTS = {
    "missing_field": "must be there",
    "extra_field": "must not have more fields than the header",
    "line_break": "must stand on one line: is a quote not closed?",
    "not_a_text": "must be a text",
    "null_id": "must not be missing",
    "null_time": "must not be missing",
    "absurd_time": "must be from 1990 to ten years from now",
    "not_a_number": "must be a finite number",
    "out_of_range": "must be a number that its feature can scale",
    "history_length": "must have as many values as its history has ids",
    "mismatched_history": "must tell of the same payments as the other part of its history",
    "time_mismatch": "must give the same times as the other part of its history",
    "missing_time": "must have a time for each earlier payment",
    "bad_time": "must be a number of the market's time unit for each earlier payment",
    "unlike_batches": "must have as many values as the fields of the history's other batches",
    "missing_id": "must have an id for each earlier payment",
    "too_many_payments": "must tell of no more payments than the history has room for",
    "too_old": "must not tell of a payment older than inline_history.age_cap_seconds",
    "negative_age": "must not tell of a payment after the current one",
}
"""What is expected, by rule."""


def number_rule(value: float) -> str:
    """The rule that a number breaks which cannot be used; one that is none is infinite."""
    return "not_a_number" if math.isinf(value) else "out_of_range"


@dataclass(frozen=True, kw_only=True)
class RowError:
    """A rule that a row breaks, at which field, and with what value."""

    rule: str
    field: str
    value: str

    @property
    def name(self) -> str:
        """`rule:field`, as rules on logs are named."""
        return f"{self.rule}:{self.field}"

    @property
    def text(self) -> str:
        """What is expected."""
        return TEXTS[self.rule]

    def __str__(self) -> str:
        return f"{self.name}: {self.text} (got {truncate_repr(self.value)})"


class BrokenRowError(DataError):
    """A row of a request breaks a rule, which `problem` tells."""

    def __init__(self, text: str, problem: RowError) -> None:
        super().__init__(text)
        self.problem = problem


class RowErrors(dict[int, RowError]):
    """By row."""

    def note(self, rule: str, found: Iterable[tuple[int, str, str]]) -> None:
        """Take in (row, field, value) of rows that break a rule; a row that has a problem already keeps that."""
        for row, field, value in found:
            self.setdefault(int(row), RowError(rule=rule, field=field, value=value))
