"""Maintenance of a history store: record outcomes, erase a customer's data, expire old events.

Each function is a series of small atomic commits and is safe to repeat.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tsa.data.online.histories import Key
from tsa.errors import DataError, HistoryUnavailable
from tsa.printable import printable
from tsa.serving.history.base import PAYMENTS, HistoryStore, StoreKey, VersionedValue, WriteBatch
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.records import Record
from tsa.times import iso

MAX_ATTEMPTS = 200
"""Attempts of a change that conflicts with others; at each conflict another writer has succeeded."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class DeletionCounts:
    """How much was deleted."""

    payments: int
    events: int
    """Counted once for each history that a payment was in."""


def retry_on_conflict(attempt: Callable[[], Result | None]) -> Result:
    """Call `attempt` until it returns something other than None, and return that.

    Raises:
        HistoryUnavailable: every attempt met a conflict.
    """
    for count in range(MAX_ATTEMPTS):
        result = attempt()
        if result is not None:
            return result
        if count > 1:
            time.sleep(random.random() * 0.001 * min(count, 20))
    raise HistoryUnavailable(f"history store: others changed the same keys {MAX_ATTEMPTS} times in a row", "busy")


def record_outcome(store: HistoryStore, id_: str, label: int, known_at_seconds: float) -> bool:
    """Store the outcome of a payment and the time from which it is known. Payments at that time or later see it.

    `Record.with_outcome` defines how it combines with an earlier report.

    Returns:
        False if the store has no such payment.

    Raises:
        DataError: the time is not finite.
        HistoryUnavailable: the store cannot be used.
        HistoryLost: it had the payment and lost it.
    """
    if not math.isfinite(known_at_seconds):
        raise DataError(f"the time of an outcome must be finite (got {known_at_seconds})")
    return retry_on_conflict(lambda: _note_once(store, id_, label, known_at_seconds))


def _note_once(store: HistoryStore, id_: str, label: int, known_at_seconds: float) -> bool | None:
    place = (PAYMENTS, id_)
    stored_record = store.read([place]).get(place)
    if stored_record is None:
        store.check_absent([place])
        return False
    record = Record.unpack(stored_record.data)
    # clocks differ: an outcome cannot be known before its payment
    updated = record.with_outcome(label, max(known_at_seconds, record.time_seconds))
    if updated == record:
        return True
    keys = record.places
    blocks = store.read(keys)
    put: dict[StoreKey, bytes] = {place: updated.pack()}
    for key, stored in blocks.items():
        block = HistoryBlock.unpack(stored.data)
        if id_ in block.events.ids:
            put[key] = block.with_outcome(id_, updated.label, updated.known_at_seconds).pack()
    seen = {place: stored_record.version, **{key: blocks[key].version if key in blocks else None for key in keys}}
    return store.commit(WriteBatch(expected_versions=seen, puts=put)) or None


def erase(store: HistoryStore, key: Key) -> DeletionCounts:
    """Delete all payments of a key: their events in every history, their values and answers; then compact the files.

    Args:
        key: as stored, that is pseudonymized where the market asks for it.
    """
    payments = events = 0
    for place, stored in store.scan(PAYMENTS):
        if key in Record.unpack(stored.data).places:
            deleted = retry_on_conflict(lambda place=place: _delete_payment(store, place))  # type: ignore[misc]
            payments, events = payments + 1, events + deleted
    rest = store.read([key]).get(key)
    if rest is not None:  # empty, unless payments arrived in the meantime: delete these too
        events += retry_on_conflict(lambda: _drop_block(store, key))
    store.compact()
    return DeletionCounts(payments=payments, events=events)


