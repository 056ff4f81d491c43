"""Single payments, from plain values (as JSON has them) to the encoded events that a store holds, to the same bit.

What a column means is said by the market, what a value becomes by the encoder; the rules are those of logs
(`tsa.data.rules`). One payment that breaks a rule does not spoil the others. It does not know histories or files.
"""

from __future__ import annotations

import math
import re
import reprlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.columns import EARLIEST_SECONDS, ISO_TIME, LARGEST_EXACT, UNIT_SCALE
from tsa.data.encoder import Encoder
from tsa.data.pseudonyms import Pseudonyms
from tsa.data.rules import TEN_YEARS_SECONDS, needed_columns
from tsa.data.scaling import EVERYTHING
from tsa.data.vocabulary import GivenVocabulary, Vocabulary, encode_calendar
from tsa.data.wire.scales import Scales
from tsa.errors import DataError
from tsa.schema import Market

Row = Mapping[str, Any]
SHOWN = 40
"""Characters of a value that an error shows."""

_ISO = re.compile(ISO_TIME)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_TRUTH = {"true": 1.0, "false": 0.0}
# no two repetitions beside each other that take the same characters: time grows with the text's length, not its square
_NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf|infinity|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """A rule that a payment breaks: `text` says what was expected of `field`, `value` what stood there, shortened."""

    rule: str
    field: str
    text: str
    value: str

    def __str__(self) -> str:
        return f"{self.field} {self.text}, however: {self.value} (rule {self.rule})"


class BrokenRuleError(Exception):
    """Carries a Problem to where it is noted."""

    def __init__(self, rule: str, field: str, text: str, value: object) -> None:
        self.problem = Problem(rule, field, text, shown_value(value))
        super().__init__(str(self.problem))


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 4
_SHORT.maxlist = _SHORT.maxdict = SHOWN
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 2 * SHOWN


def shown_value(value: object) -> str:
    """A value as an error shows it: shortened, and never looked into deeper than that takes."""
    text = _SHORT.repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


@dataclass(frozen=True, kw_only=True, eq=False)
class Payments:
    """B encoded payments."""

    ids: tuple[str, ...]
    """Spelled as texts, veiled where the market asks for it."""
    time_seconds: NDArray[np.float64]
    """(B,)"""
    keys: Mapping[str, tuple[str | None, ...]]
    """By history: whose payment each is; None: no history under that key."""
    categorical: NDArray[np.int32]
    """(B, C)"""
    numerical: NDArray[np.float32]
    """(B, F)"""
    engineered: NDArray[np.float32]
    """(B, G)"""
    label: NDArray[np.int8]
    """(B,) 1 fraud, 0 genuine, -1 not known; never an input of the payment itself."""
    known_at_seconds: NDArray[np.float64]
    """(B,) when the label becomes known; +inf for never."""
    raw: tuple[Mapping[str, Any], ...]
    """The clean values by column: what it takes to encode the payment anew."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Payments:
        """Some of the payments, in the order of `rows`."""
        at = np.asarray(rows, np.int64)
        arrays = ("time_seconds", "categorical", "numerical", "engineered", "label", "known_at_seconds")
        return Payments(
            ids=tuple(self.ids[row] for row in rows),
            keys={name: tuple(keys[row] for row in rows) for name, keys in self.keys.items()},
            raw=tuple(self.raw[row] for row in rows),
            **{name: getattr(self, name)[at] for name in arrays},
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of the rows of a request: the sound ones, where they stood, and what is wrong with the others."""

    payments: Payments
    rows: tuple[int, ...]
    """Of each payment, its place among the rows that were read."""
    problems: Mapping[int, Problem]
    """By place among the rows."""


def tie(id_: str) -> tuple[int, str]:
    """What breaks ties in time: as `tsa.data.events`, texts go by length in bytes, then by letters."""
    return len(id_.encode()), id_


