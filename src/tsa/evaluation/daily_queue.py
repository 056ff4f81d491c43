"""The payments that a review team works through: each UTC day the riskiest first, up to its capacity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.times import DAY_SECONDS

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs and savings of reviews, in the unit of the amounts. Validated on creation.

    review: cost of one review. capacity: reviews per day, None for no limit. fraud: loss of a missed fraud, None for its
    amount. recovered: the share of that loss that a review saves. false_decline: cost of declining a genuine payment, None
    if nothing is declined without a review.
    """

    review: float
    capacity: int | None = None
    fraud: float | None = None
    recovered: float = 1.0
    false_decline: float | None = None

    def __post_init__(self) -> None:
        named = {"review": self.review, "fraud": self.fraud, "false decline": self.false_decline}
        for name, value in ((f"cost of a {name}", value) for name, value in named.items()):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"the {name} must be 0 or more (got {value})")
        if self.capacity is not None and self.capacity < 1:
            raise ConfigError(f"the review capacity must be at least 1 per day (got {self.capacity})")
        if not 0 < self.recovered <= 1:
            raise ConfigError(f"the recovered share must lie in (0, 1] (got {self.recovered})")


@dataclass(frozen=True)
class DailyQueue:
    """n payments by descending score, and which of them the team would review if all were flagged."""

    order: NDArray[np.intp]
    score: Floats
    fraud: NDArray[np.bool_]
    value: Floats | None
    """The loss that a review of each payment saves; None if losses are not known."""
    place: NDArray[np.int64]
    """How many payments of the same day come before each."""
    seen: NDArray[np.bool_]
    """Within the daily capacity. A lower threshold only adds payments later in the day's queue."""
    day: NDArray[np.int64]
    ends: NDArray[np.intp]
    """The end of each distinct score: the positions at which a threshold can cut."""

    @classmethod
    def of(cls, payments: ScoredPayments, rank: Floats, costs: Costs) -> DailyQueue:
        """Make the queue by rank (n,), usually the score. Among equal ranks the earlier payment comes first."""
        order = np.lexsort((payments.time_seconds, -rank))
        days = np.floor_divide(payments.time_seconds, DAY_SECONDS).astype(np.int64)
        day = np.unique(days, return_inverse=True)[1][order]
        score = rank[order]
        place = _place_in_day(day)
        value = savings(payments, costs)
        return cls(
            order=order,
            score=score,
            fraud=payments.label[order] == 1,
            value=None if value is None else value[order],
            place=place,
            seen=np.ones(len(score), bool) if costs.capacity is None else place < costs.capacity,
            day=day,
            ends=np.flatnonzero(np.append(score[:-1] != score[1:], True)) if len(score) else np.zeros(0, np.intp),
        )

    @property
    def days(self) -> int:
        """Number of UTC days with payments."""
        return int(self.day.max(initial=-1)) + 1


def savings(payments: ScoredPayments, costs: Costs) -> Floats | None:
    """(n,) what a review saves if the payment is fraud. Missing and negative amounts count as 0."""
    if costs.fraud is not None:
        return np.full(len(payments), costs.fraud * costs.recovered)
    if payments.amount is None:
        return None
    amount: Floats = np.fmax(np.asarray(payments.amount, np.float64), 0.0) * costs.recovered
    return amount


def _place_in_day(day: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how many payments of the same day come before each in the queue."""
    by_day = np.argsort(day, kind="stable")
    counts = np.bincount(day)
    first = np.cumsum(counts) - counts
    place = np.empty(len(day), np.int64)
    place[by_day] = np.arange(len(day)) - first[day[by_day]]
    return place
