"""The rows that an encoder is fitted on, in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from tsa.data.workers import HERE, Part, Workers

CHUNK_ROWS, CHUNK_VALUES = 1_000_000, 40_000_000
"""Largest number of rows, and of values, in memory at a time: with hundreds of features, parts have fewer rows."""


class Rows(Protocol):
    """Rows in parts."""

    def each(self, work: Callable[[pl.DataFrame, Any], Any], columns: Sequence[str], wanted: Any) -> Iterator[Any]:
        """The results of `work(frame, wanted)` for each part of the rows, with these columns."""
        ...


@dataclass(frozen=True)
class TrainingRows:
    """Rows that workers read part by part."""

    rows: pl.LazyFrame
    workers: Workers = HERE

    def each(self, work: Callable[[pl.DataFrame, Any], Any], columns: Sequence[str], wanted: Any) -> Iterator[Any]:
        """As `Rows`."""
        n = int(self.rows.select(pl.len()).collect().item())
        shared = _Pass(self.rows, tuple(columns), work, wanted)
        return self.workers.call(_of_part, shared, self.workers.parts(n, part_rows(len(columns))))


@dataclass(frozen=True)
class _Pass:
    """What one pass over the rows needs."""

    rows: pl.LazyFrame
    columns: tuple[str, ...]
    work: Callable[[pl.DataFrame, Any], Any]
    wanted: Any


def _of_part(shared: _Pass, part: Part) -> Any:
    first, last = part
    return shared.work(shared.rows.slice(first, last - first).select(shared.columns).collect(), shared.wanted)


def part_rows(columns: int) -> int:
    """Largest number of rows of a part with so many columns."""
    return min(CHUNK_ROWS, max(1, CHUNK_VALUES // max(columns, 1)))
