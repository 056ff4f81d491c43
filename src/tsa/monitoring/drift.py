"""Compare monitored payments with their reference, overall and per window, and return plain values.

`compare_features`, `compare_scores` and `compare_volume` give the input of `tsa.monitoring.alerts` and `tsa.monitoring.page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tsa.monitoring.bin_counts import Counts, Feature
from tsa.monitoring.feature_bins import count_features
from tsa.monitoring.reference import Reference
from tsa.monitoring.scores import Days, count_days, count_points, count_scores
from tsa.monitoring.stability import per_hour, stability
from tsa.monitoring.windows import ScoredWindow, Windows
from tsa.times import DAY_SECONDS

Dict = dict[str, Any]


def compare_features(seen: ScoredWindow, reference: Reference, windows: Windows) -> list[Dict]:
    """Compare each feature with the reference.

    Returns:
        Per feature: `name`, `kind`, `bins`, the rates of the `reference`, and PSI and rates for the full range (`full_range`) and
        for each of the `windows`.
    """
    counted = count_features(seen, reference.features, windows)
    pairs = zip(reference.features, reference.counts, counted, strict=True)
    return [_feature(feature, before, after) for feature, before, after in pairs]


def _feature(feature: Feature, before: Counts, after: Counts) -> Dict:
    full = after.total()
    return {
        "name": feature.name,
        "kind": feature.kind,
        "reference": _rates(before),
        "full_range": {**stability(feature, before, full), **_rates(full)},
        "windows": [
            {**stability(feature, before, one, full), **_rates(one)}
            for one in (after.window(at) for at in range(len(after.missing)))
        ],
        "bins": _bins(feature, before, full),
    }


def _rates(counts: Counts) -> Dict:
    n = int(counts.n.sum())
    shares = {name: int(getattr(counts, name).sum()) for name in ("missing", "unknown")}
    return {"n": n, **{f"{name}_rate": count / n if n else None for name, count in shares.items()}}


def _bins(feature: Feature, before: Counts, after: Counts) -> list[Dict]:
    """The share of each bin among the known values in both samples; for a calendar feature, of the payments per hour."""
    tables = [counts.known[0] if counts.hours is None else per_hour(counts) for counts in (before, after)]
    shares = [table / (table.sum() or 1) for table in tables]
    rows = zip(feature.labels(), feature.ticks(), shares[0].tolist(), shares[1].tolist(), strict=True)
    return [{"bin": label, "tick": tick, "reference": p, "current": q} for label, tick, p, q in rows if p or q]


def compare_scores(seen: ScoredWindow, reference: Reference, windows: Windows) -> Dict:
    """The raw score as a feature, and `points`: the share of payments at or above each operating point."""
    score = _feature(reference.score, reference.score_counts, count_scores(seen, reference.score, windows))
    above, before = count_points(seen, reference.points, windows), int(reference.score_counts.n.sum())
    n = np.bincount(windows.codes(seen.time_seconds), minlength=len(windows))
    points = []
    for at, point in enumerate(reference.points):
        old = {"n": before, "above": reference.above[at]}
        counted = [_change(old, int(k), int(m)) for k, m in zip(above[:, at], n, strict=True)]
        full = _change(old, int(above[:, at].sum()), len(seen))
        share = old["above"] / before if before else None
        facts = {"name": point.name, "score": point.score, "at_least": point.at_least, "share": point.share}
        points.append({**facts, "reference": {**old, "share": share}, "full_range": full, "windows": counted})
    return {**score, "points": points}


def _change(reference: Dict, above: int, n: int) -> Dict:
    """The share above a point, its relative change, and the difference of the two shares in standard errors."""
    p = reference["above"] / reference["n"] if reference["n"] else 0.0
    if not n or not p:
        return {"n": n, "above": above, "share": above / n if n else None, "change": None, "errors": None}
    share, pooled = above / n, (above + reference["above"]) / (n + reference["n"])
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / reference["n"]))
    errors = float((share - p) / error) if error > 0 else 0.0
    return {"n": n, "above": above, "share": share, "change": share / p - 1, "errors": errors}


def compare_volume(seen: ScoredWindow, by_weekday: Sequence[float] | None, windows: Windows) -> Dict:
    """Compare the number of payments with the reference.

    Returns:
        `days`: payments per day, and the number expected from the reference's weekdays. `full_range` and `windows`: the
        relative `change` over complete days only; None, with a reason, where there is nothing to compare.
    """
    days = count_days(seen)
    expected = None if by_weekday is None else np.array(by_weekday)[days.weekday]
    starts = (days.first + np.arange(len(days.n))) * DAY_SECONDS
    code = windows.codes(np.maximum(starts, windows.edges[0]))
    listed = zip(days.names, days.n.tolist(), days.is_complete.tolist(), strict=True)
    return {
        "days": [
            {
                "day": name,
                "n": n,
                "is_complete": is_complete,
                "expected": None if expected is None else float(expected[at]),
            }
            for at, (name, n, is_complete) in enumerate(listed)
        ],
        "full_range": _volume(days, expected, np.ones(len(days.n), bool)),
        "windows": [_volume(days, expected, code == at) for at in range(len(windows))],
    }


def _volume(days: Days, expected: Any, inside: Any) -> Dict:
    used = inside & days.is_complete
    result: Dict = {"days": int(used.sum()), "n": int(days.n[used].sum()), "expected": None, "change": None}
    if expected is None:
        return {**result, "reason": "the reference contains no complete day"}
    if not used.any():
        return {**result, "reason": "no complete day"}
    total = float(expected[used].sum())
    return {**result, "expected": total, "change": result["n"] / total - 1 if total else None}
