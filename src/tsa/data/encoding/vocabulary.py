"""Vocabularies: the known values of categorical features, and their rows in the shared embedding table.

Row 0 is padding. Each feature then has a block of rows: missing, unknown (never seen in training, or too rare), then
one per known value. Calendar features (UTC) have fixed values and the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Categorical
from tsa.config.tables import Calendar
from tsa.data.encoding.training_rows import Rows
from tsa.errors import DataError

PADDING_ROW = 0
FIRST_ROW = PADDING_ROW + 1
COUNT = "__count"  # no market column starts with two underscores
"""The first row after padding, where the first feature's block begins."""

CALENDAR = {"hour_of_day": range(24), "day_of_week": range(7), "day_of_month": range(1, 32), "month": range(1, 13)}
"""The values of each calendar feature. Monday is day 0 of the week."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """One feature's block of rows in the shared table: missing, unknown, then the known `values` in order."""

    name: str
    first_row: int
    values: tuple[str, ...]

    @property
    def missing_row(self) -> int:
        """Row of a missing value."""
        return self.first_row

    @property
    def unknown_row(self) -> int:
        """Row of a value that is not a known one."""
        return self.first_row + 1

    @property
    def known_row(self) -> int:
        """Row of the first known value."""
        return self.first_row + 2

    @property
    def next_row(self) -> int:
        """The row after this block."""
        return self.known_row + len(self.values)

    @cached_property
    def _type(self) -> pl.Enum:
        return pl.Enum(pl.Series(self.values, dtype=pl.String))

    def encode(self, frame: pl.DataFrame) -> NDArray[np.int32]:
        """(n,) rows of the column `name`, a String column. Raises DataError when the frame has no such column."""
        texts = string_column(frame, self.name)
        known = texts.cast(self._type, strict=False).to_physical().cast(pl.Int32) + self.known_row
        rows = known.fill_null(self.unknown_row).to_numpy(writable=True)
        if texts.null_count():
            rows[texts.is_null().to_numpy()] = self.missing_row
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as plain JSON values."""
        return {"name": self.name, "first_row": self.first_row, "values": list(self.values)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The vocabulary that `to_dict` wrote."""
        return cls(name=table["name"], first_row=table["first_row"], values=tuple(table["values"]))


@dataclass(frozen=True, kw_only=True)
class ImportedVocabulary:
    """One feature's rows as another system assigned them: in any order, with gaps, several values on one row or on row
    0.

    A missing value counts as `default`; an unknown one has row 0, like padding. With `integers`, a value that is
    written as a number is converted to an integer first: "3.0" is "3". The default is not converted.
    """

    name: str
    values: tuple[str, ...]
    rows: tuple[int, ...]
    """The row of each of `values`."""
    default: str
    integers: bool = False

    unknown_row = PADDING_ROW

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """The row of each known value."""
        return dict(zip(self.values, self.rows, strict=True))

    @property
    def missing_row(self) -> int:
        """Row of a missing value: the row of the default, looked up without conversion."""
        return self.row_of.get(self.default, self.unknown_row)

    @property
    def next_row(self) -> int:
        """The row after the last assigned one."""
        return max(self.rows, default=PADDING_ROW) + 1

    @cached_property
    def _type(self) -> pl.Enum:
        return pl.Enum(pl.Series(self.values, dtype=pl.String))

    @cached_property
    def _lookup(self) -> NDArray[np.int32]:
        """Rows by position in `values`; the last entry is the row of any other value."""
        return np.array([*self.rows, self.unknown_row], np.int32)

    def encode(self, frame: pl.DataFrame) -> NDArray[np.int32]:
        """(n,) rows of the column `name`, a String column. Raises DataError when the frame has no such column."""
        texts = string_column(frame, self.name)
        known = (_integer_text(texts) if self.integers else texts).cast(self._type, strict=False).to_physical()
        rows: NDArray[np.int32] = self._lookup[known.cast(pl.Int64).fill_null(len(self.values)).to_numpy()]
        if texts.null_count():
            rows[texts.is_null().to_numpy()] = self.missing_row
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as plain JSON values."""
        given = {"name": self.name, "values": list(self.values), "rows": list(self.rows)}
        return {**given, "default": self.default, "integers": self.integers}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The vocabulary that `to_dict` wrote."""
        return cls(**{**table, "values": tuple(table["values"]), "rows": tuple(table["rows"])})


