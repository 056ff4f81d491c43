"""Write the indices of the histories: the rows of each key in order, by its codes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import HistoryConfig, Market
from tsa.data.clean_columns import ASKS, ROLE
from tsa.data.history import HistoryIndex, apply_retention, first_within, index_histories, oldest_rows, without_asking
from tsa.data.key_codes import key_code_table, key_codes
from tsa.data.key_roles import index_views
from tsa.data.raw_values import frame_tokens
from tsa.data.store.arrays import Arrays, Entries, FolderArrays, write_array
from tsa.data.store.history_parts import INDEX_ROWS, HistoryParts, index_parts
from tsa.data.store.manifest import INDEX_ARRAYS, ROLE_ARRAY, array_file, index_file
from tsa.data.wire.event_segments import EmbeddedHistoryStore
from tsa.data.workers import HERE, Part, Workers
from tsa.progress import Progress


def write_histories(
    market: Market,
    rows: pl.LazyFrame,
    time_seconds: NDArray[np.float64],
    arrays: Arrays,
    progress: Progress,
    carried: EmbeddedHistoryStore | None,
    workers: Workers = HERE,
) -> Entries:
    """Write the indices of all histories, one at a time, a long log in parts. Returns the manifest's entries.

    Args:
        market: Has the histories.
        rows: The clean rows.
        time_seconds: (n,) ascending times of the payments.
        arrays: Where they are written.
        progress: Reports progress.
        carried: The earlier payments of rows that carry their own history.
        workers: Work on the parts.
    """
    entries: Entries = {}
    parts = workers.parts(len(time_seconds), INDEX_ROWS)
    arrays_by_name: dict[str, Iterable[NDArray[Any]]]
    with progress("indexing histories", len(market.history)) as advance:
        for history in market.history:
            if carried is None and isinstance(arrays, FolderArrays) and len(parts) > 1:
                entries |= _write_parts(market, history, rows, time_seconds, arrays, parts, workers)
            elif carried is None:
                for name, index in _log_indices(market, history, rows, time_seconds).items():
                    entries |= _write_index(arrays, name, index)
            else:
                position, start = carried.slots(history.name)
                arrays_by_name = {"order": carried.order(history.name), "position": [position], "start": [start]}
                total = int((position - start + 1).sum())
                for name, pieces in arrays_by_name.items():
                    size = total if name == "order" else len(time_seconds)
                    entries |= write_array(arrays, index_file(history.name, name), np.int64, size, pieces)
            advance(1)
    return entries


def _write_index(arrays: Arrays, view: str, index: HistoryIndex) -> Entries:
    entries: Entries = {}
    for name, dtype in (INDEX_ARRAYS if index.role is None else INDEX_ARRAYS | ROLE_ARRAY).items():
        array = getattr(index, name)
        entries |= write_array(arrays, index_file(view, name), dtype, len(array), [array])
    return entries


def _log_indices(
    market: Market, history: HistoryConfig, rows: pl.LazyFrame, time_seconds: NDArray[np.float64]
) -> dict[str, HistoryIndex]:
    """The histories of a log by the name of the view, without events older than the retention limit."""
    asks = _asks(market, rows)
    keys = rows.select(history.columns).collect()
    if history.keys is not None:
        tokens = frame_tokens(keys, history.columns)
        limits = market.retention_seconds, market.longest(history)
        return index_views(history, key_code_table(keys), tokens, time_seconds, *limits, asks)
    index = index_histories(key_codes(keys.to_series()))
    if not math.isinf(market.retention_seconds):
        index = apply_retention(index, time_seconds, market.retention_seconds)
    return {history.name: index if asks is None else without_asking(index, asks, market.longest(history))}


def _asks(market: Market, rows: pl.LazyFrame) -> NDArray[np.bool_] | None:
    """(n,) which rows only ask; None if there are none."""
    if market.event.asks is None:
        return None
    return rows.select(pl.col(ROLE) == ASKS).collect().to_series().to_numpy()


def _write_parts(
    market: Market,
    history: HistoryConfig,
    rows: pl.LazyFrame,
    time_seconds: NDArray[np.float64],
    arrays: FolderArrays,
    parts: list[Part],
    workers: Workers,
) -> Entries:
    """Write the files of `_log_indices` for a log that is indexed in parts."""
    has_limit, asks = not math.isinf(market.retention_seconds), _asks(market, rows)
    with tempfile.TemporaryDirectory(prefix=".index-", dir=arrays.folder) as name:
        for_now = FolderArrays(Path(name))
        task = HistoryParts(history=history, rows=rows, n=len(time_seconds), parts=parts, folder=for_now.folder)
        first = for_now if asks is not None else arrays
        entries = index_parts(task, workers, first, starts=for_now if has_limit else first)
        for view in (view.name for view in history.views):
            if has_limit:
                limit = _Limit(view, market.retention_seconds, for_now, first, arrays)
                starts = workers.call(_starts_of_part, limit, parts)
                within = FolderArrays(for_now.folder / "within") if asks is not None else arrays
                within.folder.mkdir(exist_ok=True)
                entries |= write_array(within, index_file(view, "start"), np.int64, len(time_seconds), starts)
            if asks is not None:
                folders = {"start": within if has_limit else first}
                names = INDEX_ARRAYS if history.keys is None else INDEX_ARRAYS | ROLE_ARRAY
                made: dict[str, Any] = {n: folders.get(n, first).array(index_file(view, n)) for n in names}
                entries |= _write_index(
                    arrays, view, without_asking(HistoryIndex(**made), asks, market.longest(history))
                )
    return entries


@dataclass(frozen=True)
class _Limit:
    """How far back the events of a view are seen, and where its arrays and the times are."""

    view: str
    retention_seconds: float
    starts: FolderArrays
    index: FolderArrays
    times: FolderArrays


def _starts_of_part(limit: _Limit, part: Part) -> NDArray[np.int64]:
    """`start` of the rows of a part, without events older than the retention limit."""
    rows, times = slice(*part), limit.times.array(array_file("time_seconds"))
    order, position = (limit.index.array(index_file(limit.view, name)) for name in ("order", "position"))
    start = limit.starts.array(index_file(limit.view, "start"))
    oldest = oldest_rows(times, times[rows], limit.retention_seconds)
    return first_within(order, np.asarray(start[rows]), np.asarray(position[rows]), oldest)
