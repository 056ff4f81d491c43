"""Histories as slices: the earlier events that an event sees, their ages, and their outcomes as known at that time.

A log of n events is stored once, in (time, id) order. For each history key, `order` lists the events key by key in
time order; `position` is the index of an event in `order`, `start` the index where its key's block begins. The
history of event i is `order[max(start[i], position[i] - L + 1) : position[i] + 1]`; its last event is i itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.augmentation import HistoryAugmentation
from tsa.data.raw_values import MISSING_TOKEN

PADDING, UNKNOWN_OUTCOME, GENUINE, FRAUD = 0, 1, 2, 3
"""The outcome of an event as known at a later event; PADDING where there is no event."""

N_OUTCOMES = 4

Array = NDArray[Any]


@dataclass(frozen=True)
class RoleEncoding:
    """Where roles are among the categorical features."""

    column: int
    first_row: int
    """Row of the embedding table for role 0."""


@dataclass(frozen=True)
class ComparedKeys:
    """Which keys of an event are compared with those of the current event, in one history."""

    names: tuple[str, ...]
    """The K keys that a market compares, the same in all of its histories (`tsa.data.key_roles.compared_keys`)."""
    columns: tuple[int | tuple[int, int] | None, ...]
    """The columns of `EventArrays.tokens`; a pair: the one that does not name the history's key; None: not compared here."""


