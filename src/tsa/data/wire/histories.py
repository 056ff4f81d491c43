"""Extract the earlier payments of wire rows: match up their values, check their times, and select the visible ones.

The same code serves files and single requests. Start with `visible_events`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.history import within_retention
from tsa.data.wire.layout import FieldPart, HistoryFields
from tsa.data.wire.legacy_histories import legacy_events, note_beyond
from tsa.data.wire.row_errors import RowErrors
from tsa.data.wire.row_pieces import Events, HistoryRows, places_of, times_of
from tsa.data.wire.tokens import Index

MAX_LATER_SECONDS = 6e7
"""How much later than the current payment an earlier one may be, in markets that accept it. The legacy system overflows
beyond."""


def visible_events(rows: HistoryRows, history: HistoryFields, problems: RowErrors) -> Events:
    """The payments in the rows' history. Rows that break a rule are noted; their events are meaningless."""
    legacy = rows.layout.wire.legacy
    counts = _event_counts(rows, history, problems)
    if legacy:
        events = legacy_events(rows, history, counts, problems)
    else:
        events = _part_events(rows, history.parts[0], counts[0], problems)
        if len(history.parts) > 1:
            events = _joined(rows, history.parts, events, counts, problems)
    _note_later(rows, history, events, problems)
    if legacy:
        note_beyond(rows, history, events, problems)
    events = events.take(
        within_retention(events.time_seconds, rows.now[events.row], rows.layout.market.retention_seconds)
    )
    return _latest(_in_order(events), len(rows.now), history.length - 1)


def _event_counts(rows: HistoryRows, history: HistoryFields, problems: RowErrors) -> list[Index]:
    """Per part (R,) how many payments it has: none if the batch's field, or else the field of ids, is a missing marker.
    The legacy system checks only the ids of the first part.
    """
    legacy, parts = rows.layout.wire.legacy, history.parts
    deciding = history.batches or ((parts[0].id,) if legacy else ())
    empty = np.any([rows.is_marker(field) for field in deciding], axis=0) if deciding else np.zeros(len(rows.now), bool)
    if history.batches and legacy and not rows.layout.wire.accepts("unlike_batches"):
        _note_batches(rows, history, ~empty & rows.unlike_batches(history), problems)
    counts_by_part = []
    for part in parts:
        none = empty if legacy else empty | rows.is_marker(part.id)
        event_counts = np.where(none, 0, rows.count[:, part.id])
        value_counts = rows.count[:, part.first : part.id]
        wrong = (value_counts != event_counts[:, None]) & ~none[:, None]
        if wrong.any():
            where = zip(*(places.tolist() for places in np.nonzero(wrong)), strict=True)
            examples = (
                (row, part.fields[at], f"{value_counts[row, at]} values for {event_counts[row]} ids")
                for row, at in where
            )
            problems.note("history_length", examples)
            event_counts[wrong.any(1)] = 0
        counts_by_part.append(event_counts)
    return counts_by_part


def _note_batches(rows: HistoryRows, history: HistoryFields, wrong: NDArray[np.bool_], problems: RowErrors) -> None:
    fields = [field for part in history.parts for field in part.fields]
    name = fields[history.batches[-1] - history.parts[0].first]
    counts = rows.batch_counts(history)
    examples = ((row, name, " and ".join(map(str, counts[row]))) for row in np.flatnonzero(wrong).tolist())
    problems.note("unlike_batches", examples)


def _part_events(rows: HistoryRows, part: FieldPart, counts: Index, problems: RowErrors) -> Events:
    """All payments of one part, in the order of the row."""
    row, place = places_of(counts)
    return Events(row, (place,), times_of(rows, part, row, place, problems))


