"""The files of a log of decisions: `TABLE/day=YYYY-MM-DD/NAME.parquet`, by the UTC day of the answer, and the journals.

A Parquet file appears complete or not at all. Its name is that of its journal, so that a conversion that was interrupted
gives the same file when it is repeated.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from tsa.errors import ConfigError, DataError
from tsa.files.writing import atomic_file
from tsa.serving.decisions.entries import LINE, MOMENT, TABLES, TIMES
from tsa.serving.decisions.journal import abandoned, complete_lines, journals
from tsa.text import brief

DAY = "day="
LATE_FILE_TRIES = 3
"""A journal may become Parquet while it is read."""

_log = logging.getLogger(__name__)


def is_log(folder: Path) -> bool:
    """Whether a folder contains a log of decisions."""
    return any((folder / name).is_dir() for name in (*TABLES, "journal"))


def need_log(folder: Path) -> None:
    """Raise ConfigError if the folder contains no log of decisions."""
    if not is_log(folder):
        rule = "must be the folder of a log of decisions"
        raise ConfigError(f"{folder} {rule}; tsa serve writes one with --decision-log")


def convert(folder: Path, journal: Path) -> int:
    """Convert a journal into Parquet files and delete it.

    Returns:
        The number of its entries.
    """
    entries = _entries_of(complete_lines(journal), journal.name)
    for table in TABLES:
        own = _rows_of(entries, table)
        for (day,), rows in own.group_by(pl.col("at").dt.date(), maintain_order=True):
            assert isinstance(day, date)
            _write(rows, folder / table / f"{DAY}{day.isoformat()}" / f"{journal.stem}.parquet")
    journal.unlink()
    return len(entries)


def convert_abandoned(folder: Path) -> int:
    """Convert the journals of processes that have ended. Returns the number of entries."""
    return sum(convert(folder, path) for path in abandoned(folder))


def read_table(folder: Path, table: str, *, since: float | None = None, until: float | None = None) -> pl.DataFrame:
    """All entries of a table, in the order in which they were made; those still in journals too.

    Args:
        since, until: Only entries made in [since, until), in epoch seconds.

    Raises:
        ConfigError: The folder contains no log of decisions.
        DataError: A file cannot be read.
    """
    need_log(folder)
    days = tuple(None if moment is None else datetime.fromtimestamp(moment, UTC).date() for moment in (since, until))
    for _ in range(LATE_FILE_TRIES):
        with suppress(FileNotFoundError):
            return _in_range(_read(folder, table, days), since, until)
    raise DataError(f"{folder} must not change all the time while it is read; try again")


def _read(folder: Path, table: str, days: tuple[date | None, ...]) -> pl.DataFrame:
    fresh = {path.stem: complete_lines(path) for path in journals(folder)}
    schema = pl.Schema(TABLES[table])
    parts = [pl.DataFrame(schema=schema)]
    for path in table_files(folder, table):
        day = date.fromisoformat(path.parent.name.removeprefix(DAY))
        is_inside = (days[0] is None or day >= days[0]) and (days[1] is None or day <= days[1])
        if is_inside and path.stem not in fresh:
            parts.append(_parquet(path).select(schema.names()).cast(schema))
    parts += [_rows_of(_entries_of(data, name), table) for name, data in fresh.items()]
    return pl.concat(parts).sort("at", maintain_order=True)


def _in_range(rows: pl.DataFrame, since: float | None, until: float | None) -> pl.DataFrame:
    for moment, compare in ((since, pl.col("at").__ge__), (until, pl.col("at").__lt__)):
        if moment is not None:
            rows = rows.filter(compare(pl.lit(datetime.fromtimestamp(moment, UTC)).cast(MOMENT)))
    return rows


def table_files(folder: Path, table: str) -> list[Path]:
    """The Parquet files of a table, by day."""
    return sorted((folder / table).glob(f"{DAY}*/*.parquet"))


def rewrite(folder: Path, keep: Mapping[str, pl.Expr]) -> dict[str, int]:
    """Delete the entries of each table for which `keep` is not true. Files without any other entries are not touched.

    Returns:
        By table: how many were deleted.
    """
    deleted = dict.fromkeys(keep, 0)
    for table, is_kept in keep.items():
        for path in table_files(folder, table):
            with suppress(FileNotFoundError):  # retention has deleted it
                rows = _parquet(path)
                rest = rows.filter(is_kept)
                if len(rest) < len(rows):
                    deleted[table] += len(rows) - len(rest)
                    if len(rest):
                        _write(rest, path)
                    else:
                        path.unlink()
    return deleted


def delete_before(folder: Path, moment: float) -> int:
    """Delete the files of the UTC days that ended before `moment`, in epoch seconds. Returns how many."""
    first_day, count = datetime.fromtimestamp(moment, UTC).date(), 0
    for path in _old_files(folder, first_day):
        with suppress(FileNotFoundError):
            path.unlink()
            count += 1
        with suppress(OSError):
            path.parent.rmdir()
    return count


def _old_files(folder: Path, first_day: date) -> Iterator[Path]:
    for table in TABLES:
        for path in table_files(folder, table):
            if date.fromisoformat(path.parent.name.removeprefix(DAY)) < first_day:
                yield path


def _write(rows: pl.DataFrame, path: Path) -> None:
    with atomic_file(path, private=True) as temporary:
        rows.write_parquet(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(f"{path} must be a file of a log of decisions ({brief(error)})") from None


def _entries_of(data: bytes, name: str) -> pl.DataFrame:
    """The entries of a journal. A line that a crash has damaged is left out."""
    if not data:
        return pl.DataFrame(schema=dict(LINE))
    try:
        return pl.read_ndjson(io.BytesIO(data), schema=dict(LINE))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        lines = [line for line in data.splitlines() if line]
        entries = [entry for line in lines if (entry := _entry(line)) is not None]
        _log.warning("%s: %d damaged lines are left out", name, len(lines) - len(entries))
        return pl.DataFrame(entries, schema=dict(LINE))


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = orjson.loads(line)
    except ValueError:
        return None
    return {name: entry.get(name) for name in LINE} if isinstance(entry, dict) else None


def _rows_of(entries: pl.DataFrame, table: str) -> pl.DataFrame:
    schema = pl.Schema(TABLES[table])
    times = [_moment(name) for name in schema if name in TIMES]
    return entries.filter(pl.col("table") == table).select(*schema).with_columns(times).cast(schema)


def _moment(name: str) -> pl.Expr:
    return (pl.col(name) * 1e6).round().cast(pl.Int64).cast(MOMENT).alias(name)
