"""Performance of monitored payments per window, measured on payments whose outcome is known by a given time.

Outcomes that became known later are ignored. A window with too few frauds has no metrics, and a reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.evaluation.metrics.calibration import measure_calibration
from tsa.evaluation.metrics.evaluate_scores import ScoredPayments, evaluate_scores
from tsa.evaluation.top_k import NOT_KNOWN
from tsa.monitoring.windows import ScoredWindow, Windows
from tsa.progress import Progress, silent

SHOWN = ("average_precision", "roc_auc", "recall_at_fpr_0.01", "precision_at_k")
CALIBRATION = ("expected", "ratio", "ece")
UNUSED_THRESHOLD = 0.5
"""No metric that is shown depends on it."""


def performance(
    seen: ScoredWindow,
    windows: Windows,
    *,
    as_of: float,
    min_frauds: int,
    replicates: int,
    top_k: int = NOT_KNOWN,
    seed: int = 0,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Measure each window.

    Returns:
        Per window: `n`, `matured` (outcome known at the time `as_of`), their `share`, `frauds`, `fraud_rate`, and
        `metrics` with intervals. With fewer than `min_frauds` frauds, or no genuine payment, `metrics` is empty and
        `reason` says why.
    """
    codes, known = windows.codes(seen.time_seconds), seen.matured(as_of)
    result = []
    with progress("measuring performance", len(windows)) as advance:
        for at in range(len(windows)):
            inside = codes == at
            measured = _measured(seen, np.flatnonzero(inside & known), min_frauds, replicates, top_k, seed)
            n = int(inside.sum())
            share = measured["matured"] / n if n else None
            result.append({"n": n, "share": share, **measured})
            advance(1)
    return result


def _measured(
    seen: ScoredWindow, rows: NDArray[np.intp], min_frauds: int, replicates: int, top_k: int, seed: int
) -> dict[str, Any]:
    label = np.asarray(seen.store.label[seen.rows])[rows]
    n, frauds = len(label), int(label.sum())
    result: dict[str, Any] = {"matured": n, "frauds": frauds, "fraud_rate": frauds / n if n else None, "metrics": {}}
    if reason := _why_not(n, frauds, min_frauds):
        return {**result, "reason": reason}
    payments = ScoredPayments(
        label=label,
        score=seen.raw[rows],
        time_seconds=seen.time_seconds[rows],
        entity=None if seen.entity is None else seen.entity[rows],
    )
    settings: dict[str, Any] = {"fixed_false_positive_rates": (0.01,), "fixed_precisions": ()}
    evaluation = evaluate_scores(
        payments, threshold=UNUSED_THRESHOLD, top_k=top_k, replicates=replicates, seed=seed, **settings
    )
    metrics = {name: _short(evaluation["metrics"][name]) for name in SHOWN}
    if "probability" in seen.scores:
        probability = np.asarray(seen.scores["probability"])[rows]
        generator = np.random.default_rng([seed, 1])
        measured = measure_calibration(label, probability, generator=generator, replicates=replicates)["metrics"]
        metrics |= {name: _short(measured[name]) for name in CALIBRATION}
    return {**result, "metrics": metrics}


def _why_not(n: int, frauds: int, min_frauds: int) -> str | None:
    if not n:
        return "no outcome is known yet"
    if frauds < min_frauds:
        return f"{frauds} known fraud{'s' if frauds != 1 else ''}: no metrics below {min_frauds}"
    return "no genuine payment is known" if frauds == n else None


def _short(metric: dict[str, Any]) -> dict[str, Any]:
    """A metric without the parts that only the report shows."""
    return {key: metric[key] for key in ("value", "low", "high", "reason", "by_chance") if key in metric}
