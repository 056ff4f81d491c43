"""What a value of a wire row is: missing, a text, a number; and which row of the embedding table a text has.

Used for whole columns, for the different values of a column, and for what a single row holds that is not known yet. It
does not know where the values stood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.encoder import Encoder
from tsa.data.pseudonyms import Pseudonyms
from tsa.data.scaling import EVERYTHING, Domain, domain_of
from tsa.data.wire.fields import Layout


@dataclass(frozen=True)
class Bounds:
    """Which of F features cannot scale every number, and between which two those lie that they can."""

    places: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def bad(self, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which numbers (m, F) are none, that is infinite, or cannot be scaled; NaN, which is missing, is neither."""
        bad: NDArray[np.bool_] = np.isinf(numbers)
        if len(self.places):
            part = numbers[:, self.places]
            bad[:, self.places] |= (part <= self.low) | (part >= self.high)
        return bad


@dataclass(frozen=True)
class Values:
    """A market's rules for values."""

    layout: Layout
    pseudonyms: Pseudonyms | None
    domains: Mapping[str, Domain]
    """Of features that cannot scale every number: between which two those lie that they can."""

    @classmethod
    def of(cls, layout: Layout, encoder: Encoder | None = None) -> Values:
        """Without an encoder yet, for one that is fitted as the market says.

        Raises ConfigError when the market asks for pseudonyms and there is no secret.
        """
        features = layout.market.features
        own = {f.name: domain_of(f.transform) for f in (*features.numerical, *features.engineered)}
        known = own if encoder is None else encoder.domains
        domains = {name: domain for name, domain in known.items() if domain != EVERYTHING}
        return cls(layout, Pseudonyms.of(layout.market), domains)

    @cached_property
    def _integers(self) -> frozenset[str]:
        return frozenset(self.layout.wire.numeric_categorical)

    def missing(self, name: str) -> pl.Expr:
        """Whether the texts of a column are missing markers."""
        return pl.col(name).is_in(self.layout.wire.missing)

    def text(self, name: str) -> pl.Expr:
        """A categorical column: null where missing, unless there is a default; numbers through an integer."""
        value: pl.Expr = pl.when(~self.missing(name)).then(pl.col(name))
        if name in self.layout.wire.defaults:
            value = value.fill_null(pl.lit(self.layout.wire.defaults[name]))
        if name in self._integers:
            whole = value.str.strip_chars().cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)
            value = pl.coalesce(whole, value)
        if self.pseudonyms is not None and name in self.pseudonyms.columns:
            value = value.map_batches(self.pseudonyms.series, return_dtype=pl.String(), is_elementwise=True)
        return value.alias(name)

    def number(self, name: str) -> pl.Expr:
        """A numerical column: null where missing, unless there is a default, and where there is no finite number."""
        value = pl.col(name).cast(pl.Float64, strict=False)
        value = pl.when(value.is_finite()).then(value)
        default = self.default(name)
        return (value if np.isnan(default) else pl.when(self.missing(name)).then(default).otherwise(value)).alias(name)

    def bad_number(self, name: str) -> pl.Expr:
        """Whether a text is neither missing nor a finite number."""
        value = pl.col(name).cast(pl.Float64, strict=False)
        return ~self.missing(name) & ~value.is_finite().fill_null(False)

    def outside(self, name: str) -> pl.Expr:
        """Whether a text is a number that cannot be scaled."""
        value, (low, high) = pl.col(name).cast(pl.Float64, strict=False), self.domains[name]
        beyond = value.is_finite() & ~value.is_between(low, high, closed="none")
        return ~self.missing(name) & beyond.fill_null(False)

    def bounds(self, names: Sequence[str]) -> Bounds:
        """Those of several features."""
        pairs = [self.domains.get(name, EVERYTHING) for name in names]
        places = [at for at, pair in enumerate(pairs) if pair != EVERYTHING]
        return Bounds(np.array(places, np.int64), *np.array([pairs[at] for at in places]).reshape(-1, 2).T)

    def default(self, name: str) -> float:
        """What a missing number counts as; NaN where it stays missing, as the time of the payment itself always does."""
        event = self.layout.market.event
        return math.nan if name == event.time else float(self.layout.wire.defaults.get(name, "nan"))

    def rows_of(self, texts: Sequence[str] | pl.Series, encoder: Encoder, at: int) -> NDArray[np.int32]:
        """(n,) rows of the embedding table of texts (n,) of the categorical feature number `at`."""
        vocabulary = encoder.categorical_vocabularies[at]
        frame = pl.DataFrame({vocabulary.name: pl.Series(texts, dtype=pl.String)})
        return vocabulary.encode(frame.select(self.text(vocabulary.name)))

    def is_plain(self, name: str) -> bool:
        """Whether a text of this feature that is not among the known ones is unknown, however it is spelled."""
        return name not in self._integers and (self.pseudonyms is None or name not in self.pseudonyms.columns)
