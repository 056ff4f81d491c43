"""The commands `tsa score` and `tsa export`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsa.cli.app import (
    Executor,
    MarketSets,
    Quarantine,
    QuarantineLimit,
    Quiet,
    RayAddress,
    app,
    log_path_for,
    need_ray,
    quarantine_of,
)
from tsa.cli.console import command_session, print_line
from tsa.cli.terminal.results import remains, result
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs, is_stream

if TYPE_CHECKING:
    from tsa.inference.scorer import LogOrStore, Scorer

logger = logging.getLogger(__name__)


BundleFolder = Annotated[Path, typer.Argument(help="A bundle, such as RUN/bundle.", show_default=False)]


@app.command()
def score(
    bundle: BundleFolder,
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE|LOG",
            help="A log: Parquet, CSV, TSV or JSON lines files (.gz too), globs or URLs. Or a store, or its URL, that was "
            "made with the encoder of the bundle.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Parquet or CSV file for the scores; or a name without a file extension: a folder with a Parquet file for "
            "each day.",
            show_default=False,
        ),
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="Score payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Score payments before this time.")] = None,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    engine: Annotated[
        str, typer.Option(help="torch, onnxruntime (after `tsa export`), or auto: onnxruntime if possible.")
    ] = "torch",
    precision: Annotated[
        str,
        typer.Option(
            help="float32; int8 (onnxruntime) and, with AVX-512, bf16 (torch) are faster and change scores slightly."
        ),
    ] = "float32",
    executor: Annotated[
        Executor,
        typer.Option(help="Who scores the days of a folder: local, this process; ray, the workers of a Ray cluster."),
    ] = Executor.LOCAL,
    ray_address: RayAddress = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Score the payments of a log: id, raw_score and, if the bundle is calibrated, percentile and probability.

    Histories are built from the complete log, so include earlier payments. If --out is a folder, repeating an interrupted command
    continues with the missing days.
    """
    from tsa.data.store.object_store import is_store
    from tsa.data.store.store import EventStore
    from tsa.inference.scorer import Scorer

    by_day, quarantined = not (out.suffix or is_stream(out)), quarantine_of(quarantine, quarantine_limit)
    _check_executor(executor, ray_address, out, by_day=by_day)
    others = {"--quarantine": quarantine, "its log file": log_path_for(out)}
    check_outputs(
        [bundle, *logs],
        files=others if by_day else {"--out": out, **others},
        replaced={"--out": out} if by_day else None,
    )
    scorer = Scorer.load(bundle, set_ or (), engine=engine, precision=precision)
    calibration = scorer.bundle.calibration
    window: dict[str, Any] = {"start": start, "end": end, "quarantine": quarantined}
    with command_session(quiet, log_path_for(out)) as bars:
        store = EventStore.open(logs[0], scorer.bundle.market) if len(logs) == 1 and is_store(logs[0]) else None
        payments: LogOrStore = logs if store is None else store
        if by_day:
            remains(f"days that are scored are not scored again by the same command, which writes {out}")
            how = {"engine": engine, "precision": precision, "overrides": tuple(set_ or ())}
            count = _score_days(scorer, bundle, payments, out, executor, ray_address, how, progress=bars, **window)
        else:
            from tsa.inference.score_files import write_scores

            count = write_scores(scorer.parts(payments, progress=bars, **window), out)
        if calibration is not None and calibration.note:
            logger.warning("%s", calibration.note)
    note = None if calibration is None else calibration.note
    result({"out": str(out), "payments": count, "note": note or None})
    print_line(f"{out}: {count:,} payments")


def _check_executor(executor: Executor, address: str | None, out: Path, *, by_day: bool) -> None:
    """Raise ConfigError for an executor that does not fit the output."""
    if executor is Executor.RAY and not by_day:
        raise ConfigError(
            f"--executor ray needs a folder as --out, without an ending (got {out}): leave out {out.suffix}"
        )
    need_ray(executor, address)


def _score_days(
    scorer: Scorer,
    bundle: Path,
    payments: LogOrStore,
    out: Path,
    executor: Executor,
    address: str | None,
    how: dict[str, Any],
    **settings: Any,
) -> int:
    """Score by day, by this process or by a cluster. Returns the number of payments."""
    from tsa.inference.score_days import score_by_day

    engine = scorer.engine.name  # never "auto": all workers use the same
    how = {**how, "engine": engine}
    if executor is Executor.LOCAL:
        return score_by_day(scorer, payments, out, settings=how, **settings).payments
    from tsa.scale.cluster import ray_cluster
    from tsa.scale.scoring import ray_days

    with ray_cluster(address) as ray:
        score = partial(ray_days, ray, bundle, **how)
        return score_by_day(scorer, payments, out, score=score, settings=how, **settings).payments


@app.command()
def export(
    bundle: BundleFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Also write the graph to this .onnx file, and that of trees to NAME.trees.onnx.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="float32 or int8, for the weights of matrix products.")] = "float32",
    log: Annotated[
        Path | None,
        typer.Option(
            "--check", help="Compare the scores on the last payments of this log, up to 1,000, instead of random ones."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Export a bundle's network and its trees as ONNX graphs. ONNX Runtime scores faster than PyTorch on CPUs.

    The graphs take any number of payments. They are compared with network and trees and become part of the bundle, which
    is hashed again. `tsa score --engine onnxruntime` and `tsa serve` then use the network's graph. The trees' graph is for
    other programs: TSA computes trees with LightGBM.
    """
    from tsa.files.writing import need_suffix
    from tsa.inference.export_bundle import export_bundle, trees_copy

    files = {"--out": out, "the file of the trees": trees_copy(out), "its log file": log_path_for(bundle)}
    check_outputs([bundle, log], files=files)
    if out is not None:
        need_suffix("--out", out, ".onnx")
    with command_session(quiet, log_path_for(bundle)) as bars:
        made = export_bundle(bundle, precision, log=log, copy=out, progress=bars)
    result({"bundle": str(bundle), **asdict(made)})
    kind = "random payments" if log is None else "payments"
    print_line(f"{bundle}: {made.file}, {made.bytes:,} bytes")
    print_line(f"scores of {made.compared:,} {kind} within {made.difference.largest:.2g} of the network's")
    graph, network = (1000 * made.seconds[name] for name in ("graph", "network"))
    print_line(f"a single payment: {graph:.2f} ms, by the network {network:.2f} ms")
    if made.trees is not None:
        print_line(f"{bundle}: {made.trees.file}, {made.trees.bytes:,} bytes")
        print_line(
            f"log odds of {made.trees.compared:,} payments, most of them at the thresholds, within "
            f"{made.trees.log_odds:.2g} of LightGBM's"
        )
