"""Sums, maxima and counts along many short histories at once: the NumPy kernel under the automatic aggregates.

A `GroupedEvents` has m positions in complete blocks: key after key, each key's events in time order. Prefix sums restart
with each block, so a value depends, to the bit, only on earlier positions of its block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.history import HistoryIndex

Array = NDArray[Any]

LONG_BLOCK = 4096
"""Blocks of at least this length are summed one by one: they are few, and padding them would cost memory."""


@dataclass(frozen=True)
class GroupedEvents:
    """m positions of complete blocks. All arrays (m,) int64; positions are counted from the first of these blocks."""

    event: Array
    """Row of the event in the store; ascending within a block."""
    rank: Array
    """Number of the position's block: 0, 1, …"""
    first: Array
    """First position of the block."""
    end: Array
    """First position after the block."""
    n_events: int
    """Events in the store."""

    def __len__(self) -> int:
        return len(self.event)

    @cached_property
    def place(self) -> Array:
        """(m,) 0 … m - 1."""
        return np.arange(len(self.event))

    @cached_property
    def key(self) -> Array:
        """(m,) ascending over all positions: by block, then by row."""
        return self.rank * (self.n_events + 1) + self.event

    def first_at(self, places: Array, row: Array) -> Array:
        """In the block of each of `places`, the first position whose event has a row >= `row`, or the block's end."""
        return np.searchsorted(self.key, self.rank[places] * (self.n_events + 1) + row)

    def counts_before(self, flag: Array) -> Array:
        """(m,) how many earlier positions of the same block have `flag` (m,) set."""
        before = np.cumsum(flag, dtype=np.int64) - flag
        return before - before[self.first]

    def sums_before(self, values: Array) -> Array:
        """(m,) float64: sum of `values` over the earlier positions of the same block."""
        total = self._running_sums(values)
        before = np.empty_like(total)
        before[1:] = total[:-1]
        before[self.first] = 0.0
        return before

    def _running_sums(self, values: Array) -> Array:
        """(m,) prefix sums that restart with each block, summed in order: no later value can change an earlier sum."""
        total = np.array(values, dtype=np.float64)
        starts = np.flatnonzero(self.first == self.place)
        lengths = self.end[starts] - starts
        for at in np.flatnonzero(lengths >= LONG_BLOCK):
            one = slice(starts[at], starts[at] + lengths[at])
            np.cumsum(total[one], out=total[one])
        # Blocks of similar length are padded to a rectangle: at most twice the cells, and one cumsum for all of them.
        size = np.frexp(lengths)[1]
        for level in np.unique(size[(lengths > 1) & (lengths < LONG_BLOCK)]):
            of_size = size == level
            width = int(lengths[of_size].max())
            cells = starts[of_size][:, None] + np.arange(width)
            inside = np.arange(width) < lengths[of_size][:, None]
            sums = np.cumsum(total[np.where(inside, cells, 0)], axis=1)
            total[cells[inside]] = sums[inside]
        return total

    def maxima_since(self, values: Array, low: Array) -> Array:
        """(m,) maximum of `values` over the positions from `low` up to the current one, which is excluded; -inf if empty.

        A sparse table with one level in memory at a time: two overlapping runs of 2^k cover any range.
        """
        best = np.full(len(values), -np.inf)
        width = self.place - low
        level = np.frexp(width)[1] - 1
        runs = np.array(values, dtype=np.float64)
        for k in range(int(level.max(initial=-1)) + 1):
            at = np.flatnonzero(level == k)
            best[at] = np.maximum(runs[low[at]], runs[at - 2**k])
            if len(runs) > 2**k:
                runs[: -(2**k)] = np.maximum(runs[: -(2**k)], runs[2**k :])
        return best

    def last_event(self, places: Array, becomes_visible: Array) -> Array:
        """(m,) the latest visible row of those at `places`, each visible from `becomes_visible` on; -1 for none."""
        seen = np.zeros(len(self) + 1, np.int64)
        np.maximum.at(seen, becomes_visible, self.key[places] + 1)
        # Keys of later blocks are greater, so one running maximum serves all blocks: a lower one is another block's.
        latest = np.maximum.accumulate(seen[:-1]) - 1 - self.rank * (self.n_events + 1)
        visible: Array = np.maximum(latest, -1)
        return visible

    def counts_between(self, becomes_visible: Array, ceases: Array) -> Array:
        """(m,) how many events are visible; each is visible at the positions [becomes_visible, ceases) of its block."""
        n = len(self) + 1
        change = np.bincount(becomes_visible, minlength=n) - np.bincount(ceases, minlength=n)
        return np.cumsum(change)[:-1]

    def repeats_before(self, code: Array) -> Array:
        """(m,) how many earlier positions of the same block have the same `code` (m,) of non-negative integers."""
        group = self.rank * (int(code.max(initial=0)) + 1) + code
        by_group = np.argsort(group, kind="stable")
        is_first = np.ones(len(group), bool)
        np.not_equal(group[by_group][1:], group[by_group][:-1], out=is_first[1:])
        nth = np.arange(len(group))
        repeats = np.empty(len(group), np.int64)
        repeats[by_group] = nth - np.maximum.accumulate(np.where(is_first, nth, 0))
        return repeats


