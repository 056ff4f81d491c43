"""Commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsa.cli.app import Logs, MarketFile, Preset, Quarantine, Quiet, Sets, app
from tsa.cli.data import prepare_store
from tsa.cli.evaluation import print_metrics
from tsa.settings import Settings
from tsa.terminal import say, session

if TYPE_CHECKING:
    from tsa.progress import Progress


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
        train_run(settings, events, out, preset, bars)
    say(f"bundle: {out / 'bundle'}")


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
        store = prepare_store(settings, logs, out / "store", quarantine, bars)
        train_run(settings, store, out, preset, bars)
        evaluate_run(out, progress=bars)
        if comparison:
            compare_run(out, progress=bars)
    print_metrics(read_report(out))
    say(f"report: {out / 'report.html'}")


def train_run(settings: Settings, store: Any, out: Path, preset: str, bars: Progress) -> None:
    """Train on a store with the settings given on the command line."""
    from tsa.training import TrainingConfig, train

    training = TrainingConfig.make(settings.training)
    train(store, out, preset=preset, model=settings.model, training=training, progress=bars)
