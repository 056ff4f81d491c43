"""Commands that measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import EvaluationSets, Quiet, RunFolder, app
from tsa.errors import ConfigError
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
    from tsa.evaluation.evaluate import evaluate as evaluate_run
    from tsa.evaluation.run import Run

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
    from tsa.evaluation.evaluate import compare_run, read_report
    from tsa.evaluation.run import Run

    opened = Run.open(run, set_ or ())
    with session(quiet, run / "compare.log") as bars:
        comparison = compare_run(opened, seed=seed, replicates=replicates, progress=bars)
    print_metrics({**read_report(run), "comparison": comparison})


@app.command()
def thresholds(
    run: RunFolder,
    cost_review: Annotated[float, typer.Option(help="What one review costs, in the unit of the amounts.")] = 5.0,
    review_capacity: Annotated[
        int | None, typer.Option(help="Reviews a day the team can do; default: as many as pay.", show_default=False)
    ] = None,
    amount_column: Annotated[
        str | None,
        typer.Option(help="What is lost where a fraud is missed; default: the market's amount.", show_default=False),
    ] = None,
    cost_fraud: Annotated[
        float | None,
        typer.Option(help="A fixed loss of a missed fraud in place of its amount.", show_default=False),
    ] = None,
    recovered: Annotated[float, typer.Option(help="The share of the loss that a review saves.")] = 1.0,
    save: Annotated[
        bool,
        typer.Option("--save", help="Write the best threshold into the bundle: from it on, the decision is review."),
    ] = False,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the interval.")] = 200,
    set_: EvaluationSets = None,
    quiet: Quiet = False,
) -> None:
    """Which payments to review: what each threshold catches, costs and saves on the test range, and the best one.

    Each day the team looks into the flagged payments, the riskiest first, until its capacity is used up. Writes
    thresholds.html and thresholds.json beside the report; the run must be evaluated first.
    """
    from tsa.evaluation.run import Run
    from tsa.evaluation.threshold_page import thresholds as choose
    from tsa.evaluation.thresholds import Costs

    costs = Costs(review=cost_review, capacity=review_capacity, fraud=cost_fraud, recovered=recovered)
    opened = Run.open(run, set_ or ())
    with session(quiet, run / "thresholds.log"):
        found = choose(opened, costs, amount_column=amount_column, replicates=replicates)
    print_thresholds(found)
    say(found["plain"])
    if save:
        save_best(run / "bundle", found["best"])
    say(f"page: {run / 'thresholds.html'}")


def save_best(bundle: Path, best: Mapping[str, Any] | None) -> None:
    """The best threshold as the bundle's decision; ConfigError where nothing pays."""
    from tsa.scoring.deciding import decide_bundle

    if best is None:
        raise ConfigError("--save needs a best threshold, however: no review pays at these costs")
    decide_bundle(bundle, [f"review={best['threshold']!r}"], score="raw_score")
    say(f"{bundle}: review from a raw score of {best['threshold']:.6g} on")


def print_thresholds(found: Mapping[str, Any]) -> None:
    """The table: a row per threshold, the best one marked."""
    marked = "; * the best" if found["best"] else ""
    title = f"{found['n']:,} test payments of {found['days']:,} days, {found['frauds']:,} frauds{marked}"
    names = ("threshold", "per day", "caught", "recall", "precision", "cost", "saved", "net")
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    best = (found["best"] or {}).get("threshold")
    for row in found["rows"]:
        mark = " *" if row["threshold"] == best else ""
        shares = ("–" if row[name] is None else f"{row[name]:.1%}" for name in ("recall", "precision"))
        money = ("–" if row[name] is None else f"{row[name]:,.0f}" for name in ("cost", "saved", "net"))
        reviews = f"{row['reviewed_per_day']:,.1f}"
        table.add_row(f"{row['threshold']:.6g}{mark}", reviews, f"{row['caught']:,}", *shares, *money)
    console.print(table)


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
