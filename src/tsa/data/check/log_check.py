"""What a log looks like to a market, without keeping anything: rows by rule, columns, ranges and what is unusual."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.check.leaking_features import suspicious_features
from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME
from tsa.data.encoding.training_rows import TrainingRows
from tsa.data.encoding.vocabulary import fit_vocabularies
from tsa.data.log.column_checks import Note, notes_on
from tsa.data.log.id_and_joined_columns import MadeColumns
from tsa.data.log.quarantine import REASON, Quarantine
from tsa.data.log.reader import read_log
from tsa.data.log.rule import Rule
from tsa.data.log.rules import read_columns
from tsa.data.log.sources import EXTRA, open_sources
from tsa.data.log.validation import ROW
from tsa.data.store.splits import find_splits, is_scored
from tsa.errors import DataError
from tsa.times import DAY_SECONDS

KEY_SHARE = 0.05
"""A value of a key with more than this share of the rows is reported."""
MIN_TIMES = 100
"""In fewer rows, times without minutes may be chance."""
HOUR_SECONDS = 3600.0
EXAMPLES = 3
NO_CUSTOMER = "if it means no customer, card or account, make it empty"
LABELS = {"fraud": 1, "genuine": 0, "unknown": -1}


@dataclass(frozen=True, kw_only=True)
class BrokenRule:
    """A row rule that rows of the log break."""

    name: str
    rows: int
    frauds: int
    examples: tuple[str, ...]
    """Ids of the first such rows; `row 5` for one without an id."""
    text: str = ""
    """What the rule expects."""
    values: tuple[str, ...] = ()
    """What the first such rows have in the column of the rule."""


@dataclass(frozen=True, kw_only=True)
class ColumnCheck:
    """A column of the market in the log."""

    name: str
    use: str
    distinct: int
    missing: float
    """Share of rows without a value."""
    unknown: float | None
    """Share of the values that an encoder fitted on the training range does not know; None for other columns."""
    most_frequent: str
    share: float
    """Of the most frequent value."""


@dataclass(frozen=True, kw_only=True)
class RangeCheck:
    """A range of the split: dates in epoch seconds, and payments."""

    name: str
    first: float
    last: float
    payments: int
    labelled: int
    frauds: int


@dataclass(frozen=True, kw_only=True)
class LogCheck:
    """The report on a log."""

    report: Mapping[str, Any]
    """Counts of the rows that were read, used, excluded and quarantined."""
    rules: tuple[BrokenRule, ...]
    columns: tuple[ColumnCheck, ...]
    ranges: tuple[RangeCheck, ...]
    notes: tuple[Note, ...]
    unused: tuple[str, ...]
    """Columns of the log that the market does not name."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def check_log(market: Market, logs: Sequence[str]) -> LogCheck:
    """Check a log as `tsa prepare` reads it. Nothing is left behind.

    Raises:
        DataError: If the log cannot be read, or no row can be used.
    """
    if market.wire is not None:
        raise DataError(
            f"market {market.name} must be one of logs to be checked (got rows that carry their own history)"
        )
    with tempfile.TemporaryDirectory(prefix="tsa-check-") as name:
        folder = Path(name)
        bad = folder / "bad.parquet"
        quarantine = Quarantine(bad, limit=1.0, is_kept=False)
        clean = read_log(market, logs, folder / "rows.parquet", quarantine=quarantine)
        rows = pl.scan_parquet(clean.path)
        times = rows.select(TIME).collect().to_series().to_numpy()
        scored = is_scored(market, rows)
        label = rows.select(LABEL).collect().to_series().to_numpy()
        ranges, notes = _ranges(market, times, label, scored)
        train = ranges[0] if ranges else None
        first, last = (0, len(times)) if train is None else np.searchsorted(times, [train.first, train.last], "left")
        columns, unknown = _columns(market, rows, int(first), max(int(last), 1), clean.report)
        labelled = np.flatnonzero((label >= 0) & (True if scored is None else scored))
        notes += notes_on(market, rows, times, clean.report, unknown=unknown, is_fitted=True, now_seconds=time.time())
        notes += [*_large_keys(market, columns, notes), *_large_accounts(market, rows, notes)]
        notes += [*_constant(market, columns), *_coarse_times(market, times)]
        notes += suspicious_features(market, rows, labelled)
        notes += [Note(kind="guessed", column="[input]", text=text) for text in clean.report.get("guessed", ())]
        return LogCheck(
            report=clean.report,
            rules=tuple(_rules(market, clean.report, bad, clean.rules)),
            columns=tuple(columns),
            ranges=tuple(ranges),
            notes=tuple(notes),
            unused=tuple(_unused(market, logs)),
        )