class PaymentReader:
    """Reads payments of a market of logs with an encoder. Make one and keep it."""

    def __init__(self, market: Market, encoder: Encoder, *, refuse_unknown_fields: bool = False) -> None:
        """refuse_unknown_fields: a field that the market does not know breaks a rule; else it is not looked at.

        Raises MarketError when the encoder is for other features, ConfigError where the market asks for pseudonyms and
        there is no secret, DataError for a market whose rows carry their own history (`WireReader` reads these).
        """
        encoder.check_market(market)
        if market.wire is not None:
            raise DataError(f"market {market.name} must be one of logs, however: its rows carry their own history")
        self._veil = Pseudonyms.of(market)
        self.market, self._encoder = market if self._veil is None else self._veil.market(market), encoder
        self._refuse_unknown = refuse_unknown_fields
        self._needed = needed_columns(market, need_label=False)
        self._columns = market.raw_columns
        self._known = {
            *self._columns,
            market.event.time,
            market.label.column,
            market.label.known_at,
            *self._needed,
        }
        features = market.features
        self._texts = tuple(feature.name for feature in features.categorical)
        self._numbers = tuple(feature.name for feature in (*features.numerical, *features.engineered))
        amount = () if market.event.amount is None else (market.event.amount,)
        self._number_columns = frozenset((*self._numbers, *amount))
        self._domains = {name: domain for name, domain in encoder.domains.items() if domain != EVERYTHING}
        self._rows_of = [_Lookup(vocabulary) for vocabulary in encoder.categorical_vocabularies]
        self._numerical = Scales(encoder.numerical_scaling, [math.nan] * len(features.numerical))
        self._engineered = Scales(encoder.engineered_scaling, [math.nan] * len(features.engineered))

    def read(self, rows: Sequence[Row], *, outcomes: bool = False) -> Found:
        """Read payments. outcomes: also what became of each, for events of the past; a current one has none yet."""
        sound: list[_Clean] = []
        places: list[int] = []
        problems: dict[int, Problem] = {}
        for place, row in enumerate(rows):
            try:
                sound.append(self._clean(row, outcomes))
                places.append(place)
            except BrokenRuleError as error:
                problems[place] = error.problem
        return Found(payments=self._encoded(sound), rows=tuple(places), problems=problems)

    def read_all(self, rows: Sequence[Row], *, outcomes: bool = False) -> Payments:
        """As `read`, but DataError where a payment breaks a rule: the first one, with field, rule and value."""
        found = self.read(rows, outcomes=outcomes)
        for place, problem in found.problems.items():
            raise DataError(f"payment number {place + 1}: {problem}")
        return found.payments

    def _clean(self, row: Row, outcomes: bool) -> _Clean:
        """The typed values of a row. Raises BrokenRuleError."""
        if not isinstance(row, Mapping):
            raise BrokenRuleError("not_an_object", "payment", "must be an object of fields", row)
        self._check_fields(row)
        event = self.market.event
        now = self._time(row, event.time)
        if now is None:
            raise BrokenRuleError("null_time", event.time, "must not be missing", row.get(event.time))
        if not EARLIEST_SECONDS <= now <= time.time() + TEN_YEARS_SECONDS:
            text = "must be from 1990 to ten years from now"
            raise BrokenRuleError("absurd_time", event.time, text, row[event.time])
        values: dict[str, Any] = {}
        for name in self._columns:
            values[name] = _number(row, name) if name in self._number_columns else self._text(row, name)
        for name, (low, high) in self._domains.items():
            if (number := values[name]) is not None and not low < number < high:
                raise BrokenRuleError("out_of_range", name, "must be a number that its feature can scale", row[name])
        if values[event.id] is None:
            raise BrokenRuleError("null_id", event.id, "must not be missing", row.get(event.id))
        self._refuse_excluded(row)
        label, known_at = self._outcome(row, now) if outcomes else (-1, math.inf)
        return _Clean(values, now, label, known_at)

    def _check_fields(self, row: Row) -> None:
        for name in self._needed:
            if name not in row:
                raise BrokenRuleError("missing_field", name, "must be there (null where there is no value)", None)
        if self._refuse_unknown:
            for name in row:
                if name not in self._known:
                    raise BrokenRuleError("unknown_field", str(name), "must be a field of the market", row[name])

    def _text(self, row: Row, name: str) -> str | None:
        found = text_of(row.get(name), name)
        if self._veil is None or found is None or name not in self._veil.columns:
            return found
        return self._veil.of_text(found)

    def _time(self, row: Row, name: str) -> float | None:
        return seconds_of(row.get(name), name, self.market.event.time_unit)

    def _refuse_excluded(self, row: Row) -> None:
        for rule in self.market.features.exclude:
            found = self._text(row, rule.column)
            wanted = {
                str(value).lower() if isinstance(value, bool) else text_of(value, rule.column) for value in rule.values
            }
            if found in wanted:
                text = "must not be one of those that the market excludes"
                raise BrokenRuleError("excluded", rule.column, text, row.get(rule.column))

    def _outcome(self, row: Row, now: float) -> tuple[int, float]:
        """(label, when it is known)."""
        label = self.market.label
        found = _number(row, label.column)
        if found is None or found == -1.0:
            return -1, math.inf
        if found not in (0.0, 1.0):
            raise BrokenRuleError("bad_label", label.column, "must be 0, 1, -1 or null", row[label.column])
        if label.known_at is None:
            return int(found), now + label.gap_seconds
        known_at = self._time(row, label.known_at)
        return int(found), math.inf if known_at is None else known_at

    def _encoded(self, rows: Sequence[_Clean]) -> Payments:
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
        return Payments(
            ids=tuple(row[market.event.id] for row in values),
            time_seconds=times,
            keys={h.name: tuple(row[str(h.key)] for row in values) for h in market.history},
            categorical=np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), np.int32),
            numerical=self._numerical.encode(numbers[:, :n_own]),
            engineered=self._engineered.encode(numbers[:, n_own:]),
            label=np.array([row.label for row in rows], np.int8),
            known_at_seconds=np.array([row.known_at_seconds for row in rows], np.float64),
            raw=tuple(values),
        )


