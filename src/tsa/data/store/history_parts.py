"""Index the histories of a log part by part: each part as a log of its own, and then all of them together.

A part has a range of rows. Its index is that of a log with these rows; in the index of all rows the events of each of its keys
follow those of earlier parts, so they only move. Nobody holds all events of a key: a part says how many it has of each key,
keys are divided by their hash to add these numbers up, and `order` is written by ranges of places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import HistoryConfig, HistoryView
from tsa.data.bucketed import read_bucket, slices_of, write_bucketed
from tsa.data.history import index_histories
from tsa.data.key_codes import key_code_table, key_codes
from tsa.data.key_roles import find_roles, own_places
from tsa.data.raw_values import frame_tokens
from tsa.data.store.arrays import Entries, FolderArrays
from tsa.data.store.manifest import INDEX_ARRAYS, ROLE_ARRAY, index_file
from tsa.data.workers import Part, Workers
from tsa.files.writing import save_array

INDEX_ROWS = 2**22
"""Largest number of rows of a part, and of places of `order` that are written together."""

KEY, CODE, FIRST, COUNT, BEFORE = "__key", "__code", "__first", "__count", "__before"
Int64 = NDArray[np.int64]

PLACE_ARRAYS = {name: INDEX_ARRAYS[name] for name in ("position", "start")}


@dataclass(frozen=True, kw_only=True)
class HistoryParts:
    """A history that is indexed in parts."""

    history: HistoryConfig
    rows: pl.LazyFrame
    """The clean rows."""
    n: int
    parts: Sequence[Part]
    folder: Path
    """Of files that workers share until the history is indexed."""

    def codes(self, part: int) -> Path:
        """The code of each key of each row of a part."""
        return self.folder / f"codes-{part}.npy"

    def keys(self, part: int) -> Path:
        """The keys of a part, by bucket."""
        return self.folder / f"keys-{part}.parquet"

    def joined(self, bucket: int) -> Path:
        """By part and key of a bucket: its code, its first place, and its events in earlier parts."""
        return self.folder / f"joined-{bucket}.npy"

    def placed(self, part: int, name: str) -> Path:
        """The places of a part's events in `order`, ascending, and what is there."""
        return self.folder / f"{name}-{part}.npy"


@dataclass(frozen=True)
class Placed:
    """What placing the events of a part needs of all others."""

    all: HistoryParts
    offsets: Int64
    """(B, P + 1): the first line of each part among those of a bucket."""
    nulls: Int64
    """(P,) the place of the first event without a key of each part."""


def index_parts(task: HistoryParts, workers: Workers, arrays: FolderArrays, *, starts: FolderArrays) -> Entries:
    """Write the arrays of all views of a history, in which every earlier event is seen.

    Args:
        task: The history.
        workers: Work on its parts.
        arrays: Where `order`, `position` and `role` are written.
        starts: Where `start` is written.

    Returns:
        The manifest's entries.
    """
    shared, size = _places(task, workers)
    views = task.history.views
    places = workers.call(_place_part, shared, range(len(task.parts)))
    entries = _write(views, PLACE_ARRAYS, task.n, places, {"position": arrays, "start": starts})
    order, kinds = workers.call(_order_part, task, workers.parts(size, INDEX_ROWS)), _order_arrays(task.history)
    return entries | _write(views, kinds, size, order, dict.fromkeys(kinds, arrays))


def _write(
    views: Sequence[HistoryView],
    kinds: Mapping[str, type[np.generic]],
    length: int,
    pieces: Iterable[Mapping[tuple[str, str], NDArray[Any]]],
    folders: Mapping[str, FolderArrays],
) -> Entries:
    """Write arrays of all views from their pieces, by the names of the view and the array. Returns the manifest's entries."""
    with ExitStack() as stack:
        writers = {
            (view.name, name): stack.enter_context(folders[name].writer(index_file(view.name, name), kind, (length,)))
            for view in views
            for name, kind in kinds.items()
        }
        for made in pieces:
            for key, piece in made.items():
                writers[key].append(piece)
    return {index_file(*key): writer.entry for key, writer in writers.items()}


def _order_arrays(history: HistoryConfig) -> dict[str, type[np.generic]]:
    return {"order": np.int64, **(ROLE_ARRAY if history.keys is not None else {})}


def _places(task: HistoryParts, workers: Workers) -> tuple[Placed, int]:
    """Where the events of each part go, and how many places there are."""
    numbers = range(len(task.parts))
    counted = list(workers.call(_count_keys, task, numbers))
    buckets = [(bucket, slices_of([counts for counts, _ in counted], bucket)) for bucket in numbers]
    joined = list(workers.call(_join_keys, task, buckets))
    firsts, totals = (np.concatenate([one[at] for one in joined]) for at in (0, 1))
    order = np.argsort(firsts)
    total = totals[order]
    save_array(task.folder / "firsts.npy", firsts[order])
    save_array(task.folder / "starts.npy", np.cumsum(total) - total)
    nulls, known = np.array([count for _, count in counted]), int(total.sum())
    offsets = np.array([np.concatenate([[0], np.cumsum(lines)]) for _, _, lines in joined])
    return Placed(task, offsets, known + np.cumsum(nulls) - nulls), known + int(nulls.sum())


