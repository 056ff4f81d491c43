"""Dates and times as settings, logs and payments spell them: one grammar, which `tsa.data.log.columns` has for whole columns.

A date, a time to the minute or the second, a fraction, an offset, as ISO 8601, databases and warehouses write it; a time
without an offset is UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

DAY_SECONDS = 86_400.0

ISO = (
    r"^([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?: ?([Zz]|UTC|GMT|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?))?)?$"
)
"""A regular expression of all spellings, for Python and Polars alike."""

_ISO = re.compile(ISO)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def parse_time(text: str) -> datetime | None:
    """The moment that a text spells, with its offset, exact to the microsecond; None where it spells none."""
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    microsecond, offset = int((found[7] or "").ljust(6, "0")[:6]), found[8] or ""
    shift = timedelta()
    if offset[:1] in ("+", "-"):
        digits = offset[1:].replace(":", "").ljust(4, "0")
        shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (-1 if offset[0] == "-" else 1)
    leap = second == 60  # as in Polars, a leap second is the next second
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, microsecond, timezone(shift))
        return moment + leap * timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None


def as_moment(value: object) -> datetime | None:
    """The moment of a text, a date (its first instant in UTC) or a datetime (UTC where it is naive); None for all else."""
    if isinstance(value, str):
        return parse_time(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def as_utc(value: object) -> datetime:
    """`as_moment` in UTC. ValueError, which says what is expected, for what is no moment, or out of the calendar."""
    moment = as_moment(value)
    try:
        if moment is not None:
            return moment.astimezone(UTC)
    except OverflowError:  # an offset leads out of the years 1 to 9999
        pass
    raise ValueError(f"must be a date or a time like 2018-05-07T12:00:00Z (got {value!r})")


def to_seconds(moment: datetime) -> float:
    """Seconds since 1970 of a moment with an offset, exact to the microsecond."""
    return ((moment - _EPOCH) // _MICROSECOND) / 1e6
