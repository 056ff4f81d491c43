"""The `tsa explain` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tsa.cli.app import Logs, MarketSets, Quarantine, QuarantineLimit, Quiet, app, log_path_for, quarantine_of
from tsa.cli.console import command_session, console, print_line
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.results import result
from tsa.files.outputs import check_outputs
from tsa.printable import printable

if TYPE_CHECKING:
    from tsa.explain import Explanation

TITLES = {"raw_score": "raw score", "percentile": "percentile", "probability": "probability"}


@app.command()
def explain(
    bundle: BundleFolder,
    logs: Logs,
    id_: Annotated[list[str], typer.Option("--id", help="A payment to explain. Repeatable.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write everything to this JSON file.", show_default=False)
    ] = None,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Explain the scores of payments of a log: reasons, and the contribution of each history.

    Contributions are in log odds and add up to the difference between the score and that of the reference payment: an
    unremarkable one of a customer never seen before. Positive ones raise the score, negative ones lower it. Histories
    are built from the complete log.
    The JSON file has each feature and each earlier payment; see docs/concepts/reasons.md.
    """
    from tsa.explain import explain_log, write_explanations
    from tsa.files.writing import need_suffix
    from tsa.inference.scorer import Scorer

    log = None if out is None else log_path_for(out)
    check_outputs([bundle, *logs], files={"--out": out, "--quarantine": quarantine, "its log file": log})
    if out is not None:
        need_suffix("--out", out, ".json")
    opened = Scorer.load(bundle, set_ or ()).bundle
    with command_session(quiet, log) as bars:
        explained = explain_log(
            opened, logs, id_, quarantine=quarantine_of(quarantine, quarantine_limit), progress=bars
        )
    result({"explanations": [explanation.to_dict() for explanation in explained]})
    for explanation in explained:
        print_explanation(explanation)
    if out is not None:
        write_explanations(explained, out)
        print_line(f"explanations: {out}")


def print_explanation(explanation: Explanation) -> None:
    """Print a payment's scores, its reasons and the contributions of its histories."""
    scores = ", ".join(f"{TITLES.get(name, name)} {value:.4g}" for name, value in explanation.scores.items())
    print_line(f"{printable(str(explanation.id))}, {(explanation.time or 'at no known time')}: {scores}")
    table = Table("log odds", "reason", "code", box=SIMPLE_HEAD)
    table.columns[0].justify = "right"
    table.columns[2].style = "dim"
    for reason in explanation.reasons:
        table.add_row(f"{reason.attribution:+.3f}", Text(printable(reason.text)), Text(reason.code))
    rest = explanation.total - explanation.residual - sum(reason.attribution for reason in explanation.reasons)
    table.add_row(f"{rest:+.3f}", "all else", "")
    if not explanation.adds_up:
        table.add_row(
            f"{explanation.residual:+.3f}", "could not be attributed: the score jumps between baseline and payment", ""
        )
    table.add_row(f"{explanation.total:+.3f}", f"from {explanation.baseline:.3f} to {explanation.score:.3f}", "")
    console.print(table)
    for history in explanation.histories:
        counted = "" if history.importance is None else f", counts for {history.importance:.0%}"
        print_line(
            f"{history.name}: {len(history.events)} earlier payments{counted}, {history.attribution:+.3f} in all"
        )
    print_line("")
