"""What is done to a history store beside scoring: outcomes are noted, persons erased, old events let go.

Each is a series of small changes, every one whole by itself, and can be repeated. It does not know engines, nor bundles.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from tsa.data.online.histories import Key
from tsa.errors import DataError, HistoryUnavailable
from tsa.printable import printable
from tsa.serving.history.base import PAYMENTS, HistoryStore, StoreKey, VersionedValue, WriteBatch
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.records import Record

MAX_ATTEMPTS = 200
"""How often something is tried again that others got in the way of; each time somebody else got something done."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class DeletionCounts:
    """How much was let go."""

    payments: int
    events: int
    """Counted once for each history that a payment stood in."""


def retry_on_conflict(attempt: Callable[[], Result | None]) -> Result:
    """What `attempt` returns, once it is not None. Raises HistoryUnavailable when others always get in its way."""
    for count in range(MAX_ATTEMPTS):
        made = attempt()
        if made is not None:
            return made
        if count > 1:
            time.sleep(random.random() * 0.001 * min(count, 20))
    raise HistoryUnavailable(f"history store: others changed the same keys {MAX_ATTEMPTS} times in a row", "busy")


def record_outcome(store: HistoryStore, id_: str, label: int, known_at_seconds: float) -> bool:
    """Note what became of a payment, from when on it is known; False where there is no such payment.

    Payments at that time or later see it. `Record.with_outcome` says what becomes of an earlier report.
    """
    if not math.isfinite(known_at_seconds):
        raise DataError(f"the time of an outcome must be finite (got {known_at_seconds})")
    return retry_on_conflict(lambda: _note_once(store, id_, label, known_at_seconds))


def _note_once(store: HistoryStore, id_: str, label: int, known_at_seconds: float) -> bool | None:
    place = (PAYMENTS, id_)
    found = store.read([place]).get(place)
    if found is None:
        return False
    record = Record.unpack(found.data)
    # clocks differ: what becomes of a payment is not known before the payment
    told = record.with_outcome(label, max(known_at_seconds, record.time_seconds))
    if told == record:
        return True
    keys = keys_of(record)
    blocks = store.read(keys)
    put: dict[StoreKey, bytes] = {place: told.pack()}
    for key, stored in blocks.items():
        block = HistoryBlock.unpack(stored.data)
        if id_ in block.events.ids:
            put[key] = block.with_outcome(id_, told.label, told.known_at_seconds).pack()
    seen = {place: found.version, **{key: blocks[key].version if key in blocks else None for key in keys}}
    return store.commit(WriteBatch(expected_versions=seen, puts=put)) or None


def keys_of(record: Record) -> list[Key]:
    """The keys that a payment stands under."""
    return [(name, key) for name, key in record.keys.items() if key is not None]


def erase(store: HistoryStore, key: Key) -> DeletionCounts:
    """Forget all payments of a key: their events in every history, their values, their answers; then clean the files.

    The key is as the store has it, veiled where the market asks for it.
    """
    name, value = key
    payments = events = 0
    for place, stored in store.scan(PAYMENTS):
        if Record.unpack(stored.data).keys.get(name) == value:
            gone = retry_on_conflict(lambda place=place: _delete_payment(store, place))  # type: ignore[misc]
            payments, events = payments + 1, events + gone
    rest = store.read([key]).get(key)
    if rest is not None:  # nothing is left in it, unless payments came meanwhile: these go as well
        events += retry_on_conflict(lambda: _drop_block(store, key))
    store.compact()
    return DeletionCounts(payments=payments, events=events)


def _delete_payment(store: HistoryStore, place: StoreKey) -> int | None:
    """Forget one payment; in how many histories it stood."""
    found = store.read([place]).get(place)
    if found is None:
        return 0
    keys = keys_of(Record.unpack(found.data))
    blocks = store.read(keys)
    put: dict[StoreKey, bytes] = {}
    drop, events = {place}, 0
    for key, stored in blocks.items():
        block = HistoryBlock.unpack(stored.data)
        gone = [id_ == place[1] for id_ in block.events.ids]
        if any(gone):
            events += 1
            _put_or_delete(key, block, gone, put, drop)
    seen = {place: found.version, **{key: stored.version for key, stored in blocks.items()}}
    return events if store.commit(WriteBatch(expected_versions=seen, puts=put, deletes=frozenset(drop))) else None


def _put_or_delete(
    key: Key, block: HistoryBlock, gone: list[bool], put: dict[StoreKey, bytes], drop: set[StoreKey]
) -> None:
    if all(gone):
        drop.add(key)
    else:
        put[key] = block.drop_events(gone).pack()


def _drop_block(store: HistoryStore, key: Key) -> int | None:
    found = store.read([key]).get(key)
    if found is None:
        return 0
    block = HistoryBlock.unpack(found.data)
    places = [(PAYMENTS, id_) for id_ in block.events.ids]
    records = store.read(places)
    if records:
        return sum(retry_on_conflict(lambda place=place: _delete_payment(store, place)) for place in records)  # type: ignore[misc]
    dropped = store.commit(WriteBatch(expected_versions={key: found.version}, deletes=frozenset({key})))
    return len(block) if dropped else None


def expire(store: HistoryStore, before_seconds: float, histories: list[str]) -> DeletionCounts:
    """Let go of everything about payments before a time: events, values, answers."""
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
        found: VersionedValue | None = store.read([key]).get(key)
        if found is None:
            return 0
        block = HistoryBlock.unpack(found.data)
        gone = (block.events.time_seconds < before_seconds).tolist()
        put: dict[StoreKey, bytes] = {}
        drop: set[StoreKey] = set()
        _put_or_delete(key, block, gone, put, drop)
        made = store.commit(WriteBatch(expected_versions={key: found.version}, puts=put, deletes=frozenset(drop)))
        return sum(gone) if made else None

    return retry_on_conflict(attempt)


def _drop_all(store: HistoryStore, batch: dict[StoreKey, int]) -> int:
    """Drop records; one that an outcome has reached meanwhile is as old as it was."""
    if not batch:
        return 0

    def attempt() -> int | None:
        found = store.read(list(batch))
        change = WriteBatch(
            expected_versions={place: stored.version for place, stored in found.items()}, deletes=frozenset(found)
        )
        return len(found) if store.commit(change) else None

    return retry_on_conflict(attempt)


def history_lines(store: HistoryStore, key: Key) -> Iterator[str]:
    """One line for each event that the store has of a key: when, which payment, what became of it."""
    found = store.read([key]).get(key)
    if found is None:
        return
    events = HistoryBlock.unpack(found.data).events
    for row, id_ in enumerate(events.ids):
        moment = datetime.fromtimestamp(float(events.time_seconds[row]), UTC).isoformat(timespec="seconds")
        outcome = {-1: "not known", 0: "genuine", 1: "fraud"}[int(events.label[row])]
        yield f"{moment} {printable(id_)} {outcome}"
