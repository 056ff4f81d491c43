"""Which encoding a block's events are of, and how they get another: from the raw values in the payments' records.

Blocks carry the mark of their encoding. Where a bundle with another encoder reads one, its events are encoded anew then and
there, and stay so with the next payment: a swap of bundles needs no pause, and processes that still have the other bundle
go on. It does not know engines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tsa.config.market import Market
from tsa.data.clean_columns import TIME
from tsa.data.encoding.encoder import Encoder
from tsa.errors import HistoryError
from tsa.serving.history.blocks import MARK_BYTES, HistoryBlock
from tsa.serving.history.records import Record


def encoder_hash(encoder: Encoder) -> bytes:
    """What tells this encoding from others: a hash of all that it does, not of whom it was made for."""
    meaning = {name: value for name, value in encoder.to_dict().items() if name != "market"}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).digest()[:MARK_BYTES]


def reencode_blocks(
    blocks: Sequence[HistoryBlock], records: Mapping[str, Record], market: Market, encoder: Encoder
) -> list[HistoryBlock]:
    """The same blocks in the encoding of `encoder`. records: by id, of all their events.

    Raises HistoryError where a record lacks a feature.
    """
    ids = [id_ for block in blocks for id_ in block.events.ids]
    times = [time for block in blocks for time in block.events.time_seconds.tolist()]
    frame = to_frame(market, [records[id_].raw for id_ in ids], times)
    categorical, numerical = encoder.categorical(frame), encoder.numerical(frame)
    bounds, mark = np.cumsum([len(block) for block in blocks])[:-1], encoder_hash(encoder)
    parts = zip(blocks, np.split(categorical, bounds), np.split(numerical, bounds), strict=True)
    return [block.with_encoding(mark, rows, numbers) for block, rows, numbers in parts]


def to_frame(market: Market, raw: Sequence[Mapping[str, Any]], times: Sequence[float]) -> pl.DataFrame:
    """Clean values as the columns that an encoder reads."""
    kinds: dict[str, pl.DataType] = {feature.name: pl.String() for feature in market.features.categorical}
    kinds |= {feature.name: pl.Float64() for feature in (*market.features.numerical, *market.features.engineered)}
    if lacking := sorted({name for values in raw for name in kinds if name not in values}):
        raise HistoryError(f"payments in the history store must have all features of the bundle, but no {lacking}")
    columns = {name: [values[name] for values in raw] for name in kinds}
    return pl.DataFrame({**columns, TIME: times}, schema={**kinds, TIME: pl.Float64()})
