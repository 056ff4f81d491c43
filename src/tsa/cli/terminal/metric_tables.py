"""Tables of metrics and thresholds on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.console import console, print_line

SHOWN = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "precision_at_k": "precision@{k} per day",
    "recall_at_fpr_0.01": "recall at 1 % false positives",
}


def print_thresholds(result: Mapping[str, Any]) -> None:
    """Print a table with a row per threshold; the best one is marked."""
    marked = "; * the best" if result["best"] else ""
    title = f"{result['n']:,} test payments of {result['days']:,} days, {result['frauds']:,} frauds{marked}"
    names = ["threshold", "per day", "caught", "recall", "precision", "cost", "saved", "net"]
    has_keys = bool(result["rows"]) and "keys" in result["rows"][0]
    if has_keys:
        names += [f"{result['entity']}s caught", f"false alarms per {result['entity']}"]
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    best = (result["best"] or {}).get("threshold")
    for row in result["rows"]:
        mark = " *" if row["threshold"] == best else ""
        shares = ("–" if row[name] is None else f"{row[name]:.1%}" for name in ("recall", "precision"))
        money = ("–" if row[name] is None else f"{row[name]:,.0f}" for name in ("cost", "saved", "net"))
        reviews = f"{row['reviewed_per_day']:,.1f}"
        counts = []
        if has_keys:
            alarms = row["keys"]["false_alarms_per_key"]
            counts = [f"{row['keys']['keys_caught']:,}", "–" if alarms is None else f"{alarms:.3g}"]
        table.add_row(f"{row['threshold']:.6g}{mark}", reviews, f"{row['caught']:,}", *shares, *money, *counts)
    console.print(table)


def print_metrics(report: Mapping[str, Any]) -> None:
    """Print the main metrics of TSA and, if it was trained, of LightGBM, with their confidence intervals."""
    from tsa.evaluation.report.formatting import operating_point
    from tsa.evaluation.report.warnings import warnings_of

    evaluation, comparison = report["evaluation"], report.get("comparison")
    columns = {"TSA": evaluation, **({comparison["model_name"]: comparison["evaluation"]} if comparison else {})}
    table = Table(
        "metric",
        *columns,
        title=f"{evaluation['n']:,} {report.get('called') or 'test payments'}, {evaluation['frauds']:,} frauds",
    )
    for name, label in SHOWN.items():
        k = evaluation["settings"]["top_k"]
        table.add_row(label.format(k=k), *(cell(column["metrics"].get(name)) for column in columns.values()))
    console.print(table)
    if parts := report.get("parts"):
        print_line(parts["summary"])
    if comparison:
        print_line(comparison["summary"])
    if sentence := operating_point(evaluation, comparison):
        print_line(sentence)
    for warning in warnings_of(report):
        print_line(f"warning: {warning}")


def cell(metric: Mapping[str, Any] | None) -> str:
    """The value of a metric with its interval."""
    if not metric or metric["value"] is None:
        return "–"
    interval = "" if metric["low"] is None else f"  [{metric['low']:.3f}, {metric['high']:.3f}]"
    return f"{metric['value']:.3f}{interval}"
