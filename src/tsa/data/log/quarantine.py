"""The quarantine of a log: the file for bad rows, and the largest share of rows that may go there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import polars as pl

from tsa.data.log.rule import Rule
from tsa.data.log.validation import FILE, FRAUD, ID, SHOWN_RULES, Broken, flag
from tsa.errors import ConfigError
from tsa.files.writing import atomic_file, need_suffix

REASON = "__reason"
"""The column of the file that names the rules a row breaks."""
LIMIT = 0.05
"""Default limit: the share of a log's rows that may go to quarantine."""


@dataclass(frozen=True)
class Quarantine:
    """A file for rows that break a rule, and the largest share of the rows read that may go there."""

    path: Path
    limit: float = LIMIT
    unscored: frozenset[str] = frozenset()
    """Ids of payments that a network gives no finite score: their rows go to the file as well."""
    reported_as: Path | None = None
    """The path to show in messages, if the file is written in two steps."""
    is_kept: bool = True
    """False for a check, whose file is removed: the message says what `tsa prepare` does with the rows."""

    def __post_init__(self) -> None:
        need_suffix("quarantine", Path(self.path), ".parquet")
        if not 0 <= self.limit <= 1:
            raise ConfigError(
                f"--quarantine-limit must be a share from 0 to 1 (got {self.limit}), such as 0.2 for 20 %"
            )

    @classmethod
    def of(cls, given: QuarantineLike) -> Self | None:
        """A quarantine from a path, with the default limit, or from a `Quarantine`."""
        if given is None:
            return None
        if isinstance(given, Quarantine):
            return cls(given.path, given.limit, given.unscored, given.reported_as, given.is_kept)
        return cls(Path(given))

    def named(self, name: str) -> Quarantine:
        """The same for another log, with a separate file in the same folder."""
        return replace(self, path=self.path.with_stem(f"{self.path.stem}-{name}"))


QuarantineLike = Path | Quarantine | None
"""Where rows that break a rule go. None: such rows are an error."""


def quarantine_path(given: QuarantineLike) -> Path | None:
    """The file of a quarantine; None without one."""
    made = Quarantine.of(given)
    return None if made is None else made.path


def write_quarantine(frame: pl.LazyFrame, named: Mapping[str, Rule], path: Path) -> None:
    """The bad rows as in the files, with the column `__reason`; an empty table if there are none."""
    flags = [flag(name) for name in named]
    reasons = [pl.when(pl.col(flag(name))).then(pl.lit(name)) for name in named]
    bad = frame.filter(pl.any_horizontal(flags)).with_columns(
        pl.concat_str(reasons, separator="; ", ignore_nulls=True).alias(REASON)
    )
    with atomic_file(path) as temporary:
        bad.drop([ID, FILE, FRAUD, *flags]).sink_parquet(temporary)


def quarantine_text(quarantine: Quarantine, broken: Broken, read: int, bad: int, *, has_label: bool) -> str:
    """How many rows and frauds break a rule, and what becomes of them."""
    if not quarantine.is_kept:
        breaks = f"{bad:,} of {read:,} rows {'breaks' if bad == 1 else 'break'} a rule"
        return f"{breaks}: tsa prepare refuses {'it' if bad == 1 else 'them'} unless --quarantine FILE is given"
    frauds = f", {broken.frauds:,} of {broken.all_frauds:,} frauds" if has_label else ""
    path = quarantine.reported_as or quarantine.path
    what = f"{bad:,} of {read:,} rows ({bad / read:.2%}){frauds} break a rule and go to {path}"
    lines = broken.lines(has_label=has_label)
    more = [f"and {len(lines) - SHOWN_RULES} further rules"] if len(lines) > SHOWN_RULES else []
    return "\n  ".join([what, *lines[:SHOWN_RULES], *more])
