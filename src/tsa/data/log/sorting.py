"""Sort a staged table by time on disk, one time range after another, so that memory stays bounded."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tsa.data.clean_columns import LABEL, TIME
from tsa.data.log.pieces import UsableRows, time_ranges
from tsa.data.log.validation import USE
from tsa.data.workers import GROUP_ROWS, Workers
from tsa.files.writing import atomic_file
from tsa.times import iso

STRETCH_BYTES = 512 * 2**20
ROW_GROUP = GROUP_ROWS


def time_chunks(times: np.ndarray, row_bytes: int) -> list[tuple[float, float]]:
    """Half-open time ranges of about `STRETCH_BYTES` each that together hold all rows. Equal times stay together."""
    count = -(-times.size * row_bytes // STRETCH_BYTES)
    if count <= 1:
        return [(-np.inf, np.inf)]
    places = np.arange(1, count) * times.size // count
    inner = np.unique(np.partition(times, places)[places]).tolist()
    edges = [-np.inf, *inner, np.inf]
    return list(itertools.pairwise(edges))


def row_bytes(schema: pl.Schema) -> int:
    """Approximate memory of a row."""
    return sum(48 if dtype == pl.String else 8 for dtype in schema.values())


def sorted_parts(
    frame: pl.LazyFrame, ranges: list[tuple[float, float]], time: str, tie: pl.Expr
) -> Iterator[pl.DataFrame]:
    """The rows of each range, ordered by (time, tie)."""
    for start, end in ranges:
        single = len(ranges) == 1
        part = frame if single else frame.filter(pl.col(time) >= start, pl.col(time) < end)
        yield in_order(part.collect(engine="streaming"), time, tie)


def in_order(part: pl.DataFrame, time: str, tie: pl.Expr) -> pl.DataFrame:
    """Rows sorted by (time, tie). Logs are usually sorted already, and checking is cheaper than sorting."""
    later = pl.col(time) > pl.col(time).shift()
    tied = (pl.col(time) == pl.col(time).shift()) & (tie > tie.shift())
    if part.select((later | tied).slice(1).all()).item():
        return part
    return part.sort(pl.col(time), tie)


class TableParts:
    """Collects tables of one schema in memory; the counterpart of `ParquetChunkWriter`."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []

    def write(self, part: pl.DataFrame) -> None:
        """Append the rows."""
        self._parts.append(part)

    def table(self) -> pl.DataFrame:
        """All rows."""
        return pl.concat(self._parts, rechunk=True)


class ParquetChunkWriter:
    """Writes tables of one schema into one Parquet file, which appears when all are written.

    Row groups have `ROW_GROUP` rows each, so the bytes depend on the rows only, not on the tables they came in.
    """

    def __init__(self, path: Path, *, private: bool = False) -> None:
        """Args: private: only the owner may read the file."""
        self.path, self._private = path, private
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: pl.DataFrame | None = None

    def __enter__(self) -> ParquetChunkWriter:
        return self

    def write(self, part: pl.DataFrame) -> None:
        """Append the rows."""
        waiting = part if self._waiting is None else pl.concat([self._waiting, part])
        groups = len(waiting) // ROW_GROUP
        for at in range(groups):
            self._write_group(waiting.slice(at * ROW_GROUP, ROW_GROUP))
        self._waiting = waiting.slice(groups * ROW_GROUP).rechunk()

    def _write_group(self, group: pl.DataFrame) -> None:
        table: pa.Table = group.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            temporary = self._stack.enter_context(atomic_file(self.path, private=self._private))
            self._writer = pq.ParquetWriter(temporary, table.schema, compression="lz4", use_dictionary=False)
        self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._waiting is not None and (len(self._waiting) or self._writer is None):
                self._write_group(self._waiting)
            if self._writer is not None:
                self._writer.close()
        except BaseException as torn:
            self._stack.__exit__(type(torn), torn, torn.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)


Parts = ParquetChunkWriter | TableParts
"""Where the sorted parts go: a file, or memory."""


def _tie(id_name: str, dtype: pl.DataType) -> pl.Expr:
    """The key that breaks ties in time. Texts are ordered by length, then alphabetically, as the numbers that they may
    spell.
    """
    key = pl.col(id_name)
    return pl.concat_str(key.str.len_bytes().cast(pl.String).str.zfill(9), key) if dtype == pl.String else key


@dataclass(frozen=True)
class _Sorting:
    """What sorting all ranges has in common."""

    usable: UsableRows
    integer_ids: bool


def write_sorted(
    usable: UsableRows, count: int, parts: Parts, workers: Workers, *, integer_ids: bool
) -> dict[str, Any]:
    """Write the clean table in parts, and return what the report says about it.

    Args:
        usable: The rows.
        count: Their number.
        parts: Where they are written.
        workers: Sort the ranges.
        integer_ids: Whether ids are texts that become integers.
    """
    size = count * row_bytes(usable.staged.schema)
    ranges = time_ranges(usable, max(-(-size // STRETCH_BYTES), workers.least), workers)
    nulls: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    times: list[float] = []
    for part in workers.call(_sorted_range, _Sorting(usable, integer_ids), ranges):
        parts.write(part)
        nulls.update(part.select(pl.exclude("^__.*$")).null_count().row(0, named=True))
        labels.update(dict(part[LABEL].value_counts().iter_rows()))
        times += [] if part.is_empty() else [part[TIME][0], part[TIME][-1]]
    return {
        "labels": {"fraud": labels[1], "genuine": labels[0], "unknown": labels[-1]},
        "first_time": iso(times[0]),
        "last_time": iso(times[-1]),
        "null_rates": {name: nulls / count for name, nulls in nulls.items()},
    }


def _sorted_range(sorting: _Sorting, time_range: tuple[float, float]) -> pl.DataFrame:
    """The rows of a range of time, of all pieces, ordered by (time, id)."""
    usable, (start, end) = sorting.usable, time_range
    rows = pl.concat([usable.scan(piece) for piece in range(len(usable.staged.pieces))]).drop(USE)
    if not (start == -np.inf and end == np.inf):
        rows = rows.filter(pl.col(TIME) >= start, pl.col(TIME) < end)
    id_name = usable.staged.id_name
    if sorting.integer_ids:
        rows = rows.with_columns(pl.col(id_name).cast(pl.Int64))
    part = rows.collect(engine="streaming")
    return in_order(part, TIME, _tie(id_name, part.schema[id_name]))
