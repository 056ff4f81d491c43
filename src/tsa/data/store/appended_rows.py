"""Compare the rows of a new log with those of a store: which payments are new, and which outcomes are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsa.config.market import Market
from tsa.data.clean_columns import DECLINED, KNOWN_AT, LABEL, ROLE, TIME
from tsa.data.log.reader import CleanLog
from tsa.data.log.sorting import ROW_GROUP, ParquetChunkWriter
from tsa.data.store.outcomes import outcome_columns, read_outcomes
from tsa.data.store.store import EventStore
from tsa.errors import DataError
from tsa.text import brief
from tsa.times import iso

AT, NEW, WAS = "__at", ":new", "__was"
SHOWN = 5
"""Largest number of ids that a message shows."""

SUMS = ("rows_read", "rows_excluded", "rows_replaced", "rows_quarantined", "frauds_quarantined")
"""Counts of a report that add up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NewRows:
    """What is new for a store."""

    old: EventStore
    clean: CleanLog | None
    """The new log; None if there is none."""
    again: pl.Series
    """Ids of the new log that the store has."""
    outcomes: pl.DataFrame
    """AT, the row in the new store, and LABEL, KNOWN_AT, and ROLE if rows have one, of the payments with another outcome,
    in ascending order."""
    unmatched: int
    outcome_files: Sequence[str]

    @property
    def repeated(self) -> int:
        """Rows of the new log that the store has."""
        return len(self.again)

    @property
    def payments(self) -> int:
        """Events that the store does not have."""
        return 0 if self.clean is None else int(self.clean.report["rows_kept"]) - self.repeated

    def rows(self) -> pl.LazyFrame | None:
        """The events that the store does not have, in order."""
        return None if self.clean is None else _without(self.clean, self.again)

    def write(self, path: Path) -> None:
        """Write all rows of the new store, in pieces."""
        with ParquetChunkWriter(path) as parts:
            for first, chunk in self._chunks():
                parts.write(self._updated(chunk, first))

    def _chunks(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Pieces of the rows, each with the number of its first row."""
        done = 0
        for frame, n in ((self.old.clean, len(self.old)), (self.rows(), self.payments)):
            for first in range(0, n if frame is not None else 0, ROW_GROUP):
                assert frame is not None
                yield done + first, frame.slice(first, ROW_GROUP).collect()
            done += n

    def _updated(self, chunk: pl.DataFrame, first: int) -> pl.DataFrame:
        begin, end = np.searchsorted(self.outcomes[AT].to_numpy(), [first, first + len(chunk)])
        if begin == end:
            return chunk
        part = self.outcomes.slice(int(begin), int(end - begin))
        names = [name for name in part.columns if name not in (AT, WAS)]
        return chunk.with_columns(chunk[name].scatter(part[AT] - first, part[name]) for name in names)

    def report(self) -> dict[str, Any]:
        """The report on the rows of all logs, as `read_log` would make it."""
        old = self.old.data_report
        report = {**old, "files": list(old["files"])}
        for name in ("unknown_rates", "known_too_late", "notes", "roles"):
            report.pop(name, None)  # they are determined again
        if self.clean is not None:
            _add(report, self.clean.report, len(self.old), self.repeated, self.rows())
        if self.outcome_files:
            before = old.get("outcome_files", {})
            files = [*before.get("files", []), *self.outcome_files]
            report["outcome_files"] = {"files": files, "unmatched": before.get("unmatched", 0) + self.unmatched}
        report["labels"] = self._labels(old["labels"])
        return report

    def _labels(self, old: Mapping[str, int]) -> dict[str, int]:
        counts = Counter({1: old["fraud"], 0: old["genuine"], -1: old["unknown"]})
        rows = self.rows()
        if rows is not None:
            counts.update(dict(rows.select(LABEL).collect().to_series().value_counts().iter_rows()))
        counts.update(dict(self.outcomes[LABEL].value_counts().iter_rows()))
        counts.subtract(dict(self.outcomes[WAS].value_counts().iter_rows()))
        return {"fraud": counts[1], "genuine": counts[0], "unknown": counts[-1]}


def _add(report: dict[str, Any], new: Mapping[str, Any], n_old: int, repeated: int, rows: pl.LazyFrame | None) -> None:
    report["files"] += new["files"]
    for name in SUMS:
        report[name] += new[name]
    report["rows_replaced"] += repeated
    for name in ("by_rule", "frauds_by_rule"):
        sums = Counter(report[name]) + Counter(new[name])
        report[name] = dict(sorted(sums.items()))
    n_new = new["rows_kept"] - repeated
    report["rows_kept"] += n_new
    assert rows is not None
    if n_new:
        report["last_time"] = new["last_time"]
        nulls = rows.select(pl.exclude("^__.*$").null_count()).collect(engine="streaming").row(0, named=True)
        n = report["rows_kept"]
        report["null_rates"] = {
            name: (round(rate * n_old) + nulls[name]) / n for name, rate in report["null_rates"].items()
        }


def match_rows(old: EventStore, market: Market, clean: CleanLog | None, outcome_files: Sequence[str]) -> NewRows:
    """Find what a log and files of outcomes add to a store.

    Raises:
        DataError: If payments are earlier than the last of the store, or differ from those with the same id.
    """
    id_name = market.event.id
    changed = [_no_outcomes(old, id_name)]
    again = pl.Series(id_name, [], dtype=old.clean.collect_schema()[id_name])
    if clean is not None:
        stored, rows = _repeated(old, clean, id_name)
        again = stored[id_name]
        _refuse_different(stored, rows, id_name)
        changed.append(_changed(stored.join(rows, on=id_name, suffix=NEW)))
        _refuse_earlier(old, _without(clean, again), id_name)
    unmatched = 0
    if outcome_files:
        known = read_outcomes(market, outcome_files, old.clean.collect_schema()[id_name])
        matched = _find(old, None if clean is None else _without(clean, again), known)
        unmatched = len(known) - len(matched)
        changed.append(_changed(_given(market, known, matched)))
        if unmatched:
            logger.warning("%d of %d outcomes are of payments that are not in the store", unmatched, len(known))
        if len(known) and not len(matched):
            ids = ", ".join(brief(value, 40) for value in known[id_name].head(SHOWN).to_list())
            rule = f"outcomes: {id_name} must be ids of the store, but none of {len(known):,} is (the first: {ids})"
            raise DataError(f"{rule}; is it another market's file?")
    outcomes = pl.concat(changed).unique(AT, keep="last").sort(AT)
    return NewRows(
        old=old,
        clean=clean,
        again=again,
        outcomes=outcomes,
        unmatched=unmatched,
        outcome_files=tuple(outcome_files),
    )


def refuse_other_types(types: pl.Schema, rows: Path) -> None:
    """Raise DataError if a new log has other columns than the store, such as a key as text that is a number there."""
    new = pl.scan_parquet(rows).collect_schema()
    if different := [name for name, dtype in types.items() if new.get(name) != dtype]:
        name = different[0]
        rule = f"{name} must be {types[name]} as in the store (got {new.get(name)})"
        raise DataError(f"log: {rule}: write it as before, or prepare all logs again")


def _without(clean: CleanLog, again: pl.Series) -> pl.LazyFrame:
    rows = pl.scan_parquet(clean.path)
    return rows if again.is_empty() else rows.filter(~pl.col(again.name).is_in(again.implode()))


def _outcome_names(old: EventStore) -> list[str]:
    return [LABEL, KNOWN_AT, *([ROLE] if ROLE in old.clean.collect_schema().names() else [])]


def _no_outcomes(old: EventStore, id_name: str) -> pl.DataFrame:
    """No changes, with the columns that `_changed` returns."""
    names = _outcome_names(old)
    none = old.clean.with_row_index(AT).select(AT, id_name, *names).head(0).collect()
    return _changed(none.with_columns(pl.col(name).alias(f"{name}{NEW}") for name in names))


def _repeated(old: EventStore, clean: CleanLog, id_name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of the store whose ids the new log has, with their number (AT), and those rows of the new log."""
    new = pl.scan_parquet(clean.path)
    stored = (
        old.clean.with_row_index(AT)
        .join(new.select(id_name), on=id_name, how="semi")
        .collect(engine="streaming")
        .sort(AT)
    )
    rows = new.join(stored.lazy().select(id_name), on=id_name, how="semi").collect(engine="streaming")
    return stored, rows


def _refuse_different(stored: pl.DataFrame, rows: pl.DataFrame, id_name: str) -> None:
    own = [name for name in rows.columns if name != id_name and (name == TIME or not name.startswith("__"))]
    joined = stored.join(rows, on=id_name, suffix=NEW)
    counts = {name: int((~joined[name].eq_missing(joined[f"{name}{NEW}"])).sum()) for name in own}
    if names := [name for name, count in counts.items() if count]:
        differ = pl.any_horizontal(~pl.col(name).eq_missing(pl.col(f"{name}{NEW}")) for name in names)
        bad = joined.filter(differ)[id_name]
        ids = ", ".join(brief(value, 40) for value in bad.head(SHOWN).to_list())
        what = ", ".join("the time" if name == TIME else name for name in names[:SHOWN])
        raise DataError(
            f"log: {id_name} must be new, or the row that of the store but for the outcome: {len(bad):,} payments differ in "
            f"{what} (the first ids: {ids}); leave them out of the log, or prepare all logs again"
        )


def _changed(joined: pl.DataFrame) -> pl.DataFrame:
    """The outcomes that are other now: AT, LABEL, KNOWN_AT, ROLE if rows have one, and WAS, the LABEL before.

    Args:
        joined: Rows with AT and these columns, as in the store and, with the suffix NEW, as in the new log.
    """
    names = [name for name in (LABEL, KNOWN_AT, ROLE) if name in joined.columns]
    differs = pl.any_horizontal(pl.col(name) != pl.col(f"{name}{NEW}") for name in names)
    is_news = (pl.col(f"{LABEL}{NEW}") >= 0) | (pl.col(LABEL) < 0)
    new = joined.filter(differs & is_news)
    return new.select(
        pl.col(AT).cast(pl.UInt32),
        *(pl.col(f"{name}{NEW}").alias(name) for name in names),
        pl.col(LABEL).alias(WAS),
    )


def _find(old: EventStore, new: pl.LazyFrame | None, known: pl.DataFrame) -> pl.DataFrame:
    """The rows of payments with an outcome in a file, with their numbers in the new store."""
    id_name = known.columns[0]
    names = [id_name, TIME, *_outcome_names(old)]
    frames = [old.clean.with_row_index(AT), *([] if new is None else [new.with_row_index(AT, offset=len(old))])]
    matched = [
        frame.select(AT, *names).join(known.lazy().select(id_name), on=id_name, how="semi").collect(engine="streaming")
        for frame in frames
    ]
    return pl.concat(matched)


def _given(market: Market, known: pl.DataFrame, matched: pl.DataFrame) -> pl.DataFrame:
    """Rows of the store with the outcomes of a file, as `_changed` takes them. Declined payments have no outcome."""
    id_name = market.event.id
    dated = outcome_columns(market, known.join(matched.select(id_name, TIME), on=id_name)).drop(TIME)
    joined = matched.join(dated, on=id_name, suffix=NEW)
    if ROLE in joined.columns:
        joined = joined.filter(pl.col(ROLE) != DECLINED).with_columns(pl.col(ROLE).alias(f"{ROLE}{NEW}"))
    return joined


def _refuse_earlier(old: EventStore, new: pl.LazyFrame, id_name: str) -> None:
    """Raise DataError if a payment comes before the last of the store, in (time, id) order."""
    last = old.clean.select(TIME, id_name).slice(len(old) - 1, 1).collect().row(0)
    is_text = isinstance(last[1], str)
    tie = pl.struct(pl.col(id_name).str.len_bytes().alias("bytes"), id_name) if is_text else pl.col(id_name)
    frame = new.select(TIME, id_name).filter(pl.col(TIME) <= last[0]).collect(engine="streaming")
    tied = frame.filter(pl.col(TIME) == last[0])
    own = (len(last[1].encode()), last[1]) if is_text else last[1]
    after = [value for value in tied.select(tie.alias("tie"))["tie"].to_list() if _key(value) > own]
    early = len(frame) - len(after)
    if early:
        when = iso(last[0], "seconds")
        ids = ", ".join(brief(value, 40) for value in frame[id_name].head(SHOWN).to_list())
        raise DataError(
            f"log: new payments must come after the last of the store, {brief(last[1], 40)} at {when}: {early:,} do not "
            f"(the first ids: {ids}); they would change histories of later payments: prepare all logs again"
        )


def _key(value: Any) -> Any:
    return tuple(value.values()) if isinstance(value, dict) else value
