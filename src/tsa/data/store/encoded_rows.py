"""Write the encoded features of clean rows as arrays, in parts, so that memory stays bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.training_rows import part_rows
from tsa.data.log.reader import TIME
from tsa.data.raw_values import frame_numbers, frame_tokens, number_columns, token_columns
from tsa.data.store.arrays import Arrays, Entries, Writer
from tsa.data.store.manifest import ARRAYS, OF_PAYMENTS, array_file
from tsa.data.wire.event_segments import EmbeddedHistoryStore
from tsa.data.workers import HERE, Part, Workers
from tsa.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The first rows of a store, as encoded before with the same encoder."""

    arrays: Mapping[str, NDArray[Any]]
    """By name as in `ARRAYS`, those of features: (m, ...)."""
    unknown: Mapping[str, int]
    """Of these rows: as `encode_rows` returns it."""

    def __len__(self) -> int:
        return len(self.arrays["categorical"])


@dataclass(frozen=True, kw_only=True)
class RowEncoding:
    """What the encoding of all parts has in common."""

    rows: pl.LazyFrame
    encoder: Encoder
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    with_raw: bool

    @property
    def widths(self) -> dict[str, int]:
        """The columns of each array."""
        widths = {name: len(columns) for name, columns in self.encoder.columns.items()}
        return widths | ({"tokens": len(self.texts), "raw_numerical": len(self.numbers)} if self.with_raw else {})


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
    workers: Workers = HERE,
) -> tuple[Entries, dict[str, int]]:
    """Write the features of n clean rows, part by part, which is possible since rows are encoded independently.

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
        workers: Encode the parts.

    Returns:
        The manifest's entries, and the number of payments with an unknown value by categorical feature.
    """
    unknown: Counter[str] = Counter({} if encoded is None else dict(encoded.unknown))
    has_raw = with_raw and market.wire is None
    texts, numbers = (token_columns(market), number_columns(market)) if has_raw else ((), ())
    shared = RowEncoding(rows=rows, encoder=encoder, texts=texts, numbers=numbers, with_raw=with_raw)
    behind = 0 if carried is None else len(carried)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                arrays.writer(array_file(name), ARRAYS[name], (n + (0 if name in OF_PAYMENTS else behind), width))
            )
            for name, width in shared.widths.items()
        }
        done = 0 if encoded is None else _copy_encoded(encoded, writers)
        advance = stack.enter_context(progress("encoding", n - done + behind))
        size = part_rows(len(encoder.raw_columns) + len(texts))
        parts = [(done + first, done + last) for first, last in workers.parts(n - done, size)] if n > done else []
        for made, counts in workers.call(_encode_part, shared, parts):
            for name, writer in writers.items():
                writer.append(made[name])
            unknown.update(counts)
            advance(len(made["categorical"]))
        if carried is not None:
            for pieces in carried.encoded(encoder, part_rows(len(encoder.raw_columns))):
                size = len(pieces["categorical"])
                none = {name: np.empty((size, 0), ARRAYS[name]) for name in ("tokens", "raw_numerical")}
                for name, piece in (pieces | none).items():
                    writers[name].append(piece)
                advance(size)
    return {array_file(name): writer.entry for name, writer in writers.items()}, dict(unknown)


def _encode_part(shared: RowEncoding, part: Part) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
    """The arrays of the features of some rows, and how many have an unknown value by categorical feature."""
    encoder, (first, last) = shared.encoder, part
    columns = list(dict.fromkeys([TIME, *encoder.raw_columns, *shared.texts]))
    frame = shared.rows.slice(first, last - first).select(columns).collect()
    made = {
        "categorical": encoder.categorical(frame),
        "numerical": encoder.numerical(frame),
        "engineered": encoder.engineered(frame),
    }
    if shared.with_raw:
        made["tokens"] = frame_tokens(frame, shared.texts)
        made["raw_numerical"] = frame_numbers(frame, shared.numbers)
    return made, _unknown(encoder, made["categorical"], frame)


def _unknown(encoder: Encoder, made: NDArray[Any], frame: pl.DataFrame) -> dict[str, int]:
    """How many rows have a value that the encoder does not know, by categorical feature."""
    counts = {}
    for at, vocabulary in enumerate(encoder.categorical_vocabularies):
        count = int(np.count_nonzero(made[:, at] == vocabulary.unknown_row))
        if vocabulary.missing_row == vocabulary.unknown_row:
            count -= frame[vocabulary.name].null_count()
        counts[vocabulary.name] = count
    return counts


def _copy_encoded(encoded: Encoded, writers: Mapping[str, Writer]) -> int:
    """Copy what is encoded already, in pieces. Returns the number of rows."""
    for name, writer in writers.items():
        array = encoded.arrays[name]
        size = part_rows(array.shape[1])
        for first in range(0, len(array), size):
            writer.append(array[first : first + size])
    return len(encoded)
