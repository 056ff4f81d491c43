"""Commands for the legacy TSA system: import its models, export calibrations for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import MarketFile, Quiet, Sets, app, log_path_for
from tsa.cli.console import command_session, print_line
from tsa.cli.groups import make_group
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.results import result
from tsa.config.overrides import Overrides
from tsa.files.outputs import check_outputs

legacy = make_group("Models of the legacy TSA system.")
app.add_typer(legacy, name="legacy")


@legacy.command("import")
def import_legacy(
    folder: Annotated[
        Path, typer.Argument(help="The folder with the legacy system's weights and artefacts.", show_default=False)
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
            help="KIND=P,P: positions, from 0 on, of scales in the preprocessor that belong to no feature; KIND is numerical or "
            "engineered. Repeatable; overrides legacy.leave_out of the market file.",
            show_default=False,
        ),
    ] = None,
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Import a model of the legacy system. The bundle gives the same three scores.

    The folder contains the weights (a state dict), the constructor arguments (a .json file), cat_to_index.json,
    default_value_dict.json, preprocessor.pkl, percentile_score.pkl and bspline_parameters.json. Without percentile_score.pkl
    the bundle has no percentiles. The market file lists the features in the legacy system's order. Its [legacy] table has the
    scales to leave out and the defaults that the folder lacks. One error lists everything that is missing or does not
    fit. No code in the folder is executed.
    """
    from tsa.legacy.importer import import_legacy as import_folder
    from tsa.legacy.importer import left_out

    check_outputs([folder, market, weights, config], files={"its log file": log_path_for(out)}, replaced={"--out": out})
    settings = Overrides.read([*(set_ or []), *map(left_out, leave_out or [])], market, learns=False)
    assert settings.market is not None
    with command_session(quiet, log_path_for(out)):
        bundle = import_folder(folder, settings.market, weights=weights, config=config)
        bundle.save(out)
    names = ", ".join(history.name for history in bundle.market.history)
    parameters = sum(p.numel() for p in bundle.network.parameters())
    result({"out": str(out), "parameters": parameters, "histories": names.split(", ")})
    print_line(f"{out}: {parameters:,} parameters, history: {names}")


@legacy.command()
def export_calibration(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.", show_default=False)],
    quiet: Quiet = False,
) -> None:
    """Write a bundle's calibration as the legacy system's percentile_score.pkl and bspline_parameters.json.

    For programs that read these two files. The percentiles become 1000 pairs of a score and a percentile.
    """
    from tsa.bundle.bundle import Bundle
    from tsa.calibration.calibration import Calibration
    from tsa.legacy.artifacts import write_legacy

    check_outputs([bundle], into={"--out": out})
    opened = Bundle.open(bundle)
    with command_session(quiet, out / "export.log"):
        written = write_legacy(opened.calibration or Calibration(), out)
    result({"files": [str(path) for path in written]})
    for path in written:
        print_line(str(path))
