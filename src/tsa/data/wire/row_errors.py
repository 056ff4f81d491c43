"""Rule violations of wire rows: `RowErrors` stores the first one of each row."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tsa.errors import DataError
from tsa.text import truncate_repr

TEXTS = {
    "missing_field": "is required",
    "extra_field": "must not have more fields than the header",
    "line_break": "must be on one line: is a quote not closed?",
    "not_a_text": "must be a text",
    "null_id": "must not be missing",
    "null_time": "must not be missing",
    "absurd_time": "must be from event.earliest (1990) to event.latest (ten years from now)",
    "not_a_number": "must be a finite number",
    "out_of_range": "must be a number that its feature can scale",
    "history_length": "must have as many values as its history has ids",
    "mismatched_history": "must contain the same payments as the other part of its history",
    "time_mismatch": "must give the same times as the other part of its history",
    "missing_time": "must have a time for each earlier payment",
    "bad_time": "must be a number of the market's time unit for each earlier payment",
    "unlike_batches": "must have as many values as the fields of the history's other batches",
    "missing_id": "must have an id for each earlier payment",
    "too_many_payments": "must contain no more payments than the history's length",
    "too_old": "must not contain a payment older than wire.age_cap_seconds",
    "negative_age": "must not contain a payment after the current one",
}
"""The text of each rule."""


def number_rule(value: float) -> str:
    """The rule that an unusable number breaks. A text that is not a number is infinite here."""
    return "not_a_number" if math.isinf(value) else "out_of_range"


@dataclass(frozen=True, kw_only=True)
class RowError:
    """The rule that a row breaks, the field, and the value."""

    rule: str
    field: str
    value: str

    @property
    def name(self) -> str:
        """`rule:field`, as rules on logs are named."""
        return f"{self.rule}:{self.field}"

    @property
    def text(self) -> str:
        """The text of the rule."""
        return TEXTS[self.rule]

    def __str__(self) -> str:
        return f"{self.name}: {self.text} (got {truncate_repr(self.value)})"


class BrokenRowError(DataError):
    """A row of a request breaks a rule, given in `problem`."""

    def __init__(self, text: str, problem: RowError) -> None:
        super().__init__(text)
        self.problem = problem


class RowErrors(dict[int, RowError]):
    """By row."""

    def note(self, rule: str, violations: Iterable[tuple[int, str, str]]) -> None:
        """Add (row, field, value) of rows that break a rule. A row that already has an error keeps the first one."""
        for row, field, value in violations:
            self.setdefault(int(row), RowError(rule=rule, field=field, value=value))
