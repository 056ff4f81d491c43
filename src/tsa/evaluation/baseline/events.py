"""The events that the automatic aggregates read from a store, in time order, and each payment's past as blocks of them.

For a log, a block is all payments of a key. If rows carry their own history, or events are visible for a limited time
only, or rows only ask, each payment has its own block, which is its history.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.history import HistoryIndex
from tsa.evaluation.baseline.segmented_ops import GroupedEvents, blocks_of, slices_of
from tsa.times import DAY_SECONDS

if TYPE_CHECKING:
    from tsa.data.store.store import EventStore

Array = NDArray[Any]
Columns = dict[str, Array]


@dataclass(frozen=True)
class EventTable:
    """The columns of N events in time order; arrays (N,)."""

    time: Array
    label: Array
    numerical: Columns
    """Raw values, float64, NaN for missing; the amount first. For rows with inline history: scaled values, since only
    those are stored."""
    categorical: Columns
    """Codes of the raw values, 0 for missing. Raw, since a device too rare for a vocabulary may still be new to its key."""
    window_start: dict[str, Array]
    """Per window, for each event, the first event inside the window."""
    places: Array
    """(n_stored,) the position of each row of the store among these events."""
    whole: bool
    """Whether a payment sees all earlier payments of its key."""
    known_from: Array | None = None
    """The first event at whose time the outcome is known, N for never. None if the market does not use outcomes."""
    known_until: dict[str, Array] = field(default_factory=dict)
    """Per window, the first event at whose time the outcome has been known for longer than the window."""

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def read(cls, store: EventStore, windows_days: Sequence[int]) -> EventTable:
        """Read the events of a store, with the windows (in days) that the aggregates need."""
        windows = {f"{days}d": days * DAY_SECONDS for days in windows_days}
        whole = (
            store.market.wire is None and math.isinf(store.market.retention_seconds) and store.market.event.asks is None
        )
        past = cls._of_log(store, windows, whole) if store.market.wire is None else cls._of_wire(store, windows)
        return past

    @classmethod
    def _of_log(cls, store: EventStore, windows: dict[str, float], whole: bool) -> EventTable:
        time, label = np.asarray(store.time_seconds), np.asarray(store.label)
        features = store.market.features
        amount = store.market.event.amount
        numerical = list(dict.fromkeys([*([amount] if amount else []), *(item.name for item in features.numerical)]))
        categorical = [item.name for item in features.categorical]
        raw = store.columns([*dict.fromkeys([*numerical, *categorical])])
        columns = _numbers(raw, numerical), _codes(raw, categorical)
        place = np.arange(len(time))
        # Rows are in time order, so a condition on times becomes one on row numbers: exact integers, one sorted search.
        start = {name: _index(np.searchsorted(time, time - w, side="right")) for name, w in windows.items()}
        if not store.market.label.as_feature:
            return cls(time, label, *columns, start, place, whole)
        known = np.where(label >= 0, np.maximum(store.known_at_seconds, time), np.inf)
        until = {name: _index(np.searchsorted(time, known + w)) for name, w in windows.items()}
        known_from = _index(np.searchsorted(time, known))
        return cls(time, label, *columns, start, place, whole, known_from, until)

    @classmethod
    def _of_wire(cls, store: EventStore, windows: dict[str, float]) -> EventTable:
        """Payments and the earlier ones in their inline histories; at equal times, those of the histories first."""
        events, encoder = store.events, store.encoder
        stored = np.asarray(events.time_seconds)
        order = np.lexsort((np.arange(len(stored)) < len(store), stored))
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        time = stored[order]
        names = list(encoder.numerical_names)
        numerical = {}
        for at, scaler in enumerate(encoder.numerical_scaling.scalers):
            values = np.asarray(events.numerical[:, at], np.float64)[order]
            marked = f"{scaler.name} is missing"
            if marked in names[len(encoder.numerical_scaling.scalers) :]:
                mark = names.index(marked, len(encoder.numerical_scaling.scalers))
                values[np.asarray(events.numerical[:, mark])[order] == 1.0] = np.nan
            numerical[scaler.name] = values
        codes = enumerate(encoder.categorical_vocabularies)
        categorical = {v.name: np.asarray(events.categorical[:, at], np.int64)[order] for at, v in codes}
        start = {name: _index(np.searchsorted(time, time - w, side="right")) for name, w in windows.items()}
        return cls(time, np.asarray(events.label)[order], numerical, categorical, start, places, whole=False)

    def runs(self, index: HistoryIndex, rows: Array, places: int) -> Iterator[tuple[GroupedEvents, Array, Array]]:
        """Yield runs of blocks with the past of the payments `rows` (R,), ascending; the positions of the requested payments
        in them, and which of `rows` these are."""
        if not self.whole:
            for blocks, found in slices_of(index, rows, self.places, places):
                yield blocks, np.unique(blocks.end) - 1, found
            return
        for blocks in blocks_of(index, places):
            found = np.searchsorted(rows, blocks.event)
            none = not len(rows)
            wanted = found[:0] if none else np.flatnonzero(rows[np.minimum(found, len(rows) - 1)] == blocks.event)
            yield blocks, wanted, found[wanted]


def _index(rows: Array) -> Array:
    """Use int32 where the row numbers fit, to halve the memory."""
    return rows.astype(np.int32) if len(rows) < 2**31 - 1 else rows


def _numbers(raw: pl.DataFrame, names: Sequence[str]) -> Columns:
    return {name: raw[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names}


def _codes(raw: pl.DataFrame, names: Sequence[str]) -> Columns:
    physical = {name: raw[name].cast(pl.String).cast(pl.Categorical).to_physical() for name in names}
    return {name: (codes.cast(pl.Int64) + 1).fill_null(0).to_numpy() for name, codes in physical.items()}
