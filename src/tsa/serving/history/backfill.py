"""Backfill a history store from a payment log.

The log is prepared with the bundle's encoder, as for offline scoring. Payments already in the store are not changed: a log
may be loaded again, or while the endpoint serves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.config.market import HistoryConfig
from tsa.data.clean_columns import ASKS, KNOWN_AT, LABEL, ROLE, TIME
from tsa.data.history import index_histories
from tsa.data.key_codes import key_code_table
from tsa.data.key_roles import first_columns
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.online.encoded import EVENT_ARRAYS
from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import DataError
from tsa.progress import Progress, silent
from tsa.serving.history.base import PAYMENTS, HistoryStore, StoreKey, WriteBatch
from tsa.serving.history.blocks import HistoryBlock, RetentionPolicy, retention_policies, select_events
from tsa.serving.history.maintenance import record_outcome, retry_on_conflict
from tsa.serving.history.metadata import bind_store
from tsa.serving.history.records import Record
from tsa.serving.history.reencode import MissingRecordsError, encode_stale, encoder_hash

RECORDS_AT_ONCE, BLOCKS_AT_ONCE = 20_000, 1000


@dataclass(frozen=True, kw_only=True)
class BackfillSummary:
    """Counts of a backfill."""

    read: int
    """Valid payments of the log."""
    added: int
    """Payments that were added to the store."""
    changed: int
    """Keys whose events changed."""


@dataclass(frozen=True, kw_only=True)
class _KeyGroups:
    """The events of one history to store, grouped by key."""

    history: str
    order: NDArray[np.int64]
    """Rows of the events, sorted by key."""
    bounds: NDArray[np.int64]
    """(keys + 1,) start of each key in `order`."""
    keys: list[str]
    complete_after: NDArray[np.float64]
    """(keys,) `complete_after_seconds` of the `HistoryBlock`."""


def backfill(
    store: HistoryStore,
    bundle: Bundle,
    logs: Sequence[str | Path],
    *,
    quarantine: QuarantineLike = None,
    progress: Progress = silent,
) -> BackfillSummary:
    """Load the payments of a log with their outcomes and when these are known, without those past the retention time.

    Raises:
        DataError: rows of the log are invalid, or the store has a payment with other values.
        HistoryError: the store does not fit this bundle.
    """
    market = bundle.market
    if market.wire is not None:
        raise DataError(f"market {market.name} must take histories from a log (got rows that carry their own history)")
    with tempfile.TemporaryDirectory(prefix="tsa-history-") as folder:
        log = prepare(
            market, logs, Path(folder) / "store", quarantine=quarantine, encoder=bundle.encoder, progress=progress
        )
        keep = retention_policies(market, bind_store(store, market, bundle.encoder, bundle.visible_lengths))
        asks = None if market.event.asks is None else log.columns([ROLE]).to_series() == ASKS
        runs = [_runs(log, h, keep[h.name], market.retention_seconds, asks) for h in market.history]
        in_a_block = np.zeros(len(log), bool)
        for run in runs:
            in_a_block[run.order] = True
        added = _fill_records(store, log, np.flatnonzero(in_a_block), progress)
        ids = log.ids().cast(pl.String).to_list()
        changed = sum(_fill_blocks(store, bundle, log, ids, run, keep[run.history], progress) for run in runs)
        return BackfillSummary(read=len(log), added=added, changed=changed)


def _runs(
    log: EventStore,
    history: HistoryConfig,
    keep: RetentionPolicy,
    retention_seconds: float,
    asks: pl.Series | None = None,
) -> _KeyGroups:
    """The events of each key that `HistoryBlock.with_events` would keep, computed for all keys at once.

    asks: which events only ask, and so are in no history.
    """
    frame = log.columns(history.columns).cast(pl.String)
    if asks is not None:
        frame = frame.with_columns(pl.when(~asks).then(pl.all()).name.keep())
    table = key_code_table(frame)
    event, column = np.nonzero(first_columns(table) == np.arange(table.shape[1]))
    codes = table[event, column]
    order = np.asarray(index_histories(codes).order)
    order = order[codes[order] >= 0]
    if not len(order):
        return _KeyGroups(
            history=history.name, order=order, bounds=np.zeros(1, np.int64), keys=[], complete_after=np.empty(0)
        )
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    columns, order = column[order], event[order]
    counts = np.diff(starts, append=len(order))
    times, older = log.time_seconds[order], keep.length - 1
    newest = times[starts + counts - 1]
    late = np.add.reduceat(times < np.repeat(newest - keep.late_seconds, counts), starts)
    tied = np.add.reduceat(times < np.repeat(newest, counts), starts)
    first = np.minimum(np.maximum(late, counts - keep.late_events), tied)
    first = np.maximum(0, np.maximum(first - older, counts - keep.tie_events - older))
    complete_after = np.where(first > 0, times[starts + np.minimum(first + older, counts) - 1], -np.inf)
    offset = np.arange(len(order)) - np.repeat(starts, counts)
    stays = (offset >= np.repeat(first, counts)) & (times >= log.time_seconds[-1] - retention_seconds)
    left = np.add.reduceat(stays, starts)
    named = starts[left > 0]
    return _KeyGroups(
        history=history.name,
        order=order[stays],
        bounds=np.concatenate([[0], np.cumsum(left[left > 0])]),
        keys=_keys(frame, order[named], columns[named]),
        complete_after=complete_after[left > 0],
    )


def _keys(frame: pl.DataFrame, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> list[str]:
    """The texts of a frame in these rows and columns."""
    if frame.width == 1:
        return frame.to_series().gather(rows).to_list()
    texts = np.stack([frame[name].gather(rows).to_numpy() for name in frame.columns])
    keys: list[str] = texts[columns, np.arange(len(rows))].tolist()
    return keys


def _fill_records(store: HistoryStore, log: EventStore, rows: NDArray[np.int64], progress: Progress) -> int:
    """Write the records of these rows; of records already in the store, only update the outcomes."""
    is_new = next(store.scan(PAYMENTS), None) is None
    added = 0
    with progress("loading payments", len(rows)) as advance:
        for first in range(0, len(rows), RECORDS_AT_ONCE):
            packed = _records(log, rows[first : first + RECORDS_AT_ONCE])
            added += retry_on_conflict(lambda packed=packed: _add_records(store, packed, is_new))  # type: ignore[misc]
            advance(len(packed))
    return added


def _add_records(store: HistoryStore, packed: dict[StoreKey, bytes], is_new: bool) -> int | None:
    there = {} if is_new else store.read(list(packed))
    outcomes = {}
    for place, stored in there.items():
        old, new = Record.unpack(stored.data), Record.unpack(packed[place])
        if column := old.first_difference(new.time_seconds, new.raw):
            raise DataError(
                f"payment {place[1]!r} must have the same values in the log and the store (got another {column})"
            )
        if new.label >= 0 and old.with_outcome(new.label, new.known_at_seconds) != old:
            outcomes[place[1]] = (new.label, new.known_at_seconds)
    put = {place: data for place, data in packed.items() if place not in there}
    if put and not store.commit(WriteBatch(expected_versions=dict.fromkeys(put), puts=put)):
        return None if not is_new else _add_records(store, packed, is_new=False)
    for id_, outcome in outcomes.items():
        record_outcome(store, id_, *outcome)
    return len(put)


def _records(log: EventStore, rows: NDArray[np.int64]) -> dict[StoreKey, bytes]:
    """`Record.pack` of payments of a log, computed in columns."""
    market = log.market
    numbers = {feature.name for feature in (*market.features.numerical, *market.features.engineered)}
    numbers |= {market.event.amount} if market.event.amount else set()
    names = [*market.raw_columns, TIME, LABEL, KNOWN_AT]
    first, last = int(rows[0]), int(rows[-1])
    frame = log.columns(names) if last - first > 4 * len(rows) else _slice(log, names, first, last)
    frame = frame[(rows if len(frame) == len(log) else rows - first)]
    raw = [pl.col(name) if name in numbers else pl.col(name).cast(pl.String) for name in market.raw_columns]
    keys = [_key_of(history) for history in market.history]
    known_at = pl.when(pl.col(KNOWN_AT).is_finite()).then(pl.col(KNOWN_AT))
    record = pl.struct(
        pl.col(TIME).alias("time"),
        pl.struct(keys).alias("keys"),
        pl.struct(raw).alias("raw"),
        pl.col(LABEL).alias("label"),
        known_at.alias("known_at"),
        pl.lit(None, pl.String).alias("answer"),
    )
    records = frame.select(id=pl.col(market.event.id).cast(pl.String), record=record.struct.json_encode())
    return {(PAYMENTS, id_): text.encode() for id_, text in records.iter_rows()}


def _key_of(history: HistoryConfig) -> pl.Expr:
    """The key as `Record.keys` has it: a list where several columns name keys."""
    columns = [pl.col(name).cast(pl.String) for name in history.columns]
    return (columns[0] if history.keys is None else pl.concat_list(columns)).alias(history.name)


def _slice(log: EventStore, names: list[str], first: int, last: int) -> pl.DataFrame:
    return log.clean.select(names).slice(first, last - first + 1).collect()


def _fill_blocks(
    store: HistoryStore,
    bundle: Bundle,
    log: EventStore,
    ids: list[str],
    runs: _KeyGroups,
    keep: RetentionPolicy,
    progress: Progress,
) -> int:
    """Write the blocks of one history, or add their missing events; return how many changed."""
    changed, mark = 0, encoder_hash(bundle.encoder)
    with progress(f"loading histories: {runs.history}", len(runs.keys)) as advance:
        for first in range(0, len(runs.keys), BLOCKS_AT_ONCE):
            some = range(first, min(first + BLOCKS_AT_ONCE, len(runs.keys)))
            blocks = dict(_blocks(log, ids, runs, some, mark))
            changed += retry_on_conflict(lambda blocks=blocks: _add_blocks(store, bundle, blocks, keep))  # type: ignore[misc]
            advance(len(blocks))
    return changed


def _blocks(
    log: EventStore, ids: list[str], runs: _KeyGroups, some: range, mark: bytes
) -> Iterator[tuple[Key, HistoryBlock]]:
    for at in some:
        rows = runs.order[runs.bounds[at] : runs.bounds[at + 1]]
        arrays = {name: getattr(log, name)[rows] for name in EVENT_ARRAYS}
        events = HistoryEvents(ids=tuple(ids[row] for row in rows.tolist()), **arrays)
        block = HistoryBlock(events=events, encoder_hash=mark, complete_after_seconds=float(runs.complete_after[at]))
        yield (runs.history, runs.keys[at]), block


def _add_blocks(
    store: HistoryStore, bundle: Bundle, blocks: dict[Key, HistoryBlock], keep: RetentionPolicy
) -> int | None:
    """Write blocks; add the missing events to blocks that exist."""
    there = store.read(list(blocks))
    put: dict[StoreKey, bytes] = {}
    for key, block in blocks.items():
        if key not in there:
            put[key] = block.pack()
            continue
        old = HistoryBlock.unpack(there[key].data)
        joined = _joined(store, bundle, key, old, block, keep)
        if joined is None:
            return None
        if joined.events.ids != old.events.ids:
            put[key] = joined.pack()
    seen = {key: there[key].version if key in there else None for key in put}
    return len(put) if not put or store.commit(WriteBatch(expected_versions=seen, puts=put)) else None


def _joined(
    store: HistoryStore, bundle: Bundle, key: Key, old: HistoryBlock, block: HistoryBlock, keep: RetentionPolicy
) -> HistoryBlock | None:
    """The old block plus the events that only the new one has; None if the payment of one of its events is gone."""
    has = set(old.events.ids)
    rows = np.flatnonzero([id_ not in has for id_ in block.events.ids])
    if not len(rows):
        return old
    try:
        old = encode_stale(store, {key: old}, bundle.market, bundle.encoder, block.encoder_hash)[key]
    except MissingRecordsError:
        return None
    complete_after = max(old.complete_after_seconds, block.complete_after_seconds)
    return replace(old, complete_after_seconds=complete_after).with_events(select_events(block.events, rows), keep)
