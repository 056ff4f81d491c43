"""Pseudonyms: a keyed hash in the place of a value, as soon as it is read. The same value and secret give the same one.

HMAC-SHA256 (RFC 2104), cut to 128 bits. The secret stands in an environment variable that the market names; it is never
stored, so a store or bundle without it leads back to no one. This file does not know what the values mean.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tsa.config.market import Exclude, Market
from tsa.data.log.columns import inexact, nested, text
from tsa.data.log.sources import EXTRA, Source
from tsa.data.spelling import Spelling
from tsa.data.values import normalise_text
from tsa.errors import ConfigError

MIN_SECRET_BYTES = 32
DIGITS = 32
INEXACT = "0.0e0"


@dataclass(frozen=True)
class Pseudonymizer:
    """Replaces the values of some columns."""

    columns: frozenset[str]
    secret: bytes
    spelling: Spelling

    @classmethod
    def of(cls, market: Market) -> Pseudonymizer | None:
        """Those that the market asks for. Raises ConfigError when its secret is not in the environment, or too short."""
        privacy = market.privacy
        if privacy is None or not privacy.pseudonymise:
            return None
        secret = os.environ.get(privacy.secret_env or "", "").encode()
        if len(secret) < MIN_SECRET_BYTES:
            found = f"it has {len(secret)} bytes" if secret else "it is not set"
            rule = f"must hold the secret of the pseudonyms, {MIN_SECRET_BYTES} bytes or more"
            raise ConfigError(f"environment variable {privacy.secret_env} {rule} (got {found})")
        return cls(frozenset(privacy.pseudonymise), secret, Spelling.of(market))

    def __repr__(self) -> str:
        return f"Pseudonyms({sorted(self.columns)})"

    def of_text(self, value: str) -> str:
        """The pseudonym of one value."""
        return hmac.digest(self.secret, value.encode(), "sha256").hex()[:DIGITS]

    def series(self, texts: pl.Series) -> pl.Series:
        """The pseudonyms of texts (n,), each different one hashed once; null stays null."""
        known = texts.drop_nulls().unique()
        veiled = pl.Series([self.of_text(value) for value in known.to_list()], dtype=pl.String)
        return texts.replace_strict(known, veiled, default=None, return_dtype=pl.String).alias(texts.name)

    def frame(self, frame: pl.DataFrame, leave: Sequence[str] = ()) -> pl.DataFrame:
        """A frame with those of its columns veiled that are to be, but for those in `leave`."""
        names = [name for name in frame.columns if name in self.columns and name not in leave]
        texts = frame.select(text(name, frame.schema[name], self.spelling).alias(name) for name in names)
        return frame.with_columns(self.series(texts[name]) for name in names)

    def market(self, market: Market) -> Market:
        """The market as it is for veiled rows: values to exclude are veiled as well."""
        features = market.features
        exclude = tuple(self._exclude(rule) if rule.column in self.columns else rule for rule in features.exclude)
        return market.model_copy(update={"features": features.model_copy(update={"exclude": exclude})})

    def _exclude(self, rule: Exclude) -> Exclude:
        texts = (normalise_text(value, rule.column, self.spelling) for value in rule.values)
        return Exclude(column=rule.column, values=tuple(self.of_text(found) for found in texts if found is not None))


@dataclass(frozen=True, kw_only=True)
class PseudonymizedSource(Source):
    """A source some of whose columns are pseudonyms from the first look on; its schema says so."""

    pseudonyms: Pseudonymizer
    raw: Mapping[str, pl.DataType]
    """The types in the files themselves."""

    is_veiled = True

    @classmethod
    def over(cls, source: Source, pseudonyms: Pseudonymizer) -> PseudonymizedSource:
        """The source with its veil."""
        schema = {name: pl.String() if name in pseudonyms.columns else type_ for name, type_ in source.schema.items()}
        return cls(
            kind=source.kind,
            paths=source.paths,
            schema=schema,
            has_literal_quotes=source.has_literal_quotes,
            blank_lines=source.blank_lines,
            table=source.table,
            respelled=source.respelled,
            pseudonyms=pseudonyms,
            raw=source.schema,
        )

    def scan(self, columns: Sequence[str], *, file: str | None = None) -> pl.LazyFrame:
        """As `Source.scan`. Of a row whose fields are shifted, or go over several lines, nothing is told but that it is so."""
        frame, veil = super().scan(columns, file=file), self.pseudonyms
        if EXTRA in self.schema:
            others = [name for name in columns if name in self.schema and name not in veil.columns]
            shifted, lines = pl.col(EXTRA).is_not_null(), pl.col(others).str.contains("\n", literal=True)
            frame = frame.with_columns(
                pl.when(lines).then(pl.lit("\n")).when(~shifted).then(pl.col(others)).name.keep(),
                pl.when(shifted).then(pl.lit("")).alias(EXTRA),
            )
        names = [name for name in columns if name in veil.columns and name in self.raw]
        return frame.with_columns(self._veiled(name) for name in names)

    def _veiled(self, name: str) -> pl.Expr:
        """What is no value to be hashed, as it breaks a rule: something stands for it that breaks the same rule."""
        veil, bad = self.pseudonyms, inexact(name, self.raw[name])
        series = text(name, self.raw[name], veil.spelling).map_batches(
            veil.series, return_dtype=pl.String(), is_elementwise=True
        )
        series = series if bad is None else pl.when(bad).then(pl.lit(INEXACT)).otherwise(series)
        if self.kind == "json":
            series = pl.when(nested(name)).then(pl.lit("[]")).otherwise(series)
        return series.alias(name)
