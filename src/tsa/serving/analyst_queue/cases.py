"""The cases of the analysts' queue: which answered payments become one, and what it records of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tsa.bundle.bundle import Bundle
from tsa.bundle.decisions import SCORES
from tsa.data.clean_columns import SCORED
from tsa.errors import ConfigError
from tsa.serving.results import ScoreResult

DEFAULT_PERCENTILE, DEFAULT_SCORE = 0.98, 0.5
"""Lowest percentile, or raw score without one, of a case of a bundle without decisions."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An answered payment that a person should review. Ids and keys are pseudonyms where the market says so."""

    id: str
    scored_at: float
    """Epoch seconds of the answer."""
    time: float
    """Epoch seconds of the payment."""
    amount: float | None
    raw_score: float
    percentile: float | None
    probability: float | None
    decision: str | None
    version: str
    arm: str
    degraded: bool
    keys: Sequence[tuple[str, str]]
    values: Mapping[str, Any]

    @property
    def expected_loss(self) -> float:
        """Probability × amount, with the raw score in place of a missing probability, and 1 in place of a missing amount.

        A negative amount counts as 0.
        """
        chance = self.raw_score if self.probability is None else self.probability
        return chance * (1.0 if self.amount is None else max(0.0, self.amount))


@dataclass(frozen=True)
class CaseRule:
    """Which answers become cases: those from a score on, or else those with another decision than the default one."""

    score: str | None
    at_least: float
    default: str | None

    @classmethod
    def of(cls, over: str | None, bundle: Bundle) -> Self:
        """The rule of a server.

        Args:
            over: SCORE=NUMBER, such as probability=0.2; None for the decisions of the bundle, and without these for a
                percentile of at least 0.98, or a raw score of at least 0.5.
            bundle: The served bundle.

        Raises:
            ConfigError: `over` is something else.
        """
        if over is not None:
            return cls(*parse_over(over), None)
        if bundle.thresholds is not None:
            return cls(None, 0.0, bundle.thresholds.default)
        if bundle.calibration is not None and bundle.calibration.percentile is not None:
            return cls("percentile", DEFAULT_PERCENTILE, None)
        return cls("raw_score", DEFAULT_SCORE, None)

    def applies(self, answer: Mapping[str, Any]) -> bool:
        """Whether an answer, by the fields of a result, becomes a case."""
        if answer["raw_score"] is None:
            return False
        if self.score is None:
            return answer["decision"] not in (None, self.default)
        value = answer[self.score]
        return value is not None and value >= self.at_least


def parse_over(text: str) -> tuple[str, float]:
    """Parse SCORE=NUMBER. Raises ConfigError."""
    score, _, limit = text.partition("=")
    try:
        number = float(limit)
    except ValueError:
        number = math.nan
    if score not in SCORES or not 0 <= number <= 1:
        rule = f"must be SCORE=NUMBER, with a score of {', '.join(SCORES)} and a number in [0, 1]"
        raise ConfigError(f"--queue-over {rule}, such as probability=0.2 (got {text!r})")
    return score, number


def case_of_result(result: ScoreResult, amount_column: str | None, scored_at: float) -> Case | None:
    """The case of an answer with details; None if it cannot be one: without an id, not scored, or answered before."""
    details = result.details
    if details is None or details.id is None or details.role != SCORED or result.replayed:
        return None
    if result.raw_score is None or not math.isfinite(details.time_seconds):
        return None
    return Case(
        id=details.id,
        scored_at=scored_at,
        time=details.time_seconds,
        amount=_amount(details.values, amount_column),
        raw_score=result.raw_score,
        percentile=result.percentile,
        probability=result.probability,
        decision=result.decision,
        version=result.version,
        arm=result.arm,
        degraded=result.degraded,
        keys=details.keys,
        values=details.values,
    )


def case_of_entry(row: Mapping[str, Any], values: Mapping[str, Any], amount_column: str | None) -> Case:
    """The case of an entry of the log of decisions, a row of `tsa.serving.decisions.read_decisions.answered`."""
    return Case(
        id=row["id"],
        scored_at=row["at"].timestamp(),
        time=row["time"].timestamp(),
        amount=_amount(values, amount_column),
        raw_score=row["raw_score"],
        percentile=row["percentile"],
        probability=row["probability"],
        decision=row["decision"],
        version=row["version"],
        arm=row["arm"],
        degraded=row["degraded"],
        keys=[(key["history"], key["key"]) for key in row["keys"]],
        values=values,
    )


def _amount(values: Mapping[str, Any], column: str | None) -> float | None:
    value = None if column is None else values.get(column)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