def _delete_payment(store: HistoryStore, place: StoreKey) -> int | None:
    """Delete one payment; return the number of histories that it was in, or None at a conflict."""
    stored_record = store.read([place]).get(place)
    if stored_record is None:
        return 0
    keys = Record.unpack(stored_record.data).places
    blocks = store.read(keys)
    put: dict[StoreKey, bytes] = {}
    drop, events = {place}, 0
    for key, stored in blocks.items():
        block = HistoryBlock.unpack(stored.data)
        removed = [id_ == place[1] for id_ in block.events.ids]
        if any(removed):
            events += 1
            _put_or_delete(key, block, removed, put, drop)
    seen = {place: stored_record.version, **{key: stored.version for key, stored in blocks.items()}}
    return events if store.commit(WriteBatch(expected_versions=seen, puts=put, deletes=frozenset(drop))) else None


def _put_or_delete(
    key: Key, block: HistoryBlock, removed: list[bool], put: dict[StoreKey, bytes], drop: set[StoreKey]
) -> None:
    if all(removed):
        drop.add(key)
    else:
        put[key] = block.drop_events(removed).pack()


def _drop_block(store: HistoryStore, key: Key) -> int | None:
    stored = store.read([key]).get(key)
    if stored is None:
        return 0
    block = HistoryBlock.unpack(stored.data)
    places = [(PAYMENTS, id_) for id_ in block.events.ids]
    records = store.read(places)
    if records:
        return sum(retry_on_conflict(lambda place=place: _delete_payment(store, place)) for place in records)  # type: ignore[misc]
    dropped = store.commit(WriteBatch(expected_versions={key: stored.version}, deletes=frozenset({key})))
    return len(block) if dropped else None


def expire(store: HistoryStore, before_seconds: float, histories: list[str]) -> DeletionCounts:
    """Delete the events, values and answers of all payments before a time."""
    events = sum(_expire_block(store, key, before_seconds) for key in _old_blocks(store, histories, before_seconds))
    payments = 0
    batch: dict[StoreKey, int] = {}
    for place, stored in store.scan(PAYMENTS):
        if Record.unpack(stored.data).time_seconds < before_seconds:
            batch[place] = stored.version
        if len(batch) >= 500:
            payments += _drop_all(store, batch)
            batch = {}
    return DeletionCounts(payments=payments + _drop_all(store, batch), events=events)


def _old_blocks(store: HistoryStore, histories: list[str], before_seconds: float) -> Iterator[Key]:
    for name in histories:
        for key, stored in store.scan(name):
            times = HistoryBlock.unpack(stored.data).events.time_seconds
            if not len(times) or times[0] < before_seconds:
                yield key


def _expire_block(store: HistoryStore, key: Key, before_seconds: float) -> int:
    def attempt() -> int | None:
        stored: VersionedValue | None = store.read([key]).get(key)
        if stored is None:
            return 0
        block = HistoryBlock.unpack(stored.data)
        removed = (block.events.time_seconds < before_seconds).tolist()
        put: dict[StoreKey, bytes] = {}
        drop: set[StoreKey] = set()
        _put_or_delete(key, block, removed, put, drop)
        committed = store.commit(WriteBatch(expected_versions={key: stored.version}, puts=put, deletes=frozenset(drop)))
        return sum(removed) if committed else None

    return retry_on_conflict(attempt)


def _drop_all(store: HistoryStore, batch: dict[StoreKey, int]) -> int:
    """Delete records, with their current versions: an outcome recorded in the meantime does not make one younger."""
    if not batch:
        return 0

    def attempt() -> int | None:
        records = store.read(list(batch))
        change = WriteBatch(
            expected_versions={place: stored.version for place, stored in records.items()}, deletes=frozenset(records)
        )
        return len(records) if store.commit(change) else None

    return retry_on_conflict(attempt)


def history_events(store: HistoryStore, key: Key) -> Iterator[dict[str, str]]:
    """Time, payment id and outcome of each stored event of a key."""
    stored = store.read([key]).get(key)
    if stored is None:
        return
    events = HistoryBlock.unpack(stored.data).events
    for row, id_ in enumerate(events.ids):
        moment = iso(events.time_seconds[row], "seconds")
        outcome = {-1: "not known", 0: "genuine", 1: "fraud"}[int(events.label[row])]
        yield {"time": moment, "id": printable(id_), "outcome": outcome}
