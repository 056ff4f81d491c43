"""Decisions for a payment by one of its scores, each with a minimum score, the strictest first.

{"version": 1, "score": "percentile", "decisions": [{"name": "decline", "at_least": 0.999},
 {"name": "review", "at_least": 0.98}], "default": "accept"}

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError

VERSION = 2
SCORES = ("raw_score", "percentile", "probability")


@dataclass(frozen=True)
class Decision:
    """The decision for payments with a score of at least `at_least`."""

    name: str
    at_least: float


@dataclass(frozen=True, kw_only=True)
class DecisionPolicy:
    """The decisions of a bundle by one of its scores; `default` is for the payments below all of them."""

    score: str
    decisions: tuple[Decision, ...]
    default: str = "accept"

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ConfigError(f"thresholds: score must be one of {', '.join(SCORES)} (got {self.score!r})")
        if not self.decisions:
            raise ConfigError("thresholds: at least one decision is needed (got none)")
        names = [decision.name for decision in self.decisions]
        if len({*names, self.default}) <= len(names) or not all(names):
            raise ConfigError(_names_text(names, self.default))
        limits = [decision.at_least for decision in self.decisions]
        for name, limit in zip(names, limits, strict=True):
            if not 0.0 <= limit <= 1.0:
                raise ConfigError(f"--threshold {name} must be from 0 to 1 (got {limit:g})")
        if len(set(limits)) < len(limits):
            got = ", ".join(f"{name}={limit:g}" for name, limit in zip(names, limits, strict=True))
            raise ConfigError(f"thresholds must have different limits (got {got})")
        strictest_first = tuple(sorted(self.decisions, key=lambda decision: -decision.at_least))
        object.__setattr__(self, "decisions", strictest_first)

    def decide(self, columns: Mapping[str, NDArray[Any]]) -> list[str]:
        """(n,) the decision for each payment, by its scores by name.

        Raises:
            ConfigError: If the bundle has no such score.
        """
        if self.score not in columns:
            raise ConfigError(f"thresholds: decisions need {self.score} (got a bundle with {', '.join(columns)})")
        limits = np.array([decision.at_least for decision in reversed(self.decisions)])
        names = [self.default, *(decision.name for decision in reversed(self.decisions))]
        return [names[at] for at in np.searchsorted(limits, columns[self.score].astype(np.float64), side="right")]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        decisions = [{"name": decision.name, "at_least": decision.at_least} for decision in self.decisions]
        return {"version": VERSION, "score": self.score, "decisions": decisions, "default": self.default}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: For anything else.
        """
        try:
            if table["version"] != VERSION:
                raise ConfigError(f"thresholds: this program reads version {VERSION} (got {table['version']!r})")
            decisions = tuple(Decision(str(d["name"]), float(d["at_least"])) for d in table["decisions"])
            return cls(score=table["score"], decisions=decisions, default=str(table["default"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"thresholds must be as this program writes it (got {error!r})") from error


def _names_text(names: list[str], default: str) -> str:
    """Why these names of decisions cannot be used."""
    if not all(names):
        return f"thresholds: a decision must have a name (got {names}): write NAME=LIMIT"
    if default in names:
        return f"{default!r} is the decision below all thresholds: use another name, or change --default"
    return f"thresholds: decisions must have different names (got {names})"
