"""A look at what a payment would be scored with now: its arrays, and the raw values of the earlier payments. Nothing is kept.

For reasons, and for a shadow. A payment that is in the store already sees what came before it all the same. It knows
stores and benches; not what is made of what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tsa.data.online.histories import Key, PastEvents
from tsa.data.online.payments import Payments, Problem, tie
from tsa.data.wire import Requests
from tsa.errors import HistoryUnavailable
from tsa.explain.raw_values import Payment
from tsa.serving.history.base import PAYMENTS, HistoryStore
from tsa.serving.history.blocks import Block, taken
from tsa.serving.history.records import Record
from tsa.serving.history.reencode import encode_anew
from tsa.serving.scoring.pipeline import Bench, Histories, Row


@dataclass(frozen=True, kw_only=True)
class Look:
    """One payment with its histories."""

    requests: Requests
    payment: Payment
    earlier: Mapping[str, Sequence[Payment]] = field(default_factory=dict)
    """Per history, oldest first: those that are in `requests`."""


def look(bench: Bench, store: HistoryStore | None, row: Row, histories: Histories | None = None) -> Look | Problem:
    """The payment of a row with the histories that it brings along, or that its keys have in the store.

    Raises HistoryUnavailable where the store does not answer, DataError for a row that carries its own history and cannot
    be read.
    """
    if bench.market.wire is not None:
        requests = bench.scorer.wire_reader.read([row])
        return Look(requests=requests, payment=Payment(requests.ids[0], float(requests.time_seconds[0])))
    found = bench.read([row])
    if found.problems:
        return found.problems[0]
    payments = found.payments
    if histories is not None:
        told = bench.read_past(histories, payments, 0)
        if isinstance(told, Problem):
            return told
        payments = replace(payments, keys={history.name: ("",) for history in bench.market.history})
        return _looked(bench, payments, {(name, ""): events for name, events in told.items()}, {})
    past = {} if store is None else _from_store(bench, store, payments)
    seen = {key: _before(events, payments, bench) for key, events in past.items()}
    ids = dict.fromkeys(id_ for events in seen.values() for id_ in events.ids)
    return _looked(bench, payments, seen, {} if store is None else _records(store, list(ids)))


def _looked(bench: Bench, payments: Payments, past: Mapping[Key, PastEvents], records: Mapping[str, Record]) -> Look:
    earlier = {name: _payments(events, records) for (name, _), events in past.items()}
    id_, now = payments.ids[0], float(payments.time_seconds[0])
    return Look(
        requests=bench.scorer.requests(payments, past),
        payment=Payment(id_, now, payments.raw[0]),
        earlier=earlier if all(payment.values for found in earlier.values() for payment in found) else {},
    )


def _payments(events: PastEvents, records: Mapping[str, Record]) -> list[Payment]:
    pairs = zip(events.ids, events.time_seconds.tolist(), strict=True)
    return [Payment(id_, time, records[id_].raw if id_ in records else {}) for id_, time in pairs]


def _before(events: PastEvents, payments: Payments, bench: Bench) -> PastEvents:
    """Those of the events that the payment sees."""
    now, id_ = float(payments.time_seconds[0]), payments.ids[0]
    oldest = now - bench.market.retention_seconds
    times = events.time_seconds.tolist()
    rows = [at for at, time in enumerate(times) if oldest <= time and (time, tie(events.ids[at])) < (now, tie(id_))]
    return taken(events, np.array(rows, np.int64))


def _from_store(bench: Bench, store: HistoryStore, payments: Payments) -> dict[Key, PastEvents]:
    keys: list[Key] = [(name, key) for name, (key,) in payments.keys.items() if key is not None]
    blocks = {place: Block.unpack(stored.data) for place, stored in store.read(keys).items()}
    stale = [key for key, block in blocks.items() if block.mark != bench.mark]
    if stale:
        ids = dict.fromkeys(id_ for key in stale for id_ in blocks[key].events.ids)
        records = _records(store, list(ids))
        if len(records) < len(ids):
            raise HistoryUnavailable("a payment that a history tells of is being let go of", "busy")
        anew = encode_anew([blocks[key] for key in stale], records, bench.market, bench.encoder)
        blocks |= dict(zip(stale, anew, strict=True))
    return {key: block.events for key, block in blocks.items()}


def _records(store: HistoryStore, ids: Sequence[str]) -> dict[str, Record]:
    found = store.read([(PAYMENTS, id_) for id_ in ids]) if ids else {}
    return {place[1]: Record.unpack(stored.data) for place, stored in found.items()}
