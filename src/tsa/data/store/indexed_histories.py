"""Write the indices of the histories: the rows of each key in order, by its codes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import HistoryConfig, Market
from tsa.data.clean_columns import ASKS, ROLE
from tsa.data.history import HistoryIndex, apply_retention, index_histories, without_asking
from tsa.data.key_roles import index_views
from tsa.data.raw_values import frame_tokens
from tsa.data.store.arrays import Arrays, Entries, write_array
from tsa.data.store.manifest import INDEX_ARRAYS, ROLE_ARRAY, index_file
from tsa.data.wire.event_segments import EmbeddedHistoryStore
from tsa.progress import Progress

CODE = "__code"  # no market column starts with two underscores


def key_codes(key: pl.Series) -> NDArray[np.int64]:
    """(n,) codes of the keys, numbered by first appearance; -1 for null."""
    name = key.name
    known = key.drop_nulls().unique(maintain_order=True).to_frame().with_row_index(CODE)
    codes = key.to_frame().join(known, on=name, how="left", maintain_order="left").get_column(CODE)
    return codes.cast(pl.Int64).fill_null(-1).to_numpy()


def key_code_table(keys: pl.DataFrame) -> NDArray[np.int64]:
    """(n, K) codes of the keys in K columns, where a key has the same code in any of them; -1 for null."""
    texts = pl.concat([keys[name].cast(pl.String).alias("__key") for name in keys.columns])
    return key_codes(texts).reshape(len(keys.columns), len(keys)).T


def write_histories(
    market: Market,
    rows: pl.LazyFrame,
    time_seconds: NDArray[np.float64],
    arrays: Arrays,
    progress: Progress,
    carried: EmbeddedHistoryStore | None,
) -> Entries:
    """Write the indices of all histories, one at a time. Returns the manifest's entries.

    Args:
        market: Has the histories.
        rows: The clean rows.
        time_seconds: (n,) ascending times of the payments.
        arrays: Where they are written.
        progress: Reports progress.
        carried: The earlier payments of rows that carry their own history.
    """
    entries: Entries = {}
    arrays_by_name: dict[str, Iterable[NDArray[Any]]]
    with progress("indexing histories", len(market.history)) as advance:
        for history in market.history:
            if carried is None:
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
    asks = None
    if market.event.asks is not None:
        asks = rows.select(pl.col(ROLE) == ASKS).collect().to_series().to_numpy()
    keys = rows.select(history.columns).collect()
    if history.keys is not None:
        tokens = frame_tokens(keys, history.columns)
        limits = market.retention_seconds, market.longest(history)
        return index_views(history, key_code_table(keys), tokens, time_seconds, *limits, asks)
    index = index_histories(key_codes(keys.to_series()))
    if not math.isinf(market.retention_seconds):
        index = apply_retention(index, time_seconds, market.retention_seconds)
    return {history.name: index if asks is None else without_asking(index, asks, market.longest(history))}
