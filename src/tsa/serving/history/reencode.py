"""Encode the events of a history block again if they were encoded by another encoder, from the payments' stored values.

Each block stores the hash of its encoder. It is re-encoded when it is read and stored with the next payment, so a change of
bundles needs no pause, and processes with the old bundle continue to work.
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
from tsa.data.online.histories import Key
from tsa.data.raw_values import frame_numbers, number_columns, row_tokens, token_columns
from tsa.errors import HistoryError
from tsa.serving.history.base import PAYMENTS, HistoryStore
from tsa.serving.history.blocks import MARK_BYTES, HistoryBlock
from tsa.serving.history.records import Record


def encoder_hash(encoder: Encoder) -> bytes:
    """Hash of everything that determines the encoding, so that equal encoders of different markets have equal hashes."""
    meaning = {name: value for name, value in encoder.to_dict().items() if name != "market"}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).digest()[:MARK_BYTES]


class MissingRecordsError(Exception):
    """Stored blocks contain events of payments whose records the store no longer has.

    The two are written and removed together, or the block's events first: either the blocks have changed since they were
    read, or the store has lost records. What to do about it is the caller's to decide.
    """

    def __init__(self, ids: set[str], keys: Sequence[Key]) -> None:
        """ids: of these payments. keys: of the blocks that are not in the wanted encoding."""
        super().__init__(f"{len(ids)} payments of stored histories have no record")
        self.ids, self.keys = ids, keys


def encode_stale(
    store: HistoryStore, blocks: Mapping[Key, HistoryBlock], market: Market, encoder: Encoder, mark: bytes
) -> dict[Key, HistoryBlock]:
    """Blocks as they were read, those in another encoding encoded again from their payments' records in the store.

    Args:
        store: Where the blocks were read; it is only read.
        blocks: By history and key.
        market: The market of the bundle.
        encoder: The encoder that the blocks are wanted in.
        mark: `encoder_hash(encoder)`, which takes too long to compute for each payment.

    Raises:
        RecordsGoneError: Where the store lacks a record.
        HistoryError: Where a record lacks a feature.
        HistoryUnavailable: Where the store does not answer.
    """
    stale = [key for key, block in blocks.items() if block.encoder_hash != mark]
    if not stale:
        return dict(blocks)
    ids = dict.fromkeys(id_ for key in stale for id_ in blocks[key].events.ids)
    records = read_records(store, list(ids))
    if len(records) < len(ids):
        raise MissingRecordsError(ids.keys() - records.keys(), stale)
    again = _encode_again([blocks[key] for key in stale], records, market, encoder, mark)
    return {**blocks, **dict(zip(stale, again, strict=True))}


def read_records(store: HistoryStore, ids: Sequence[str]) -> dict[str, Record]:
    """The records that the store has of these payments, by id."""
    stored = store.read([(PAYMENTS, id_) for id_ in ids]) if ids else {}
    return {place[1]: Record.unpack(one.data) for place, one in stored.items()}


def _encode_again(
    blocks: Sequence[HistoryBlock], records: Mapping[str, Record], market: Market, encoder: Encoder, mark: bytes
) -> list[HistoryBlock]:
    ids = [id_ for block in blocks for id_ in block.events.ids]
    times = [time for block in blocks for time in block.events.time_seconds.tolist()]
    raw = [records[id_].raw for id_ in ids]
    frame = to_frame(market, raw, times)
    values = {
        "categorical": encoder.categorical(frame),
        "numerical": encoder.numerical(frame),
        "tokens": row_tokens(raw, token_columns(market)),
        "raw_numerical": frame_numbers(frame, number_columns(market)),
    }
    ends = np.cumsum([len(block) for block in blocks]).tolist()
    return [
        block.with_encoding(mark, {name: array[end - len(block) : end] for name, array in values.items()})
        for block, end in zip(blocks, ends, strict=True)
    ]


def to_frame(market: Market, raw: Sequence[Mapping[str, Any]], times: Sequence[float]) -> pl.DataFrame:
    """Clean values as the columns that an encoder reads."""
    kinds: dict[str, pl.DataType] = {feature.name: pl.String() for feature in market.features.categorical}
    kinds |= {feature.name: pl.Float64() for feature in (*market.features.numerical, *market.features.engineered)}
    if missing := sorted({name for values in raw for name in kinds if name not in values}):
        raise HistoryError(f"payments in the history store must have all features of the bundle, but no {missing}")
    columns = {name: [values[name] for values in raw] for name in kinds}
    return pl.DataFrame({**columns, TIME: times}, schema={**kinds, TIME: pl.Float64()})
