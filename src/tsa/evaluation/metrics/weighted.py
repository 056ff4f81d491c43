"""Metrics of weighted rankings (see ranking.py) for b weightings at once: the payments, or b bootstrap replicates.

Values and intervals use the same code. Undefined metrics are NaN here; callers turn them into None with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsa.evaluation.metrics.ranking import Floats, Integers
from tsa.evaluation.metrics.scored_payments import Array

VALUE_RECALL_RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class WeightedCounts:
    """Weight of b weightings: fraud (b, G) and fraud value (b, G) per step, genuine (b, 2 G + 1) per cell."""

    fraud: Array
    genuine: Array
    value: Array | None
    cut: int

    @cached_property
    def caught(self) -> Array:
        """(b, G) frauds at or above each step."""
        return np.cumsum(self.fraud, axis=1)

    @cached_property
    def alarms(self) -> Array:
        """(b, 2 G + 1) genuine payments up to and including each cell."""
        return np.cumsum(self.genuine, axis=1)

    @property
    def alarms_above(self) -> Array:
        """(b, G) genuine payments above each step."""
        return self.alarms[:, 0:-1:2]

    @property
    def alarms_at(self) -> Array:
        """(b, G) genuine payments at or above each step."""
        return self.alarms[:, 1::2]

    @property
    def frauds(self) -> Array:
        """(b) all frauds."""
        return self.caught[:, -1]

    @property
    def genuines(self) -> Array:
        """(b) all genuine payments."""
        return self.alarms[:, -1]


def measure(
    weights: WeightedCounts, *, rates: Sequence[float] = (), precisions: Sequence[float] = ()
) -> dict[str, Floats]:
    """Every metric of a ranking as name -> (b), NaN where undefined. rates: fixed false positive rates."""
    result = area_metrics(weights) | at_threshold(weights)
    for rate in rates:
        result[f"recall_at_fpr_{rate:g}"] = recall_at_rate(weights, rate)
    for precision in precisions:
        result[f"recall_at_precision_{precision:g}"] = recall_at_precision(weights, precision)
    return result | value_recalls(weights)


def area_metrics(weights: WeightedCounts) -> dict[str, Floats]:
    """ROC AUC (ties count half), average precision (step-wise) and the trapezoid under precision over recall."""
    precision = ratio(weights.caught, weights.caught + weights.alarms_at, otherwise=0.0)
    earlier = weights.caught - weights.fraud
    # The point before a step: all genuine payments above it are flagged. With nothing flagged, precision begins at 1.
    left = ratio(earlier, earlier + weights.alarms_above, otherwise=1.0)
    outranked = weights.genuines[:, None] - (weights.alarms_at + weights.alarms_above) / 2
    return {
        "roc_auc": ratio((weights.fraud * outranked).sum(axis=1), weights.frauds * weights.genuines),
        "average_precision": ratio((weights.fraud * precision).sum(axis=1), weights.frauds),
        "pr_auc": ratio((weights.fraud * (precision + left)).sum(axis=1) / 2, weights.frauds),
    }


def at_threshold(weights: WeightedCounts) -> dict[str, Floats]:
    """Metrics of the decision "flag every payment at or above the cut"."""
    hits, alarms = weights.caught[:, weights.cut], weights.alarms_at[:, weights.cut]
    right = hits + weights.genuines - alarms
    return {
        "precision": ratio(hits, hits + alarms),
        "recall": ratio(hits, weights.frauds),
        "f1": ratio(2 * hits, hits + alarms + weights.frauds),
        "accuracy": ratio(right, weights.frauds + weights.genuines),
    }


def recall_at_rate(weights: WeightedCounts, rate: float) -> Floats:
    """Highest recall of a threshold whose false positive rate is at most rate: (b)."""
    return np.where(
        weights.genuines > 0, ratio(_up_to(weights.caught, steps_within(weights, rate)), weights.frauds), np.nan
    )


def recall_at_precision(weights: WeightedCounts, precision: float) -> Floats:
    """Highest recall of a threshold with at least this precision; 0 if there is none: (b)."""
    reached = ratio(weights.caught, weights.caught + weights.alarms_at, otherwise=0.0) >= precision
    return ratio(np.where(reached, weights.caught, 0).max(axis=1), weights.frauds)


def value_recalls(weights: WeightedCounts) -> dict[str, Floats]:
    """Share of the fraudulent amount that is flagged, at the cut and at a false positive rate of 1 %."""
    at_rate = f"value_weighted_recall_at_fpr_{VALUE_RECALL_RATE:g}"
    if weights.value is None:
        nothing = np.full(len(weights.fraud), np.nan)
        return {"value_weighted_recall": nothing, at_rate: nothing}
    value = np.cumsum(weights.value, axis=1)
    within = ratio(_up_to(value, steps_within(weights, VALUE_RECALL_RATE)), value[:, -1])
    return {
        "value_weighted_recall": ratio(value[:, weights.cut], value[:, -1]),
        at_rate: np.where(weights.genuines > 0, within, np.nan),
    }


def steps_within(weights: WeightedCounts, rate: float) -> Integers:
    """Number of steps, from the top, with a false positive rate of at most rate: (b)."""
    rates = ratio(weights.alarms_at, weights.genuines[:, None], otherwise=0.0)
    return np.asarray(np.count_nonzero(rates <= rate, axis=1), dtype=np.int64)  # rates never decrease along a ranking


def ratio(above: Array, below: Array, *, otherwise: float = np.nan) -> Floats:
    """above / below, element-wise, and `otherwise` where below is 0."""
    above, below = np.broadcast_arrays(above, below)
    out: NDArray[np.float64] = np.full(above.shape, otherwise, dtype=np.float64)
    np.divide(above, below, out=out, where=below != 0)
    return out


def _up_to(cumulated: Array, steps: Integers) -> Array:
    """cumulated (b, G) after that many steps (b); 0 after none."""
    values = np.take_along_axis(cumulated, np.maximum(steps - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(steps > 0, values, 0)
