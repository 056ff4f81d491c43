"""Which rows of a log a market names: those to exclude, those that are scored, and those that only ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from tsa.config.market import Market
from tsa.config.tables import Label, RowRule
from tsa.data.clean_columns import ASKS, DECLINED, HISTORY_ONLY, SCORED
from tsa.data.log import columns
from tsa.data.log.rule import BOOLEAN, Rule
from tsa.data.spelling import Spelling
from tsa.data.values import normalise_text

OTHER_LABEL = 2.0
"""In the place of a label that is none of the named values."""


def excluded(market: Market, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """True for the rows that `features.exclude` names, in any spelling of the values."""
    spelling = Spelling.of(market)
    hits = [_holds(rule.column, schema[rule.column], rule.values, spelling) for rule in market.features.exclude]
    return pl.any_horizontal(hits).fill_null(False) if hits else pl.lit(False)


def _holds(name: str, dtype: pl.DataType, excluded_values: Sequence[str | float | bool], spelling: Spelling) -> pl.Expr:
    texts = [normalise_text(value, name, spelling) for value in excluded_values]
    hit = columns.text(name, dtype, spelling).is_in([text for text in texts if text is not None])
    numbers = [float(value) for value in excluded_values if not isinstance(value, str | bool)]
    return hit | columns.number(name, dtype, spelling).is_in(numbers) if numbers and columns.is_number(dtype) else hit


def role(market: Market, schema: Mapping[str, pl.DataType], spelling: Spelling) -> pl.Expr:
    """SCORED, HISTORY_ONLY, ASKS or DECLINED (Int8). A row that asks is scored, whatever event.scored says.

    A log without the column of label.decision has no declined payments: it is known only after the score.
    """
    scored = pl.lit(value=True) if market.event.scored is None else _applies(market.event.scored, schema, spelling)
    asks = pl.lit(value=False) if market.event.asks is None else _applies(market.event.asks, schema, spelling)
    declined = pl.lit(value=False)
    if market.label.decision is not None and market.label.decision.column in schema:
        declined = _applies(market.label.decision, schema, spelling)
    payment = pl.when(declined).then(DECLINED).otherwise(SCORED)
    return pl.when(asks).then(ASKS).when(scored).then(payment).otherwise(HISTORY_ONLY).cast(pl.Int8)


def label(name: str, dtype: pl.DataType, rule: Label, spelling: Spelling) -> pl.Expr:
    """Float64: 1 fraud, 0 genuine, -1 or null unknown; NaN or another number breaks the rule on labels."""
    if rule.fraud is None or rule.genuine is None:
        return columns.label(name, dtype, spelling)
    blank = columns.missing(name, dtype, spelling)
    is_fraud, is_genuine = (
        _holds(name, dtype, values, spelling).fill_null(False) | (blank & ("" in values))
        for values in (rule.fraud, rule.genuine)
    )
    return pl.when(is_fraud).then(1.0).when(is_genuine).then(0.0).when(~blank).then(OTHER_LABEL)


def _applies(rule: RowRule, schema: Mapping[str, pl.DataType], spelling: Spelling) -> pl.Expr:
    name = rule.column
    if rule.values is None:
        return columns.number(name, schema[name], spelling) == 1.0
    return _holds(name, schema[name], rule.values, spelling).fill_null(False)


def boolean_rules(market: Market, schema: Mapping[str, pl.DataType], spelling: Spelling) -> Iterator[Rule]:
    """The rule for columns of event.scored, event.asks and label.decision without values."""
    for name in (rule.column for rule in market.role_rules if rule.values is None and rule.column in schema):
        value = columns.number(name, schema[name], spelling)
        text = BOOLEAN[1]
        yield Rule(
            name=f"{BOOLEAN[0]}:{name}", column=name, text=text, broken=~value.is_in([0.0, 1.0]).fill_null(False)
        )