def _rules(market: Market, report: Mapping[str, Any], bad: Path, rules: Mapping[str, Rule]) -> Iterator[BrokenRule]:
    if not report["by_rule"]:
        return
    rows = pl.read_parquet(bad)
    ids = _texts(rows, market.event.id)
    numbers = [f"row {number + 1}" for number in rows[ROW]]
    for name, count in report["by_rule"].items():
        hit = (rows[REASON].str.split("; ").list.contains(name)).arg_true().head(EXAMPLES)
        values = _texts(rows, rules[name].column)
        yield BrokenRule(
            name=name,
            rows=int(count),
            frauds=int(report["frauds_by_rule"].get(name, 0)),
            examples=tuple(ids[at] or numbers[at] for at in hit),
            text=rules[name].text,
            values=tuple(values[at] or "" for at in hit) if rules[name].column in rows.columns else (),
        )


def _texts(rows: pl.DataFrame, name: str) -> list[str | None]:
    """A column as text; no texts for one that the rows lack."""
    return rows[name].cast(pl.String).to_list() if name in rows.columns else [None] * len(rows)


def _ranges(
    market: Market, times: NDArray[np.float64], label: NDArray[np.int8], scored: NDArray[np.bool_] | None
) -> tuple[list[RangeCheck], list[Note]]:
    try:
        splits = find_splits(market, times, scored)
    except DataError as error:
        return [], [Note(kind="split", column="split", text=str(error))]
    ranges = []
    for name, split in splits.items():
        first, last = split["rows"]
        rows = np.arange(first, last) if scored is None else first + np.flatnonzero(scored[first:last])
        own = label[rows]
        ranges.append(
            RangeCheck(
                name=name,
                first=float(times[rows[0]]),
                last=float(times[rows[-1]]),
                payments=len(rows),
                labelled=int((own >= 0).sum()),
                frauds=int((own == 1).sum()),
            )
        )
    notes = [
        Note(kind="no_outcomes", column=market.label.column, text=f"the {one.name} range has {what}")
        for one in ranges
        for what in _lacking(one)
    ]
    return ranges, notes


def _lacking(checked: RangeCheck) -> Iterator[str]:
    if not checked.labelled:
        yield "no payment whose outcome is known"
    elif not checked.frauds:
        yield "no fraud"


def _columns(
    market: Market, rows: pl.LazyFrame, first: int, last: int, report: Mapping[str, Any]
) -> tuple[list[ColumnCheck], dict[str, int]]:
    """The columns; and by categorical feature the rows with a value that the training range does not teach."""
    n, unknown = int(report["rows_kept"]), {}
    train = rows.slice(first, max(1, last - first))
    vocabularies = fit_vocabularies(market.features.categorical, TrainingRows(train), 1)
    known = {vocabulary.name: vocabulary.values for vocabulary in vocabularies}
    checks = []
    for name, use in _uses(market).items():
        column = rows.select(pl.col(name).alias("__x")).collect().to_series()
        counts = column.drop_nulls().value_counts(sort=True)
        share = None
        if name in known:
            values = column.drop_nulls().cast(pl.String)
            unknown[name] = int((~values.is_in(list(known[name]))).sum())
            share = unknown[name] / max(1, len(values))
        top = counts.row(0) if len(counts) else ("", 0)
        checks.append(
            ColumnCheck(
                name=name,
                use=use,
                distinct=len(counts),
                missing=column.null_count() / max(1, n),
                unknown=share,
                most_frequent=str(top[0]),
                share=float(top[1]) / max(1, n),
            )
        )
    return checks, unknown


