"""Divide payments into segments, by the values of a column or by history length, and measure each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.evaluation.metrics.scored_payments import Array

MAX_VALUES = 20
HISTORY_BUCKETS = ((0, "none"), (1, "1"), (2, "2-5"), (6, "6-20"), (21, "21-50"), (51, "51+"))

Measure = Callable[[NDArray[np.intp]], dict[str, Any]]


def by_value(values: Array, measure: Measure) -> list[dict[str, Any]]:
    """Measure the rows of each of the most frequent values (n) of str; the others together as "other".

    Returns {value, ...measure} by descending count. A missing value is None. "rest": how many values are in "other".
    """
    column = pl.Series("value", values if values.dtype.kind != "O" else values.tolist(), dtype=None).cast(pl.String)
    counts = column.value_counts().sort("count", "value", descending=[True, False])
    largest = counts.head(MAX_VALUES).with_columns(code=pl.int_range(pl.len(), dtype=pl.Int8))
    codes = column.to_frame().join(largest, on="value", how="left", nulls_equal=True, maintain_order="left")["code"]
    names = largest["value"].to_list()
    parts = []
    for code, rows in _rows_by_code(codes.fill_null(len(names)).to_numpy()):
        rest = {"value": "other", "rest": len(counts) - len(names)} if code == len(names) else {"value": names[code]}
        parts.append(rest | measure(rows))
    return parts


def by_history_length(lengths: Array, measure: Measure) -> list[dict[str, Any]]:
    """Measure the rows of each bucket of history length (n); empty buckets are left out."""
    codes = np.searchsorted([first for first, _ in HISTORY_BUCKETS], lengths, side="right") - 1
    codes = np.maximum(codes, 0)
    return [{"value": HISTORY_BUCKETS[code][1]} | measure(rows) for code, rows in _rows_by_code(codes.astype(np.int8))]


def _rows_by_code(codes: Array) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each code that occurs, ascending, with its rows."""
    order = np.argsort(codes, kind="stable")  # radix sort for small integers
    present, starts = np.unique(codes[order], return_index=True)
    for code, start, end in zip(present.tolist(), starts, [*starts[1:], len(codes)], strict=False):
        yield code, order[start:end]
