"""How the files of a store are written: read and sort, fit, encode, index the histories, and seal with the manifest.

Memory stays bounded while encoding: rows pass in chunks, and beside them one column, or one history, is held at a time.
This file knows the order of the work; what each step means is known to the rooms it calls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.encoder import Encoder
from tsa.data.events import KNOWN_AT, LABEL, TIME, read_log
from tsa.data.files import ArrayWriter, file_entry, write_json
from tsa.data.history import index_histories
from tsa.data.manifest import (
    ARRAYS,
    ENCODER,
    INDEX_ARRAYS,
    KIND,
    MANIFEST,
    MARKET,
    REPORT,
    ROWS,
    VERSION,
    array_file,
    index_file,
)
from tsa.errors import DataError
from tsa.progress import Progress
from tsa.schema import Market

CHUNK_ROWS = 1_000_000
"""Rows that are encoded at a time."""

Entries = dict[str, dict[str, Any]]
"""Manifest entries by file name."""

Split = dict[str, Any]

_log = logging.getLogger(__name__)


def build_store(
    market: Market,
    logs: Sequence[str],
    folder: Path,
    *,
    quarantine: Path | None,
    encoder: Encoder | None,
    progress: Progress,
) -> None:
    """Write all files of a store into the empty `folder`, the manifest last. Raises DataError."""
    clean = read_log(market, logs, folder / ROWS, quarantine=quarantine, need_label=encoder is None)
    write_json(folder / REPORT, clean.report)
    rows = pl.scan_parquet(folder / ROWS)
    entries, time_seconds = _write_times(rows, folder)
    splits: dict[str, Split] = {}
    if encoder is None:
        splits = find_splits(market, time_seconds)
        first, last = splits["train"]["rows"]
        encoder = Encoder.fit(market, rows.slice(first, last - first))
    n = len(time_seconds)
    entries |= _write_features(encoder, rows, n, folder, progress)
    entries |= _write_histories(market, rows, n, folder, progress)
    write_json(folder / MARKET, market.to_dict())
    encoder.save(folder / ENCODER)
    entries |= {name: file_entry(folder / name) for name in (ROWS, REPORT, MARKET, ENCODER)}
    write_json(folder / MANIFEST, _manifest(market, encoder, n, splits, entries))
    _log.info("store of %d events written", n)


def find_splits(market: Market, time_seconds: NDArray[np.float64]) -> dict[str, Split]:
    """Row ranges of the market's splits in rising times (n,). Raises DataError when a split has no rows."""
    if not len(time_seconds):
        raise DataError("the log must have rows to learn from, however: none is left after reading")
    first, last = float(time_seconds[0]), float(time_seconds[-1])
    splits = {}
    for name, (start, end) in market.split.resolve(first, last, market.label.gap_seconds).items():
        begin, stop = (int(row) for row in np.searchsorted(time_seconds, [start, end]))
        if begin == stop:
            raise DataError(
                f"split.{name} must hold payments, however: none from {_shown(start)} to {_shown(end)}; "
                f"the log goes from {_shown(first)} to {_shown(last)}"
            )
        splits[name] = {"rows": [begin, stop], "start_seconds": start, "end_seconds": end}
    return splits


def key_codes(key: pl.Series) -> NDArray[np.int64]:
    """(n,) which key a row has, numbered by first appearance; -1 for null."""
    name = key.name
    known = key.drop_nulls().unique(maintain_order=True).to_frame().with_row_index("code")
    codes = key.to_frame().join(known, on=name, how="left", maintain_order="left").get_column("code")
    return codes.cast(pl.Int64).fill_null(-1).to_numpy()


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _write_times(rows: pl.LazyFrame, folder: Path) -> tuple[Entries, NDArray[np.float64]]:
    """Write the times and labels; return the times, which splits are found by."""
    entries: Entries = {}
    frame = rows.select(TIME, LABEL, KNOWN_AT).collect()
    for name, column in (("time_seconds", TIME), ("label", LABEL), ("known_at_seconds", KNOWN_AT)):
        values = frame[column].to_numpy()
        with ArrayWriter(folder / array_file(name), ARRAYS[name], values.shape) as writer:
            writer.append(values)
        entries[array_file(name)] = writer.entry
    return entries, frame[TIME].to_numpy()


def _chunks(rows: pl.LazyFrame, columns: Sequence[str], n: int) -> Iterator[pl.DataFrame]:
    for first in range(0, n, CHUNK_ROWS):
        yield rows.slice(first, CHUNK_ROWS).select(columns).collect()


def _write_features(encoder: Encoder, rows: pl.LazyFrame, n: int, folder: Path, progress: Progress) -> Entries:
    """Encode all rows, chunk by chunk: the encoding of a row does not depend on the others."""
    encode = {"categorical": encoder.categorical, "numerical": encoder.numerical, "engineered": encoder.engineered}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(ArrayWriter(folder / array_file(name), ARRAYS[name], (n, len(columns))))
            for name, columns in encoder.columns.items()
        }
        advance = stack.enter_context(progress("encoding", n))
        for chunk in _chunks(rows, list(dict.fromkeys([TIME, *encoder.raw_columns])), n):
            for name, writer in writers.items():
                writer.append(encode[name](chunk))
            advance(len(chunk))
    return {array_file(name): writer.entry for name, writer in writers.items()}


def _write_histories(market: Market, rows: pl.LazyFrame, n: int, folder: Path, progress: Progress) -> Entries:
    entries: Entries = {}
    with progress("indexing histories", len(market.history)) as advance:
        for history in market.history:
            index = index_histories(key_codes(rows.select(history.key).collect().to_series()))
            for name in INDEX_ARRAYS:
                file = index_file(history.name, name)
                with ArrayWriter(folder / file, np.int64, (n,)) as writer:
                    writer.append(getattr(index, name))
                entries[file] = writer.entry
            advance(1)
    return entries


def _manifest(market: Market, encoder: Encoder, n: int, splits: dict[str, Split], entries: Entries) -> dict[str, Any]:
    return {
        "kind": KIND,
        "version": VERSION,
        "n_events": n,
        "market": {"name": market.name, "fingerprint": market.fingerprint},
        "encoder": {"market_fingerprint": encoder.market_fingerprint, "table_rows": encoder.n_rows},
        "columns": encoder.columns,
        "histories": [history.name for history in market.history],
        "splits": splits,
        "files": dict(sorted(entries.items())),
    }
