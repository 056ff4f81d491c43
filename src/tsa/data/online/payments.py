"""Encode single payments, given as plain values (as from JSON), bit-identical to the events of a store.

The rules are those of logs (`tsa.data.log.rules`). A payment that breaks a rule does not affect the others. Start
with `PaymentReader`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from tsa.config.derived import DerivedInput
from tsa.config.market import Market
from tsa.config.tables import RowRule
from tsa.data.clean_columns import ASKS, HISTORY_ONLY, SCORED
from tsa.data.derived import IS_TEXT, LIMITS, derive, inputs_of
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import EVERYTHING
from tsa.data.encoding.vocabulary import ImportedVocabulary, Vocabulary, encode_calendar
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.log.rule import BOOLEAN, degrees_text, range_text
from tsa.data.log.rules import DATE_LENGTH, KNOWN_EARLY, TEN_YEARS_SECONDS, needed_columns
from tsa.data.online.encoded import EncodedPayments, ParsedPayments
from tsa.data.raw_values import as_numbers, row_tokens, token_columns
from tsa.data.spelling import EARLIEST_SECONDS, Spelling
from tsa.data.values import RuleViolation, RuleViolationError, key_of, normalise_text, number_of, parse_epoch_seconds
from tsa.data.wire.scales import VectorizedScaler
from tsa.errors import DataError
from tsa.text import truncate_repr
from tsa.times import DAY_SECONDS

Row = Mapping[str, Any]


class PaymentReader:
    """Reads payments of a market of logs with an encoder. Make one and reuse it."""

    def __init__(self, market: Market, encoder: Encoder, *, refuse_unknown_fields: bool = False) -> None:
        """Prepare the reader.

        Args:
            refuse_unknown_fields: Refuse rows with fields that the market does not name; by default they are ignored.

        Raises:
            MarketError: If the encoder is for other features.
            ConfigError: If the market uses pseudonyms and the secret is not set.
            DataError: If the market's rows carry their own history (see `WireReader`).
        """
        encoder.check_market(market)
        if market.wire is not None:
            raise DataError(f"market {market.name} must be one of logs (got its rows carry their own history)")
        self._pseudonymizer = Pseudonymizer.of(market)
        self.market, self._encoder = (
            market if self._pseudonymizer is None else self._pseudonymizer.market(market),
            encoder,
        )
        self._refuse_unknown = refuse_unknown_fields
        self._spelling = Spelling.of(market)
        self._keys = {market.event.id, *(history.key for history in market.history)}
        self._needed = needed_columns(market, need_label=False)
        self._columns = tuple(name for name in market.raw_columns if name not in market.derived_names)
        self._inputs = inputs_of(market)
        self._known = {
            *self._columns,
            market.event.time,
            market.label.column,
            market.label.known_at,
            *self._needed,
        }
        features = market.features
        self._token_columns = token_columns(self.market)
        self._texts = tuple(feature.name for feature in features.categorical)
        self._numbers = tuple(feature.name for feature in (*features.numerical, *features.engineered))
        self._number_columns = market.number_columns
        self._domains = {name: domain for name, domain in encoder.domains.items() if domain != EVERYTHING}
        self._rows_of = [_Lookup(vocabulary) for vocabulary in encoder.categorical_vocabularies]
        self._numerical = VectorizedScaler(encoder.numerical_scaling, [math.nan] * len(features.numerical))
        self._engineered = VectorizedScaler(encoder.engineered_scaling, [math.nan] * len(features.engineered))

    def read(
        self, rows: Sequence[Row], *, outcomes: bool = False, known: Mapping[int, RuleViolation] | None = None
    ) -> ParsedPayments:
        """Read payments.

        Args:
            outcomes: Read the outcome of each, for past events. A current payment has none yet.
            known: Violations found before, by position; such rows are not read.
        """
        valid: list[_Clean] = []
        places: list[int] = []
        problems: dict[int, RuleViolation] = dict(known or {})
        for place, row in enumerate(rows):
            if place in problems:
                continue
            try:
                valid.append(self._clean(row, outcomes))
                places.append(place)
            except RuleViolationError as error:
                problems[place] = error.problem
        if self._inputs:
            outside = {at: problem for at, row in enumerate(self._derive(valid)) if (problem := self._outside(row))}
            problems |= {places[at]: problem for at, problem in outside.items()}
            valid = [row for at, row in enumerate(valid) if at not in outside]
            places = [place for at, place in enumerate(places) if at not in outside]
        return ParsedPayments(payments=self._encoded(valid), positions=tuple(places), problems=problems)

    def read_all(self, rows: Sequence[Row], *, outcomes: bool = False) -> EncodedPayments:
        """As `read`.

        Raises:
            DataError: For the first payment that breaks a rule, with field, rule and value.
        """
        parsed = self.read(rows, outcomes=outcomes)
        for place, problem in parsed.problems.items():
            raise DataError(f"payment number {place + 1}: {problem}")
        return parsed.payments

    def _clean(self, row: Row, outcomes: bool) -> _Clean:
        """The typed values of a row. Raises RuleViolationError."""
        if not isinstance(row, Mapping):
            raise RuleViolationError("not_an_object", "payment", "must be an object of fields", row)
        self._check_fields(row)
        event = self.market.event
        now = self._time(row, event.time)
        if now is None:
            raise RuleViolationError("null_time", event.time, "must not be missing", row.get(event.time))
        if not EARLIEST_SECONDS <= now <= time.time() + TEN_YEARS_SECONDS:
            text = "must be from 1990 to ten years from now"
            raise RuleViolationError("absurd_time", event.time, text, row[event.time])
        values: dict[str, Any] = {}
        for name in self._columns:
            values[name] = self._number(row, name) if name in self._number_columns else self._text(row, name)
        for name, (low, high) in self._domains.items():
            if (number := values.get(name)) is not None and not low < number < high:
                raise RuleViolationError("out_of_range", name, range_text(low, high), row[name])
        if values[event.id] is None:
            raise RuleViolationError("null_id", event.id, "must not be missing", row.get(event.id))
        self._refuse_excluded(row)
        label, known_at = self._outcome(row, now) if outcomes else (-1, math.inf)
        inputs = {place: self._input(row, item) for place, item in self._inputs.items()}
        return _Clean(values, now, label, known_at, inputs, self._role(row))

    def _role(self, row: Row) -> int:
        """As `tsa.data.log.row_sets.role`."""
        event = self.market.event
        if event.asks is not None and self._applies(event.asks, row):
            return ASKS
        return SCORED if event.scored is None or self._applies(event.scored, row) else HISTORY_ONLY

    def _applies(self, rule: RowRule, row: Row) -> bool:
        if rule.values is not None:
            return self._is_one_of(row, rule.column, rule.values)
        try:
            value = self._number(row, rule.column)
        except RuleViolationError:
            value = None
        if value not in (0.0, 1.0):
            raise RuleViolationError(BOOLEAN[0], rule.column, BOOLEAN[1], row[rule.column])
        return value == 1.0

    def _input(self, row: Row, item: DerivedInput) -> str | float | None:
        """A typed input of a derived feature, as `tsa.data.log.derived_rules` reads it from a log."""
        name = item.column
        if IS_TEXT.get(item.kind):
            read = key_of if item.kind == "digits" else normalise_text
            return read(row.get(name), name, self._spelling)
        if item.kind == "time":
            return parse_epoch_seconds(row.get(name), name, item.time_unit, self._spelling)
        number, limit = self._number(row, name), LIMITS.get(item.kind)
        if number is not None and limit is not None and abs(number) > limit:
            raise RuleViolationError("out_of_range", name, degrees_text(limit), row[name])
        return number

    def _derive(self, rows: Sequence[_Clean]) -> Sequence[_Clean]:
        """Add the derived features to the values of the rows."""
        for row, derived in zip(rows, derive(self.market, [row.inputs for row in rows]), strict=True):
            row.values.update(derived)
        return rows

    def _outside(self, row: _Clean) -> RuleViolation | None:
        """The violation of a row with a derived feature that cannot be scaled."""
        for name in self.market.derived_names & self._domains.keys():
            low, high = self._domains[name]
            if (number := row.values[name]) is not None and not low < number < high:
                return RuleViolation("out_of_range", name, range_text(low, high), truncate_repr(number))
        return None

    def _check_fields(self, row: Row) -> None:
        for name in self._needed:
            if name not in row:
                raise RuleViolationError("missing_field", name, "is required (null if there is no value)", None)
        if self._refuse_unknown:
            for name in row:
                if name not in self._known:
                    raise RuleViolationError("unknown_field", str(name), "must be a field of the market", row[name])

    def _text(self, row: Row, name: str) -> str | None:
        read = key_of if name in self._keys else normalise_text
        value = read(row.get(name), name, self._spelling)
        if self._pseudonymizer is None or value is None or name not in self._pseudonymizer.columns:
            return value
        return self._pseudonymizer.of_text(value)

    def _number(self, row: Row, name: str) -> float | None:
        return number_of(row.get(name), name, self._spelling)

    def _time(self, row: Row, name: str) -> float | None:
        return parse_epoch_seconds(row.get(name), name, self.market.event.time_unit, self._spelling)

    def _refuse_excluded(self, row: Row) -> None:
        for rule in self.market.features.exclude:
            if self._is_one_of(row, rule.column, rule.values):
                text = "must not be one of those that the market excludes"
                raise RuleViolationError("excluded", rule.column, text, row.get(rule.column))

    def _is_one_of(self, row: Row, name: str, values: Sequence[Any]) -> bool:
        """As `tsa.data.log.row_sets` tells it: the same text, or the same number however it is spelled."""
        text = self._text(row, name)
        if text is None:
            return False
        if text in {normalise_text(value, name, self._spelling) for value in values}:
            return True
        try:
            number = self._number(row, name)
        except RuleViolationError:
            return False
        return number in [float(value) for value in values if not isinstance(value, str | bool)]

    def _outcome(self, row: Row, now: float) -> tuple[int, float]:
        """(label, when it is known)."""
        label = self.market.label
        outcome = self._number(row, label.column)
        if outcome is None or outcome == -1.0:
            return -1, math.inf
        if outcome not in (0.0, 1.0):
            raise RuleViolationError("bad_label", label.column, "must be 0, 1, -1 or null", row[label.column])
        if label.known_at is None:
            return int(outcome), now + label.gap_seconds
        known_at = self._time(row, label.known_at)
        if known_at is None:
            return int(outcome), math.inf
        value = row[label.known_at]
        is_text = self.market.event.time_unit is None and isinstance(value, str)
        if (is_text and len(value.strip()) == DATE_LENGTH) or type(value) is date:
            known_at += DAY_SECONDS
        if known_at < now:
            raise RuleViolationError("known_too_early", label.known_at, KNOWN_EARLY, value)
        return int(outcome), known_at

    def _encoded(self, rows: Sequence[_Clean]) -> EncodedPayments:
        market, times = self.market, np.array([row.time_seconds for row in rows], np.float64)
        values = [row.values for row in rows]
        columns = [
            np.array([lookup(row[name]) for row in values], np.int32)
            for lookup, name in zip(self._rows_of, self._texts, strict=True)
        ]
        columns += [encode_calendar(vocabulary, times) for vocabulary in self._encoder.calendar_vocabularies]
        n_own = len(market.features.numerical)
        numbers = np.array([[row[name] for name in self._numbers] for row in values], np.float64)
        numbers = numbers.reshape(len(rows), len(self._numbers))
        return EncodedPayments(
            ids=tuple(row[market.event.id] for row in values),
            time_seconds=times,
            keys={h.name: tuple(row[str(h.key)] for row in values) for h in market.history},
            categorical=np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), np.int32),
            numerical=self._numerical.encode(numbers[:, :n_own]),
            engineered=self._engineered.encode(numbers[:, n_own:]),
            tokens=row_tokens(values, self._token_columns),
            raw_numerical=as_numbers(numbers[:, :n_own]),
            label=np.array([row.label for row in rows], np.int8),
            known_at_seconds=np.array([row.known_at_seconds for row in rows], np.float64),
            role=np.array([row.role for row in rows], np.int8),
            raw=tuple(values),
        )


@dataclass(frozen=True)
class _Clean:
    values: dict[str, Any]
    time_seconds: float
    label: int
    known_at_seconds: float
    inputs: dict[str, str | float | None]
    """The typed inputs of derived features."""
    role: int


class _Lookup:
    """The embedding-table row of a text, or of a missing value."""

    def __init__(self, vocabulary: Vocabulary | ImportedVocabulary) -> None:
        self._vocabulary = vocabulary
        if isinstance(vocabulary, ImportedVocabulary):
            self._rows = dict(vocabulary.row_of)
            self._has_spellings = vocabulary.integers
        else:
            self._rows = {value: vocabulary.known_row + at for at, value in enumerate(vocabulary.values)}
            self._has_spellings = False

    def __call__(self, text: str | None) -> int:
        if text is None:
            return self._vocabulary.missing_row
        if self._has_spellings:
            frame = pl.DataFrame({self._vocabulary.name: [text]}, schema={self._vocabulary.name: pl.String})
            return int(self._vocabulary.encode(frame)[0])
        return self._rows.get(text, self._vocabulary.unknown_row)
