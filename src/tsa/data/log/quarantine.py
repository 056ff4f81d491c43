"""The quarantine of a log: the file for bad rows, and the largest share of rows that may go there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tsa.errors import ConfigError

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

    def __post_init__(self) -> None:
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
            return cls(given.path, given.limit, given.unscored, given.reported_as)
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
