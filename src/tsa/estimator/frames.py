"""Data frames of pandas and Polars: read as Polars, results given back as the kind that came in."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any, cast

import polars as pl

from tsa.errors import DataError
from tsa.text import brief

Frame = Any
"""A data frame of pandas or Polars. pandas is optional, so there is no type of both."""


def is_pandas(frame: Frame) -> bool:
    """Whether it is a data frame of pandas, which is not imported for this."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(frame, pandas.DataFrame)


def to_polars(frame: Frame, named: Collection[str] = ()) -> pl.DataFrame:
    """A data frame as Polars, without columns that no log can have (lists and objects).

    Args:
        frame: A data frame of pandas or Polars, or a Polars LazyFrame.
        named: Columns that must not be dropped; index levels of pandas with one of these names become columns.

    Raises:
        DataError: For anything else, names that are no text, or a named column of lists or objects.
    """
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    made = _of_pandas(frame, named) if is_pandas(frame) else frame
    if not isinstance(made, pl.DataFrame):
        raise DataError(f"payments must be a data frame of pandas or Polars (got {type(frame).__name__})")
    unusable = {name for name, kind in made.schema.items() if kind.is_nested() or isinstance(kind, pl.Object)}
    if bad := [name for name in made.columns if name in unusable and name in named]:
        rule = f"the column {brief(bad[0])} must hold texts, numbers or times (got {made.schema[bad[0]]})"
        raise DataError(f"{rule}: convert it first")
    as_text = (pl.col(name).cast(pl.String) for name, kind in made.schema.items() if _is_category(kind))
    return made.drop(unusable).with_columns(as_text)


def _is_category(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Categorical | pl.Enum)


def _of_pandas(frame: Frame, named: Collection[str]) -> pl.DataFrame:
    levels = [name for name in frame.index.names if name is not None and name in named and name not in frame.columns]
    if levels:
        frame = frame.reset_index(level=levels)
    if unusable := [name for name in frame.columns if not isinstance(name, str)]:
        raise DataError(f"names of columns must be texts (got {unusable[0]!r}): rename the columns")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"names of columns must be different (got {brief(twice)} twice): rename one")
    return pl.DataFrame([_series(frame[name], name) for name in frame.columns])


def _series(column: Any, name: str) -> pl.Series:
    """A column of pandas. One of mixed objects becomes text, as a file would have it."""
    try:
        return cast(pl.Series, pl.from_pandas(column, nan_to_null=True)).alias(name)
    except (TypeError, ValueError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if _is_missing(value) else str(value) for value in column], dtype=pl.String)
    except Exception as error:  # of PyArrow, whose errors are of other classes
        if type(error).__module__.split(".")[0] != "pyarrow":
            raise
        return pl.Series(name, [None if _is_missing(value) else str(value) for value in column], dtype=pl.String)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def like(made: pl.DataFrame, frame: Frame, *, same_rows: bool = True) -> Frame:
    """A result as the kind of data frame that came in. same_rows: it has the rows of `frame`, and gets its index."""
    if not is_pandas(frame):
        return made
    result = made.to_pandas()
    if same_rows:
        result.index = frame.index
    return result
