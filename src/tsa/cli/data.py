"""The commands `tsa simulate` and `tsa prepare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tsa.cli.app import (
    Executor,
    Quarantine,
    QuarantineLimit,
    Quiet,
    RayAddress,
    Sets,
    app,
    cluster_of,
    log_path_for,
    need_ray,
    quarantine_of,
)
from tsa.cli.console import command_session, console, print_line
from tsa.cli.options import options_of
from tsa.cli.terminal.results import result
from tsa.config.overrides import Overrides
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.workers import HERE, Workers
from tsa.errors import ConfigError
from tsa.files.object_folder import object_url
from tsa.files.outputs import URL, check_outputs, spelled_url
from tsa.simulation.config import SimulationConfig

if TYPE_CHECKING:
    from tsa.progress import Progress


class Format(StrEnum):
    """Output formats of `tsa simulate`."""

    LOG = "log"
    WIRE = "wire"


@app.command()
@options_of(SimulationConfig)
def simulate(
    out: Annotated[
        Path, typer.Option("--out", help="File to write; its suffix determines the format.", show_default=False)
    ],
    payments: Annotated[
        int | None, typer.Option(help="How many payments. [default: 200000, wire rows 2000]", show_default=False)
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="A log, or wire rows: each payment carries its own history.")
    ] = Format.LOG,
    market: Annotated[
        Path | None,
        typer.Option(
            "--market",
            "-m",
            help="The market whose fields wire rows have, such as markets/eu.toml.",
            show_default=False,
        ),
    ] = None,
    set_: Sets = None,
    quiet: Quiet = False,
    **values: Any,
) -> None:
    """Simulate a log of payments with several kinds of fraud, for experiments. No substitute for real data.

    With --format wire and a market of wire rows: rows that carry their own history, as TSV or CSV (.gz), JSON
    lines or Parquet, with missing values, unknown values, and in some rows a numerical history that is one
    payment shorter than the categorical one.
    """
    from tsa.simulation import write_simulation, write_wire

    wire, truth = format_ is Format.WIRE, values["with_truth"]
    if wire and market is None:
        raise ConfigError("--format wire needs --market FILE (got none): give the market whose fields the rows have")
    if market is not None and not wire:
        raise ConfigError(f"--market needs --format wire (got --market {market}): give both, or neither")
    if set_ and market is None:
        raise ConfigError(f"--set needs --format wire and --market FILE (got --set {set_[0]}): give all three")
    if wire and truth:
        raise ConfigError("--truth must not be given with --format wire: leave it out")
    check_outputs([market], files={"--out": out, "its log file": log_path_for(out)})
    settings = Overrides.read(set_, market, learns=False)
    n = payments if payments is not None else 2_000 if wire else 200_000
    config = SimulationConfig.make({"payments": n, **values})
    with command_session(quiet, log_path_for(out)) as bars:
        if settings.market is None:
            counts = write_simulation(config, out, progress=bars)
        else:
            with bars("simulating", 1) as advance:
                counts = write_wire(config, settings.market, out)
                advance(1)
    result({"out": str(out), **counts})
    print_line(f"{out}: {counts['payments']:,} payments, {counts['frauds']:,} frauds")


@app.command()
def prepare(
    logs: Annotated[
        list[str] | None,
        typer.Argument(help="Parquet, CSV, TSV or JSON lines files (.gz too), globs or URLs.", show_default=False),
    ] = None,
    market: Annotated[
        Path | None,
        typer.Option("--market", "-m", help="The market file. With --append the store's is used.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The store to write: a folder, s3://BUCKET/FOLDER or gs://. With --append: write the extended store "
            "here; default: replace the old one.",
            show_default=False,
        ),
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option(help="Add later payments and known outcomes to this store, a folder or URL.", show_default=False),
    ] = None,
    outcomes: Annotated[
        list[str] | None,
        typer.Option(
            help="With --append: a file of ids, labels and times they were known. Repeatable.", show_default=False
        ),
    ] = None,
    refit_encoder: Annotated[
        bool, typer.Option("--refit-encoder", help="With --append: fit the encoder on the new training rows.")
    ] = False,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    executor: Annotated[
        Executor,
        typer.Option(help="Who works on parts of the log: local, this process; ray, the workers of a Ray cluster."),
    ] = Executor.LOCAL,
    ray_address: RayAddress = None,
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Read and check a log, fit the encoder on its training rows, write the event store.

    With --append, add a later log to a store without reading its logs again: payments that follow, and outcomes, also of
    payments that the store has. The encoder stays, unless --refit-encoder is given.
    """
    quarantined = quarantine_of(quarantine, quarantine_limit)
    need_ray(executor, ray_address)
    workers, logs = partial(_workers, executor, ray_address), logs or []
    if append is not None:
        changes = {"outcomes": outcomes or (), "refit_encoder": refit_encoder, "quarantine": quarantined}
        _append(append, logs, market, out, set_, workers, quiet=quiet, **changes)
        return
    for option, given in {"--outcomes": outcomes, "--refit-encoder": refit_encoder}.items():
        if given:
            raise ConfigError(f"{option} needs --append STORE (got none): give the store to add to")
    if market is None or out is None or not logs:
        raise ConfigError(_missing(logs, market, out))
    if URL.match(str(out)) and not str(out).startswith("file:") and object_url(out) is None:
        raise ConfigError(f"--out must be a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER (got {spelled_url(out)})")
    files = {"--quarantine": quarantine, "its log file": log_path_for(out)}
    check_outputs([*logs, market], files=files, replaced={"--out": None if object_url(out) else out})
    settings = Overrides.read(set_, market, learns=False)
    with command_session(quiet, log_path_for(out)) as bars, workers() as used:
        store = prepare_store(settings, logs, out, quarantined, bars, used)
    result({"out": object_url(out) or str(out), **store.data_report})
    print_store(store)


