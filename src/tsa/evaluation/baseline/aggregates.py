"""Automatic aggregates: for each payment a row of numbers about the earlier payments of its keys, for boosted trees.

Columns follow from the market file by rule. All are point-in-time correct: a row uses only earlier payments in
(time, id) order, and outcomes only once they are known. See `aggregate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError, DataError
from tsa.evaluation.baseline.events import Columns, EventTable
from tsa.evaluation.baseline.segmented_ops import GroupedEvents, empty_blocks
from tsa.times import DAY_SECONDS

if TYPE_CHECKING:
    from tsa.data.store.store import EventStore

Array = NDArray[Any]

EVER = "all"
"""Name of the window that starts at the first payment of the key."""


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """The columns that are aggregated, and the windows."""

    windows_days: tuple[int, ...] = (1, 7, 30)
    detailed_numerical: int = 4
    """This many numerical columns (the amount first) use every window, the others only the last window and `all`."""
    places_at_once: int = 500_000
    """Payments processed together: limits the memory."""

    def __post_init__(self) -> None:
        if any(days <= 0 for days in self.windows_days):
            raise ConfigError(f"windows_days must be positive (got windows_days={self.windows_days})")
        if self.places_at_once < 1:
            raise ConfigError(f"places_at_once must be at least 1 (got places_at_once={self.places_at_once})")


@dataclass(frozen=True)
class Aggregates:
    """The features of R payments."""

    values: Array
    """(R, K) float32; NaN where there is nothing to aggregate."""
    names: tuple[str, ...]
    """K names such as `customer.TX_AMOUNT.mean_7d`."""
    categorical: tuple[str, ...]
    """The names of columns that are codes, not quantities."""
    current: tuple[str, ...]
    """The names of columns that are quantities of the payment itself, not aggregates."""


def aggregate(store: EventStore, *, rows: Array | None = None, config: AggregateConfig | None = None) -> Aggregates:
    """Compute the features of the payments `rows` (R,) of a store as of each payment's time; by default of all payments.

    A window of w days is half open, (t - w, t]; for outcomes it counts those that *became known* in the last w days. The
    current payment is in no count, mean, deviation or maximum. Windows reach back over the full log, unless rows carry
    their own history or the market limits how long events are visible.

    Raises:
        DataError: If rows repeat.
    """
    config = config or AggregateConfig()
    rows = np.arange(len(store)) if rows is None else np.asarray(rows)
    repeated = int(np.sum(np.diff(np.sort(rows)) == 0))
    if repeated:
        raise DataError(f"rows must be distinct (got {repeated} of {len(rows)} repeated)")
    source = EventTable.read(store, config.windows_days)
    own, categorical = _own_columns(store, source, rows)
    per_history = {
        name: tuple(_history_columns(name, empty_blocks(len(source)), source, config)) for name in store.histories
    }
    names = _distinct([*own, *(column for columns in per_history.values() for column in columns)])
    values = np.empty((len(rows), len(names)), np.float32)
    for at, column in enumerate(own.values()):
        values[:, at] = column
    low = len(own)
    for name, columns in per_history.items():
        _fill(values[:, low : low + len(columns)], rows, store, name, source, config)
        low += len(columns)
    current = tuple(name for name in own if name not in categorical)
    return Aggregates(values=values, names=names, categorical=categorical, current=current)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Unique names: an aggregate with the name of a column of the market gets a suffix."""
    found: dict[str, None] = {}
    for name in names:
        while name in found:
            name += "'"
        found[name] = None
    return tuple(found)


def _fill(out: Array, rows: Array, store: EventStore, name: str, source: EventTable, config: AggregateConfig) -> None:
    """Write the columns of one history into `out` (R, k), one run of blocks at a time."""
    by_row = np.argsort(rows, kind="stable")
    for blocks, places, found in source.runs(store.histories[name], rows[by_row], config.places_at_once):
        if not len(places):
            continue
        columns = _history_columns(name, blocks, source, config)
        chunk = np.empty((len(places), len(columns)), np.float32)
        for at, column in enumerate(columns.values()):
            chunk[:, at] = column[places]
        out[by_row[found]] = chunk


