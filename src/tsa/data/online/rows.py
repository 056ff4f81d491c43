"""Read the values of single payments, given as plain values, by the rules of logs (`tsa.data.log.rules`)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from datetime import time as dt_time
from typing import Any

from tsa.config.derived import DerivedInput
from tsa.config.market import Market
from tsa.config.tables import RowRule
from tsa.data.clean_columns import ASKS, HISTORY_ONLY, SCORED
from tsa.data.derived import IS_TEXT, LIMITS, inputs_of
from tsa.data.encoding.scaler import Domain
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.log.rule import BOOLEAN, degrees_text, plausible, range_text, time_text
from tsa.data.log.rules import DATE_LENGTH, KNOWN_EARLY, needed_columns
from tsa.data.spelling import BLANKS, Spelling
from tsa.data.values import (
    RuleViolationError,
    is_one_of,
    key_of,
    label_of,
    normalise_text,
    number_of,
    parse_epoch_seconds,
)
from tsa.times import DAY_SECONDS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TypedRow:
    """The typed values of a row."""

    values: dict[str, Any]
    time_seconds: float
    label: int
    known_at_seconds: float
    inputs: dict[str, str | float | None]
    """The typed inputs of derived features."""
    role: int


def with_joined(market: Market, row: Row) -> Row:
    """The row with the columns of `[input] joined` that it lacks, as `tsa.data.log.id_and_joined_columns` makes them of a log."""
    added = {}
    for made in market.reading.joined or ():
        if made.name in row or not all(name in row for name in made.columns):
            continue
        texts = [_part(row[name], name, Spelling.of(market)) for name in made.columns]
        added[made.name] = None if None in texts else made.separator.join(text.strip(BLANKS) for text in texts if text)
    return {**row, **added} if added else row


def _part(value: object, name: str, spelling: Spelling) -> str | None:
    """A value as a text; dates and times of day as `columns.text` writes them."""
    return normalise_text(value.isoformat() if isinstance(value, date | dt_time) else value, name, spelling)


class RowReader:
    """Reads the rows of a market of logs. Derived features are left to the reader of payments."""

    def __init__(
        self,
        market: Market,
        pseudonymizer: Pseudonymizer | None,
        domains: Mapping[str, Domain],
        refuse_unknown_fields: bool,
    ) -> None:
        """Args:
        market: With the values to exclude as pseudonyms, where the market asks for these.
        domains: By feature the numbers that can be scaled, where these are not all.
        """
        self.market, self._pseudonymizer = market, pseudonymizer
        self._refuse_unknown = refuse_unknown_fields
        self._spelling = Spelling.of(market)
        self._keys = {market.event.id, *market.key_columns}
        self._needed = needed_columns(market, need_label=False)
        self._columns = tuple(name for name in market.raw_columns if name not in market.derived_names)
        self._inputs = inputs_of(market)
        self._known = {
            *self._columns,
            market.event.time,
            market.label.column,
            market.label.known_at,
            *([] if market.label.decision is None else [market.label.decision.column]),
            *self._needed,
            *(name for made in market.reading.joined or () for name in made.columns),
        }
        self._number_columns = market.number_columns
        self._domains = domains

    def read(self, row: Row, outcomes: bool) -> TypedRow:
        """The typed values of a row, and its outcome if `outcomes`. Raises RuleViolationError."""
        if not isinstance(row, Mapping):
            raise RuleViolationError("not_an_object", "payment", "must be an object of fields", row)
        row = with_joined(self.market, row)
        self._check_fields(row)
        event = self.market.event
        now = self._time(row, event.time)
        if now is None:
            raise RuleViolationError("null_time", event.time, "must not be missing", row.get(event.time))
        first, last = plausible(self.market, time.time())
        if not first <= now <= last:
            raise RuleViolationError("absurd_time", event.time, time_text(self.market), row[event.time])
        values: dict[str, Any] = {}
        for name in self._columns:
            values[name] = self._number(row, name) if name in self._number_columns else self._text(row, name)
        for name, (low, high) in self._domains.items():
            if (number := values.get(name)) is not None and not low < number < high:
                raise RuleViolationError("out_of_range", name, range_text(low, high), row[name])
        if values[event.id] is None:
            raise RuleViolationError("null_id", event.id, "must not be missing", row.get(event.id))
        self._refuse_excluded(row)
        role = self._role(row)
        label, known_at = self._outcome(row, now, role) if outcomes else (-1, math.inf)
        inputs = {place: self._input(row, item) for place, item in self._inputs.items()}
        return TypedRow(values, now, label, known_at, inputs, role)

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
        """As in `tsa.data.log.row_sets`: the same text, or the same number however it is spelled."""
        text = self._text(row, name)
        return text is not None and is_one_of(row.get(name), text, values, name, self._spelling)

    def _is_declined(self, row: Row, role: int) -> bool:
        """Whether a past payment was declined, so that its outcome counts for nothing: as `tsa.data.log.row_sets.role`."""
        rule = self.market.label.decision
        return rule is not None and rule.column in row and self._applies(rule, row) and role == SCORED

    def _outcome(self, row: Row, now: float, role: int) -> tuple[int, float]:
        """(label, when it is known)."""
        label = self.market.label
        outcome = label_of(row.get(label.column), label, self._spelling)
        if outcome == -1 or self._is_declined(row, role):
            return -1, math.inf
        if label.known_at is None:
            return outcome, now + label.gap_seconds
        known_at = self._time(row, label.known_at)
        if known_at is None:
            return outcome, math.inf
        value = row[label.known_at]
        is_text = self.market.event.time_unit is None and isinstance(value, str)
        if (is_text and len(value.strip()) == DATE_LENGTH) or type(value) is date:
            known_at += DAY_SECONDS
        if known_at < now:
            raise RuleViolationError("known_too_early", label.known_at, KNOWN_EARLY, value)
        return outcome, known_at