@dataclass(frozen=True)
class _Clean:
    values: dict[str, Any]
    time_seconds: float
    label: int
    known_at_seconds: float


class _Lookup:
    """The row of the embedding table of a text, or of none."""

    def __init__(self, vocabulary: Vocabulary | GivenVocabulary) -> None:
        self._vocabulary = vocabulary
        if isinstance(vocabulary, GivenVocabulary):
            self._rows = dict(vocabulary.row_of)
            self._odd = vocabulary.integers
        else:
            self._rows = {value: vocabulary.known_row + at for at, value in enumerate(vocabulary.values)}
            self._odd = False

    def __call__(self, text: str | None) -> int:
        if text is None:
            return self._vocabulary.missing_row
        if self._odd:
            frame = pl.DataFrame({self._vocabulary.name: [text]}, schema={self._vocabulary.name: pl.String})
            return int(self._vocabulary.encode(frame)[0])
        return self._rows.get(text, self._vocabulary.unknown_row)


def text_of(value: object, name: str) -> str | None:
    """As `columns.text`: nothing and the empty text are missing, whole numbers are spelled without a fraction."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _spelled(value)
    raise BrokenRuleError("not_a_text", name, "must be a text, a number, true, false or null", value)


def _spelled(value: float) -> str | None:
    if math.isnan(value):
        return None
    if value.is_integer() and abs(value) < LARGEST_EXACT:
        return str(int(value))
    return str(pl.Series([value]).cast(pl.String)[0])


def _number(row: Row, name: str) -> float | None:
    """As `columns.number`, with its rules: finite, or missing."""
    value = row.get(name)
    if isinstance(value, str):
        text = value.strip()
        if text == "":
            return None
        number = _TRUTH.get(text)
        if number is None and _NUMBER.fullmatch(text):
            number = float(text)
    elif isinstance(value, int | float):
        number = _float(value)
    elif value is None:
        return None
    else:
        number = None
    if number is None:
        raise BrokenRuleError("not_a_number", name, "must be a number", value)
    if math.isinf(number):
        raise BrokenRuleError("infinite", name, "must be finite", value)
    return None if math.isnan(number) else number


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def seconds_of(value: object, name: str, unit: str | None) -> float | None:
    """Epoch seconds of a time as `columns.seconds` reads it: a number of `unit`, or ISO spelling; None where missing.

    Raises BrokenRuleError for what is neither.
    """
    if value is None or (isinstance(value, str) and value.strip() == ""):
        return None
    if isinstance(value, datetime):
        return _microseconds(value if value.tzinfo else value.replace(tzinfo=UTC)) / 1e6
    if unit is not None:
        try:
            number = _number({name: value}, name)
        except BrokenRuleError:
            number = None
        if number is None or isinstance(value, bool):
            raise BrokenRuleError("bad_time", name, f"must be a number of {unit}", value)
        return number / UNIT_SCALE[unit]
    moment = _iso(value.strip()) if isinstance(value, str) else None
    if moment is None:
        raise BrokenRuleError("bad_time", name, "must be like 2018-05-07T12:00:00Z", value)
    return _microseconds(moment) / 1e6


def _iso(text: str) -> datetime | None:
    if not _ISO.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" UTC", "Z").replace("UTC", "Z").replace("z", "Z"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
