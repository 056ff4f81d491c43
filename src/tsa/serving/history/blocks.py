"""History blocks: the encoded events of one key, stored as one byte string of flat arrays that need no parsing.

A block has the events that a payment sees, and recent ones that a late payment may come before.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.online.encoded import EVENT_ARRAYS, tie_break_key
from tsa.data.online.histories import HistoryEvents
from tsa.errors import HistoryError
from tsa.times import DAY_SECONDS

MARK_BYTES = 8
TIE_EVENTS = 4096
"""Largest number of events with the same time in a block."""
_MAGIC = b"tsa2"
_HEAD = struct.Struct(f"<4sIHHHHd{MARK_BYTES}s")
_TYPES: dict[str, np.dtype[Any]] = {
    "time_seconds": np.dtype("<f8"),
    "known_at_seconds": np.dtype("<f8"),
    "categorical": np.dtype("<i4"),
    "numerical": np.dtype("<f4"),
    "tokens": np.dtype("<u4"),
    "raw_numerical": np.dtype("<f4"),
    "label": np.dtype("i1"),
}
_WIDE = ("categorical", "numerical", "tokens", "raw_numerical")
"""Arrays with several columns."""


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """Which events a block keeps: those of the last `late_seconds`, and the `length - 1` events before them.

    So a payment at most `late_seconds` older than the newest event of its key sees its complete history, unless more than
    `late_events` events have come after it. Payments at the same time are ordered by id, so the last to arrive may be the
    first: all events at the newest time are stored, up to `tie_events`, and the `length - 1` before them.
    """

    length: int
    """Events that a payment sees, including itself."""
    late_seconds: float
    late_events: int
    tie_events: int = TIE_EVENTS


@dataclass(frozen=True, kw_only=True, eq=False)
class HistoryBlock:
    """k events of one key in (time, id) order."""

    events: HistoryEvents
    encoder_hash: bytes
    """Hash of the encoder that encoded the events."""
    complete_after_seconds: float = -math.inf
    """A payment after this time sees its complete history; up to this time, events may be missing."""

    def __len__(self) -> int:
        return len(self.events)

    @property
    def newest(self) -> tuple[float, tuple[int, str]]:
        """(time, id) sort key of the last event. The block must not be empty."""
        return float(self.events.time_seconds[-1]), tie_break_key(self.events.ids[-1])

    def pack(self) -> bytes:
        """Encode as bytes."""
        events = self.events
        widths = [getattr(events, name).shape[1] for name in _WIDE]
        head = _HEAD.pack(_MAGIC, len(events), *widths, self.complete_after_seconds, self.encoder_hash)
        arrays = (getattr(events, name).astype(dtype, copy=False).tobytes() for name, dtype in _TYPES.items())
        return b"".join((head, *arrays, orjson.dumps(events.ids)))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Decode a block; its arrays are read-only views of `data`. Raises HistoryError if the bytes are invalid."""
        try:
            magic, k, *widths, complete_after, mark = _HEAD.unpack_from(data)
            if magic != _MAGIC:
                raise HistoryError(f"a block must begin with {_MAGIC!r} (got {magic!r})")
            at, arrays, columns = _HEAD.size, {}, dict(zip(_WIDE, widths, strict=True))
            for name, dtype in _TYPES.items():
                shape = (k, columns[name]) if name in columns else (k,)
                count = math.prod(shape)
                arrays[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
                at += count * dtype.itemsize
            ids = tuple(orjson.loads(memoryview(data)[at:]))
        except (struct.error, ValueError) as error:
            raise HistoryError(f"a block of {len(data)} bytes cannot be read: {error}") from error
        return cls(events=HistoryEvents(ids=ids, **arrays), encoder_hash=mark, complete_after_seconds=complete_after)

    def with_events(self, more: HistoryEvents, keep: RetentionPolicy) -> HistoryBlock:
        """The block with more events, without those that the policy no longer keeps."""
        events = merge_events(self.events, more)
        times, older, n = events.time_seconds, keep.length - 1, len(events)
        late, tied = np.searchsorted(times, times[-1:] - [keep.late_seconds, 0.0]).tolist() if n else (0, 0)
        first = min(max(late, n - keep.late_events), tied)
        first = max(0, first - older, n - keep.tie_events - older)
        if not first:
            return replace(self, events=events)
        complete_after = max(self.complete_after_seconds, float(times[first + older - 1]))
        return replace(self, events=select_events(events, slice(first, None)), complete_after_seconds=complete_after)

    def drop_events(self, removed: Sequence[bool]) -> HistoryBlock:
        """The block without some events. removed: (k,) true for events to remove."""
        return replace(self, events=select_events(self.events, np.flatnonzero(~np.asarray(removed, bool))))

    def with_outcome(self, id_: str, label: int, known_at_seconds: float) -> HistoryBlock:
        """The block with the outcome of one of its events."""
        at = self.events.ids.index(id_)
        labels, known = self.events.label.copy(), self.events.known_at_seconds.copy()
        labels[at], known[at] = label, known_at_seconds
        return replace(self, events=replace(self.events, label=labels, known_at_seconds=known))

    def with_encoding(self, mark: bytes, values: Mapping[str, NDArray[Any]]) -> HistoryBlock:
        """The same events in another encoding: new arrays by name."""
        changes: dict[str, Any] = dict(values)
        return replace(self, encoder_hash=mark, events=replace(self.events, **changes))


def select_events(events: HistoryEvents, rows: slice | NDArray[np.int64]) -> HistoryEvents:
    """Some of the events, in the order of `rows`."""
    ids = events.ids[rows] if isinstance(rows, slice) else tuple(events.ids[row] for row in rows)
    return HistoryEvents(ids=ids, **{name: getattr(events, name)[rows] for name in EVENT_ARRAYS})


def merge_events(first: HistoryEvents, second: HistoryEvents) -> HistoryEvents:
    """The events of both, in (time, id) order."""
    arrays = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in EVENT_ARRAYS}
    both = HistoryEvents(ids=(*first.ids, *second.ids), **arrays)
    if not len(first) or not len(second) or first.time_seconds[-1] < second.time_seconds[0]:
        return both
    times = both.time_seconds.tolist()

    def moment(row: int) -> tuple[float, tuple[int, str]]:
        return times[row], tie_break_key(both.ids[row])

    n = len(first)
    if len(second) == 1:  # the usual case: avoids sorting many events at one time again for each new one
        at = bisect_left(range(n), moment(n), key=moment)
        return select_events(both, np.r_[:at, n, at:n])
    return select_events(both, np.array(sorted(range(len(both)), key=moment), np.int64))


def no_events(like: HistoryEvents) -> HistoryEvents:
    """Empty events with the columns of others."""
    return HistoryEvents(ids=(), **{name: getattr(like, name)[:0] for name in EVENT_ARRAYS})


LATE_SECONDS, LATE_EVENTS = DAY_SECONDS, 256
"""How long, and how many, recent events are stored beyond a history's length if the market sets no `max_late_days`."""


def retention_policies(market: Market, lengths: Mapping[str, int]) -> dict[str, RetentionPolicy]:
    """The retention policy of each history, by name. lengths: events that a payment sees of it, including itself."""
    late_days = None if market.serving is None else market.serving.max_late_days
    late = LATE_SECONDS if late_days is None else late_days * DAY_SECONDS
    return {
        name: RetentionPolicy(length=length, late_seconds=late, late_events=LATE_EVENTS)
        for name, length in lengths.items()
    }