def blocks_of(index: HistoryIndex, places: int) -> Iterator[GroupedEvents]:
    """Cut a history index into runs of complete blocks, each about `places` long (longer only if a single key is)."""
    n = len(index.order)
    order = np.asarray(index.order)
    starts = np.flatnonzero(np.asarray(index.start)[order] == np.arange(n))
    edges = np.append(starts, n)
    low = 0
    while low < len(starts):
        high = max(low + 1, int(np.searchsorted(edges, edges[low] + places, side="right")) - 1)
        yield _run(order, edges[low : high + 1], n)
        low = high


def slices_of(index: HistoryIndex, rows: Array, place: Array, places: int) -> Iterator[tuple[GroupedEvents, Array]]:
    """Yield each of `rows` (R,) with the events it sees as a separate block, about `places` at a time; and which rows.

    place: (n,) the position of each event of the store in time order; it replaces the row number in the blocks.
    """
    last = np.asarray(index.position)[rows]
    first = np.asarray(index.start)[rows]
    edges = np.concatenate([[0], np.cumsum(last - first + 1)])
    low = 0
    while low < len(rows):
        high = max(low + 1, int(np.searchsorted(edges, edges[low] + places, side="right")) - 1)
        inner = edges[low : high + 1] - edges[low]
        rank = np.repeat(np.arange(high - low), np.diff(inner))
        slot = np.arange(inner[-1]) - inner[rank] + first[low:high][rank]
        event = place[np.take(index.order, slot)]
        in_time = np.lexsort((event, rank))  # events of the same time may have any order in an inline history
        start = inner[rank]
        n = len(place)
        yield (
            GroupedEvents(event=event[in_time], rank=rank, first=start, end=inner[rank + 1], n_events=n),
            np.arange(low, high),
        )
        low = high


def empty_blocks(n_events: int) -> GroupedEvents:
    """No positions: the aggregates of it give the names of the columns."""
    none = np.empty(0, np.int64)
    return GroupedEvents(event=none, rank=none, first=none, end=none, n_events=n_events)


def _run(order: Array, edges: Array, n_events: int) -> GroupedEvents:
    """The blocks between `edges` (b + 1,)."""
    lengths = np.diff(edges)
    rank = np.repeat(np.arange(len(lengths)), lengths)
    first = np.repeat(edges[:-1] - edges[0], lengths)
    event = order[edges[0] : edges[-1]].astype(np.int64, copy=False)
    return GroupedEvents(event=event, rank=rank, first=first, end=first + lengths[rank], n_events=n_events)
