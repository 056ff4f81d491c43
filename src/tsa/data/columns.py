"""How a raw column is read: as a number, a text, a key, an id, a time or a label. Polars expressions only.

It knows types and their normal forms. It does not know markets or files. The same value reads the same from every
format: an empty text is missing, NaN is missing, and whole numbers are spelled without a fraction in texts and keys.
"""

from __future__ import annotations

import polars as pl

EARLIEST_SECONDS = 631_152_000.0  # 1990-01-01
LARGEST_EXACT = 2.0**53  # whole floats beyond are not exact
UNIT_SCALE = {"s": 1.0, "ms": 1e3, "us": 1e6}
OFFSET = r"(?:[Zz]| ?UTC|[+-]\d{2}(?::?\d{2})?)"
ISO_TIME = rf"^\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]\d{{2}}:\d{{2}}(?::\d{{2}}(?:[.,]\d{{1,9}})?{OFFSET}?)?)?$"


def is_texty(dtype: pl.DataType) -> bool:
    """Text, plain or with a dictionary."""
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def is_number(dtype: pl.DataType) -> bool:
    """Types that can hold numbers as they are (a text may still turn out to hold none)."""
    return dtype.is_numeric() or is_texty(dtype) or isinstance(dtype, pl.Boolean | pl.Null)


def is_plain(dtype: pl.DataType) -> bool:
    """Types with a spelling: not lists, structs, bytes, durations or objects."""
    return is_number(dtype) or isinstance(dtype, pl.Date | pl.Datetime | pl.Time)


def is_time(dtype: pl.DataType, unit: str | None) -> bool:
    """Types that can hold times; numbers only when their unit is known."""
    if isinstance(dtype, pl.Datetime | pl.Date | pl.Null) or is_texty(dtype):
        return True
    return dtype.is_numeric() and unit is not None


def is_small_integer(dtype: pl.DataType) -> bool:
    """Integers that all fit Int64."""
    return dtype.is_integer() and not isinstance(dtype, pl.UInt64 | pl.Int128 | pl.UInt128)


def missing(name: str, dtype: pl.DataType) -> pl.Expr:
    """Null, NaN, or a text of nothing but blanks."""
    column = pl.col(name)
    if is_texty(dtype):
        return column.is_null() | (column.cast(pl.String).str.strip_chars() == "")
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


def text(name: str, dtype: pl.DataType) -> pl.Expr:
    """String; empty is null; 3.0 is "3"."""
    column = pl.col(name)
    if isinstance(dtype, pl.Decimal):
        column, dtype = column.cast(pl.Float64), pl.Float64()
    if dtype.is_float():
        whole = (column == column.floor()) & (column.abs() < LARGEST_EXACT)
        spelled = (
            pl.when(whole).then(column.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(column.cast(pl.String))
        )
        return pl.when(column.is_not_nan()).then(spelled)
    column = column.cast(pl.String)
    return pl.when(column != "").then(column) if is_texty(dtype) else column


def key(name: str, dtype: pl.DataType, *, integer: bool) -> pl.Expr:
    """Int64 when every source has integers there, else String."""
    return pl.col(name).cast(pl.Int64) if integer else text(name, dtype)


def number(name: str, dtype: pl.DataType) -> pl.Expr:
    """Float64; null where it cannot be read (and where it is missing, unless it is NaN)."""
    if not is_texty(dtype):
        return pl.col(name).cast(pl.Float64)
    spelled = pl.col(name).cast(pl.String).str.strip_chars()
    truth = pl.when(spelled == "true").then(1.0).when(spelled == "false").then(0.0)  # as booleans look in JSON
    return truth.otherwise(spelled.cast(pl.Float64, strict=False))


def seconds(name: str, dtype: pl.DataType, unit: str | None) -> pl.Expr:
    """Float64 epoch seconds, exact to the microsecond; null where it cannot be read. Naive times are UTC."""
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        ticks = column.to_physical()
        microseconds = {"ns": ticks // 1000, "us": ticks, "ms": ticks * 1000}[dtype.time_unit]
        return microseconds.cast(pl.Float64) / 1e6
    if isinstance(dtype, pl.Date):
        return column.to_physical().cast(pl.Float64) * 86_400.0
    if unit is not None:
        return number(name, dtype).fill_nan(None) / UNIT_SCALE[unit]
    return _iso_seconds(column.cast(pl.String).str.strip_chars())


def _iso_seconds(spelled: pl.Expr) -> pl.Expr:
    """Cut by position, not by trying formats one after another: one pass, and each row may have its own form."""
    head = spelled.str.slice(0, 19).str.replace("T", " ", literal=True)
    length = spelled.str.len_bytes()
    head = pl.when(length == 10).then(head + " 00:00:00").when(length == 16).then(head + ":00").otherwise(head)
    tail = spelled.str.slice(19)
    fraction = tail.str.extract(r"^[.,](\d+)").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64, strict=False)
    offset = tail.str.extract(r"([+-].+)$")
    minutes = offset.str.slice(1, 2).cast(pl.Int64, strict=False) * 60
    minutes += pl.when(offset.str.len_bytes() > 3).then(offset.str.slice(-2).cast(pl.Int64, strict=False)).otherwise(0)
    minutes = pl.when(offset.str.starts_with("-")).then(-minutes).otherwise(minutes)
    whole = head.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False).to_physical()
    microseconds = whole + fraction.fill_null(0) - minutes.fill_null(0) * 60_000_000
    return pl.when(spelled.str.contains(ISO_TIME)).then(microseconds.cast(pl.Float64) / 1e6)


def label(name: str, dtype: pl.DataType) -> pl.Expr:
    """Float64: 0, 1, -1, null, or whatever else stands there (for the rule on labels to find)."""
    return number(name, dtype).fill_nan(None)
