"""Fit a monotone logistic regression on cubic B-splines, as the legacy TSA system's probability score, with SciPy.

Non-decreasing coefficients make the probability monotone (Ramsay 1988); a penalty of 1e-10 on second differences makes
the fit unique. Solved by Newton steps, each a bounded least-squares problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.optimize import lsq_linear
from scipy.sparse import csr_array

from tsa.errors import CalibrationError

Floats = NDArray[np.float64]

DEGREE = 3
DIGITS = 6
"""Scores are rounded to this many digits and grouped."""

PENALTY = 1e-10
MIN_POINTS = 10
"""Intervals between knots with at most this many points (distinct scores) are merged."""

TOP_LEVELS = (0.9, 0.99, 0.999, 0.9999)
MAX_STEPS = 200
TOLERANCE = 1e-6
"""Relative decrease of the loss at which to stop: with only frauds at the top, coefficients would grow for ever."""

MIN_COEFFICIENT = -25.0
"""Lower limit: without frauds among the lowest scores their probability would go to 0; 1e-11 is low enough."""

MAX_COEFFICIENT = 1e12
MIN_RISE = 1e-6
"""Minimum increase between coefficients: tiny, but keeps the order of scores where the fit would be constant."""


@dataclass(frozen=True)
class Grouped:
    """Payments grouped by rounded score: m distinct `score` values, each with `n` payments and `frauds`; all (m,)."""

    score: Floats
    n: Floats
    frauds: Floats

    @classmethod
    def of(cls, score: Floats, label: Floats) -> Grouped:
        """Group (n,) scores and labels."""
        values, group, n = np.unique(np.round(score, DIGITS), return_inverse=True, return_counts=True)
        return cls(values, n.astype(np.float64), np.bincount(group, weights=label).astype(np.float64))


def fit_bspline(score: Floats, label: Floats) -> tuple[Floats, Floats]:
    """Knots with boundary repeats and ascending coefficients for scores (n,) in [0, 1] and labels (n,) of 0 and 1.

    Raises:
        CalibrationError: If the fit does not converge or diverges.
    """
    data = Grouped.of(score, label)
    inner = inner_knots(np.round(score, DIGITS), data.score)
    knots = np.concatenate([np.zeros(DEGREE + 1), inner, np.ones(DEGREE + 1)])
    coefficients = _SplineFit(data, csr_array(BSpline.design_matrix(data.score, knots, DEGREE))).solve()
    if not np.abs(coefficients).max() < MAX_COEFFICIENT:
        actual = f"{np.abs(coefficients).max():g}"
        raise CalibrationError(f"bspline fit fails its check: coefficients must stay below 1e12 (got {actual})")
    return knots, coefficients


def inner_knots(score: Floats, points: Floats) -> Floats:
    """Knots inside (0, 1): quantiles of the scores (n,), denser near 1, and a grid; each interval between two knots
    contains more than `MIN_POINTS` of the points (m,), which are the distinct scores."""
    count = 20 if len(score) < 10_000 else 50 if len(score) <= 1_000_000 else 100
    quantiles = np.quantile(score, [*np.linspace(0, 1, count), *TOP_LEVELS])
    knots = np.unique([*quantiles, *np.linspace(0, 1, 11)])
    knots = knots[(knots > 0) & (knots < 1)]
    merged: list[float] = []
    below = np.searchsorted(points, knots, side="left")
    begun = 0
    for knot, passed in zip(knots.tolist(), below.tolist(), strict=True):
        if passed - begun > MIN_POINTS:
            merged.append(knot)
            begun = passed
    if merged and len(points) - begun <= MIN_POINTS:
        merged.pop()
    return np.array(merged)


class _SplineFit:
    """The negative log likelihood as a function of the K coefficients, and its minimum for non-decreasing ones."""

    def __init__(self, data: Grouped, basis: csr_array) -> None:
        self.data, self.basis = data, basis
        size = basis.shape[1]
        second = np.diff(np.eye(size), n=2, axis=0)
        self.penalty = 2 * PENALTY * second.T @ second
        self.steps = np.tril(np.ones((size, size)))  # coefficients = steps @ (the first, then the increments)
        self.min_coefficients = np.r_[MIN_COEFFICIENT, np.full(size - 1, MIN_RISE)]

    def loss(self, coefficients: Floats) -> float:
        """The negative log likelihood, with the penalty."""
        eta = self.basis @ coefficients
        likelihood = self.data.frauds @ eta - self.data.n @ np.logaddexp(0, eta)
        return float(0.5 * coefficients @ self.penalty @ coefficients - likelihood)

    def solve(self) -> Floats:
        """(K,) the best coefficients. Raises CalibrationError if the fit does not converge in `MAX_STEPS` steps."""
        rate = self.data.frauds.sum() / self.data.n.sum()
        # start with a slope: with equal coefficients every bound would be active and the first steps would be small
        at = max(np.log(rate / (1 - rate)), MIN_COEFFICIENT + 2) + np.linspace(-1, 1, self.basis.shape[1])
        loss = self.loss(at)
        for _ in range(MAX_STEPS):
            after, loss_after = self._shortened(at, loss, self._newton(at))
            gain, at, loss = loss - loss_after, after, loss_after
            if gain <= TOLERANCE * abs(loss):
                return at
        rule = f"it must converge in {MAX_STEPS} steps"
        raise CalibrationError(f"bspline fit fails its check: {rule} (it does not)")

    def _newton(self, at: Floats) -> Floats:
        """The minimum of the quadratic approximation of the loss at `at`, among non-decreasing coefficients."""
        eta = self.basis @ at
        probability = 1 / (1 + np.exp(-np.clip(eta, -500, 500)))
        gradient = self.basis.T @ (self.data.n * probability - self.data.frauds) + self.penalty @ at
        weight = self.data.n * probability * (1 - probability)
        curvature = (self.basis.T @ self.basis.multiply(weight[:, None])).toarray() + self.penalty
        values, vectors = np.linalg.eigh(self.steps.T @ curvature @ self.steps)
        root = np.sqrt(np.maximum(values, 1e-12 * values[-1]))
        square = root[:, None] * vectors.T
        increments = np.diff(at, prepend=0.0)
        target = square @ increments - (vectors.T @ (self.steps.T @ gradient)) / root
        out: Floats = self.steps @ lsq_linear(square, target, bounds=(self.min_coefficients, np.inf), method="bvls").x
        return out

    def _shortened(self, at: Floats, loss: float, goal: Floats) -> tuple[Floats, float]:
        """Line search towards `goal`: the quadratic approximation may overestimate the decrease."""
        share = 1.0
        while share > 1e-8:
            there = at + share * (goal - at)
            if (after := self.loss(there)) < loss:
                return there, after
            share /= 2
        return at, loss
