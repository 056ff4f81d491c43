"""Commands that measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from tsa.cli.app import EvaluationSets, Quiet, RunFolder, app
from tsa.terminal import console, say, session


@app.command()
def evaluate(
    run: RunFolder,
    segment: Annotated[
        list[str] | None, typer.Option(help="A column to break the figures down by. Repeatable.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Raw score from which a payment counts as flagged; default: best F1 on validation."),
    ] = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    set_: EvaluationSets = None,
    quiet: Quiet = False,
) -> None:
    """Score the test range of a run, measure it with intervals, write report.html and report.json."""
    from tsa.evaluation.evaluate import Run
    from tsa.evaluation.evaluate import evaluate as evaluate_run

    opened = Run.open(run, set_ or ())
    with session(quiet, run / "evaluate.log") as bars:
        report = evaluate_run(opened, segments=segment or [], threshold=threshold, replicates=replicates, progress=bars)
    print_metrics(report)
    say(f"report: {run / 'report.html'}")


@app.command()
def compare(
    run: RunFolder,
    seed: Annotated[int, typer.Option(help="Seed of LightGBM.")] = 0,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    set_: EvaluationSets = None,
    quiet: Quiet = False,
) -> None:
    """Train LightGBM on the same rows with automatic aggregates; say plainly which of the two is better."""
    from tsa.evaluation.evaluate import Run, compare_run, read_report

    opened = Run.open(run, set_ or ())
    with session(quiet, run / "compare.log") as bars:
        comparison = compare_run(opened, seed=seed, replicates=replicates, progress=bars)
    print_metrics({**read_report(run), "comparison": comparison})


SHOWN = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "precision_at_k": "precision@{k} per day",
    "recall_at_fpr_0.01": "recall at 1 % false positives",
}


def print_metrics(report: Mapping[str, Any]) -> None:
    """The short table: TSA, and LightGBM beside it where it was trained, each with its interval."""
    evaluation, comparison = report["evaluation"], report.get("comparison")
    columns = {"TSA": evaluation, **({comparison["model_name"]: comparison["evaluation"]} if comparison else {})}
    table = Table("metric", *columns, title=f"{evaluation['n']:,} test payments, {evaluation['frauds']:,} frauds")
    for name, label in SHOWN.items():
        k = report["market"]["evaluation"]["top_k"]
        table.add_row(label.format(k=k), *(_cell(found["metrics"].get(name)) for found in columns.values()))
    console.print(table)
    if comparison:
        say(comparison["plain"])


def _cell(metric: Mapping[str, Any] | None) -> str:
    if not metric or metric["value"] is None:
        return "–"
    interval = "" if metric["low"] is None else f"  [{metric['low']:.3f}, {metric['high']:.3f}]"
    return f"{metric['value']:.3f}{interval}"
