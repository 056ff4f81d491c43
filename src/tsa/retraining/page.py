"""`retrain.html`: the candidate and the champion, metric by metric and rule by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tsa.evaluation.promotion.gate import gate_sentence
from tsa.evaluation.report import formatting
from tsa.evaluation.report.json_values import to_plain
from tsa.evaluation.report.report import page
from tsa.evaluation.trained_run import TrainedRun
from tsa.files.writing import write_text

Dict = Mapping[str, Any]

METRICS = ("average_precision", "roc_auc", "precision_at_k", "recall_at_fpr_0.01", "value_weighted_recall_at_fpr_0.01")
"""Metrics that do not depend on a threshold."""


def write_page(run: TrainedRun, gate: Dict) -> None:
    """Write the page into the run's folder."""
    write_text(run.path / "retrain.html", page("retrain.html", view(run.market.name, to_plain(gate)), "tsa.retraining"))


def view(market: str, gate: Dict) -> dict[str, Any]:
    """The values that the page shows."""
    return {
        "title": f"{market}: candidate and champion",
        "gate": gate,
        "tone": "better" if gate["passed"] else "worse",
        "sentence": gate_sentence(gate),
        "sides": [(name, gate[name]) for name in ("candidate", "champion") if gate[name] is not None],
        "metrics": list(_metrics(gate)),
        "rules": [_rule(rule) for rule in gate["rules"]],
        "segments": [_segment(part) for part in gate["segments"] if "difference" in part],
    }


def _metrics(gate: Dict) -> Iterator[dict[str, Any]]:
    own, other = gate["candidate"], gate["champion"]
    for name in METRICS:
        title, explanation = formatting.metric_name(name, own["top_k"])
        paired = (gate["metrics"] or {}).get(name)
        yield {
            "title": title,
            "explanation": explanation,
            "cells": [_measured(side["metrics"].get(name)) for side in (own, other) if side is not None],
            "difference": "" if not paired or paired["difference"] is None else _difference(paired),
        }
    sides = [side for side in (own, other) if side is not None]
    if any(side["calibration"] for side in sides):
        values = [_calibration(side["calibration"]) for side in sides]
        yield {
            "title": "Expected calibration error",
            "explanation": "Mean distance of probabilities from observed rates",
            "cells": values,
            "difference": "",
        }
    yield {
        "title": "Milliseconds for one payment",
        "explanation": "95 % of payments take at most this long, scored one by one on the machine of the gate",
        "cells": [f"{side['latency_ms']:.1f}" for side in sides],
        "difference": "",
    }


def _calibration(measured: Dict | None) -> str:
    return formatting.DASH if measured is None else formatting.decimal(measured["ece"]["value"], 4)


def _measured(metric: Dict | None) -> str:
    if not metric or metric["value"] is None:
        return formatting.DASH
    spread = formatting.interval(metric)
    return formatting.decimal(metric["value"]) + (f" ({spread})" if spread else "")


def _difference(paired: Dict) -> str:
    value = formatting.signed(paired["difference"])
    if paired["low"] is None:
        return value
    return f"{value} ({formatting.signed(paired['low'])} to {formatting.signed(paired['high'])})"


def _rule(rule: Dict) -> dict[str, Any]:
    limit = f"at least {rule['at_least']:g}" if "at_least" in rule else f"at most {rule['at_most']:g}"
    value = formatting.DASH if rule["value"] is None else f"{rule['value']:.4g}"
    return {"text": rule["text"], "value": value, "limit": limit, "passed": rule["passed"], "note": rule["note"] or ""}


def _segment(part: Dict) -> dict[str, Any]:
    return {
        "name": f"{part['column']}: {part['value']}",
        "n": part["n"],
        "frauds": part["frauds"],
        "cells": [formatting.decimal(part["a"]), formatting.decimal(part["b"])],
        "difference": formatting.DASH if part["difference"] is None else _difference(part),
    }
