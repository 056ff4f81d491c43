"""Performance before the outcomes are known, expected from calibrated probabilities (confidence-based estimation).

If a payment's probability is right, it is a fraud with just that chance. So outcomes are drawn from the probabilities many
times, and the metrics of the draws are the expected ones: their mean, and the range of 95 % of them. Where outcomes have
matured since, the same estimate of those payments is compared with what was measured. `expected` says when not to believe it.

Source: NannyML's CBPE, https://nannyml.readthedocs.io/en/stable/how_it_works/performance_estimation.html.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from tsa.monitoring.windows import ScoredWindow, Windows
from tsa.progress import Progress, silent

METRICS = ("precision", "recall", "average_precision", "roc_auc")
COVERED, TAILS = 0.95, (2.5, 97.5)
"""The share of draws in an interval, and its ends in percent."""
UNLIKELY = 0.01
"""Fewer windows within their intervals than happens by chance this often: the estimates are not believed."""
MAX_ERRORS = 3.0
"""Standard errors between expected and observed frauds from which the calibration counts as drifted."""
MIDDLE = 0.5
"""The threshold of a bundle that was not evaluated: the middle of the raw scores."""
NOT_CALIBRATED = "the bundle has no calibrated probability; fit one with tsa calibrate"


def expected(
    seen: ScoredWindow,
    windows: Windows,
    *,
    threshold: float,
    as_of: float,
    min_frauds: int,
    draws: int = 200,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Estimate the metrics of each window, and check the estimates on payments whose outcome is known.

    Args:
        seen: The payments, scored.
        windows: Their time windows.
        threshold: The raw score from which a payment counts as flagged, for precision and recall.
        as_of: Outcomes known by this time are used for the check; the estimates use none.
        min_frauds: With fewer expected frauds a window has no estimate.
        draws: How often outcomes are drawn.
        seed: Of the draws.
        progress: Receives the progress.

    Returns:
        `believed` and the `reasons` if not; `windows`, each with `n`, `frauds` (expected), `metrics` with intervals or a
        `reason`, and `check`: None, or per metric the estimate of the matured payments, `measured`, and whether it is `within`;
        `checked` and `within`: counts over all windows and metrics.
    """
    if "probability" not in seen.scores:
        return {"believed": False, "reasons": [NOT_CALIBRATED], "windows": [], "checked": 0, "within": 0}
    probability, label = np.asarray(seen.scores["probability"], np.float64), np.asarray(seen.store.label[seen.rows])
    codes, known, measured = windows.codes(seen.time_seconds), seen.matured(as_of), []
    with progress("estimating performance", len(windows)) as advance:
        for at in range(len(windows)):
            generator, inside = np.random.default_rng([seed, at]), codes == at
            estimate = _estimate(seen.raw, probability, inside, threshold, min_frauds, draws, generator)
            check = _check(seen.raw, probability, label, inside & known, threshold, min_frauds, draws, generator)
            measured.append({**estimate, "check": check})
            advance(1)
    checks = [one["within"] for window in measured for one in (window["check"] or {}).values()]
    per_window = [all(one["within"] for one in window["check"].values()) for window in measured if window["check"]]
    reasons = _doubts(probability[known], label[known], per_window)
    result = {"believed": not reasons, "reasons": reasons, "windows": measured}
    return {**result, "threshold": threshold, "checked": len(checks), "within": sum(checks)}


