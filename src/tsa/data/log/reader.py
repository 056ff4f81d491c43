"""Read a payment log: files in any supported format in, one clean table in time order out, with a report on every row.

`read_log` is the entry point. `columns` parses values, `rules` checks them, `validation` handles the bad rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from tsa.config.market import Market
from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME
from tsa.data.derived import IS_TEXT, inputs_of
from tsa.data.encoding.scaler import Domain
from tsa.data.log.columns import is_text_type
from tsa.data.log.duplicates import Repeated, judge, none_repeated
from tsa.data.log.id_and_joined_columns import MadeColumns
from tsa.data.log.pseudonyms import PseudonymizedSource, Pseudonymizer
from tsa.data.log.quarantine import Quarantine, QuarantineLike, quarantine_text, write_quarantine
from tsa.data.log.read_errors import fault_of, why_unreadable
from tsa.data.log.rules import LogSchema, number_columns, read_columns, shape_of
from tsa.data.log.sorting import ROW_GROUP, ParquetChunkWriter, Parts, TableParts, write_sorted
from tsa.data.log.sources import Source, guesses_of, open_sources, say_guesses, table_source
from tsa.data.log.validation import (
    BAD,
    EXCLUDED,
    KEEP,
    REPLACED,
    ROW,
    USE,
    Broken,
    LogScan,
    count_broken,
    duplicate_rows,
    validation_error,
)
from tsa.errors import DataError
from tsa.text import brief

logger = logging.getLogger(__name__)

__all__ = ["KNOWN_AT", "LABEL", "TIME", "CleanLog", "clean_log", "read_log", "read_table"]


@dataclass(frozen=True)
class CleanLog:
    """`path`: one Parquet file, rows sorted by (time, id). `report`: counts of rows by outcome of the checks, as JSON
    values.

    The file has the raw columns that the market declares, under their own names, and `__time_seconds` (Float64),
    `__label` (Int8: 1, 0, -1 unknown), `__known_at_seconds` (Float64, +inf: never).
    """

    path: Path
    report: dict[str, Any]


def read_log(
    market: Market,
    logs: Sequence[str],
    out: Path,
    *,
    quarantine: QuarantineLike = None,
    need_label: bool = True,
    domains: Mapping[str, Domain] | None = None,
    may_be_integers: frozenset[str] | None = None,
) -> CleanLog:
    """Read, check and sort a log. The output files appear atomically.

    Args:
        need_label: Without it a log may lack its outcomes and the columns that only reports use.
        domains: By numerical feature the numbers that can be scaled. None: those that an encoder fitted as the
            market says can.

    Raises:
        DataError: If rows break a rule, unless they may go to `quarantine`.
    """
    digits = (item.column for item in inputs_of(market).values() if IS_TEXT.get(item.kind))
    keys = (market.event.id, *market.key_columns, *digits)
    numbers = () if market.wire is not None else number_columns(market)
    sources = open_sources(
        logs, read_columns(market), keys, reading=market.reading, made=MadeColumns.of(market), numbers=numbers
    )
    say_guesses(sources)
    market, sources = pseudonymized(market, sources)
    return clean_log(
        market,
        sources,
        out,
        quarantine=quarantine,
        need_label=need_label,
        domains=domains,
        may_be_integers=may_be_integers,
    )


def read_table(
    market: Market,
    table: pl.DataFrame,
    *,
    quarantine: QuarantineLike = None,
    need_label: bool = True,
    domains: Mapping[str, Domain] | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The rows and the report of `CleanLog` for a small table, in memory instead of a Parquet file.

    Raises:
        DataError: As `read_log`.
    """
    market, sources = pseudonymized(market, [table_source(table, read_columns(market), MadeColumns.of(market))])
    log = _opened(market, sources, need_label, domains)
    try:
        staged = log.staged().collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise _unreadable(log, error) from None
    parts = TableParts()
    report = _write_clean(log, staged.lazy(), parts, Quarantine.of(quarantine))
    logger.info("read %d rows, used %d", report["rows_read"], report["rows_kept"])
    return parts.table(), report


def pseudonymized(market: Market, sources: list[Source]) -> tuple[Market, list[Source]]:
    """The market and sources with pseudonyms, where the market asks for them."""
    pseudonyms = Pseudonymizer.of(market)
    if pseudonyms is None:
        return market, sources
    return pseudonyms.market(market), [PseudonymizedSource.over(source, pseudonyms) for source in sources]


