"""Parse a raw column as numbers, texts, keys, ids, times or labels, with Polars expressions.

A value is read the same from every format: the rules are in `tsa.data.spelling`, which single payments share.
"""

from __future__ import annotations

from functools import partial

import polars as pl

from tsa.config.input import FALSE, TRUE
from tsa.config.tables import LABEL_TEXTS
from tsa.data.spelling import (
    COMMA_NUMBER,
    EXACT_BITS,
    MAX_EXACT,
    SHORTENED,
    SHORTENED_TIME,
    UNIT_SCALE,
    Spelling,
    plain_digits,
)
from tsa.times import DAY_SECONDS, ISO


def is_text_type(dtype: pl.DataType) -> bool:
    """Text, with or without a dictionary."""
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def is_number(dtype: pl.DataType) -> bool:
    """Types that can hold numbers. A text column may turn out to hold none."""
    return dtype.is_numeric() or is_text_type(dtype) or isinstance(dtype, pl.Boolean | pl.Null)


def is_plain(dtype: pl.DataType) -> bool:
    """Types whose values have a text form: not lists, structs, bytes, durations or objects."""
    return is_number(dtype) or isinstance(dtype, pl.Date | pl.Datetime | pl.Time)


def is_time(dtype: pl.DataType, unit: str | None) -> bool:
    """Types that can hold times. Numbers can only if their unit is known, and not as 32-bit floats."""
    if isinstance(dtype, pl.Datetime | pl.Date | pl.Null) or is_text_type(dtype):
        return True
    return dtype.is_numeric() and unit is not None and not is_short(dtype)


def is_short(dtype: pl.DataType) -> bool:
    """Floats too short for a present-day time: those of 32 bits have steps of 128 s."""
    return isinstance(dtype, pl.Float32 | pl.Float16)


def is_small_integer(dtype: pl.DataType) -> bool:
    """Integer types that fit into Int64."""
    return dtype.is_integer() and not isinstance(dtype, pl.UInt64 | pl.Int128 | pl.UInt128)


def missing(name: str, dtype: pl.DataType, spelling: Spelling) -> pl.Expr:
    """Null, NaN, or a text that is blank or means "no value"."""
    column = pl.col(name)
    if is_text_type(dtype):
        texts = column.cast(pl.String)
        blank = texts.str.strip_chars() == "" if spelling.exact else texts.str.contains(spelling.missing_pattern)
        return column.is_null() | blank
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


def text(name: str, dtype: pl.DataType, spelling: Spelling) -> pl.Expr:
    """String. Texts that mean "no value" are null; the float 3.0 is "3"."""
    column = pl.col(name)
    if isinstance(dtype, pl.Decimal):
        texts = column.cast(pl.String)
        return texts if not dtype.scale else texts.str.replace(r"\.?0+$", "")
    if dtype.is_float():
        is_integer = (column == column.floor()) & (column.abs() < MAX_EXACT)
        texts = (
            pl.when(is_integer)
            .then(column.cast(pl.Int64, strict=False).cast(pl.String))
            .otherwise(column.cast(pl.String))
        )
        return pl.when(column.is_not_nan()).then(
            texts.map_batches(_without_exponents, return_dtype=pl.String(), is_elementwise=True)
        )
    if isinstance(dtype, pl.Datetime):
        return column.cast(pl.String).str.replace(r"\.0+$", "")  # so that it is the same in every unit and text format
    column = column.cast(pl.String)
    if not is_text_type(dtype):
        return column
    if spelling.exact:
        return pl.when(column != "").then(column)
    return column.map_batches(partial(_spelled, spelling=spelling), return_dtype=pl.String(), is_elementwise=True)


def _without_exponents(texts: pl.Series) -> pl.Series:
    """Floats as JSON lines have them: all digits, however large or small the number is."""
    irregular = texts.str.contains("e", literal=True) | texts.str.ends_with(".0")
    if not irregular.any():
        return texts
    different = texts.filter(irregular).unique()
    return texts.replace(different, pl.Series([plain_digits(text) for text in different.to_list()], dtype=pl.String))


def _spelled(texts: pl.Series, spelling: Spelling) -> pl.Series:
    """Most columns have no text that needs normalising, so check once and work on the few that do."""
    irregular = texts.str.contains(spelling.changed_pattern)
    if not irregular.any():
        return texts
    different = texts.filter(irregular).unique()
    normalised = pl.Series([spelling.of_text(value) for value in different.to_list()], dtype=pl.String)
    return texts.replace(different, normalised)


def key(name: str, dtype: pl.DataType, spelling: Spelling, *, integer: bool) -> pl.Expr:
    """Int64 if every source has integers there, else String."""
    return pl.col(name).cast(pl.Int64) if integer else text(name, dtype, spelling)


def inexact(name: str, dtype: pl.DataType) -> pl.Expr | None:
    """True where a key or id may be ambiguous: a float that cannot hold the number exactly, or a text with dropped
    digits.
    """
    if is_text_type(dtype):
        return pl.col(name).cast(pl.String).str.contains(SHORTENED)
    if not dtype.is_float():
        return None
    bits = 16 if isinstance(dtype, pl.Float16) else 32 if isinstance(dtype, pl.Float32) else 64
    return pl.col(name).is_not_nan() & (pl.col(name).abs() >= EXACT_BITS[bits])


