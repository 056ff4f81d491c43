"""The rows of a log after the first pass over its files: typed and flagged, in file order, in one piece or one for each file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.bucketed import read_bucket, slices_of, write_bucketed
from tsa.data.clean_columns import TIME
from tsa.data.log.duplicates import Repeated, judge, none_repeated
from tsa.data.log.read_errors import fault_of, why_unreadable
from tsa.data.log.rules import read_columns
from tsa.data.log.validation import BAD, EXCLUDED, KEEP, ROW, USE, LogScan
from tsa.data.workers import GROUP_ROWS, Workers
from tsa.errors import DataError
from tsa.files.writing import atomic_file
from tsa.text import brief

SAMPLE = 4096
"""Largest number of times of a slice from which ranges of time are made."""
SLICE_ROWS = 2**22
"""Largest number of rows of a piece whose ids or times are in memory together."""

BUCKET_ROWS = 2**22
"""About how many ids are compared at a time."""

Slice = tuple[int, int, int]
"""The number of a piece, and rows of it from the first to before the second."""


@dataclass(frozen=True, kw_only=True)
class StagedRows:
    """The rows of a log: the columns that the market declares, and in `__use` whether a row is used, excluded or bad."""

    pieces: tuple[Path | pl.DataFrame, ...]
    """Parquet files, or a table in memory."""
    uses: tuple[dict[int, int], ...]
    """How many rows of each piece have each use."""
    id_name: str

    @property
    def rows(self) -> tuple[int, ...]:
        """The number of rows of each piece."""
        return tuple(sum(uses.values()) for uses in self.uses)

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """The number of the first row of each piece."""
        return tuple(accumulate(self.rows, initial=0))

    def __len__(self) -> int:
        return self.firsts[-1]

    def by_use(self) -> Counter[int]:
        """How many rows have each use."""
        return sum(map(Counter, self.uses), Counter())

    def scan(self, piece: int) -> pl.LazyFrame:
        """The rows of a piece."""
        rows = self.pieces[piece]
        return rows.lazy() if isinstance(rows, pl.DataFrame) else pl.scan_parquet(rows)

    def numbered(self, piece: int) -> pl.LazyFrame:
        """The rows of a piece, with their numbers among all rows."""
        return self.scan(piece).with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64) + self.firsts[piece])

    @cached_property
    def schema(self) -> pl.Schema:
        """The columns."""
        return self.scan(0).collect_schema()

    def slices(self) -> list[Slice]:
        """All pieces in slices."""
        return [
            (piece, first, min(first + SLICE_ROWS, n))
            for piece, n in enumerate(self.rows)
            for first in range(0, n, SLICE_ROWS)
        ]


@dataclass(frozen=True, kw_only=True)
class UsableRows:
    """The staged rows that are used: those marked so, but for some that are dropped."""

    staged: StagedRows
    dropped: pl.Series
    """Numbers of rows."""

    def scan(self, piece: int) -> pl.LazyFrame:
        """Those of a piece, with their use."""
        if self.dropped.is_empty():
            return self.staged.scan(piece).filter(pl.col(USE) == KEEP)
        stays = ~pl.col(ROW).is_in(self.dropped.implode())
        return self.staged.numbered(piece).filter(pl.col(USE) == KEEP, stays).drop(ROW)

    def slice(self, part: Slice, column: str) -> pl.Series:
        """A column of those in a slice."""
        piece, first, last = part
        if self.dropped.is_empty():
            frame = self.staged.scan(piece).select(column, USE).slice(first, last - first)
        else:
            frame = self.staged.numbered(piece).select(column, USE, ROW).slice(first, last - first)
            frame = frame.filter(~pl.col(ROW).is_in(self.dropped.implode()))
        return frame.filter(pl.col(USE) == KEEP).select(column).collect().to_series()


def stage_table(log: LogScan) -> StagedRows:
    """The rows of a small log, in memory. Raises DataError if it cannot be read."""
    try:
        table = log.staged().collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable(log, error) from None
    return StagedRows(pieces=(table,), uses=(_uses(table.lazy()),), id_name=log.shape.market.event.id)


def stage_files(log: LogScan, folder: Path, workers: Workers) -> StagedRows:
    """Read all files of a log once into Parquet files in `folder`. Raises DataError if one cannot be read."""
    logs = [replace(log, sources=[source]) for source in log.by_file()] if workers.by_file else [log]
    items = [(folder / f"{number}.parquet", one) for number, one in enumerate(logs)]
    # a copy in another encoding is in a temporary folder, which other machines do not see
    is_here = [any(source.copy is not None for source in one.sources) for one in logs]
    away = workers.call(_stage_piece, None, [item for item, here in zip(items, is_here, strict=True) if not here])
    uses = tuple(_stage_piece(None, item) if here else next(away) for item, here in zip(items, is_here, strict=True))
    return StagedRows(pieces=tuple(path for path, _ in items), uses=uses, id_name=log.shape.market.event.id)


def _stage_piece(_: None, item: tuple[Path, LogScan]) -> dict[int, int]:
    """Write typed and flagged rows. Returns how many have each use."""
    path, log = item
    try:
        with atomic_file(path) as temporary:
            log.staged().sink_parquet(temporary, compression="lz4", row_group_size=GROUP_ROWS)
    except pl.exceptions.PolarsError as error:
        raise unreadable(log, error) from None
    return _uses(pl.scan_parquet(path))


def _uses(rows: pl.LazyFrame) -> dict[int, int]:
    return dict(rows.group_by(USE).len().collect(engine="streaming").iter_rows())


def unreadable(log: LogScan, error: Exception) -> DataError:
    """The error for an unreadable file, naming the file. Polars' own text quotes the values where it stops."""
    columns, is_pseudonymized = read_columns(log.shape.market), any(source.is_pseudonymized for source in log.sources)
    for source in log.by_file():
        fault = fault_of(source.scan(columns))
        if fault is not None:
            path = source.shown_paths[0] if source.shown_paths else source.paths[0]
            return why_unreadable(path, source.kind, fault, is_pseudonymized=is_pseudonymized)
    return DataError(f"log: cannot be read: {type(error).__name__ if is_pseudonymized else brief(error)}")


