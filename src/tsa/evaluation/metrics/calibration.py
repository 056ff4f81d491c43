"""Calibration metrics from labels and probabilities: reliability, Brier score, expected calibration error, and drift.

docs/concepts/scores.md defines each metric.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from tsa.evaluation.metrics.bootstrap import MINIMUM_EVENTS, interval, poisson_one
from tsa.evaluation.metrics.psi import bin_counts, equal_mass_edges, psi_of_shares
from tsa.evaluation.metrics.scored_payments import Array
from tsa.times import DAY_SECONDS

Floats = NDArray[np.float64]

MAX_BINS = 20
PER_BIN = 200
"""Approximate minimum number of payments per bin."""

TOP_BINS, PER_TOP_BIN = 10, 20
"""For the reliability curve only: number of parts of the last bin, and minimum payments per part."""

CELLS = 50
"""Cells per bin in which genuine payments, with nearly equal probabilities, are resampled together."""


@dataclass(frozen=True)
class Bins:
    """n payments in B bins of equal mass by ascending probability; equal probabilities share a bin."""

    code: NDArray[np.int64]
    """(n,) the bin of each payment."""
    edges: Floats
    """(B + 1,) the lowest probability of each bin, then the overall maximum."""

    @classmethod
    def of(cls, probability: Floats, max_bins: int = MAX_BINS, *, split_top: int = 1) -> Bins:
        """Make at most `max_bins` bins of at least `PER_BIN` payments; the last one is split again into `split_top`."""
        n, n_bins = len(probability), min(max_bins, max(1, len(probability) // PER_BIN))
        last = (n_bins - 1) * n // n_bins
        top = last + np.arange(1, split_top) * (n - last) // split_top
        ordered = np.sort(probability)
        starts = np.unique(ordered[[*(np.arange(n_bins) * n // n_bins), *top]]) if n else np.zeros(1)
        code = np.searchsorted(starts, probability, side="right") - 1
        return cls(code, np.append(starts, ordered[-1] if len(ordered) else 1.0))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def sums(self, values: Array) -> Floats:
        """(B,) the sum of values (n,) in each bin."""
        total: Floats = np.bincount(self.code, weights=values, minlength=len(self)).astype(np.float64)
        return total


def reliability(label: Array, probability: Array) -> list[dict[str, Any]]:
    """Per bin: n, frauds, the mean probability and the observed rate with its 95 % interval (exact).

    Bins have equal mass; the last one, which has most frauds, is split again if it is large enough.
    """
    values = np.asarray(probability, np.float64)
    bins = Bins.of(values, split_top=max(1, min(TOP_BINS, len(values) // (MAX_BINS * PER_TOP_BIN))))
    n, frauds, expected = (bins.sums(x) for x in (np.ones(len(values)), label, values))
    rows = []
    for at in range(len(bins)):
        if not n[at]:
            continue
        confidence = binomtest(int(frauds[at]), int(n[at])).proportion_ci(0.95)
        row = {"low": bins.edges[at], "high": bins.edges[at + 1], "n": int(n[at]), "frauds": int(frauds[at])}
        rate = {"observed": frauds[at] / n[at], "observed_low": confidence.low, "observed_high": confidence.high}
        rows.append({**row, "expected": expected[at] / n[at], **rate})
    return rows


def measure_calibration(
    label: Array, probability: Array, *, generator: np.random.Generator, replicates: int = 200, confidence: float = 0.95
) -> dict[str, Any]:
    """Calibration metrics with bootstrap intervals.

    Args:
        label: (n,) 0 or 1.
        probability: (n,) in [0, 1].

    Returns:
        n, frauds, `brier`, `ece` (expected calibration error over bins of equal mass, and its value by chance),
        `expected` frauds (the sum of probabilities) and their `ratio` to the observed frauds.
    """
    values, outcome = np.asarray(probability, np.float64), np.asarray(label, np.float64)
    n, frauds = len(values), int(outcome.sum())
    if not n:
        return {"n": 0, "frauds": 0, "metrics": {}}
    bins = Bins.of(values)
    seen = _figures(*(bins.sums(x)[None, :] for x in (np.ones(n), outcome, values, (values - outcome) ** 2)))
    sampled = _resampled(bins, outcome, values, generator, replicates)
    metrics = {name: _described(value, sampled.get(name), frauds, confidence) for name, value in seen.items()}
    metrics["ece"]["by_chance"] = _ece_by_chance(bins, values, generator)
    return {"n": n, "frauds": frauds, "bins": len(bins), "metrics": metrics}


def _figures(n: Floats, frauds: Floats, expected: Floats, squared: Floats) -> dict[str, Floats]:
    """Each metric (R,) from sums per bin (R, B), for R weightings."""
    total = n.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "brier": squared.sum(1) / total,
            "ece": np.abs(frauds - expected).sum(1) / total,
            "expected": expected.sum(1),
            "ratio": expected.sum(1) / frauds.sum(1),
        }


def _resampled(
    bins: Bins, outcome: Floats, probability: Floats, generator: np.random.Generator, replicates: int
) -> dict[str, Floats]:
    """The metrics of Poisson resamples. Frauds are drawn one by one, genuine payments by cells of nearly equal
    probability, since the weights of m payments sum to Poisson(m)."""
    if not replicates:
        return {}
    fraud = outcome == 1
    drawn = poisson_one(generator, (replicates, int(fraud.sum())))
    cell, own = _cells(bins.code[~fraud], probability[~fraud])
    counts = np.bincount(cell, minlength=len(own))
    weights = generator.poisson(counts, size=(replicates, len(own)))
    means = np.bincount(cell, weights=probability[~fraud], minlength=len(own)) / np.maximum(counts, 1)
    squares = np.bincount(cell, weights=probability[~fraud] ** 2, minlength=len(own)) / np.maximum(counts, 1)
    of_fraud, of_genuine = _spread(bins.code[fraud], len(bins)), _spread(own, len(bins))
    frauds = drawn @ of_fraud
    sums = [
        frauds + weights @ of_genuine,
        frauds,
        (drawn * probability[fraud]) @ of_fraud + (weights * means) @ of_genuine,
        (drawn * (1 - probability[fraud]) ** 2) @ of_fraud + (weights * squares) @ of_genuine,
    ]
    return _figures(*sums)


def _cells(code: NDArray[np.int64], probability: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cell of each payment (m,), by ascending probability within its bin, and the bin of each cell."""
    order = np.lexsort((probability, code))
    size = max(1, math.ceil(len(code) / (CELLS * (code.max(initial=0) + 1))))
    place = np.empty(len(code), np.int64)
    place[order] = np.arange(len(code)) // size
    key = place * (code.max(initial=0) + 1) + code
    present, cell = np.unique(key, return_inverse=True)
    return cell, present % (code.max(initial=0) + 1)


