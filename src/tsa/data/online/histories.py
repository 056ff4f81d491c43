"""Gather the histories of single payments from the earlier events of their keys, with the kernel used for stores.

In a batch each payment sees the batch's payments before it, in (time, id) order, as in a log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.clean_columns import ASKS
from tsa.data.history import EventArrays, EventHistories, HistoryArrays, HistoryIndex, gather, without_asking
from tsa.data.online.encoded import EVENT_ARRAYS, EncodedPayments, tie_break_key

Key = tuple[str, str]
"""A history's name, and the key value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HistoryEvents:
    """k earlier events of one key, in (time, id) order."""

    ids: tuple[str, ...]
    time_seconds: NDArray[np.float64]
    """(k,)"""
    categorical: NDArray[np.int32]
    """(k, C)"""
    numerical: NDArray[np.float32]
    """(k, F)"""
    tokens: NDArray[np.uint32]
    """(k, S) numbers for the texts of `tsa.data.raw_values.token_columns`."""
    raw_numerical: NDArray[np.float32]
    """(k, F') numerical features as they are, NaN for missing."""
    label: NDArray[np.int8]
    """(k,) 1 fraud, 0 genuine, -1 unknown."""
    known_at_seconds: NDArray[np.float64]
    """(k,) when the label becomes known; +inf for never."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, payments: EncodedPayments) -> HistoryEvents:
        """Payments, in any order, as past events, without those that only ask."""
        rows = np.flatnonzero(payments.role != ASKS).tolist()
        order = sorted(rows, key=lambda row: (payments.time_seconds[row], tie_break_key(payments.ids[row])))
        ordered = payments.take(order)
        return cls(ids=ordered.ids, **{name: getattr(ordered, name) for name in EVENT_ARRAYS})


def event_histories(market: Market, payments: EncodedPayments, past: Mapping[Key, HistoryEvents]) -> EventHistories:
    """The events that B payments may see, and where each payment is among those of its keys.

    An event at or after a payment, in (time, id) order, is never part of its history.

    Args:
        past: The earlier events of the payments' keys. A key without events may be absent.
    """
    events = _events(payments, list(past.values()))
    histories = {}
    for history in market.history:
        index = _index(history.name, payments, past, events.time_seconds)
        if not math.isinf(market.retention_seconds):
            index = _retained(index, events.time_seconds, market.retention_seconds)
        if (asks := payments.role == ASKS).any():
            asking = np.zeros(len(events.time_seconds), bool)
            asking[: len(asks)] = asks
            index = without_asking(index, asking, market.longest(history))
        histories[history.name] = index
    return EventHistories(events=events, histories=histories)


def gather_histories(market: Market, seen: EventHistories) -> dict[str, HistoryArrays]:
    """The histories of B payments by name, at the lengths of the market, from what `event_histories` gives."""
    return {
        history.name: gather(
            seen.events, index := seen.histories[history.name], np.arange(len(index.position)), history.length
        )
        for history in market.history
    }


def _events(payments: EncodedPayments, past: Sequence[HistoryEvents]) -> EventArrays:
    """The payments themselves, with their outcomes unknown, then all past events."""
    n = len(payments)
    own: dict[str, Any] = {name: getattr(payments, name) for name in EVENT_ARRAYS}
    own |= {"label": np.full(n, -1, np.int8), "known_at_seconds": np.full(n, np.inf)}
    joined: dict[str, Any] = {
        name: np.concatenate([own[name], *(getattr(events, name) for events in past)]) for name in EVENT_ARRAYS
    }
    return EventArrays(**joined)


def _index(
    history: str, payments: EncodedPayments, past: Mapping[Key, HistoryEvents], time_seconds: NDArray[np.float64]
) -> HistoryIndex:
    """The positions of the payments among the events of their keys. A payment without a key is separate."""
    if (
        len(payments) == 1
        and (last := _append_only_index(payments.keys[history][0], history, past, time_seconds)) is not None
    ):
        return last
    n, members = len(payments), dict[object, int]()
    own_keys = [
        members.setdefault(row if key is None else key, len(members)) for row, key in enumerate(payments.keys[history])
    ]
    history_keys = [members.get(key, -1) if name == history else -1 for name, key in past]
    key_of = np.concatenate([own_keys, np.repeat(history_keys, [len(events) for events in past.values()])]).astype(
        np.int64
    )
    among = np.flatnonzero(key_of >= 0)
    block, when = key_of[among], time_seconds[among]
    order = np.lexsort((when, block))
    if len(tied := order[_tied(block[order], when[order])]):
        ids = [*payments.ids, *(id_ for events in past.values() for id_ in events.ids)]
        rank = np.zeros(len(among), np.int64)
        rank[sorted(tied, key=lambda at: tie_break_key(ids[among[at]]))] = np.arange(len(tied))
        order = np.lexsort((rank, when, block))
    position = np.empty(len(among), np.int64)
    position[order] = np.arange(len(among))  # the payments come first among the events
    start = np.searchsorted(block[order], own_keys)
    return HistoryIndex(order=among[order], position=position[:n], start=start)


def _append_only_index(
    key: object, history: str, past: Mapping[Key, HistoryEvents], time_seconds: NDArray[np.float64]
) -> HistoryIndex | None:
    """Fast path for a single payment later than all events of its keys, whose times are strictly ascending.

    None if that does not hold: if ids decide the order or some events do not count.
    """
    begin = end = place = 1
    for of, events in past.items():
        if of == (history, key):
            begin, end = place, place + len(events)
        place += len(events)
    when = time_seconds[begin:end]
    if len(when) and (when[-1] >= time_seconds[0] or (when[1:] <= when[:-1]).any()):
        return None
    order = np.arange(begin, end + 1)
    order[-1] = 0  # the payment comes first among the events
    return HistoryIndex(order=order, position=np.array([end - begin]), start=np.zeros(1, np.int64))


def _tied(block: NDArray[np.int64], when: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(m,) whether an event, in order, has the same time as its neighbour of the same key."""
    as_before = np.zeros(len(block), bool)
    as_before[1:] = (block[1:] == block[:-1]) & (when[1:] == when[:-1])
    as_next = np.append(as_before[1:], False)
    tied: NDArray[np.bool_] = as_before | as_next
    return tied


def _retained(index: HistoryIndex, time_seconds: NDArray[np.float64], retention_seconds: float) -> HistoryIndex:
    """The index without events older than the retention limit, seen from each payment."""
    start = index.start.copy()
    for row, (begin, end) in enumerate(zip(index.start, index.position, strict=True)):
        times = time_seconds[index.order[begin : end + 1]]
        start[row] += np.searchsorted(times, times[-1] - retention_seconds)
    return HistoryIndex(order=index.order, position=index.position, start=start)
