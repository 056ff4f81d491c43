"""The command `tsa backtest`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import (
    AmountColumn,
    CostFraud,
    CostReview,
    Executor,
    Preset,
    Quarantine,
    QuarantineLimit,
    Quiet,
    RayAddress,
    Recovered,
    Sets,
    SettingsFile,
    app,
    cluster_of,
    need_ray,
    quarantine_of,
)
from tsa.cli.console import command_session, console, errors, print_line
from tsa.cli.terminal.results import remains, result
from tsa.config.overrides import Overrides
from tsa.errors import ConfigError, TrainingStopped
from tsa.files.outputs import check_outputs

if TYPE_CHECKING:
    from tsa.backtest.plan import BacktestSchedule
    from tsa.data.log.quarantine import Quarantine as Quarantined
    from tsa.data.store.store import EventStore
    from tsa.progress import Progress

FRACTIONS = "split.fractions=[0.55, 0.15, 0.15, 0.15]"
"""The ranges of the store that is prepared for a log; the folds have their own."""


@app.command()
def backtest(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE|LOG",
            help="The store that `tsa prepare` wrote, or its URL; or logs, with --market.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    market: Annotated[
        Path | None, typer.Option("--market", "-m", help="For logs: what the columns mean.", show_default=False)
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Train the first model at this time, such as 2025-04-16; UTC. [default: start of the test range]",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Test payments before this time only.", show_default=False)
    ] = None,
    every: Annotated[str, typer.Option(help="Time from one training to the next: 7d, 12h, 4w.")] = "7d",
    train_window: Annotated[str, typer.Option(help="How far back each model learns from: 60d, or all.")] = "all",
    test: Annotated[str, typer.Option(help="How long each model is tested.")] = "7d",
    validation: Annotated[
        str | None,
        typer.Option(help="Length of the validation range. [default: its share in the market]", show_default=False),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Length of the calibration range. [default: its share in the market]", show_default=False),
    ] = None,
    comparison: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Also train LightGBM in each fold.")
    ] = True,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Also train each model again on all known outcomes, and report what that brings."),
    ] = False,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Start each network from the weights of the fold before. Trees are always trained from scratch.",
        ),
    ] = False,
    max_age: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Also test each model on up to this many later test ranges, to show how it ages. [default: all]",
            show_default=False,
        ),
    ] = None,
    cost_review: CostReview = 5.0,
    review_capacity: Annotated[
        int | None, typer.Option(help="Reviews per day that the team can do.", show_default=False)
    ] = None,
    amount_column: AmountColumn = None,
    cost_fraud: CostFraud = None,
    recovered: Recovered = 1.0,
    workers: Annotated[
        int, typer.Option(min=1, help="How many folds are trained at the same time, each in its own process.")
    ] = 1,
    executor: Annotated[
        Executor,
        typer.Option(
            help="Who trains the folds: local, this machine; ray, the workers of a Ray cluster, whose nodes must see the store "
            "and the folder."
        ),
    ] = Executor.LOCAL,
    ray_address: RayAddress = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    preset: Preset = "default",
    settings_file: SettingsFile = None,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: Sets = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted backtest.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the backtest in the folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train again and again, as on past dates, and test each model on the payments that followed.

    A fold is one of these dates. Its model knows what was known then: vocabularies, trees, network, calibration and
    thresholds come from payments whose outcomes were known by then. Writes OUT/backtest.html and backtest.json; an interrupted
    backtest continues with --resume.
    """
    from tsa.backtest import BacktestSettings
    from tsa.backtest import backtest as run_backtest
    from tsa.evaluation.daily_queue import Costs
    from tsa.training import TrainingConfig

    check_outputs([*logs, market, settings_file], files={"--quarantine": quarantine}, into={"--out": out})
    given = Overrides.read(set_, market, file=settings_file)
    settings = BacktestSettings(
        preset=preset,
        model=given.model,
        training=TrainingConfig.make(given.training),
        costs=Costs(review=cost_review, capacity=review_capacity, fraud=cost_fraud, recovered=recovered),
        amount_column=amount_column,
        baseline=comparison,
        refit=refit,
        warm_start=warm_start,
        max_age=max_age,
        replicates=replicates,
    )
    need_ray(executor, ray_address)
    remains(f"finished folds stay in {out}; the same command with --resume continues")
    schedule = schedule_of(start, end, every, train_window, test, validation, calibration)
    try:
        with command_session(quiet, out / "backtest.log") as bars, cluster_of(executor, ray_address) as cluster:
            store, schedule = _store_of(
                logs, given, schedule, out, quarantine_of(quarantine, quarantine_limit), bars, resume=resume
            )
            measured = run_backtest(
                store,
                out,
                schedule=schedule,
                settings=settings,
                workers=workers,
                cluster=cluster,
                resume=resume,
                overwrite=overwrite,
                progress=bars,
                on_fold=None if quiet else _print_fold,
            )
    except TrainingStopped as stopped:
        print_line(f"note: {stopped}", errors)
        raise SystemExit(128 + stopped.signal_number) from None
    result(measured)
    print_backtest(measured)
    print_line(f"page: {out / 'backtest.html'}")


