"""Compute the aggregates of payments, from a store or from single payments with their histories: one code for both.

A value depends on the payment, and on the events and known outcomes that its histories show at its time, and on nothing
else: not on other payments, on how many are computed together, or on threads, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tsa.data.aggregates.axis import make_axis
from tsa.data.aggregates.columns import all_columns, read_events
from tsa.data.aggregates.spec import AggregateSpec
from tsa.data.history import EventArrays, HistoryIndex

Array = NDArray[Any]

TOGETHER = 64
"""Up to this many payments, all histories are computed at once, which is faster; more are computed in pieces."""

PIECE_VALUES = 4_000_000
"""Numbers in memory at a time: places of an axis, times the columns computed for each."""


class Histories(Protocol):
    """Events and where payments are among those of their keys: an `EventStore`, or `Requests.seen`."""

    @property
    def events(self) -> EventArrays:
        """The flat arrays."""
        ...

    @property
    def histories(self) -> Mapping[str, HistoryIndex]:
        """By name."""
        ...


def compute_aggregates(spec: AggregateSpec, seen: Histories, rows: Array | None = None) -> NDArray[np.float32]:
    """(R, K) float32 aggregates of payments, in the order of `spec.names`; NaN where there is nothing to aggregate.

    Args:
        seen: A store, or what requests carry (`Requests.seen`).
        rows: (R,) rows of the payments, in any order; by default all of them.
    """
    n = len(next(iter(seen.histories.values())).position)
    rows = np.arange(n) if rows is None else np.asarray(rows, np.int64)
    out = np.empty((len(rows), len(spec.names)), np.float32)
    if not len(rows):
        return out
    if len(rows) <= TOGETHER:
        _compute_together(spec, seen, rows, out)
        return out
    first = 0
    for history in spec.histories:
        stored_columns = spec.stored_columns[history]
        _compute_history(spec, seen, history, rows, out[:, first : first + len(stored_columns)], stored_columns)
        first += len(stored_columns)
    return out


def compute_history(spec: AggregateSpec, seen: Histories, history: str, rows: Array) -> NDArray[np.float32]:
    """(R, K') float32 aggregates of one history only, in the order of `spec.of_history(history)`.

    Args:
        seen: As for `compute_aggregates`.
        history: Its name.
        rows: (R,) rows of the payments.
    """
    stored_columns = spec.stored_columns[history]
    out = np.empty((len(rows), len(stored_columns)), np.float32)
    if len(rows):
        _compute_history(spec, seen, history, rows, out, stored_columns)
    return out


def _compute_together(spec: AggregateSpec, seen: Histories, rows: Array, out: Array) -> None:
    """All histories on one axis."""
    indices = [seen.histories[history] for history in spec.histories]
    orders = [np.argsort(np.asarray(index.position)[rows], kind="stable") for index in indices]
    rows_of, times = [rows[order] for order in orders], np.asarray(seen.events.time_seconds)
    axis = make_axis(indices, rows_of, spec.history_length, times, spec.key_columns(spec.histories))
    made = all_columns(spec, axis, read_events(spec, seen.events, axis))
    first = 0
    for at, (history, order) in enumerate(zip(spec.histories, orders, strict=True)):
        stored_columns = spec.stored_columns[history]
        out[order, first : first + len(stored_columns)] = made[at * len(rows) : (at + 1) * len(rows), stored_columns]
        first += len(stored_columns)


def _compute_history(
    spec: AggregateSpec, seen: Histories, history: str, rows: Array, out: Array, stored_columns: Array
) -> None:
    index, time_seconds = seen.histories[history], np.asarray(seen.events.time_seconds)
    order = np.argsort(np.asarray(index.position)[rows], kind="stable")
    for piece in _pieces(spec, index, rows[order]):
        axis = make_axis([index], [rows[order[piece]]], spec.history_length, time_seconds, spec.key_columns([history]))
        out[order[piece]] = all_columns(spec, axis, read_events(spec, seen.events, axis))[:, stored_columns]


def _pieces(spec: AggregateSpec, index: HistoryIndex, rows: Array) -> Iterator[slice]:
    """Cut payments, in the order of their positions, so that an axis does not take too much memory."""
    position, start = np.asarray(index.position)[rows], np.asarray(index.start)[rows]
    low = start if spec.history_length is None else np.maximum(start, position - spec.history_length + 1)
    fresh = position - np.maximum(low, np.concatenate([[-1], position[:-1]]) + 1) + 1
    size = max(1, PIECE_VALUES // (20 + len(spec.categorical) + 10 * len(spec.numerical)))
    number = np.cumsum(fresh) // size
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=number[-1] + 1))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield slice(first, last)
