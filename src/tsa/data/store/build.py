"""Write the files of a store: read and sort, fit the encoder, encode, index the histories, and write the manifest last.

Memory stays bounded: rows are encoded in chunks, and in addition one column or one history is in memory at a time.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import HistoryConfig, Market
from tsa.data.clean_columns import ASKS, ROLE
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import HistoryIndex, apply_retention, index_histories, without_asking
from tsa.data.key_roles import index_views
from tsa.data.log.quarantine import Quarantine, QuarantineLike
from tsa.data.log.reader import KNOWN_AT, LABEL, TIME, CleanLog, read_log, read_table
from tsa.data.raw_values import frame_numbers, frame_tokens, number_columns, token_columns
from tsa.data.store.arrays import Arrays, FolderArrays, MemoryArrays, Writer
from tsa.data.store.data_report import report_on_rows
from tsa.data.store.manifest import (
    ARRAYS,
    ENCODER,
    INDEX_ARRAYS,
    KIND,
    MANIFEST,
    MARKET,
    OF_PAYMENTS,
    REPORT,
    ROLE_ARRAY,
    ROWS,
    VERSION,
    array_file,
    index_file,
)
from tsa.data.store.splits import Split, find_splits, is_scored
from tsa.data.wire.event_segments import EmbeddedHistoryStore
from tsa.data.wire.reader import read_wire
from tsa.files.writing import file_entry, need_suffix, write_json
from tsa.progress import Progress

CODE = "__code"  # no market column starts with two underscores

CHUNK_ROWS, CHUNK_VALUES = 1_000_000, 40_000_000
"""Most rows, and most values, encoded at a time: with hundreds of features, chunks have fewer rows."""

Entries = dict[str, dict[str, Any]]
"""Manifest entries by file name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The first rows of a store, as encoded before with the same encoder."""

    arrays: Mapping[str, NDArray[Any]]
    """By name as in `ARRAYS`, those of features: (m, ...)."""
    unknown: Mapping[str, int]
    """Of these rows: as `_write_features` returns it."""

    def __len__(self) -> int:
        return len(self.arrays["categorical"])


def build_store(
    market: Market,
    logs: Sequence[str],
    folder: Path,
    *,
    quarantine: QuarantineLike,
    encoder: Encoder | None,
    with_splits: bool,
    progress: Progress,
) -> None:
    """Write all files of a store into the empty `folder`, the manifest last. Raises DataError."""
    need_label = encoder is None or with_splits
    with _read(market, logs, folder, quarantine=quarantine, encoder=encoder, need_label=need_label) as (clean, carried):
        write_store(
            market,
            folder,
            clean.report,
            encoder=encoder,
            with_splits=with_splits or encoder is None,
            carried=carried,
            progress=progress,
        )


def write_store(
    market: Market,
    folder: Path,
    report: Mapping[str, Any],
    *,
    encoder: Encoder | None,
    with_splits: bool,
    carried: EmbeddedHistoryStore | None = None,
    encoded: Encoded | None = None,
    progress: Progress,
) -> None:
    """Write all files of a store into a folder that has its clean rows, the manifest last.

    Args:
        market: What the columns mean.
        folder: Has `ROWS`.
        report: On the rows that were read.
        encoder: None: one is fitted on the training rows.
        with_splits: Whether the store has the ranges of the market.
        carried: The earlier payments of rows that carry their own history.
        encoded: What is encoded already.
        progress: Reports progress.

    Raises:
        DataError: For a range without rows.
    """
    rows, arrays = pl.scan_parquet(folder / ROWS), FolderArrays(folder)
    entries, time_seconds = _write_times(rows, arrays, carried)
    splits = find_splits(market, time_seconds, is_scored(market, rows)) if with_splits else {}
    is_fitted = encoder is None
    if encoder is None:
        first, last = splits["train"]["rows"]
        encoder = Encoder.fit(market, rows.slice(first, last - first))
    n = len(time_seconds)
    features, unknown = _write_features(market, encoder, rows, n, arrays, progress, carried, encoded)
    entries |= features
    entries |= _write_histories(market, rows, time_seconds, arrays, progress, carried)
    made = report_on_rows(market, rows, time_seconds, report, unknown, splits, is_fitted=is_fitted)
    write_json(folder / REPORT, made)
    write_json(folder / MARKET, market.to_dict())
    encoder.save(folder / ENCODER)
    entries |= {name: file_entry(folder / name) for name in (ROWS, REPORT, MARKET, ENCODER)}
    manifest = manifest_of(market, encoder, n, splits, entries)
    write_json(folder / MANIFEST, manifest if carried is None else manifest | {"n_stored": n + len(carried)})
    _log.info("store of %d events written", n)


def build_in_memory(
    market: Market, table: pl.DataFrame, *, quarantine: QuarantineLike, encoder: Encoder, progress: Progress
) -> tuple[pl.DataFrame, MemoryArrays, dict[str, Any]]:
    """What `build_store` writes for the Parquet file of a small table, in memory, for a market of logs.

    Returns:
        The clean rows, the arrays by file name, and the report.

    Raises:
        DataError: As `build_store`.
    """
    checked = _quarantine(quarantine)
    clean, read = read_table(market, table, quarantine=checked, need_label=False, domains=encoder.domains)
    rows, arrays = clean.lazy(), MemoryArrays()
    _, time_seconds = _write_times(rows, arrays, None)
    _, unknown = _write_features(market, encoder, rows, len(clean), arrays, progress, None)
    _write_histories(market, rows, time_seconds, arrays, progress, None)
    report = report_on_rows(market, rows, time_seconds, read, unknown, {}, is_fitted=False)
    _log.info("%d events encoded in memory", len(clean))
    return clean, arrays, report


def encode_rows(
    market: Market,
    encoder: Encoder,
    rows: pl.LazyFrame,
    n: int,
    arrays: Arrays,
    progress: Progress,
    *,
    with_raw: bool = True,
) -> tuple[Entries, dict[str, int]]:
    """Write only the features of n clean rows of a log, encoded and, `with_raw`, as they are.

    Returns:
        The manifest's entries, and the number of payments with an unknown value by categorical feature.
    """
    return _write_features(market, encoder, rows, n, arrays, progress, None, with_raw=with_raw)


@contextmanager
def _read(
    market: Market,
    logs: Sequence[str],
    folder: Path,
    *,
    quarantine: QuarantineLike,
    encoder: Encoder | None,
    need_label: bool,
) -> Iterator[tuple[CleanLog, EmbeddedHistoryStore | None]]:
    """The clean rows; and, if rows carry their own history, their earlier payments."""
    checked = _quarantine(quarantine)
    if market.wire is None:
        domains = None if encoder is None else encoder.domains
        yield (
            read_log(market, logs, folder / ROWS, quarantine=checked, need_label=need_label, domains=domains),
            None,
        )
        return
    with read_wire(market, logs, folder / ROWS, quarantine=quarantine, encoder=encoder) as log:
        yield log


def _quarantine(quarantine: QuarantineLike) -> Quarantine | None:
    checked = Quarantine.of(quarantine)
    if checked is not None:
        need_suffix("quarantine", checked.path, ".parquet")
    return checked


def key_codes(key: pl.Series) -> NDArray[np.int64]:
    """(n,) codes of the keys, numbered by first appearance; -1 for null."""
    name = key.name
    known = key.drop_nulls().unique(maintain_order=True).to_frame().with_row_index(CODE)
    codes = key.to_frame().join(known, on=name, how="left", maintain_order="left").get_column(CODE)
    return codes.cast(pl.Int64).fill_null(-1).to_numpy()


def key_code_table(keys: pl.DataFrame) -> NDArray[np.int64]:
    """(n, K) codes of the keys in K columns, where a key has the same code in any of them; -1 for null."""
    texts = pl.concat([keys[name].cast(pl.String).alias("__key") for name in keys.columns])
    return key_codes(texts).reshape(len(keys.columns), len(keys)).T


def _write_times(
    rows: pl.LazyFrame, arrays: Arrays, carried: EmbeddedHistoryStore | None
) -> tuple[Entries, NDArray[np.float64]]:
    """Write times and labels. Returns the times of the payments, which define the splits.

    The outcomes of earlier payments that rows carry are never known.
    """
    entries: Entries = {}
    frame = rows.select(TIME, LABEL, KNOWN_AT).collect()
    times = np.empty(0) if carried is None else carried.time_seconds
    behind = {"time_seconds": times, "label": np.full(len(times), -1), "known_at_seconds": np.full(len(times), np.inf)}
    for name, column in (("time_seconds", TIME), ("label", LABEL), ("known_at_seconds", KNOWN_AT)):
        pieces = (frame[column].to_numpy(), behind[name])
        entries |= _write_array(arrays, array_file(name), ARRAYS[name], len(frame) + len(times), pieces)
    return entries, frame[TIME].to_numpy()


def _chunk_rows(columns: int) -> int:
    return min(CHUNK_ROWS, max(1, CHUNK_VALUES // max(columns, 1)))


def _chunks(rows: pl.LazyFrame, columns: Sequence[str], begin: int, n: int) -> Iterator[pl.DataFrame]:
    """The rows from `begin` to before `n`."""
    size = _chunk_rows(len(columns))
    for first in range(begin, n, size):
        yield rows.slice(first, min(size, n - first)).select(columns).collect()


def _copy_encoded(encoded: Encoded, writers: Mapping[str, Writer]) -> int:
    """Copy what is encoded already, in pieces. Returns the number of rows."""
    for name, writer in writers.items():
        array = encoded.arrays[name]
        size = _chunk_rows(array.shape[1])
        for first in range(0, len(array), size):
            writer.append(array[first : first + size])
    return len(encoded)


def _write_features(
    market: Market,
    encoder: Encoder,
    rows: pl.LazyFrame,
    n: int,
    arrays: Arrays,
    progress: Progress,
    carried: EmbeddedHistoryStore | None,
    encoded: Encoded | None = None,
    *,
    with_raw: bool = True,
) -> tuple[Entries, dict[str, int]]:
    """Encode all rows, chunk by chunk, which is possible since rows are encoded independently.

    Returns the number of payments with an unknown value, by categorical feature.
    """
    unknown: Counter[str] = Counter({} if encoded is None else dict(encoded.unknown))
    has_raw = with_raw and market.wire is None
    texts, numbers = (token_columns(market), number_columns(market)) if has_raw else ((), ())
    encode: dict[str, Callable[[pl.DataFrame], NDArray[Any]]] = {
        "categorical": encoder.categorical,
        "numerical": encoder.numerical,
        "engineered": encoder.engineered,
    }
    if with_raw:
        encode["tokens"] = lambda chunk: frame_tokens(chunk, texts)
        encode["raw_numerical"] = lambda chunk: frame_numbers(chunk, numbers)
    behind = 0 if carried is None else len(carried)
    widths = {name: len(columns) for name, columns in encoder.columns.items()}
    widths |= {"tokens": len(texts), "raw_numerical": len(numbers)} if with_raw else {}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                arrays.writer(array_file(name), ARRAYS[name], (n + (0 if name in OF_PAYMENTS else behind), width))
            )
            for name, width in widths.items()
        }
        done = 0 if encoded is None else _copy_encoded(encoded, writers)
        advance = stack.enter_context(progress("encoding", n - done + behind))
        for chunk in _chunks(rows, list(dict.fromkeys([TIME, *encoder.raw_columns, *texts])), done, n):
            for name, writer in writers.items():
                made = encode[name](chunk)
                writer.append(made)
                if name == "categorical":
                    unknown.update(_unknown(encoder, made, chunk))
            advance(len(chunk))
        if carried is not None:
            for pieces in carried.encoded(encoder, _chunk_rows(len(encoder.raw_columns))):
                size = len(pieces["categorical"])
                none = {name: np.empty((size, 0), ARRAYS[name]) for name in ("tokens", "raw_numerical")}
                for name, piece in (pieces | none).items():
                    writers[name].append(piece)
                advance(size)
    return {array_file(name): writer.entry for name, writer in writers.items()}, dict(unknown)


def _unknown(encoder: Encoder, made: NDArray[Any], chunk: pl.DataFrame) -> dict[str, int]:
    """How many rows have a value that the encoder does not know, by categorical feature."""
    counts = {}
    for at, vocabulary in enumerate(encoder.categorical_vocabularies):
        count = int(np.count_nonzero(made[:, at] == vocabulary.unknown_row))
        if vocabulary.missing_row == vocabulary.unknown_row:
            count -= chunk[vocabulary.name].null_count()
        counts[vocabulary.name] = count
    return counts


def _write_histories(
    market: Market,
    rows: pl.LazyFrame,
    time_seconds: NDArray[np.float64],
    arrays: Arrays,
    progress: Progress,
    carried: EmbeddedHistoryStore | None,
) -> Entries:
    entries: Entries = {}
    arrays_by_name: dict[str, Iterable[NDArray[Any]]]
    with progress("indexing histories", len(market.history)) as advance:
        for history in market.history:
            if carried is None:
                for name, index in _log_indices(market, history, rows, time_seconds).items():
                    entries |= _write_index(arrays, name, index)
            else:
                position, start = carried.slots(history.name)
                arrays_by_name = {"order": carried.order(history.name), "position": [position], "start": [start]}
                total = int((position - start + 1).sum())
                for name, pieces in arrays_by_name.items():
                    size = total if name == "order" else len(time_seconds)
                    entries |= _write_array(arrays, index_file(history.name, name), np.int64, size, pieces)
            advance(1)
    return entries


def _write_index(arrays: Arrays, view: str, index: HistoryIndex) -> Entries:
    entries: Entries = {}
    for name, dtype in (INDEX_ARRAYS if index.role is None else INDEX_ARRAYS | ROLE_ARRAY).items():
        array = getattr(index, name)
        entries |= _write_array(arrays, index_file(view, name), dtype, len(array), [array])
    return entries


def _write_array(arrays: Arrays, file: str, kind: type[np.generic], n: int, pieces: Iterable[NDArray[Any]]) -> Entries:
    with arrays.writer(file, kind, (n,)) as writer:
        for piece in pieces:
            writer.append(piece)
    return {file: writer.entry}


def _log_indices(
    market: Market, history: HistoryConfig, rows: pl.LazyFrame, time_seconds: NDArray[np.float64]
) -> dict[str, HistoryIndex]:
    """The histories of a log by the name of the view, without events older than the retention limit."""
    asks = None
    if market.event.asks is not None:
        asks = rows.select(pl.col(ROLE) == ASKS).collect().to_series().to_numpy()
    keys = rows.select(history.columns).collect()
    if history.keys is not None:
        tokens = frame_tokens(keys, history.columns)
        limits = market.retention_seconds, market.longest(history)
        return index_views(history, key_code_table(keys), tokens, time_seconds, *limits, asks)
    index = index_histories(key_codes(keys.to_series()))
    if not math.isinf(market.retention_seconds):
        index = apply_retention(index, time_seconds, market.retention_seconds)
    return {history.name: index if asks is None else without_asking(index, asks, market.longest(history))}


def manifest_of(market: Market, encoder: Encoder, n: int, splits: dict[str, Split], entries: Entries) -> dict[str, Any]:
    """The manifest of a store with these files."""
    asks = {} if market.event.asks is None else {"asks": True}  # then `order` has another length
    return {
        "kind": KIND,
        "version": VERSION,
        "n_events": n,
        **asks,
        "market": {"name": market.name, "fingerprint": market.fingerprint},
        "encoder": {"market_fingerprint": encoder.market_fingerprint, "table_rows": encoder.n_rows},
        "columns": encoder.columns,
        "histories": [view.name for view in market.views],
        "splits": splits,
        "files": dict(sorted(entries.items())),
    }
