"""evaluate_scores: every metric of a set of scored payments, each with a bootstrap interval, as one JSON-able dict.

docs/concepts/metrics.md defines each metric.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError
from tsa.evaluation.metrics.bootstrap import (
    MINIMUM_EVENTS,
    Resample,
    check_settings,
    cluster_codes,
    interval,
    observed,
    resample,
)
from tsa.evaluation.metrics.curves import precision_recall_curve, roc_curve, score_histogram
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.metrics.precision_at_k import card_precision_at_k, daily_precision, entity_days, resampled_precision
from tsa.evaluation.metrics.ranking import Floats, Ranking, rank
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.evaluation.metrics.segments import by_history_length, by_value
from tsa.evaluation.metrics.weighted import VALUE_RECALL_RATE, WeightedCounts, measure, steps_within
from tsa.text import plural
from tsa.times import DAY_SECONDS

__all__ = ["ScoredPayments", "card_precision_at_k", "evaluate_scores", "paired_difference"]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    threshold: float
    top_k: int
    rates: tuple[float, ...]
    precisions: tuple[float, ...]
    replicates: int
    seed: int
    confidence: float
    resample: Resample

    def __post_init__(self) -> None:
        check_settings(replicates=self.replicates, confidence=self.confidence)
        if not math.isfinite(self.threshold):
            raise ConfigError(f"threshold must be finite (got threshold={self.threshold})")
        for name, values in (("false positive rates", self.rates), ("precisions", self.precisions)):
            if not all(0 < value <= 1 for value in values):
                raise ConfigError(f"fixed {name} must lie in (0, 1] (got {values})")

    def generator(self, purpose: str) -> np.random.Generator:
        """One random stream per purpose, so that no part of the evaluation changes the intervals of another."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])


def evaluate_scores(
    payments: ScoredPayments,
    *,
    threshold: float,
    top_k: int = 100,
    fixed_false_positive_rates: Sequence[float] = (0.001, 0.005, 0.01, 0.05),
    fixed_precisions: Sequence[float] = (0.5, 0.8, 0.9),
    replicates: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
    resample: Resample = "payments",
) -> dict[str, Any]:
    """Measure payments (n). A payment is flagged when its score is at or above threshold.

    resample: what the bootstrap draws, single payments or all payments of an entity together.

    Returns:
        Each metric as {value, low, high}; undefined ones are None, with a "reason".
    """
    return _evaluate(
        payments,
        _Settings(
            threshold=float(threshold),
            top_k=top_k,
            rates=tuple(fixed_false_positive_rates),
            precisions=tuple(fixed_precisions),
            replicates=replicates,
            seed=seed,
            confidence=confidence,
            resample=resample,
        ),
    )


def _evaluate(payments: ScoredPayments, settings: _Settings) -> dict[str, Any]:
    ranking = _rank(payments, None, settings)
    seen = observed(ranking)
    result = _measured(payments, None, ranking, settings, "all")
    result["metrics"]["precision_at_k"] = _precision_at_k(payments, settings)
    return result | {
        "threshold": settings.threshold,
        "confusion": _confusion(seen),
        "curves": {
            "roc": roc_curve(seen),
            "pr": precision_recall_curve(seen),
            "score_histogram": score_histogram(payments.label, payments.score),
        },
        "segments": {
            name: by_value(values, partial(_part, payments, settings, f"segment {name}"))
            for name, values in payments.segments.items()
        },
        "history_length": {
            name: by_history_length(lengths, partial(_part, payments, settings, f"history {name}"))
            for name, lengths in payments.history_length.items()
        },
        "settings": {
            name: getattr(settings, name) for name in ("top_k", "replicates", "seed", "confidence", "resample")
        },
    }


def _part(payments: ScoredPayments, settings: _Settings, name: str, rows: NDArray[np.intp]) -> dict[str, Any]:
    return _measured(payments, rows, _rank(payments, rows, settings), settings, f"{name} {rows[0]}")


def _rank(payments: ScoredPayments, rows: NDArray[np.intp] | None, settings: _Settings) -> Ranking:
    selected = slice(None) if rows is None else rows
    return rank(
        payments.label[selected],
        payments.score[selected],
        threshold=settings.threshold,
        amount=None if payments.amount is None else payments.amount[selected],
        keep_rows=settings.resample == "entities",
    )


