"""Wire rows split into pieces, and their earlier payments as indices of pieces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.spelling import UNIT_SCALE
from tsa.data.wire.layout import FieldLayout, FieldPart, HistoryFields
from tsa.data.wire.row_errors import RowErrors
from tsa.data.wire.tokens import Index, Tokens

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HistoryRows:
    """R rows split into pieces. The K history fields of each row are consecutive."""

    layout: FieldLayout
    tokens: Tokens
    missing: NDArray[np.bool_]
    """(T,) which pieces are missing markers."""
    numbers: Floats
    """(T,) the numbers of the pieces parsed so far, at least all times. NaN: missing; infinite: not a number."""
    now: Floats
    """(R,) the current payments' times in epoch seconds."""

    @cached_property
    def first(self) -> Index:
        """(R, K) the first piece of each field that is used."""
        return self._extent[0]

    @cached_property
    def count(self) -> Index:
        """(R, K) the number of pieces of each field that are used."""
        return self._extent[1]

    @cached_property
    def _piece_counts(self) -> Index:
        """(R, K) the number of pieces of each field, including unused ones."""
        return np.diff(self.tokens.first).reshape(len(self.now), -1)

    @cached_property
    def _extent(self) -> tuple[Index, Index]:
        """First piece and count of each field. If batches of fields differ in length, only what all batches have."""
        first, count = self.tokens.first[:-1].reshape(len(self.now), -1), self._piece_counts
        for history in self.layout.histories:
            if (unlike := self.unlike_batches(history)).any():
                first, count = first.copy(), count.copy()
                min_count = count[:, list(history.batches)].min(1)
                over = np.where(unlike[:, None], np.maximum(count[:, history.fields] - min_count[:, None], 0), 0)
                first[:, history.fields] += over
                count[:, history.fields] -= over
        return first, count

    def batch_counts(self, history: HistoryFields) -> Index:
        """(R, batches) the number of values in the field of each batch."""
        return self._piece_counts[:, list(history.batches)]

    def unlike_batches(self, history: HistoryFields) -> NDArray[np.bool_]:
        """(R,) whether the history's batches have different numbers of values."""
        counts = self.batch_counts(history)
        unlike: NDArray[np.bool_] = (counts != counts[:, :1]).any(1)
        return unlike

    def is_marker(self, field: int) -> NDArray[np.bool_]:
        """(R,) whether a field consists of a missing marker only."""
        marked: NDArray[np.bool_] = (self._piece_counts[:, field] == 1) & self.missing[
            self.tokens.first[:-1].reshape(len(self.now), -1)[:, field]
        ]
        return marked

    def text(self, row: int, field: int) -> bytes:
        """A field as it is in the row."""
        piece, data = int(self.first[row, field]), self.tokens
        last = piece + int(self.count[row, field]) - 1
        return data.data[int(data.start[piece]) : int(data.start[last] + data.length[last])]


def pieces_of(tokens: Tokens, fields: Index) -> Index:
    """All pieces of some of the split texts, `fields` (f,)."""
    count = tokens.first[fields + 1] - tokens.first[fields]
    return np.repeat(tokens.first[fields] - np.cumsum(count) + count, count) + np.arange(int(count.sum()))


@dataclass(frozen=True)
class Events:
    """E earlier payments of one history: row after row, in time order within each row."""

    row: Index
    """(E,) the row that contains it."""
    places: tuple[Index, ...]
    """Per part of the history (E,): its index among the part's values."""
    time_seconds: Floats
    """(E,)"""

    def take(self, chosen: Any) -> Events:
        """The events selected by a mask, by positions or by a slice."""
        if isinstance(chosen, np.ndarray) and chosen.dtype.kind == "b" and chosen.all():
            return self
        return Events(self.row[chosen], tuple(place[chosen] for place in self.places), self.time_seconds[chosen])

    def tokens(self, rows: HistoryRows, history: HistoryFields) -> list[Index]:
        """Per part (E, features): the piece with each feature's value."""
        return [
            rows.first[self.row, part.first : part.time] + place[:, None]
            for part, place in zip(history.parts, self.places, strict=True)
        ]


def places_of(counts: Index) -> tuple[Index, Index]:
    """For `counts` (R,) payments per row: each payment's row, and its index within the row."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def times_of(rows: HistoryRows, part: FieldPart, row: Index, place: Index, problems: RowErrors) -> Floats:
    """(E,) epoch seconds of the payments of a part. Payments without a time are noted."""
    token = rows.first[row, part.time] + place
    event, times = rows.layout.market.event, rows.numbers[token]
    if event.time in rows.layout.wire.defaults:
        times[rows.missing[token]] = float(rows.layout.wire.defaults[event.time])
    if not np.isfinite(times).all():
        for rule, broken in (("missing_time", np.isnan(times)), ("bad_time", np.isinf(times))):
            at = np.flatnonzero(broken)
            field = part.fields[part.time - part.first]
            examples = zip(row[at].tolist(), rows.tokens.texts(token[at]), strict=True)
            problems.note(rule, ((which, field, value) for which, value in examples))
    seconds: Floats = times / UNIT_SCALE[event.time_unit or "s"]
    return seconds
