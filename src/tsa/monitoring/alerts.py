"""Alerts: changes that exceed the market's `[monitoring]` thresholds and that chance alone does not explain.

`find_alerts` returns one alert per measure and feature: the worst window, or the full range, and the number of windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsa.config.tables import Levels, Monitoring

Dict = Mapping[str, Any]

ERRORS = 3.5
"""A change in the share above an operating point of fewer standard errors than this counts as chance."""

MIN_PAYMENTS = 5
"""A difference of fewer payments than this counts as chance as well."""

VOLUME_ERRORS = 5.0
"""Daily volume may differ from the expected count by this many times its square root."""

SEVERITIES = ("alert", "warning")


@dataclass(frozen=True)
class _Finding:
    """The result of one window: `size` is compared with the thresholds, the rest is shown."""

    size: float
    value: float
    reference: float | None
    window: int | None
    """None: the full range."""


def find_alerts(comparison: Dict, settings: Monitoring) -> list[dict[str, Any]]:
    """All alerts and warnings, the most severe first.

    Args:
        comparison: A comparison with `features`, `scores`, `volume`, `performance`, `windows` and `range`.
        settings: The `[monitoring]` table with the thresholds.

    Returns:
        Dicts with severity, measure, feature, value, reference, threshold (the one exceeded), window, and windows (how
        many windows exceed the lower threshold).
    """
    alerts = []
    for measure, feature, levels, findings in _measures(comparison, settings):
        beyond = [finding for finding in findings if finding.size >= levels[0]]
        if beyond:
            alerts.append(_alert(measure, feature, levels, beyond, comparison))
    return sorted(alerts, key=lambda alert: SEVERITIES.index(alert["severity"]))


def _alert(
    measure: str, feature: str | None, levels: Levels, beyond: Sequence[_Finding], comparison: Dict
) -> dict[str, Any]:
    worst = max(beyond, key=lambda finding: finding.size)
    severe = worst.size >= levels[1]
    return {
        "severity": "alert" if severe else "warning",
        "measure": measure,
        "feature": feature,
        "value": worst.value,
        "reference": worst.reference,
        "threshold": levels[1] if severe else levels[0],
        "window": dict(comparison["range"] if worst.window is None else comparison["windows"][worst.window]),
        "windows": sum(finding.window is not None for finding in beyond),
    }


def _measures(comparison: Dict, settings: Monitoring) -> Iterator[tuple[str, str | None, Levels, list[_Finding]]]:
    for feature in comparison["features"]:
        name = feature["name"]
        if name in settings.ignore:
            continue
        yield "psi", name, settings.psi, _stability(feature)
        yield "missing_rate", name, settings.missing_rate, _rates(feature, "missing_rate", falling=True)
        yield "unknown_rate", name, settings.unknown_rate, _rates(feature, "unknown_rate", falling=False)
    yield "score_psi", None, settings.score_psi, _stability(comparison["scores"])
    for point in comparison["scores"]["points"]:
        yield "operating_point_change", point["name"], settings.operating_point_change, _shares(point)
    yield "volume", None, settings.volume, _volume(comparison["volume"])
    performance = comparison["performance"]
    yield "average_precision_drop", None, settings.average_precision_drop, _drops(performance, settings)
    yield "calibration", None, settings.calibration, _ratios(performance, settings)


def _windows(measured: Dict) -> Iterator[tuple[int | None, Dict]]:
    yield None, measured["full_range"]
    yield from enumerate(measured["windows"])


def _stability(measured: Dict) -> list[_Finding]:
    """PSI values that exceed what chance explains."""
    return [
        _Finding(one["psi"], one["psi"], None, at)
        for at, one in _windows(measured)
        if one["psi"] is not None and one["psi"] > one["by_chance"]
    ]


def _rates(feature: Dict, name: str, *, falling: bool) -> list[_Finding]:
    """Shares of payments that differ from the reference by more than chance explains."""
    before, n = feature["reference"][name], feature["reference"]["n"]
    findings = []
    for at, one in _windows(feature):
        if one[name] is None or before is None:
            continue
        rise = one[name] - before
        pooled = (one[name] * one["n"] + before * n) / (one["n"] + n)
        error = math.sqrt(pooled * (1 - pooled) * (1 / one["n"] + 1 / n))
        certain = abs(rise) > ERRORS * error and abs(rise) * one["n"] >= MIN_PAYMENTS
        if certain and (rise > 0 or falling):
            findings.append(_Finding(abs(rise), one[name], before, at))
    return findings


def _shares(point: Dict) -> list[_Finding]:
    return [
        _Finding(abs(one["change"]), one["share"], point["reference"]["share"], at)
        for at, one in _windows(point)
        if one["change"] is not None
        and abs(one["errors"]) > ERRORS
        and abs(one["share"] - point["reference"]["share"]) * one["n"] >= MIN_PAYMENTS
    ]


def _volume(volume: Dict) -> list[_Finding]:
    """Payments per day, with the expected number as the reference."""
    return [
        _Finding(abs(one["change"]), one["n"] / one["days"], one["expected"] / one["days"], at)
        for at, one in _windows(volume)
        if one["change"] is not None and abs(one["n"] - one["expected"]) > VOLUME_ERRORS * math.sqrt(one["expected"])
    ]


def _judged(performance: Dict, settings: Monitoring, name: str) -> Iterator[tuple[int | None, Dict]]:
    """The metric of each window in which enough outcomes are known."""
    for at, one in _windows(performance):
        metric = one["metrics"].get(name)
        enough = one["share"] is not None and one["share"] >= settings.min_matured_share
        if enough and metric and metric["value"] is not None and metric["low"] is not None:
            yield at, metric


def _drops(performance: Dict, settings: Monitoring) -> list[_Finding]:
    """A drop of average precision whose interval lies below the reference value."""
    before = performance["reference"]["metrics"].get("average_precision")
    if not before or not before["value"] or before["low"] is None:
        return []
    return [
        _Finding(1 - one["value"] / before["value"], one["value"], before["value"], at)
        for at, one in _judged(performance, settings, "average_precision")
        if one["high"] < before["low"]
    ]


def _ratios(performance: Dict, settings: Monitoring) -> list[_Finding]:
    """The ratio of expected to observed frauds where its interval excludes 1, with the reference's ratio."""
    before = (performance["reference"]["metrics"].get("ratio") or {}).get("value")
    return [
        _Finding(abs(one["value"] - 1), one["value"], before, at)
        for at, one in _judged(performance, settings, "ratio")
        if not one["low"] <= 1 <= one["high"]
    ]