def _own_columns(store: EventStore, source: EventTable, rows: Array) -> tuple[Columns, tuple[str, ...]]:
    """Columns of the payment itself: raw numbers, engineered features, calendar, codes; and which of these are codes."""
    features = store.market.features
    columns = {name: values[source.places[rows]] for name, values in source.numerical.items()}
    engineered = [item if isinstance(item, str) else item.name for item in features.engineered]
    columns |= {name: np.asarray(store.engineered[rows, at]) for at, name in enumerate(engineered)}
    codes = {item.name: np.asarray(store.categorical[rows, at]) for at, item in enumerate(features.categorical)}
    time = np.asarray(store.time_seconds)[rows]
    # The epoch began on a Thursday; 0 is Monday.
    made = {"calendar.hour": time % DAY_SECONDS / 3600, "calendar.day_of_week": (time // DAY_SECONDS + 3) % 7}
    names = _distinct([*columns, *codes, *made])[-len(made) :]
    return {**columns, **dict(zip(names, made.values(), strict=True)), **codes}, tuple(codes)


def _history_columns(name: str, blocks: GroupedEvents, source: EventTable, config: AggregateConfig) -> Columns:
    """All columns of one history for m positions; each (m,)."""
    low = {window: blocks.first_at(blocks.place, rows[blocks.event]) for window, rows in source.window_start.items()}
    low[EVER] = blocks.first
    columns: Columns = {f"count_{window}": blocks.place - start for window, start in low.items()}
    columns |= _gaps(blocks, source.time[blocks.event])
    for nth, (column, values) in enumerate(source.numerical.items()):
        windows = low if nth < config.detailed_numerical else dict(list(low.items())[-2:])
        columns |= {f"{column}.{key}": value for key, value in _amounts(blocks, values[blocks.event], windows).items()}
    for column, codes in source.categorical.items():
        repeats = blocks.repeats_before(codes[blocks.event])
        columns |= {f"{column}.seen_before": repeats, f"{column}.distinct": blocks.counts_before(repeats == 0)}
    if source.known_from is not None:
        columns |= _outcomes(blocks, source, source.known_from)
    return {f"{name}.{key}": value for key, value in columns.items()}


def _gaps(blocks: GroupedEvents, time: Array) -> Columns:
    """Seconds from the previous payment of the key to this one, and between the two before."""
    to_previous = np.full(len(blocks), np.nan)
    to_previous[1:] = time[1:] - time[:-1]
    to_previous[blocks.first] = np.nan
    before = np.full(len(blocks), np.nan)
    before[1:] = to_previous[:-1]
    before[blocks.first] = np.nan
    return {"gap_seconds": to_previous, "gap_before_seconds": before}


def _amounts(blocks: GroupedEvents, values: Array, low: dict[str, Array]) -> Columns:
    """Mean, standard deviation and maximum of the earlier values in each window; the current value against the mean."""
    present = ~np.isnan(values)
    counts = blocks.counts_before(present)
    # Values relative to the key's first value keep squares from cancelling; every position sees at least that value.
    origin = np.where(present, values, 0.0)[blocks.first]
    shifted = np.where(present, values - origin, 0.0)
    sums, squares = blocks.sums_before(shifted), blocks.sums_before(shifted * shifted)
    highest = np.where(present, values, -np.inf)
    columns: Columns = {}
    for window, start in low.items():
        n = counts - counts[start]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (sums - sums[start]) / n
            variance = (squares - squares[start]) / n - mean * mean
            mean += origin
            columns |= {
                f"mean_{window}": mean,
                f"std_{window}": np.sqrt(np.where(n > 1, np.maximum(variance, 0.0), np.nan)),
                f"max_{window}": np.where(n > 0, blocks.maxima_since(highest, start), np.nan),
                f"ratio_{window}": np.where(mean != 0, values / mean, np.nan),
                f"difference_{window}": values - mean,
            }
    return columns


def _outcomes(blocks: GroupedEvents, source: EventTable, known_from: Array) -> Columns:
    """Known outcomes of earlier payments: count, frauds, rate; the last outcome, and the age of the last fraud.

    An outcome becomes visible at one position of its block and leaves a window at another: two searches, no sorting.
    """
    label = source.label[blocks.event]
    places = np.flatnonzero((label >= 0) & (known_from[blocks.event] < blocks.n_events))
    visible = np.maximum(blocks.first_at(places, known_from[blocks.event[places]]), places + 1)
    ceases = {w: blocks.first_at(places, until[blocks.event[places]]) for w, until in source.known_until.items()}
    fraud = label[places] == 1
    columns: Columns = {}
    for window, end in {**ceases, EVER: blocks.end[places]}.items():
        known = blocks.counts_between(visible, end)
        frauds = blocks.counts_between(visible[fraud], end[fraud])
        rate = np.divide(frauds, known, out=np.full(len(known), np.nan), where=known > 0)
        columns |= {f"known_{window}": known, f"known_fraud_{window}": frauds, f"known_fraud_rate_{window}": rate}
    last_fraud = blocks.last_event(places[fraud], visible[fraud])
    days = (source.time[blocks.event] - source.time[last_fraud]) / DAY_SECONDS if len(source.time) else np.empty(0)
    columns["days_since_known_fraud"] = np.where(last_fraud >= 0, days, np.nan)
    last = blocks.last_event(places, visible)
    columns["last_known_is_fraud"] = np.where(last >= 0, source.label[last] == 1, np.nan)
    return columns
