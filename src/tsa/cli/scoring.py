"""Commands that score."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import Logs, MarketFile, MarketSets, Quarantine, QuarantineLimit, Quiet, Sets, app, beside, set_aside
from tsa.data.outputs import check_outputs
from tsa.settings import Settings
from tsa.terminal import say, session

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
        str, typer.Option(help="torch, onnxruntime (after `tsa export`), or auto: the latter where it can be.")
    ] = "torch",
    precision: Annotated[
        str,
        typer.Option(
            help="float32; int8 (onnxruntime) and, with AVX-512, bf16 (torch) are quicker and move scores a little."
        ),
    ] = "float32",
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Score the payments of a log: id, raw_score, and as far as the bundle is calibrated percentile and probability.

    Histories are taken from the whole log given, so give it the earlier payments too.
    """
    from tsa.scoring.scorer import Scorer, write_scores

    aside = set_aside(quarantine, quarantine_limit)
    check_outputs([bundle, *logs], files={"--out": out, "--quarantine": quarantine, "its log file": beside(out)})
    scorer = Scorer.load(bundle, set_ or (), engine=engine, precision=precision)
    calibration = scorer.bundle.calibration
    with session(quiet, beside(out)) as bars:
        count = write_scores(scorer.parts(logs, start=start, end=end, quarantine=aside, progress=bars), out)
        if calibration is not None and calibration.note:
            logger.warning("%s", calibration.note)
    say(f"{out}: {count:,} payments")


@app.command()
def export(
    bundle: BundleFolder,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the graph to this .onnx file as well.", show_default=False)
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="As an ONNX graph: the only form there is.")] = True,
    precision: Annotated[str, typer.Option(help="float32 or int8: of the weights of matrix products.")] = "float32",
    log: Annotated[
        Path | None,
        typer.Option("--check", help="A log to compare 1,000 payments' scores on, instead of random ones."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Export a bundle's network as an ONNX graph, which ONNX Runtime scores with on CPUs.

    The graph takes any number of payments. It is compared with the network and becomes part of the bundle, which is
    sealed anew; `tsa score --engine onnxruntime` and `tsa serve` then use it.
    """
    from tsa.scoring.exporting import export_bundle

    check_outputs([bundle, log], files={"--out": out, "its log file": beside(bundle)})
    with session(quiet, beside(bundle)) as bars:
        made = export_bundle(bundle, precision, log=log, copy=out, progress=bars)
    kind = "random payments" if log is None else "payments"
    say(f"{bundle}: {made.file}, {made.bytes:,} bytes")
    say(f"scores of {made.compared:,} {kind} within {made.difference.largest:.2g} of the network's")
    graph, network = (1000 * made.seconds[name] for name in ("graph", "network"))
    say(f"a single payment: {graph:.2f} ms, by the network {network:.2f} ms")


@app.command()
def import_original(
    folder: Annotated[
        Path, typer.Argument(help="The folder with the original's weights and artefacts.", show_default=False)
    ],
    market: MarketFile,
    out: Annotated[Path, typer.Option("--out", help="The bundle to write.", show_default=False)],
    weights: Annotated[
        Path | None, typer.Option(help="The weights, where the folder has several .pt, .pth or .safetensors files.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The constructor arguments, where the folder has several more .json files.")
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            help="KIND=P,P: positions of the preprocessor's numerical or engineered scales, from 0 on, that belong to no "
            "feature. Repeatable; over original.leave_out of the market file.",
            show_default=False,
        ),
    ] = None,
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Make a bundle of a model that the original system trained: it then gives the same three scores here.

    The folder holds the weights (a state dict), the constructor arguments (a .json file), cat_to_index.json,
    default_value_dict.json, preprocessor.pkl, percentile_score.pkl and bspline_parameters.json; without the percentiles the
    bundle has none. The market file declares the features in the original's order, and in [original] positions of the scales
    to leave out and defaults that the folder lacks. Whatever is missing or does not fit is listed in one error; nothing
    is executed.
    """
    from tsa.scoring.importing import import_original as import_folder
    from tsa.scoring.importing import left_out

    check_outputs([folder, market, weights, config], files={"its log file": beside(out)}, replaced={"--out": out})
    settings = Settings.read([*(set_ or []), *map(left_out, leave_out or [])], market, learns=False)
    assert settings.market is not None
    with session(quiet, beside(out)):
        bundle = import_folder(folder, settings.market, weights=weights, config=config)
        bundle.save(out)
    names = ", ".join(history.name for history in bundle.market.history)
    say(f"{out}: {sum(p.numel() for p in bundle.network.parameters()):,} parameters, history: {names}")


@app.command()
def export_calibration(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.", show_default=False)],
    quiet: Quiet = False,
) -> None:
    """Write a bundle's calibration as the original's percentile_score.pkl and bspline_parameters.json.

    For programs that read these two files. The percentiles become 1000 pairs of a score and a percentile.
    """
    from tsa.scoring.artefacts import write_original
    from tsa.scoring.bundle import Bundle
    from tsa.scoring.calibration import Calibration

    check_outputs([bundle], into={"--out": out})
    opened = Bundle.open(bundle)
    with session(quiet, out / "export.log"):
        written = write_original(opened.calibration or Calibration(), out)
    for path in written:
        say(str(path))
