"""What a payment gets: a ScoreResult, or a RuleViolation. And what is kept of an answer to give it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from tsa.data.online.payments import RuleViolation
from tsa.serving.problems import ProblemError, item_problem


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """The scores of one payment."""

    id: str | None
    """As the client gave it; None where it gave none, as it need not where rows carry their own history."""
    raw_score: float
    percentile: float | None = None
    probability: float | None = None
    decision: str | None = None
    """By the bundle's thresholds; None where it has none."""
    version: str = ""
    """Of the bundle that scored it: the first 12 hex digits of its manifest's sha256."""
    degraded: bool = False
    """Scored without its histories, since the store did not answer, and not recorded."""
    replayed: bool = False
    """It had been answered before, and this is that answer."""

    @classmethod
    def of(
        cls, id_: str | None, scores: Mapping[str, NDArray[Any]], row: int, version: str, decision: str | None
    ) -> Self:
        """The answer for one of the payments that were scored together."""
        return cls(
            id=id_,
            raw_score=float(scores["raw_score"][row]),
            percentile=_number(scores, "percentile", row),
            probability=_number(scores, "probability", row),
            decision=decision,
            version=version,
        )

    @classmethod
    def from_stored(cls, id_: str, kept: Mapping[str, Any]) -> Self:
        """The answer that is kept, given once more."""
        return cls(id=id_, replayed=True, **kept)

    def stored_fields(self) -> dict[str, Any]:
        """What is kept: not the id, which may be veiled, nor what is of this request alone."""
        return {name: getattr(self, name) for name in ("raw_score", "percentile", "probability", "decision", "version")}

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain JSON values."""
        return {"id": self.id, **self.stored_fields(), "degraded": self.degraded, "replayed": self.replayed}


def _number(scores: Mapping[str, NDArray[Any]], name: str, row: int) -> float | None:
    """One score, where the bundle gives it."""
    return float(scores[name][row]) if name in scores else None


def to_json(result: ScoreResult | RuleViolation, request_id: str) -> dict[str, Any]:
    """An answer, or the problem of one payment of a list."""
    if isinstance(result, ScoreResult):
        return result.to_dict()
    return {"problem": item_problem(result, request_id)}


def single_result(
    results: Sequence[ScoreResult | RuleViolation], documents: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The answer to a request of one payment. ProblemError where it has a problem."""
    if isinstance(results[0], RuleViolation):
        raise ProblemError.of(results[0], counted=True)
    return documents[0]
