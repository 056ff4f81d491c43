"""The commands `tsa score` and `tsa export`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import Logs, MarketSets, Quarantine, QuarantineLimit, Quiet, app, log_path_for, quarantine_of
from tsa.cli.console import command_session, print_line
from tsa.cli.terminal.results import result
from tsa.files.outputs import check_outputs

logger = logging.getLogger(__name__)

BundleFolder = Annotated[Path, typer.Argument(help="A bundle, such as RUN/bundle.", show_default=False)]


@app.command()
def score(
    bundle: BundleFolder,
    logs: Logs,
    out: Annotated[Path, typer.Option("--out", help="Parquet or CSV file for the scores.", show_default=False)],
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
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Score the payments of a log: id, raw_score and, if the bundle is calibrated, percentile and probability.

    Histories are built from the complete log, so include earlier payments.
    """
    from tsa.inference.score_files import write_scores
    from tsa.inference.scorer import Scorer

    quarantined = quarantine_of(quarantine, quarantine_limit)
    check_outputs([bundle, *logs], files={"--out": out, "--quarantine": quarantine, "its log file": log_path_for(out)})
    scorer = Scorer.load(bundle, set_ or (), engine=engine, precision=precision)
    calibration = scorer.bundle.calibration
    with command_session(quiet, log_path_for(out)) as bars:
        count = write_scores(scorer.parts(logs, start=start, end=end, quarantine=quarantined, progress=bars), out)
        if calibration is not None and calibration.note:
            logger.warning("%s", calibration.note)
    note = None if calibration is None else calibration.note
    result({"out": str(out), "payments": count, "note": note or None})
    print_line(f"{out}: {count:,} payments")


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
    onnx: Annotated[bool, typer.Option("--onnx", help="Export an ONNX graph, the only format.")] = True,
    precision: Annotated[str, typer.Option(help="float32 or int8, for the weights of matrix products.")] = "float32",
    log: Annotated[
        Path | None,
        typer.Option("--check", help="A log with 1,000 payments on which to compare scores, instead of random ones."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Export a bundle's network and its trees as ONNX graphs. ONNX Runtime scores faster than PyTorch on CPUs.

    The graphs take any number of payments. They are compared with network and trees and become part of the bundle, which
    is hashed again. `tsa score --engine onnxruntime` and `tsa serve` then use the network's graph. The trees' graph is for
    other programs: TSA computes trees with LightGBM.
    """
    from tsa.inference.export_bundle import export_bundle, trees_copy

    files = {"--out": out, "the file of the trees": trees_copy(out), "its log file": log_path_for(bundle)}
    check_outputs([bundle, log], files=files)
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
