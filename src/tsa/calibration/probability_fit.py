"""Fit a probability map to scores with known outcomes, and check the fit.

Methods: "bspline" (see `tsa.calibration.bspline`), "isotonic", "platt", "beta".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from tsa.calibration.bspline import fit_bspline
from tsa.calibration.probability_maps import EPSILON, BSplineMap, IsotonicMap, LogitMap, ProbabilityMap
from tsa.errors import CalibrationError

Floats = NDArray[np.float64]

MIN_ROWS, MIN_FRAUDS = 1000, 10
MIN_VALUES = 11
"""Minimum number of distinct probabilities of a useful map."""
COMPARED_DIGITS = 6


def fit_probability(scores: ArrayLike, labels: ArrayLike, method: str = "bspline") -> ProbabilityMap:
    """Fit a map to raw scores (n,) in [0, 1] and their labels (n,), 0 genuine or 1 fraud.

    Raises:
        CalibrationError: For fewer than 1000 rows or 10 frauds, values out of bounds, an unknown method, or a fit that
            fails its check.
    """
    if method not in METHODS:
        raise CalibrationError(f"method must be one of {', '.join(METHODS)} (got {method!r})")
    score, label = _checked(np.asarray(scores, np.float64), np.asarray(labels, np.float64))
    fitted = METHODS[method](score, label)
    _self_check(fitted, score, label)
    return fitted


def _checked(score: Floats, label: Floats) -> tuple[Floats, Floats]:
    if score.ndim != 1 or score.shape != label.shape:
        raise CalibrationError(f"scores and labels must both have shape (n,) (got {score.shape}, {label.shape})")
    if not ((score >= 0) & (score <= 1)).all():
        raise CalibrationError("calibration scores must lie in [0, 1], but some do not")
    if not ((label == 0) | (label == 1)).all():
        raise CalibrationError("calibration labels must be 0 or 1 (got others)")
    frauds = int(label.sum())
    if len(score) < MIN_ROWS or frauds < MIN_FRAUDS or frauds == len(score):
        needs = f"at least {MIN_ROWS:,} payments whose outcome is known, {MIN_FRAUDS} frauds and one genuine among them"
        raise CalibrationError(f"a probability needs {needs} (got {len(score):,} payments, {frauds:,} frauds)")
    if (different := len(np.unique(score))) < MIN_VALUES:
        raise CalibrationError(f"a probability needs {MIN_VALUES} different scores or more (got {different})")
    return score, label


def _self_check(fitted: ProbabilityMap, score: Floats, label: Floats) -> None:
    """Reject a fit with too few distinct values, or worse than the constant fraud rate."""
    probability = fitted(score)
    # do not count the tiny slope that keeps the order of scores on constant parts
    different = len(np.unique(np.round(probability, COMPARED_DIGITS)))
    if different < MIN_VALUES:
        rule = f"must give {MIN_VALUES} different probabilities or more"
        raise CalibrationError(f"{fitted.method} fit fails its check: it {rule} (got {different})")
    own, constant = deviance(probability, label), deviance(np.full_like(label, label.mean()), label)
    if not own < constant:
        actual = f"deviance {own:.6g}, with the fraud rate alone {constant:.6g}"
        raise CalibrationError(f"{fitted.method} fit fails its check: it must beat a constant (got {actual})")


def deviance(probability: Floats, label: Floats) -> float:
    """−2 log likelihood, with probabilities clipped to within 1e-15 of 0 and 1."""
    clipped = np.clip(probability, 1e-15, 1 - 1e-15)
    return float(-2 * (np.log(clipped[label == 1]).sum() + np.log1p(-clipped[label == 0]).sum()))


def _bspline(score: Floats, label: Floats) -> BSplineMap:
    knots, coefficients = fit_bspline(score, label)
    return BSplineMap(knots=tuple(knots.tolist()), coefficients=tuple(coefficients.tolist()))


def _isotonic(score: Floats, label: Floats) -> IsotonicMap:
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score, label)
    steps = np.maximum.accumulate(np.clip(fitted.y_thresholds_, 0.0, 1.0))
    return IsotonicMap(scores=tuple(fitted.X_thresholds_.tolist()), probabilities=tuple(steps.tolist()))


def _platt(score: Floats, label: Floats) -> LogitMap:
    logit = np.log(_clipped(score)) - np.log1p(-_clipped(score))
    a, c = _logistic(logit[:, None], label)
    return LogitMap("platt", a, a, c)


def _beta(score: Floats, label: Floats) -> LogitMap:
    a, b, c = _logistic(np.column_stack([np.log(_clipped(score)), -np.log1p(-_clipped(score))]), label)
    return LogitMap("beta", a, b, c)


def _clipped(score: Floats) -> Floats:
    return np.clip(score, EPSILON, 1 - EPSILON)


def _logistic(x: Floats, label: Floats) -> list[float]:
    """Logistic regression on x (n, k) with non-negative weights; returns the weights, then the intercept."""
    centre, width = x.mean(0), x.std(0) + 1e-12
    columns = np.column_stack([(x - centre) / width, np.ones(len(x))])

    def loss(weights: Floats) -> tuple[float, Floats]:
        eta = columns @ weights
        residual = 1 / (1 + np.exp(-eta)) - label
        return float((np.logaddexp(0, eta) - label * eta).mean()), columns.T @ residual / len(label)

    start = np.r_[np.ones(x.shape[1]), np.log(label.mean() / (1 - label.mean()))]
    bounds = [(0, None)] * x.shape[1] + [(None, None)]
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9})
    weights = result.x[:-1] / width
    if not (np.isfinite(result.x).all() and weights.max() > 0):
        raise CalibrationError("the fit fails its check: probability must increase with the score (it does not)")
    return [*weights.tolist(), float(result.x[-1] - weights @ centre)]


METHODS: dict[str, Callable[[Floats, Floats], ProbabilityMap]] = {
    "bspline": _bspline,
    "isotonic": _isotonic,
    "platt": _platt,
    "beta": _beta,
}