def clean_log(
    market: Market,
    sources: Sequence[Source],
    out: Path,
    *,
    quarantine: QuarantineLike = None,
    need_label: bool = True,
    domains: Mapping[str, Domain] | None = None,
    may_be_integers: frozenset[str] | None = None,
) -> CleanLog:
    """Check and sort rows from sources that are already open, as `read_log` does."""
    out = Path(out)
    log = _opened(market, sources, need_label, domains, may_be_integers)
    out.parent.mkdir(parents=True, exist_ok=True)
    staged_path = out.with_name(f".{out.name}.{os.getpid()}.staged")
    try:
        _stage(log, staged_path)
        with ParquetChunkWriter(out) as parts:
            report = _write_clean(log, pl.scan_parquet(staged_path), parts, Quarantine.of(quarantine))
    finally:
        staged_path.unlink(missing_ok=True)
    logger.info("read %d rows, used %d", report["rows_read"], report["rows_kept"])
    return CleanLog(path=out, report=report)


def _opened(
    market: Market,
    sources: Sequence[Source],
    need_label: bool,
    domains: Mapping[str, Domain] | None,
    may_be_integers: frozenset[str] | None = None,
) -> LogScan:
    log = LogScan(shape=_shape(market, sources, need_label, domains, may_be_integers), sources=sources)
    if not log.shape.label:
        logger.warning("the log has no outcomes (%s): all labels count as unknown", market.label.column)
    return log


def _shape(
    market: Market,
    sources: Sequence[Source],
    need_label: bool,
    domains: Mapping[str, Domain] | None,
    may_be_integers: frozenset[str] | None,
) -> LogSchema:
    names = [
        source.paths[0] if len(source.paths) == 1 else f"{source.paths[0]} and {len(source.paths) - 1} more"
        for source in sources
    ]
    schemas = [source.schema for source in sources]
    names = names if len(names) > 1 else []
    return shape_of(
        market, schemas, need_label=need_label, domains=domains, names=names, may_be_integers=may_be_integers
    )


def _unreadable(log: LogScan, error: Exception) -> DataError:
    """The error for an unreadable file, naming the file. Polars' own text quotes the values where it stops."""
    columns, is_pseudonymized = read_columns(log.shape.market), any(source.is_pseudonymized for source in log.sources)
    for source in log.sources:
        for path in source.paths:
            fault = fault_of(replace(source, paths=(path,)).scan(columns))
            if fault is not None:
                shown = source.shown_paths[0] if source.shown_paths else path
                return why_unreadable(shown, source.kind, fault, is_pseudonymized=is_pseudonymized)
    return DataError(f"log: cannot be read: {type(error).__name__ if is_pseudonymized else brief(error)}")


def _stage(log: LogScan, staged_path: Path) -> None:
    """All rows, typed and flagged, in file order. The files are parsed once, whatever their format."""
    try:
        log.staged().sink_parquet(staged_path, compression="lz4", row_group_size=ROW_GROUP)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(log, error) from None


def _write_clean(log: LogScan, staged: pl.LazyFrame, parts: Parts, quarantine: Quarantine | None) -> dict[str, Any]:
    id_name = log.shape.market.event.id
    rows = staged.select(id_name, USE).collect(engine="streaming")
    ids, use = rows[id_name], rows[USE]
    if rows.is_empty():
        raise DataError("log: must hold at least one row, but it is empty")
    repeated = _repeated(log, staged, ids, use)
    use = use.scatter(repeated.broken, BAD).scatter(repeated.replaced, REPLACED)
    unscored = _unscored(ids, use, quarantine)
    use = use.scatter(unscored, BAD)
    rows_by_use = {kind: int((use == kind).sum()) for kind in (KEEP, EXCLUDED, BAD, REPLACED)}
    if rows_by_use[REPLACED]:
        logger.warning("%s: %d rows are replaced by later ones of the same payment", id_name, rows_by_use[REPLACED])
    broken = _write_bad_rows(log, repeated, rows.height, rows_by_use[BAD], quarantine)
    if not rows_by_use[KEEP]:
        raise DataError(
            f"log: must hold at least one row to use (got {rows.height:,} rows, of which {rows_by_use[BAD]:,} break a rule "
            f"and {rows_by_use[EXCLUDED]:,} are excluded{'; '.join(['', *broken.lines(has_label=False)][:2])})"
        )
    usable = _usable_rows(staged, repeated.rows.append(unscored) if len(unscored) else repeated.rows)
    if _are_integers(log, ids.filter(use == KEEP)):
        usable = usable.with_columns(pl.col(id_name).cast(pl.Int64))
    report = {
        "files": [path for source in log.sources for path in source.shown_paths or source.paths],
        **({"guessed": guesses} if (guesses := guesses_of(log.sources)) else {}),
        "rows_read": rows.height,
        "rows_kept": rows_by_use[KEEP],
        "rows_excluded": rows_by_use[EXCLUDED],
        "rows_replaced": rows_by_use[REPLACED],
        "rows_quarantined": rows_by_use[BAD],
        "by_rule": dict(sorted(broken.rows.items())),
        "frauds_quarantined": broken.frauds,
        "frauds_by_rule": dict(sorted(broken.frauds_by_rule.items())),
        **write_sorted(usable, parts, id_name),
    }
    assert report["rows_kept"] == sum(report["labels"].values())
    assert report["rows_read"] == sum(rows_by_use.values())
    return report