def _missing(logs: list[str], market: Path | None, out: Path | None) -> str:
    """What a new store needs and was not given."""
    needed = {
        "the log is missing: give its files": logs,
        "--market is missing: give the market file": market,
        "--out is missing: give the folder of the store to write": out,
    }
    return "; ".join(text for text, given in needed.items() if not given)


def _append(
    store: Path,
    logs: list[str],
    market: Path | None,
    out: Path | None,
    set_: list[str] | None,
    workers: Callable[[], AbstractContextManager[Workers]],
    *,
    quiet: bool,
    **changes: Any,
) -> None:
    from tsa.data.store.append import append as append_to

    target = object_url(out or store) or out or store
    check_outputs([*logs, market, *changes["outcomes"]], files={"its log file": log_path_for(out or store)})
    settings = Overrides.read(set_, market, learns=False)
    with command_session(quiet, log_path_for(out or store)) as bars, bars("appending", 1), workers() as used:
        added = append_to(store, logs, market=settings.market, out=out, progress=bars, workers=used, **changes)
    if not added.is_changed:
        print_line(f"{target}: nothing is new; the store has all of it")
    else:
        others = f"{added.outcomes:,} outcomes of earlier ones, {added.repeated:,} rows were there already"
        print_line(f"{target}: {added.payments:,} events are new, {others}")
    if added.store.manifest["splits"]:
        print_store(added.store)


@contextmanager
def _workers(executor: Executor, address: str | None) -> Iterator[Workers]:
    """Yield who works on parts of a log."""
    with cluster_of(executor, address) as ray:
        if ray is None:
            yield HERE
            return
        from tsa.scale.preparing import ray_workers

        yield ray_workers(ray)


def prepare_store(
    settings: Overrides,
    logs: list[str],
    out: Path,
    quarantine: QuarantineLike,
    bars: Progress,
    workers: Workers = HERE,
) -> Any:
    """Prepare the store of a log, with progress bars."""
    from tsa.data.store.prepare import prepare

    assert settings.market is not None
    with bars("preparing", 1):
        return prepare(settings.market, logs, out, quarantine=quarantine, progress=bars, workers=workers)


def print_store(store: Any) -> None:
    """Print the numbers of payments and frauds in each range."""
    table = Table("range", "from", "to", "payments", "labelled", "frauds", title=f"store of {_counted(store)}")
    for name in ("train", "validation", "calibration", "test"):
        rows, labelled = store.split_rows(name), store.labelled(name)
        frauds = int((store.label[labelled] == 1).sum())
        first, last = (
            datetime.fromtimestamp(float(store.time_seconds[row]), UTC).strftime("%Y-%m-%d") for row in rows[[0, -1]]
        )
        table.add_row(name, first, last, f"{len(rows):,}", f"{len(labelled):,}", f"{frauds:,}")
    console.print(table)


def _counted(store: Any) -> str:
    """How many events of which kind a store has."""
    roles = store.data_report.get("roles")
    if roles is None:
        return f"{len(store):,} payments"
    kinds = {"not_scored": "other events", "only_ask": "rows that only ask", "declined": "declined payments"}
    others = [f"{roles[name]:,} {text}" for name, text in kinds.items() if roles[name]]
    return ", ".join([f"{roles['payments']:,} payments", *others])
