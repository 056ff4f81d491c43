"""The commands `tsa train` and `tsa run`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tsa.cli.app import (
    Executor,
    Logs,
    MarketFile,
    Preset,
    Quarantine,
    QuarantineLimit,
    Quiet,
    RayAddress,
    Sets,
    SettingsFile,
    app,
    need_ray,
    quarantine_of,
)
from tsa.cli.console import errors, logger, print_line
from tsa.cli.data import prepare_store
from tsa.cli.terminal.epoch_table import epoch_table
from tsa.cli.terminal.metric_tables import print_metrics
from tsa.cli.terminal.results import remains, result
from tsa.cli.training.by_ray import TrainCommand, place_of, train_by_ray
from tsa.cli.training.seeds import refuse_seeds, train_seeds
from tsa.cli.training.session import check_run, distributed_session, left_of_run, print_outlook, train_run
from tsa.config.overrides import Overrides
from tsa.errors import ConfigError

NOT_MEASURED = (
    "it learned from all known outcomes, so it cannot be measured yet; measure refitting with tsa backtest --refit"
)

AFTER_TRAINING = {True: 0.35, False: 0.15}
"""Share of the time that is left for evaluation, with a comparison and without."""

Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the last valid checkpoint in the run folder, if there is one.")
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        help="Time limit of the command: it trains as many epochs as fit and uses the best.",
        show_default=False,
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        "--seeds",
        min=1,
        help="Number of seeds to train with. Reports their spread, and uses the best on the validation range.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished run in the run folder.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    store: Annotated[
        Path | None,
        typer.Argument(
            help="The store that `tsa prepare` wrote, or its URL. With --refit it can be left out: the run's store is then used.",
            show_default=False,
        ),
    ] = None,
    refit: Annotated[
        Path | None,
        typer.Option(
            "--refit",
            help="Train this finished run again, with its settings and epochs, on all known outcomes.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="With --refit: learn from outcomes known by this time; UTC. [default: start of the test range]",
            show_default=False,
        ),
    ] = None,
    preset: Preset = "default",
    settings_file: SettingsFile = None,
    set_: Sets = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    minutes: Minutes = None,
    executor: Annotated[
        Executor,
        typer.Option(
            help="Who trains: local, this process, or those of torchrun; ray, --workers processes of a Ray cluster, whose nodes "
            "must see the store and the run folder."
        ),
    ] = Executor.LOCAL,
    workers: Annotated[
        int, typer.Option(min=1, help="With --executor ray: the number of processes, with a processor each.")
    ] = 1,
    ray_address: RayAddress = None,
    quiet: Quiet = False,
) -> None:
    """Train a model on a store; write its bundle, the settings and each epoch's metrics.

    Several processes: torchrun --nproc-per-node 2 -m tsa train STORE --out RUN, or --executor ray --workers 2. At SIGTERM
    it saves a checkpoint and exits with code 143; the same command with --resume continues.
    """
    began = time.monotonic()  # imports take seconds
    from tsa.data.store.store import EventStore
    from tsa.training import TimeLimit
    from tsa.training import train as train_on

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite cannot be given together: give one of them")
    need_ray(executor, ray_address)
    if executor is Executor.LOCAL and workers > 1:
        raise ConfigError(
            f"--workers needs --executor ray (got {workers} alone): on one machine, start it with torchrun"
        )
    if refit is not None:
        chosen = {"--set": set_, "--settings": settings_file, "--minutes": minutes}
        _refuse_chosen({**chosen, "--preset": None if preset == "default" else preset})
    elif until is not None:
        raise ConfigError(f"--until needs --refit RUN (got --until {until} alone): give the finished run")
    elif store is None:
        raise ConfigError("tsa train needs a store (got none): give the folder that tsa prepare wrote, or --refit RUN")
    limit = None if minutes is None else TimeLimit(minutes=minutes, began=began)
    settings = Overrides.read(set_, file=settings_file)
    if executor is Executor.RAY:
        check_run(out, [store, settings_file, refit], store=refit is not None)
        remains(lambda: left_of_run(out))
        training = TrainCommand(
            store=place_of(store),
            out=out,
            settings=settings,
            preset=preset,
            refit=refit,
            until=until,
            minutes=minutes,
            began=began,
            resume=resume,
            overwrite=overwrite,
        )
        train_by_ray(training, workers, ray_address, quiet=quiet)
        _report(out)
        return
    if refit is not None:
        _refit(refit, store, out, until, resume=resume, overwrite=overwrite, quiet=quiet)
        return
    assert store is not None
    check_run(out, [store, settings_file])
    remains(lambda: left_of_run(out))
    with distributed_session(settings, out, "train.log", resume=resume, overwrite=overwrite, quiet=quiet) as (
        processes,
        bars,
    ):
        shown = processes.is_main and not quiet
        train_run(
            settings,
            EventStore.open(store),
            out,
            preset,
            bars,
            resume=resume,
            overwrite=overwrite,
            shown=shown,
            train=train_on,
            limit=limit,
        )
    if processes.is_main:
        _report(out)


def _report(out: Path) -> None:
    """Print what a finished run has."""
    from tsa.training.run_folder import read_run_metadata

    result({"out": str(out), "bundle": str(out / "bundle"), **read_run_metadata(out)})
    print_outlook(out)
    print_line(f"bundle: {out / 'bundle'}")


def _refuse_chosen(options: Mapping[str, object]) -> None:
    """Refuse settings where those of a run are used."""
    if given := [name for name, value in options.items() if value]:
        raise ConfigError(f"--refit uses the settings of the run, so {', '.join(given)} must be left out")


def _refit(
    run: Path, store: Path | None, out: Path, until: str | None, *, resume: bool, overwrite: bool, quiet: bool
) -> None:
    """Train a finished run again on all outcomes that are known."""
    from tsa.training.refitting import Recipe
    from tsa.training.refitting import refit as train_again

    check_run(out, [run, store], store=True)
    recipe = Recipe.of(run)
    settings = Overrides(None, training=recipe.training.model_dump())
    with distributed_session(settings, out, "train.log", resume=resume, overwrite=overwrite, quiet=quiet) as (
        processes,
        bars,
    ):
        shown = processes.is_main and not quiet and errors.is_terminal
        trained = train_again(
            run,
            out,
            store=store,
            until=until,
            progress=bars,
            resume=resume,
            overwrite=overwrite,
            on_epoch=epoch_table(errors) if shown else None,
        )
    if processes.is_main:
        later = len(trained.store.labelled("test"))
        print_line(f"it can be measured on {later:,} later payments: tsa evaluate {out}" if later else NOT_MEASURED)
        print_line(f"bundle: {out / 'bundle'}")


@app.command()
def run(
    logs: Logs,
    market: MarketFile,
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.", show_default=False)],
    preset: Preset = "default",
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    comparison: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Also train LightGBM for comparison.")
    ] = True,
    settings_file: SettingsFile = None,
    set_: Sets = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    minutes: Minutes = None,
    seeds: Seeds = 1,
    quiet: Quiet = False,
) -> None:
    """Run the complete job: prepare, train, evaluate, compare. Prints a table of metrics and the path of the report.

    With --resume the store in the run folder is used as it is, and training continues from its last checkpoint. With --seeds
    the run of each seed is in the folder seeds.
    """
    began = time.monotonic()  # imports take seconds
    from tsa.data.store.store import EventStore
    from tsa.evaluation.baseline.lightgbm import not_comparable
    from tsa.training import TimeLimit
    from tsa.training.evaluate_and_bundle import measure_trained
    from tsa.training.train_model import train_network

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite cannot be given together: give one of them")
    after = AFTER_TRAINING[comparison]
    limit = None if minutes is None else TimeLimit(minutes=minutes, after=after, began=began)
    quarantined = quarantine_of(quarantine, quarantine_limit)
    check_run(out, [*logs, market, settings_file], store=True, quarantine=quarantine)
    settings = Overrides.read(set_, market, file=settings_file)
    remains(lambda: left_of_run(out))
    with distributed_session(settings, out, "run.log", resume=resume, overwrite=overwrite, quiet=quiet) as (
        processes,
        bars,
    ):
        if seeds > 1 and not resume and processes.is_main:
            refuse_seeds(out, settings, seeds, overwrite=overwrite)
        missing = processes.is_main and not (resume and (out / "store").exists())
        work = partial(prepare_store, settings, logs, out / "store", quarantined, bars)
        made = processes.run_then_barrier("store", work if missing else None)
        store = EventStore.open(out / "store", settings.market) if made is None else made
        if comparison and (reason := not_comparable(store)) is not None:
            logger.warning("there is no comparison with LightGBM: %s", reason)
            comparison = False
        shown = processes.is_main and not quiet
        given: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "shown": shown}
        trained: Any = None
        if seeds > 1:
            folders = train_seeds(settings, seeds, store, out, preset, bars, limit=limit, **given)
            from tsa.tuning.best_of_seeds import best_of_seeds

            if processes.is_main:
                trained = best_of_seeds(out, store, folders, progress=bars)
        else:
            trained = train_run(settings, store, out, preset, bars, train=train_network, limit=limit, **given)
        report = {}
        if processes.is_main:
            report = measure_trained(trained, comparison=comparison, limit=limit, progress=bars)
    if processes.is_main:
        result({"out": str(out), "bundle": str(out / "bundle"), "report": report})
        print_metrics(report)
        print_outlook(out)
        print_line(f"report: {out / 'report.html'}")
