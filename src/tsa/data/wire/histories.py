"""The earlier payments that wire rows tell of: which values belong together, when they were, and which of them are seen.

One piece of code for many rows and for a single one. It knows the layout of rows and their pieces; it does not know what
values mean, nor an encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.history import is_retained
from tsa.data.spelling import UNIT_SCALE
from tsa.data.wire.fields import HistoryFields, Layout, Part
from tsa.data.wire.problems import Problems
from tsa.data.wire.tokens import Index, Tokens

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """R rows cut into pieces: the K history fields of each row stand side by side."""

    layout: Layout
    tokens: Tokens
    missing: NDArray[np.bool_]
    """(T,) which pieces are missing markers."""
    numbers: Floats
    """(T,) what a piece says as a number, of those that were read: all times at least. NaN: none; infinite: no number."""
    now: Floats
    """(R,) the current payments' times in epoch seconds."""

    @cached_property
    def first(self) -> Index:
        """(R, K) the first piece of each field."""
        return self.tokens.first[:-1].reshape(len(self.now), -1)

    @cached_property
    def count(self) -> Index:
        """(R, K) the pieces of each field."""
        return np.diff(self.tokens.first).reshape(len(self.now), -1)

    def text(self, row: int, field: int) -> bytes:
        """A field as it stands."""
        piece, data = int(self.first[row, field]), self.tokens
        last = piece + int(self.count[row, field]) - 1
        return data.data[int(data.start[piece]) : int(data.start[last] + data.length[last])]


def pieces_of(tokens: Tokens, fields: Index) -> Index:
    """All pieces of some of the texts that were cut, `fields` (f,)."""
    count = tokens.first[fields + 1] - tokens.first[fields]
    return np.repeat(tokens.first[fields] - np.cumsum(count) + count, count) + np.arange(int(count.sum()))


@dataclass(frozen=True)
class Events:
    """E earlier payments of one history of all rows, row after row, each row's in time order."""

    row: Index
    """(E,) the row that tells of it."""
    places: tuple[Index, ...]
    """Per part of the history (E,): its place among the part's values."""
    time_seconds: Floats
    """(E,)"""

    def take(self, kept: Any) -> Events:
        """Those of a mask, of positions or of a slice."""
        if isinstance(kept, np.ndarray) and kept.dtype.kind == "b" and kept.all():
            return self
        return Events(self.row[kept], tuple(place[kept] for place in self.places), self.time_seconds[kept])

    def tokens(self, rows: Rows, history: HistoryFields) -> list[Index]:
        """Per part (E, features): the piece with each feature's value."""
        return [
            rows.first[self.row, part.first : part.time] + place[:, None]
            for part, place in zip(history.parts, self.places, strict=True)
        ]


def seen_events(rows: Rows, history: HistoryFields, problems: Problems) -> Events:
    """What the rows' history holds; rows that break a rule are noted, what is returned of them means nothing."""
    held = [_held(rows, part, problems) for part in history.parts]
    events = _told(rows, history.parts[0], held[0], problems)
    if len(history.parts) > 1:
        events = _joined(rows, history.parts, events, held, problems)
    _note_later(rows, history, events, problems)
    events = events.take(is_retained(events.time_seconds, rows.now[events.row], rows.layout.market.retention_seconds))
    return _latest(_in_order(events), len(rows.now), history.length - 1)


def _held(rows: Rows, part: Part, problems: Problems) -> Index:
    """(R,) how many payments a part tells of: none where its ids are a missing marker."""
    held = rows.count[:, part.id]
    held = np.where((held == 1) & rows.missing[rows.first[:, part.id]], 0, held)
    counts = rows.count[:, part.first : part.id]
    wrong = (counts != held[:, None]) & (held > 0)[:, None]
    if wrong.any():
        where = zip(*(found.tolist() for found in np.nonzero(wrong)), strict=True)
        found = ((row, part.fields[at], f"{counts[row, at]} values for {held[row]} ids") for row, at in where)
        problems.note("history_length", found)
        held[wrong.any(1)] = 0
    return held


def _told(rows: Rows, part: Part, held: Index, problems: Problems) -> Events:
    """All payments of one part, as the row gives them."""
    row = np.repeat(np.arange(len(held)), held)
    place = np.arange(len(row)) - np.repeat(np.cumsum(held) - held, held)
    token = rows.first[row, part.time] + place
    event, times = rows.layout.market.event, rows.numbers[token]
    if event.time in rows.layout.wire.defaults:
        times[rows.missing[token]] = float(rows.layout.wire.defaults[event.time])
    if not np.isfinite(times).all():
        for rule, broken in (("missing_time", np.isnan(times)), ("bad_time", np.isinf(times))):
            at = np.flatnonzero(broken)
            field = part.fields[part.time - part.first]
            shown = zip(row[at].tolist(), rows.tokens.texts(token[at]), strict=True)
            problems.note(rule, ((which, field, value) for which, value in shown))
    return Events(row, (place,), times / UNIT_SCALE[event.time_unit or "s"])


