"""Parse dates and times of settings, logs and payments. `tsa.data.log.columns` applies the same grammar to columns.

ISO 8601 and the formats of databases: a date, optionally a time, a fraction and an offset. A time without an offset
is UTC.
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
"""A regular expression for all formats, for Python and Polars."""

_ISO = re.compile(ISO)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def parse_time(text: str, zone: str | None = None) -> datetime | None:
    """The time of a text, with its offset, exact to the microsecond; None if the text is not a time.

    Args:
        zone: The time zone of a text without an offset; None: UTC.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    microsecond, offset = int((match[7] or "").ljust(6, "0")[:6]), match[8] or ""
    shift = timedelta()
    if offset[:1] in ("+", "-"):
        digits = offset[1:].replace(":", "").ljust(4, "0")
        shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (-1 if offset[0] == "-" else 1)
    leap = second == 60  # as in Polars, a leap second is the next second
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, microsecond)
        moment += leap * timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=timezone(shift)) if offset or zone is None else in_zone(moment, zone)


def in_zone(moment: datetime, zone: str) -> datetime | None:
    """A naive time as one of a time zone. The first of two, where clocks are set back; None where they skip it.

    Polars computes it, so that it is the same for columns and single values.
    """
    import polars as pl

    local = pl.Series([moment], dtype=pl.Datetime("us"))
    aware = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    moment_utc: datetime | None = aware.dt.convert_time_zone("UTC")[0]
    return moment_utc


def as_moment(value: object, zone: str | None = None) -> datetime | None:
    """The time of a text, a date (its start) or a datetime; None for all else. Without an offset it is of `zone`, or UTC."""
    if isinstance(value, str):
        return parse_time(value, zone)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    if value.tzinfo:
        return value
    return value.replace(tzinfo=UTC) if zone is None else in_zone(value, zone)


def as_utc(value: object) -> datetime:
    """`as_moment` in UTC.

    Raises:
        ValueError: If the value is not a time, or is outside the calendar.
    """
    moment = as_moment(value)
    try:
        if moment is not None:
            return moment.astimezone(UTC)
    except OverflowError:  # the offset leads outside the years 1 to 9999
        pass
    raise ValueError(f"must be a date or a time like 2018-05-07T12:00:00Z (got {value!r})")


def to_seconds(moment: datetime) -> float:
    """Seconds since 1970 of a time with an offset, exact to the microsecond."""
    return ((moment - _EPOCH) // _MICROSECOND) / 1e6


def iso(seconds: float, timespec: str = "auto") -> str:
    """Seconds since 1970 as 2025-04-16T12:00:00+00:00; `timespec` as in `datetime.isoformat`."""
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec=timespec)
