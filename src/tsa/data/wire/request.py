"""Read one or a few requests from bytes to arrays, without files, bit-identical to what `reader` and a store give.

Make a `WireReader` once and call `read`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.vocabulary import encode_calendar
from tsa.data.log.rule import plausible
from tsa.data.spelling import UNIT_SCALE
from tsa.data.values import invalid_unicode
from tsa.data.wire.files import current_texts, history_texts, loads
from tsa.data.wire.histories import visible_events
from tsa.data.wire.layout import FieldLayout, HistoryFields
from tsa.data.wire.request_arrays import EventGroup, Requests, history_arrays, seen_events, split_groups
from tsa.data.wire.row_errors import BrokenRowError, RowErrors, number_rule
from tsa.data.wire.row_pieces import HistoryRows, pieces_of
from tsa.data.wire.scales import VectorizedScaler
from tsa.data.wire.spelling import OwnTexts
from tsa.data.wire.tokens import Index, split_texts
from tsa.data.wire.values import Values
from tsa.data.wire.vocabulary_lookup import Places, VocabularyLookup
from tsa.errors import DataError

Payload = bytes | str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class WireReader:
    """Reads requests of a market with an encoder. Make one and reuse it: making it takes longer than reading a request."""

    def __init__(self, market: Market, encoder: Encoder) -> None:
        """Prepare the lookup tables.

        Raises:
            MarketError: If the encoder is for other features, or the market is one of logs.
            ConfigError: If the market uses pseudonyms and the secret is not set.
        """
        encoder.check_market(market)
        self._layout, self._encoder = FieldLayout(market), encoder
        values = Values.of(self._layout, encoder)
        self._values, self._spelling = values, OwnTexts(self._layout)
        self._pseudonyms = values.pseudonyms
        self._texts = VocabularyLookup(values, encoder)
        self._numerical, self._engineered = (
            VectorizedScaler(scaling, [values.default(name) for name in names])
            for scaling, names in (
                (encoder.numerical_scaling, self._layout.numerical),
                (encoder.engineered_scaling, self._layout.engineered),
            )
        )
        self._bounds, self._own_bounds = values.bounds(self._layout.numerical), values.bounds(self._layout.engineered)

    def read(self, payload: Payload) -> Requests:
        """Arrays of the rows given as JSON text (one object or several) or as dicts.

        Raises:
            DataError: Names payment, rule, field and value of the first row that cannot be used.
        """
        payments = _rows_of(payload)
        try:
            rows, own, ids = self._cut(payments)
        except UnicodeEncodeError:
            _refuse_surrogates(payments)
            raise
        problems = RowErrors()
        groups = [self._own(rows, own), *(self._history_group(rows, h, problems) for h in self._layout.histories)]
        _refuse(ids, problems)
        categorical, numerical = self._categorical(rows, groups, ids), self._numbers(rows, groups, ids)
        by_history = zip(self._layout.histories, groups[1:], categorical[1:], numerical[1:], strict=True)
        age_cap = self._layout.wire.age_cap_seconds
        histories = {
            history.name: history_arrays(
                history, group, rows.now, age_cap, (texts, categorical[0]), (values, numerical[0])
            )
            for history, group, texts, values in by_history
        }
        engineered = self._engineered_numbers(rows, own[:, len(self._layout.events) : -2], ids)
        seen = seen_events(self._layout, groups, categorical, numerical)
        return Requests(ids=tuple(ids), time_seconds=rows.now, histories=histories, engineered=engineered, seen=seen)

    def _cut(self, payments: Sequence[Mapping[str, Any]]) -> tuple[HistoryRows, Index, list[str]]:
        """The rows' pieces; the piece of each of the payment's own fields (R, C + F + G + 2); their ids."""
        layout, problems = self._layout, RowErrors()
        histories = history_texts(layout, payments, problems)
        own = current_texts(layout, self._spelling, payments, problems)
        ids = self._ids([row[-1] for row in own])
        _refuse(ids, problems)
        texts, own_values = list(chain.from_iterable(histories)), list(chain.from_iterable(own))
        tokens = split_texts(texts, layout.wire.separator, own_values)
        pieces = np.arange(tokens.first[-1], len(tokens.start)).reshape(len(own), -1)
        fields = np.arange(len(histories))[:, None] * len(layout.history_fields) + layout.numbers
        number_pieces = np.concatenate(
            [pieces_of(tokens, fields.ravel()), pieces[:, len(layout.categorical) : -1].ravel()]
        )
        missing, numbers = tokens.are(layout.wire.missing), np.full(len(tokens.start), np.nan)
        numbers[number_pieces] = tokens.numbers(number_pieces, missing[number_pieces], self._values.read)
        event, now = layout.market.event, numbers[pieces[:, -2]]
        now = np.where(np.isnan(now), self._values.default(event.time), now) / UNIT_SCALE[event.time_unit or "s"]
        rows = HistoryRows(layout, tokens, missing, numbers, now)
        self._note_own(rows, pieces[:, -2], problems)
        _refuse(ids, problems)
        return rows, pieces, ids

    def _ids(self, ids: list[str]) -> list[str]:
        """Ids as shown to callers: as given, or as pseudonyms where the market asks for them."""
        pseudonyms = self._pseudonyms
        if pseudonyms is None or self._layout.market.event.id not in pseudonyms.columns:
            return ids
        return [pseudonyms.of_text(name) if name else name for name in ids]

    def _note_own(self, rows: HistoryRows, pieces: Index, problems: RowErrors) -> None:
        """Note missing or implausible times, pieces (R,), by the rules for logs."""
        now, name = rows.now, self._layout.market.event.time
        first, last = plausible(self._layout.market, time.time())
        valid = (now >= first) & (now <= last)
        if valid.all():
            return
        broken = {"null_time": np.isnan(now), "not_a_number": np.isinf(now), "absurd_time": ~valid}
        for rule, wrong in broken.items():
            which = np.flatnonzero(wrong)
            texts = rows.tokens.texts(pieces[which])
            problems.note(rule, ((row, name, text) for row, text in zip(which.tolist(), texts, strict=True)))

    def _own(self, rows: HistoryRows, own: Index) -> EventGroup:
        c, names = len(self._layout.categorical), self._layout.numerical
        numerical = own[:, c : c + len(names)]
        return EventGroup(np.arange(len(own)), own[:, :c], numerical, self._layout.categorical, names, rows.now)

    def _history_group(self, rows: HistoryRows, history: HistoryFields, problems: RowErrors) -> EventGroup:
        """The events of one history of all rows."""
        events = visible_events(rows, history, problems)
        if problems:  # the pieces of rows that break a rule are meaningless
            events = events.take(slice(0, 0))
        pieces_by_kind = dict(zip(history.kinds, events.tokens(rows, history), strict=True))
        none = np.empty((len(events.row), 0), np.int64)
        pieces = pieces_by_kind.get("categorical", none), pieces_by_kind.get("numerical", none)
        fields = history.parts[0].fields, history.parts[-1].fields[: pieces[1].shape[1]]
        return EventGroup(events.row, *pieces, *fields, events.time_seconds)

    def _categorical(
        self, cut: HistoryRows, groups: Sequence[EventGroup], ids: Sequence[str]
    ) -> list[NDArray[np.int32]]:
        """Embedding-table rows (m, C) of each group."""
        pieces = np.concatenate([group.categorical for group in groups])
        rows, refused = self._texts.rows(cut.tokens, pieces, own=len(groups[0].row))
        if refused:
            self._refuse_texts(cut, groups, pieces, refused, ids)
        if self._encoder.calendar_vocabularies:
            times = np.concatenate([group.time_seconds for group in groups])
            calendar = [encode_calendar(vocabulary, times) for vocabulary in self._encoder.calendar_vocabularies]
            rows = np.column_stack([rows, *calendar])
        return split_groups(rows, groups)

    def _refuse_texts(
        self, cut: HistoryRows, groups: Sequence[EventGroup], pieces: Index, refused: Places, ids: Sequence[str]
    ) -> None:
        row = np.concatenate([group.row for group in groups])
        field = [group.texts for group in groups for _ in group.row]
        problems = RowErrors()
        for at, feature in sorted(refused):
            text = cut.tokens.texts(pieces[at, feature : feature + 1])[0]
            problems.note("not_a_number", [(int(row[at]), field[at][feature], text)])
        _refuse(ids, problems)

    def _numbers(
        self, rows: HistoryRows, groups: Sequence[EventGroup], ids: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Numbers (m, F') of each group."""
        pieces = np.concatenate([group.numerical for group in groups])
        numbers = rows.numbers[pieces]
        bad = self._bounds.bad(numbers)
        if bad.any():
            row = np.concatenate([group.row for group in groups])
            field = [group.fields for group in groups for _ in group.row]
            _refuse_number(rows, pieces, bad, ids, lambda at, feature: (int(row[at]), field[at][feature]))
        return split_groups(self._numerical.encode(numbers), groups)

    def _engineered_numbers(self, rows: HistoryRows, pieces: Index, ids: Sequence[str]) -> NDArray[np.float32]:
        """(R, G')"""
        numbers = rows.numbers[pieces]
        bad = self._own_bounds.bad(numbers)
        if bad.any():
            _refuse_number(rows, pieces, bad, ids, lambda at, feature: (at, self._layout.engineered[feature]))
        return self._engineered.encode(numbers)


