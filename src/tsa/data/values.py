"""One value at a time, as JSON or Python has it: what `columns` does to whole columns, by the same rules.

It knows values and how they are spelled. It does not know markets, encoders or rows.
"""

from __future__ import annotations

import math
import re
import reprlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import polars as pl

from tsa.config.tables import FALSE, TRUE
from tsa.data.spelling import BLANKS, MAX_EXACT, SHORTENED, TIME, UNIT_SCALE, Spelling

SHOWN = 40
"""Characters of a value that an error shows."""

_TIME, _SHORTENED = re.compile(TIME), re.compile(SHORTENED)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_TRUTH = {**dict.fromkeys(TRUE, 1.0), **dict.fromkeys(FALSE, 0.0)}
# no two repetitions beside each other that take the same characters: time grows with the text's length, not its square
_NUMBER = re.compile(r"[+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")


@dataclass(frozen=True)
class RuleViolation:
    """A rule that a payment breaks: `expectation` says what was expected of `field`, `value` what stood there, shortened."""

    rule: str
    field: str
    expectation: str
    value: str

    def __str__(self) -> str:
        return f"{self.field} {self.expectation} (got {self.value}, rule {self.rule})"


class RuleViolationError(Exception):
    """Carries a RuleViolation to where it is noted."""

    def __init__(self, rule: str, field: str, text: str, value: object) -> None:
        self.problem = RuleViolation(rule, field, text, truncate_repr(value))
        super().__init__(str(self.problem))


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 4
_SHORT.maxlist = _SHORT.maxdict = SHOWN
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 2 * SHOWN


def truncate_repr(value: object) -> str:
    """A value as an error shows it: shortened, and never looked into deeper than that takes."""
    text = _SHORT.repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def normalise_text(value: object, name: str, spelling: Spelling) -> str | None:
    """As `columns.expectation`: None where there is no value. Raises RuleViolationError for what has no spelling."""
    if value is None:
        return None
    if isinstance(value, str):
        return spelling.of_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _spelled(value)
    if isinstance(value, Decimal) and value.is_finite():
        spelled = f"{value:f}"
        spelled = re.sub(r"\.?0+$", "", spelled) if "." in spelled else spelled
        return "0" if spelled == "-0" else spelled
    raise RuleViolationError("not_a_text", name, "must be a text, a number, true, false or null", value)


def key_of(value: object, name: str, spelling: Spelling) -> str | None:
    """As `normalise_text`, for keys and ids: a number that may stand for several breaks a rule, as in `columns.inexact`."""
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
    return str(pl.Series([value]).cast(pl.String)[0])


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
        if number is None and _NUMBER.fullmatch(text):
            number = float(text)
    elif isinstance(value, int | float | Decimal):
        number = _float(value)
    if number is None:
        raise RuleViolationError("not_a_number", name, "must be a number", value)
    if math.isinf(number):
        raise RuleViolationError("infinite", name, "must be finite", value)
    return None if math.isnan(number) else number


def _float(value: int | float | Decimal) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):
        return math.inf


def parse_time(value: object, name: str, unit: str | None, spelling: Spelling) -> float | None:
    """Epoch seconds of a time as `columns.seconds` reads it: a number of `unit`, or ISO spelling; None where missing.

    Raises RuleViolationError for what is neither.
    """
    if value is None or (isinstance(value, str) and spelling.of_text(value.strip(BLANKS)) is None):
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return _microseconds(value if value.tzinfo else value.replace(tzinfo=UTC)) / 1e6
    if unit is not None:
        return _counted(value, name, unit, spelling)
    moment = _moment(value.strip(BLANKS)) if isinstance(value, str) else None
    if moment is None:
        raise RuleViolationError("bad_time", name, "must be like 2018-05-07T12:00:00Z", value)
    return _microseconds(moment) / 1e6


def _counted(value: object, name: str, unit: str, spelling: Spelling) -> float:
    try:
        number = number_of(value, name, spelling)
    except RuleViolationError:
        number = None
    if number is None or isinstance(value, bool):
        raise RuleViolationError("bad_time", name, f"must be a number of {unit}", value)
    if unit == "ns":  # as floats, nanoseconds of our days would lose their last digits
        text = value.strip(BLANKS) if isinstance(value, str) else ""
        whole = int(text) if _WHOLE.fullmatch(text) else value
        if isinstance(whole, int) and abs(whole) < 2**63:
            return (whole // 1000) / 1e6
    return number / UNIT_SCALE[unit]


def _moment(text: str) -> datetime | None:
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    microsecond, offset = int((found[7] or "").ljust(6, "0")[:6]), found[8] or ""
    shift = timedelta()
    if offset[:1] in ("+", "-"):
        digits = offset[1:].replace(":", "").ljust(4, "0")
        shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (-1 if offset[0] == "-" else 1)
    try:
        return datetime(year, month, day, hour, minute, second, microsecond, timezone(shift))
    except ValueError:
        return None


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
