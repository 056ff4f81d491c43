"""Read a payment log: files in any supported format in, one clean table in time order out, with a report on every row.

`read_log` is the entry point. `columns` parses values, `rules` checks them, `validation` handles the bad rows.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tsa.config.market import Market
from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME
from tsa.data.derived import IS_TEXT, inputs_of
from tsa.data.encoding.scaler import Domain
from tsa.data.log.columns import is_text_type
from tsa.data.log.duplicates import Repeated, none_repeated
from tsa.data.log.id_and_joined_columns import MadeColumns
from tsa.data.log.pieces import StagedRows, UsableRows, are_integers, repeated_rows, stage_files, stage_table
from tsa.data.log.pseudonyms import PseudonymizedSource, Pseudonymizer
from tsa.data.log.quarantine import Quarantine, QuarantineLike, quarantine_text, write_quarantine
from tsa.data.log.rule import Rule
from tsa.data.log.rules import LogSchema, number_columns, read_columns, shape_of
from tsa.data.log.sorting import ParquetChunkWriter, Parts, TableParts, write_sorted
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
    validation_error,
)
from tsa.data.workers import HERE, Workers
from tsa.errors import DataError

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
    rules: Mapping[str, Rule]
    """The rules for rows, by name; empty if no row breaks one."""


def read_log(
    market: Market,
    logs: Sequence[str],
    out: Path,
    *,
    quarantine: QuarantineLike = None,
    need_label: bool = True,
    domains: Mapping[str, Domain] | None = None,
    may_be_integers: frozenset[str] | None = None,
    workers: Workers = HERE,
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
        logs,
        read_columns(market),
        keys,
        reading=market.reading,
        made=MadeColumns.of(market),
        numbers=numbers,
        workers=workers,
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
        workers=workers,
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
    parts = TableParts()
    report, _ = _write_clean(log, stage_table(log), parts, Quarantine.of(quarantine))
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
    workers: Workers = HERE,
) -> CleanLog:
    """Check and sort rows from sources that are already open, as `read_log` does."""
    out = Path(out)
    log = _opened(market, sources, need_label, domains, may_be_integers)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".staged", dir=out.parent) as name:
        folder = Path(name)
        staged = stage_files(log, folder, workers)
        with ParquetChunkWriter(out) as parts:
            report, rules = _write_clean(log, staged, parts, Quarantine.of(quarantine), folder, workers)
    logger.info("read %d rows, used %d", report["rows_read"], report["rows_kept"])
    return CleanLog(path=out, report=report, rules=rules)


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


def _write_clean(
    log: LogScan,
    staged: StagedRows,
    parts: Parts,
    quarantine: Quarantine | None,
    folder: Path | None = None,
    workers: Workers = HERE,
) -> tuple[dict[str, Any], Mapping[str, Rule]]:
    """Write the clean rows. Returns the report, and the rules if rows break one."""
    read, reading = len(staged), log.shape.market.reading
    if not read:
        raise DataError("log: must hold at least one row, but it is empty")
    repeated, also_broken = repeated_rows(staged, folder, workers, last=reading.duplicates == "last")
    usable = UsableRows(staged=staged, dropped=repeated.rows)
    unscored = _unscored(usable, quarantine, workers)
    rows = staged.by_use()
    rows[REPLACED] = len(repeated.replaced)
    rows[BAD] += also_broken + len(unscored)
    rows[KEEP] -= also_broken + len(unscored) + rows[REPLACED]
    if rows[REPLACED]:
        logger.warning("%s: %d rows are replaced by later ones of the same payment", staged.id_name, rows[REPLACED])
    broken = _write_bad_rows(log, repeated, read, rows[BAD], quarantine)
    if not rows[KEEP]:
        raise DataError(
            f"log: must hold at least one row to use (got {read:,} rows, of which {rows[BAD]:,} break a rule "
            f"and {rows[EXCLUDED]:,} are excluded{'; '.join(['', *broken.lines(has_label=False)][:2])})"
        )
    usable = UsableRows(staged=staged, dropped=pl.concat([repeated.rows, unscored]))
    integer_ids = _may_be_integers(log, staged) and are_integers(usable, workers)
    report = {
        "files": [path for source in log.sources for path in source.shown_paths or source.paths],
        **({"guessed": guesses} if (guesses := guesses_of(log.sources)) else {}),
        "rows_read": read,
        "rows_kept": rows[KEEP],
        "rows_excluded": rows[EXCLUDED],
        "rows_replaced": rows[REPLACED],
        "rows_quarantined": rows[BAD],
        "by_rule": dict(sorted(broken.rows.items())),
        "frauds_quarantined": broken.frauds,
        "frauds_by_rule": dict(sorted(broken.frauds_by_rule.items())),
        **write_sorted(usable, rows[KEEP], parts, workers, integer_ids=integer_ids),
    }
    assert report["rows_kept"] == sum(report["labels"].values())
    assert report["rows_read"] == sum(rows.values())
    return report, broken.rules


def _unscored(usable: UsableRows, quarantine: Quarantine | None, workers: Workers) -> pl.Series:
    """Row numbers of valid payments that the network gives no finite score."""
    if quarantine is None or not quarantine.unscored:
        return none_repeated(ROW).rows
    return pl.concat(workers.call(_rows_of_texts, (usable, quarantine.unscored), range(len(usable.staged.pieces))))


def _rows_of_texts(shared: tuple[UsableRows, frozenset[str]], piece: int) -> pl.Series:
    """Row numbers of the usable rows of a piece that have one of these ids, as texts."""
    usable, ids = shared
    is_one = pl.col(usable.staged.id_name).cast(pl.String).is_in(list(ids)).fill_null(False)
    rows = usable.staged.numbered(piece).filter(is_one, pl.col(USE) == KEEP).select(ROW).collect()[ROW]
    return rows.filter(~rows.is_in(usable.dropped.implode()))


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
    logger.warning("%s", quarantine_text(quarantine, broken, read, bad, has_label=log.shape.label))
    return broken


def _may_be_integers(log: LogScan, staged: StagedRows) -> bool:
    """Whether ids were scanned as text, as those of CSV and JSON are, and may spell integers."""
    id_name, may_be = staged.id_name, log.shape.may_be_integers
    if staged.schema[id_name] != pl.String or (may_be is not None and id_name not in may_be):
        return False
    return all(source.is_text or not is_text_type(source.schema[id_name]) for source in log.sources)
