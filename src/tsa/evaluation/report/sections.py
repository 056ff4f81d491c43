"""Charts and table rows of the report, made from the dicts of `evaluate_scores`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tsa.evaluation.report import formatting
from tsa.evaluation.report.svg import Axis, Series, chart, interval_bar
from tsa.text import shorten

Dict = Mapping[str, Any]

KEY_METRICS = ("average_precision", "roc_auc", "precision_at_k", "recall_at_fpr_0.01", "precision", "recall")
PART_METRICS = ("average_precision", "roc_auc", "recall_at_fpr_0.01", "precision", "recall")
MAX_FEATURES = 15


def key_figures(evaluation: Dict, comparison: Dict | None) -> list[dict[str, Any]]:
    """The cards at the top: title, value, interval, the other model's value, explanation."""
    other = comparison["evaluation"]["metrics"] if comparison else {}
    k = evaluation["metrics"].get("precision_at_k", {}).get("k")
    return [
        _cell(evaluation["metrics"][name], name, k) | {"other": other.get(name, {}).get("value")}
        for name in KEY_METRICS
        if name in evaluation["metrics"]
    ]


def metric_rows(evaluation: Dict, comparison: Dict | None) -> list[dict[str, Any]]:
    """One row per metric: the model, the other model, and the paired difference if there is one."""
    other = comparison["evaluation"]["metrics"] if comparison else {}
    difference = comparison["difference"] if comparison else {}
    k = evaluation["metrics"].get("precision_at_k", {}).get("k")
    order = {name: place for place, name in enumerate(formatting.METRICS)}
    before_value = order["value_weighted_recall"] - 0.5  # position of recall at fixed rates and precisions
    names = sorted(evaluation["metrics"], key=lambda name: order.get(name, before_value))
    return [
        _cell(evaluation["metrics"][name], name, k)
        | {
            "other": _cell(other[name], name, k) if name in other else None,
            "difference": _signed(difference[name]) if name in difference else None,
        }
        for name in names
    ]


def _cell(metric: Dict, name: str, k: int | None) -> dict[str, Any]:
    title, explanation = formatting.metric_name(name, k)
    return {
        "title": title,
        "explanation": explanation,
        "value": metric["value"],
        "interval": formatting.interval(metric),
        "reason": metric.get("reason"),
        "bar": interval_bar(metric["value"], metric["low"], metric["high"]),
    }


def _signed(difference: Dict) -> dict[str, str]:
    if difference["difference"] is None:
        return {"value": formatting.DASH, "interval": ""}
    low, high = difference["low"], difference["high"]
    spread = "" if low is None else f"{formatting.signed(low)} to {formatting.signed(high)}"
    return {"value": formatting.signed(difference["difference"]), "interval": spread}


FORMS = {"combined": "network and trees", "network": "the network", "trees": "the trees"}
PART_NAMES = {"network": "network alone", "trees": "trees alone"}


def model_parts(parts: Dict | None, comparison: Dict | None) -> dict[str, Any] | None:
    """The model, each of its parts alone, and the other model: metrics, and differences to the model with intervals."""
    if not parts:
        return None
    differences = {PART_NAMES[part]: parts["differences"][part] for part in PART_NAMES}
    if comparison:
        differences[comparison["model_name"]] = comparison["difference"]
    names = ("average_precision", "roc_auc")
    rows = [{"name": f"the model ({FORMS[parts['form']]})", "cells": _model_cells(parts["values"]["model"], names)}]
    for name, difference in differences.items():
        cells = [{"value": difference[metric]["b"], "difference": _signed(difference[metric])} for metric in names]
        rows.append({"name": name, "cells": cells})
    return {
        "summary": parts["summary"],
        "metrics": [formatting.metric_name(name)[0] for name in names],
        "rows": rows,
        "weights": parts["weights"],
        "choice": parts["choice"],
    }


def _model_cells(values: Dict, names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"value": values[name], "difference": None} for name in names]


def features(comparison: Dict | None) -> list[dict[str, Any]]:
    """The other model's most important features, with the width of their bars in percent of the first."""
    largest = sorted((comparison or {}).get("features") or [], key=lambda f: -(f["importance"] or 0))[:MAX_FEATURES]
    max_importance = max((f["importance"] or 0 for f in largest), default=0) or 1
    return [f | {"width": round(100 * (f["importance"] or 0) / max_importance, 1)} for f in largest]