def read_vocabulary(table: Mapping[str, Any]) -> Vocabulary | ImportedVocabulary:
    """The vocabulary, of either kind, that its `to_dict` wrote."""
    return ImportedVocabulary.from_dict(table) if "rows" in table else Vocabulary.from_dict(table)


def _integer_text(texts: pl.Series) -> pl.Series:
    """Texts of numbers as integers; other texts unchanged."""
    integers = texts.str.strip_chars().cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    return integers.cast(pl.String).zip_with(integers.is_not_null(), texts)


def string_column(frame: pl.DataFrame, name: str) -> pl.Series:
    """A column of the frame as text. Raises DataError when it is absent or of another type."""
    if name not in frame.columns:
        raise DataError(f"categorical feature {name!r} must be a column of the rows (got {sorted(frame.columns)})")
    column = frame[name]
    if column.dtype not in (pl.String, pl.Null):
        raise DataError(f"categorical feature {name!r} must be of type String (got {column.dtype})")
    return column.cast(pl.String)


def fit_vocabularies(features: Sequence[Categorical], rows: Rows, first_row: int) -> tuple[Vocabulary, ...]:
    """Learn the known values of features from training rows.

    These are the values that occur at least `min_count` times, at most `max_values` of them, ordered by count, then
    by value. All others count as unknown, so that the unknown row is trained.
    """
    names = [feature.name for feature in features]
    counts: dict[str, pl.DataFrame] = {}
    for in_part in rows.each(_value_counts, names, names) if names else ():
        counts = {name: _sum(counts[name], one) if name in counts else one for name, one in in_part.items()}
    made: list[Vocabulary] = []
    for feature in features:
        frequent = counts[feature.name].filter(pl.col(COUNT) >= feature.min_count)
        frequent = frequent.sort([COUNT, feature.name], descending=[True, False]).head(feature.max_values)
        values = tuple(frequent[feature.name].to_list())
        made.append(Vocabulary(name=feature.name, first_row=made[-1].next_row if made else first_row, values=values))
    return tuple(made)


def _value_counts(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """How often each value occurs, by column."""
    return {
        name: frame.select(pl.col(name).cast(pl.String))
        .drop_nulls()
        .group_by(name)
        .agg(pl.len().cast(pl.Int64).alias(COUNT))
        for name in names
    }


def _sum(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([one, other]).group_by(one.columns[0]).agg(pl.col(COUNT).sum())


def calendar_vocabulary(name: Calendar, first_row: int) -> Vocabulary:
    """The fixed block of a calendar feature."""
    return Vocabulary(name=name, first_row=first_row, values=tuple(str(value) for value in CALENDAR[name]))


def encode_calendar(vocabulary: Vocabulary, time_seconds: NDArray[np.float64]) -> NDArray[np.int32]:
    """(n,) rows of a calendar feature for epoch seconds (n,), all finite."""
    seconds = np.floor(time_seconds).astype(np.int64)
    days = seconds // 86_400
    if vocabulary.name == "hour_of_day":
        value = seconds % 86_400 // 3_600
    elif vocabulary.name == "day_of_week":
        value = (days + 3) % 7  # 1970-01-01 was a Thursday
    else:
        dates = days.astype("datetime64[D]")
        months = dates.astype("datetime64[M]")
        in_month = vocabulary.name == "day_of_month"
        value = (dates - months).astype(np.int64) if in_month else months.astype(np.int64) % 12
    return value.astype(np.int32) + np.int32(vocabulary.known_row)
