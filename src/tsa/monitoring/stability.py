"""The population stability index (PSI) between two counts of a feature, and the PSI that chance alone may give.

The index compares known values only; missing and unknown values have separate rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

from tsa.evaluation.metrics.psi import psi_of_shares
from tsa.monitoring.bin_counts import Counts, Feature, Floats, Integers

RARE = 0.01
"""Values with a smaller share than this in both samples are merged into one bin."""

CONFIDENCE = 0.999
"""Confidence level: a PSI below this quantile of an unchanged population counts as chance."""

DAYS_NEEDED = {"hour_of_day": 1, "day_of_week": 7, "day_of_month": 28, "month": 365}
"""Minimum length of a range before its calendar features are compared: three days do not cover a week."""

SLACK_HOURS = 2
"""Hours that such a range may fall short: the first payment of a day is rarely at midnight."""

MIN_HOURS = 20
"""A weekday, day of the month, or month is compared if both ranges cover at least this much of it."""


def stability(feature: Feature, reference: Counts, current: Counts, full: Counts | None = None) -> dict[str, Any]:
    """The PSI of one window against the reference.

    Args:
        full: The counts that decide which values are rare, by default those of the window.

    Returns:
        {psi, by_chance}, or psi None and a reason. `by_chance` is a value that 999 of 1,000 samples of an unchanged
        population stay below: the PSI of n and m payments in B bins is about (1 / n + 1 / m) times chi-squared with
        B - 1 degrees of freedom (Yurdakul 2018).
    """
    n, m = int(reference.known.sum()), int(current.known.sum())
    if reason := _why_not(feature, reference, current):
        return {"psi": None, "by_chance": None, "reason": reason}
    if feature.kind == "calendar":
        before, after = _per_hour(feature.name, reference, current)
    else:
        before, after = reference.known[0].astype(np.float64), current.known[0].astype(np.float64)
    if feature.kind == "categorical":
        before, after = _pooled(before, after, (full or current).known.sum(0))
    used = int(((before > 0) | (after > 0)).sum())
    by_chance = float(chi2.ppf(CONFIDENCE, used - 1) * (1 / n + 1 / m)) if used > 1 else 0.0
    return {"psi": psi_of_shares(before, after), "by_chance": by_chance}


def _why_not(feature: Feature, reference: Counts, current: Counts) -> str | None:
    """Why two samples cannot be compared; None if they can."""
    for name, counts in (("the reference", reference), ("the window", current)):
        if not counts.known.sum():
            return f"no known value in {name}"
        if feature.kind == "calendar":
            assert counts.hours is not None
            days = DAYS_NEEDED[feature.name]
            if counts.hours.sum() < days * 24 - SLACK_HOURS:
                return f"{name} spans less than {days} day{'s' if days > 1 else ''}"
    return None


def _per_hour(name: str, reference: Counts, current: Counts) -> tuple[Floats, Floats]:
    """Payments per hour by value, so that a range with two Mondays and one Sunday does not count as a change."""
    assert reference.hours is not None
    assert current.hours is not None
    min_hours = 1 if name == "hour_of_day" else MIN_HOURS
    both = (reference.hours[0] >= min_hours) & (current.hours[0] >= min_hours)
    return per_hour(reference)[both], per_hour(current)[both]


def per_hour(counts: Counts) -> Floats:
    """(B,) payments per hour of each value of a calendar feature in one window; 0 if there was no such hour."""
    assert counts.hours is not None
    rates: Floats = counts.known[0] / np.maximum(counts.hours[0], 1)
    return rates


def _pooled(before: Floats, after: Floats, full: Integers) -> tuple[Floats, Floats]:
    """Merge rare values into one bin, the last."""
    own = (before >= RARE * before.sum()) | (full >= RARE * full.sum())
    return np.append(before[own], before[~own].sum()), np.append(after[own], after[~own].sum())
