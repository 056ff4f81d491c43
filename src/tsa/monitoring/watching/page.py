"""`history.html`: the findings of a watch over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tsa.evaluation.report import formatting
from tsa.evaluation.report.report import page
from tsa.monitoring.page import MEASURES, axis, drawn, line, shown

PAGE = "history.html"
MAX_ROWS, MAX_DRAWN = 200, 400
"""The last checks that the table has, and those that the charts draw."""
MAX_DOTS = 60
"""A line with more values has no dots."""
TONES = {"ok": "better", "warning": "unclear", "alert": "worse", "failed": "worse"}

Dict = Mapping[str, Any]


def history_page(entries: Sequence[Dict], every_hours: float) -> str:
    """The page of one or more entries of a history."""
    return page(PAGE, view(entries, every_hours), "tsa.monitoring.watching")


def view(entries: Sequence[Dict], every_hours: float) -> dict[str, Any]:
    """The values that the template shows."""
    last, market = entries[-1], next((entry["market"] for entry in reversed(entries) if "market" in entry), "payments")
    made = [entry for entry in entries if entry["status"] != "failed"][-MAX_DRAWN:]
    counts = [(name, sum(entry["status"] == name for entry in entries)) for name in TONES]
    return {
        "title": f"{market}: monitoring over time",
        "tone": TONES[last["status"]],
        "last": last,
        "every": f"{every_hours:g} hours",
        "counts": counts,
        "checks": len(entries),
        "rows": [_row(entry) for entry in reversed(entries[-MAX_ROWS:])],
        "charts": [chart for chart in _charts(made) if chart],
    }


def _row(entry: Dict) -> dict[str, Any]:
    failed = entry["status"] == "failed"
    metric = entry.get("average_precision") or {"value": None, "low": None}
    expected = (entry.get("expected") or {"value": None, "low": None}) if entry.get("expected_believed") else {}
    return {
        "at": entry["at"],
        "status": entry["status"],
        "bad": entry["status"] in ("alert", "failed"),
        "summary": entry["summary"] if failed else "",
        "alerts": [_alert(alert) for alert in entry["alerts"]],
        "range": "" if failed else f"{entry['range']['start'][:10]} to {entry['range']['end'][:10]}",
        "n": formatting.count(entry.get("n")),
        "nothing_new": entry.get("new_payments") is False,
        "score_psi": formatting.decimal(entry.get("score_psi")),
        "measured": formatting.decimal(metric["value"]),
        "measured_interval": formatting.interval(metric),
        "expected": formatting.decimal(expected.get("value")),
        "expected_interval": formatting.interval(expected),
        "bundle": (entry.get("bundle") or "")[:12],
        "not_reached": entry.get("webhook_reached") is False,
    }


def _alert(alert: Dict) -> dict[str, Any]:
    return {
        "severity": alert["severity"],
        "title": MEASURES.get(alert["measure"], alert["measure"]),
        "about": alert["feature"],
        "value": shown(alert["measure"], alert["value"]),
        "new": alert.get("new", False),
    }


def _charts(entries: Sequence[Dict]) -> list[Any]:
    few = len(entries) <= MAX_DOTS
    x = axis([entry["at"][5:10] for entry in entries], "Check (day)")
    alerts = [
        line(f"{severity}s", [_count(entry, severity) for entry in entries], style, dots=few)
        for severity, style in (("alert", "fraud"), ("warning", "two"))
    ]
    precision = [
        line("measured", [_value(entry, "average_precision") for entry in entries], "one", dots=few),
        line("expected", [_expected(entry) for entry in entries], "two", dots=few),
    ]
    index = [line("index", [entry.get("score_psi") for entry in entries], "one", dots=few)]
    ratio = [line("ratio", [_value(entry, "calibration") for entry in entries], "one", dots=few)]
    payments = [line("payments", [entry.get("n") for entry in entries], "one", dots=few)]
    measured = "Measured on payments whose outcome is known, and expected of the last window."
    return [
        drawn("alerts", "Alerts and warnings", "Of each check.", x, "Number", alerts),
        drawn("psi", "Score drift", "Population stability index of the raw score.", x, "Index", index),
        drawn("precision", "Average precision", measured, x, "Average precision", precision),
        drawn("ratio", "Expected to observed frauds", "1 if the probabilities are right.", x, "Ratio", ratio),
        drawn("payments", "Payments", "In the range of each check.", x, "Payments", payments),
    ]


def _value(entry: Dict, name: str) -> float | None:
    return (entry.get(name) or {}).get("value")


def _expected(entry: Dict) -> float | None:
    return _value(entry, "expected") if entry.get("expected_believed") else None


def _count(entry: Dict, severity: str) -> int:
    return sum(alert["severity"] == severity for alert in entry["alerts"])