def part_tables(evaluation: Dict, comparison: Dict | None) -> list[dict[str, Any]]:
    """One table per segment column and history: title, metric titles, rows."""
    other = (comparison or {}).get("evaluation") or {}
    tables = []
    for kind, title in (("segments", "By {}"), ("history_length", "By length of the {} history")):
        for column, parts in evaluation[kind].items():
            other_parts = {_part_key(p): p for p in other.get(kind, {}).get(column, [])}
            rows = [_part_row(part, other_parts.get(_part_key(part))) for part in parts]
            tables.append(
                {
                    "title": title.format(column),
                    "column": "events, this one included" if kind == "history_length" else column,
                    "metrics": [formatting.metric_name(name)[0] for name in PART_METRICS],
                    "compared": bool(other_parts),
                    "rows": rows,
                }
            )
    return tables


def _part_key(part: Dict) -> tuple[Any, bool]:
    return part["value"], "rest" in part


def part_head(part: Dict) -> dict[str, Any]:
    """The first cells of a segment's row: its name, whether it means no value or several, payments and frauds."""
    name = "missing" if part["value"] is None else part["value"]
    if "rest" in part:
        name = f"other ({part['rest']:,} values)"
    is_special = part["value"] is None or "rest" in part
    return {"name": shorten(name, 60, "…"), "special": is_special, "n": part["n"], "frauds": part["frauds"]}


def _part_row(part: Dict, other: Dict | None) -> dict[str, Any]:
    metrics = [_cell(part["metrics"][metric], metric, None) for metric in PART_METRICS if metric in part["metrics"]]
    compared = other["metrics"]["average_precision"]["value"] if other else None
    return {
        **part_head(part),
        "rate": part["fraud_rate"],
        "metrics": metrics,
        "other": compared,
    }


def evaluation_charts(evaluation: Dict, comparison: Dict | None) -> list[dict[str, Any]]:
    """Charts of precision over recall, ROC, the scores, and precision@k by day, if there is data for them."""
    both = [(formatting.MODEL, "one", evaluation)]
    if comparison:
        both.append((comparison["model_name"], "two", comparison["evaluation"]))
    drawn = [_precision_recall(both), _roc(both), _histogram(evaluation), _daily(both)]
    return [one for one in drawn if one]


def card(identifier: str, title: str, description: str, x: Axis, y: Axis, series: Sequence[Series]) -> dict[str, Any]:
    """A chart with its title and a legend."""
    legend = [{"name": s.name, "style": s.style} for s in series if s.name]
    svg = chart(identifier, title, description, x, y, series)
    return {"title": title, "description": description, "svg": svg, "legend": legend}


def _precision_recall(models: Sequence[tuple[str, str, Dict]]) -> dict[str, Any] | None:
    lines = _curves(models, "pr", "average_precision", x="recall", y="precision")
    if not lines:
        return None
    rate = models[0][2]["fraud_rate"]
    chance = Series(name=f"chance {formatting.decimal(rate)}", x=[0, 1], y=[rate, rate], style="muted")
    description = "Precision over recall, from the highest score down. Average precision: " + _listed(lines)
    x, y = Axis(label="Recall"), Axis(label="Precision")
    return card("pr", "Precision and recall", description, x, y, [chance, *lines])


def _roc(models: Sequence[tuple[str, str, Dict]]) -> dict[str, Any] | None:
    lines = _curves(models, "roc", "roc_auc", x="false_positive_rate", y="recall")
    if not lines:
        return None
    chance = Series(name="chance 0.500", x=[0, 1], y=[0, 1], style="muted")
    description = "Recall over the false positive rate. Area under the curve: " + _listed(lines)
    x, y = Axis(label="False positive rate"), Axis(label="Recall")
    return card("roc", "ROC curve", description, x, y, [chance, *lines])


def _curves(models: Sequence[tuple[str, str, Dict]], kind: str, metric: str, *, x: str, y: str) -> list[Series]:
    """A line for each model with such a curve, named with the metric that summarises it."""
    lines = []
    for name, style, evaluation in models:
        if curve := evaluation["curves"][kind]:
            value = formatting.decimal(evaluation["metrics"][metric]["value"])
            lines.append(Series(name=f"{name} {value}", x=curve[x], y=curve[y], style=style))
    return lines


