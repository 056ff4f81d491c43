"""Find the rows of a log that break a rule, and word the error that refuses a log with such rows.

The first pass only flags bad rows. If there are any, a second pass reads the files again for rules and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from tsa.data.clean_columns import LABEL
from tsa.data.derived import derived_columns
from tsa.data.log.columns import nested
from tsa.data.log.duplicates import Repeated
from tsa.data.log.json_lines import repeated_mark, text_mark
from tsa.data.log.row_sets import excluded
from tsa.data.log.rule import Rule
from tsa.data.log.rules import LogSchema, read_columns, rules, typed_columns, values
from tsa.data.log.sources import EXTRA, Source
from tsa.errors import DataError
from tsa.text import brief, shorten

USE, KEEP, EXCLUDED, BAD, REPLACED = "__use", 0, 1, 2, 3
ROW, ID, FILE, FRAUD = "__row", "__id", "__file", "__fraud"
PROBLEM, PROBLEM_VALUE, ALL_FRAUDS = "__problem", "__problem_value", "__frauds"
SHOWN, SHOWN_RULES, SHOWN_LETTERS = 5, 20, 40


@dataclass(frozen=True, kw_only=True)
class LogScan:
    """The files of one log, and how their columns are read."""

    shape: LogSchema
    sources: Sequence[Source]

    def _shape_of(self, source: Source) -> LogSchema:
        """How the columns of one source are read."""
        return replace(self.shape, decimal_comma=True) if source.has_decimal_comma else self.shape

    def _valued(self, source: Source, file: str | None = None) -> tuple[pl.LazyFrame, dict[str, pl.Expr]]:
        read = values(self._shape_of(source), source.schema)
        frame = source.scan(read_columns(self.shape.market), file=file)
        frame = frame.with_columns(expression.alias(f"__value:{name}") for name, expression in read.items())
        value = {name: pl.col(f"__value:{name}") for name in read}
        derived = derived_columns(self.shape.market, value.__getitem__)
        frame = frame.with_columns(expression.alias(f"__value:{name}") for name, expression in derived.items())
        return frame, value | {name: pl.col(f"__value:{name}") for name in derived}

    def by_file(self) -> list[Source]:
        """The sources, each file alone."""
        return [one for source in self.sources for one in source.by_file()]

    def staged(self) -> pl.LazyFrame:
        """All rows in file order: the clean columns, and in `__use` whether the row is used, excluded or bad."""
        frames = []
        for source in self.sources:
            frame, value = self._valued(source)
            row_rules = [
                *rules(self._shape_of(source), source.schema, value),
                *precomputed_rules(source),
                *json_rules(self.shape, source),
            ]
            broken = pl.any_horizontal(rule.broken.fill_null(False) for rule in row_rules)
            use = (
                pl.when(excluded(self.shape.market, source.schema))
                .then(EXCLUDED)
                .when(broken)
                .then(BAD)
                .otherwise(KEEP)
            )
            carried = [name for name in source.passthrough if name not in (PROBLEM, PROBLEM_VALUE)]
            frames.append(frame.select(*typed_columns(self.shape, value), *carried, use.cast(pl.UInt8).alias(USE)))
        return pl.concat(frames)

    def flagged(
        self, repeated: Repeated, unscored: frozenset[str] = frozenset()
    ) -> tuple[pl.LazyFrame, dict[str, Rule]]:
        """The rows that are not excluded, as in the files, with a boolean column per rule; and the rules by name.

        Args:
            repeated: Rows that repeat an id.
            unscored: Ids of payments that a network gives no finite score.
        """
        mixed = {name for name in read_columns(self.shape.market) if len(self._types(name)) > 1}
        file = FILE if sum(len(source.paths) for source in self.sources) > 1 else None
        rules_by_name: dict[str, Rule] = {}
        frames = []
        for source in self.sources:
            frame, value = self._valued(source, file)
            row_rules = {
                rule.name: rule
                for rule in (
                    *rules(self._shape_of(source), source.schema, value),
                    *precomputed_rules(source),
                    *json_rules(self.shape, source),
                )
            }
            rules_by_name.update(row_rules)
            raw = [
                name for name in (*read_columns(self.shape.market), *source.passthrough, EXTRA) if name in source.schema
            ]
            frames.append(
                frame.select(
                    *(pl.col(name).cast(pl.String) if name in mixed else pl.col(name) for name in raw),
                    value[self.shape.market.event.id].cast(pl.String).alias(ID),
                    (pl.lit(None, pl.String) if file is None else pl.col(file)).alias(FILE),
                    excluded(self.shape.market, source.schema).alias(USE),
                    (value[LABEL] == 1.0).fill_null(False).alias(FRAUD),
                    *(rule.broken.fill_null(False).alias(flag(rule.name)) for rule in row_rules.values()),
                )
            )
        known = [duplicate_rule(self.shape.market.event.id, repeated)]
        if unscored:
            known.append(unscored_rule(self.shape.market.event.id, unscored))
        joined = pl.concat(frames, how="diagonal_relaxed").with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64))
        flags_of_others = [pl.col(flag(name)).fill_null(False) for name in rules_by_name]
        flags = [*(rule.broken.alias(flag(rule.name)) for rule in known), *flags_of_others]
        rules_by_name |= {rule.name: rule for rule in known}
        return joined.filter(~pl.col(USE)).with_columns(flags).drop(USE), rules_by_name

    def _types(self, name: str) -> set[pl.DataType]:
        return {source.schema[name] for source in self.sources if name in source.schema}


def flag(rule: str) -> str:
    """The name of the column with the rows that break a rule. No column of a market can have it."""
    return f"__broken:{rule}"


def precomputed_rules(source: Source) -> list[Rule]:
    """Rules that were checked before: a column of the source names the rule that a row breaks, another the value."""
    return [
        Rule(name=name, column=PROBLEM_VALUE, text=text, broken=pl.col(PROBLEM) == name)
        for name, text in source.precomputed_rules.items()
    ]


def json_rules(shape: LogSchema, source: Source) -> list[Rule]:
    """A list or an object is no text, though Polars spells it as one; and a field must occur once."""
    if source.kind != "json":
        return []
    names = [name for name in read_columns(shape.market) if name in source.schema]
    text = "must be a text, a number, true, false or null"
    row_rules = []
    for name in (name for name in names if name not in shape.numbers):
        broken = nested(name) & ~pl.col(text_mark(name)) if text_mark(name) in source.marks else nested(name)
        row_rules.append(Rule(name=f"not_a_text:{name}", column=name, text=text, broken=broken))
    for name in (name for name in names if repeated_mark(name) in source.marks):
        rule = "must occur once in its line (the first value is shown)"
        broken = pl.col(repeated_mark(name))
        row_rules.append(Rule(name=f"repeated_field:{name}", column=name, text=rule, broken=broken))
    return row_rules


def unscored_rule(column: str, ids: frozenset[str]) -> Rule:
    """The rule for payments that a network gives no finite score."""
    broken = pl.col(ID).is_in(list(ids)).fill_null(False)
    return Rule(name=f"no_score:{column}", column=column, text="must get a number as score", broken=broken)


def duplicate_rule(column: str, repeated: Repeated) -> Rule:
    """The rule for repeated ids, which are known from the first pass."""
    broken = pl.col(ROW).is_in(repeated.broken.implode())
    return Rule(name=f"duplicate_id:{column}", column=column, text=repeated.text, broken=broken)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Rows, and frauds among them, per rule; a row that breaks two rules counts under both. `frauds`: each once."""

    rows: Mapping[str, int] = field(default_factory=dict)
    frauds_by_rule: Mapping[str, int] = field(default_factory=dict)
    frauds: int = 0
    all_frauds: int = 0
    """In the complete log."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """All rules, by name."""

    def lines(self, *, has_label: bool) -> list[str]:
        """`rule: 3 rows, 1 of them fraud`."""
        return [
            f"{name}: {count:,} rows" + (f", {self.frauds_by_rule.get(name, 0):,} of them fraud" if has_label else "")
            for name, count in self.rows.items()
        ]


def count_broken(frame: pl.LazyFrame, named: Mapping[str, Rule]) -> Broken:
    """Count the rows and frauds that break each rule, from the result of `flagged`."""
    flags = {name: pl.col(flag(name)) for name in named}
    fraud = pl.col(FRAUD)
    counts = frame.select(
        *(broken.sum().alias(name) for name, broken in flags.items()),
        *((broken & fraud).sum().alias(f"{FRAUD}:{name}") for name, broken in flags.items()),
        (pl.any_horizontal(flags.values()) & fraud).sum().alias(FRAUD),
        fraud.sum().alias(ALL_FRAUDS),
    )
    totals = {name: int(count) for name, count in counts.collect(engine="streaming").row(0, named=True).items()}
    rows = {name: totals[name] for name in named if totals[name]}
    frauds = {name: totals[f"{FRAUD}:{name}"] for name in rows if totals[f"{FRAUD}:{name}"]}
    return Broken(rows=rows, frauds_by_rule=frauds, frauds=totals[FRAUD], all_frauds=totals[ALL_FRAUDS], rules=named)


def validation_error(
    frame: pl.LazyFrame, named: Mapping[str, Rule], rows_read: int, rows_bad: int, *, limit: float | None = None
) -> DataError:
    """The error for rows that break a rule, with counts and the first ids and values per rule.

    Args:
        limit: The share of rows that may go to quarantine, if it is exceeded.
    """
    broken = count_broken(frame, named)
    counts = broken.rows
    examples = [
        frame.filter(pl.col(flag(name)))
        .select(ROW, ID, FILE, pl.col(named[name].column).cast(pl.String).alias("value"))
        .head(SHOWN)
        for name in list(counts)[:SHOWN_RULES]
    ]
    what = f"log: {rows_bad:,} of {rows_read:,} rows break a rule"
    if limit is None:
        lines = [f"{what}; correct them, or leave them out with a quarantine file (--quarantine)"]
    else:
        frauds = f", {broken.frauds:,} of {broken.all_frauds:,} frauds among them" if broken.all_frauds else ""
        share = rows_bad / rows_read
        advice = f"correct them, or allow so many with --quarantine-limit {math.ceil(share * 100) / 100:g}"
        lines = [f"{what} ({share:.2%}{frauds}), more than the limit of {limit:.2%}; {advice}"]
    for (name, count), first in zip(counts.items(), pl.collect_all(examples), strict=False):
        shown = ", ".join(_row_text(row) for row in first.iter_rows(named=True))
        lines.append(f"{name}: {named[name].text}: {count:,} rows; the first: {shown}")
    if len(counts) > SHOWN_RULES:
        lines.append(f"and {len(counts) - SHOWN_RULES} further rules are broken")
    return DataError("\n  ".join(lines))


def _row_text(row: Mapping[str, Any]) -> str:
    who = f"row {row[ROW] + 1}" if row[ID] is None else f"id {brief(row[ID], SHOWN_LETTERS)}"
    value = repr(row["value"])
    who += "" if row[FILE] is None else f" in {row[FILE]}"
    return f"{who} ({shorten(value)})"
