"""The command line: parse, call, print. Nothing is computed here.

Exit codes: 0; 2 for bad usage or input (one paragraph, no traceback); 1 for a bug; 130 when interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Table

from tsa.errors import TSAError
from tsa.settings import Settings
from tsa.terminal import INTERRUPTED, console, errors, say, session

if TYPE_CHECKING:
    from tsa.progress import Progress

REFUSED = 2

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Find fraud in payments with Temporal Self-Attention: from a log to an honest report, a bundle and scores.",
    epilog="A first try: tsa simulate --out log.parquet, then tsa run --market markets/demo.toml log.parquet --out run",
)

Logs = Annotated[
    list[str],
    typer.Argument(help="Parquet, CSV, TSV or JSON lines files (.gz too), globs or URLs.", show_default=False),
]
MarketFile = Annotated[
    Path, typer.Option("--market", "-m", help="The market file: what the columns mean.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="key=value over the market file, or training.KEY / model.KEY. Repeatable.", show_default=False
    ),
]
EvaluationSets = Annotated[
    list[str] | None,
    typer.Option("--set", help="evaluation.KEY=value over the run's market. Repeatable.", show_default=False),
]
MarketSets = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the bundle's market. Repeatable.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no notes; results and errors only.")]
Quarantine = Annotated[
    Path | None, typer.Option(help="Set bad rows aside in this Parquet file, with the reason, instead of refusing.")
]
Preset = Annotated[str, typer.Option(help="The network: default, reference or reference-two-history.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder that `tsa train` or `tsa run` wrote.", show_default=False)]


@app.command()
def simulate(
    out: Annotated[Path, typer.Option("--out", help="Where to write; the suffix says the format.", show_default=False)],
    payments: Annotated[int, typer.Option(help="How many payments.")] = 200_000,
    days: Annotated[int, typer.Option(help="Over how many days.")] = 120,
    start: Annotated[str, typer.Option(help="The first day.")] = "2025-01-01",
    fraud_rate: Annotated[float, typer.Option(help="Share of payments that are fraud.")] = 0.009,
    seed: Annotated[int, typer.Option(help="Same seed and size, same file.")] = 0,
    truth: Annotated[bool, typer.Option("--truth", help="Add the kind of each fraud as a column.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make a log of payments with several kinds of fraud, for trying things out. No substitute for real data."""
    from tsa.data.simulate import SimulationConfig, write_simulation

    with session(quiet, _beside(out)) as bars:
        config = SimulationConfig(
            payments=payments, days=days, start=start, fraud_rate=fraud_rate, seed=seed, with_truth=truth
        )
        with bars("simulating", 1) as advance:
            counts = write_simulation(config, out)
            advance(1)
    say(f"{out}: {counts['payments']:,} payments, {counts['frauds']:,} frauds")


