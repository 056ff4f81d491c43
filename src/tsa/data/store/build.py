"""Write the files of a store: read and sort, fit the encoder, encode, index the histories, and write the manifest last.

Memory stays bounded: rows are encoded in chunks, and in addition one column or one history is in memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.training_rows import part_rows
from tsa.data.log.quarantine import Quarantine, QuarantineLike
from tsa.data.log.reader import KNOWN_AT, LABEL, TIME, CleanLog, read_log, read_table
from tsa.data.store.arrays import Arrays, Entries, FolderArrays, MemoryArrays
from tsa.data.store.data_report import report_on_rows
from tsa.data.store.encoded_rows import Encoded, encode_rows
from tsa.data.store.indexed_histories import write_histories
from tsa.data.store.manifest import (
    ARRAYS,
    ENCODER,
    KIND,
    MANIFEST,
    MARKET,
    REPORT,
    ROWS,
    VERSION,
    array_file,
)
from tsa.data.store.splits import Split, find_splits, is_scored
from tsa.data.wire.event_segments import EmbeddedHistoryStore
from tsa.data.wire.reader import read_wire
from tsa.data.workers import HERE, Workers
from tsa.files.writing import file_entry, write_json
from tsa.progress import Progress

_log = logging.getLogger(__name__)


def build_store(
    market: Market,
    logs: Sequence[str],
    folder: Path,
    *,
    quarantine: QuarantineLike,
    encoder: Encoder | None,
    with_splits: bool,
    progress: Progress,
    workers: Workers = HERE,
) -> None:
    """Write all files of a store into the empty `folder`, the manifest last. Raises DataError."""
    need_label = encoder is None or with_splits
    with _read(
        market, logs, folder, quarantine=quarantine, encoder=encoder, need_label=need_label, workers=workers
    ) as (
        clean,
        carried,
    ):
        write_store(
            market,
            folder,
            clean.report,
            encoder=encoder,
            with_splits=with_splits or encoder is None,
            carried=carried,
            progress=progress,
            workers=workers,
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
    workers: Workers = HERE,
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
        workers: Work on parts of the rows.

    Raises:
        DataError: For a range without rows.
    """
    rows, arrays = pl.scan_parquet(folder / ROWS), FolderArrays(folder)
    entries, time_seconds = _write_times(rows, arrays, carried)
    splits = find_splits(market, time_seconds, is_scored(market, rows)) if with_splits else {}
    is_fitted = encoder is None
    if encoder is None:
        first, last = splits["train"]["rows"]
        encoder = Encoder.fit(market, rows.slice(first, last - first), workers)
    n = len(time_seconds)
    features, unknown = encode_rows(
        market, encoder, rows, n, arrays, progress, carried=carried, encoded=encoded, workers=workers
    )
    entries |= features
    entries |= write_histories(market, rows, time_seconds, arrays, progress, carried, workers)
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
    checked = Quarantine.of(quarantine)
    clean, read = read_table(market, table, quarantine=checked, need_label=False, domains=encoder.domains)
    rows, arrays = clean.lazy(), MemoryArrays()
    _, time_seconds = _write_times(rows, arrays, None)
    _, unknown = encode_rows(market, encoder, rows, len(clean), arrays, progress)
    write_histories(market, rows, time_seconds, arrays, progress, None)
    report = report_on_rows(market, rows, time_seconds, read, unknown, {}, is_fitted=False)
    _log.info("%d events encoded in memory", len(clean))
    return clean, arrays, report


@contextmanager
def _read(
    market: Market,
    logs: Sequence[str],
    folder: Path,
    *,
    quarantine: QuarantineLike,
    encoder: Encoder | None,
    need_label: bool,
    workers: Workers,
) -> Iterator[tuple[CleanLog, EmbeddedHistoryStore | None]]:
    """The clean rows; and, if rows carry their own history, their earlier payments."""
    checked = Quarantine.of(quarantine)
    if market.wire is None:
        domains = None if encoder is None else encoder.domains
        yield (
            read_log(
                market, logs, folder / ROWS, quarantine=checked, need_label=need_label, domains=domains, workers=workers
            ),
            None,
        )
        return
    with read_wire(market, logs, folder / ROWS, quarantine=quarantine, encoder=encoder) as log:
        yield log


def _write_times(
    rows: pl.LazyFrame, arrays: Arrays, carried: EmbeddedHistoryStore | None
) -> tuple[Entries, NDArray[np.float64]]:
    """Write times and labels, part by part. Returns the times of the payments, which define the splits.

    The outcomes of earlier payments that rows carry are never known.
    """
    n = int(rows.select(pl.len()).collect().item())
    times = np.empty(0) if carried is None else carried.time_seconds
    behind = {"time_seconds": times, "label": np.full(len(times), -1), "known_at_seconds": np.full(len(times), np.inf)}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(arrays.writer(array_file(name), ARRAYS[name], (n + len(times),)))
            for name in behind
        }
        for first, last in HERE.parts(n, part_rows(len(behind))):
            frame = rows.slice(first, last - first).select(TIME, LABEL, KNOWN_AT).collect()
            for name, column in (("time_seconds", TIME), ("label", LABEL), ("known_at_seconds", KNOWN_AT)):
                writers[name].append(frame[column].to_numpy())
        for name, piece in behind.items():
            writers[name].append(piece)
    entries = {array_file(name): writer.entry for name, writer in writers.items()}
    return entries, arrays.array(array_file("time_seconds"))[:n]


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
