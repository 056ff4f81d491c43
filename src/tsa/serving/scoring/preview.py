"""Read what a payment would be scored with now, without storing anything: its arrays and its history's raw values.

Used for explanations and shadow scoring. A payment that is already in the store sees only what came before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tsa.data.online.encoded import EncodedPayments, tie_break_key
from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.values import RuleViolation
from tsa.data.wire import Requests
from tsa.errors import HistoryUnavailable
from tsa.explain.raw_values import Payment
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.blocks import HistoryBlock, select_events
from tsa.serving.history.records import Record
from tsa.serving.history.reencode import MissingRecordsError, encode_stale, read_records
from tsa.serving.scoring.pipeline import Histories, Row, ScoringPipeline


@dataclass(frozen=True, kw_only=True)
class ScoringInput:
    """One payment with its histories."""

    requests: Requests
    payment: Payment
    earlier: Mapping[str, Sequence[Payment]] = field(default_factory=dict)
    """By history name: the payments that are in `requests`, oldest first."""


def load_scoring_input(
    pipeline: ScoringPipeline, store: HistoryStore | None, row: Row, histories: Histories | None = None
) -> ScoringInput | RuleViolation:
    """Read the payment of a row with its histories from the request or, without these, from the store.

    Raises:
        HistoryUnavailable: the store does not answer.
        DataError: an inline-history row cannot be read.
    """
    if pipeline.market.wire is not None:
        requests = pipeline.scorer.wire_reader.read([row])
        return ScoringInput(requests=requests, payment=Payment(requests.ids[0], float(requests.time_seconds[0])))
    parsed = pipeline.parse_rows([row])
    if parsed.problems:
        return parsed.problems[0]
    payments = parsed.payments
    if histories is not None:
        given = pipeline.parse_histories(histories, payments, 0)
        if isinstance(given, RuleViolation):
            return given
        views = pipeline.market.views  # each has events of its own: the name of the view is the key
        payments = replace(payments, keys={view.name: (view.name,) for view in views})
        past = {(view.history, view.name): given[view.name] for view in views if view.name in given}
        return _assemble(pipeline, payments, past, {})
    return stored_input(pipeline, store, payments)


def stored_input(pipeline: ScoringPipeline, store: HistoryStore | None, payments: EncodedPayments) -> ScoringInput:
    """The one payment of `payments` with what its histories in the store had before it.

    Raises:
        HistoryUnavailable: the store does not answer.
    """
    past = {} if store is None else _from_store(pipeline, store, payments)
    seen = {key: _before(events, payments, pipeline) for key, events in past.items()}
    ids = dict.fromkeys(id_ for events in seen.values() for id_ in events.ids)
    return _assemble(pipeline, payments, seen, {} if store is None else read_records(store, list(ids)))


def _assemble(
    pipeline: ScoringPipeline,
    payments: EncodedPayments,
    past: Mapping[Key, HistoryEvents],
    records: Mapping[str, Record],
) -> ScoringInput:
    earlier = {}
    for view in pipeline.market.views:
        (key,) = payments.keys[view.name]
        if key is not None and (events := past.get((view.history, key))) is not None:
            earlier[view.name] = _payments(events, records)
    id_, now = payments.ids[0], float(payments.time_seconds[0])
    return ScoringInput(
        requests=pipeline.scorer.requests(payments, past),
        payment=Payment(id_, now, payments.raw[0]),
        earlier=earlier if all(payment.values for payments_ in earlier.values() for payment in payments_) else {},
    )


def _payments(events: HistoryEvents, records: Mapping[str, Record]) -> list[Payment]:
    pairs = zip(events.ids, events.time_seconds.tolist(), strict=True)
    return [Payment(id_, time, records[id_].raw if id_ in records else {}) for id_, time in pairs]


def _before(events: HistoryEvents, payments: EncodedPayments, pipeline: ScoringPipeline) -> HistoryEvents:
    """The events that the payment sees: before it, and within the retention time."""
    now, id_ = float(payments.time_seconds[0]), payments.ids[0]
    oldest = now - pipeline.market.retention_seconds
    times = events.time_seconds.tolist()
    rows = [
        at
        for at, time in enumerate(times)
        if oldest <= time and (time, tie_break_key(events.ids[at])) < (now, tie_break_key(id_))
    ]
    return select_events(events, np.array(rows, np.int64))


def _from_store(pipeline: ScoringPipeline, store: HistoryStore, payments: EncodedPayments) -> dict[Key, HistoryEvents]:
    names = {view.name: view.history for view in pipeline.market.views}
    keys: list[Key] = [(names[name], key) for name, (key,) in payments.keys.items() if key is not None]
    keys = list(dict.fromkeys(keys))
    blocks = {place: HistoryBlock.unpack(stored.data) for place, stored in store.read(keys).items()}
    try:
        blocks = encode_stale(store, blocks, pipeline.market, pipeline.encoder, pipeline.mark)
    except MissingRecordsError:
        raise HistoryUnavailable("a payment of the history is being deleted", "busy") from None
    return {key: block.events for key, block in blocks.items()}