@app.command()
def prepare(
    logs: Logs,
    market: MarketFile,
    out: Annotated[Path, typer.Option("--out", help="The store to write.", show_default=False)],
    quarantine: Quarantine = None,
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Read and check a log, fit the encoder on its training rows, write the event store."""
    settings = Settings.read(set_, market, learns=False)
    with session(quiet, _beside(out)) as bars:
        store = _prepare(settings, logs, out, quarantine, bars)
    _print_store(store)


@app.command()
def train(
    store: Annotated[Path, typer.Argument(help="The store that `tsa prepare` wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    preset: Preset = "default",
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Train a network on a store; write its bundle, the settings and each epoch's metrics."""
    from tsa.data.store import EventStore
    from tsa.training.fit import refuse_foreign

    settings, events = Settings.read(set_), EventStore.open(store)
    refuse_foreign(out)
    with session(quiet, out / "train.log") as bars:
        _train(settings, events, out, preset, bars)
    say(f"bundle: {out / 'bundle'}")


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
    _print_metrics(report)
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
    _print_metrics({**read_report(run), "comparison": comparison})


@app.command()
def score(
    bundle: Annotated[Path, typer.Argument(help="A bundle, such as RUN/bundle.", show_default=False)],
    logs: Logs,
    out: Annotated[
        Path, typer.Option("--out", help="Parquet or CSV file for `id` and `raw_score`.", show_default=False)
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="Score payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Score payments before this time.")] = None,
    quarantine: Quarantine = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Score the payments of a log. Histories are taken from the whole log given, so give it the earlier payments too."""
    from tsa.scoring.scorer import Scorer, write_scores

    scorer = Scorer.load(bundle, set_ or ())
    with session(quiet, _beside(out)) as bars:
        scores = scorer.score(logs, start=start, end=end, quarantine=quarantine, progress=bars)
        write_scores(scores, out)
    say(f"{out}: {len(scores):,} payments")


@app.command()
def run(
    logs: Logs,
    market: MarketFile,
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    preset: Preset = "default",
    quarantine: Quarantine = None,
    comparison: Annotated[bool, typer.Option("--compare/--no-compare", help="Train LightGBM beside it.")] = True,
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """The whole main job: prepare, train, evaluate, compare. Ends with a table and the path of the report."""
    from tsa.evaluation.evaluate import compare_run, need_baseline, read_report
    from tsa.evaluation.evaluate import evaluate as evaluate_run
    from tsa.training.fit import refuse_foreign

    settings = Settings.read(set_, market)
    refuse_foreign(out)
    if comparison:
        need_baseline()
    with session(quiet, out / "run.log") as bars:
        store = _prepare(settings, logs, out / "store", quarantine, bars)
        _train(settings, store, out, preset, bars)
        evaluate_run(out, progress=bars)
        if comparison:
            compare_run(out, progress=bars)
    _print_metrics(read_report(out))
    say(f"report: {out / 'report.html'}")


def _beside(out: Path) -> Path:
    """The log file of what is written to `out`."""
    return out.absolute().parent / f"{out.absolute().name}.log"


def _prepare(settings: Settings, logs: list[str], out: Path, quarantine: Path | None, bars: Progress) -> Any:
    from tsa.data.store import prepare

    assert settings.market is not None
    with bars("preparing", 1):
        return prepare(settings.market, logs, out, quarantine=quarantine, progress=bars)


def _train(settings: Settings, store: Any, out: Path, preset: str, bars: Progress) -> None:
    from tsa.training import TrainingConfig, train

    training = TrainingConfig.make(settings.training)
    train(store, out, preset=preset, model=settings.model, training=training, progress=bars)


def _print_store(store: Any) -> None:
    table = Table("range", "payments", "labelled", "frauds", title=f"store of {len(store):,} payments")
    for name in ("train", "validation", "calibration", "test"):
        rows, labelled = store.split(name), store.labelled(name)
        frauds = int((store.label[labelled] == 1).sum())
        table.add_row(name, f"{rows.stop - rows.start:,}", f"{len(labelled):,}", f"{frauds:,}")
    console.print(table)


SHOWN = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "precision_at_k": "precision@{k} per day",
    "recall_at_fpr_0.01": "recall at 1 % false positives",
}


def _print_metrics(report: Mapping[str, Any]) -> None:
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


def main() -> None:
    """Run the command line. What the user can act on becomes one paragraph and exit code 2; anything else is a bug."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _end_interrupted()
        raise
    except TSAError as error:
        _refuse(f"{type(error).__name__}: {error}")
    except OSError as error:
        path = error.filename2 or error.filename
        if path is None:
            raise
        _refuse(f"{path}: {error.strerror}")


def _end_interrupted() -> NoReturn:
    """End with 130 and nothing else: where the interrupt met code run from C, Python's own end is to kill itself by it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _refuse(text: str) -> NoReturn:
    errors.print("[bold red]error:[/]", end=" ")
    say(text, errors)
    sys.exit(REFUSED)
