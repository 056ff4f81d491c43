"""The `tsa tune` command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import Executor, Preset, Quiet, RayAddress, Sets, app, cluster_of, need_ray
from tsa.cli.console import command_session, errors, logger, print_line
from tsa.cli.terminal.results import remains, result
from tsa.config.overrides import Overrides
from tsa.errors import TrainingStopped
from tsa.files.outputs import check_outputs


@app.command()
def tune(
    store: Annotated[Path, typer.Argument(help="The store that `tsa prepare` wrote, or its URL.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder of the search; an interrupted search continues. [default: STORE-tuned]",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Total number of trials, including those before an interruption.")] = 20,
    space: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with the search space: [training] and [model], ranges and lists.", show_default=False
        ),
    ] = None,
    preset: Preset = "default",
    seed: Annotated[int, typer.Option(help="Seed of the search; the seed of the trainings is training.seed.")] = 0,
    round_: Annotated[
        int,
        typer.Option(
            "--round",
            min=1,
            help="How many trials are chosen at a time, from the results of the rounds before; those of a round are trained "
            "at the same time by --executor ray.",
        ),
    ] = 1,
    executor: Annotated[
        Executor,
        typer.Option(
            help="Who trains: local, this process; ray, the workers of a Ray cluster, a trial each, whose nodes must see the "
            "store and the folder."
        ),
    ] = Executor.LOCAL,
    ray_address: RayAddress = None,
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Tune hyperparameters: train many times and write the settings that are best on the validation range to
    OUT/best.toml.

    The first trial uses the settings unchanged. Then: tsa train STORE --settings OUT/best.toml --out RUN
    """
    out = out or store.with_name(f"{store.resolve().name}-tuned")
    check_outputs([store, space], files={"--out, best.toml": out / "best.toml"}, into={"--out": out})
    from tsa.data.store.store import EventStore
    from tsa.tuning.search import Search
    from tsa.tuning.space import DEFAULT, Space
    from tsa.tuning.tune import tune as search

    need_ray(executor, ray_address)
    given = Overrides.read(set_)
    fixed = {f"training.{name}": value for name, value in given.training.items()}
    fixed |= {f"model.{name}": value for name, value in given.model.items()}
    what = Search(
        store=EventStore.open(store),
        preset=preset,
        fixed=fixed,
        space=Space.read(space or DEFAULT),
        seed=seed,
        round=round_,
    )
    remains(f"finished trials stay in {out}; the same command continues the search")
    try:
        with command_session(quiet, out / "tune.log") as bars, cluster_of(executor, ray_address) as cluster:
            if cluster is not None and round_ == 1:
                logger.warning("trials are trained one after another: --round 8, for example, trains 8 at a time")
            best = search(what, out, trials=trials, cluster=cluster, progress=bars)
    except TrainingStopped as stopped:
        print_line(f"note: {stopped}; the same command continues the search", errors)
        raise SystemExit(128 + stopped.signal_number) from None
    result({"out": str(out), **asdict(best)})
    print_line(f"best of {best.tried} trials: number {best.trial}, {best.metric} {best.value:.4f}")
    print_line(f"settings: {out / 'best.toml'}")
