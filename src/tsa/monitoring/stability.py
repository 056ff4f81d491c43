"""The population stability index between two counts of a feature: how far it has moved, and how far chance might move it.

Payments without a value, or with one that the bundle does not know, have rates of their own: the index compares the known
values, so that each figure says one thing. It knows counts; not stores, thresholds or pages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

from tsa.evaluation.metrics.psi import psi_of_shares
from tsa.monitoring.bins import Counts, Feature, Floats, Integers

RARE = 0.01
"""Values with a smaller share than this in both samples are one bin."""

CONFIDENCE = 0.999
"""An index that this share of samples of an unmoved population stays below may be chance."""

DAYS_NEEDED = {"hour_of_day": 1, "day_of_week": 7, "day_of_month": 28, "month": 365}
"""What a range must span before its calendar can be compared: three days have no week."""

SLACK_HOURS = 2
"""Hours that such a range may lack: the first payment of a day is seldom at midnight."""

MIN_HOURS = 20
"""A day of the week, of the month, or a month is compared where this much of it was seen in both."""


def stability(feature: Feature, reference: Counts, current: Counts, whole: Counts | None = None) -> dict[str, Any]:
    """{psi, by_chance} of one window against the reference, or psi None and a reason.

    `by_chance`: what 999 of 1,000 samples of an unmoved population stay below: the index of n and m payments in B bins is
    about (1 / n + 1 / m) times chi-squared with B - 1 degrees of freedom (Yurdakul 2018). whole: what decides which
    values are rare, by default the window itself.
    """
    n, m = int(reference.known.sum()), int(current.known.sum())
    if reason := _why_not(feature, reference, current):
        return {"psi": None, "by_chance": None, "reason": reason}
    if feature.kind == "calendar":
        before, after = _per_hour(feature.name, reference, current)
    else:
        before, after = reference.known[0].astype(np.float64), current.known[0].astype(np.float64)
    if feature.kind == "categorical":
        before, after = _pooled(before, after, (whole or current).known.sum(0))
    used = int(((before > 0) | (after > 0)).sum())
    by_chance = float(chi2.ppf(CONFIDENCE, used - 1) * (1 / n + 1 / m)) if used > 1 else 0.0
    return {"psi": psi_of_shares(before, after), "by_chance": by_chance}


def _why_not(feature: Feature, reference: Counts, current: Counts) -> str | None:
    """Why two samples cannot be compared; None where they can."""
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
    """Payments an hour, by value: a range that holds two Mondays and one Sunday has not moved for that."""
    assert reference.hours is not None
    assert current.hours is not None
    least = 1 if name == "hour_of_day" else MIN_HOURS
    both = (reference.hours[0] >= least) & (current.hours[0] >= least)
    return per_hour(reference)[both], per_hour(current)[both]


def per_hour(counts: Counts) -> Floats:
    """(B,) payments an hour of each value of a calendar feature, in one window; 0 where there was no such hour."""
    assert counts.hours is not None
    rates: Floats = counts.known[0] / np.maximum(counts.hours[0], 1)
    return rates


def _pooled(before: Floats, after: Floats, whole: Integers) -> tuple[Floats, Floats]:
    """Rare values put together as one bin, the last."""
    own = (before >= RARE * before.sum()) | (whole >= RARE * whole.sum())
    return np.append(before[own], before[~own].sum()), np.append(after[own], after[~own].sum())