def _joined(
    rows: HistoryRows, parts: tuple[FieldPart, ...], left: Events, counts: Sequence[Index], problems: RowErrors
) -> Events:
    """The payments that both parts have. Usually ids and times are the same texts in both, and nothing has to be
    matched.
    """
    one, other = parts
    same_texts = [
        rows.text(row, one.id) == rows.text(row, other.id) and rows.text(row, one.time) == rows.text(row, other.time)
        for row in range(len(rows.now))
    ]
    both = counts[0] == counts[1]
    both &= same_texts
    if both.all():
        return Events(left.row, (*left.places, *left.places), left.time_seconds)
    right = _part_events(rows, other, counts[1], problems)
    ids = [rows.tokens.hashes(rows.first[e.row, p.id] + e.places[0]) for e, p in ((left, one), (right, other))]
    unlike = counts[0] != counts[1]
    comparable = [~unlike[events.row] for events in (left, right)]
    unlike[left.row[comparable[0]][ids[0][comparable[0]] != ids[1][comparable[1]]]] = True
    at = [np.flatnonzero(~unlike[events.row]) for events in (left, right)]
    if rows.layout.wire.mismatched == "refuse":
        field = other.fields[other.id - other.first]
        examples = (
            (row, field, f"{counts[1][row]} ids and {counts[0][row]}") for row in np.flatnonzero(unlike).tolist()
        )
        problems.note("mismatched_history", examples)
    elif rows.layout.wire.mismatched == "align":
        matched = _aligned(rows, parts, left, right, ids, unlike)
        at = [np.concatenate(places) for places in zip(at, matched, strict=True)]
    return _paired(parts, left.take(at[0]), right.take(at[1]), problems)


def _aligned(
    rows: HistoryRows,
    parts: tuple[FieldPart, ...],
    left: Events,
    right: Events,
    ids: list[Any],
    unlike: NDArray[np.bool_],
) -> tuple[Index, Index]:
    """For the rows `unlike`, match the payments of the left part to those of the right one by id. A repeated id is
    matched in order.
    """
    frames = []
    for events, part, hashes in zip((left, right), parts, ids, strict=True):
        at = np.flatnonzero(unlike[events.row])
        at = at[~rows.missing[rows.first[events.row[at], part.id] + events.places[0][at]]]
        frame = pl.DataFrame({"row": events.row[at], "id": hashes[at], "at": at})
        frames.append(frame.with_columns(turn=pl.int_range(pl.len()).over("row", "id")))
    both = frames[0].join(frames[1], on=["row", "id", "turn"], suffix="_right").sort("at")
    return both["at"].to_numpy(), both["at_right"].to_numpy()


def _paired(parts: tuple[FieldPart, ...], left: Events, right: Events, problems: RowErrors) -> Events:
    """The same payments from both parts. Their times must agree."""
    differ = np.flatnonzero(left.time_seconds != right.time_seconds)
    if len(differ):
        field = parts[1].fields[parts[1].time - parts[1].first]
        examples = zip(left.row[differ].tolist(), right.time_seconds[differ], left.time_seconds[differ], strict=True)
        problems.note("time_mismatch", ((row, field, f"{b:.15g} and {a:.15g}") for row, b, a in examples))
    return Events(left.row, (*left.places, *right.places), left.time_seconds)


def _note_later(rows: HistoryRows, history: HistoryFields, events: Events, problems: RowErrors) -> None:
    max_seconds = MAX_LATER_SECONDS if rows.layout.wire.accepts("later_payment") else 0.0
    later = np.flatnonzero(events.time_seconds - rows.now[events.row] > max_seconds)
    if len(later):
        part = history.parts[-1 if rows.layout.wire.legacy else 0]
        field = part.fields[part.time - part.first]
        examples = zip(events.row[later].tolist(), events.time_seconds[later], rows.now[events.row[later]], strict=True)
        problems.note("negative_age", ((row, field, f"{time:.15g} and {now:.15g}") for row, time, now in examples))


def _in_order(events: Events) -> Events:
    """By row, then by time; ties keep their order. Rows are usually sorted already."""
    row, time = events.row, events.time_seconds
    ordered = (row[1:] > row[:-1]) | ((row[1:] == row[:-1]) & (time[1:] >= time[:-1]))
    return events if ordered.all() else events.take(np.lexsort((time, row)))


def _latest(events: Events, n_rows: int, max_events: int) -> Events:
    """The latest `max_events` events of each row."""
    count = np.bincount(events.row, minlength=n_rows)
    if count.max(initial=0) <= max_events:
        return events
    return events.take(np.repeat(np.cumsum(count), count) - np.arange(len(events.row)) <= max_events)
