"""Texts, tables and charts of the monitoring page, made from the values of a comparison.

`plain` gives the summary sentence, `view` the values for the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tsa.evaluation.report import formatting
from tsa.evaluation.report.sections import card
from tsa.evaluation.report.svg import Axis, Series
from tsa.monitoring.expected_view import estimates

Dict = Mapping[str, Any]

MEASURES = {
    "psi": "Population stability index",
    "missing_rate": "Payments without a value",
    "unknown_rate": "Payments with an unknown value",
    "score_psi": "Population stability index of the raw score",
    "operating_point_change": "Share of payments at or above",
    "volume": "Payments a day",
    "average_precision_drop": "Average precision",
    "calibration": "Expected to observed frauds",
}
RELATIVE = ("operating_point_change", "volume", "average_precision_drop")
"""Measures whose thresholds are relative changes."""

KINDS = {"numerical": "number", "categorical": "category", "calendar": "calendar"}
DRAWN = 6
NAMED = 3
HEADROOM = 1.04
"""How far an axis extends beyond its last label, so that the label is not cut off."""


def plain(result: Dict) -> str:
    """A summary of the alerts in one or two sentences."""
    counts = {s: sum(alert["severity"] == s for alert in result["alerts"]) for s in ("alert", "warning")}
    if not result["alerts"]:
        return "No alert: the payments resemble those of the reference."
    parts = [f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts.items() if n]
    named = [_sentence(alert) for alert in result["alerts"][:NAMED]]
    more = len(result["alerts"]) - len(named)
    return f"{' and '.join(parts)}: {'; '.join(named)}{f'; and {more} more' if more else ''}."


def _sentence(alert: Dict) -> str:
    about = f" ({alert['feature']})" if alert["feature"] else ""
    name = MEASURES[alert["measure"]]
    before = "" if alert["reference"] is None else f", reference {shown(alert['measure'], alert['reference'])}"
    return f"{name[0].lower()}{name[1:]}{about} {shown(alert['measure'], alert['value'])}{before}"


def shown(measure: str, value: float) -> str:
    """A value of a measure as text."""
    if measure in ("missing_rate", "unknown_rate", "operating_point_change"):
        return formatting.share(value)
    if measure == "volume":
        return f"{value:,.0f}"
    return formatting.decimal(value, 2 if measure == "calibration" else 3)


def view(result: Dict) -> dict[str, Any]:
    """The values that the template shows."""
    severe = any(alert["severity"] == "alert" for alert in result["alerts"])
    labels = [window["start"][5:10] for window in result["windows"]]
    performance = result["performance"]
    charts = [
        _volume(result["volume"]["days"]),
        _over_time("psi", "Score drift", "Population stability index", result["scores"], labels, "psi"),
        _points(result["scores"]["points"], labels),
        _precision(performance, labels),
        _calibration(performance["windows"], labels),
        _shares("scores", "Raw scores", result["scores"]["bins"]),
    ]
    features = sorted(result["features"], key=lambda feature: -(feature["full_range"]["psi"] or 0.0))
    moved = [feature for feature in features if feature["full_range"]["psi"]][:DRAWN]
    shares = [_shares(f"feature-{at}", feature["name"], feature["bins"]) for at, feature in enumerate(moved)]
    return {
        "title": f"{result['market']}: monitoring",
        "result": result,
        "tone": "worse" if severe else "unclear" if result["alerts"] else "better",
        "alerts": [_alert(alert) for alert in result["alerts"]],
        "cards": _cards(result),
        "charts": [one for one in charts if one],
        "features": [_feature(feature, result["settings"]["ignore"]) for feature in features],
        "feature_charts": [one for one in shares if one],
        "windows": [_window(*pair) for pair in zip(result["windows"], performance["windows"], strict=True)],
        "reference": _window(result["reference"], performance["reference"]),
        "expected": estimates(result["windows"], result.get("expected")),
        "thresholds": [(key, str(value)) for key, value in result["settings"].items()],
    }


def _alert(alert: Dict) -> dict[str, Any]:
    measure, levels = alert["measure"], alert["threshold"]
    threshold = f"{levels:g}" if measure in ("psi", "score_psi", "calibration") else f"{levels * 100:g} %"
    return {
        "severity": alert["severity"],
        "title": MEASURES[measure],
        "about": alert["feature"],
        "value": shown(measure, alert["value"]),
        "reference": formatting.DASH if alert["reference"] is None else shown(measure, alert["reference"]),
        "threshold": f"{threshold} of change" if measure in (*RELATIVE, "missing_rate", "unknown_rate") else threshold,
        "window": _days(alert["window"]),
        "windows": alert["windows"],
    }


def _days(window: Dict) -> str:
    return f"{window['start'][:10]} to {window['end'][:10]}"


def _cards(result: Dict) -> list[dict[str, str]]:
    volume, score = result["volume"]["full_range"], result["scores"]["full_range"]
    full, before = result["performance"]["full_range"], result["performance"]["reference"]
    moved = sum(_has_moved(feature["full_range"], result["settings"]["psi"][0]) for feature in result["features"])
    change = volume.get("reason") if volume["change"] is None else f"{volume['change']:+.0%} of what was expected"
    return [
        {"title": "Payments", "value": formatting.count(result["n"]), "note": change or ""},
        {"title": "Features moved", "value": f"{moved} of {len(result['features'])}", "note": "over the full range"},
        {
            "title": "Score drift",
            "value": formatting.decimal(score["psi"]),
            "note": score.get("reason") or "population stability index",
        },
        {
            "title": "Outcome known",
            "value": formatting.share(full["share"], 1),
            "note": f"{full['frauds']:,} frauds",
        },
        {
            "title": "Average precision",
            "value": formatting.decimal(full["metrics"].get("average_precision", {}).get("value")),
            "note": full.get("reason") or f"reference {_value(before, 'average_precision')}",
        },
        {
            "title": "Expected to observed frauds",
            "value": formatting.decimal(full["metrics"].get("ratio", {}).get("value"), 2),
            "note": full.get("reason") or f"reference {_value(before, 'ratio', 2)}",
        },
    ]


def _has_moved(one: Dict, level: float) -> bool:
    return one["psi"] is not None and one["psi"] >= max(level, one["by_chance"])


def _value(measured: Dict, name: str, digits: int = 3) -> str:
    return formatting.decimal((measured["metrics"].get(name) or {}).get("value"), digits)


def _feature(feature: Dict, ignored: Sequence[str]) -> dict[str, Any]:
    """A row of the feature table: the full range, and the worst window."""
    full, before = feature["full_range"], feature["reference"]
    known = [one for one in feature["windows"] if one["psi"] is not None]
    beyond = [one["psi"] for one in known if one["psi"] > one["by_chance"]]
    worst = max(beyond or [one["psi"] for one in known], default=None)
    rates = {
        name: f"{formatting.share(before[name])} → {formatting.share(full[name])}"
        for name in ("missing_rate", "unknown_rate")
    }
    return {
        "name": feature["name"],
        "kind": f"{KINDS[feature['kind']]}{', ignored' if feature['name'] in ignored else ''}",
        "psi": formatting.decimal(full["psi"]),
        "reason": full.get("reason"),
        "worst": formatting.decimal(worst),
        "chance": bool(known) and not beyond,
        "missing": rates["missing_rate"],
        "unknown": rates["unknown_rate"] if feature["kind"] == "categorical" else formatting.DASH,
    }


def _window(window: Dict, measured: Dict) -> dict[str, Any]:
    """A row of the performance table."""
    digits = {"average_precision": 3, "roc_auc": 3, "recall_at_fpr_0.01": 3, "precision_at_k": 3, "ratio": 2}
    cells = []
    for name, places in digits.items():
        metric = measured["metrics"].get(name) or {"value": None, "low": None}
        cells.append(
            {"value": formatting.decimal(metric["value"], places), "interval": formatting.interval(metric, places)}
        )
    facts = {key: measured[key] for key in ("n", "share", "frauds", "fraud_rate")}
    return {"name": _days(window), **facts, "cells": cells, "reason": measured.get("reason")}


def axis(labels: Sequence[str], label: str = "Window (first day)") -> Axis:
    """A horizontal axis with a label for each window."""
    return Axis(label=label, high=max(len(labels) - 1, 1) * HEADROOM, labels=labels)


def line(name: str, values: Sequence[float | None], style: str, *, dots: bool = True) -> Series:
    """Values over windows; missing ones are left out."""
    known = [(at, value) for at, value in enumerate(values) if value is not None]
    return Series(name=name, x=[at for at, _ in known], y=[value for _, value in known], style=style, dots=dots)


def drawn(identifier: str, title: str, description: str, x: Axis, y: str, lines: Sequence[Series]) -> Any:
    """A chart card, or None if there are no values to draw."""
    values = [value for line in lines for value in line.y]
    if not values:
        return None
    up = Axis(label=y, high=1.1 * max(values) or 1.0)
    return card(identifier, title, description, x, up, [line for line in lines if len(line.y)])


def _volume(days: Sequence[Dict]) -> Any:
    few = len(days) <= 31
    lines = [
        line("payments", [day["n"] for day in days], "one", dots=few),
        line("expected", [day["expected"] for day in days], "two", dots=False),
    ]
    x = axis([day["day"][5:] for day in days], "Day (UTC)")
    description = "Payments per day, compared with those of the reference on the same day of the week."
    return drawn("volume", "Payments a day", description, x, "Payments", lines)


def _over_time(identifier: str, title: str, what: str, measured: Dict, labels: Sequence[str], name: str) -> Any:
    lines = [
        line(what, [one[name] for one in measured["windows"]], "one"),
        line("by chance", [one["by_chance"] for one in measured["windows"]], "muted", dots=False),
    ]
    description = f"{what} of the raw score in each window, and the value that chance alone may reach."
    return drawn(identifier, title, description, axis(labels), "Index", lines)


def _points(points: Sequence[Dict], labels: Sequence[str]) -> Any:
    """The share above each operating point relative to the reference's share; at most three points, the rarest first."""
    styles, lines = ("fraud", "one", "two"), []
    ordered = sorted(points, key=lambda point: point["reference"]["share"] or 0.0)
    for point, style in zip(ordered[: len(styles)], styles, strict=False):
        values = [None if one["change"] is None else 1 + one["change"] for one in point["windows"]]
        lines.append(line(point["name"], values, style))
    lines = [line for line in lines if len(line.y)]
    if not lines:
        return None
    even = line("as in the reference", [1.0] * len(labels), "muted", dots=False)
    description = "Share of payments at or above operating points, over the reference's share."
    return drawn("points", "Payments above operating points", description, axis(labels), "Times", [*lines, even])


