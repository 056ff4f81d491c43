"""The rules of a market for the rows of a log, as Polars expressions: the typed columns and the row rules."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tsa.config.market import Market
from tsa.config.toml import suggest
from tsa.data.clean_columns import DECLINED, KNOWN_AT, LABEL, ROLE, TIME
from tsa.data.derived import LIMITS, input_columns, inputs_of
from tsa.data.encoding.scaler import EVERYTHING, Domain, domain_of
from tsa.data.log import columns, row_sets
from tsa.data.log.derived_rules import derived_inputs, derived_rules
from tsa.data.log.row_sets import boolean_rules, role
from tsa.data.log.rule import ALL_DIGITS, Rule, earliest, plausible, range_text, readable_time, time_text
from tsa.data.log.sources import EXTRA
from tsa.data.spelling import Spelling
from tsa.data.values import label_text
from tsa.errors import DataError
from tsa.text import brief
from tsa.times import DAY_SECONDS

DATE_LENGTH = len("2025-01-31")
KNOWN_EARLY = "must not be before the payment (a date without time is the end of that day)"
Schema = Mapping[str, pl.DataType]

MAX_FINDINGS = 20
"""The most unsuitable columns that a message lists. Wire rows can lack hundreds."""


@dataclass(frozen=True, kw_only=True)
class LogSchema:
    """How each column is read, the same for all files of a log."""

    market: Market
    integers: frozenset[str]  # ids, keys and segments that are integers in all files
    label: bool  # there is a label column
    known_at: bool
    now: float
    domains: Mapping[str, Domain]  # of features that cannot scale every number: the limits
    may_be_integers: frozenset[str] | None = None  # ids and keys that are not texts anyway; None: any
    decimal_comma: bool = False  # of a file whose first rows say so

    @property
    def spelling(self) -> Spelling:
        """Which texts mean "no value", and how other texts are normalised."""
        spelling = Spelling.of(self.market)
        return replace(spelling, decimal_comma=True) if self.decimal_comma else spelling

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns that are read as Float64."""
        numbers = self.market.number_columns - self.market.derived_names
        return tuple(name for name in self.market.raw_columns if name in numbers)

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that are read as String. A column that is in neither `texts` nor `numbers` is a key."""
        return tuple(feature.name for feature in self.market.features.categorical)


def read_columns(market: Market) -> tuple[str, ...]:
    """Every column that is read from the files, without duplicates."""
    label = market.label
    known_at = () if label.known_at is None else (label.known_at,)
    excluded = (rule.column for rule in market.features.exclude)
    own = (name for name in market.raw_columns if name not in market.derived_names)
    derived = input_columns(market)
    roles = (rule.column for rule in market.role_rules)
    return tuple(dict.fromkeys((*own, market.event.time, label.column, *known_at, *excluded, *derived, *roles)))


def number_columns(market: Market) -> tuple[str, ...]:
    """The columns of a log that are read as numbers, those of derived features included."""
    own = market.number_columns - market.derived_names
    derived = (item.column for item in inputs_of(market).values() if item.kind in ("number", *LIMITS))
    return tuple(dict.fromkeys((*sorted(own), *derived)))


def needed_columns(market: Market, *, need_label: bool) -> tuple[str, ...]:
    """The columns a log must have. A log that is only scored needs no outcome and no columns for reports; if rows carry
    their own history, it needs no keys.
    """
    if need_label:
        return read_columns(market)
    keys = market.key_columns if market.wire is None else ()
    excluded = (rule.column for rule in market.features.exclude)
    roles = (rule.column for rule in market.event.role_rules)
    inputs = {
        market.event.id,
        market.event.time,
        *keys,
        *market.features.names,
        *excluded,
        *input_columns(market),
        *roles,
    }
    return tuple(name for name in read_columns(market) if name in inputs)


def shape_of(
    market: Market,
    schemas: Sequence[Schema],
    *,
    need_label: bool,
    domains: Mapping[str, Domain] | None = None,
    names: Sequence[str] = (),
    may_be_integers: frozenset[str] | None = None,
) -> LogSchema:
    """The schema for all files, once their columns and types are checked.

    Args:
        domains: The numbers that the encoder can scale. None: those that an encoder fitted as the market says can.
        names: Names the files of each schema, if there are several.
        may_be_integers: As for `read_log`.

    Raises:
        DataError: Lists all columns that are missing or have the wrong type.
    """
    prefixes = [f"{name}: " for name in names] or [""] * len(schemas)
    findings = [
        f"{prefix}{line}"
        for prefix, schema in zip(prefixes, schemas, strict=True)
        for line in _schema_findings(market, schema, need_label)
    ]
    findings = list(dict.fromkeys(findings))
    if findings:
        raise DataError(
            "\n  ".join([f"log: columns do not fit the market {market.name!r}", *first_findings(findings, schemas)])
        )
    has = {name for schema in schemas for name in schema}
    types = {name: [schema[name] for schema in schemas if name in schema] for name in read_columns(market)}
    integers = (name for name, dtypes in types.items() if dtypes and all(map(columns.is_small_integer, dtypes)))
    known_at = market.label.known_at in has
    return LogSchema(
        market=market,
        integers=frozenset(integers) if may_be_integers is None else may_be_integers.intersection(integers),
        label=market.label.column in has and (known_at or market.label.known_at is None),
        known_at=known_at,
        now=time.time(),
        domains=_domains(market) if domains is None else {n: d for n, d in domains.items() if d != EVERYTHING},
        may_be_integers=may_be_integers,
    )


def _domains(market: Market) -> dict[str, Domain]:
    features = (*market.features.numerical, *market.features.engineered)
    domains = {feature.name: domain_of(feature.transform) for feature in features}
    return {name: domain for name, domain in domains.items() if domain != EVERYTHING}


UNUSED = "columns of the log that the market does not use:"
"""Before the columns that may be the missing one under another name."""


def first_findings(findings: Sequence[str], schemas: Sequence[Schema]) -> list[str]:
    """The first `MAX_FINDINGS` findings. A file with a single column gets a hint about its separator instead."""
    for schema in schemas:
        if len(names := [name for name in schema if not name.startswith("__")]) == 1:
            rule = "fields must be separated by commas, tabs, semicolons or bars"
            return [f"the first line holds one column alone: {rule} (got {brief(names[0])!r})"]
    shown = list(findings[:MAX_FINDINGS])
    if len(findings) > len(shown):
        shown.append(f"and {len(findings) - len(shown)} more columns")
    return shown


def _schema_findings(market: Market, schema: Schema, need_label: bool) -> Iterator[str]:
    for name in needed_columns(market, need_label=need_label):
        if name not in schema:
            candidates = [other for other in schema if other not in read_columns(market) and not other.startswith("__")]
            yield f"{name}: missing{suggest(name, candidates, UNUSED)}"
    event, label = market.event, market.label
    numbers = {feature.name for feature in (*market.features.numerical, *market.features.engineered)}
    booleans = {rule.column for rule in market.role_rules if rule.values is None}
    labels = set() if label.fraud is not None else {label.column}
    for name in (name for name in read_columns(market) if name in schema):
        dtype = schema[name]
        if name in (event.time, label.known_at) and not columns.is_time(dtype, event.time_unit):
            hint = " (numbers need event.time_unit)" if dtype.is_numeric() else ""
            if columns.is_short(dtype):
                hint = " (32-bit floats hold times in steps of 128 s: export a timestamp or whole numbers)"
            yield f"{name}: must be a time{hint} (got {dtype})"
        elif name in {*numbers, event.amount, *labels, *booleans} and not columns.is_number(dtype):
            yield f"{name}: must be a number (got {dtype})"
        elif not columns.is_plain(dtype):
            yield f"{name}: must be a text, a number or a time (got {dtype})"
    for item in (item for item in inputs_of(market).values() if item.column in schema and item.column != event.time):
        dtype = schema[item.column]
        if item.kind == "time" and not columns.is_time(dtype, item.time_unit):
            hint = " (numbers need the time_unit of the derived feature)" if dtype.is_numeric() else ""
            yield f"{item.column}: must be a time{hint} (got {dtype})"
        elif item.kind in ("number", *LIMITS) and not columns.is_number(dtype):
            yield f"{item.column}: must be a number (got {dtype})"


def values(shape: LogSchema, schema: Schema) -> dict[str, pl.Expr]:
    """The values as read, before any rule is applied: floats may be NaN or infinite, a label may be anything."""
    event, label = shape.market.event, shape.market.label
    read = derived_inputs(shape.market, schema, shape.spelling)
    for name in (name for name in shape.market.raw_columns if name not in shape.market.derived_names):
        if name not in schema:
            read[name] = pl.lit(None, pl.Float64 if name in shape.numbers else pl.String)
        elif name in shape.numbers:
            read[name] = columns.number(name, schema[name], shape.spelling)
        elif name in shape.texts:
            read[name] = columns.text(name, schema[name], shape.spelling)
        else:
            read[name] = columns.key(name, schema[name], shape.spelling, integer=name in shape.integers)
    if shape.market.role_rules:
        read[ROLE] = role(shape.market, schema, shape.spelling)
    read[TIME] = columns.seconds(event.time, schema[event.time], event.time_unit, shape.spelling)
    has_label = shape.label and label.column in schema
    read[LABEL] = pl.lit(None, pl.Float64)
    if has_label:
        read[LABEL] = row_sets.label(label.column, schema[label.column], label, shape.spelling)
    if label.known_at is not None:
        has = shape.known_at and label.known_at in schema
        known_at = (
            known_at_seconds(label.known_at, schema[label.known_at], event.time_unit, shape.spelling) if has else None
        )
        read[KNOWN_AT] = pl.lit(None, pl.Float64) if known_at is None else known_at
    return read


def known_at_seconds(name: str, dtype: pl.DataType, unit: str | None, spelling: Spelling) -> pl.Expr:
    """When an outcome is known, in epoch seconds. A date without time means the end of that day."""
    seconds = columns.seconds(name, dtype, unit, spelling)
    if isinstance(dtype, pl.Date):
        return seconds + DAY_SECONDS
    if unit is not None or not columns.is_text_type(dtype):
        return seconds
    is_date = pl.col(name).cast(pl.String).str.strip_chars().str.len_bytes() == DATE_LENGTH
    return pl.when(is_date).then(seconds + DAY_SECONDS).otherwise(seconds)


def rules(shape: LogSchema, schema: Schema, value: Mapping[str, pl.Expr]) -> list[Rule]:
    """All row rules except the one on duplicate ids, which needs several rows. `value`: the columns of `values`."""
    event, label = shape.market.event, shape.market.label
    missing = Rule(
        name=f"null_id:{event.id}", column=event.id, text="must not be missing", broken=value[event.id].is_null()
    )
    all_rules = [missing, *_time_rules(shape, schema, value), *_key_rules(shape, schema)]
    all_rules += boolean_rules(shape.market, schema, shape.spelling)
    if EXTRA in schema:
        text = "a row must not have more fields than the header"
        all_rules.append(Rule(name="extra_field", column=EXTRA, text=text, broken=pl.col(EXTRA).is_not_null()))
        # an unclosed quote makes one field of everything up to the next quote, other payments included
        texts = [name for name in read_columns(shape.market) if name not in shape.numbers and name in schema]
        text = "must be on one line: is a quote not closed?"
        all_rules += [
            Rule(
                name=f"line_break:{name}", column=name, text=text, broken=pl.col(name).str.contains("\n", literal=True)
            )
            for name in texts
        ]
    for name in (name for name in shape.numbers if name in schema):
        unread = value[name].is_null() & ~columns.missing(name, schema[name], shape.spelling)
        all_rules.append(Rule(name=f"not_a_number:{name}", column=name, text="must be a number", broken=unread))
        infinite = value[name].is_infinite()
        all_rules.append(Rule(name=f"infinite:{name}", column=name, text="must be finite", broken=infinite))
        if name in shape.domains:
            low, high = shape.domains[name]
            outside = value[name].is_finite() & ~value[name].is_between(low, high, closed="none")
            all_rules.append(Rule(name=f"out_of_range:{name}", column=name, text=range_text(low, high), broken=outside))
    all_rules += derived_rules(shape.market, schema, shape.spelling, shape.domains, value)
    if shape.label and label.column in schema:
        blank = columns.missing(label.column, schema[label.column], shape.spelling)
        bad_label = value[LABEL].is_null() & ~blank | ~value[LABEL].is_in([0.0, 1.0, -1.0])
        text = label_text(label)
        all_rules.append(Rule(name=f"bad_label:{label.column}", column=label.column, text=text, broken=bad_label))
    return all_rules


def _time_rules(shape: LogSchema, schema: Schema, value: Mapping[str, pl.Expr]) -> Iterator[Rule]:
    event, label = shape.market.event, shape.market.label
    readable = readable_time(event.time_unit)
    name, seconds, blank = event.time, value[TIME], columns.missing(event.time, schema[event.time], shape.spelling)
    yield Rule(name=f"null_time:{name}", column=name, text="must not be missing", broken=blank)
    yield Rule(name=f"bad_time:{name}", column=name, text=readable, broken=seconds.is_null() & ~blank)
    implausible = ~seconds.is_between(*plausible(shape.market, shape.now))
    yield Rule(name=f"absurd_time:{name}", column=name, text=time_text(shape.market), broken=implausible)
    if label.known_at is not None and label.known_at in schema and shape.known_at:
        name, seconds = label.known_at, value[KNOWN_AT]
        unread = seconds.is_null() & ~columns.missing(name, schema[name], shape.spelling)
        yield Rule(name=f"bad_time:{name}", column=name, text=readable, broken=unread)
        early = seconds < earliest(shape.market)  # some logs write "never" as a date far in the future
        yield Rule(name=f"absurd_time:{name}", column=name, text=time_text(shape.market), broken=early)
        before = (seconds < value[TIME]) & value[LABEL].is_in([0.0, 1.0])
        yield Rule(name=f"known_too_early:{name}", column=name, text=KNOWN_EARLY, broken=before)


def _key_rules(shape: LogSchema, schema: Schema) -> Iterator[Rule]:
    """Two customers must not become one because a format dropped digits of their numbers."""
    market = shape.market
    keys = dict.fromkeys((market.event.id, *market.key_columns))
    for name in (name for name in keys if name in schema and not shape.spelling.exact):
        broken = columns.inexact(str(name), schema[str(name)])
        if broken is not None:
            yield Rule(name=f"inexact:{name}", column=str(name), text=ALL_DIGITS, broken=broken)


def typed_columns(shape: LogSchema, value: Mapping[str, pl.Expr]) -> list[pl.Expr]:
    """The clean columns: raw ones under their own names, then time, label (Int8) and the time it is known (seconds)."""
    label = shape.market.label
    known = value[LABEL].is_in([0.0, 1.0])
    if label.decision is not None:
        known &= value[ROLE] != DECLINED
    at = value[KNOWN_AT] if label.known_at is not None else value[TIME] + label.gap_seconds
    clean = [value[name].fill_nan(None) if name in shape.numbers else value[name] for name in shape.market.raw_columns]
    return [
        *(column.alias(name) for column, name in zip(clean, shape.market.raw_columns, strict=True)),
        *([value[ROLE].alias(ROLE)] if shape.market.role_rules else []),
        value[TIME].alias(TIME),
        pl.when(known).then(value[LABEL]).otherwise(-1.0).cast(pl.Int8).alias(LABEL),
        pl.when(known).then(at).fill_null(float("inf")).alias(KNOWN_AT),
    ]
