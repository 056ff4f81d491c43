"""Read a log of decisions: what was answered, why, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from tsa.serving.decisions.entries import DECISIONS, OUTCOMES, REASONS
from tsa.serving.decisions.parquet_files import read_table


def answered(folder: Path, *, since: float | None = None, until: float | None = None) -> pl.DataFrame:
    """The first answer to each payment, with its outcome so far.

    Args:
        folder: The folder of the log.
        since, until: Only answers of [since, until), in epoch seconds. Outcomes are of any time.

    Returns:
        The columns of the table of decisions, and `fraud`, `known_at` and `by`, which are null without an outcome.

    Raises:
        ConfigError: The folder contains no log of decisions.
        DataError: A file cannot be read.
    """
    answers = read_table(folder, DECISIONS, since=since, until=until)
    named = answers.filter(pl.col("id").is_not_null()).sort("replayed", "degraded", "at", maintain_order=True)
    first = named.unique("id", keep="first", maintain_order=True)
    rows = pl.concat([first, answers.filter(pl.col("id").is_null())]).sort("at", maintain_order=True)
    return rows.join(outcomes_so_far(folder), on="id", how="left", maintain_order="left")


def outcomes_so_far(folder: Path) -> pl.DataFrame:
    """The outcome of each payment that has one: `id`, `fraud`, `known_at` and `by`, as histories have it.

    The same outcome counts from its earliest report; a different one replaces it if reported at the same time or later.
    """
    reports = read_table(folder, OUTCOMES).sort("known_at", maintain_order=True)
    last = pl.col("fraud").last().over("id")
    turned = (pl.col("fraud") != last).cast(pl.Int32).cum_max(reverse=True).over("id") == 0
    agreeing = reports.filter(turned)  # the reports since the outcome last changed
    return agreeing.group_by("id", maintain_order=True).agg(pl.col("fraud", "known_at", "by").first())


def entries_of(folder: Path, id_: str) -> Iterator[dict[str, Any]]:
    """All entries of a payment as plain values, by time: answers, reasons and outcomes. id_: as recorded."""
    entries = []
    for table in (DECISIONS, REASONS, OUTCOMES):
        for row in read_table(folder, table).filter(pl.col("id") == id_).iter_rows(named=True):
            for name in ("values", "histories", "reasons"):
                if row.get(name) is not None:
                    row[name] = orjson.loads(row[name])
            entries.append({"entry": table, **row})
    yield from sorted(entries, key=lambda entry: entry["at"])
