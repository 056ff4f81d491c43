"""What the folds of a backtest say together: means and spread, money, decay by age, and differences between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tsa.backtest.measure import AGED

Dict = Mapping[str, Any]

METRICS = ("average_precision", "roc_auc", "precision_at_k", "recall_at_fpr_0.01", "precision", "recall", "f1")
"""Metrics of which the mean and the spread are reported."""


def summarise(folds: Sequence[Dict]) -> dict[str, Any]:
    """Summarise the results of folds (the content of fold.json each); folds that were left out do not count.

    Returns:
        By model: `metrics` (mean, standard deviation, lowest, highest, number of folds), `calibration`, `money` (sums), and
        `ages`, a row for each age of the models; and by other model the `differences` to it.
    """
    measured = [fold for fold in folds if "skipped" not in fold]
    names = list(dict.fromkeys(name for fold in measured for name in fold["models"]))
    return {
        "folds": len(measured),
        "skipped": len(folds) - len(measured),
        "models": {
            name: _model([fold["models"][name] for fold in measured if name in fold["models"]]) for name in names
        },
        "differences": {name: _difference(measured, name) for name in names[1:]},
    }


def _model(folds: Sequence[Dict]) -> dict[str, Any]:
    metrics = {name: spread([fold["metrics"][name]["value"] for fold in folds]) for name in METRICS}
    calibrated = [fold["calibration"]["metrics"] for fold in folds if fold["calibration"]["metrics"]]
    ratio = [one["ratio"]["value"] for one in calibrated if one.get("ratio")]
    error = [one["ece"]["value"] for one in calibrated if one.get("ece")]
    return {
        "metrics": metrics,
        "calibration": {"ratio": spread(ratio), "ece": spread(error)},
        "money": _money(folds),
        "ages": _ages(folds),
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, standard deviation between folds, lowest and highest of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "deviation": None, "lowest": None, "highest": None, "folds": 0}
    deviation = stdev(known) if len(known) > 1 else None
    return {
        "mean": fmean(known),
        "deviation": deviation,
        "lowest": min(known),
        "highest": max(known),
        "folds": len(known),
    }


def _money(folds: Sequence[Dict]) -> dict[str, Any] | None:
    """Sums over the test ranges."""
    rows = [fold["money"] for fold in folds if fold["money"]]
    if not rows:
        return None
    tested = [row["test"] for row in rows]
    total = {
        name: _sum([row[name] for row in tested]) for name in ("reviewed", "caught", "cost", "saved", "net", "missed")
    }
    return {**total, "hindsight_net": _sum([row["hindsight_net"] for row in rows]), "folds": len(rows)}


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _ages(folds: Sequence[Dict]) -> list[dict[str, Any]]:
    """By age of the model: its metrics, those of new models on the same test ranges, and what age cost."""
    fresh = {fold["ages"][0]["fold"]: fold["ages"][0] for fold in folds if fold["ages"]}
    ages = sorted({row["age_seconds"] for fold in folds for row in fold["ages"]})
    table = []
    for age in ages:
        pairs = [
            (row, fresh[row["fold"]])
            for fold in folds
            for row in fold["ages"]
            if row["age_seconds"] == age and row["fold"] in fresh
        ]
        entry: dict[str, Any] = {"age_seconds": age, "test_ranges": len(pairs)}
        for name in (*AGED, "net"):
            both = [
                (old[name], new[name]) for old, new in pairs if old.get(name) is not None and new.get(name) is not None
            ]
            entry[name] = {
                "aged": fmean(old for old, _ in both) if both else None,
                "new": fmean(new for _, new in both) if both else None,
                "difference": fmean(old - new for old, new in both) if both else None,
                "test_ranges": len(both),
            }
        table.append(entry)
    return table


def _difference(folds: Sequence[Dict], other: str) -> dict[str, Any]:
    """The model minus another one, over the folds that have both."""
    both = [fold["differences"][other] for fold in folds if other in fold["differences"]]
    result = {}
    for name in AGED:
        rows = [one[name] for one in both]
        verdicts = [row["verdict"] for row in rows]
        result[name] = {
            **spread([row["difference"] for row in rows]),
            "better": verdicts.count("a better"),
            "worse": verdicts.count("b better"),
            "higher": sum(1 for row in rows if (row["difference"] or 0.0) > 0),
        }
    return result
