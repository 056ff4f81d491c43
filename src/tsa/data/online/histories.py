"""Gather the histories of single payments from the earlier events of their keys, with the kernel used for stores.

In a batch each payment sees the batch's payments before it, in (time, id) order, as in a log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import HistoryConfig, Market
from tsa.data.clean_columns import ASKS
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import EventArrays, EventHistories, HistoryArrays, HistoryIndex, gather, without_asking
from tsa.data.key_roles import find_roles, token_places, with_columns
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
        if history.keys is None:
            indices = {history.name: _index(history.name, payments, past, events.time_seconds)}
        else:
            indices = _view_indices(market, history, payments, past, events)
        for name, index in indices.items():
            if not math.isinf(market.retention_seconds):
                index = _retained(index, events.time_seconds, market.retention_seconds)
            if (asks := payments.role == ASKS).any():
                asking = np.zeros(len(events.time_seconds), bool)
                asking[: len(asks)] = asks
                index = without_asking(index, asking, market.longest(history))
            histories[name] = index
    return EventHistories(events=events, histories=histories)


def gather_histories(market: Market, encoder: Encoder, seen: EventHistories) -> dict[str, HistoryArrays]:
    """The histories of B payments by name, at the lengths of the market, from what `event_histories` gives."""
    indices = with_columns(market, encoder, seen.histories)
    return {
        view.name: gather(seen.events, index := indices[view.name], np.arange(len(index.position)), view.length)
        for view in market.views
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
    block = key_of[among]
    order = _in_order(among, block, time_seconds, payments, past)
    position = np.empty(len(among), np.int64)
    position[order] = np.arange(len(among))  # the payments come first among the events
    start = np.searchsorted(block[order], own_keys)
    return HistoryIndex(order=among[order], position=position[:n], start=start)


def _in_order(
    event: NDArray[np.int64],
    block: NDArray[np.int64],
    time_seconds: NDArray[np.float64],
    payments: EncodedPayments,
    past: Mapping[Key, HistoryEvents],
) -> NDArray[np.int64]:
    """(m,) the order of events (m,) by block (m,), time and id."""
    when = time_seconds[event]
    order = np.lexsort((when, block))
    if len(tied := order[_tied(block[order], when[order])]):
        ids = [*payments.ids, *(id_ for events in past.values() for id_ in events.ids)]
        rank = np.zeros(len(event), np.int64)
        rank[sorted(tied, key=lambda at: tie_break_key(ids[event[at]]))] = np.arange(len(tied))
        order = np.lexsort((rank, when, block))
    return order


def _view_indices(
    market: Market,
    history: HistoryConfig,
    payments: EncodedPayments,
    past: Mapping[Key, HistoryEvents],
    events: EventArrays,
) -> dict[str, HistoryIndex]:
    """As `_index`, of a history whose key is named by several columns: an index for each of them, with roles.

    A payment has a place in the history of each of its keys: one, if several columns name the same key.
    """
    assert events.tokens is not None
    n, columns = len(payments), token_places(market, history)
    members: dict[object, int] = {}
    place_of = np.empty((n, len(history.views)), np.int64)
    event_of: list[int] = []
    block_of: list[int] = []
    column_of: list[int] = []
    for row in range(n):
        own: dict[str, int] = {}
        for at, view in enumerate(history.views):
            key = payments.keys[view.name][row]
            if key is not None and key in own:
                place_of[row, at] = own[key]
                continue
            place_of[row, at] = len(event_of)
            if key is not None:
                own[key] = len(event_of)
            event_of.append(row)
            block_of.append(members.setdefault((row, at) if key is None else key, len(members)))
            column_of.append(at)
    token_of = np.zeros(len(members), np.uint32)  # of each block
    token_of[block_of] = payments.tokens[event_of, [columns[at] for at in column_of]]
    first = n
    pieces = [(np.array(event_of, np.int64), np.array(block_of, np.int64), np.array(column_of, np.int64))]
    for (name, key), earlier in past.items():
        if name == history.name and key in members:
            count = len(earlier)
            pieces.append((np.arange(first, first + count), np.full(count, members[key]), np.zeros(count, np.int64)))
        first += len(earlier)
    event, block, column = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    order = _in_order(event, block, events.time_seconds, payments, past)
    position = np.empty(len(event), np.int64)
    position[order] = np.arange(len(event))
    start = np.searchsorted(block[order], block)
    roles = find_roles(token_of[block], events.tokens[event][:, columns], column)
    return {
        view.name: HistoryIndex(
            order=event[order], position=position[place_of[:, at]], start=start[place_of[:, at]], role=roles[order]
        )
        for at, view in enumerate(history.views)
    }


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
    return replace(index, start=start)