def _spread(code: NDArray[np.int64], bins: int) -> Floats:
    """(m, B) 1 if a column belongs to a bin."""
    spread: Floats = (code[:, None] == np.arange(bins)).astype(np.float64)
    return spread


def _described(value: Floats, samples: Floats | None, frauds: int, confidence: float) -> dict[str, Any]:
    """{value, low, high}, with a reason if one is None, as for every other metric."""
    number = float(value[0])
    if not math.isfinite(number):
        return {"value": None, "low": None, "high": None, "reason": "no fraud"}
    if samples is None:
        return {"value": number, "low": None, "high": None, "reason": "no replicates"}
    if frauds < MINIMUM_EVENTS:
        reason = f"{frauds} fraud{'s' if frauds != 1 else ''}: no interval below {MINIMUM_EVENTS}"
        return {"value": number, "low": None, "high": None, "reason": reason}
    low, high = interval(samples[np.isfinite(samples)], confidence, number)
    return {"value": number, "low": low, "high": high}


def _ece_by_chance(bins: Bins, probability: Floats, generator: np.random.Generator) -> float:
    """The mean expected calibration error of perfectly calibrated probabilities, which is due to chance alone."""
    spread = np.sqrt(bins.sums(probability * (1 - probability)))
    return float(np.abs(generator.normal(size=(400, len(bins))) * spread).sum(1).mean() / len(probability))


def population_stability(reference: Array, current: Array) -> dict[str, Any]:
    """The population stability index of current scores (m,) against reference scores (n,), over deciles of the reference.

    0 means equal; below 0.1 usually counts as stable, above 0.25 as another population. See `tsa.evaluation.metrics.psi`
    for the bins; a row of `bins` counts scores from `low` up to, but not including, `high`.
    """
    before, after = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    if not len(before) or not len(after):
        return {"value": None, "reason": "no payments", "bins": []}
    inner = equal_mass_edges(before)
    counts = [bin_counts(values, inner) for values in (before, after)]
    shares = [(count / len(values)).tolist() for count, values in zip(counts, (before, after), strict=True)]
    rows = zip([None, *inner], [*inner, None], *shares, strict=True)
    bins = [{"low": a, "high": b, "reference": p, "current": q} for a, b, p, q in rows]
    return {"value": psi_of_shares(*counts), "bins": bins}


def frauds_by_day(label: Array, probability: Array, time_seconds: Array) -> list[dict[str, Any]]:
    """Per UTC day with payments: n, observed frauds and expected frauds (the sum of probabilities)."""
    days, code = np.unique(np.floor_divide(time_seconds, DAY_SECONDS).astype(np.int64), return_inverse=True)
    n = np.bincount(code, minlength=len(days))
    observed, expected = (np.bincount(code, weights=x, minlength=len(days)) for x in (label, probability))
    dates = days.astype("datetime64[D]").astype(str).tolist()
    rows = zip(dates, n.tolist(), observed.astype(int).tolist(), expected.tolist(), strict=True)
    return [{"day": d, "n": n, "observed": o, "expected": e} for d, n, o, e in rows]
