"""Histories of single payments, from the earlier events of their keys: gathered by the kernel that gathers a store's.

Where several payments come at once, each sees those of the others that are before it, in (time, id) order, as in a log.
It does not know where earlier events are kept, nor what a network makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.history import EventArrays, HistoryArrays, HistoryIndex, gather
from tsa.data.payments import Payments, tie
from tsa.schema import Market

Key = tuple[str, str]
"""A history's name, and whose it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PastEvents:
    """k earlier events of one key, in (time, id) order."""

    ids: tuple[str, ...]
    time_seconds: NDArray[np.float64]
    """(k,)"""
    categorical: NDArray[np.int32]
    """(k, C)"""
    numerical: NDArray[np.float32]
    """(k, F)"""
    label: NDArray[np.int8]
    """(k,) 1 fraud, 0 genuine, -1 not known."""
    known_at_seconds: NDArray[np.float64]
    """(k,) when the label becomes known; +inf for never."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, payments: Payments) -> PastEvents:
        """Payments, in any order, as events of the past."""
        order = sorted(range(len(payments)), key=lambda row: (payments.time_seconds[row], tie(payments.ids[row])))
        found = payments.take(order)
        return cls(ids=found.ids, **{name: getattr(found, name) for name in ARRAYS})


ARRAYS = ("time_seconds", "categorical", "numerical", "label", "known_at_seconds")


def assemble(market: Market, payments: Payments, past: Mapping[Key, PastEvents]) -> dict[str, HistoryArrays]:
    """The histories of B payments by name. past: the earlier events of their keys; a key without any may be absent.

    An event at or after a payment, in (time, id) order, is not part of its history, wherever it comes from.
    """
    blocks = list(past.items())
    events = _events(payments, [events for _, events in blocks])
    rows = np.arange(len(payments))
    found = {}
    for history in market.history:
        index = _index(history.name, payments, blocks, events.time_seconds, market.retention_seconds)
        found[history.name] = gather(events, index, rows, history.length)
    return found


def _events(payments: Payments, past: Sequence[PastEvents]) -> EventArrays:
    """The payments themselves, whose outcomes nobody knows yet, then all that came before them."""
    n = len(payments)
    own: dict[str, Any] = {name: getattr(payments, name) for name in ARRAYS}
    own |= {"label": np.full(n, -1, np.int8), "known_at_seconds": np.full(n, np.inf)}
    joined: dict[str, Any] = {
        name: np.concatenate([own[name], *(getattr(events, name) for events in past)]) for name in ARRAYS
    }
    return EventArrays(**joined)


def _index(
    history: str,
    payments: Payments,
    blocks: Sequence[tuple[Key, PastEvents]],
    time_seconds: NDArray[np.float64],
    retention_seconds: float,
) -> HistoryIndex:
    """Where the payments stand among the events of their keys. A payment without a key stands alone."""
    n = len(payments)
    members: dict[object, list[int]] = {}
    for row, key in enumerate(payments.keys[history]):
        members.setdefault(row if key is None else key, []).append(row)
    first = n
    earlier: dict[str, tuple[int, PastEvents]] = {}
    for (name, key), events in blocks:
        if name == history:
            earlier[key] = (first, events)
        first += len(events)
    order: list[NDArray[np.int64]] = []
    position, start, begin = np.zeros(n, np.int64), np.zeros(n, np.int64), 0
    for whose, rows in members.items():
        block = _sorted_block(payments, rows, earlier.get(whose) if isinstance(whose, str) else None, time_seconds)
        limits = np.asarray(payments.time_seconds[rows]) - retention_seconds
        start[rows] = begin + np.searchsorted(time_seconds[block], limits)
        position[rows] = begin + _places(block, rows)
        order.append(block)
        begin += len(block)
    return HistoryIndex(order=np.concatenate(order) if order else np.zeros(0, np.int64), position=position, start=start)


def _sorted_block(
    payments: Payments, rows: Sequence[int], earlier: tuple[int, PastEvents] | None, time_seconds: NDArray[Any]
) -> NDArray[np.int64]:
    """The events of one key in (time, id) order: earlier ones, which are so already, and the payments `rows`."""
    first, events = (0, None) if earlier is None else earlier
    old = np.arange(first, first + (0 if events is None else len(events)))
    if len(rows) == 1 and (not len(old) or time_seconds[old[-1]] < payments.time_seconds[rows[0]]):
        return np.append(old, rows[0])
    ids = (*(() if events is None else events.ids), *(payments.ids[row] for row in rows))
    block = np.concatenate([old, np.asarray(rows, np.int64)])
    place = sorted(range(len(block)), key=lambda at: (time_seconds[block[at]], tie(ids[at])))
    return block[place]


def _places(block: NDArray[np.int64], rows: Sequence[int]) -> NDArray[np.int64]:
    """Where the payments `rows` stand in a block of events."""
    if len(rows) == 1:
        return np.flatnonzero(block == rows[0])
    order = np.argsort(block, kind="stable")
    return order[np.searchsorted(block[order], rows)]
