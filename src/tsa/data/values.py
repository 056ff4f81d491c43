"""Parse and normalise single values from JSON or Python, by the rules that `columns` applies to columns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl

from tsa.config.input import FALSE, TRUE
from tsa.config.tables import LABEL_TEXTS, Label
from tsa.data.spelling import (
    BLANKS,
    COMMA_NUMBER,
    MAX_EXACT,
    SHORTENED,
    SHORTENED_TIME,
    UNIT_SCALE,
    Spelling,
    plain_digits,
)
from tsa.text import shorten, truncate_repr
from tsa.times import as_moment, to_seconds

_COMMA_NUMBER = re.compile(COMMA_NUMBER)
_SHORTENED, _SHORTENED_TIME = re.compile(SHORTENED), re.compile(SHORTENED_TIME)
_TRUTH = {**dict.fromkeys(TRUE, 1.0), **dict.fromkeys(FALSE, 0.0)}
# no adjacent repetitions of the same characters: time is linear in the text's length, not quadratic
_NUMBER = re.compile(r"[+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE)
_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,19}")


@dataclass(frozen=True)
class RuleViolation:
    """A rule that a payment breaks: `expectation` says what `field` must be, `value` is the value there, shortened."""

    rule: str
    field: str
    expectation: str
    value: str

    def __str__(self) -> str:
        return f"{self.field} {self.expectation} (got {self.value}, rule {self.rule})"


class RuleViolationError(Exception):
    """Carries a RuleViolation to the code that records it."""

    def __init__(self, rule: str, field: str, text: str, value: object) -> None:
        self.problem = RuleViolation(rule, field, text, truncate_repr(value))
        super().__init__(str(self.problem))


def invalid_unicode(row: object) -> RuleViolation | None:
    """The problem of a row with a lone surrogate, which JSON allows: such a text can be neither stored nor hashed."""
    for name, value in row.items() if isinstance(row, Mapping) else ():
        for text in (name, value):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    field = str(name).encode(errors="replace").decode()
                    return RuleViolation(
                        "not_a_text", field, "must be a text of Unicode characters", shorten(ascii(value))
                    )
    return None


def normalise_text(value: object, name: str, spelling: Spelling) -> str | None:
    """As `columns.text`: None if there is no value. Raises RuleViolationError for a value that has no text form."""
    if value is None:
        return None
    if isinstance(value, str):
        return spelling.of_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return _digits(value, name)
    if isinstance(value, float):
        return _spelled(value)
    if isinstance(value, Decimal) and value.is_finite():
        spelled = plain_digits(str(value))
        return "0" if spelled == "-0" else spelled
    raise RuleViolationError("not_a_text", name, "must be a text, a number, true, false or null", value)


def _digits(value: int, name: str) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python converts to text
        raise RuleViolationError("not_a_text", name, "must be a number with fewer digits", value) from None


def key_of(value: object, name: str, spelling: Spelling) -> str | None:
    """As `normalise_text`, for keys and ids. An ambiguous number breaks a rule, as in `columns.inexact`."""
    large = isinstance(value, float) and abs(value) >= MAX_EXACT
    if large or (isinstance(value, str) and not spelling.exact and _SHORTENED.fullmatch(value)):
        raise RuleViolationError(
            "inexact", name, "must have all its digits: write it as a whole number or a text", value
        )
    return normalise_text(value, name, spelling)


def _spelled(value: float) -> str | None:
    if math.isnan(value):
        return None
    if value.is_integer() and abs(value) < MAX_EXACT:
        return str(int(value))
    return plain_digits(str(pl.Series([value]).cast(pl.String)[0]))


def number_of(value: object, name: str, spelling: Spelling) -> float | None:
    """As `columns.number`, with its rules: finite, or missing."""
    number: float | None = None
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip(BLANKS)
        if text == "" or text in spelling.missing:
            return None
        number = _TRUTH.get(text)
        text = _with_point(text) if spelling.decimal_comma else text
        if number is None and _NUMBER.fullmatch(text):
            number = float(text)
    elif isinstance(value, int | float | Decimal):
        number = _float(value)
    if number is None:
        raise RuleViolationError("not_a_number", name, "must be a number", value)
    if math.isinf(number):
        raise RuleViolationError("infinite", name, "must be finite", value)
    return None if math.isnan(number) else number


def _with_point(text: str) -> str:
    """A number with a decimal comma as one with a point. Nothing else with a digit is a number then."""
    if _COMMA_NUMBER.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    return "" if any(character.isdigit() for character in text) else text


def _float(value: int | float | Decimal) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):
        return math.inf


def parse_epoch_seconds(value: object, name: str, unit: str | None, spelling: Spelling) -> float | None:
    """Epoch seconds of a time, as `columns.seconds` reads it: a number of `unit`, or ISO 8601; None if missing.

    Raises:
        RuleViolationError: If it is neither.
    """
    if value is None or (isinstance(value, str) and spelling.of_text(value.strip(BLANKS)) is None):
        return None
    if unit is not None and not isinstance(value, date):  # a datetime is a date
        return _counted(value, name, unit, spelling)
    moment = as_moment(value.strip(BLANKS) if isinstance(value, str) else value, spelling.zone)
    if moment is None:
        raise RuleViolationError("bad_time", name, "must be like 2018-05-07T12:00:00Z", value)
    return to_seconds(moment)


def _counted(value: object, name: str, unit: str, spelling: Spelling) -> float:
    try:
        number = number_of(value, name, spelling)
    except RuleViolationError:
        number = None
    shortened = isinstance(value, str) and _SHORTENED_TIME.fullmatch(value.strip(BLANKS))
    if number is None or isinstance(value, bool) or shortened:
        raise RuleViolationError("bad_time", name, f"must be a number of {unit} with all its digits", value)
    if unit == "ns":  # as floats, present-day nanoseconds would lose their last digits
        text = value.strip(BLANKS) if isinstance(value, str) else ""
        exact = int(text) if _INTEGER_TEXT.fullmatch(text) else value
        if isinstance(exact, int) and abs(exact) < 2**63:
            return (exact // 1000) / 1e6
    return number / UNIT_SCALE[unit]


def label_text(label: Label) -> str:
    """The text of the rule for outcomes."""
    if label.fraud is None or label.genuine is None:
        return "must be 0, 1, -1, yes, no, true, false or null"
    values = ", ".join(repr(value) for value in (*label.fraud, *label.genuine))
    return f"must be one of label.fraud and label.genuine: {values}"


def label_of(value: object, label: Label, spelling: Spelling) -> int:
    """1 fraud, 0 genuine, -1 unknown, as `tsa.data.log.row_sets.label`. Raises RuleViolationError."""
    text = normalise_text(value, label.column, spelling)
    if label.fraud is None or label.genuine is None:
        if text is None:
            return -1
        known = LABEL_TEXTS.get(text.strip(BLANKS).lower())
        try:
            number = number_of(value, label.column, spelling) if known is None else float(known)
        except RuleViolationError:
            number = math.nan
        if number in (0.0, 1.0, -1.0):
            return int(number)
        raise RuleViolationError("bad_label", label.column, label_text(label), value)
    for outcome, values in ((1, label.fraud), (0, label.genuine)):
        if ("" in values) if text is None else is_one_of(value, text, values, label.column, spelling):
            return outcome
    if text is None:
        return -1
    raise RuleViolationError("bad_label", label.column, label_text(label), value)


def is_one_of(value: object, text: str, values: Sequence[Any], name: str, spelling: Spelling) -> bool:
    """Whether a value, whose text is `text`, is one of `values`: the same text, or the same number however it is spelled."""
    if text in {normalise_text(other, name, spelling) for other in values}:
        return True
    try:
        number = number_of(value, name, spelling)
    except RuleViolationError:
        return False
    return number in [float(other) for other in values if not isinstance(other, str | bool)]
