"""Write the encoded features of clean rows as arrays, in chunks, so that memory stays bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.reader import TIME
from tsa.data.raw_values import frame_numbers, frame_tokens, number_columns, token_columns
from tsa.data.store.arrays import Arrays, Entries, Writer
from tsa.data.store.manifest import ARRAYS, OF_PAYMENTS, array_file
from tsa.data.wire.event_segments import EmbeddedHistoryStore
from tsa.progress import Progress

CHUNK_ROWS, CHUNK_VALUES = 1_000_000, 40_000_000
"""Most rows, and most values, encoded at a time: with hundreds of features, chunks have fewer rows."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The first rows of a store, as encoded before with the same encoder."""

    arrays: Mapping[str, NDArray[Any]]
    """By name as in `ARRAYS`, those of features: (m, ...)."""
    unknown: Mapping[str, int]
    """Of these rows: as `encode_rows` returns it."""

    def __len__(self) -> int:
        return len(self.arrays["categorical"])


def encode_rows(
    market: Market,
    encoder: Encoder,
    rows: pl.LazyFrame,
    n: int,
    arrays: Arrays,
    progress: Progress,
    *,
    carried: EmbeddedHistoryStore | None = None,
    encoded: Encoded | None = None,
    with_raw: bool = True,
) -> tuple[Entries, dict[str, int]]:
    """Write the features of n clean rows, chunk by chunk, which is possible since rows are encoded independently.

    Args:
        market: What the columns mean.
        encoder: Encodes the rows.
        rows: The clean rows.
        n: Their number.
        arrays: Where they are written.
        progress: Reports progress.
        carried: The earlier payments of rows that carry their own history.
        encoded: The first of the rows, encoded already.
        with_raw: Also write them as they are, for a log.

    Returns:
        The manifest's entries, and the number of payments with an unknown value by categorical feature.
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
