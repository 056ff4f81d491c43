"""Which rows of a log a market names: those to exclude, those that are scored, and those that only ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from tsa.config.market import Market
from tsa.config.tables import RowRule
from tsa.data.clean_columns import ASKS, HISTORY_ONLY, SCORED
from tsa.data.log import columns
from tsa.data.log.rule import BOOLEAN, Rule
from tsa.data.spelling import Spelling
from tsa.data.values import normalise_text


def excluded(market: Market, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """True for the rows that `features.exclude` names, in any spelling of the values."""
    spelling = Spelling.of(market)
    hits = [_holds(rule.column, schema[rule.column], rule.values, spelling) for rule in market.features.exclude]
    return pl.any_horizontal(hits).fill_null(False) if hits else pl.lit(False)


def _holds(name: str, dtype: pl.DataType, excluded_values: Sequence[str | float | bool], spelling: Spelling) -> pl.Expr:
    texts = [normalise_text(value, name, spelling) for value in excluded_values]
    hit = columns.text(name, dtype, spelling).is_in([text for text in texts if text is not None])
    numbers = [float(value) for value in excluded_values if not isinstance(value, str | bool)]
    return hit | columns.number(name, dtype).is_in(numbers) if numbers and columns.is_number(dtype) else hit


def role(market: Market, schema: Mapping[str, pl.DataType], spelling: Spelling) -> pl.Expr:
    """SCORED, HISTORY_ONLY or ASKS (Int8). A row that asks is scored, whatever event.scored says."""
    scored = pl.lit(value=True) if market.event.scored is None else _applies(market.event.scored, schema, spelling)
    asks = pl.lit(value=False) if market.event.asks is None else _applies(market.event.asks, schema, spelling)
    return pl.when(asks).then(ASKS).when(scored).then(SCORED).otherwise(HISTORY_ONLY).cast(pl.Int8)


def _applies(rule: RowRule, schema: Mapping[str, pl.DataType], spelling: Spelling) -> pl.Expr:
    name = rule.column
    if rule.values is None:
        return columns.number(name, schema[name]) == 1.0
    return _holds(name, schema[name], rule.values, spelling).fill_null(False)


def boolean_rules(market: Market, schema: Mapping[str, pl.DataType], spelling: Spelling) -> Iterator[Rule]:
    """The rule for columns of event.scored and event.asks without values."""
    for name in (rule.column for rule in market.event.role_rules if rule.values is None):
        value = columns.number(name, schema[name])
        text = BOOLEAN[1]
        yield Rule(
            name=f"{BOOLEAN[0]}:{name}", column=name, text=text, broken=~value.is_in([0.0, 1.0]).fill_null(False)
        )
