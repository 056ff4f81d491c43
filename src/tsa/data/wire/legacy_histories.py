"""Read histories as the legacy handlers do, where that differs from other markets.

Two parts of equal length are matched by position, whatever their ids; parts of different length are matched by id, and
an id that a part has twice is refused then. Times are those of the numerical part.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.wire.layout import FieldPart, HistoryFields
from tsa.data.wire.row_errors import RowErrors
from tsa.data.wire.row_pieces import Events, HistoryRows, places_of, times_of
from tsa.data.wire.tokens import Index, text_hashes


def legacy_events(rows: HistoryRows, history: HistoryFields, counts: list[Index], problems: RowErrors) -> Events:
    """The payments in the rows' history, in the order of the row. `counts`: per part (R,) how many payments."""
    for part, count in zip(history.parts, counts, strict=True):
        _note_gaps(rows, part, count, problems)
    row, place = places_of(counts[0])
    places: list[Index] = [place] * len(history.parts)
    if len(counts) > 1:
        if (unlike := counts[0] != counts[1]).any():
            row, *places = _matched(rows, history, counts, unlike, problems)
        elif not rows.layout.wire.accepts("unlike_ids"):
            _note_unlike(rows, history, row, (place, place), problems)
    times = times_of(rows, history.parts[-1], row, places[-1], problems)
    if len(counts) > 1 and not rows.layout.wire.accepts("unlike_times"):
        other = times_of(rows, history.parts[0], row, places[0], problems)
        part = history.parts[-1]
        differ = np.flatnonzero(other != times)
        examples = zip(row[differ].tolist(), times[differ], other[differ], strict=True)
        field = part.fields[part.time - part.first]
        problems.note("time_mismatch", ((at, field, f"{b:.15g} and {a:.15g}") for at, b, a in examples))
    return Events(row, tuple(places), times)


def note_beyond(rows: HistoryRows, history: HistoryFields, events: Events, problems: RowErrors) -> None:
    """Note rows with more payments than the history's length, or with a payment older than the cap."""
    part, max_events, cap = history.parts[-1], history.length - 1, rows.layout.wire.age_cap_seconds
    count = np.bincount(events.row, minlength=len(rows.now))
    over = np.flatnonzero(count > max_events).tolist()
    problems.note("too_many_payments", ((row, part.fields[-1], f"{count[row]} for {max_events}") for row in over))
    age = rows.now[events.row] - events.time_seconds
    old = np.flatnonzero(age > cap)
    field = part.fields[part.time - part.first]
    examples = zip(events.row[old].tolist(), age[old].tolist(), strict=True)
    problems.note("too_old", ((row, field, f"{seconds:.15g} s for {cap:g} s") for row, seconds in examples))


def _default_of(rows: HistoryRows, name: str) -> str | None:
    return rows.layout.wire.defaults.get(name)


def _note_gaps(rows: HistoryRows, part: FieldPart, counts: Index, problems: RowErrors) -> None:
    """Note missing ids and times that have no default."""
    event = rows.layout.market.event
    row, place = places_of(counts)
    for rule, name, field in (("missing_id", event.id, part.id), ("missing_time", event.time, part.time)):
        missing = np.flatnonzero(rows.missing[rows.first[row, field] + place])
        if len(missing) and _default_of(rows, name) is None:
            texts = rows.tokens.texts(rows.first[row[missing], field] + place[missing])
            examples = zip(row[missing].tolist(), texts, strict=True)
            problems.note(rule, ((at, part.fields[field - part.first], text) for at, text in examples))


def _ids(rows: HistoryRows, part: FieldPart, row: Index, place: Index) -> NDArray[np.uint64]:
    """(E,) hashes of the ids; a missing id has the hash of the default."""
    token = rows.first[row, part.id] + place
    ids, default = rows.tokens.hashes(token), _default_of(rows, rows.layout.market.event.id)
    if default is not None:
        ids[rows.missing[token]] = text_hashes([default])[0]
    return ids


def _note_unlike(
    rows: HistoryRows, history: HistoryFields, row: Index, places: tuple[Index, Index], problems: RowErrors
) -> None:
    one, other = (_ids(rows, part, row, place) for part, place in zip(history.parts, places, strict=True))
    part = history.parts[-1]
    mismatched = np.unique(row[one != other]).tolist()
    problems.note("mismatched_history", ((at, part.fields[-1], rows.text(at, part.id).decode()) for at in mismatched))


def _note_repeated(rows: HistoryRows, part: FieldPart, ids: pl.DataFrame, problems: RowErrors) -> None:
    """Note rows in which an id occurs twice, so that it says not which payment of the other part it is."""
    twice = ids.filter(pl.struct("row", "id").is_duplicated())
    row, place = twice["row"].to_numpy(), twice["place"].to_numpy()
    texts = rows.tokens.texts(rows.first[row, part.id] + place)
    field = part.fields[part.id - part.first]
    problems.note("mismatched_history", ((at, field, text) for at, text in zip(row.tolist(), texts, strict=True)))


def _matched(
    rows: HistoryRows, history: HistoryFields, counts: list[Index], unlike: NDArray[np.bool_], problems: RowErrors
) -> tuple[Index, Index, Index]:
    """Rows and indices in both parts: by position if the parts of a row have equal length, else by id."""
    settings, parts, same_length = rows.layout.wire, [], []
    for part, count in zip(history.parts, counts, strict=True):
        row, place = places_of(count)
        same = ~unlike[row]
        same_length.append((row[same], place[same]))
        at = np.flatnonzero(~same)
        ids = _ids(rows, part, row[at], place[at])
        frame = pl.DataFrame({"row": row[at], "id": ids, "place": place[at]})
        if settings.mismatched == "align":
            _note_repeated(rows, part, frame, problems)
        parts.append(frame)
    (row, left), (_, right) = same_length
    if not settings.accepts("unlike_ids"):
        _note_unlike(rows, history, row, (left, right), problems)
    if settings.mismatched == "refuse":
        part = history.parts[-1]
        examples = (
            (at, part.fields[-1], f"{counts[1][at]} ids and {counts[0][at]}") for at in np.flatnonzero(unlike).tolist()
        )
        problems.note("mismatched_history", examples)
    if settings.mismatched != "align":
        return row, left, right
    both = parts[0].join(parts[1], on=["row", "id"], suffix="_right", maintain_order="left")
    joined = (row, both["row"].to_numpy()), (left, both["place"].to_numpy()), (right, both["place_right"].to_numpy())
    row, left, right = (np.concatenate(pair) for pair in joined)
    order = np.argsort(row, kind="stable")
    return row[order], left[order], right[order]
