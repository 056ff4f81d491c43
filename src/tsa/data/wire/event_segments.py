"""The earlier payments in a store of wire rows: their order in each history, and their encoded values.

They are stored after the store's n payments, in time order, each once.
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
"""Number of payments whose histories are in memory at a time."""


class Segments:
    """For one history: the pool numbers of the earlier payments of each row of the files, stored in a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb+")
        self._counts: list[Index] = [np.empty(0, np.int64)]

    def add(self, counts: Index, numbers: Index) -> None:
        """Append some rows: how many payments each one has (r,), and their numbers (sum of counts,)."""
        self._counts.append(counts)
        self._file.write(numbers.astype(np.int64).data.cast("B") if len(numbers) else b"")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> tuple[Index, Index]:
        """Counts (rows,) and numbers (their sum,), in file order."""
        counts = np.concatenate(self._counts)
        self._file.flush()
        total = int(counts.sum())
        numbers = np.memmap(self._file, np.int64, "r", shape=(total,)) if total else np.empty(0, np.int64)
        return counts, numbers


class EmbeddedEvents:
    """For one history: the pool numbers of the earlier payments of a store's n payments."""

    def __init__(self, segments: Segments, rows: Index) -> None:
        counts, self._numbers = segments.read()
        self._begin = (np.cumsum(counts) - counts)[rows]
        self.counts: Index = counts[rows]
        """(n,) how many."""

    def pieces(self) -> Iterator[tuple[slice, Index]]:
        """Batches of payments, each with the concatenated pool numbers of their earlier payments."""
        for low in range(0, len(self.counts), CHUNK_ROWS):
            rows = slice(low, low + CHUNK_ROWS)
            counts = self.counts[rows]
            shift = self._begin[rows] - np.cumsum(counts) + counts
            yield rows, np.take(self._numbers, np.arange(int(counts.sum())) + np.repeat(shift, counts))


@dataclass(frozen=True)
class EmbeddedHistoryStore:
    """The earlier payments of n payments in store order."""

    values: Values
    pool: EventPool
    segments: dict[str, Segments]
    """By history."""
    rows: Index
    """(n,) the row of the files that each payment came from."""

    @cached_property
    def _by_history(self) -> dict[str, EmbeddedEvents]:
        return {name: EmbeddedEvents(segments, self.rows) for name, segments in self.segments.items()}

    @cached_property
    def _order(self) -> Index:
        """(P,) pool numbers of the visible payments in time order; ties are ordered by key."""
        is_used = np.zeros(len(self.pool), bool)
        for events in self._by_history.values():
            for _, numbers in events.pieces():
                is_used[numbers] = True
        visible = np.flatnonzero(is_used)
        time, key = self.pool.time_seconds()[visible], self.pool.keys()[visible]
        return visible[np.lexsort((key, time))]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def time_seconds(self) -> NDArray[np.float64]:
        """(P,) rising."""
        return self.pool.time_seconds()[self._order]

    def slots(self, history: str) -> tuple[Index, Index]:
        """(n,) `position` and `start` of each payment in the history's `order`."""
        counts = self._by_history[history].counts
        position = np.cumsum(counts + 1) - 1
        return position, position - counts

    def order(self, history: str) -> Iterator[Index]:
        """The history's `order` in batches: the earlier payments of each payment, then the payment itself."""
        n = len(self.rows)
        event_rows = np.empty(len(self.pool), np.int64)
        event_rows[self._order] = n + np.arange(len(self._order))
        for rows, numbers in self._by_history[history].pieces():
            counts = self._by_history[history].counts[rows]
            order = np.empty(len(counts) + len(numbers), np.int64)
            current = np.cumsum(counts + 1) - 1
            order[current] = rows.start + np.arange(len(counts))
            order[np.delete(np.arange(len(order)), current)] = event_rows[numbers]
            yield order

    def encoded(self, encoder: Encoder, rows: int) -> Iterator[dict[str, NDArray[Any]]]:
        """`categorical` (m, C) and `numerical` (m, F) of the earlier payments, `rows` at a time."""
        codes, numbers = self.pool.values()
        tables = [self.values.rows_of(t, encoder, at) for at, t in enumerate(self.pool.interned.texts)]
        first = np.cumsum([0, *map(len, tables)])[:-1]
        table = np.concatenate([np.empty(0, np.int32), *tables])
        for low in range(0, len(self), rows):
            numbers_of_chunk = self._order[low : low + rows]
            known = table[np.asarray(codes[numbers_of_chunk]) + first]
            times = self.pool.time_seconds()[numbers_of_chunk]
            calendar = [encode_calendar(vocabulary, times) for vocabulary in encoder.calendar_vocabularies]
            yield {
                "categorical": np.column_stack([known, *calendar]).astype(np.int32),
                "numerical": encoder.numerical(self._frame(np.asarray(numbers[numbers_of_chunk]))),
            }

    def _frame(self, numbers: NDArray[np.float64]) -> pl.DataFrame:
        columns = {}
        for at, name in enumerate(self.values.layout.numerical):
            column, default = numbers[:, at], self.values.default(name)
            columns[name] = np.where(np.isnan(column), default, column)
        return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(numbers))
