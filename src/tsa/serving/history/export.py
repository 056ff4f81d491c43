"""Write the payments of a history store as a log: what the endpoint has seen, with the outcomes reported to it.

The file has the columns that `tsa prepare` reads by the market. It is written in pieces, so memory stays bounded.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tsa.config.market import Market
from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME
from tsa.data.log.rules import read_columns
from tsa.data.log.sorting import ROW_GROUP, ParquetChunkWriter, row_bytes, sorted_parts, time_chunks
from tsa.data.spelling import UNIT_SCALE
from tsa.errors import HistoryError
from tsa.files.writing import need_suffix
from tsa.progress import Progress, silent
from tsa.serving.history.base import PAYMENTS, HistoryStore
from tsa.serving.history.metadata import read_metadata, stored_market
from tsa.serving.history.records import Record

BATCH = 10_000
"""Payments in memory at a time."""

MICROSECONDS = 1e6


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """How much was written."""

    payments: int
    with_outcome: int
    left_out: int
    """Payments of the store that were loaded from a log, or are outside the times asked for."""
    pseudonyms: tuple[str, ...]
    """Columns whose values are pseudonyms: the store does not have the values themselves."""


def export_log(
    store: HistoryStore,
    out: Path,
    *,
    start_seconds: float = -math.inf,
    end_seconds: float = math.inf,
    with_loaded: bool = False,
    pseudonyms: bool = False,
    progress: Progress = silent,
) -> ExportSummary:
    """Write the payments that were scored, in time order, into a Parquet file.

    Args:
        store: A store that was used before.
        out: The file.
        start_seconds, end_seconds: Payments in [start, end), epoch seconds.
        with_loaded: Also payments that were loaded from a log and never scored.
        pseudonyms: Write the pseudonyms of columns that the market asks them for.
        progress: Reports long work.

    Raises:
        HistoryError: If a column that the market reads is not in the store, or is there as pseudonyms only, or no payment is
            to be written.
        HistoryUnavailable: If the store cannot be read.
    """
    need_suffix("--out", out, ".parquet")
    market = stored_market(store)
    hidden = tuple((read_metadata(store) or {}).get("pseudonymised", ()))
    if hidden and not pseudonyms:
        raise HistoryError(
            f"the store has pseudonyms in place of {', '.join(hidden)}, not the values; give --pseudonyms to write them. Such a "
            "log can be prepared by a market without privacy.pseudonymise, and not appended to a store made of the values"
        )
    if "" in (*(market.label.fraud or ()), *(market.label.genuine or ())):
        raise HistoryError(
            f'label.fraud and label.genuine must not have a missing value ("") for a log of market {market.name}: outcomes that '
            "are not known yet could not be written"
        )
    columns = _columns(market, set((read_metadata(store) or {})["columns"]))
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as folder:
        staged, left_out = Path(folder) / "staged.parquet", 0
        with ParquetChunkWriter(staged) as parts, progress("reading payments", 1) as advance:
            for frame, skipped in _frames(store, market, columns, start_seconds, end_seconds, with_loaded=with_loaded):
                left_out += skipped
                parts.write(frame)
            advance(1)
        rows = pl.scan_parquet(staged)
        n, known = rows.select(pl.len(), (pl.col(LABEL) >= 0).sum()).collect(engine="streaming").row(0)
        if not n:
            raise HistoryError(f"the store must have payments to write (got {left_out:,} that are left out)")
        _write_sorted(rows, market, columns, out)
    return ExportSummary(payments=int(n), with_outcome=int(known), left_out=left_out, pseudonyms=hidden)


def _columns(market: Market, stored: set[str]) -> dict[str, Any]:
    """By column of the log: None for one that payments have, else the value that it has in all rows.

    Raises HistoryError for columns that neither payments nor the market give.
    """
    made = {market.event.time, market.label.column, market.label.known_at}
    fixed: dict[str, Any] = {rule.column: "" for rule in market.features.exclude}  # excluded payments are not scored
    if market.label.decision is not None:
        fixed[market.label.decision.column] = False if market.label.decision.values is None else ""
    for rule, holds in ((market.event.asks, False), (market.event.scored, True)):
        if rule is not None:
            fixed[rule.column] = holds if rule.values is None else (rule.values[0] if holds else "")
    names = [name for name in read_columns(market) if name not in made]
    if missing := [name for name in names if name not in stored and name not in fixed]:
        raise HistoryError(
            f"a history store has the columns of the model only; a log of market {market.name} also needs {', '.join(missing)}, "
            "which derived features are computed from: keep a log of your own"
        )
    return {name: None if name in stored else fixed[name] for name in names}


def _frames(
    store: HistoryStore,
    market: Market,
    columns: Mapping[str, Any],
    start: float,
    end: float,
    *,
    with_loaded: bool,
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Batches of payments with TIME, LABEL and KNOWN_AT, and how many were left out."""
    own = [name for name, value in columns.items() if value is None]
    numbers = market.number_columns
    schema: dict[str, Any] = {name: pl.Float64 if name in numbers else pl.String for name in own}
    schema |= {TIME: pl.Float64, LABEL: pl.Int8, KNOWN_AT: pl.Float64}
    waiting: list[dict[str, Any]] = []
    left_out = 0
    for _, stored in store.scan(PAYMENTS):
        record = Record.unpack(stored.data)
        if not start <= record.time_seconds < end or (record.answer is None and not with_loaded):
            left_out += 1
            continue
        known_at = None if math.isinf(record.known_at_seconds) else record.known_at_seconds
        outcome = {TIME: record.time_seconds, LABEL: record.label, KNOWN_AT: known_at}
        waiting.append({name: _plain(record.raw.get(name), name in numbers) for name in own} | outcome)
        if len(waiting) == BATCH:
            yield pl.DataFrame(waiting, schema=schema, orient="row"), left_out
            waiting, left_out = [], 0
    yield pl.DataFrame(waiting, schema=schema, orient="row"), left_out