def are_integers(usable: UsableRows, workers: Workers) -> bool:
    """Whether all ids, which are texts, spell integers; "007" does not."""
    return all(workers.call(_slice_has_integers, usable, usable.staged.slices()))


def _slice_has_integers(usable: UsableRows, part: Slice) -> bool:
    piece, first, last = part
    for begin in range(first, last, GROUP_ROWS):  # the first ones usually decide
        ids = usable.slice((piece, begin, min(begin + GROUP_ROWS, last)), usable.staged.id_name)
        if not (ids.cast(pl.Int64, strict=False).cast(pl.String) == ids).fill_null(False).all():
            return False
    return True


def time_ranges(usable: UsableRows, count: int, workers: Workers) -> list[tuple[float, float]]:
    """About `count` half-open ranges of time with about equally many rows. Equal times are in one range."""
    if count <= 1:
        return [(-np.inf, np.inf)]
    samples = [one for one in workers.call(_sampled_times, usable, usable.staged.slices()) if len(one[0])]
    times, weights = (np.concatenate([one[at] for one in samples]) for at in (0, 1))
    order = np.argsort(times)
    reached = np.cumsum(weights[order])
    places = np.searchsorted(reached, reached[-1] * np.arange(1, count) / count)
    edges = [-np.inf, *np.unique(times[order][places]).tolist(), np.inf]
    return list(pairwise(edges))


def _sampled_times(usable: UsableRows, part: Slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times at equal distances in their order, and how many rows each of them is for."""
    times = np.sort(usable.slice(part, TIME).to_numpy())
    sample = times[np.linspace(0, len(times) - 1, min(len(times), SAMPLE)).astype(np.int64)] if len(times) else times
    return sample, np.full(len(sample), len(times) / max(1, len(sample)))


@dataclass(frozen=True)
class _DividedIds:
    """Ids in files by bucket."""

    staged: StagedRows
    folder: Path
    buckets: int
    slices: Sequence[Slice] = ()

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"ids-{number}.parquet" for number in range(len(self.slices))]


def repeated_rows(staged: StagedRows, folder: Path | None, workers: Workers, *, last: bool) -> tuple[Repeated, int]:
    """What to do with rows whose ids occur more than once, and how many of the broken ones break no other rule.

    Args:
        staged: The rows.
        folder: For files that workers share; None: all is done in memory.
        workers: Compare ids.
        last: As for `judge`.
    """
    ids = pl.concat(_repeated_ids(staged, folder, workers))
    if ids.is_empty():
        return none_repeated(ROW), 0
    rows = pl.concat(workers.call(_rows_of_ids, (staged, ids), range(len(staged.pieces))))
    repeated = judge(rows.with_columns(pl.col(USE) == BAD), staged.id_name, ROW, USE, last=last)
    is_broken = pl.col(ROW).is_in(repeated.broken.implode())
    return repeated, rows.filter(is_broken, pl.col(USE) != BAD).height


def _repeated_ids(staged: StagedRows, folder: Path | None, workers: Workers) -> list[pl.Series]:
    buckets = 1 if folder is None else len(workers.parts(len(staged), BUCKET_ROWS))
    if buckets == 1:
        frames = [_live_ids(staged.scan(piece), staged.id_name) for piece in range(len(staged.pieces))]
        return [_repeated(pl.concat(frames).collect(engine="streaming").to_series())]
    assert folder is not None
    divided = _DividedIds(staged, folder, buckets, staged.slices())
    counts = list(workers.call(_divide, divided, range(len(divided.slices))))
    return list(workers.call(_repeated_in_bucket, divided, [slices_of(counts, bucket) for bucket in range(buckets)]))


def _live_ids(rows: pl.LazyFrame, id_name: str) -> pl.LazyFrame:
    return rows.filter(pl.col(USE) != EXCLUDED, pl.col(id_name).is_not_null()).select(id_name)


def _divide(divided: _DividedIds, number: int) -> np.ndarray:
    """Write the ids of a slice by bucket. Returns how many there are in each."""
    piece, first, last = divided.slices[number]
    ids = _live_ids(divided.staged.scan(piece).slice(first, last - first), divided.staged.id_name).collect()
    return write_bucketed(ids, divided.staged.id_name, divided.buckets, divided.paths[number])


def _repeated_in_bucket(divided: _DividedIds, slices: Sequence[tuple[int, int]]) -> pl.Series:
    return _repeated(pl.concat(read_bucket(divided.paths, slices)).to_series())


def _repeated(ids: pl.Series) -> pl.Series:
    """The ids that occur more than once, each once.

    Almost every log has none, so check cheaply first: sorted ids (texts: their hashes) have no equal neighbours.
    """
    ordered = (ids.hash() if ids.dtype == pl.String else ids).sort()
    if not (ordered == ordered.shift()).any():
        return ids.clear()
    return ids.filter(ids.is_duplicated()).unique()


def _rows_of_ids(shared: tuple[StagedRows, pl.Series], piece: int) -> pl.DataFrame:
    """The rows of a piece that have one of the ids and are not excluded."""
    staged, ids = shared
    has_id = pl.col(staged.id_name).is_in(ids.implode())
    return staged.numbered(piece).filter(has_id, pl.col(USE) != EXCLUDED).collect(engine="streaming")