def nested(name: str) -> pl.Expr:
    """True where a text column of JSON holds what was an object or a list there."""
    return pl.col(name).str.contains(
        r'^\s*(?:\{\s*["}]|\[\s*(?:["\[{\]0-9-]|true|false|null))[\s\S]*[\]}]\s*$|^(?:\{\}|\[\])$'
    )


def number(name: str, dtype: pl.DataType, spelling: Spelling) -> pl.Expr:
    """Float64; null where it cannot be parsed, and where it is missing, unless it is NaN."""
    if not is_text_type(dtype):
        return pl.col(name).cast(pl.Float64)
    texts = pl.col(name).cast(pl.String).str.strip_chars()
    truth = pl.when(texts.is_in(TRUE)).then(1.0).when(texts.is_in(FALSE)).then(0.0)
    if spelling.decimal_comma:
        point = texts.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
        has_digit = texts.str.contains("[0-9]")
        texts = pl.when(texts.str.contains(COMMA_NUMBER)).then(point).when(~has_digit).then(texts)
    return truth.otherwise(texts.cast(pl.Float64, strict=False))


def seconds(name: str, dtype: pl.DataType, unit: str | None, spelling: Spelling) -> pl.Expr:
    """Float64 epoch seconds, exact to the microsecond; null where it cannot be parsed.

    Times without an offset are of the spelling's zone, or UTC.
    """
    column, zone = pl.col(name), spelling.zone
    if isinstance(dtype, pl.Date) and zone is not None:
        column, dtype = column.cast(pl.Datetime("us")), pl.Datetime("us")
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None and zone is not None:
            column = _in_zone(column, zone)
        ticks = column.to_physical()
        microseconds = {"ns": ticks // 1000, "us": ticks, "ms": ticks * 1000}[dtype.time_unit]
        return _quotient(microseconds.cast(pl.Float64), 1e6)
    if isinstance(dtype, pl.Date):
        return column.to_physical().cast(pl.Float64) * DAY_SECONDS
    if unit is None:
        return _iso_seconds(column.cast(pl.String).str.strip_chars(), zone)
    given = _quotient(number(name, dtype, spelling).fill_nan(None), UNIT_SCALE[unit])
    if is_text_type(dtype):
        given = pl.when(~column.cast(pl.String).str.strip_chars().str.contains(SHORTENED_TIME)).then(given)
    if unit != "ns" or dtype.is_float():
        return given
    # as floats, present-day nanoseconds would lose their last digits
    integers = column.cast(pl.String).str.strip_chars() if is_text_type(dtype) else column
    return _quotient((integers.cast(pl.Int64, strict=False) // 1000).cast(pl.Float64), 1e6).fill_null(given)


def _quotient(values: pl.Expr, divisor: float) -> pl.Expr:
    """Rounded once, as in Python: Polars multiplies by 1 / divisor where the divisor is a constant."""
    return values / (values.clip(0.0, 0.0) + divisor)


def _in_zone(naive: pl.Expr, zone: str) -> pl.Expr:
    """As `tsa.times.in_zone`."""
    return naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")


def _iso_seconds(spelled: pl.Expr, zone: str | None) -> pl.Expr:
    """Slices by position instead of trying formats in turn: one pass, and each row may have its own format."""
    date, clock = spelled.str.slice(0, 10), spelled.str.slice(11)
    to_minute = clock.str.slice(5, 1) != ":"
    none, minute = pl.when(clock == "").then(pl.lit("00:00:00")), clock.str.slice(0, 5) + ":00"
    time = none.when(to_minute).then(minute).otherwise(clock.str.slice(0, 8))
    tail = pl.when(to_minute).then(clock.str.slice(5)).otherwise(clock.str.slice(8))
    fraction = tail.str.extract(r"^[.,](\d+)").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64, strict=False)
    offset = tail.str.extract(r"([+-].+)$")
    minutes = offset.str.slice(1, 2).cast(pl.Int64, strict=False) * 60
    minutes += pl.when(offset.str.len_bytes() > 3).then(offset.str.slice(-2).cast(pl.Int64, strict=False)).otherwise(0)
    minutes = pl.when(offset.str.starts_with("-")).then(-minutes).otherwise(minutes)
    local = (date + " " + time).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    to_second = local.to_physical()
    if zone is not None:
        is_local = ~tail.str.contains(r"(?:[Zz]|UTC|GMT|[+-].+)$")
        to_second = pl.when(is_local).then(_in_zone(local, zone).to_physical()).otherwise(to_second)
    microseconds = to_second + fraction.fill_null(0) - minutes.fill_null(0) * 60_000_000
    return pl.when(spelled.str.contains(ISO)).then(_quotient(microseconds.cast(pl.Float64), 1e6))


def label(name: str, dtype: pl.DataType, spelling: Spelling) -> pl.Expr:
    """Float64: 0, 1, -1, null, or any other value, for the rule on labels to report."""
    value = number(name, dtype, spelling).fill_nan(None)
    if not is_text_type(dtype):
        return value
    spelled = pl.col(name).cast(pl.String).str.strip_chars().str.to_lowercase()
    return pl.coalesce(spelled.replace_strict(LABEL_TEXTS, default=None, return_dtype=pl.Float64), value)
