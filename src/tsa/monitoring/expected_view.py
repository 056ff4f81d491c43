"""Expected performance as sentences and as rows of the monitoring page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tsa.evaluation.report import formatting
from tsa.monitoring.expected import METRICS

Dict = Mapping[str, Any]


def estimates(windows: Sequence[Dict], expected: Dict | None) -> dict[str, Any] | None:
    """The values that the template shows; None without an estimate.

    Args:
        windows: Start and end of each window.
        expected: As `expected` returns it.
    """
    if expected is None or not expected["windows"]:
        return None
    rows = [_row(*pair) for pair in zip(windows, expected["windows"], strict=True)]
    return {"sentence": sentence(expected), "believed": expected["believed"], "rows": rows}


def sentence(expected: Dict) -> str:
    """What is expected of the last window, and whether to believe it."""
    if not expected["believed"]:
        return f"Do not believe the expected performance: {'; '.join(expected['reasons'])}."
    last = next((window for window in reversed(expected["windows"]) if window["metrics"]), None)
    checked = f"{expected['within']} of {expected['checked']} earlier estimates held"
    if last is None:
        return f"There are too few expected frauds to estimate performance; {checked}."
    metric = last["metrics"].get("average_precision", {"value": None})
    text = f"{formatting.decimal(metric['value'])} {formatting.interval(metric)}".strip()
    return f"Expected average precision of the last window: {text}; {checked}."


def _row(window: Dict, measured: Dict) -> dict[str, Any]:
    cells = []
    for name in METRICS:
        metric = measured["metrics"].get(name) or {"value": None, "low": None}
        check = (measured["check"] or {}).get(name)
        since = None if check is None else formatting.decimal(check["measured"])
        interval = formatting.interval(metric)
        missed = check is not None and not check["within"]
        cells.append(
            {"value": formatting.decimal(metric["value"]), "interval": interval, "since": since, "missed": missed}
        )
    days = f"{window['start'][:10]} – {window['end'][:10]}"
    facts = {"n": measured["n"], "frauds": formatting.decimal(measured["frauds"], 1)}
    return {"name": days, **facts, "cells": cells, "reason": measured.get("reason")}