@dataclass(frozen=True)
class HistoryIndex:
    """The positions of n events in a history. All arrays are integers."""

    order: Array
    """(m,) rows of events, history after history. For a log m is n, unless some events only ask (`without_asking`). If
    rows carry their own history, an earlier event occurs once for each row that contains it."""
    position: Array
    """(n,) index of each event in `order`."""
    start: Array
    """(n,) index in `order` of the first event that it may see."""
    role: Array | None = None
    """(m,) int8: the role that the event at each place has there (`tsa.data.key_roles`). None if one column names the key."""
    encoding: RoleEncoding | None = None
    """How roles become a categorical feature."""
    compared: ComparedKeys | None = None
    """Which keys are compared; None for none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EventArrays:
    """The flat arrays of n events that a history is gathered from. An EventStore is one, of events in (time, id) order."""

    categorical: Array
    """(n, C) int32: rows of the shared embedding table."""
    numerical: Array
    """(n, F) float32, scaled."""
    time_seconds: Array
    """(n,) float64, seconds since 1970."""
    label: Array
    """(n,) int8: 1 fraud, 0 genuine, -1 unknown."""
    known_at_seconds: Array
    """(n,) float64: when the label becomes known; +inf for never."""
    age_cap_seconds: float = math.inf
    """Ages are capped at this."""
    tokens: Array | None = None
    """(n, S) uint32: numbers for the texts of categorical features and keys (`tsa.data.raw_values`); no columns, or None,
    where only encoded values are known."""
    raw_numerical: Array | None = None
    """(n, F') float32: numerical features as they are, NaN for missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EventHistories:
    """Events, and the positions of B payments, the first of the events, in each history. An EventStore has the same."""

    events: EventArrays
    histories: Mapping[str, HistoryIndex]

    def only(self, rows: slice) -> EventHistories:
        """Some of the payments, with all events."""
        histories = {
            name: replace(index, position=index.position[rows], start=index.start[rows])
            for name, index in self.histories.items()
        }
        return EventHistories(events=self.events, histories=histories)


@dataclass(frozen=True)
class HistoryArrays:
    """The histories of B events, padded on the left to L. The last event is the current one."""

    categorical: Array
    """(B, L, C) int32; 0 at padding."""
    numerical: Array
    """(B, L, F) float32; 0 at padding."""
    age_seconds: Array
    """(B, L) float32: current event's time minus this event's time; 0 at padding."""
    padding: Array
    """(B, L) bool: True where there is no event, or it is hidden."""
    outcome: Array
    """(B, L) int8: PADDING, NOT_KNOWN, GENUINE or FRAUD as of the current event."""
    same_key: Array
    """(B, L, K) bool: whether the event has the current event's key, for each of `ComparedKeys.names`; False at padding."""


def index_histories(key: Array) -> HistoryIndex:
    """Index n events, given in time order, by their key.

    Args:
        key: (n,) integer codes. A negative code is a null key: the event has no history and a separate block.
    """
    n = len(key)
    null = key < 0
    block = np.where(null, key.max(initial=0) + 1 + np.arange(n), key) if null.any() else key
    order = np.argsort(block, kind="stable")
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    is_first = np.ones(n, bool)
    np.not_equal(block[order][1:], block[order][:-1], out=is_first[1:])
    first_of_block = np.maximum.accumulate(np.where(is_first, np.arange(n), 0))
    return HistoryIndex(order=order, position=position, start=first_of_block[position])


def within_retention(time_seconds: Array, now_seconds: Array, retention_seconds: float) -> NDArray[np.bool_]:
    """(e,) whether events may be seen at `now_seconds` (e,), that is, are not older than the retention limit."""
    within: NDArray[np.bool_] = time_seconds >= now_seconds - retention_seconds
    return within


def apply_retention(index: HistoryIndex, time_seconds: Array, retention_seconds: float) -> HistoryIndex:
    """The index of a log of n events in time order, without events older than the limit seen from each event."""
    oldest = oldest_rows(time_seconds, time_seconds, retention_seconds)
    return replace(index, start=first_within(index.order, index.start, index.position, oldest))


def oldest_rows(time_seconds: Array, now_seconds: Array, retention_seconds: float) -> Array:
    """(e,) the first row, of rows in time order, that is not older than the limit at `now_seconds` (e,)."""
    return np.searchsorted(time_seconds, now_seconds - retention_seconds)


def first_within(order: Array, start: Array, position: Array, oldest: Array) -> Array:
    """(e,) the first place of each history whose row in `order` is not before `oldest` (e,).

    Searched by halves in each history, whose rows are ascending, so few places of `order` are read.
    """
    low, high = start.astype(np.int64), position.astype(np.int64)
    open_ = np.flatnonzero(low < high)
    while len(open_):
        middle = (low[open_] + high[open_]) // 2
        before = order[middle] < oldest[open_]
        low[open_[before]] = middle[before] + 1
        high[open_[~before]] = middle[~before]
        open_ = open_[low[open_] < high[open_]]
    return low


def without_asking(index: HistoryIndex, asks: Array, length: int) -> HistoryIndex:
    """The index in which events that only ask are in no history but their own.

    They have histories of their own at the end of `order`: at most `length` events, themselves included.

    Args:
        index: Of n events, in whose `order` each of them occurs.
        asks: (e,) which events only ask, at least the n events that the index has positions for.
    """
    real = ~asks[index.order]
    count = np.concatenate([[0], np.cumsum(real)])  # events that stay, before each index of `order`
    stays, position, start = np.flatnonzero(real), count[index.position], count[index.start]
    asking = np.flatnonzero(asks[: len(position)])
    first = np.maximum(start[asking], position[asking] - (length - 1))
    n_before = position[asking] - first
    begin = len(stays) + np.cumsum(n_before + 1) - (n_before + 1)
    which = np.repeat(np.arange(len(asking)), n_before + 1)
    offset = np.arange(len(which)) - np.repeat(begin - len(stays), n_before + 1)
    own = np.asarray(index.position)[asking][which]  # places in the old `order`
    if len(stays):
        earlier = stays[np.minimum(first[which] + offset, len(stays) - 1)]
        own = np.where(offset < n_before[which], earlier, own)
    position[asking], start[asking] = begin + n_before, begin
    places = np.concatenate([stays, own])
    role = None if index.role is None else index.role[places]
    return replace(index, order=np.asarray(index.order)[places], position=position, start=start, role=role)


def known_too_late(label: Array, known_at_seconds: Array, begins_seconds: float) -> NDArray[np.bool_]:
    """(e,) whether an outcome becomes known only after `begins_seconds`, the start of the test range.

    Outcomes without a time (+inf) do not count: often only frauds have one.
    """
    late: NDArray[np.bool_] = (label >= 0) & np.isfinite(known_at_seconds) & (known_at_seconds > begins_seconds)
    return late


def history_lengths(index: HistoryIndex, rows: Array, length: int) -> Array:
    """(B,) the number of events in the histories of `rows`, the current one included, at most `length`."""
    lengths: Array = np.minimum(index.position[rows] - index.start[rows] + 1, length)
    return lengths


def gather(
    events: EventArrays,
    index: HistoryIndex,
    rows: Array,
    length: int,
    *,
    trim: bool = False,
    variation: HistoryAugmentation | None = None,
) -> HistoryArrays:
    """Gather the histories of the events `rows` (B,), at most `length` events each, the current one included.

    Args:
        trim: L is the longest history of the batch instead of `length`: the same result for less work.
        variation: In training only, the augmentation of the B payments. Hidden events leave padding between others.
    """
    rows = np.asarray(rows)
    lengths = history_lengths(index, rows, length)
    width = int(lengths.max(initial=1)) if trim else length
    offset = np.arange(1 - width, 1)
    padding = offset < (1 - lengths)[:, None]
    slot = np.where(padding, index.position[rows][:, None], index.position[rows][:, None] + offset)
    event = np.take(index.order, slot)
    now = events.time_seconds[rows][:, None]
    factor = None
    if variation is not None:
        padding[:, :-1] |= ~variation.keep_mask(event[:, :-1])
        event = np.where(padding, event[:, -1:], event)
        factor = variation.delay_factor[:, None]
    same_key = _same_keys(events, index, slot, event) & ~padding[..., None]
    return _with_roles(index, slot, _read(events, event, padding, now, same_key, factor))


def _same_keys(events: EventArrays, index: HistoryIndex, slot: Array, event: Array) -> NDArray[np.bool_]:
    """(B, L, K) whether the events at `slot` (B, L) have the keys of the last one; False where it has none."""
    columns = () if index.compared is None else index.compared.columns
    same = np.zeros((*event.shape, len(columns)), np.bool_)
    for at, column in enumerate(columns):
        if column is None:
            continue
        assert events.tokens is not None
        if isinstance(column, tuple):  # of an event with the same key in both columns, the first
            assert index.role is not None
            key = events.tokens[event, np.where(np.take(index.role, slot) == 0, column[1], column[0])]
        else:
            key = events.tokens[event, column]
        same[..., at] = (key == key[:, -1:]) & (key != MISSING_TOKEN)
    return same


def _with_roles(index: HistoryIndex, slot: Array, arrays: HistoryArrays) -> HistoryArrays:
    """The arrays with the role of each event in this history as a categorical feature, where it has roles."""
    if index.role is None:
        return arrays
    if index.encoding is None:
        raise ValueError("a history with roles needs to know how they are encoded (got encoding=None)")
    rows = np.take(index.role, slot).astype(np.int32) + np.int32(index.encoding.first_row)
    arrays.categorical[..., index.encoding.column] = np.where(arrays.padding, 0, rows)
    return arrays


def _read(
    events: EventArrays,
    event: Array,
    padding: Array,
    now: Array,
    same_key: Array,
    delay_factor: Array | None = None,
) -> HistoryArrays:
    """Read the values of `event` (B, L) as seen at `now` (B, 1). Padding refers to the current event and is zeroed
    here.
    """
    visible = ~padding
    categorical = np.take(events.categorical, event, axis=0)
    numerical = np.take(events.numerical, event, axis=0)
    categorical *= visible[..., None]
    numerical *= visible[..., None]
    happened, known_at = np.take(events.time_seconds, event), np.take(events.known_at_seconds, event)
    since = now - happened
    age = np.minimum(since, events.age_cap_seconds).astype(np.float32)
    # differences of times are exact, so a factor of 1 changes nothing
    known = known_at <= now if delay_factor is None else delay_factor * (known_at - happened) <= since
    outcome = np.where(known, np.take(events.label, event) + np.int8(GENUINE), np.int8(UNKNOWN_OUTCOME))
    # A delay of zero would let the current event see its own label.
    outcome[:, -1] = UNKNOWN_OUTCOME
    outcome *= visible
    return HistoryArrays(categorical, numerical, age, padding, outcome, same_key)