def _listed(lines: Sequence[Series]) -> str:
    return ", ".join(line.name for line in lines) + "."


def _histogram(evaluation: Dict) -> dict[str, Any] | None:
    histogram = evaluation["curves"]["score_histogram"]
    if not histogram:
        return None
    edges = histogram["edges"]
    x = [edge for edge in edges for _ in range(2)][1:-1]
    series = [
        Series(name=name, x=x, y=[n for n in histogram[key] for _ in range(2)], style=style, filled=True)
        for name, key, style in (("genuine", "genuine", "genuine"), ("fraud", "fraud", "fraud"))
    ]
    max_count = max(*histogram["genuine"], *histogram["fraud"], 1)
    y = Axis(label="Payments per bin (logarithmic)", low=0.5, high=1.3 * max_count, log=True)
    description = (
        f"Number of payments by score: {sum(histogram['genuine']):,} genuine, {sum(histogram['fraud']):,} frauds."
    )
    return card("scores", "Scores", description, Axis(label="Raw score", low=edges[0], high=edges[-1]), y, series)


def _daily(models: Sequence[tuple[str, str, Dict]]) -> dict[str, Any] | None:
    lines = []
    for name, style, evaluation in models:
        days = evaluation["metrics"]["precision_at_k"].get("per_day") or []
        if len(days) > 1:
            y = [day["precision"] for day in days]
            lines.append(Series(name=name, x=range(len(days)), y=y, style=style, dots=len(days) <= 31))
            labels = [day["day"][5:] for day in days]
    if not lines:
        return None
    title, explanation = formatting.metric_name("precision_at_k", models[0][2]["metrics"]["precision_at_k"]["k"])
    x = Axis(label="Day (UTC)", high=len(labels) - 1, labels=labels)
    highest = max(0.05, *(value for line in lines for value in line.y))
    up = Axis(label="Precision", high=min(1.0, 1.2 * highest))
    return card("daily", f"{title} by day", explanation + ", day by day.", x, up, lines)


def training(metadata: Dict) -> dict[str, Any] | None:
    """Curves and metrics of the epochs."""
    epochs = [e for e in metadata.get("epochs") or [] if e.get("epoch") is not None]
    if not epochs:
        return None
    best = metadata.get("best_epoch")
    seeds = (metadata.get("seeds") or {}).get("summary")
    return {
        "epochs": epochs,
        "best": best,
        "notes": [*(metadata.get("adapted") or []), *(note for note in (metadata.get("outlook"), seeds) if note)],
        "seconds": sum(e.get("seconds") or 0 for e in epochs),
        "charts": [c for c in (_loss(epochs), _validation(epochs, best)) if c],
    }


def _epoch_axis(epochs: Sequence[Dict]) -> Axis:
    first, last = epochs[0]["epoch"], epochs[-1]["epoch"]
    return Axis(label="Epoch", low=min(first, last - 1), high=last, integers=True)


def _over_epochs(epochs: Sequence[Dict], key: str, name: str, style: str) -> Series:
    known = [(e["epoch"], e[key]) for e in epochs if isinstance(e.get(key), int | float) and math.isfinite(e[key])]
    return Series(name=name, x=[x for x, _ in known], y=[y for _, y in known], style=style, dots=len(known) <= 40)


def _loss(epochs: Sequence[Dict]) -> dict[str, Any] | None:
    line = _over_epochs(epochs, "loss", "training loss", "one")
    if not line.y:
        return None
    y = Axis(label="Training loss", low=min(0.0, *line.y), high=1.05 * max(*line.y, 1e-9))
    return card("loss", "Training loss", "Mean loss of each epoch.", _epoch_axis(epochs), y, [line])


def _validation(epochs: Sequence[Dict], best: int | None) -> dict[str, Any] | None:
    keys = {"validation_average_precision": ("average precision", "one"), "validation_roc_auc": ("ROC AUC", "two")}
    lines = [_over_epochs(epochs, key, *name) for key, name in keys.items()]
    lines = [line for line in lines if line.y]
    if not lines:
        return None
    if best is not None:
        lines.insert(0, Series(name=f"best: epoch {best}", x=[best, best], y=[0, 1], style="muted"))
    description = "Average precision and ROC AUC on the validation range after each epoch."
    y = Axis(label="On the validation range")
    return card("validation", "Validation", description, _epoch_axis(epochs), y, lines)
