"""Pseudonyms: a keyed hash (HMAC-SHA256, RFC 2104, truncated to 128 bits) replaces a value when it is read.

The same value and secret give the same pseudonym. The secret is in an environment variable that the market names. It
is never stored, so a store or bundle alone identifies no one.
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
    """Replaces the values of some columns by pseudonyms."""

    columns: frozenset[str]
    secret: bytes
    spelling: Spelling

    @classmethod
    def of(cls, market: Market) -> Pseudonymizer | None:
        """The pseudonymizer of a market; None if it uses no pseudonyms.

        Raises:
            ConfigError: If the secret is not in the environment, or is too short.
        """
        privacy = market.privacy
        if privacy is None or not privacy.pseudonymise:
            return None
        secret = os.environ.get(privacy.secret_env or "", "").encode()
        if len(secret) < MIN_SECRET_BYTES:
            state = f"it has {len(secret)} bytes" if secret else "it is not set"
            rule = f"must hold the secret of the pseudonyms, {MIN_SECRET_BYTES} bytes or more"
            raise ConfigError(f"environment variable {privacy.secret_env} {rule} (got {state})")
        return cls(frozenset(privacy.pseudonymise), secret, Spelling.of(market))

    def __repr__(self) -> str:
        return f"Pseudonyms({sorted(self.columns)})"

    def of_text(self, value: str) -> str:
        """The pseudonym of one value."""
        return hmac.digest(self.secret, value.encode(), "sha256").hex()[:DIGITS]

    def series(self, texts: pl.Series) -> pl.Series:
        """The pseudonyms of texts (n,). Each distinct text is hashed once; null stays null."""
        known = texts.drop_nulls().unique()
        pseudonyms = pl.Series([self.of_text(value) for value in known.to_list()], dtype=pl.String)
        return texts.replace_strict(known, pseudonyms, default=None, return_dtype=pl.String).alias(texts.name)

    def frame(self, frame: pl.DataFrame, leave: Sequence[str] = ()) -> pl.DataFrame:
        """A frame with its pseudonymised columns replaced, except those in `leave`."""
        names = [name for name in frame.columns if name in self.columns and name not in leave]
        texts = frame.select(text(name, frame.schema[name], self.spelling).alias(name) for name in names)
        return frame.with_columns(self.series(texts[name]) for name in names)

    def market(self, market: Market) -> Market:
        """The market for pseudonymised rows: values to exclude are pseudonymised too."""
        features = market.features
        exclude = tuple(self._exclude(rule) if rule.column in self.columns else rule for rule in features.exclude)
        return market.model_copy(update={"features": features.model_copy(update={"exclude": exclude})})

    def _exclude(self, rule: Exclude) -> Exclude:
        texts = (normalise_text(value, rule.column, self.spelling) for value in rule.values)
        return Exclude(
            column=rule.column, values=tuple(self.of_text(cleaned) for cleaned in texts if cleaned is not None)
        )


@dataclass(frozen=True, kw_only=True)
class PseudonymizedSource(Source):
    """A source with pseudonyms in some columns, already when it is scanned. Its schema has the resulting types."""

    pseudonyms: Pseudonymizer
    raw: Mapping[str, pl.DataType]
    """The types of the columns in the files."""

    is_veiled = True

    @classmethod
    def over(cls, source: Source, pseudonyms: Pseudonymizer) -> PseudonymizedSource:
        """The source with pseudonyms."""
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
            others = [name for name in columns if name in self.schema and name not in pseudonyms.columns]
            shifted, lines = pl.col(EXTRA).is_not_null(), pl.col(others).str.contains("\n", literal=True)
            frame = frame.with_columns(
                pl.when(lines).then(pl.lit("\n")).when(~shifted).then(pl.col(others)).name.keep(),
                pl.when(shifted).then(pl.lit("")).alias(EXTRA),
            )
        names = [name for name in columns if name in pseudonyms.columns and name in self.raw]
        return frame.with_columns(self._veiled(name) for name in names)

    def _veiled(self, name: str) -> pl.Expr:
        """A column with pseudonyms. A value that breaks a rule is replaced by a placeholder that breaks the same rule."""
        pseudonyms, bad = self.pseudonyms, inexact(name, self.raw[name])
        series = text(name, self.raw[name], pseudonyms.spelling).map_batches(
            pseudonyms.series, return_dtype=pl.String(), is_elementwise=True
        )
        series = series if bad is None else pl.when(bad).then(pl.lit(INEXACT)).otherwise(series)
        if self.kind == "json":
            series = pl.when(nested(name)).then(pl.lit("[]")).otherwise(series)
        return series.alias(name)
