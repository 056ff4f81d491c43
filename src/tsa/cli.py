"""The command line: parse, call, print. Nothing is computed here.

Exit codes: 0; 2 for bad usage or input (one paragraph, no traceback); 1 for a bug.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from tsa.errors import ConfigError, TSAError

if TYPE_CHECKING:
    from tsa.progress import Advance
    from tsa.schema import Market

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Find fraud in payments with Temporal Self-Attention: from a log to an honest report, a bundle and scores.",
    epilog="A first try: tsa simulate --out log.parquet, then tsa run --market markets/demo.toml log.parquet --out run",
)
console = Console()
errors = Console(stderr=True)
logger = logging.getLogger("tsa")

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

    with _session(quiet, None) as bars:
        config = SimulationConfig(
            payments=payments, days=days, start=start, fraud_rate=fraud_rate, seed=seed, with_truth=truth
        )
        with bars("simulating", 1) as advance:
            counts = write_simulation(config, out)
            advance(1)
    console.print(f"{out}: {counts['payments']:,} payments, {counts['frauds']:,} frauds")


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
    with _session(quiet, out.with_name(out.name + ".log")) as bars:
        settings = Settings.read(set_, market)
        _print_store(_prepare(settings, logs, out, quarantine, bars))


@app.command()
def train(
    store: Annotated[Path, typer.Argument(help="The store that `tsa prepare` wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    preset: Preset = "default",
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Train a network on a store; write its bundle, the settings and each epoch's metrics."""
    with _session(quiet, out / "train.log") as bars:
        _train(Settings.read(set_), store, out, preset, bars)
    console.print(f"bundle: {out / 'bundle'}")


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
    quiet: Quiet = False,
) -> None:
    """Score the test range of a run, measure it with intervals, write report.html and report.json."""
    from tsa.evaluation.evaluate import evaluate as evaluate_run

    with _session(quiet, run / "evaluate.log") as bars:
        report = evaluate_run(run, segments=segment or [], threshold=threshold, replicates=replicates, progress=bars)
    _print_metrics(report)
    console.print(f"report: {run / 'report.html'}")


@app.command()
def compare(
    run: RunFolder,
    seed: Annotated[int, typer.Option(help="Seed of LightGBM.")] = 0,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    quiet: Quiet = False,
) -> None:
    """Train LightGBM on the same rows with automatic aggregates; say plainly which of the two is better."""
    from tsa.evaluation.evaluate import compare_run, read_report

    with _session(quiet, run / "compare.log") as bars:
        comparison = compare_run(run, seed=seed, replicates=replicates, progress=bars)
    _print_metrics({**read_report(run), "comparison": comparison})


@app.command()
def score(
    bundle: Annotated[Path, typer.Argument(help="A bundle, such as RUN/bundle.", show_default=False)],
    logs: Logs,
    out: Annotated[
        Path, typer.Option("--out", help="Parquet or CSV file for `id` and `raw_score`.", show_default=False)
    ],
    start: Annotated[datetime | None, typer.Option("--from", help="Score payments from this time (UTC) on.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="Score payments before this time (UTC).")] = None,
    quarantine: Quarantine = None,
    quiet: Quiet = False,
) -> None:
    """Score the payments of a log. Histories are taken from the whole log given, so give it the earlier payments too."""
    from tsa.scoring.scorer import Scorer, write_scores

    with _session(quiet, out.with_name(out.name + ".log")) as bars:
        scores = Scorer.load(bundle).score(logs, start=start, end=end, quarantine=quarantine, progress=bars)
        write_scores(scores, out)
    console.print(f"{out}: {len(scores):,} payments")


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
    from tsa.evaluation.evaluate import compare_run, read_report
    from tsa.evaluation.evaluate import evaluate as evaluate_run

    with _session(quiet, out / "run.log") as bars:
        settings = Settings.read(set_, market)
        store = _prepare(settings, logs, out / "store", quarantine, bars)
        _train(settings, store, out, preset, bars)
        evaluate_run(out, progress=bars)
        if comparison:
            compare_run(out, progress=bars)
    _print_metrics(read_report(out))
    console.print(f"report: {out / 'report.html'}")


@dataclass(frozen=True)
class Settings:
    """What `--set` says, sorted by whom it is for."""

    market: Market | None
    training: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, texts: list[str] | None, market: Path | None = None) -> Settings:
        """Parse key=value texts. Keys that begin with `training.` or `model.` are settings of those, all others the market's."""
        from tsa.schema import Market
        from tsa.toml import parse_override

        others: list[str] = []
        parsed: dict[str, dict[str, Any]] = {"training": {}, "model": {}}
        for text in texts or []:
            parts, value = parse_override(text)
            if parts[0] in parsed and len(parts) == 2:
                parsed[parts[0]][parts[1]] = value
            else:
                others.append(text)
        if others and market is None:
            raise ConfigError(
                f"this command takes training.KEY and model.KEY settings only, however: {', '.join(others)}"
            )
        return cls(Market.load(market, others) if market else None, **parsed)


def _prepare(settings: Settings, logs: list[str], out: Path, quarantine: Path | None, bars: BarsFactory) -> Any:
    from tsa.data.store import prepare

    assert settings.market is not None
    with bars("preparing", 1) as advance:
        store = prepare(settings.market, logs, out, quarantine=quarantine)
        advance(1)
    return store


def _train(settings: Settings, store: Any, out: Path, preset: str, bars: BarsFactory) -> None:
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
        console.print(comparison["plain"])


def _cell(metric: Mapping[str, Any] | None) -> str:
    if not metric or metric["value"] is None:
        return "–"
    interval = "" if metric["low"] is None else f"  [{metric['low']:.3f}, {metric['high']:.3f}]"
    return f"{metric['value']:.3f}{interval}"


BarsFactory = Callable[[str, int], Any]


@contextmanager
def _session(quiet: bool, log: Path | None) -> Iterator[BarsFactory]:
    """Log to a file and the terminal, draw bars for what takes long."""
    logger.setLevel(logging.INFO)
    handlers: list[logging.Handler] = []
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log, mode="a"))
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as bars:

        @contextmanager
        def bar(what: str, total: int) -> Iterator[Advance]:
            logger.info("%s", what)
            task = bars.add_task(what, total=total if total > 1 else None)
            yield lambda done: bars.advance(task, done)
            bars.remove_task(task)

        for handler in handlers:
            logger.addHandler(handler)
        try:
            yield bar
        finally:
            for handler in handlers:
                logger.removeHandler(handler)
                handler.close()


def main() -> None:
    """Run the command line; errors that TSA raises on purpose become one paragraph and exit code 2."""
    try:
        app()
    except TSAError as error:
        errors.print(f"[bold red]error:[/] {type(error).__name__}:", end=" ")
        errors.print(str(error), markup=False, highlight=False)
        sys.exit(2)
