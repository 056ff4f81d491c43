"""The commands `tsa score` and `tsa export`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsa.cli.app import MarketSets, Quarantine, QuarantineLimit, Quiet, app, log_path_for, quarantine_of
from tsa.cli.console import command_session, print_line
from tsa.cli.terminal.results import remains, result
from tsa.files.outputs import check_outputs, is_stream

if TYPE_CHECKING:
    from tsa.inference.scorer import LogOrStore

logger = logging.getLogger(__name__)

BundleFolder = Annotated[Path, typer.Argument(help="A bundle, such as RUN/bundle.", show_default=False)]


@app.command()
def score(
    bundle: BundleFolder,
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE|LOGS...",
            help="A log: Parquet, CSV, TSV or JSON lines files (.gz too), globs or URLs. Or a store, or its URL, that was "
            "made with the encoder of the bundle.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Parquet or CSV file for the scores; or, without an ending, a folder with a Parquet file for each day.",
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
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Score the payments of a log: id, raw_score and, if the bundle is calibrated, percentile and probability.

    Histories are built from the complete log, so include earlier payments. Days that an interrupted command has scored
    into a folder are not scored again.
    """
    from tsa.data.store.object_store import is_store
    from tsa.data.store.store import EventStore
    from tsa.inference.scorer import Scorer

    by_day, quarantined = not (out.suffix or is_stream(out)), quarantine_of(quarantine, quarantine_limit)
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
            from tsa.inference.score_days import score_by_day

            remains(f"days that are scored are not scored again by the same command, which writes {out}")
            how = {"engine": scorer.engine.name, "precision": precision, "overrides": list(set_ or ())}
            count = score_by_day(scorer, payments, out, settings=how, progress=bars, **window).payments
        else:
            from tsa.inference.score_files import write_scores

            count = write_scores(scorer.parts(payments, progress=bars, **window), out)
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
