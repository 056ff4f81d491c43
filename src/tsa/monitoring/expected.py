"""Performance before the outcomes are known, expected from calibrated probabilities (confidence-based estimation).

If a payment's probability is right, it is a fraud with just that chance. So outcomes are drawn from the probabilities many
times, and the metrics of the draws are the expected ones: their mean, and the range of 95 % of them. Where outcomes have
matured since, the same estimate of those payments is compared with what was measured. `expected` says when not to believe it.

The probabilities were fitted on so many frauds, so they are not exact. Each draw therefore takes other probabilities: level and
slope of their log odds err as those of a logistic fit on that number of frauds do. And outcomes of one card or terminal depend
on each other (see `tsa.monitoring.correlation`); how much, is measured on outcomes that are known.

Source: NannyML's CBPE, https://nannyml.readthedocs.io/en/stable/how_it_works/performance_estimation.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binom

from tsa.monitoring.correlation import draw_outcomes, fit_shares, renumbered
from tsa.monitoring.windows import ScoredWindow, Windows
from tsa.progress import Progress, silent

METRICS = ("precision", "recall", "average_precision", "roc_auc")
COVERED, TAILS = 0.95, (2.5, 97.5)
"""The share of draws in an interval, and its ends in percent."""
UNLIKELY = 0.01
"""Fewer windows within their intervals than happens by chance this often: the estimates are not believed."""
MAX_ERRORS = 3.0
"""Standard errors between expected and observed frauds from which the calibration counts as drifted."""
EPSILON = 1e-9
"""Probabilities are clipped to this distance from 0 and 1 before taking the logit."""
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
    min_share: float = 0.0,
    calibrated_on: int | None = None,
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
        min_share: With known outcomes for a smaller share of its payments, the estimate of a window is not checked.
        calibrated_on: The number of frauds that the probabilities were fitted on; None: take them as exact.
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
    keys = seen.key_codes
    known_keys = [one[known] for one in keys]
    shared = fit_shares(probability[known], label[known].astype(np.float64), known_keys, codes[known])
    covariance = calibration_covariance(probability, calibrated_on) * shared.design_effect
    errors = np.random.default_rng([seed, len(windows)]).multivariate_normal(np.zeros(2), covariance, draws)
    settings: dict[str, Any] = {"threshold": threshold, "min_frauds": min_frauds, "errors": errors}
    settings |= {"keys": keys, "shares": shared.shares}
    with progress("estimating performance", len(windows)) as advance:
        for at in range(len(windows)):
            generator, inside = np.random.default_rng([seed, at]), codes == at
            estimate = _estimate(seen.raw, probability, inside, generator=generator, **settings)
            enough = inside.any() and known[inside].mean() >= min_share
            check = (
                _check(seen.raw, probability, label, inside & known, generator=generator, **settings)
                if enough
                else None
            )
            measured.append({**estimate, "check": check})
            advance(1)
    checks = [one["within"] for window in measured for one in (window["check"] or {}).values()]
    per_window = [all(one["within"] for one in window["check"].values()) for window in measured if window["check"]]
    reasons = _doubts(probability[known], label[known], per_window, covariance, shared.design_effect)
    result = {"believed": not reasons, "reasons": reasons, "windows": measured}
    result |= {"design_effect": shared.design_effect}
    return {**result, "threshold": threshold, "checked": len(checks), "within": sum(checks)}


def calibration_covariance(probability: NDArray[np.float64], frauds: int | None) -> NDArray[np.float64]:
    """(2, 2) covariance of the errors of level and slope of log odds that were fitted on a number of frauds.

    It is the inverse of the Fisher information of a logistic fit, on payments that score as those with the given
    probabilities (n,) do; 0 without a number of frauds.
    """
    expected_frauds = float(probability.sum())
    if not frauds or not expected_frauds:
        return np.zeros((2, 2))
    weight, odds = probability * (1 - probability), _log_odds(probability)
    mixed = float(np.sum(weight * odds))
    information = np.array([[weight.sum(), mixed], [mixed, np.sum(weight * odds**2)]]) * frauds / expected_frauds
    return np.asarray(np.linalg.pinv(information, hermitian=True), np.float64)


def _log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    odds: NDArray[np.float64] = logit(np.clip(probability, EPSILON, 1 - EPSILON))
    return odds


def _estimate(
    raw: NDArray[np.float64],
    probability: NDArray[np.float64],
    rows: NDArray[np.bool_],
    *,
    threshold: float,
    min_frauds: int,
    errors: NDArray[np.float64],
    keys: Sequence[NDArray[np.int64]],
    shares: Sequence[float],
    generator: np.random.Generator,
) -> dict[str, Any]:
    chance = probability[rows]
    frauds, result = float(chance.sum()), {"n": int(rows.sum()), "frauds": float(chance.sum()), "metrics": {}}
    if frauds < min_frauds:
        return {**result, "reason": f"{frauds:.1f} expected frauds: no estimate below {min_frauds}"}
    if not len(errors):
        return {**result, "reason": "without draws there is no estimate"}
    ranking = PaymentRanking(raw[rows], threshold)
    odds, exact = _log_odds(chance), not errors.any()
    own_keys = [renumbered(codes[rows]) for codes in keys]
    drawn = np.empty((len(errors), len(METRICS)))
    for at, (level, slope) in enumerate(errors):
        likely = chance if exact else expit(level + (1 + slope) * odds)
        drawn[at] = ranking.metrics(draw_outcomes(likely, own_keys, shares, generator))
    metrics = {}
    for name, values in zip(METRICS, drawn.T, strict=True):
        defined = values[np.isfinite(values)]
        if len(defined):
            # of m draws: the next value is equally likely in each of the m + 1 places between them
            low, high = np.percentile(defined, TAILS, method="weibull")
            metrics[name] = {"value": float(defined.mean()), "low": float(low), "high": float(high)}
    return {**result, "metrics": metrics}


def _check(
    raw: NDArray[np.float64],
    probability: NDArray[np.float64],
    label: NDArray[np.int8],
    rows: NDArray[np.bool_],
    **settings: Any,
) -> dict[str, Any] | None:
    """The estimate of payments with known outcomes, and what was measured; None with too few expected frauds.

    The number of frauds that came does not matter: windows with many by chance would be chosen.
    """
    estimate = _estimate(raw, probability, rows, **settings)["metrics"]
    if not estimate:
        return None
    values = dict(zip(METRICS, PaymentRanking(raw[rows], settings["threshold"]).metrics(label[rows] == 1), strict=True))
    return {
        name: {**metric, "measured": values[name], "within": bool(metric["low"] <= values[name] <= metric["high"])}
        for name, metric in estimate.items()
        if np.isfinite(values[name])
    }


def _doubts(
    probability: NDArray[np.float64],
    label: NDArray[np.int8],
    per_window: list[bool],
    covariance: NDArray[np.float64],
    design_effect: float,
) -> list[str]:
    """Why the estimates should not be believed."""
    doubts = []
    weight = probability * (1 - probability)
    slopes = np.array([weight.sum(), np.sum(weight * _log_odds(probability))])
    spread = float(np.sqrt(weight.sum() * design_effect + slopes @ covariance @ slopes))
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
