"""One transaction on the history store: read the histories of some payments, score them, append them with their answers.

`try_commit` returns None if the store changed before the commit; the caller retries it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from tsa.data.clean_columns import ASKS
from tsa.data.online.encoded import EVENT_ARRAYS, EncodedPayments, tie_break_key
from tsa.data.online.histories import HistoryEvents, Key
from tsa.data.values import RuleViolation
from tsa.errors import HistoryLost
from tsa.serving.history.base import PAYMENTS, HistoryStore, StoreKey, WriteBatch
from tsa.serving.history.blocks import HistoryBlock, no_events, select_events
from tsa.serving.history.identity import ADVICE
from tsa.serving.history.records import Record
from tsa.serving.history.reencode import MissingRecordsError, encode_stale
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.pipeline import ScoringPipeline, violation


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """Versions, records and history blocks read from the store for these payments."""

    stamps: Mapping[StoreKey, int]
    records: Mapping[str, Record]
    blocks: Mapping[Key, HistoryBlock]


class ScoringTransaction:
    """Scores B payments against the store and appends them."""

    def __init__(
        self,
        store: HistoryStore,
        pipeline: ScoringPipeline,
        payments: EncodedPayments,
        ids: Sequence[str],
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """Args:
        ids: (B,) ids as the clients sent them, used in the answers; the ids in `payments` may be pseudonymized.
        timed: context manager that measures a named step.
        """
        self._store, self._pipeline, self._payments, self._timed = store, pipeline, payments, timed
        self._given_ids = ids
        self._times: list[float] = payments.time_seconds.tolist()

    def try_commit(self) -> list[ScoreResult | RuleViolation] | None:
        """Make one attempt.

        Returns:
            (B,) a result or a rule violation for each payment; None if the store changed before the commit.

        Raises:
            HistoryUnavailable: the store cannot be read or written.
            HistoryLost: the store has lost records of payments.
        """
        turns = self._store.turns
        with self._timed("read"):
            snapshot = self._read_snapshot()
        if self._store.turns != turns:  # the store was adopted in between: the caller must check it against the bundle
            return None
        if suspects := self._without_record(snapshot):
            self._check_evicted(
                {self._payments.ids[row] for row in suspects}, [k for row in suspects for k in self._keys(row)]
            )
            return None
        out: dict[int, ScoreResult | RuleViolation] = {}
        same_as: dict[int, int] = {}
        todo = list(self._to_score(snapshot, out, same_as))
        if todo and not self._score_and_append(snapshot, todo, out):
            return None
        for row, first in same_as.items():
            one = out[first]
            out[row] = replace(one, id=self._given_ids[row], replayed=True) if isinstance(one, ScoreResult) else one
        return [out[row] for row in range(len(self._payments))]

    def _keys(self, row: int) -> Iterator[Key]:
        for view in self._pipeline.market.views:
            key = self._payments.keys[view.name][row]
            if key is not None:
                yield view.history, key

    def _read_snapshot(self) -> _Snapshot:
        places: dict[StoreKey, None] = {(PAYMENTS, id_): None for id_ in self._payments.ids}
        for row in range(len(self._payments)):
            places.update(dict.fromkeys(self._keys(row)))
        values = self._store.read(list(places))
        return _Snapshot(
            stamps={place: stored.version for place, stored in values.items()},
            records={place[1]: Record.unpack(stored.data) for place, stored in values.items() if not place[0]},
            blocks={place: HistoryBlock.unpack(stored.data) for place, stored in values.items() if place[0]},
        )

    def _without_record(self, snapshot: _Snapshot) -> list[int]:
        """The rows that are already in a history although the store has no record of them."""
        rows = []
        for row, id_ in enumerate(self._payments.ids):
            if id_ in snapshot.records:
                continue
            moment = self._times[row], tie_break_key(id_)
            blocks = (snapshot.blocks.get(key) for key in self._keys(row))
            if any(block and block.newest >= moment and id_ in block.events.ids for block in blocks):
                rows.append(row)
        return rows

    def _check_evicted(self, ids: set[str], keys: Sequence[Key]) -> None:
        """Raise HistoryLost if one of these blocks has an event whose record is missing from the store.

        A record and its events are written and deleted together, or the event is deleted first, so this means eviction.
        """
        recorded = {place[1] for place in self._store.read([(PAYMENTS, id_) for id_ in ids])}
        for stored in self._store.read(list(dict.fromkeys(keys))).values():
            if evicted := (ids - recorded).intersection(HistoryBlock.unpack(stored.data).events.ids):
                raise HistoryLost(
                    f"the history store has lost the records of {len(evicted)} payments: {ADVICE}", "evicted"
                )

    def _to_score(
        self, snapshot: _Snapshot, out: dict[int, ScoreResult | RuleViolation], same_as: dict[int, int]
    ) -> Iterator[int]:
        """The rows to score. For the others, puts the answer into `out`, or the row they repeat into `same_as`."""
        first_row: dict[str, int] = {}
        for row, id_ in enumerate(self._payments.ids):
            first, record = first_row.setdefault(id_, row), snapshot.records.get(id_)
            other = record or (Record.of(self._pipeline.market, self._payments, first, None) if first != row else None)
            if other is not None and (column := other.first_difference(self._times[row], self._payments.raw[row])):
                out[row] = self._conflict(row, column)
            elif record is not None and record.answer is not None:
                out[row] = ScoreResult.from_stored(self._given_ids[row], record.answer)
            elif first != row:
                same_as[row] = first
            elif (problem := self._check_lateness(snapshot, row)) is not None:
                out[row] = problem
            else:
                yield row

    def _conflict(self, row: int, column: str) -> RuleViolation:
        event = self._pipeline.market.event
        text = f"must not be that of another payment, with another {event.time if column == 'time' else column}"
        return violation("conflicting_id", event.id, text, self._payments.ids[row])

    def _check_lateness(self, snapshot: _Snapshot, row: int) -> RuleViolation | None:
        """The violation of a payment that is later than the market allows, or whose history is no longer complete."""
        now, limit, event = self._times[row], self._pipeline.late_seconds, self._pipeline.market.event
        for name, key in self._keys(row):
            block = snapshot.blocks.get((name, key))
            if (
                block is None
                or not len(block)
                or (newest := block.newest) < (now, tie_break_key(self._payments.ids[row]))
            ):
                continue
            if limit is not None and now < newest[0] - limit and self._payments.ids[row] not in snapshot.records:
                text = f"must not be more than {limit:g} s before the last payment of its {name}"
                return violation("too_late", event.time, text, self._payments.raw[row].get(event.time, now))
            if now <= block.complete_after_seconds:
                if now == newest[0]:
                    text = f"must be finer: its {name} has more payments at this time than are stored"
                    return violation("coarse_time", event.time, text, self._payments.raw[row].get(event.time, now))
                text = f"must not be so early that the earlier payments of its {name} are no longer stored"
                return violation("too_late", event.time, text, now)
        return None

    def _score_and_append(
        self, snapshot: _Snapshot, todo: Sequence[int], out: dict[int, ScoreResult | RuleViolation]
    ) -> bool:
        """Score the rows `todo`, put the answers into `out` and append them; False if the store changed in between."""
        payments = self._payments if len(todo) == len(self._payments) else self._payments.take(todo)
        keys = dict.fromkeys(key for row in todo for key in self._keys(row))
        with self._timed("read"):
            blocks = self._reencode_stale({key: snapshot.blocks[key] for key in keys if key in snapshot.blocks})
        if blocks is None:
            return False
        with self._timed("score"):
            past = _exclude_ids(blocks, {id_ for id_ in payments.ids if id_ in snapshot.records})
            answers = self._pipeline.score(payments, past, [self._given_ids[row] for row in todo])
        out.update(zip(todo, answers, strict=True))
        with self._timed("write"):
            return self._append(snapshot, payments, keys, blocks, answers)

    def _reencode_stale(self, blocks: dict[Key, HistoryBlock]) -> dict[Key, HistoryBlock] | None:
        """The blocks, all in this bundle's encoding; None if a block has an event whose payment is gone."""
        pipeline = self._pipeline
        try:
            return encode_stale(self._store, blocks, pipeline.market, pipeline.encoder, pipeline.mark)
        except MissingRecordsError as error:
            self._check_evicted(error.ids, error.keys)
            return None

    def _append(
        self,
        snapshot: _Snapshot,
        payments: EncodedPayments,
        keys: Mapping[Key, None],
        blocks: Mapping[Key, HistoryBlock],
        answers: Sequence[ScoreResult | RuleViolation],
    ) -> bool:
        """Write the scored payments and append them to their histories, in one atomic commit."""
        put: dict[StoreKey, bytes] = {}
        members: dict[Key, list[int]] = {}
        for row, (id_, answer) in enumerate(zip(payments.ids, answers, strict=True)):
            if isinstance(answer, RuleViolation):
                continue
            record, result = snapshot.records.get(id_), answer.stored_fields()
            put[PAYMENTS, id_] = (
                Record.of(self._pipeline.market, payments, row, result)
                if record is None
                else record.with_result(result)
            ).pack()
            asks = payments.role[row] == ASKS  # recorded with its answer, but in no history
            for view in self._pipeline.market.views if record is None and not asks else ():
                if (key := payments.keys[view.name][row]) is not None:
                    rows = members.setdefault((view.history, key), [])
                    if row not in rows[-1:]:  # the same key in two columns: one place
                        rows.append(row)
        events: dict[tuple[int, ...], HistoryEvents] = {}
        for place, rows in members.items():
            if (new := events.get(tuple(rows))) is None:
                new = events[tuple(rows)] = _events(payments, rows)
            put[place] = self._joined(blocks.get(place), new, place[0]).pack()
        seen = {place: snapshot.stamps.get(place) for place in (*((PAYMENTS, id_) for id_ in payments.ids), *keys)}
        return self._store.commit(WriteBatch(expected_versions=seen, puts=put))

    def _joined(self, block: HistoryBlock | None, new: HistoryEvents, history: str) -> HistoryBlock:
        if block is None:
            block = HistoryBlock(events=no_events(new), encoder_hash=self._pipeline.mark)
        return block.with_events(new, self._pipeline.keep[history])


def _events(payments: EncodedPayments, rows: list[int]) -> HistoryEvents:
    """New payments as history events, in (time, id) order."""
    times = payments.time_seconds
    order = rows if len(rows) == 1 else sorted(rows, key=lambda row: (times[row], tie_break_key(payments.ids[row])))
    n = len(order)
    arrays = {name: getattr(payments, name)[order] for name in EVENT_ARRAYS}
    arrays |= {"label": np.full(n, -1, np.int8), "known_at_seconds": np.full(n, np.inf)}
    return HistoryEvents(ids=tuple(payments.ids[row] for row in order), **arrays)


def _exclude_ids(blocks: Mapping[Key, HistoryBlock], ids: set[str]) -> dict[Key, HistoryEvents]:
    """The events of the blocks, without those of the payments that are being scored."""
    if not ids:
        return {key: block.events for key, block in blocks.items()}
    events = {}
    for key, block in blocks.items():
        rows = np.flatnonzero([id_ not in ids for id_ in block.events.ids])
        events[key] = select_events(block.events, rows)
    return events
