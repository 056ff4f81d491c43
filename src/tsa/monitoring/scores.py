"""Scores and volume per window: bins of the raw score, shares above operating points, payments per day.

An operating point is a score at which a team acts: the riskiest share of payments, or a decision of the bundle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.evaluation.metrics.psi import equal_mass_edges
from tsa.monitoring.bin_counts import Counts, Feature, Integers, count_numbers
from tsa.monitoring.windows import ScoredWindow, Windows
from tsa.times import DAY_SECONDS

RAW = "raw_score"
COMPLETE_DAY = 0.9
"""A day counts as complete if the range covers at least this share of it."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """An operating point: payments whose `score` is at least `at_least`. share: the share of payments it was chosen for."""

    name: str
    score: str
    at_least: float
    share: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Days:
    """Payments of each of the D UTC days that a range touches, including days without payments."""

    first: int
    """Days since 1970."""
    n: Integers
    """(D,)"""
    is_complete: NDArray[np.bool_]
    """(D,) whether the range covers (almost) the complete day."""

    @property
    def weekday(self) -> Integers:
        """(D,) 0 is Monday."""
        return (self.first + np.arange(len(self.n)) + 3) % 7

    @property
    def names(self) -> list[str]:
        """(D,) like 2025-04-16."""
        dates = (self.first + np.arange(len(self.n))).astype("datetime64[D]")
        return [str(date) for date in dates]

    def by_weekday(self) -> list[float] | None:
        """Mean payments of a complete day by weekday, Monday first; the overall mean for a weekday that does not occur.

        None without complete days."""
        if not self.is_complete.any():
            return None
        mean = float(self.n[self.is_complete].mean())
        days = [self.n[self.is_complete & (self.weekday == weekday)] for weekday in range(7)]
        return [float(counts.mean()) if len(counts) else mean for counts in days]


def score_feature(seen: ScoredWindow) -> Feature:
    """The raw score with bins from these reference payments."""
    return Feature(name=RAW, kind="numerical", edges=equal_mass_edges(seen.raw))


def count_scores(seen: ScoredWindow, feature: Feature, windows: Windows) -> Counts:
    """Payments by bin of the raw score."""
    return count_numbers(seen.raw, feature.edges, windows.codes(seen.time_seconds), len(windows))


def decision_points(bundle: Bundle) -> list[OperatingPoint]:
    """The bundle's decisions, if it has the score they use."""
    decided, calibration = bundle.thresholds, bundle.calibration
    if decided is None or (decided.score != RAW and getattr(calibration, decided.score, None) is None):
        return []
    return [
        OperatingPoint(name=f"{d.name}: {decided.score} from {d.at_least:g}", score=decided.score, at_least=d.at_least)
        for d in decided.decisions
    ]


def operating_points(bundle: Bundle, seen: ScoredWindow, shares: Sequence[float]) -> list[OperatingPoint]:
    """The bundle's decisions, and the scores above which the riskiest `shares` lie: by the bundle's percentiles or, if it
    has none, among these reference payments."""
    points = decision_points(bundle)
    for share in shares:
        name = f"riskiest {share * 100:g} %"
        if "percentile" in seen.scores:
            points.append(OperatingPoint(name=name, score="percentile", at_least=1 - share, share=share))
        else:
            cut = float(np.quantile(seen.raw, 1 - share, method="higher"))
            points.append(OperatingPoint(name=name, score=RAW, at_least=cut, share=share))
    return points


def count_points(seen: ScoredWindow, points: Sequence[OperatingPoint], windows: Windows) -> Integers:
    """(W, P) payments at or above each operating point."""
    codes = windows.codes(seen.time_seconds)
    at_or_above = [np.asarray(seen.scores[point.score], np.float64) >= point.at_least for point in points]
    above = [np.bincount(codes[mask], minlength=len(windows)) for mask in at_or_above]
    return np.array(above, np.int64).reshape(len(points), len(windows)).T


def count_days(seen: ScoredWindow) -> Days:
    """Payments per day. A day in the range without payments counts 0."""
    first, last = (math.floor(edge / DAY_SECONDS) for edge in (seen.start, math.nextafter(seen.end, -math.inf)))
    days = np.floor_divide(seen.time_seconds, DAY_SECONDS).astype(np.int64) - first
    starts = (first + np.arange(last - first + 1)) * DAY_SECONDS
    covered = np.minimum(seen.end, starts + DAY_SECONDS) - np.maximum(seen.start, starts)
    n = np.bincount(days, minlength=len(starts))
    return Days(first=first, n=n, is_complete=covered >= COMPLETE_DAY * DAY_SECONDS)
