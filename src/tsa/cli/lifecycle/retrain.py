"""The command `tsa retrain`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import MarketFile, Preset, Quarantine, QuarantineLimit, Quiet, Sets, app, quarantine_of
from tsa.cli.console import command_session, console, print_line
from tsa.cli.registry import Place, user_name
from tsa.cli.terminal.results import result
from tsa.config.overrides import Overrides
from tsa.files.outputs import check_outputs

GATE_FAILED = 10
"""Exit code: the candidate is published, but does not pass the gate."""


@app.command()
def retrain(
    market: MarketFile,
    store: Annotated[
        Path, typer.Option("--store", help="The store; created from the logs if there is none.", show_default=False)
    ],
    url: Place,
    logs: Annotated[
        list[str] | None, typer.Argument(help="Logs to append to the store first.", show_default=False)
    ] = None,
    outcomes: Annotated[
        list[str] | None,
        typer.Option(
            help="A file of ids, labels and times they were known, to append. Repeatable.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder for runs. [default: STORE-retrain]", show_default=False)
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Move the alias to the new bundle if it passes the rules of [promotion].")
    ] = False,
    champion: Annotated[str, typer.Option("--alias", help="The alias of the bundle in use.")] = "champion",
    challenger: Annotated[str, typer.Option(help="The alias that the new bundle gets in any case.")] = "challenger",
    by: Annotated[str | None, typer.Option("--by", help="Who does this; default: the user's name.")] = None,
    key: Annotated[Path | None, typer.Option(help="A private key (PEM) to sign the bundle with.")] = None,
    keep_encoder: Annotated[
        bool, typer.Option("--keep-encoder", help="Encode as before; do not fit the encoder on the new training rows.")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train again on all outcomes that are known when the test range begins.")
    ] = False,
    preset: Preset = "default",
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", help="TOML file with tables [training] and [model].", show_default=False),
    ] = None,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Append new logs, train, compare with the champion on the same payments, publish, and promote.

    The new bundle is published as challenger. With --promote it becomes the champion if it passes the gate: the
    rules of [promotion] in the market file. Exit code 0: it passes. 10: it is published, but does not pass. One call is a
    round: the same call continues a round that was killed, and does nothing after one that is finished.
    """
    from tsa.retraining import retrain as run_round
    from tsa.training import TrainingConfig

    folder = out or store.with_name(f"{store.name}-retrain")
    inputs = [*(logs or []), *(outcomes or []), market, settings_file, key]
    check_outputs(inputs, files={"--quarantine": quarantine}, into={"--out": folder}, replaced={"--store": store})
    settings = Overrides.read(set_, market, file=settings_file)
    assert settings.market is not None
    folder.mkdir(parents=True, exist_ok=True)
    with command_session(quiet, folder / "retrain.log") as bars:
        made = run_round(
            settings.market,
            store,
            url,
            logs or (),
            outcomes=outcomes or (),
            out=folder,
            preset=preset,
            model=settings.model,
            training=TrainingConfig.make(settings.training),
            quarantine=quarantine_of(quarantine, quarantine_limit),
            keep_encoder=keep_encoder,
            refit=refit,
            champion=champion,
            challenger=challenger,
            promote=promote,
            by=by or user_name(),
            signing_key=None if key is None else key.read_bytes(),
            progress=bars,
        )
    result(asdict(made))
    print_gate(made.gate)
    print_line(made.summary)
    print_line(f"page: {made.run / 'retrain.html'}")
    if not made.passed and not made.promoted:
        raise SystemExit(GATE_FAILED)


def print_gate(gate: dict[str, Any] | Any) -> None:
    """Print a row for each rule."""
    table = Table("rule", "value", "limit", "holds", title="gate", box=SIMPLE_HEAD)
    for rule in gate["rules"]:
        value = "–" if rule["value"] is None else f"{rule['value']:.4g}"
        limit = f"at least {rule['at_least']:g}" if "at_least" in rule else f"at most {rule['at_most']:g}"
        table.add_row(rule["text"], value, limit, "yes" if rule["passed"] else "NO")
    console.print(table)
