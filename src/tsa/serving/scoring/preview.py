"""A look at what a payment would be scored with now: its arrays, and the raw values of the earlier payments. Nothing is kept.

For reasons, and for a shadow. A payment that is in the store already sees what came before it all the same. It knows
stores and benches; not what is made of what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.online.payments import EncodedPayments, RuleViolation, tie_break_key
from tsa.data.wire import Requests
from tsa.errors import HistoryUnavailable
from tsa.explain.raw_values import Payment
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.blocks import HistoryBlock, select_events
from tsa.serving.history.records import Record
from tsa.serving.history.reencode import RecordsGoneError, encode_stale, read_records
from tsa.serving.scoring.pipeline import Histories, Row, ScoringPipeline


@dataclass(frozen=True, kw_only=True)
class ScoringInput:
    """One payment with its histories."""

    requests: Requests
    payment: Payment
    earlier: Mapping[str, Sequence[Payment]] = field(default_factory=dict)
    """Per history, oldest first: those that are in `requests`."""


def load_scoring_input(
    pipeline: ScoringPipeline, store: HistoryStore | None, row: Row, histories: Histories | None = None
) -> ScoringInput | RuleViolation:
    """The payment of a row with the histories that it brings along, or that its keys have in the store.

    Raises HistoryUnavailable where the store does not answer, DataError for a row that carries its own history and cannot
    be read.
    """
    if pipeline.market.inline_history is not None:
        requests = pipeline.scorer.wire_reader.read([row])
        return ScoringInput(requests=requests, payment=Payment(requests.ids[0], float(requests.time_seconds[0])))
    found = pipeline.parse_rows([row])
    if found.problems:
        return found.problems[0]
    payments = found.payments
    if histories is not None:
        told = pipeline.parse_histories(histories, payments, 0)
        if isinstance(told, RuleViolation):
            return told
        payments = replace(payments, keys={history.name: ("",) for history in pipeline.market.history})
        return _assemble(pipeline, payments, {(name, ""): events for name, events in told.items()}, {})
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
    earlier = {name: _payments(events, records) for (name, _), events in past.items()}
    id_, now = payments.ids[0], float(payments.time_seconds[0])
    return ScoringInput(
        requests=pipeline.scorer.requests(payments, past),
        payment=Payment(id_, now, payments.raw[0]),
        earlier=earlier if all(payment.values for found in earlier.values() for payment in found) else {},
    )


def _payments(events: HistoryEvents, records: Mapping[str, Record]) -> list[Payment]:
    pairs = zip(events.ids, events.time_seconds.tolist(), strict=True)
    return [Payment(id_, time, records[id_].raw if id_ in records else {}) for id_, time in pairs]


def _before(events: HistoryEvents, payments: EncodedPayments, pipeline: ScoringPipeline) -> HistoryEvents:
    """Those of the events that the payment sees."""
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
    keys: list[Key] = [(name, key) for name, (key,) in payments.keys.items() if key is not None]
    blocks = {place: HistoryBlock.unpack(stored.data) for place, stored in store.read(keys).items()}
    try:
        blocks = encode_stale(store, blocks, pipeline.market, pipeline.encoder, pipeline.mark)
    except RecordsGoneError:
        raise HistoryUnavailable("a payment that a history tells of is being let go of", "busy") from None
    return {key: block.events for key, block in blocks.items()}
