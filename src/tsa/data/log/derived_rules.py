"""Read the inputs of derived features from the columns of a log, and the rules for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from tsa.config.derived import DerivedInput
from tsa.config.market import Market
from tsa.data.derived import IS_TEXT, LIMITS, inputs_of
from tsa.data.encoding.scaler import Domain
from tsa.data.log import columns
from tsa.data.log.rule import ALL_DIGITS, NUMBER, Rule, degrees_text, range_text, readable_time
from tsa.data.spelling import Spelling


def derived_inputs(market: Market, schema: Mapping[str, pl.DataType], spelling: Spelling) -> dict[str, pl.Expr]:
    """The typed inputs of the market's derived features, by `tsa.data.derived.input_name`."""
    return {place: _input(schema, item, spelling) for place, item in inputs_of(market).items()}


def _input(schema: Mapping[str, pl.DataType], item: DerivedInput, spelling: Spelling) -> pl.Expr:
    """A typed input of a derived feature."""
    name, dtype = item.column, schema.get(item.column)
    if dtype is None:
        return pl.lit(None, pl.String if IS_TEXT.get(item.kind) else pl.Float64)
    if IS_TEXT.get(item.kind):
        return columns.text(name, dtype, spelling)
    if item.kind == "time":
        return columns.seconds(name, dtype, item.time_unit, spelling)
    return columns.number(name, dtype, spelling).fill_nan(None)


def derived_rules(
    market: Market,
    schema: Mapping[str, pl.DataType],
    spelling: Spelling,
    domains: Mapping[str, Domain],
    value: Mapping[str, pl.Expr],
) -> Iterator[Rule]:
    """The rules for the inputs of derived features, and for what these have to scale."""
    for place, item in inputs_of(market).items():
        name, read = item.column, value[place]
        if name not in schema or name == market.event.time:
            continue
        if item.kind == "digits" and (broken := columns.inexact(name, schema[name])) is not None:
            yield Rule(name=f"inexact:{name}", column=name, text=ALL_DIGITS, broken=broken)
        if IS_TEXT.get(item.kind):
            continue
        rule, text = ("bad_time", readable_time(item.time_unit)) if item.kind == "time" else NUMBER
        unread = read.is_null() & ~columns.missing(name, schema[name], spelling)
        yield Rule(name=f"{rule}:{name}", column=name, text=text, broken=unread)
        yield Rule(name=f"infinite:{name}", column=name, text="must be finite", broken=read.is_infinite())
        if (limit := LIMITS.get(item.kind)) is not None:
            outside = read.is_finite() & (read.abs() > limit)
            yield Rule(name=f"out_of_range:{name}", column=name, text=degrees_text(limit), broken=outside)
    for feature in market.features.derivations:
        if feature.name in domains and feature.name in value:
            low, high = domains[feature.name]
            outside = ~value[feature.name].is_between(low, high, closed="none")
            column = next(iter(feature.inputs(market.event.time, None))).column
            text = f"{feature.name} {range_text(low, high)}"
            yield Rule(name=f"out_of_range:{feature.name}", column=column, text=text, broken=outside)
