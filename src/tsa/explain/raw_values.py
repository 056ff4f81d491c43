"""The raw values of a payment and of the earlier payments in its histories, for explanations.

Values that are not available, as for earlier payments of inline histories, are decoded from the encoded ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import ImportedScaler, Scaler, ScalerGroup
from tsa.data.encoding.vocabulary import PADDING_ROW, ImportedVocabulary, Vocabulary, encode_calendar
from tsa.data.history import HistoryIndex
from tsa.data.store.store import EventStore

UNKNOWN = "(unknown)"
"""Shown for a categorical value that the encoder stored as unknown."""


@dataclass(frozen=True)
class Payment:
    """A payment in the log: raw values by column, None if missing; calendar features are computed from the time.

    id is None if it is not known, as for earlier payments of an inline history.
    """

    id: Any = None
    time_seconds: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RawHistory:
    """A payment, and per history the earlier ones that the network reads, oldest first."""

    payment: Payment
    earlier: Mapping[str, Sequence[Payment]]


def store_facts(store: EventStore, rows: Sequence[int]) -> Iterator[RawHistory]:
    """The facts of the payments `rows` of a store, one at a time."""
    seen = {row: {h.name: _earlier(store.histories[h.name], row, h.length) for h in store.market.views} for row in rows}
    events_needed = {
        int(event) for events in seen.values() for events_of_history in events.values() for event in events_of_history
    } | set(rows)
    payments = _payments(store, np.array(sorted(events_needed), np.int64))
    for row in rows:
        yield RawHistory(
            payments[row], {name: [payments[int(e)] for e in events] for name, events in seen[row].items()}
        )


def decoded(encoder: Encoder, categorical: NDArray[Any], numerical: NDArray[Any]) -> dict[str, Any]:
    """Raw values decoded from an event's rows (C,) and scaled numbers (F,), to float32 precision."""
    values = {v.name: _text(v, int(row)) for v, row in zip(encoder.vocabularies, categorical, strict=True)}
    return values | decoded_numbers(encoder.numerical_scaling, numerical)


def decoded_numbers(scaling: ScalerGroup, numbers: NDArray[Any]) -> dict[str, float | None]:
    """Raw numbers decoded from scaled columns (F,); None if a missing indicator is set."""
    n = len(scaling.scalers)
    marked = {name for name, value in zip(scaling.names[n:], numbers[n:], strict=True) if value}
    own = zip(scaling.scalers, numbers[:n], strict=True)
    return {s.name: None if f"{s.name} is missing" in marked else _number(s, float(value)) for s, value in own}


def calendar_values(encoder: Encoder, time_seconds: float | None) -> dict[str, str]:
    """The calendar features of a time, as the encoder's vocabularies spell them."""
    if time_seconds is None:
        return {}
    times = np.array([time_seconds])
    return {v.name: v.values[int(encode_calendar(v, times)[0]) - v.known_row] for v in encoder.calendar_vocabularies}


def _earlier(index: HistoryIndex, row: int, length: int) -> NDArray[Any]:
    """The events before `row` in its history, oldest first, as `tsa.data.history.gather` shows them."""
    position = int(index.position[row])
    selected: NDArray[Any] = np.asarray(index.order[max(int(index.start[row]), position - length + 1) : position])
    return selected


def _payments(store: EventStore, events: NDArray[np.int64]) -> dict[int, Payment]:
    """Events of a store by number: raw values for rows of the log, else decoded values."""
    own = events[events < len(store)]
    id_column, names = (
        store.market.event.id,
        [name for name in store.market.raw_columns if name != store.market.event.id],
    )
    at = pl.Series("at", own)
    lines = store.clean.select(id_column, *names).with_row_index("__row")
    table = lines.filter(pl.col("__row").is_in(at.cast(pl.UInt32).implode())).collect(engine="streaming").sort("__row")
    payments = {}
    for line in table.iter_rows(named=True):
        row = line.pop("__row")
        payments[row] = _payment(store, row, line.pop(id_column), line)
    for row in events[len(own) :]:
        values = decoded(store.encoder, store.events.categorical[row], store.events.numerical[row])
        payments[int(row)] = _payment(store, int(row), None, values)
    return payments


def _payment(store: EventStore, row: int, id_: Any, values: Mapping[str, Any]) -> Payment:
    time_seconds = float(store.events.time_seconds[row])
    return Payment(id_, time_seconds, {**values, **calendar_values(store.encoder, time_seconds)})


def _text(vocabulary: Vocabulary | ImportedVocabulary, row: int) -> str | None:
    if isinstance(vocabulary, ImportedVocabulary):
        known = dict(zip(reversed(vocabulary.rows), reversed(vocabulary.values), strict=True))
        return known.get(row, UNKNOWN)
    if row in (vocabulary.missing_row, PADDING_ROW):  # no role in this history
        return None
    return vocabulary.values[row - vocabulary.known_row] if row >= vocabulary.known_row else UNKNOWN


def _number(scaler: Scaler | ImportedScaler, scaled: float) -> float:
    if isinstance(scaler, ImportedScaler):
        return (scaled - scaler.offset) / scaler.slope if scaler.slope else scaler.default
    if scaler.scale == "quantile":
        moved = float(np.interp(scaled, scaler.levels, scaler.knots)) if scaler.knots else 0.0
    else:
        moved = scaled * scaler.width + scaler.centre
    if scaler.transform == "none":
        return moved
    return (
        float(np.copysign(np.expm1(abs(moved)), moved))
        if scaler.transform == "signed_log1p"
        else float(np.expm1(moved))
    )
