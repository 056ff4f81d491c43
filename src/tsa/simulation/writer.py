"""Write a log in chunks, atomically, in the format given by the suffix."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from tsa.errors import ConfigError
from tsa.files.writing import atomic_file

Write = Callable[[pl.DataFrame], None]
_TEXT = (".csv", ".tsv", ".jsonl", ".ndjson")


@contextmanager
def log_writer(out: Path) -> Iterator[Write]:
    """Give a function that appends a frame to the log. The file gets its name only if all writes succeed.

    The suffix selects the format: .parquet, .csv, .tsv, .jsonl or .ndjson, text formats also with .gz.

    Raises:
        ConfigError: For any other suffix.
    """
    name = out.name.lower()
    packed = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in (_TEXT if packed else (*_TEXT, ".parquet")):
        raise ConfigError(f"out must end in .parquet or {', '.join(_TEXT)}, the latter also in .gz (got out={out})")
    with atomic_file(out) as temporary:
        writer: AbstractContextManager[Write] = (
            _parquet(temporary) if suffix == ".parquet" else _text(temporary, suffix, packed)
        )
        with writer as write:
            yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """One row group per chunk."""
    writers: list[pq.ParquetWriter] = []

    def write(piece: pl.DataFrame) -> None:
        table = piece.to_arrow(compat_level=pl.CompatLevel.oldest())
        if not writers:
            writers.append(pq.ParquetWriter(path, table.schema, compression="zstd"))
        writers[0].write_table(table, row_group_size=len(piece))

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def _text(path: Path, suffix: str, packed: bool) -> Iterator[Write]:
    """The gzip header has neither time nor name, so that the same log gives the same bytes."""
    with path.open("wb") as plain:
        target: Any = gzip.GzipFile("", "wb", compresslevel=4, fileobj=plain, mtime=0) if packed else plain
        written = 0

        def write(piece: pl.DataFrame) -> None:
            nonlocal written
            if suffix in (".jsonl", ".ndjson"):
                piece.write_ndjson(target)
            else:
                piece.write_csv(target, include_header=written == 0, separator="\t" if suffix == ".tsv" else ",")
            written += 1

        yield write
        if packed:
            target.close()
