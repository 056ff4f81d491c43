"""Rows divided by the hash of a column, so that equal values meet: a file for each part, in which buckets follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.files.writing import atomic_file

BUCKET = "__bucket"  # no market column starts with two underscores


def write_bucketed(rows: pl.DataFrame, column: str, buckets: int, path: Path) -> NDArray[np.int64]:
    """Write rows by bucket, in their order in each. Returns (B,) the number of rows of each bucket."""
    rows = rows.with_columns((rows[column].hash() % buckets).alias(BUCKET)).sort(BUCKET, maintain_order=True)
    with atomic_file(path) as temporary:
        rows.drop(BUCKET).write_parquet(temporary, compression="lz4")
    return np.bincount(rows[BUCKET].to_numpy(), minlength=buckets)


def slices_of(counts: Sequence[NDArray[np.int64]], bucket: int) -> list[tuple[int, int]]:
    """The first row and the number of rows of a bucket in each of the files, from what `write_bucketed` returned for each."""
    return [(int(count[:bucket].sum()), int(count[bucket])) for count in counts]


def read_bucket(paths: Sequence[Path], slices: Sequence[tuple[int, int]]) -> list[pl.DataFrame]:
    """The rows of a bucket in each of the files."""
    return [
        pl.scan_parquet(path).slice(first, count).collect() for path, (first, count) in zip(paths, slices, strict=True)
    ]