def _refuse_number(
    rows: HistoryRows,
    pieces: Index,
    bad: NDArray[np.bool_],
    ids: Sequence[str],
    whose: Callable[[int, int], tuple[int, str]],
) -> None:
    """Raise DataError for the first of the pieces (m, F) that is `bad` (m, F); `whose` gives its row and field."""
    at, feature = np.argwhere(bad)[0].tolist()
    problems, piece = RowErrors(), pieces[at, feature]
    rule = number_rule(float(rows.numbers[piece]))
    problems.note(rule, [(*whose(at, feature), rows.tokens.texts(piece[None])[0])])
    _refuse(ids, problems)


def _rows_of(payload: Payload) -> Sequence[Mapping[str, Any]]:
    """The rows of a request. Raises DataError unless it is a JSON object or several."""
    value = loads(payload, "request") if isinstance(payload, bytes | str) else payload
    rows = [value] if isinstance(value, Mapping) else value
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise DataError(f"request must hold an object per payment (got {type(value).__name__})")
    if wrong := [row for row in rows if not isinstance(row, Mapping)]:
        raise DataError(f"request must hold an object per payment (got {type(wrong[0]).__name__})")
    return rows


def _refuse_surrogates(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for the first row with a text that is not valid Unicode."""
    problems = RowErrors()
    for row, payment in enumerate(rows):
        if (wrong := invalid_unicode(payment)) is not None:
            problems.note("not_a_text", [(row, wrong.field, wrong.value)])
    _refuse([""] * len(rows), problems)


def _refuse(ids: Sequence[str], problems: RowErrors) -> None:
    if problems:
        row = min(problems)
        who = f"payment {ids[row]!r}" if ids[row] else f"payment number {row + 1}"
        raise BrokenRowError(f"{who}: {problems[row]}", problems[row])