def schedule_of(
    start: str | None,
    end: str | None,
    every: str,
    train_window: str,
    test: str,
    validation: str | None,
    calibration: str | None,
) -> BacktestSchedule:
    """The schedule of the options. Raises ConfigError for an invalid time or duration."""
    from tsa.backtest.durations import duration_seconds
    from tsa.backtest.plan import BacktestSchedule
    from tsa.data.time_range import epoch_seconds

    def length(name: str, text: str | None) -> float | None:
        return None if text is None else duration_seconds(name, text)

    return BacktestSchedule(
        start=None if start is None else epoch_seconds("--from", start, 0.0),
        end=None if end is None else epoch_seconds("--to", end, 0.0),
        every=duration_seconds("--every", every),
        window=None if train_window == "all" else duration_seconds("--train-window", train_window),
        test=duration_seconds("--test", test),
        validation=length("--validation", validation),
        calibration=length("--calibration", calibration),
    )


def _store_of(
    logs: list[str],
    given: Overrides,
    schedule: BacktestSchedule,
    out: Path,
    quarantine: Quarantined | None,
    bars: Progress,
    *,
    resume: bool,
) -> tuple[EventStore, BacktestSchedule]:
    """The store of the payments: the one that was given, or one that is prepared in the folder."""
    from tsa.backtest.plan import completed
    from tsa.data.store.manifest import MANIFEST
    from tsa.data.store.object_store import is_store
    from tsa.data.store.prepare import prepare
    from tsa.data.store.store import EventStore

    if len(logs) == 1 and is_store(logs[0]):
        if given.market is not None:
            raise ConfigError(f"--market must go with logs (got the store {logs[0]}, which has its market)")
        return EventStore.open(logs[0]), schedule
    if given.market is None:
        raise ConfigError(f"logs need --market (got {', '.join(logs)}, which is no store)")
    schedule = completed(given.market, schedule)
    market, folder = given.market.override([FRACTIONS]), out / "store"
    if resume and (folder / MANIFEST).is_file():
        return EventStore.open(folder, market), schedule
    with bars("preparing", 1):
        return prepare(market, logs, folder, quarantine=quarantine, progress=bars), schedule


def _print_fold(fold: Mapping[str, Any]) -> None:
    """A line for a fold that has ended, on a terminal."""
    if not errors.is_terminal:
        return
    if "skipped" in fold:
        print_line(f"{fold['name']}: left out: {fold['skipped']}", errors)
        return
    own = fold["models"]["model"]["metrics"]["average_precision"]["value"]
    shown = "–" if own is None else f"{own:.3f}"
    print_line(f"{fold['name']}: average precision {shown} in {fold['seconds']:,.0f} s", errors)


def print_backtest(result: Mapping[str, Any]) -> None:
    """Print a row for each fold, the means, and what follows from them."""
    from tsa.backtest.sentences import sentences_of
    from tsa.backtest.settings import NAMES

    summary = result["summary"]
    names = list(summary["models"])
    table = Table(title=f"{summary['folds']} folds, average precision with 95 % intervals", box=SIMPLE_HEAD, padding=0)
    table.add_column("trained on", overflow="fold")
    columns = [NAMES[name] for name in names]
    for column in ("payments", "frauds", *columns, "difference", "expected / observed", "net"):
        table.add_column(column, justify="right", overflow="fold")
    for fold in result["folds"]:
        if "skipped" not in fold:
            table.add_row(*_fold_row(fold, names))
    table.add_section()
    table.add_row("mean", "", "", *(_mean(summary["models"][name]) for name in names), *_totals(summary, names))
    console.print(table)
    for sentence in sentences_of(result):
        print_line(sentence)


def _fold_row(fold: Mapping[str, Any], names: list[str]) -> list[str]:
    from tsa.cli.terminal.metric_tables import cell

    models, own = fold["models"], fold["models"]["model"]
    difference = next((fold["differences"][name] for name in names[1:] if name in fold["differences"]), None)
    calibrated, money = own["calibration"]["metrics"], own["money"]
    ratio = None if not calibrated else calibrated["ratio"]["value"]
    return [
        fold["name"],
        f"{own['n']:,}",
        f"{own['frauds']:,}",
        *(cell(models[name]["metrics"]["average_precision"]) if name in models else "–" for name in names),
        "–" if not difference else _signed(difference["average_precision"]["difference"]),
        "–" if ratio is None else f"{ratio:.2f}",
        _amount(None if money is None else money["test"]["net"]),
    ]


def _mean(model: Mapping[str, Any]) -> str:
    one = model["metrics"]["average_precision"]
    if one["mean"] is None:
        return "–"
    return f"{one['mean']:.3f}" + ("" if one["deviation"] is None else f" ± {one['deviation']:.3f}")


def _totals(summary: Mapping[str, Any], names: list[str]) -> list[str]:
    difference = summary["differences"].get(names[1])["average_precision"]["mean"] if len(names) > 1 else None
    own = summary["models"]["model"]
    ratio = own["calibration"]["ratio"]["mean"]
    net = None if own["money"] is None else own["money"]["net"]
    return [_signed(difference), "–" if ratio is None else f"{ratio:.2f}", _amount(net)]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _amount(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
