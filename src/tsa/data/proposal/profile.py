"""What the columns of a log look like, from its first rows: types, how often values repeat, and what their names suggest."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from tsa.config.input import MISSING
from tsa.data.log import columns
from tsa.data.log.sources import EXTRA, open_sources
from tsa.data.spelling import UNIT_SCALE, Spelling
from tsa.errors import DataError

SAMPLE_ROWS = 300_000
PLAIN = Spelling(frozenset(MISSING))
COMMA = Spelling(frozenset(MISSING), decimal_comma=True)
EARLIEST, AHEAD_SECONDS = 631_152_000.0, 366 * 86_400.0  # 1990, a year from now
TIME_OF_DAY = r"^[0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?$"

TIME_NAME = r"time|date|stamp|(?:^|_)ts(?:$|_)|_at$|epoch|when|zeit|datum"

Kind = Literal["time", "time_of_day", "number", "text", "boolean", "empty"]
Unit = Literal["s", "ms", "us", "ns"]


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """A column in the sample."""

    name: str
    kind: Kind
    rows: int
    missing: float
    """Share of rows without a value."""
    distinct: int
    top_share: float
    """Share of the most frequent value among the values."""
    values: tuple[str, ...]
    """The most frequent values, at most ten."""
    is_text: bool = False
    """Texts, or numbers that a file with types has as texts."""
    is_integer: bool = False
    is_date: bool = False
    """A time that is always midnight."""
    has_comma: bool = False
    """Numbers in texts with a decimal comma."""
    unit: Unit | None = None
    """Of numbers that may be times."""
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    """Of numbers: the smallest, the middle and the 99th percentile. Of times: epoch seconds."""

    @property
    def present(self) -> int:
        """Rows with a value."""
        return round(self.rows * (1 - self.missing))

    @property
    def repeats(self) -> float:
        """How often a value occurs on average."""
        return self.present / max(1, self.distinct)

    def is_called(self, pattern: str) -> bool:
        """Whether the name contains a pattern, in upper or lower case, with words of camelCase as words."""
        spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name).lower()
        return re.search(pattern, spelled) is not None


@dataclass(frozen=True, kw_only=True)
class LogSample:
    """The first rows of a log, and its columns."""

    frame: pl.DataFrame
    columns: dict[str, ColumnProfile]
    written: Mapping[str, str] = field(default_factory=dict)
    """Options of `[input]` that all files show in their first rows, where they are unusual."""

    def seconds(self, name: str) -> pl.Series:
        """(n,) epoch seconds of a column of times."""
        of, dtype = self.columns[name], self.frame.schema[name]
        return self.frame.select(columns.seconds(name, dtype, of.unit, PLAIN)).to_series()

    def numbers(self, name: str) -> pl.Series:
        """(n,) the numbers of a column; null where there is none."""
        spelling = COMMA if self.columns[name].has_comma else PLAIN
        return self.frame.select(columns.number(name, self.frame.schema[name], spelling).fill_nan(None)).to_series()

    def texts(self, name: str) -> pl.Series:
        """(n,) the texts of a column; null for missing values."""
        return self.frame.select(columns.text(name, self.frame.schema[name], PLAIN).alias(name)).to_series()


def read_sample(logs: Sequence[str]) -> LogSample:
    """The columns that the files of a log have, from the first rows of each group of files.

    Raises:
        DataError: If the log cannot be read, or has no rows.
    """
    sources = open_sources(logs, [])
    each = max(1, SAMPLE_ROWS // len(sources))
    frames = [
        source.scan([name for name in source.schema if not name.startswith("__")])
        .head(each)
        .collect()
        .drop(EXTRA, strict=False)
        for source in sources
    ]
    frame = pl.concat(
        [frame.drop([n for n in frame.columns if n.startswith("__")]) for frame in frames], how="diagonal_relaxed"
    )
    if frame.is_empty():
        raise DataError("log: must hold at least one row, but it is empty")
    plain = [name for name, dtype in frame.schema.items() if columns.is_plain(dtype)]
    frame = frame.select(plain)
    has_types = all(not source.is_text for source in sources)
    return LogSample(
        frame=frame,
        columns={name: _profile(frame, name, has_types) for name in plain},
        written=_written([source.guessed for source in sources]),
    )


def _written(guessed: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {option: value for option, value in guessed[0].items() if all(one.get(option) == value for one in guessed)}


def _profile(frame: pl.DataFrame, name: str, has_types: bool) -> ColumnProfile:
    dtype = frame.schema[name]
    missing = frame.select(columns.missing(name, dtype, PLAIN)).to_series()
    some = frame.filter(~missing).select(name)
    texts = some.select(columns.text(name, dtype, PLAIN).alias(name)).to_series()
    counts = texts.value_counts(sort=True)
    base: dict[str, Any] = {
        "name": name,
        "rows": len(frame),
        "missing": int(missing.sum()) / len(frame),
        "distinct": len(counts),
        "top_share": float(counts["count"][0]) / len(texts) if len(counts) else 0.0,
        "values": tuple(counts[name].head(10).to_list()),
    }
    if not len(texts):
        return ColumnProfile(kind="empty", **base)
    typed = _typed(some, name, dtype, texts, base["values"])
    is_text = typed["kind"] == "text" or (has_types and typed["kind"] == "number" and columns.is_text_type(dtype))
    return ColumnProfile(**base, **typed, is_text=is_text)


def _typed(
    some: pl.DataFrame, name: str, dtype: pl.DataType, texts: pl.Series, values: tuple[str, ...]
) -> dict[str, Any]:
    if isinstance(dtype, pl.Boolean) or set(values) <= {"true", "false"}:
        return {"kind": "boolean"}
    if isinstance(dtype, pl.Time):
        return {"kind": "time_of_day"}
    if isinstance(dtype, pl.Datetime | pl.Date):
        return _times(some.select(columns.seconds(name, dtype, None, PLAIN)).to_series(), None)
    for spelling in (PLAIN, COMMA):
        numbers = some.select(columns.number(name, dtype, spelling)).to_series()
        if numbers.null_count() == 0:
            return _numbers(numbers, name, has_comma=spelling is COMMA)
    seconds = some.select(columns.seconds(name, dtype, None, PLAIN)).to_series()
    if seconds.null_count() == 0:
        return _times(seconds, None)
    return {"kind": "time_of_day"} if texts.str.contains(TIME_OF_DAY).all() else {"kind": "text"}


def _times(seconds: pl.Series, unit: Unit | None) -> dict[str, Any]:
    low, median, high = _spread(seconds)
    is_date = unit is None and bool((seconds % 86_400 == 0).all())
    return {"kind": "time", "unit": unit, "is_date": is_date, "low": low, "median": median, "high": high}


def _numbers(numbers: pl.Series, name: str, *, has_comma: bool) -> dict[str, Any]:
    finite = numbers.filter(numbers.is_finite())
    low, median, high = _spread(finite)
    is_integer = bool((finite == finite.floor()).all())
    if is_integer and re.search(TIME_NAME, name.lower()):
        unit = unit_of(low, high)
        if unit is not None:
            return {**_times(finite / UNIT_SCALE[unit], "s"), "unit": unit}
    return {
        "kind": "number",
        "is_integer": is_integer,
        "has_comma": has_comma,
        "low": low,
        "median": median,
        "high": high,
    }


def unit_of(low: float, high: float) -> Unit | None:
    """The unit in which numbers from `low` to `high` are times since 1970, from 1990 to a year from now; None for others."""
    last = time.time() + AHEAD_SECONDS
    units: tuple[Unit, ...] = ("s", "ms", "us", "ns")
    fits = (unit for unit in units if low / UNIT_SCALE[unit] >= EARLIEST and high / UNIT_SCALE[unit] <= last)
    return next(fits, None)


def _spread(values: pl.Series) -> tuple[float, float, float]:
    low, median, high = values.min(), values.median(), values.quantile(0.99)
    return tuple(float(value) if isinstance(value, int | float) else 0.0 for value in (low, median, high))  # type: ignore[return-value]
