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
    """Print the main metrics of TSA and, if it was trained, of LightGBM, with their confidence intervals.

    A second table has the parts of the model alone, and the difference of the model to each of them and to LightGBM.
    """
    from tsa.evaluation.report.sections import model_parts
    from tsa.evaluation.report.sentences import operating_point
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
    if parts := model_parts(report.get("parts"), comparison):
        console.print(parts_table(parts))
        print_line(parts["summary"])
    if comparison:
        print_line(comparison["summary"])
    if sentence := operating_point(evaluation, comparison):
        print_line(sentence)
    for warning in warnings_of(report):
        print_line(f"warning: {warning}")


def parts_table(parts: Mapping[str, Any]) -> Table:
    """A row for the model, each of its parts and LightGBM, as `model_parts` lists them."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("scores of", no_wrap=True)
    for metric in parts["metrics"]:
        table.add_column(metric)
        table.add_column("model minus it")
    for at, row in enumerate(parts["rows"]):
        cells: list[str] = []
        for one in row["cells"]:
            cells.append("–" if one["value"] is None else f"{one['value']:.3f}")
            difference = one["difference"] or {"value": "", "interval": ""}
            interval = f" [{difference['interval'].replace(' to ', ', ')}]" if difference["interval"] else ""
            cells.append(f"{difference['value']}{interval}")
        table.add_row(row["name"] if at else "the model", *cells)
    return table


def cell(metric: Mapping[str, Any] | None) -> str:
    """The value of a metric with its interval."""
    if not metric or metric["value"] is None:
        return "–"
    interval = "" if metric["low"] is None else f"  [{metric['low']:.3f}, {metric['high']:.3f}]"
    return f"{metric['value']:.3f}{interval}"