def _uses(market: Market) -> dict[str, str]:
    """What each clean column is used for, in words."""
    features = market.features
    uses = {market.event.id: "id", **dict.fromkeys(market.key_columns, "key")}
    kinds = (
        ("categorical", features.categorical),
        ("numerical", features.numerical),
        ("engineered", features.engineered),
    )
    for kind, group in kinds:
        for feature in group:
            uses[feature.name] = f"{uses[feature.name]}, {kind}" if feature.name in uses else kind
    if market.event.amount is not None:
        uses.setdefault(market.event.amount, "amount")
    return {**dict.fromkeys(market.raw_columns, "segment"), **uses}


def _large_keys(market: Market, columns: Sequence[ColumnCheck], notes: Sequence[Note]) -> Iterator[Note]:
    known = {note.column for note in notes if note.kind == "large_key"}
    for column in columns:
        if column.name in market.key_columns and column.share > KEY_SHARE and column.name not in known:
            text = f"one value, {column.most_frequent!r}, has {column.share:.1%} of the rows; {NO_CUSTOMER}"
            yield Note(kind="large_key", column=column.name, text=text, share=column.share)


def _large_accounts(market: Market, rows: pl.LazyFrame, notes: Sequence[Note]) -> Iterator[Note]:
    """Values of keys in several columns: a row that names an account twice counts once."""
    known = {note.column for note in notes if note.kind == "large_key"}
    for history in market.history:
        if history.keys is None or known & set(history.keys):
            continue
        named = pl.concat_list([pl.col(name).cast(pl.String) for name in history.keys])
        each = rows.select(named.list.drop_nulls().list.unique().alias("key"), pl.len().alias("rows")).explode("key")
        top = each.drop_nulls().group_by("key").agg(pl.len().alias("n"), pl.col("rows").first()).sort("n", "key").last()
        for key, n, total in top.collect(engine="streaming").iter_rows():
            if n > KEY_SHARE * total:
                text = f"one value, {key!r}, has {n / total:.1%} of the rows, as {' or '.join(history.keys)}; {NO_CUSTOMER}"
                yield Note(kind="large_key", column=history.name, text=text, share=n / total)


def _coarse_times(market: Market, times: NDArray[np.float64]) -> Iterator[Note]:
    """Times without minutes: dates, or logs that were rounded."""
    if len(times) < MIN_TIMES or (times % HOUR_SECONDS).any():
        return
    # midnight in a zone with summer time is one of two hours in UTC
    is_date = len(np.unique(times % DAY_SECONDS)) <= 2
    unit = "day" if is_date else "hour"
    hours = ", and hour_of_day shows nothing" if is_date and "hour_of_day" in market.features.calendar else ""
    text = f"all times are full {unit}s: payments of one {unit} are ordered by their id{hours}; is there a finer time?"
    yield Note(kind="coarse_times", column=market.event.time, text=text)


def _constant(market: Market, columns: Sequence[ColumnCheck]) -> Iterator[Note]:
    for column in columns:
        if column.distinct == 1 and column.name in market.features.names:
            text = f"has only the value {column.most_frequent!r}, so it cannot help: remove it from [features]"
            if column.missing:
                text = f"has only the value {column.most_frequent!r}: it can help only by being missing"
            yield Note(kind="constant", column=column.name, text=text)


def _unused(market: Market, logs: Sequence[str]) -> Iterator[str]:
    made = MadeColumns.of(market)
    sources = open_sources(logs, read_columns(market), reading=market.reading, made=made)
    used = {*made.parts(read_columns(market)), *read_columns(market), EXTRA, LABEL, TIME, KNOWN_AT}
    yield from dict.fromkeys(name for source in sources for name in source.schema if name not in used)
