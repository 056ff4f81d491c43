"""Rows of a log that repeat an id: which of them break the rule, which a later row replaces, and how they differ.

It knows clean rows as `tsa.data.log.reader` stages them. It does not know files, nor what is done with offenders.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME

COUNT, OUTCOMES, ALIKE, NEWEST = "__count", "__outcomes", "__alike", "__newest"


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Row numbers, and what the rule says of the rows in the first of them."""

    broken: pl.Series
    replaced: pl.Series
    """Rows whose outcome a later row of the same payment tells anew."""
    text: str = "must be unique"

    @property
    def rows(self) -> pl.Series:
        """All rows that are not kept."""
        return self.broken.append(self.replaced) if len(self.replaced) else self.broken


def none_repeated(row: str) -> Repeated:
    """Of a log whose ids are all different."""
    nothing = pl.Series(row, [], dtype=pl.get_index_type())
    return Repeated(broken=nothing, replaced=nothing)


def judge(rows: pl.DataFrame, id_name: str, row: str, bad: str, *, last: bool) -> Repeated:
    """Judge the rows (clean columns, `row` the number, `bad` whether a rule is broken) of all ids that stand more than once.

    Rows that are equal but for the outcome are one payment, of which the outcome was told again. With `last` the last row
    as the files are given counts, unless one of them is bad; without it nobody knows which is right, so all of them break
    the rule where the outcomes differ. Of any other rows the first is kept.
    """
    own = [name for name in rows.columns if name == TIME or not name.startswith("__")]
    compared = [name for name in own if name != id_name]
    # a bad row may be bad by its outcome, so it counts as another one
    outcome = pl.struct(LABEL, KNOWN_AT, bad).n_unique().over(id_name)
    differs = {name: pl.col(name).n_unique().over(id_name) > 1 for name in compared}
    alike = ~pl.any_horizontal(differs.values()) if differs else pl.lit(True)
    judged = rows.with_columns(
        (outcome > 1).alias(OUTCOMES),
        alike.alias(ALIKE),
        pl.col(bad).any().over(id_name).alias(COUNT),
        (pl.col(row) == pl.col(row).max().over(id_name)).alias(NEWEST),
    )
    again = ~pl.col(id_name).is_first_distinct()
    told_anew = pl.col(ALIKE) & ~pl.col(COUNT)
    contradicts = pl.col(ALIKE) & pl.col(OUTCOMES)
    if last:
        broken = pl.when(told_anew).then(False).when(contradicts).then(True).otherwise(again)
        replaced = told_anew & ~pl.col(NEWEST)
    else:
        broken, replaced = pl.when(contradicts).then(True).otherwise(again), pl.lit(False)
    return Repeated(
        broken=judged.filter(broken)[row],
        replaced=judged.filter(replaced)[row],
        text=_text(judged, id_name, differs, last=last),
    )


def _text(judged: pl.DataFrame, id_name: str, differs: dict[str, pl.Expr], *, last: bool) -> str:
    """What is expected, and how the rows that stand there differ."""
    ids = judged.select(
        id_name, OUTCOMES, ALIKE, *(differs[name].alias(f"__differs:{name}") for name in differs)
    ).unique(id_name)
    alike, outcomes = ids[ALIKE], ids[OUTCOMES]
    counts = {name: int(ids[f"__differs:{name}"].sum()) for name in differs}
    most = sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])[:5]
    others = ", ".join("the time" if name == TIME else name for name in most)
    parts = [
        f"{int((alike & ~outcomes).sum()):,} in nothing",
        f"{int((alike & outcomes).sum()):,} in the outcome alone",
        f"{int((~alike).sum()):,} in more" + (f" ({others})" if others else ""),
    ]
    text = f"must be unique; of {len(ids):,} ids that stand more than once, the rows differ: {', '.join(parts)}"
    advice = '; [input] duplicates = "last" takes the last row where nothing or the outcome alone differs'
    return text if last or not alike.any() else text + advice
