"""Erase a customer's data from a log of decisions, and delete what is older than the market allows."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tsa.errors import ConfigError
from tsa.serving.decisions.background_writer import rotate_all
from tsa.serving.decisions.entries import DECISIONS, OUTCOMES, REASONS
from tsa.serving.decisions.parquet_files import need_log, read_table, rewrite


def erase_key(folder: Path, key: tuple[str, str]) -> int:
    """Delete all entries of the payments of a key. Safe to repeat, also while servers write to the log.

    Args:
        folder: The folder of the log.
        key: History name and key, as recorded: pseudonymised where the market asks for it.

    Returns:
        The number of payments.

    Raises:
        ConfigError: The folder contains no log, or a process does not convert its journal.
    """
    need_log(folder)
    if not rotate_all(folder):
        rule = "every server that writes to the log must convert its journal before entries can be deleted"
        raise ConfigError(f"{folder}: {rule} (got one that does not answer); end it, or repeat this")
    history, value = key
    of_key = pl.col("keys").list.eval(
        (pl.element().struct.field("history") == history) & (pl.element().struct.field("key") == value)
    )
    is_own = of_key.list.any().fill_null(False)
    ids = read_table(folder, DECISIONS).filter(is_own)["id"].drop_nulls().unique()
    is_other = ~pl.col("id").is_in(ids.implode()).fill_null(False)
    rewrite(folder, {DECISIONS: is_other & ~is_own, OUTCOMES: is_other, REASONS: is_other})
    return len(ids)
