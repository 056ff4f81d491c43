"""Find the rows of a log that break a rule; refuse the log, or set those rows aside.

The first pass over the files only notes whether a row breaks any rule. Which rule, and what stood there, is asked of
the files again, and only when there is something to say: a sound log is read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tsa.data.files import replaced_file
from tsa.data.rules import Rule, Shape, excluded, read_columns, rules, typed, values
from tsa.data.sources import EXTRA, Source
from tsa.errors import DataError

USE, KEPT, EXCLUDED, BAD = "__use", 0, 1, 2
ROW, ID, REASON = "__row", "__id", "__reason"
PROBLEM, PROBLEM_VALUE = "__problem", "__problem_value"
SHOWN, SHOWN_RULES = 5, 20


@dataclass(frozen=True, kw_only=True)
class Log:
    """The files of one log and the shape they are brought to."""

    shape: Shape
    sources: Sequence[Source]

    def _valued(self, source: Source) -> tuple[pl.LazyFrame, dict[str, pl.Expr]]:
        read = values(self.shape, source.schema)
        frame = source.scan(read_columns(self.shape.market))
        frame = frame.with_columns(expression.alias(f"__value:{name}") for name, expression in read.items())
        return frame, {name: pl.col(f"__value:{name}") for name in read}

    def staged(self) -> pl.LazyFrame:
        """All rows in file order: the clean columns, and in `__use` whether the row is kept, excluded or bad."""
        frames = []
        for source in self.sources:
            frame, value = self._valued(source)
            found = [*rules(self.shape, source.schema, value), *noted_rules(source)]
            broken = pl.any_horizontal(rule.broken.fill_null(False) for rule in found)
            use = (
                pl.when(excluded(self.shape.market, source.schema))
                .then(EXCLUDED)
                .when(broken)
                .then(BAD)
                .otherwise(KEPT)
            )
            carried = [name for name in source.carried if name not in (PROBLEM, PROBLEM_VALUE)]
            frames.append(frame.select(*typed(self.shape, value), *carried, use.cast(pl.UInt8).alias(USE)))
        return pl.concat(frames)

    def flagged(self, duplicates: pl.Series) -> tuple[pl.LazyFrame, dict[str, Rule]]:
        """The rows that are not excluded, as they stand in the files, with a boolean column per rule, and the rules."""
        mixed = {name for name in read_columns(self.shape.market) if len(self._types(name)) > 1}
        named: dict[str, Rule] = {}
        frames = []
        for source in self.sources:
            frame, value = self._valued(source)
            found = {rule.name: rule for rule in (*rules(self.shape, source.schema, value), *noted_rules(source))}
            named.update(found)
            raw = [name for name in (*read_columns(self.shape.market), *source.carried, EXTRA) if name in source.schema]
            frames.append(
                frame.select(
                    *(pl.col(name).cast(pl.String) if name in mixed else pl.col(name) for name in raw),
                    value[self.shape.market.event.id].cast(pl.String).alias(ID),
                    excluded(self.shape.market, source.schema).alias(USE),
                    *(rule.broken.fill_null(False).alias(flag(rule.name)) for rule in found.values()),
                )
            )
        rule = duplicate_rule(self.shape.market.event.id, duplicates)
        named[rule.name] = rule
        joined = pl.concat(frames, how="diagonal_relaxed").with_row_index(ROW)
        others = (pl.col(flag(name)).fill_null(False) for name in named if name != rule.name)
        flags = [rule.broken.alias(flag(rule.name)), *others]
        return joined.filter(~pl.col(USE)).with_columns(flags).drop(USE), named

    def _types(self, name: str) -> set[pl.DataType]:
        return {source.schema[name] for source in self.sources if name in source.schema}


def flag(rule: str) -> str:
    """The column that says which rows break a rule: no column of a market is called so."""
    return f"__broken:{rule}"


def noted_rules(source: Source) -> list[Rule]:
    """Rules that were checked before: the source carries the name of the one a row breaks, and what was found."""
    return [
        Rule(name=name, column=PROBLEM_VALUE, text=text, broken=pl.col(PROBLEM) == name)
        for name, text in source.noted.items()
    ]


def duplicate_rule(column: str, rows: pl.Series) -> Rule:
    """The rule that `duplicate_rows` has already found the offenders of."""
    broken = pl.col(ROW).is_in(rows.implode())
    return Rule(name=f"duplicate_id:{column}", column=column, text="must be unique", broken=broken)


def duplicate_rows(ids: pl.Series, use: pl.Series) -> pl.Series:
    """Positions of the rows whose id stood earlier already, excluded rows and null ids left aside.

    Almost every log has none, so ask cheaply first: sorted ids (texts: their hashes) have no equal neighbours.
    """
    live = ids.filter(use != EXCLUDED).drop_nulls()
    ordered = (live.hash() if live.dtype == pl.String else live).sort()
    if not (ordered == ordered.shift()).any():
        return pl.Series(ROW, [], dtype=pl.get_index_type())
    rows = (
        pl.DataFrame({"id": ids, USE: use})
        .with_row_index(ROW)
        .filter(pl.col(USE) != EXCLUDED, pl.col("id").is_not_null())
    )
    return rows.filter(~pl.col("id").is_first_distinct())[ROW]


def count_broken(frame: pl.LazyFrame, named: Mapping[str, Rule]) -> dict[str, int]:
    """Rows per rule; a row that breaks two rules counts under both."""
    counts = (
        frame.select(pl.col(flag(name)).sum().alias(name) for name in named)
        .collect(engine="streaming")
        .row(0, named=True)
    )
    return {name: int(count) for name, count in counts.items() if count}


def refuse(frame: pl.LazyFrame, named: Mapping[str, Rule], rows_read: int, rows_bad: int) -> DataError:
    """The error that says how many rows break which rules, with the first ids and values of each."""
    counts = count_broken(frame, named)
    wanted = [
        frame.filter(pl.col(flag(name)))
        .select(ROW, ID, pl.col(named[name].column).cast(pl.String).alias("value"))
        .head(SHOWN)
        for name in list(counts)[:SHOWN_RULES]
    ]
    lines = [f"log: {rows_bad:,} of {rows_read:,} rows break a rule; a quarantine file would set them aside"]
    for (name, count), first in zip(counts.items(), pl.collect_all(wanted), strict=False):
        shown = ", ".join(_spelled(row) for row in first.iter_rows(named=True))
        lines.append(f"{name}: {named[name].text}: {count:,} rows; the first: {shown}")
    if len(counts) > SHOWN_RULES:
        lines.append(f"and {len(counts) - SHOWN_RULES} further rules are broken")
    return DataError("\n  ".join(lines))


def _spelled(row: Mapping[str, Any]) -> str:
    who = f"row {row[ROW] + 1}" if row[ID] is None else f"id {row[ID]}"
    value = repr(row["value"])
    return f"{who} ({value if len(value) <= 40 else value[:37] + '...'})"


def write_quarantine(frame: pl.LazyFrame, named: Mapping[str, Rule], path: Path) -> None:
    """The bad rows as they stand in the files, with `__reason`; an empty table when there are none."""
    flags = [flag(name) for name in named]
    reasons = [pl.when(pl.col(flag(name))).then(pl.lit(name)) for name in named]
    bad = frame.filter(pl.any_horizontal(flags)).with_columns(
        pl.concat_str(reasons, separator="; ", ignore_nulls=True).alias(REASON)
    )
    with replaced_file(path) as aside:
        bad.drop([ID, *flags]).sink_parquet(aside)
