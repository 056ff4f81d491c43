"""Parse the values of wire rows: missing, text or number, and the embedding-table row of a text.

Used for columns, for the distinct values of a column, and for values of a single row that are not cached yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import EVERYTHING, Domain, domain_of
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.wire.layout import FieldLayout
from tsa.data.wire.spelling import WORDS, Normaliser, as_decimals, as_integers, decimal, integer, map_texts, number
from tsa.data.wire.tokens import Read


@dataclass(frozen=True)
class Bounds:
    """Which of F features cannot scale every number, and the limits of the numbers they can scale."""

    places: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def bad(self, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(m, F) which numbers are infinite or cannot be scaled. NaN means missing and is neither."""
        bad: NDArray[np.bool_] = np.isinf(numbers)
        if len(self.places):
            part = numbers[:, self.places]
            bad[:, self.places] |= (part <= self.low) | (part >= self.high)
        return bad


@dataclass(frozen=True)
class Values:
    """A market's rules for reading values."""

    layout: FieldLayout
    pseudonyms: Pseudonymizer | None
    domains: Mapping[str, Domain]
    """Features that cannot scale every number: the limits of the numbers they can scale."""

    @classmethod
    def of(cls, layout: FieldLayout, encoder: Encoder | None = None) -> Values:
        """The rules for an encoder; without one, for an encoder that will be fitted as the market says.

        Raises:
            ConfigError: If the market uses pseudonyms and the secret is not set.
        """
        features = layout.market.features
        own = {f.name: domain_of(f.transform) for f in (*features.numerical, *features.engineered)}
        known = own if encoder is None else encoder.domains
        domains = {name: domain for name, domain in known.items() if domain != EVERYTHING}
        return cls(layout, Pseudonymizer.of(layout.market), domains)

    @cached_property
    def _normalisers(self) -> dict[str, Normaliser]:
        """How to normalise values of categorical features that hold numbers, by name."""
        return {**dict.fromkeys(self.layout.numeric, integer), **dict.fromkeys(self.layout.decimal, decimal)}

    def missing(self, name: str) -> pl.Expr:
        """Whether each text of a column is a missing marker."""
        return pl.col(name).is_in(self.layout.wire.missing)

    def text(self, name: str) -> pl.Expr:
        """A categorical column. Missing is null unless the feature has a default; numbers are in the encoder's
        spelling.

        Defaults of the legacy system are used as they are, without normalising.
        """
        value: pl.Expr = pl.when(~self.missing(name)).then(pl.col(name))
        default = self.layout.wire.defaults.get(name)
        if default is not None and not self.layout.wire.legacy:
            value = value.fill_null(pl.lit(default))
        value = self._spelled(name, value)
        if default is not None:
            value = value.fill_null(pl.lit(default))
        if self.pseudonyms is not None and name in self.pseudonyms.columns:
            value = value.map_batches(self.pseudonyms.series, return_dtype=pl.String(), is_elementwise=True)
        return value.alias(name)

    def _spelled(self, name: str, value: pl.Expr) -> pl.Expr:
        if name in self.layout.decimal:
            return value.map_batches(as_decimals, return_dtype=pl.String(), is_elementwise=True)
        if name not in self.layout.numeric:
            return value
        if self.layout.wire.legacy:
            return value.map_batches(as_integers, return_dtype=pl.String(), is_elementwise=True)
        return pl.coalesce(_as_integer(value), value)

    def is_unreadable(self, name: str, text: str, *, in_history: bool) -> bool:
        """Whether a text that should be the number of a category is refused, as in the legacy system.

        Args:
            in_history: The text is in a history, where the legacy system treats only the empty text as missing.
        """
        normalise = self._normalisers.get(name)
        if normalise is None or not self.layout.wire.legacy or (not text and text in self.layout.wire.missing):
            return False
        return (in_history or not (text in self.layout.wire.missing or text in WORDS)) and normalise(text) is None

    def is_refused_in_history(self, at: int, text: str) -> bool:
        """Whether a text of the categorical feature number `at` is refused in a history."""
        return self.is_unreadable(self.layout.categorical[at], text, in_history=True)

    @property
    def read(self) -> Read | None:
        """Parser for numbers in other spellings; None where these are refused."""
        return number if self.layout.wire.accepts("loose_number") else None

    def unreadable(self, frame: pl.DataFrame) -> Iterator[tuple[int, str, str]]:
        """Row, feature name and text of each unreadable value of the payments themselves."""
        if not self.layout.wire.legacy or not self._normalisers:
            return
        suspicious = frame.select(
            (~self.missing(name) & ~pl.col(name).is_in(WORDS) & _as_integer(pl.col(name)).is_null()).alias(name)
            for name in self._normalisers
        )
        for name in [name for name, count in suspicious.sum().row(0, named=True).items() if count]:
            for row in suspicious[name].arg_true().to_list():
                if self.is_unreadable(name, frame[name][row], in_history=False):
                    yield row, name, frame[name][row]

    def parseable(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Payments with numbers in a spelling that Polars parses, where the market accepts any spelling."""
        if self.read is None:
            return frame
        names = (*self.layout.numerical, *self.layout.engineered, self.layout.market.event.time)
        unreadable = frame.select(self.bad_number(name).alias(name) for name in names).sum().row(0, named=True)
        return frame.with_columns(
            map_texts(frame[name], lambda text: repr(parsed) if math.isfinite(parsed := number(text)) else None)
            for name, count in unreadable.items()
            if count
        )

    def number(self, name: str) -> pl.Expr:
        """A numerical column. Missing is null unless there is a default; so is a text that is not a finite number."""
        value = pl.col(name).cast(pl.Float64, strict=False)
        value = pl.when(value.is_finite()).then(value)
        default = self.default(name)
        return (value if np.isnan(default) else pl.when(self.missing(name)).then(default).otherwise(value)).alias(name)

    def bad_number(self, name: str) -> pl.Expr:
        """Whether each text is neither missing nor a finite number."""
        value = pl.col(name).cast(pl.Float64, strict=False)
        return ~self.missing(name) & ~value.is_finite().fill_null(False)

    def outside(self, name: str) -> pl.Expr:
        """Whether each text is a number that cannot be scaled."""
        value, (low, high) = pl.col(name).cast(pl.Float64, strict=False), self.domains[name]
        beyond = value.is_finite() & ~value.is_between(low, high, closed="none")
        return ~self.missing(name) & beyond.fill_null(False)

    def bounds(self, names: Sequence[str]) -> Bounds:
        """The bounds of several features."""
        pairs = [self.domains.get(name, EVERYTHING) for name in names]
        places = [at for at, pair in enumerate(pairs) if pair != EVERYTHING]
        return Bounds(np.array(places, np.int64), *np.array([pairs[at] for at in places]).reshape(-1, 2).T)

    def default(self, name: str) -> float:
        """The value used for a missing number. NaN: it stays missing. The payment's own time always does, unless the
        market accepts implausible times.
        """
        wire = self.layout.wire
        if name == self.layout.market.event.time and not wire.accepts("implausible_time"):
            return math.nan
        return float(wire.defaults.get(name, "nan"))

    def rows_of(self, texts: Sequence[str] | pl.Series, encoder: Encoder, at: int) -> NDArray[np.int32]:
        """(n,) embedding-table rows of texts (n,) of the categorical feature number `at`."""
        vocabulary = encoder.categorical_vocabularies[at]
        frame = pl.DataFrame({vocabulary.name: pl.Series(texts, dtype=pl.String)})
        return vocabulary.encode(frame.select(self.text(vocabulary.name)))

    def is_plain(self, name: str) -> bool:
        """Whether a text of this feature that is not a known value is unknown in every spelling."""
        return name not in self._normalisers and (self.pseudonyms is None or name not in self.pseudonyms.columns)


def _as_integer(value: pl.Expr) -> pl.Expr:
    """Texts of numbers as integers; null for a text that is not a number within 64 bits."""
    return value.str.strip_chars().cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)