def _precision(performance: Dict, labels: Sequence[str]) -> Any:
    metrics = [one["metrics"].get("average_precision") or {} for one in performance["windows"]]
    lines = [line("average precision", [metric.get("value") for metric in metrics], "one")]
    if not len(lines[0].y):
        return None
    lines += [line(name, [metric.get(key) for metric in metrics], "muted", dots=False) for key, name in _SPREAD]
    before = (performance["reference"]["metrics"].get("average_precision") or {}).get("value")
    if before is not None:
        lines.append(line("reference", [before] * max(len(labels), 2), "two", dots=False))
    description = "Average precision of each window, on payments whose outcome is known, with its interval."
    x = axis(labels)
    return card("precision", "Average precision", description, x, Axis(label="Average precision"), lines)


_SPREAD = (("low", "interval"), ("high", ""))


def _calibration(windows: Sequence[Dict], labels: Sequence[str]) -> Any:
    expected = [(one["metrics"].get("expected") or {}).get("value") for one in windows]
    if all(value is None for value in expected):
        return None
    observed = [None if value is None else float(one["frauds"]) for value, one in zip(expected, windows, strict=True)]
    lines = [line("observed", observed, "fraud"), line("expected", expected, "one")]
    description = "Frauds expected, as the sum of probabilities, and observed, among payments whose outcome is known."
    return drawn("frauds", "Frauds expected and observed", description, axis(labels), "Frauds", lines)


def _shares(identifier: str, title: str, bins: Sequence[Dict]) -> Any:
    """The share of each bin; for many bins, those with the largest shares."""
    max_bins = 24
    largest = sorted(range(len(bins)), key=lambda at: -max(bins[at]["reference"], bins[at]["current"]))[:max_bins]
    rows = [bins[at] for at in sorted(largest)]
    lines = [
        line("now", [row["current"] for row in rows], "one"),
        line("reference", [row["reference"] for row in rows], "two"),
    ]
    labels = [row["tick"] for row in rows]
    if not rows:
        return None
    highest = 1.1 * max(value for line in lines for value in line.y) or 1.0
    description = f"Share of the payments in each bin of {title}, in the reference and now."
    y = Axis(label="Share of payments", high=min(1.0, highest), percent=True)
    return card(identifier, title, description, axis(labels, "Bin"), y, lines)
