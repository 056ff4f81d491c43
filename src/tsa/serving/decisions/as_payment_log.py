"""Recorded payments as a log of a market, so that a bundle can encode and score them as any log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from tsa.bundle.bundle import Bundle
from tsa.config.input import Input
from tsa.config.market import Label, Market
from tsa.config.tables import RowRule
from tsa.data.clean_columns import ASKS, HISTORY_ONLY, KNOWN_AT, LABEL, ROLE, TIME
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.serving.decisions.entries import MOMENT
from tsa.text import brief

IS_SCORED, IS_QUESTION, KNOWN = "tsa is scored", "tsa asks", "tsa known at"


@dataclass(frozen=True, kw_only=True)
class RecordedLog:
    """Recorded payments as a table that `bundle` reads."""

    bundle: Bundle
    """The bundle with a market for values that are clean and pseudonymised already."""
    table: pl.DataFrame
    left_out: dict[str, int]
    """Payments that are not in the table, by the reason."""


def recorded_log(bundle: Bundle, answers: pl.DataFrame, earlier: EventStore | None = None) -> RecordedLog:
    """Recorded payments of a market of logs as a log.

    Args:
        bundle: The bundle that is to read them.
        answers: As `tsa.serving.decisions.read_decisions.answered` gives them.
        earlier: Payments from before the log of decisions, for the histories.

    Raises:
        ConfigError: The payments are of another market, lack a column that the bundle reads, or carry their own history.
    """
    market = bundle.market
    check_market(market, answers)
    if market.wire is not None:
        raise ConfigError("the payments must be of a market of logs (got rows that carry their own history)")
    usable = pl.col("id").is_not_null() & ~pl.col("degraded") & pl.col("histories").is_null()
    used = answers.filter(usable)
    left_out = {
        "degraded": int(answers["degraded"].sum()),
        "histories in the request": int(answers["histories"].is_not_null().sum()),
    }
    table = _table(market, used)
    if earlier is not None:
        before = _earlier_table(market, earlier, table.schema)
        table = pl.concat([before.join(table, on=market.event.id, how="anti"), table])
    return RecordedLog(bundle=replace(bundle, market=clean_market(market)), table=table, left_out=left_out)


def check_market(market: Market, answers: pl.DataFrame) -> None:
    """Raise ConfigError if there are no payments, or some are of another market."""
    if not len(answers):
        raise ConfigError("the log of decisions must have decisions in this range (got none)")
    if others := sorted(set(answers["market"].unique()) - {market.name}):
        raise ConfigError(f"the log of decisions must be of market {market.name} (got {brief(', '.join(others))})")


def clean_market(market: Market) -> Market:
    """The market of a table with clean values: pseudonyms and derived features are ordinary values."""
    roles: dict[str, Any] = {}
    if market.role_rules:
        roles = {"scored": RowRule(column=IS_SCORED, values=(1,)), "asks": RowRule(column=IS_QUESTION, values=(1,))}
    label = Label(column=market.label.column, known_at=KNOWN, as_feature=market.label.as_feature)
    changes: dict[str, Any] = {
        "event": market.event.model_copy(update={"time_unit": None, **roles}),
        "label": label.model_copy(update={"delay_days": market.label.delay_days}),
        "features": market.features.model_copy(update={"derived": None, "exclude": ()}),
        "input": Input(missing=()),
    }
    if market.privacy is not None:
        changes["privacy"] = market.privacy.model_copy(update={"pseudonymise": (), "secret_env": None})
    return market.model_copy(update=changes)


def _columns(market: Market) -> dict[str, Any]:
    numbers = market.number_columns
    return {name: pl.Float64 if name in numbers else pl.String for name in market.raw_columns}


def _table(market: Market, answers: pl.DataFrame) -> pl.DataFrame:
    columns = _columns(market)
    _check_columns(market, answers, list(columns))
    values = answers["values"].str.json_decode(pl.Struct(columns)).struct.unnest()
    return values.with_columns(
        answers["id"].alias(market.event.id),
        answers["time"].alias(market.event.time),
        answers["fraud"].cast(pl.Int64).alias(market.label.column),
        pl.max_horizontal(answers["known_at"], answers["time"]).alias(KNOWN),
        (answers["role"] != HISTORY_ONLY).cast(pl.Int64).alias(IS_SCORED),
        (answers["role"] == ASKS).cast(pl.Int64).alias(IS_QUESTION),
    )


def _check_columns(market: Market, answers: pl.DataFrame, columns: list[str]) -> None:
    for name in columns:
        spelled = f"{orjson.dumps(name).decode()}:"
        lacking = answers.filter(~pl.col("values").str.contains(spelled, literal=True))
        if name in market.features.names and len(lacking):
            rule = f"recorded payments must have all features of the bundle (got {len(lacking):,} without {name!r})"
            raise ConfigError(f"{rule}; the bundle that answered them did not read it")


def _earlier_table(market: Market, store: EventStore, schema: pl.Schema) -> pl.DataFrame:
    """The payments of a store in the columns of `_table`."""
    clean = store.clean.collect()
    role = clean[ROLE] if ROLE in clean.columns else pl.repeat(0, len(clean), dtype=pl.Int8, eager=True)
    known = clean[KNOWN_AT] if KNOWN_AT in clean.columns else pl.Series([None] * len(clean), dtype=pl.Float64)
    label = clean[LABEL] if LABEL in clean.columns else pl.Series([None] * len(clean), dtype=pl.Int8)
    names = [name for name in market.raw_columns if name != market.event.time]
    return (
        clean.select(pl.col(name).cast(schema[name]) for name in names)
        .with_columns(
            _moments(clean[TIME]).alias(market.event.time),
            pl.select(pl.when(label >= 0).then(label.cast(pl.Int64))).to_series().alias(market.label.column),
            _moments(pl.select(pl.when(known.is_finite()).then(known)).to_series()).alias(KNOWN),
            (role != HISTORY_ONLY).cast(pl.Int64).alias(IS_SCORED),
            (role == ASKS).cast(pl.Int64).alias(IS_QUESTION),
        )
        .select(schema.names())
    )


def _moments(seconds: pl.Series) -> pl.Series:
    return (seconds * 1e6).round().cast(pl.Int64).cast(MOMENT)


def write_log(log: RecordedLog, folder: Path) -> Path:
    """Write the table as a Parquet file into a folder; for readers of files."""
    path = folder / "decisions.parquet"
    log.table.write_parquet(path)
    return path
