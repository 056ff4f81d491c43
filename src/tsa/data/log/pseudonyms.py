"""Replace values by pseudonyms (HMAC-SHA256, RFC 2104, cut to 128 bits) as soon as they are read.

The secret is read from an environment variable that the market names, and is never stored.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import polars as pl

from tsa.config.market import Exclude, Market
from tsa.data.log.columns import inexact, nested, text
from tsa.data.log.json_lines import text_mark
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
        """The pseudonyms that the market asks for; None if it asks for none.

        Raises:
            ConfigError: If the secret is not in the environment, or too short.
        """
        privacy = market.privacy
        if privacy is None or not privacy.pseudonymise:
            return None
        secret = os.environ.get(privacy.secret_env or "", "").encode()
        if len(secret) < MIN_SECRET_BYTES:
            got = f"it has {len(secret)} bytes" if secret else "it is not set"
            rule = f"must hold the secret of the pseudonyms, {MIN_SECRET_BYTES} bytes or more"
            raise ConfigError(f"environment variable {privacy.secret_env} {rule} (got {got})")
        return cls(frozenset(privacy.pseudonymise), secret, Spelling.of(market))

    def __repr__(self) -> str:
        return f"Pseudonyms({sorted(self.columns)})"

    def of_text(self, value: str) -> str:
        """The pseudonym of one value."""
        return hmac.digest(self.secret, value.encode(), "sha256").hex()[:DIGITS]

    def series(self, texts: pl.Series) -> pl.Series:
        """The pseudonyms of texts (n,). Each distinct text is hashed once; null stays null."""
        known = texts.drop_nulls().unique()
        hashed = pl.Series([self.of_text(value) for value in known.to_list()], dtype=pl.String)
        return texts.replace_strict(known, hashed, default=None, return_dtype=pl.String).alias(texts.name)

    def frame(self, frame: pl.DataFrame, leave: Sequence[str] = ()) -> pl.DataFrame:
        """The frame with pseudonyms in its columns to pseudonymize, except those in `leave`."""
        names = [name for name in frame.columns if name in self.columns and name not in leave]
        texts = frame.select(text(name, frame.schema[name], self.spelling).alias(name) for name in names)
        return frame.with_columns(self.series(texts[name]) for name in names)

    def market(self, market: Market) -> Market:
        """The market for pseudonymized rows: values to exclude are replaced by their pseudonyms."""
        features = market.features
        exclude = tuple(self._exclude(rule) if rule.column in self.columns else rule for rule in features.exclude)
        return market.model_copy(update={"features": features.model_copy(update={"exclude": exclude})})

    def _exclude(self, rule: Exclude) -> Exclude:
        texts = (normalise_text(value, rule.column, self.spelling) for value in rule.values)
        return Exclude(column=rule.column, values=tuple(self.of_text(text) for text in texts if text is not None))


@dataclass(frozen=True, kw_only=True)
class PseudonymizedSource(Source):
    """A source that replaces some columns by pseudonyms whenever it is scanned."""

    pseudonyms: Pseudonymizer
    raw: Mapping[str, pl.DataType]
    """The types in the files themselves."""

    is_pseudonymized = True

    @classmethod
    def over(cls, source: Source, pseudonyms: Pseudonymizer) -> PseudonymizedSource:
        """The source with pseudonyms; its schema has them as String."""
        schema = {name: pl.String() if name in pseudonyms.columns else type_ for name, type_ in source.schema.items()}
        own = {item.name: getattr(source, item.name) for item in fields(source)}
        return cls(**{**own, "schema": schema}, pseudonyms=pseudonyms, raw=source.schema)

    def scan(self, columns: Sequence[str], *, file: str | None = None) -> pl.LazyFrame:
        """As `Source.scan`. A row with too many fields, or line breaks in one, may hold a secret in any field: all are blanked."""
        frame, pseudonyms = super().scan(columns, file=file), self.pseudonyms
        if EXTRA in self.schema:
            unhashed = [name for name in columns if name in self.schema and name not in pseudonyms.columns]
            shifted, lines = pl.col(EXTRA).is_not_null(), pl.col(unhashed).str.contains("\n", literal=True)
            frame = frame.with_columns(
                pl.when(lines).then(pl.lit("\n")).when(~shifted).then(pl.col(unhashed)).name.keep(),
                pl.when(shifted).then(pl.lit("")).alias(EXTRA),
            )
        names = [name for name in columns if name in pseudonyms.columns and name in self.raw]
        return frame.with_columns(self._pseudonymized(name) for name in names)

    def _pseudonymized(self, name: str) -> pl.Expr:
        """The pseudonyms of a column. A value that breaks a rule is replaced by a constant that breaks the same rule."""
        pseudonyms, bad = self.pseudonyms, inexact(name, self.raw[name])
        series = text(name, self.raw[name], pseudonyms.spelling).map_batches(
            pseudonyms.series, return_dtype=pl.String(), is_elementwise=True
        )
        series = series if bad is None else pl.when(bad).then(pl.lit(INEXACT)).otherwise(series)
        if self.kind == "json":
            is_list = nested(name) & ~pl.col(text_mark(name)) if text_mark(name) in self.marks else nested(name)
            series = pl.when(is_list).then(pl.lit("[]")).otherwise(series)
        return series.alias(name)