def _measured(
    payments: ScoredPayments, rows: NDArray[np.intp] | None, ranking: Ranking, settings: _Settings, purpose: str
) -> dict[str, Any]:
    """n, frauds, fraud_rate and metrics of the payments in rows (None: all), whose ranking is given."""
    clusters = None
    if settings.resample == "entities":
        entity = payments.entity if payments.entity is None or rows is None else payments.entity[rows]
        clusters = cluster_codes(entity)
    generator = np.random.default_rng(
        [settings.seed, zlib.crc32(purpose.encode())]
    )  # no segment changes the intervals of another
    seen = observed(ranking)
    options: dict[str, Any] = {"rates": settings.rates, "precisions": settings.precisions}
    blocks = [measure(w, **options) for w in resample(ranking, generator, settings.replicates, clusters=clusters)]
    events = _events(ranking, seen)
    metrics = {
        name: _described(float(value[0]), [b[name] for b in blocks], _rarest_event(name, events), settings.confidence)
        for name, value in measure(seen, **options).items()
    }
    for rate in settings.rates:
        metrics[f"recall_at_fpr_{rate:g}"]["threshold"] = _threshold_within(ranking, seen, rate)
    n = ranking.frauds + ranking.genuine
    return {"n": n, "frauds": ranking.frauds, "fraud_rate": ranking.frauds / n if n else None, "metrics": metrics}


def _described(value: float, samples: list[Floats], rarest: tuple[int, str], confidence: float) -> dict[str, Any]:
    """{value, low, high} of a metric from its value and its replicates, with a reason if one is None."""
    count, event = rarest
    if math.isnan(value):
        return {"value": None, "low": None, "high": None, "reason": f"no {event}"}
    if not samples:
        return {"value": value, "low": None, "high": None, "reason": "no replicates"}
    if count < MINIMUM_EVENTS:
        reason = f"{plural(count, event)}: no interval below {MINIMUM_EVENTS}"
        return {"value": value, "low": None, "high": None, "reason": reason}
    low, high = interval(np.concatenate(samples), confidence, value)
    return {"value": value, "low": low, "high": high}


def _events(ranking: Ranking, seen: WeightedCounts) -> dict[str, int]:
    """Number of payments of each kind that some metric requires."""
    flagged = int(seen.caught[0, ranking.cut] + seen.alarms_at[0, ranking.cut])
    missed = ranking.frauds - int(seen.caught[0, ranking.cut])
    valued = 0 if ranking.fraud_values is None else int(np.count_nonzero(ranking.fraud_values))
    return {
        "payment": ranking.frauds + ranking.genuine,
        "fraud": ranking.frauds,
        "genuine payment": ranking.genuine,
        "payment at or above the threshold": flagged,
        "fraud or payment at or above the threshold": flagged + missed,
        "fraud with an amount": valued,
    }


_NEEDS = {
    "roc_auc": ("fraud", "genuine payment"),
    "precision": ("payment at or above the threshold",),
    "f1": ("fraud or payment at or above the threshold",),
    "accuracy": ("payment",),
    "value_weighted_recall": ("fraud with an amount",),
    f"value_weighted_recall_at_fpr_{VALUE_RECALL_RATE:g}": ("fraud with an amount", "genuine payment"),
}


def _rarest_event(metric: str, events: dict[str, int]) -> tuple[int, str]:
    """The rarest kind of payment that a metric requires, and its number."""
    fixed_rate = ("fraud", "genuine payment") if metric.startswith("recall_at_fpr_") else ("fraud",)
    return min((events[event], event) for event in _NEEDS.get(metric, fixed_rate))


def _threshold_within(ranking: Ranking, seen: WeightedCounts, rate: float) -> float | None:
    """The lowest fraud score (or the decision threshold) that does not exceed a false positive rate."""
    steps = int(steps_within(seen, rate)[0])
    return float(ranking.scores[steps - 1]) if steps and ranking.genuine else None


def _confusion(seen: WeightedCounts) -> dict[str, int]:
    counts = seen.caught[0, seen.cut], seen.alarms_at[0, seen.cut], seen.frauds[0], seen.genuines[0]
    hits, alarms, frauds, genuines = (int(count) for count in counts)
    return {
        "true_positives": hits,
        "false_positives": alarms,
        "false_negatives": frauds - hits,
        "true_negatives": genuines - alarms,
    }


def _precision_at_k(payments: ScoredPayments, settings: _Settings) -> dict[str, Any]:
    """Card precision@k with the interval over entities, and the precision of each day."""
    k = settings.top_k
    if payments.entity is None:
        return {"value": None, "low": None, "high": None, "reason": "no entity given", "k": k, "per_day": []}
    day = np.floor_divide(payments.time_seconds, DAY_SECONDS).astype(np.int64)
    table = entity_days(day, payments.entity, payments.score, payments.label)
    per_day = daily_precision(table, k)
    value = float(per_day.mean()) if len(per_day) else math.nan
    samples = []
    if settings.replicates and len(per_day):
        samples = [resampled_precision(table, k, settings.generator("precision_at_k"), settings.replicates)]
    compromised = len(np.unique(table.entity[table.fraud]))
    rarest = (compromised, "entity with a fraud") if len(per_day) else (0, "payment with an entity")
    dates = table.days.astype("datetime64[D]").astype(str).tolist()
    return _described(value, samples, rarest, settings.confidence) | {
        "k": k,
        "per_day": [{"day": d, "precision": p} for d, p in zip(dates, per_day.tolist(), strict=True)],
    }
