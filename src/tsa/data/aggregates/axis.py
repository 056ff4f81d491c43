"""The axis of an aggregation: the events that the asked payments see, in one row of places, history after history.

An asked payment has a place, and sees the earlier places down to its first visible one. Both only ever rise from
one asked payment to the next, so sums, counts and searches over all windows need no loop over payments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.history import HistoryIndex

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class EventAxis:
    """m places, of which Q are asked payments. A payment with two histories is asked twice, once in each."""

    event: Array
    """(m,) row of the event at each place."""
    block: Array
    """(m,) rising number of the key that the place belongs to, or of a stretch of its events."""
    at: Array
    """(Q,) place of each asked payment, rising."""
    low: Array
    """(Q,) the first place that it sees, rising; `at` if it sees no earlier event."""
    time_seconds: Array
    """(m,) float64, rising within a block."""
    role_bits: Array | None = None
    """(m,) the roles of the event at each place, one bit per column of keys; None if no history has roles."""
    partner: Array | None = None
    """(m,) the column of `EventArrays.tokens` with the other key of the event, of histories with two; -1 for none."""

    @property
    def n_asked(self) -> int:
        """Q."""
        return len(self.at)

    @cached_property
    def now_seconds(self) -> Array:
        """(Q,) times of the asked payments."""
        now: Array = self.time_seconds[self.at]
        return now

    @cached_property
    def first_after(self) -> Array:
        """(m,) the first asked payment after a place, as a number from 0 to Q."""
        return np.searchsorted(self.at, np.arange(len(self.event)), side="right")

    @cached_property
    def last_before(self) -> Array:
        """(m,) the first asked payment that no longer sees a place, since it is too old; from 0 to Q."""
        return np.searchsorted(self.low, np.arange(len(self.event)), side="right")

    @cached_property
    def _sorted_times(self) -> Array:
        return np.sort(self.time_seconds)

    @cached_property
    def _moments(self) -> Array:
        """(m,) rising int64: by block, then by the rank of the time."""
        rank = np.searchsorted(self._sorted_times, self.time_seconds)
        return self.block * (len(self.event) + 1) + rank

    @cached_property
    def _sorted_now(self) -> Array:
        return np.sort(self.now_seconds)

    @cached_property
    def _asked_moments(self) -> Array:
        """(Q,) as `_moments`, by the rank among the times of the asked payments."""
        rank = np.searchsorted(self._sorted_now, self.now_seconds)
        return self.block[self.at] * (self.n_asked + 1) + rank

    def window_starts(self, seconds: Array) -> Array:
        """(Q, W) the first place within each window (now - seconds, now], at least the first visible place.

        Args:
            seconds: (W,) lengths of the windows.
        """
        rank = np.searchsorted(self._sorted_times, self.now_seconds[:, None] - seconds, side="right")
        moment = self.block[self.at][:, None] * (len(self.event) + 1) + rank
        starts: Array = np.maximum(np.searchsorted(self._moments, moment), self.low[:, None])
        return starts

    def first_asked_since(self, places: Array, seconds: Array) -> Array:
        """The first asked payment of the same block whose time is at least `seconds`; if none, one of a later block.

        Args:
            places: (e,) places, which give the blocks.
            seconds: (e,) or (e, W) times.
        """
        rank = np.searchsorted(self._sorted_now, seconds)
        block = self.block[places] * (self.n_asked + 1)
        first: Array = np.searchsorted(self._asked_moments, rank + (block if rank.ndim == 1 else block[:, None]))
        return first


def make_axis(
    indices: Sequence[HistoryIndex],
    rows_of: Sequence[Array],
    length: int | None,
    time_seconds: Array,
    columns: Sequence[Sequence[int]] = (),
) -> EventAxis:
    """The axis of payments in some histories, history after history.

    Args:
        indices: The histories.
        rows_of: For each history, the rows (R,) of the payments; their positions must rise.
        length: Events that a payment sees at most, itself included; None for no limit.
        time_seconds: (n,) times of the events.
        columns: For each history the columns of tokens with its keys, if these are several; empty if no history has roles.
    """
    orders, lows, ats, blocks = [], [], [], []
    roles: list[Array] = []
    partners: list[Array] = []
    base = n_blocks = 0
    for number, (index, rows) in enumerate(zip(indices, rows_of, strict=True)):
        position = np.asarray(index.position)[rows]
        low = np.asarray(index.start)[rows]
        if length is not None:
            low = np.maximum(low, position - (length - 1))
        begins = np.empty(len(rows), np.bool_)
        begins[:1] = True
        np.greater(low[1:], position[:-1], out=begins[1:])
        new_from = low.copy()
        np.maximum(low[1:], position[:-1] + 1, out=new_from[1:])
        count = position - new_from + 1
        end = np.cumsum(count)
        total = int(end[-1]) if len(end) else 0
        slot = np.arange(total) + np.repeat(new_from - (end - count), count)
        orders.append(np.take(index.order, slot))
        if columns:
            role = np.zeros(len(slot), np.int64) if index.role is None else np.take(index.role, slot).astype(np.int64)
            roles.append(_role_bits(role, len(columns[number])))
            partners.append(_partners(role, columns[number]))
        at = end - 1 + base
        ats.append(at)
        lows.append(at - (position - low))
        block = np.cumsum(begins) - 1
        blocks.append(np.repeat(block + n_blocks, count))
        n_blocks += int(block[-1]) + 1 if len(block) else 0
        base += total
    event = _joined(orders)
    block = _joined(blocks)
    time = _rising(np.take(time_seconds, event), block)
    of_roles = (_joined(roles), _joined(partners)) if columns else (None, None)
    return EventAxis(event, block, _joined(ats), _joined(lows), time, *of_roles)


def _role_bits(role: Array, n_roles: int) -> Array:
    """The roles of events, one bit each: all bits for an event with the key in several columns."""
    if not n_roles:
        return np.zeros(len(role), np.int64)
    return np.where(role < n_roles, 1 << role, (1 << n_roles) - 1)


def _partners(role: Array, columns: Sequence[int]) -> Array:
    """The column with the other of two keys; the first column for an event with the same key in both."""
    if len(columns) != 2:
        return np.full(len(role), -1)
    return np.where(role == 0, columns[1], columns[0])


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _rising(time: Array, block: Array) -> Array:
    """Times that never fall within a block: rows that carry their own history may list events in any order."""
    falls = (time[1:] < time[:-1]) & (block[1:] == block[:-1])
    if not falls.any():
        return time
    fixed = time.copy()
    for one in np.unique(block[1:][falls]).tolist():
        first, last = np.searchsorted(block, [one, one + 1])
        fixed[first:last] = np.maximum.accumulate(fixed[first:last])
    return fixed
