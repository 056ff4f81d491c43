"""The page of a backtest: each fold, the spread, calibration, money, and how models age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tsa.backtest.durations import duration_text
from tsa.backtest.sentences import sentences_of
from tsa.backtest.settings import MODEL, NAMES
from tsa.backtest.summary import METRICS
from tsa.evaluation.report.formatting import interval, metric_name, moment, signed
from tsa.evaluation.report.report import page
from tsa.evaluation.report.sections import card
from tsa.evaluation.report.svg import Axis, Series
from tsa.files.writing import write_text

Dict = Mapping[str, Any]

STYLES = ("one", "two", "fraud")


def write_backtest(out: Path, result: Dict) -> None:
    """Write the page of a backtest (the content of backtest.json)."""
    write_text(out, page("backtest.html", view(result), "tsa.backtest"))


def view(result: Dict) -> dict[str, Any]:
    """The values that the page shows."""
    measured = [fold for fold in result["folds"] if "skipped" not in fold]
    names = list(result["summary"]["models"])
    lines = sentences_of(result)
    return {
        "title": f"{result['market']}: backtest",
        "lead": _lead(result, measured),
        "first": lines[0],
        "sentences": lines[1:],
        "models": [NAMES[name] for name in names],
        "folds": [_row(fold, names) for fold in measured],
        "left_out": [fold for fold in result["folds"] if "skipped" in fold],
        "metrics": _metrics(result, names),
        "ages": _ages(result["summary"]["models"][MODEL]["ages"]),
        "money": [_money(NAMES[name], result["summary"]["models"][name]["money"]) for name in names],
        "calibration": [_calibration(fold, names) for fold in measured],
        "costs": result["settings"]["costs"],
        "charts": [chart for chart in (_over_time(measured, names), _decay(result, names)) if chart],
    }


def _lead(result: Dict, measured: Sequence[Dict]) -> str:
    schedule = result["schedule"]
    window = "all earlier payments" if schedule["window"] is None else f"the {duration_text(schedule['window'])} before"
    delay = duration_text(result["label_delay_seconds"]) if result["label_delay_seconds"] else None
    known = f" whose outcomes were known, which takes {delay}" if delay else " whose outcomes were known"
    return (
        f"{len(measured)} models, one every {duration_text(schedule['every'])}, each trained on {window}{known}, and tested on "
        f"the {duration_text(schedule['test'])} that followed."
    )


def _row(fold: Dict, names: Sequence[str]) -> dict[str, Any]:
    own = fold["models"][MODEL]
    other = next(
        (fold["differences"][name]["average_precision"] for name in names[1:] if name in fold["differences"]), None
    )
    train = fold["splits"]["train"]
    return {
        "name": fold["name"],
        "n": own["n"],
        "frauds": own["frauds"],
        "trained": train["n"],
        "trained_from": moment(train["start"])[:10],
        "cells": [_cell(fold["models"].get(name), "average_precision") for name in names],
        "auc": [_cell(fold["models"].get(name), "roc_auc") for name in names],
        "difference": None if other is None else _signed(other),
    }


def _cell(model: Dict | None, name: str) -> dict[str, Any]:
    if model is None:
        return {"value": None, "interval": ""}
    metric = model["metrics"][name]
    return {"value": metric["value"], "interval": interval(metric)}


def _signed(difference: Dict) -> dict[str, str]:
    if difference["difference"] is None:
        return {"value": "–", "interval": ""}
    spread = "" if difference["low"] is None else f"{signed(difference['low'])} to {signed(difference['high'])}"
    return {"value": signed(difference["difference"]), "interval": spread}


def _metrics(result: Dict, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each metric: mean and spread of each model."""
    models = result["summary"]["models"]
    rows = []
    for metric in METRICS:
        title, explanation = metric_name(metric)
        cells = [models[name]["metrics"][metric] for name in names]
        if any(cell["mean"] is not None for cell in cells):
            rows.append({"title": title, "explanation": explanation, "cells": cells})
    return rows


def _ages(ages: Sequence[Dict]) -> list[dict[str, Any]]:
    return [
        {
            "age": duration_text(row["age_seconds"]) if row["age_seconds"] else "new",
            "test_ranges": row["test_ranges"],
            **{name: row[name] for name in ("average_precision", "roc_auc", "net")},
        }
        for row in ages
    ]


def _money(name: str, money: Dict | None) -> dict[str, Any]:
    return {"name": name, **(dict(money) if money else {"net": None})}


def _calibration(fold: Dict, names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": fold["name"],
        "frauds": fold["models"][MODEL]["frauds"],
        "cells": [(fold["models"].get(name) or {}).get("calibration", {}).get("metrics") for name in names],
    }


def _over_time(folds: Sequence[Dict], names: Sequence[str]) -> dict[str, Any] | None:
    x = list(range(len(folds)))
    lines = []
    for name, style in zip(names, STYLES, strict=False):
        values = [
            (at, fold["models"][name]["metrics"]["average_precision"]["value"])
            for at, fold in zip(x, folds, strict=True)
            if name in fold["models"]
        ]
        known = [(at, value) for at, value in values if value is not None]
        if known:
            xs, ys = zip(*known, strict=True)
            lines.append(Series(name=NAMES[name], x=xs, y=ys, style=style, dots=True))
    if not lines:
        return None
    axis = Axis(label="Trained on", low=0, high=max(1, len(folds) - 1), labels=[fold["name"][5:] for fold in folds])
    description = "Average precision of each fold's model on its test range."
    return card("folds", "Average precision, fold by fold", description, axis, Axis(label="Average precision"), lines)


def _decay(result: Dict, names: Sequence[str]) -> dict[str, Any] | None:
    lines, longest = [], 0.0
    for name, style in zip(names, STYLES, strict=False):
        rows = [
            (row["age_seconds"] / 86_400.0, row["average_precision"]["difference"])
            for row in result["summary"]["models"][name]["ages"]
            if row["average_precision"]["difference"] is not None
        ]
        if len(rows) > 1:
            xs, ys = zip(*rows, strict=True)
            longest = max(longest, *xs)
            lines.append(Series(name=NAMES[name], x=xs, y=ys, style=style, dots=True))
    if not lines:
        return None
    values = [value for line in lines for value in line.y]
    low, high = min(0.0, *values) * 1.05, max(0.01, *values) * 1.05
    description = "Average precision of models of this age minus that of new models, on the same payments."
    across = Axis(label="Age in days", high=longest, integers=True)
    return card("decay", "What age costs", description, across, Axis(label="Difference", low=low, high=high), lines)