def _estimate(
    raw: NDArray[np.float64],
    probability: NDArray[np.float64],
    rows: NDArray[np.bool_],
    threshold: float,
    min_frauds: int,
    draws: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    chance = probability[rows]
    frauds, result = float(chance.sum()), {"n": int(rows.sum()), "frauds": float(chance.sum()), "metrics": {}}
    if frauds < min_frauds:
        return {**result, "reason": f"{frauds:.1f} expected frauds: no estimate below {min_frauds}"}
    if not draws:
        return {**result, "reason": "without draws there is no estimate"}
    ranking = PaymentRanking(raw[rows], threshold)
    drawn = np.array([ranking.metrics(generator.random(len(chance)) < chance) for _ in range(draws)])
    low, high = np.nanpercentile(drawn, TAILS, axis=0)
    metrics = {
        name: {"value": float(value), "low": float(a), "high": float(b)}
        for name, value, a, b in zip(METRICS, np.nanmean(drawn, axis=0), low, high, strict=True)
        if np.isfinite(value)
    }
    return {**result, "metrics": metrics}


def _check(
    raw: NDArray[np.float64],
    probability: NDArray[np.float64],
    label: NDArray[np.int8],
    rows: NDArray[np.bool_],
    threshold: float,
    min_frauds: int,
    draws: int,
    generator: np.random.Generator,
) -> dict[str, Any] | None:
    """The estimate of payments with known outcomes, and what was measured; None with too few frauds."""
    if label[rows].sum() < min_frauds:
        return None
    estimate = _estimate(raw, probability, rows, threshold, min_frauds, draws, generator)["metrics"]
    values = dict(zip(METRICS, PaymentRanking(raw[rows], threshold).metrics(label[rows] == 1), strict=True))
    return {
        name: {**metric, "measured": values[name], "within": bool(metric["low"] <= values[name] <= metric["high"])}
        for name, metric in estimate.items()
        if np.isfinite(values[name])
    }


def _doubts(probability: NDArray[np.float64], label: NDArray[np.int8], per_window: list[bool]) -> list[str]:
    """Why the estimates should not be believed."""
    doubts = []
    spread = float(np.sqrt(np.sum(probability * (1 - probability))))
    expected_frauds, frauds = float(probability.sum()), int((label == 1).sum())
    if not len(label):
        doubts.append("no outcome is known yet, so the probabilities could not be checked")
    elif abs(expected_frauds - frauds) > MAX_ERRORS * spread:
        doubts.append(
            f"the calibration has drifted: {expected_frauds:.1f} frauds expected, {frauds} known; run tsa calibrate"
        )
    held = sum(per_window)
    # four metrics of a window are measured on the same payments: all four within is the least that can be asked of chance
    if per_window and binom.cdf(held, len(per_window), COVERED ** len(METRICS)) < UNLIKELY:
        doubts.append(f"{len(per_window) - held} of {len(per_window)} earlier estimates missed what was measured since")
    return doubts


class PaymentRanking:
    """Payments in the order of their scores: computes metrics for any outcomes. Equal scores count as one place."""

    def __init__(self, raw: NDArray[np.float64], threshold: float) -> None:
        """Sort n payments once.

        Args:
            raw: (n,) scores.
            threshold: The score from which a payment counts as flagged.
        """
        self._order = np.argsort(-raw, kind="stable")
        ranked = raw[self._order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        group = np.searchsorted(last, np.arange(len(ranked)))
        self._end, self._start = last[group], np.append(0, last[:-1] + 1)[group]
        self._flagged = int(np.count_nonzero(raw >= threshold))

    def metrics(self, fraud: NDArray[np.bool_]) -> tuple[float, float, float, float]:
        """Precision, recall, average precision and ROC AUC for (n,) outcomes; NaN where one is not defined."""
        hit = fraud[self._order].astype(np.float64)
        sums, n = np.append(0.0, np.cumsum(hit)), len(hit)
        frauds = sums[-1]
        caught = sums[self._flagged]
        precision = caught / self._flagged if self._flagged else np.nan
        if frauds in (0, n):
            return float(precision), np.nan, np.nan, np.nan
        average = float(np.sum(hit * sums[self._end + 1] / (self._end + 1)) / frauds)
        # genuine payments below a fraud, those with the same score by half
        genuine = np.arange(n + 1) - sums
        above, tied = genuine[self._start], genuine[self._end + 1] - genuine[self._start]
        below = (n - frauds) - above - tied
        area = float(np.sum(hit * (below + tied / 2)) / (frauds * (n - frauds)))
        return float(precision), float(caught / frauds), average, area
