"""The earlier payments of a store of wire rows: which of them its histories show, in which order, and their values.

They stand behind the n payments of the store, in time order, each once. It does not know files of rows, nor rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.vocabulary import encode_calendar
from tsa.data.wire.event_pool import EventPool
from tsa.data.wire.tokens import Index
from tsa.data.wire.values import Values

CHUNK_ROWS = 100_000
"""Payments whose histories are held in memory at a time."""


class Segments:
    """Of one history: for each row of the files, the numbers of the payments that it tells of, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb+")
        self._counts: list[Index] = [np.empty(0, np.int64)]

    def add(self, counts: Index, numbers: Index) -> None:
        """Some further rows: how many payments each tells of (r,), and which (sum of counts,)."""
        self._counts.append(counts)
        self._file.write(numbers.astype(np.int64).data.cast("B") if len(numbers) else b"")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def read(self) -> tuple[Index, Index]:
        """(rows,) counts and (their sum,) numbers, as they stand in the file."""
        counts = np.concatenate(self._counts)
        self._file.flush()
        total = int(counts.sum())
        numbers = np.memmap(self._file, np.int64, "r", shape=(total,)) if total else np.empty(0, np.int64)
        return counts, numbers


class EmbeddedEvents:
    """Of one history: which payments of the pool the n payments of a store tell of."""

    def __init__(self, segments: Segments, rows: Index) -> None:
        counts, self._numbers = segments.read()
        self._begin = (np.cumsum(counts) - counts)[rows]
        self.held: Index = counts[rows]
        """(n,) how many."""

    def pieces(self) -> Iterator[tuple[slice, Index]]:
        """Some payments at a time, and the pool's numbers of what they tell of, one after the other."""
        for low in range(0, len(self.held), CHUNK_ROWS):
            rows = slice(low, low + CHUNK_ROWS)
            held = self.held[rows]
            shift = self._begin[rows] - np.cumsum(held) + held
            yield rows, np.take(self._numbers, np.arange(int(held.sum())) + np.repeat(shift, held))


@dataclass(frozen=True)
class EmbeddedHistoryStore:
    """What n payments in store order tell of earlier ones."""

    values: Values
    pool: EventPool
    segments: dict[str, Segments]
    """By history."""
    rows: Index
    """(n,) which row of the files each payment was."""

    @cached_property
    def _told(self) -> dict[str, EmbeddedEvents]:
        return {name: EmbeddedEvents(segments, self.rows) for name, segments in self.segments.items()}

    @cached_property
    def _order(self) -> Index:
        """(P,) the pool's numbers of the payments shown, in time order; of the same time, by key."""
        shown = np.zeros(len(self.pool), bool)
        for told in self._told.values():
            for _, numbers in told.pieces():
                shown[numbers] = True
        found = np.flatnonzero(shown)
        time, key = self.pool.time_seconds()[found], self.pool.keys()[found]
        return found[np.lexsort((key, time))]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def time_seconds(self) -> NDArray[np.float64]:
        """(P,) rising."""
        return self.pool.time_seconds()[self._order]

    def slots(self, history: str) -> tuple[Index, Index]:
        """(n,) `position` and `start` of each payment in the history's `order`."""
        held = self._told[history].held
        position = np.cumsum(held + 1) - 1
        return position, position - held

    def order(self, history: str) -> Iterator[Index]:
        """The history's `order`, some payments at a time: the earlier ones that a payment tells of, then itself."""
        n = len(self.rows)
        place = np.empty(len(self.pool), np.int64)
        place[self._order] = n + np.arange(len(self._order))
        for rows, numbers in self._told[history].pieces():
            held = self._told[history].held[rows]
            order = np.empty(len(held) + len(numbers), np.int64)
            own = np.cumsum(held + 1) - 1
            order[own] = rows.start + np.arange(len(held))
            order[np.delete(np.arange(len(order)), own)] = place[numbers]
            yield order

    def encoded(self, encoder: Encoder, rows: int) -> Iterator[dict[str, NDArray[Any]]]:
        """`categorical` (m, C) and `numerical` (m, F) of the earlier payments, so many at a time."""
        codes, numbers = self.pool.values()
        tables = [self.values.rows_of(t, encoder, at) for at, t in enumerate(self.pool.spelled.texts)]
        first = np.cumsum([0, *map(len, tables)])[:-1]
        table = np.concatenate([np.empty(0, np.int32), *tables])
        for low in range(0, len(self), rows):
            chosen = self._order[low : low + rows]
            known = table[np.asarray(codes[chosen]) + first]
            times = self.pool.time_seconds()[chosen]
            calendar = [encode_calendar(vocabulary, times) for vocabulary in encoder.calendar_vocabularies]
            yield {
                "categorical": np.column_stack([known, *calendar]).astype(np.int32),
                "numerical": encoder.numerical(self._frame(np.asarray(numbers[chosen]))),
            }

    def _frame(self, numbers: NDArray[np.float64]) -> pl.DataFrame:
        columns = {}
        for at, name in enumerate(self.values.layout.numerical):
            column, default = numbers[:, at], self.values.default(name)
            columns[name] = np.where(np.isnan(column), default, column)
        return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(numbers))
