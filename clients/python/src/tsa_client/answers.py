"""What the endpoint says: an Answer or a Problem for each payment. Fields that are not known here are left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The scores of one payment."""

    id: str
    raw_score: float
    percentile: float | None
    """Share of genuine and fraudulent payments with a lower score; None where the bundle is not calibrated for it."""
    probability: float | None
    decision: str | None
    """By the bundle's thresholds; None where it has none."""
    version: str
    """The first 12 hex digits of the bundle's sha256."""
    degraded: bool
    """Scored without its histories, since the history store did not answer."""
    replayed: bool
    """The server had answered this payment before, and this is that answer."""
    arm: str = "champion"
    """The bundle that answered: champion, or challenger where the server gives a share of the payments to a second one."""
    reasons: tuple[Mapping[str, Any], ...] | None = None
    """The most telling first; None where they were not asked for, or there was no time for them."""
    explanation: Mapping[str, Any] | None = None
    """What the reasons come from: what each feature, earlier payment and history adds."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The answer in a document. KeyError or TypeError for one that holds none."""
        reasons = document.get("reasons")
        return cls(
            id=document["id"],
            raw_score=float(document["raw_score"]),
            percentile=document["percentile"],
            probability=document["probability"],
            decision=document["decision"],
            version=document["version"],
            degraded=document["degraded"],
            replayed=document["replayed"],
            arm=document.get("arm", "champion"),
            reasons=None if reasons is None else tuple(reasons),
            explanation=document.get("explanation"),
        )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a payment, or a whole request, got no score (RFC 9457)."""

    status: int
    rule: str
    """What was broken, in one word such as `not_a_number`."""
    detail: str
    field: str | None
    value: str | None
    """As the server met it, shortened."""
    request_id: str | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The problem in a document. KeyError or TypeError for one that holds none."""
        return cls(
            status=document["status"],
            rule=document["rule"],
            detail=document["detail"],
            field=document.get("field"),
            value=document.get("value"),
            request_id=document.get("request_id"),
        )

    @classmethod
    def unsaid(cls, status: int, phrase: str) -> Self:
        """The problem of an answer that holds none, such as a proxy's."""
        return cls(status=status, rule="http", detail=phrase, field=None, value=None, request_id=None)
