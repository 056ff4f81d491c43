"""Write scores to a file, complete or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from tsa.data.log.sorting import ParquetChunkWriter
from tsa.files.writing import atomic_file, need_suffix


def write_scores(scores: pl.DataFrame | Iterable[pl.DataFrame], out: Path) -> int:
    """Write scores, as one table or in parts, atomically as .parquet or .csv by the suffix of `out`.

    Returns:
        The number of payments.

    Raises:
        ConfigError: For another suffix, before the first part is computed.
    """
    need_suffix("out", out, ".parquet", ".csv")
    parts = iter([scores] if isinstance(scores, pl.DataFrame) else scores)
    with atomic_file(out) as temporary:
        return _write_csv(parts, temporary) if out.suffix == ".csv" else _write_parquet(parts, temporary)


def _write_csv(parts: Iterator[pl.DataFrame], path: Path) -> int:
    count = 0
    with path.open("wb") as file:
        for part in parts:
            part.write_csv(file, include_header=count == 0)
            count += len(part)
    return count


def _write_parquet(parts: Iterator[pl.DataFrame], path: Path) -> int:
    count = 0
    with ParquetChunkWriter(path) as file:
        for part in parts:
            file.write(part)
            count += len(part)
    return count