def _unscored(ids: pl.Series, use: pl.Series, quarantine: Quarantine | None) -> pl.Series:
    """Row numbers of valid payments that the network gives no finite score."""
    if quarantine is None or not quarantine.unscored:
        return none_repeated(ROW).rows
    unscored = ids.cast(pl.String).is_in(list(quarantine.unscored)).fill_null(False)
    return (unscored & (use == KEEP)).arg_true()


def _repeated(log: LogScan, staged: pl.LazyFrame, ids: pl.Series, use: pl.Series) -> Repeated:
    """What to do with rows whose ids occur more than once. Most logs have none."""
    repeated = duplicate_rows(ids, use)
    if repeated.is_empty():
        return none_repeated(ROW)
    market = log.shape.market
    has_repeated_id = pl.col(market.event.id).is_in(ids.gather(repeated).unique().implode()) & (pl.col(USE) != EXCLUDED)
    rows = staged.with_row_index(ROW).filter(has_repeated_id).collect(engine="streaming")
    rows = rows.with_columns(pl.col(USE) == BAD)
    return judge(rows, market.event.id, ROW, USE, last=market.reading.duplicates == "last")


def _write_bad_rows(log: LogScan, repeated: Repeated, read: int, bad: int, quarantine: Quarantine | None) -> Broken:
    """The rules that the bad rows break, after these are written to quarantine. Raises DataError if they may not be."""
    if bad == 0 and quarantine is None:
        return Broken()
    flagged, named = log.flagged(repeated, frozenset() if quarantine is None else quarantine.unscored)
    if quarantine is None:
        raise validation_error(flagged, named, read, bad)
    if bad > quarantine.limit * read:
        raise validation_error(flagged, named, read, bad, limit=quarantine.limit)
    write_quarantine(flagged, named, quarantine.path)
    if bad == 0:
        return Broken()
    broken = count_broken(flagged, named)
    logger.warning(
        "%s", quarantine_text(broken, read, bad, quarantine.reported_as or quarantine.path, has_label=log.shape.label)
    )
    return broken


def _usable_rows(staged: pl.LazyFrame, dropped: pl.Series) -> pl.LazyFrame:
    usable = pl.col(USE) == KEEP
    if dropped.is_empty():
        return staged.filter(usable).drop(USE)
    return staged.with_row_index(ROW).filter(usable, ~pl.col(ROW).is_in(dropped.implode())).drop(USE, ROW)


def _are_integers(log: LogScan, ids: pl.Series) -> bool:
    """True for ids that were scanned as text, as CSV and JSON are, and each spell an integer; "007" does not."""
    id_name, may_be = log.shape.market.event.id, log.shape.may_be_integers
    if may_be is not None and id_name not in may_be:
        return False
    if ids.dtype != pl.String or any(
        is_text_type(source.schema[id_name]) and not source.is_text for source in log.sources
    ):
        return False
    for start in range(0, len(ids), ROW_GROUP):  # the first part usually decides
        part = ids.slice(start, ROW_GROUP)
        if not (part.cast(pl.Int64, strict=False).cast(pl.String) == part).fill_null(False).all():
            return False
    return True