def _joined(rows: Rows, parts: tuple[Part, ...], left: Events, held: Sequence[Index], problems: Problems) -> Events:
    """The payments that both parts tell of. Mostly ids and times stand there twice to the letter: nothing is to be done."""
    one, other = parts
    alike = [
        rows.text(row, one.id) == rows.text(row, other.id) and rows.text(row, one.time) == rows.text(row, other.time)
        for row in range(len(rows.now))
    ]
    both = held[0] == held[1]
    both &= alike
    if both.all():
        return Events(left.row, (*left.places, *left.places), left.time_seconds)
    right = _told(rows, other, held[1], problems)
    ids = [rows.tokens.hashes(rows.first[e.row, p.id] + e.places[0]) for e, p in ((left, one), (right, other))]
    unlike = held[0] != held[1]
    kept = [~unlike[events.row] for events in (left, right)]
    unlike[left.row[kept[0]][ids[0][kept[0]] != ids[1][kept[1]]]] = True
    at = [np.flatnonzero(~unlike[events.row]) for events in (left, right)]
    if rows.layout.wire.mismatched == "refuse":
        field = other.fields[other.id - other.first]
        shown = ((row, field, f"{held[1][row]} ids beside {held[0][row]}") for row in np.flatnonzero(unlike).tolist())
        problems.note("mismatched_history", shown)
    elif rows.layout.wire.mismatched == "align":
        matched = _aligned(rows, parts, left, right, ids, unlike)
        at = [np.concatenate(places) for places in zip(at, matched, strict=True)]
    return _paired(parts, left.take(at[0]), right.take(at[1]), problems)


def _aligned(
    rows: Rows, parts: tuple[Part, ...], left: Events, right: Events, ids: list[Any], unlike: NDArray[np.bool_]
) -> tuple[Index, Index]:
    """Of the rows `unlike`, which payments of the left part are which of the right one: by id, a repeated id in its turn."""
    frames = []
    for events, part, hashes in zip((left, right), parts, ids, strict=True):
        at = np.flatnonzero(unlike[events.row])
        at = at[~rows.missing[rows.first[events.row[at], part.id] + events.places[0][at]]]
        frame = pl.DataFrame({"row": events.row[at], "id": hashes[at], "at": at})
        frames.append(frame.with_columns(turn=pl.int_range(pl.len()).over("row", "id")))
    both = frames[0].join(frames[1], on=["row", "id", "turn"], suffix="_right").sort("at")
    return both["at"].to_numpy(), both["at_right"].to_numpy()


def _paired(parts: tuple[Part, ...], left: Events, right: Events, problems: Problems) -> Events:
    """The same payments, as both parts tell of them; their times must agree."""
    differ = np.flatnonzero(left.time_seconds != right.time_seconds)
    if len(differ):
        field = parts[1].fields[parts[1].time - parts[1].first]
        shown = zip(left.row[differ].tolist(), right.time_seconds[differ], left.time_seconds[differ], strict=True)
        problems.note("time_mismatch", ((row, field, f"{b:.15g} beside {a:.15g}") for row, b, a in shown))
    return Events(left.row, (*left.places, *right.places), left.time_seconds)


def _note_later(rows: Rows, history: HistoryFields, events: Events, problems: Problems) -> None:
    later = np.flatnonzero(events.time_seconds > rows.now[events.row])
    if len(later):
        part = history.parts[0]
        field = part.fields[part.time - part.first]
        shown = zip(events.row[later].tolist(), events.time_seconds[later], rows.now[events.row[later]], strict=True)
        problems.note("negative_age", ((row, field, f"{time:.15g} beside {now:.15g}") for row, time, now in shown))


def _in_order(events: Events) -> Events:
    """By row, then by time, ties as they stood; rows mostly come that way."""
    row, time = events.row, events.time_seconds
    sound = (row[1:] > row[:-1]) | ((row[1:] == row[:-1]) & (time[1:] >= time[:-1]))
    return events if sound.all() else events.take(np.lexsort((time, row)))


def _latest(events: Events, n_rows: int, most: int) -> Events:
    """At most so many events per row, the latest ones."""
    count = np.bincount(events.row, minlength=n_rows)
    if count.max(initial=0) <= most:
        return events
    return events.take(np.repeat(np.cumsum(count), count) - np.arange(len(events.row)) <= most)
