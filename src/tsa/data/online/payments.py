"""Encode single payments, given as plain values (as from JSON), bit-identical to the events of a store.

The rules are those of logs (`tsa.data.log.rules`). A payment that breaks a rule does not affect the others. Start
with `PaymentReader`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from tsa.config.market import Market
from tsa.data.derived import derive, inputs_of
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import EVERYTHING
from tsa.data.encoding.vocabulary import PADDING_ROW, ImportedVocabulary, Vocabulary, encode_calendar
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.log.rule import range_text
from tsa.data.online.encoded import EncodedPayments, ParsedPayments
from tsa.data.online.rows import Row, RowReader, TypedRow
from tsa.data.raw_values import as_numbers, row_tokens, token_columns
from tsa.data.values import RuleViolation, RuleViolationError, invalid_unicode
from tsa.data.wire.scales import VectorizedScaler
from tsa.errors import DataError
from tsa.text import truncate_repr


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
            raise DataError(
                f"market {market.name} must take histories from a log (got rows that carry their own history)"
            )
        self._pseudonymizer = Pseudonymizer.of(market)
        self.market, self._encoder = (
            market if self._pseudonymizer is None else self._pseudonymizer.market(market),
            encoder,
        )
        domains = {name: domain for name, domain in encoder.domains.items() if domain != EVERYTHING}
        self._row_reader = RowReader(self.market, self._pseudonymizer, domains, refuse_unknown_fields)
        self._inputs, self._domains = inputs_of(market), domains
        features = market.features
        self._token_columns = token_columns(self.market)
        self._texts = tuple(feature.name for feature in features.categorical)
        self._numbers = tuple(feature.name for feature in (*features.numerical, *features.engineered))
        self._rows_of = [_Lookup(vocabulary) for vocabulary in encoder.categorical_vocabularies]
        self._numerical = VectorizedScaler(encoder.numerical_scaling, [math.nan] * len(features.numerical))
        self._engineered = VectorizedScaler(encoder.engineered_scaling, [math.nan] * len(features.engineered))

    def read(self, rows: Sequence[Row], *, outcomes: bool = False) -> ParsedPayments:
        """Read payments.

        Args:
            outcomes: Read the outcome of each, for past events. A current payment has none yet.
        """
        valid: list[TypedRow] = []
        places: list[int] = []
        problems: dict[int, RuleViolation] = {}
        for place, row in enumerate(rows):
            if (problem := invalid_unicode(row)) is not None:
                problems[place] = problem
                continue
            try:
                valid.append(self._row_reader.read(row, outcomes))
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

    def _derive(self, rows: Sequence[TypedRow]) -> Sequence[TypedRow]:
        """Add the derived features to the values of the rows."""
        for row, derived in zip(rows, derive(self.market, [row.inputs for row in rows]), strict=True):
            row.values.update(derived)
        return rows

    def _outside(self, row: TypedRow) -> RuleViolation | None:
        """The violation of a row with a derived feature that cannot be scaled."""
        for name in self.market.derived_names & self._domains.keys():
            low, high = self._domains[name]
            if (number := row.values[name]) is not None and not low < number < high:
                return RuleViolation("out_of_range", name, range_text(low, high), truncate_repr(number))
        return None

    def _encoded(self, rows: Sequence[TypedRow]) -> EncodedPayments:
        market, times = self.market, np.array([row.time_seconds for row in rows], np.float64)
        values = [row.values for row in rows]
        columns = [
            np.array([lookup(row[name]) for row in values], np.int32)
            for lookup, name in zip(self._rows_of, self._texts, strict=True)
        ]
        columns += [encode_calendar(vocabulary, times) for vocabulary in self._encoder.calendar_vocabularies]
        columns += [np.full(len(rows), PADDING_ROW, np.int32)] * len(self._encoder.role_vocabularies)
        n_own = len(market.features.numerical)
        numbers = np.array([[row[name] for name in self._numbers] for row in values], np.float64)
        numbers = numbers.reshape(len(rows), len(self._numbers))
        return EncodedPayments(
            ids=tuple(row[market.event.id] for row in values),
            time_seconds=times,
            keys={view.name: tuple(row[str(view.key)] for row in values) for view in market.views},
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
