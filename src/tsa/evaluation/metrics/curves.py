"""Curves of a ranking thinned to a few hundred points, and the score distribution: for drawing, not for measuring."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tsa.evaluation.metrics.ranking import Floats
from tsa.evaluation.metrics.scored_payments import Array
from tsa.evaluation.metrics.weighted import WeightedCounts, ratio

MAX_POINTS = 400
BINS = 50


def roc_curve(weights: WeightedCounts) -> dict[str, list[float]] | None:
    """Corners of the ROC curve, thinned: false_positive_rate, recall. None unless both classes occur."""
    frauds, genuines = weights.frauds[0], weights.genuines[0]
    if not frauds or not genuines:
        return None
    caught = weights.caught[0]
    before = np.concatenate([[0], caught[:-1]])
    x = (
        np.concatenate([[0], np.ravel([weights.alarms_above[0], weights.alarms_at[0]], order="F"), [genuines]])
        / genuines
    )
    y = np.concatenate([[0], np.ravel([before, caught], order="F"), [frauds]]) / frauds
    chosen = thin(x, y)
    return {"false_positive_rate": _short(x[chosen]), "recall": _short(y[chosen])}


def precision_recall_curve(weights: WeightedCounts) -> dict[str, list[float]] | None:
    """Precision at each distinct fraud score, thinned: recall, precision. None without frauds."""
    if not weights.frauds[0]:
        return None
    steps = np.flatnonzero(weights.fraud[0])
    caught = weights.caught[0][steps]
    x = caught / weights.frauds[0]
    y = ratio(caught, caught + weights.alarms_at[0][steps])
    chosen = thin(x, y)
    return {"recall": _short(x[chosen]), "precision": _short(y[chosen])}


def score_histogram(label: Array, score: Array) -> dict[str, list[float] | list[int]] | None:
    """Payments per score bin and class: edges (BINS + 1), genuine, fraud. Scores within [0, 1] get bins over [0, 1]."""
    if not len(score):
        return None
    low, high = min(float(score.min()), 0.0), max(float(score.max()), 1.0)
    if low < 0 or high > 1:
        low, high = float(score.min()), float(score.max())
    edges = np.histogram_bin_edges(np.zeros(0), bins=BINS, range=(low, high))
    genuine, fraud = (np.histogram(score[label == value], bins=BINS, range=(low, high))[0].tolist() for value in (0, 1))
    return {"edges": _short(edges), "genuine": genuine, "fraud": fraud}


def thin(x: Floats, y: Floats, max_points: int = MAX_POINTS) -> NDArray[np.intp]:
    """Indices of at most `max_points` points of a curve: half evenly along its length, half evenly along its points."""
    if len(x) <= max_points:
        return np.arange(len(x))
    length = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
    along = np.searchsorted(length, np.linspace(0, length[-1], max_points // 2))
    every = np.linspace(0, len(x) - 1, max_points // 2).astype(np.intp)
    return np.unique(np.concatenate([along, every]).clip(0, len(x) - 1))


def _short(values: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
