"""The report's section on calibration: sentences, a table, charts and segments from the result of `assess_calibration`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tsa.evaluation.report import formatting
from tsa.evaluation.report.sections import Dict, card, part_head
from tsa.evaluation.report.svg import Axis, Series

STABLE, MOVED = 0.1, 0.25
LOWEST = 1e-5
"""Highest start of the axes of the reliability chart."""

ROWS = {
    "ece": ("Expected calibration error", "Mean distance of probability and observed rate, over bins of equal mass"),
    "brier": ("Brier score", "Mean squared distance of probability and outcome"),
    "expected": ("Expected frauds", "Sum of the probabilities"),
    "ratio": ("Expected to observed frauds", "1 if the probabilities add up to the number of frauds"),
}


def calibration(result: Dict | None, place: str = "the test range") -> dict[str, Any] | None:
    """The values that the template shows; None for a report without calibration. place: a name for the payments."""
    if not result:
        return None
    best = result["after"] or result["before"]
    if not best["metrics"]:
        return None
    return {
        "sentences": [*_verdict(result, best, place), *_drift(result["drift"])],
        "method": result["method"],
        "rows": [_row(name, result) for name in ROWS],
        "frauds": best["frauds"],
        "charts": [one for one in (_reliability(result["reliability"]), _daily(result["per_day"])) if one],
        "parts": [_parts(name, parts) for name, parts in result["segments"].items()],
    }


def _verdict(result: Dict, best: Dict, place: str) -> list[str]:
    ratio, ece = best["metrics"]["ratio"], best["metrics"]["ece"]
    expected = best["metrics"]["expected"]["value"]
    what = "The raw scores taken as probabilities" if result["after"] is None else "The probabilities"
    counted = f"{what} add up to {expected:,.1f} frauds on {place}; {best['frauds']:,} were observed"
    spread = formatting.interval(ratio, 2)
    share = f" (ratio {ratio['value']:.2f}{f', {spread}' if spread else ''})" if ratio["value"] is not None else ""
    off = f"The expected calibration error is {ece['value']:.4f}; by chance alone it would be {ece['by_chance']:.4f}."
    return [*([result["note"]] if result.get("note") else []), f"{counted}{share}.", off]


def _drift(drift: Dict) -> list[str]:
    psi = drift.get("psi")
    if not psi or psi["value"] is None:
        reason = drift.get("reason") or "no separate range was used for it"
        return [f"How far payments have moved since calibration is not known: {reason}."]
    value = psi["value"]
    moved = "stable" if value < STABLE else "moved" if value < MOVED else "another population"
    name = drift["reference"]
    lines = [f"From the {name} range to the test range, scores are {moved}: population stability index {value:.3f}."]
    if drift.get("expected") is not None:
        seen, expected = drift["observed"], drift["expected"]
        lines.append(f"On the {name} range, {expected:,.1f} frauds were expected and {seen:,} observed.")
    return lines


def _row(name: str, result: Dict) -> dict[str, Any]:
    title, explanation = ROWS[name]
    digits = {"ece": 4, "brier": 4, "expected": 1, "ratio": 2}[name]
    cells = {form: _cell(result[form], name, digits) for form in ("before", "after")}
    return {"title": title, "explanation": explanation, **cells}


def _cell(measured: Dict | None, name: str, digits: int) -> dict[str, Any]:
    metric: Mapping[str, Any] = (measured or {}).get(name) or ((measured or {}).get("metrics") or {}).get(name) or {}
    value = formatting.decimal(metric.get("value"), digits)
    return {"value": value, "interval": formatting.interval(metric, digits), "reason": metric.get("reason")}


def _parts(column: str, parts: Sequence[Dict]) -> dict[str, Any]:
    return {"column": column, "title": f"Calibration by {column}", "rows": [_part(part) for part in parts]}


def _part(part: Dict) -> dict[str, Any]:
    best = part.get("after") or part["before"]
    return {
        **part_head(part),
        "expected": _cell(best, "expected", 1),
        "ratio": _cell(best, "ratio", 2),
        "before": _cell(part["before"], "ece", 4),
        "after": _cell(part.get("after"), "ece", 4),
    }


def _reliability(result: Dict) -> dict[str, Any] | None:
    """Observed rate over probability; the axes are logarithmic because most probabilities are small."""
    forms = {"before": ("raw score", "muted"), "after": ("probability", "one")}
    lines = []
    for form, (name, style) in forms.items():
        rows = [row for row in result[form] or [] if row["expected"] > 0 and row["frauds"] > 0]
        if rows:
            x, y = [row["expected"] for row in rows], [row["observed"] for row in rows]
            lines.append(Series(name=name, x=x, y=y, style=style, dots=True))
    if not lines:
        return None
    lowest = min(value for line in lines for value in (*line.x, *line.y))
    low = 10.0 ** math.floor(math.log10(max(lowest, LOWEST)))
    ideal = Series(name="ideal", x=[low, 1], y=[low, 1], style="two")
    description = "Observed fraud rate over the mean probability of payments, in bins of equal mass that hold a fraud."
    axes = Axis(label="Mean probability of a bin", low=low, log=True), Axis(label="Observed rate", low=low, log=True)
    return card("reliability", "Reliability", description, *axes, [ideal, *lines])


def _daily(days: Sequence[Dict]) -> dict[str, Any] | None:
    if len(days) < 2:
        return None
    forms = {"observed": ("observed", "fraud"), "expected": ("expected", "one")}
    at = range(len(days))
    lines = [
        Series(name=name, x=at, y=[day[key] for day in days], style=style, dots=len(days) <= 31)
        for key, (name, style) in forms.items()
    ]
    highest = max(1.0, *(value for line in lines for value in line.y))
    x = Axis(label="Day (UTC)", high=len(days) - 1, labels=[day["day"][5:] for day in days])
    description = "Frauds expected, as the sum of probabilities, and observed, day by day."
    return card("frauds", "Frauds by day", description, x, Axis(label="Frauds", high=1.1 * highest), lines)