def _plain(value: Any, is_number: bool) -> Any:
    if value is None:
        return None
    return float(value) if is_number else str(value)


def _write_sorted(rows: pl.LazyFrame, market: Market, columns: Mapping[str, Any], out: Path) -> None:
    times = rows.select(TIME).collect(engine="streaming")[TIME].to_numpy()
    shown = [*_values(columns, _integer_columns(rows, market, columns)), *_times_and_outcomes(rows, market)]
    ranges = time_chunks(times, row_bytes(rows.collect_schema()))
    with ParquetChunkWriter(out, private=True) as parts:
        for part in sorted_parts(rows, ranges, TIME, pl.col(market.event.id)):
            for first in range(0, len(part), ROW_GROUP):
                parts.write(part.slice(first, ROW_GROUP).select(shown))


def _integer_columns(rows: pl.LazyFrame, market: Market, columns: Mapping[str, Any]) -> set[str]:
    """Ids and keys that all spell whole numbers, as a log in Parquet may have them."""
    names = [name for name in (market.event.id, *market.key_columns) if columns.get(name, "") is None]
    spelled = [
        (pl.col(name).cast(pl.Int64, strict=False).cast(pl.String) == pl.col(name))
        .fill_null(pl.col(name).is_null())
        .all()
        for name in names
    ]
    if not names:
        return set()
    all_are = rows.select(one.alias(name) for one, name in zip(spelled, names, strict=True)).collect(engine="streaming")
    return {name for name in names if all_are[name][0]}


def _values(columns: Mapping[str, Any], integers: set[str]) -> Iterator[pl.Expr]:
    for name, value in columns.items():
        if value is not None:
            yield pl.lit(
                value or None if isinstance(value, str) else value, pl.String if isinstance(value, str) else None
            ).alias(name)
        else:
            yield pl.col(name).cast(pl.Int64) if name in integers else pl.col(name)


def _times_and_outcomes(rows: pl.LazyFrame, market: Market) -> Iterator[pl.Expr]:
    label, known = market.label, pl.col(LABEL) >= 0
    yield _time(rows, TIME, market.event.time_unit).alias(market.event.time)
    fraud, genuine = (1, 0) if label.fraud is None or label.genuine is None else (label.fraud[0], label.genuine[0])
    if isinstance(fraud, str) or isinstance(genuine, str):
        fraud, genuine = str(fraud), str(genuine)
    yield (
        pl.when(known)
        .then(pl.when(pl.col(LABEL) == 1).then(pl.lit(fraud)).otherwise(pl.lit(genuine)))
        .alias(label.column)
    )
    if label.known_at is not None:
        yield pl.when(known).then(_time(rows, KNOWN_AT, market.event.time_unit)).alias(label.known_at)


def _time(rows: pl.LazyFrame, name: str, unit: str | None) -> pl.Expr:
    """A time as the market reads it: a number of its unit, or a timestamp."""
    seconds = pl.col(name)
    if unit is None:
        return (seconds * MICROSECONDS).round().cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    number = seconds * UNIT_SCALE[unit]
    are_integers = rows.select((number.round() == number).all()).collect(engine="streaming").item()
    return number.cast(pl.Int64) if are_integers else number