def _items(history: HistoryConfig, codes: Int64) -> tuple[Int64, Int64, Int64]:
    """(m,) the row and the column of each place that the rows of a part have, and (n, K) the places of the rows."""
    if history.keys is None:
        rows = np.arange(len(codes))
        return rows, np.zeros(len(codes), np.int64), rows[:, None]
    return own_places(codes)


def _count_keys(task: HistoryParts, part: int) -> tuple[Int64, int]:
    """How many keys of a part are in each bucket, and its places without a key. Writes its keys, and how often each occurs."""
    first, last = task.parts[part]
    frame = task.rows.slice(first, last - first).select(task.history.columns).collect()
    codes = key_code_table(frame) if task.history.keys is not None else key_codes(frame.to_series())[:, None]
    save_array(task.codes(part), codes)
    row, column, _ = _items(task.history, codes)
    own = codes[row, column]
    flat = codes.T.ravel()
    at = np.flatnonzero(np.diff(np.maximum.accumulate(flat), prepend=-1) > 0)  # codes are numbered by first appearance
    code = flat[at]
    keys = pl.concat([frame[name].cast(pl.String).alias(KEY) for name in frame.columns])
    n = len(frame)
    table = pl.DataFrame(
        {
            KEY: keys.gather(at),
            CODE: code,
            FIRST: at // n * task.n + at % n + first,
            COUNT: np.bincount(own[own >= 0], minlength=len(code)),
        }
    )
    return write_bucketed(table, KEY, len(task.parts), task.keys(part)), int(np.count_nonzero(own < 0))


def _join_keys(task: HistoryParts, bucket: tuple[int, Sequence[tuple[int, int]]]) -> tuple[Int64, Int64, Int64]:
    """The first place and the number of events of each key of a bucket; and how many of them each part has."""
    number, slices = bucket
    frames = read_bucket([task.keys(part) for part in range(len(task.parts))], slices)
    table = pl.concat(frames).with_columns(
        pl.col(FIRST).min().over(KEY), (pl.col(COUNT).cum_sum() - pl.col(COUNT)).over(KEY).alias(BEFORE)
    )
    save_array(task.joined(number), table.select(CODE, FIRST, BEFORE).to_numpy().astype(np.int64))
    keys = table.group_by(FIRST).agg(pl.col(COUNT).sum())
    return keys[FIRST].to_numpy(), keys[COUNT].to_numpy(), np.array([len(frame) for frame in frames])


def _place_part(shared: Placed, part: int) -> dict[tuple[str, str], Int64]:
    """`position` and `start` of the rows of a part, by view. Writes what is at its places."""
    task, codes = shared.all, np.load(shared.all.codes(part))
    row, column, place = _items(task.history, codes)
    own = codes[row, column]
    starts, bases = _moved_keys(shared, part, int(codes.max(initial=-1)) + 1)
    alone = index_histories(own)
    known = own >= 0
    position = np.where(known, 0, shared.nulls[part] + np.cumsum(~known) - 1)
    start = position.copy()
    position[known] = bases[own[known]] + (alone.position - alone.start)[known]
    start[known] = starts[own[known]]
    placed = np.argsort(position)
    save_array(task.placed(part, "places"), position[placed])
    save_array(task.placed(part, "order"), row[placed] + task.parts[part][0])
    if task.history.keys is not None:
        first, last = task.parts[part]
        keys = task.rows.slice(first, last - first).select(task.history.columns).collect()
        tokens = frame_tokens(keys, task.history.columns)
        save_array(task.placed(part, "role"), find_roles(tokens[row, column], tokens[row], column)[placed])
    made = {}
    for at, view in enumerate(task.history.views):
        made[view.name, "position"], made[view.name, "start"] = position[place[:, at]], start[place[:, at]]
    return made


def _moved_keys(shared: Placed, part: int, count: int) -> tuple[Int64, Int64]:
    """By code of a part: the first place of the key, and that of the part's first event with it."""
    starts, bases = np.empty(count, np.int64), np.empty(count, np.int64)
    firsts, first_starts = (np.load(shared.all.folder / name, mmap_mode="r") for name in ("firsts.npy", "starts.npy"))
    for bucket, lines in enumerate(shared.offsets):
        code, first, before = np.load(shared.all.joined(bucket), mmap_mode="r")[lines[part] : lines[part + 1]].T
        starts[code] = first_starts[np.searchsorted(firsts, first)]
        bases[code] = starts[code] + before
    return starts, bases


def _order_part(task: HistoryParts, places: Part) -> dict[tuple[str, str], NDArray[Any]]:
    """What is at a range of places of `order`, the same for all views."""
    begin, end = places
    made = {name: np.empty(end - begin, kind) for name, kind in _order_arrays(task.history).items()}
    for part in range(len(task.parts)):
        where = np.load(task.placed(part, "places"), mmap_mode="r")
        first, last = np.searchsorted(where, [begin, end])
        for name, array in made.items():
            array[where[first:last] - begin] = np.load(task.placed(part, name), mmap_mode="r")[first:last]
    return {(view.name, name): array for view in task.history.views for name, array in made.items()}
