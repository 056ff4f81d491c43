"""Scores and volume of monitored payments, window by window: bins of the raw score, shares above operating points, payments
a day.

An operating point is a score from which on a team acts: the riskiest share of payments, or a decision of the bundle.
It knows scored payments and counts; not thresholds for alerts, nor pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.evaluation.metrics.psi import equal_mass_edges
from tsa.monitoring.bins import Counts, Feature, Integers, count_numbers
from tsa.monitoring.windows import ScoredWindow, Windows
from tsa.times import DAY_SECONDS

RAW = "raw_score"
WHOLE_DAY = 0.9
"""A day counts as whole where the range covers this share of it."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """An operating point: payments whose `score` is `at_least` so high. share: of payments, where it was chosen by that."""

    name: str
    score: str
    at_least: float
    share: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Days:
    """Payments of each of D UTC days that a range touches, days without any included."""

    first: int
    """Days since 1970."""
    n: Integers
    """(D,)"""
    whole: NDArray[np.bool_]
    """(D,) days of which the range holds next to all."""

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
        """Payments of a whole day, Monday first; of a weekday that is lacking, the mean of all. None without whole days."""
        if not self.whole.any():
            return None
        mean = float(self.n[self.whole].mean())
        days = [self.n[self.whole & (self.weekday == weekday)] for weekday in range(7)]
        return [float(found.mean()) if len(found) else mean for found in days]


def score_feature(seen: ScoredWindow) -> Feature:
    """The raw score with bins from these reference payments."""
    return Feature(name=RAW, kind="numerical", edges=equal_mass_edges(seen.raw))


def count_scores(seen: ScoredWindow, feature: Feature, windows: Windows) -> Counts:
    """Payments by bin of the raw score."""
    return count_numbers(seen.raw, feature.edges, windows.codes(seen.time_seconds), len(windows))


def decision_points(bundle: Bundle) -> list[OperatingPoint]:
    """The bundle's decisions, as far as it has the score that they go by."""
    decided, calibration = bundle.thresholds, bundle.calibration
    if decided is None or (decided.score != RAW and getattr(calibration, decided.score, None) is None):
        return []
    return [
        OperatingPoint(name=f"{d.name}: {decided.score} from {d.at_least:g}", score=decided.score, at_least=d.at_least)
        for d in decided.decisions
    ]


def operating_points(bundle: Bundle, seen: ScoredWindow, shares: Sequence[float]) -> list[OperatingPoint]:
    """The bundle's decisions, and the scores that cut off the riskiest `shares`: by the bundle's percentiles, or, where it
    has none, among these reference payments."""
    found = decision_points(bundle)
    for share in shares:
        name = f"riskiest {share * 100:g} %"
        if "percentile" in seen.scores:
            found.append(OperatingPoint(name=name, score="percentile", at_least=1 - share, share=share))
        else:
            cut = float(np.quantile(seen.raw, 1 - share, method="higher"))
            found.append(OperatingPoint(name=name, score=RAW, at_least=cut, share=share))
    return found


def count_points(seen: ScoredWindow, points: Sequence[OperatingPoint], windows: Windows) -> Integers:
    """(W, P) payments at or above each operating point."""
    codes = windows.codes(seen.time_seconds)
    at_or_above = [np.asarray(seen.scores[point.score], np.float64) >= point.at_least for point in points]
    above = [np.bincount(codes[mask], minlength=len(windows)) for mask in at_or_above]
    return np.array(above, np.int64).reshape(len(points), len(windows)).T


def count_days(seen: ScoredWindow) -> Days:
    """Payments a day. A day without any, inside the range, counts 0."""
    first, last = (math.floor(edge / DAY_SECONDS) for edge in (seen.start, math.nextafter(seen.end, -math.inf)))
    days = np.floor_divide(seen.time_seconds, DAY_SECONDS).astype(np.int64) - first
    starts = (first + np.arange(last - first + 1)) * DAY_SECONDS
    covered = np.minimum(seen.end, starts + DAY_SECONDS) - np.maximum(seen.start, starts)
    n = np.bincount(days, minlength=len(starts))
    return Days(first=first, n=n, whole=covered >= WHOLE_DAY * DAY_SECONDS)
