"""Rows of a log that repeat an id: which break the rule, which a later row replaces, and how they differ.

Works on the clean rows that `tsa.data.log.reader` stages. Start with `judge`.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME

COUNT, OUTCOMES, SAME_ROW, NEWEST = "__count", "__outcomes", "__alike", "__newest"


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Row numbers of repeated ids, and the text of the error for the rows in the first of them."""

    broken: pl.Series
    replaced: pl.Series
    """Rows whose outcome a later row of the same payment replaces."""
    text: str = "must be unique"

    @property
    def rows(self) -> pl.Series:
        """All rows that are dropped."""
        return pl.concat([self.broken, self.replaced])  # `append` would change `broken`


def none_repeated(row: str) -> Repeated:
    """The result for a log without repeated ids."""
    nothing = pl.Series(row, [], dtype=pl.Int64)
    return Repeated(broken=nothing, replaced=nothing)


def judge(rows: pl.DataFrame, id_name: str, row: str, bad: str, *, last: bool) -> Repeated:
    """Judge the rows of all ids that occur more than once.

    Rows that differ at most in the outcome are one payment whose outcome was reported again. With `last` the last
    row in file order counts, unless one of them is bad. Without it the right outcome is unknown, so all of them
    break the rule if the outcomes differ. Of all other rows the first is used.

    Args:
        rows: Clean columns.
        row: Name of the column with the row number.
        bad: Name of the column that says whether a row breaks another rule.
    """
    own = [name for name in rows.columns if name == TIME or not name.startswith("__")]
    compared = [name for name in own if name != id_name]
    # a row may be bad because of its outcome, so a bad one counts as different
    outcome = pl.struct(LABEL, KNOWN_AT, bad).n_unique().over(id_name)
    differs = {name: pl.col(name).n_unique().over(id_name) > 1 for name in compared}
    same_row = ~pl.any_horizontal(differs.values()) if differs else pl.lit(True)
    judged = rows.with_columns(
        (outcome > 1).alias(OUTCOMES),
        same_row.alias(SAME_ROW),
        pl.col(bad).any().over(id_name).alias(COUNT),
        (pl.col(row) == pl.col(row).max().over(id_name)).alias(NEWEST),
    )
    again = ~pl.col(id_name).is_first_distinct()
    repeats_outcome = pl.col(SAME_ROW) & ~pl.col(COUNT)
    contradicts = pl.col(SAME_ROW) & pl.col(OUTCOMES)
    if last:
        broken = pl.when(repeats_outcome).then(False).when(contradicts).then(True).otherwise(again)
        replaced = repeats_outcome & ~pl.col(NEWEST)
    else:
        broken, replaced = pl.when(contradicts).then(True).otherwise(again), pl.lit(False)
    return Repeated(
        broken=judged.filter(broken)[row],
        replaced=judged.filter(replaced)[row],
        text=_text(judged, id_name, differs, last=last),
    )


def _text(judged: pl.DataFrame, id_name: str, differs: dict[str, pl.Expr], *, last: bool) -> str:
    """What is expected, and how the repeated rows differ."""
    ids = judged.select(
        id_name, OUTCOMES, SAME_ROW, *(differs[name].alias(f"__differs:{name}") for name in differs)
    ).unique(id_name)
    same_row, outcomes = ids[SAME_ROW], ids[OUTCOMES]
    counts = {name: int(ids[f"__differs:{name}"].sum()) for name in differs}
    largest = sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])[:5]
    differing = ", ".join("the time" if name == TIME else name for name in largest)
    parts = [
        f"identical rows: {int((same_row & ~outcomes).sum()):,}",
        f"only the outcome differs: {int((same_row & outcomes).sum()):,}",
        f"other columns differ: {int((~same_row).sum()):,}" + (f", {differing}" if differing else ""),
    ]
    count = "1 id occurs" if len(ids) == 1 else f"{len(ids):,} ids occur"
    text = f"must be unique; {count} more than once ({'; '.join(parts)})"
    advice = '; to keep the last row of the first two kinds, set duplicates = "last" in [input]'
    return text if last or not same_row.any() else text + advice
