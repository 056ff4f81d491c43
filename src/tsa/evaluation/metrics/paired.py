"""Compare two scores of the same payments: which is better, and whether the difference exceeds chance.

Both use the same bootstrap replicates (a paired comparison).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tsa.errors import DataError
from tsa.evaluation.metrics.bootstrap import (
    MINIMUM_EVENTS,
    Resample,
    check_settings,
    cluster_codes,
    interval,
    observed,
    poisson_one,
    weigh_rows,
)
from tsa.evaluation.metrics.ranking import Floats, Ranking, rank
from tsa.evaluation.metrics.scored_payments import Array, ScoredPayments
from tsa.evaluation.metrics.weighted import WeightedCounts, area_metrics

Verdict = Literal["a better", "b better", "no clear difference"]
DIGITS = 3
"""Digits of the values and intervals in reports."""


def paired_difference(
    a: Array,
    b: Array,
    payments: ScoredPayments,
    *,
    replicates: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
    resample: Resample = "payments",
) -> dict[str, dict[str, Any]]:
    """Compare score a (n,) with score b (n,) of the same payments, with the same replicates; payments.score is not used.

    Returns:
        average_precision and roc_auc -> {a, b, difference (a - b), low, high, verdict}; None with a reason if undefined.
        The verdict names one only if the interval, rounded to DIGITS, excludes 0.
    """
    check_settings(replicates=replicates, confidence=confidence)
    order = _shared_order(a, b, payments)
    rankings = [rank(payments.label[order], score[order], threshold=0.0, keep_rows=True) for score in (a, b)]
    clusters = cluster_codes(payments.entity)[order] if resample == "entities" else None
    values = [{name: float(value[0]) for name, value in _compared(observed(ranking)).items()} for ranking in rankings]
    reason = _why_not(rankings[0], replicates)
    if reason:
        return {name: _no_difference(values, name, reason) for name in values[0]}
    generator = np.random.default_rng([seed, 1])
    units = len(payments) if clusters is None else int(clusters.max()) + 1
    samples: dict[str, list[float]] = {name: [] for name in values[0]}
    for _ in range(replicates):
        drawn = poisson_one(generator, units)
        drawn = drawn if clusters is None else drawn[clusters]
        first, second = (_compared(weigh_rows(ranking, drawn)) for ranking in rankings)
        for name, differences in samples.items():
            differences.append(float(first[name][0] - second[name][0]))
    return {name: _difference(values, name, np.array(samples[name]), confidence) for name in values[0]}


def _shared_order(a: Array, b: Array, payments: ScoredPayments) -> NDArray[np.intp]:
    """An order close to both rankings, so that weights are gathered nearly sequentially; the same for (a, b) and (b, a)."""
    for name, score in (("a", a), ("b", b)):
        if score.shape != payments.label.shape or not np.isfinite(score).all():
            raise DataError(f"{name} must contain one finite score per payment (got {name}.shape={score.shape})")
    return np.argsort(np.asarray(a, dtype=np.float64) + b, kind="stable")


def _compared(weights: WeightedCounts) -> dict[str, Floats]:
    both = area_metrics(weights)
    return {name: both[name] for name in ("average_precision", "roc_auc")}


def _why_not(ranking: Ranking, replicates: int) -> str | None:
    for count, name in ((ranking.frauds, "fraud"), (ranking.genuine, "genuine payment")):
        if count < MINIMUM_EVENTS:
            return f"{count or 'no'} {name}{'s' if count > 1 else ''}: no interval below {MINIMUM_EVENTS}"
    return None if replicates else "no replicates"


def _no_difference(values: list[dict[str, float]], name: str, reason: str) -> dict[str, Any]:
    a, b = (None if math.isnan(value[name]) else value[name] for value in values)
    nothing = {"low": None, "high": None, "verdict": "no clear difference", "reason": reason}
    return {"a": a, "b": b, "difference": None if a is None or b is None else a - b} | nothing


def _difference(values: list[dict[str, float]], name: str, samples: Floats, confidence: float) -> dict[str, Any]:
    a, b = (value[name] for value in values)
    low, high = interval(samples, confidence, a - b)
    # at the digits that are shown: "better" is not credible next to an interval that begins at 0.000
    verdict: Verdict = "no clear difference"
    if round(a, DIGITS) != round(b, DIGITS) and (round(low, DIGITS) > 0 or round(high, DIGITS) < 0):
        verdict = "a better" if low > 0 else "b better"
    return {"a": a, "b": b, "difference": a - b, "low": low, "high": high, "verdict": verdict}
