"""The arrays of a request: its payments, and the events of each history, padded and flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.history import UNKNOWN_OUTCOME, EventArrays, EventHistories, HistoryArrays, HistoryIndex
from tsa.data.wire.layout import FieldLayout, HistoryFields
from tsa.data.wire.tokens import Index


@dataclass(frozen=True, kw_only=True)
class Requests:
    """B payments as arrays."""

    ids: tuple[str, ...]
    """As given; empty for a payment without an id."""
    time_seconds: NDArray[np.float64]
    """(B,)"""
    histories: dict[str, HistoryArrays]
    engineered: NDArray[np.float32]
    """(B, G)"""
    seen: EventHistories
    """The events behind the histories, as many as are known."""


@dataclass(frozen=True)
class EventGroup:
    """m events that are encoded together: the payments themselves, or the events of one history."""

    row: Index
    """(m,) the index of the request that each belongs to."""
    categorical: Index
    """(m, C) pieces"""
    numerical: Index
    """(m, F) pieces"""
    texts: tuple[str, ...]
    """Indices of the pieces with the C texts."""
    fields: tuple[str, ...]
    """Indices of the pieces with the F numbers."""
    time_seconds: NDArray[np.float64]


def seen_events(
    layout: FieldLayout,
    groups: Sequence[EventGroup],
    categorical: Sequence[NDArray[np.int32]],
    numerical: Sequence[NDArray[np.float32]],
) -> EventHistories:
    """The payments, then the events of each history, as flat arrays. Outcomes of events that rows carry are unknown."""
    time_seconds = np.concatenate([group.time_seconds for group in groups])
    m, n = len(time_seconds), len(groups[0].row)
    events = EventArrays(
        categorical=np.concatenate(categorical),
        numerical=np.concatenate(numerical),
        time_seconds=time_seconds,
        label=np.full(m, -1, np.int8),
        known_at_seconds=np.full(m, np.inf),
    )
    histories, first = {}, n
    for history, group in zip(layout.histories, groups[1:], strict=True):
        lengths = np.bincount(group.row, minlength=n)
        position = np.cumsum(lengths + 1) - 1
        order = np.empty(n + len(group.row), np.int64)
        order[position] = np.arange(n)
        order[np.arange(len(group.row)) + group.row] = first + np.arange(len(group.row))
        histories[history.name] = HistoryIndex(order=order, position=position, start=position - lengths)
        first += len(group.row)
    return EventHistories(events=events, histories=histories)


def history_arrays(
    history: HistoryFields,
    group: EventGroup,
    now: NDArray[np.float64],
    age_cap_seconds: float,
    categorical: tuple[NDArray[np.int32], NDArray[np.int32]],
    numerical: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> HistoryArrays:
    """Pad on the left: values of the earlier payments (m, ...), then those of the payments themselves (R, ...)."""
    n, length = len(now), history.length
    end = np.cumsum(np.bincount(group.row, minlength=n))
    place = np.arange(len(group.row)) - end[group.row] + length - 1
    age = np.minimum(now[group.row] - group.time_seconds, age_cap_seconds)
    padding = np.ones((n, length), bool)
    padding[group.row, place] = padding[:, -1] = False
    return HistoryArrays(
        categorical=_placed((n, length), group.row, place, *categorical),
        numerical=_placed((n, length), group.row, place, *numerical),
        age_seconds=_placed((n, length), group.row, place, age.astype(np.float32), np.zeros(n, np.float32)),
        padding=padding,
        outcome=np.where(padding, 0, UNKNOWN_OUTCOME).astype(np.int8),
        same_key=np.zeros((n, length, 0), np.bool_),
    )


def split_groups(values: NDArray[Any], groups: Sequence[EventGroup]) -> list[NDArray[Any]]:
    """The values (all m, ...) of each group."""
    ends = list(accumulate(len(group.row) for group in groups))
    return [values[start:stop] for start, stop in pairwise([0, *ends])]


def _placed(shape: tuple[int, int], row: Index, place: Index, past: NDArray[Any], own: NDArray[Any]) -> NDArray[Any]:
    out = np.zeros((*shape, *past.shape[1:]), past.dtype)
    out[row, place], out[:, -1] = past, own
    return out
