"""The result of a payment: its fields, the part that is stored to answer a repeated request, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from numpy.typing import NDArray

from tsa.data.values import RuleViolation
from tsa.serving.problems import ProblemError, item_problem

STORED = ("raw_score", "percentile", "probability", "decision", "version", "arm")
"""The fields of a result that are stored with its payment."""
CHAMPION, CHALLENGER = "champion", "challenger"
"""The bundle that most payments are answered by, and a second one that answers a share of them."""
RESULT_FIELDS: Mapping[str, str] = {
    "id": "the payment's id",
    "raw_score": "the order of risk; not a probability",
    "percentile": "share of calibration payments with a lower score; null if the bundle is not calibrated for it",
    "probability": "probability of fraud; null if the bundle is not calibrated for it",
    "decision": "by the thresholds of the bundle; null if it has none",
    "version": "the first 12 hex digits of the bundle's sha256",
    "arm": "which bundle answered",
    "degraded": "scored without its histories, because the store was unavailable",
    "replayed": "this payment was scored before, and this is the stored answer",
    "reasons": "with explain: the reasons, strongest first; null if there was no time",
    "explanation": "with explain: what each feature and each earlier payment contributed",
}
"""What the fields of a result mean."""


@dataclass(frozen=True, slots=True)
class PaymentDetails:
    """What the log of decisions records of a payment: its clean values, pseudonymised where the market asks for it."""

    id: str | None
    time_seconds: float
    keys: Sequence[tuple[str, str]]
    """History name and key, each once."""
    values: Mapping[str, Any]
    """Clean values by column; of a row that carries its own history, its fields."""
    role: int = 0
    """SCORED, HISTORY_ONLY or ASKS of `tsa.data.clean_columns`."""
    histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    """History events that came in the request."""


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """The scores of one payment."""

    id: str | None
    """As the client sent it; None if it sent none, which is allowed for rows that carry their own history."""
    raw_score: float | None = None
    """None for an event that is not scored."""
    percentile: float | None = None
    probability: float | None = None
    decision: str | None = None
    """From the bundle's thresholds; None if it has none."""
    version: str = ""
    """Version of the bundle that scored it: the first 12 hex digits of its manifest's sha256."""
    degraded: bool = False
    """Scored without its histories and not stored, because the store did not answer."""
    replayed: bool = False
    """The payment was answered before; this is the stored answer."""
    arm: str = CHAMPION
    """The bundle that answered: CHAMPION or CHALLENGER."""
    details: PaymentDetails | None = field(default=None, repr=False, compare=False)
    """Only where decisions are logged."""

    @classmethod
    def of(
        cls,
        id_: str | None,
        scores: Mapping[str, NDArray[Any]],
        row: int,
        version: str,
        decision: str | None,
        arm: str = CHAMPION,
    ) -> Self:
        """The result of row `row` of a scored batch."""
        return cls(
            id=id_,
            raw_score=float(scores["raw_score"][row]),
            percentile=_number(scores, "percentile", row),
            probability=_number(scores, "probability", row),
            decision=decision,
            version=version,
            arm=arm,
        )

    @classmethod
    def from_stored(cls, id_: str, stored: Mapping[str, Any]) -> Self:
        """The stored result, as a replayed answer."""
        return cls(id=id_, replayed=True, **stored)

    def stored_fields(self) -> dict[str, Any]:
        """The fields to store: without the id, which may be pseudonymized, and without the flags of this request."""
        return {name: getattr(self, name) for name in STORED}

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {"id": self.id, **self.stored_fields(), "degraded": self.degraded, "replayed": self.replayed}


def _number(scores: Mapping[str, NDArray[Any]], name: str, row: int) -> float | None:
    """One score; None if the bundle does not give it."""
    return float(scores[name][row]) if name in scores else None


def to_json(result: ScoreResult | RuleViolation, request_id: str) -> dict[str, Any]:
    """The JSON document of a result, or of the problem of one payment of a list."""
    if isinstance(result, ScoreResult):
        return result.to_dict()
    return {"problem": item_problem(result, request_id)}


def single_result(
    results: Sequence[ScoreResult | RuleViolation], documents: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The document of a request with one payment. Raises ProblemError if it has a problem."""
    if isinstance(results[0], RuleViolation):
        raise ProblemError.of(results[0], counted=True)
    return documents[0]
