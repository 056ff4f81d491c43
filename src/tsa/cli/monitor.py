"""The `tsa monitor` command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tsa.cli.app import MarketSets, OptionalLogs, Quarantine, QuarantineLimit, Quiet, app, quarantine_of
from tsa.cli.console import command_session, print_line
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.results import result
from tsa.files.outputs import check_outputs

ALERT = 3
"""Exit code when there is an alert."""


@app.command()
def monitor(
    bundle: BundleFolder,
    logs: OptionalLogs = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            help="Instead of LOGS: the log of decisions of a server. Counts what this bundle answered.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with: a log (repeatable), or the reference.json of an earlier run of this command; "
            "default: the range that the bundle was calibrated on, if it is in its run folder.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.")] = Path("monitor"),
    start: Annotated[
        str | None, typer.Option("--from", help="Monitor payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Monitor payments before this time.")] = None,
    reference_start: Annotated[
        str | None,
        typer.Option(
            "--reference-from", help="Compare with payments from this time on (of LOGS, without --reference)."
        ),
    ] = None,
    reference_end: Annotated[
        str | None, typer.Option("--reference-to", help="Compare with payments before this time.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Outcomes that were known by this time count; default: the last payment of LOGS.", show_default=False
        ),
    ] = None,
    market: Annotated[
        Path | None,
        typer.Option(
            "--market", "-m", help="Thresholds from this file's [monitoring] table; default: the bundle's market."
        ),
    ] = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Detect drift: compare the payments, scores, volume and performance of a bundle with a reference.

    Writes monitor.html, monitor.json and reference.json. Exit codes: 3 if there is an alert, 0 if not (a warning is not an
    alert), 2 for bad input. Histories are built from the complete log, so include earlier payments and use --from.
    An outcome counts from the time it is known: the label's delay after the payment. Thresholds: the market's [monitoring] table.
    """
    from tsa.monitoring.expected_view import sentence
    from tsa.monitoring.monitor import Span
    from tsa.monitoring.monitor import monitor as watch

    reference_quarantine = None if quarantine is None else quarantine.with_stem(f"{quarantine.stem}-reference")
    check_outputs(
        [bundle, *(logs or []), *(reference or []), market, decisions],
        files={
            "--quarantine": quarantine,
            "the quarantine of the reference": reference_quarantine,
            **{f"--out, {name}": out / name for name in ("monitor.json", "monitor.html", "monitor.log")},
        },
        into={"--out": out},
    )
    with command_session(quiet, out / "monitor.log") as bars:
        report = watch(
            bundle,
            logs or (),
            out,
            reference=reference or (),
            span=Span(start=start, end=end),
            reference_span=Span(start=reference_start, end=reference_end),
            as_of=as_of,
            market=market,
            overrides=set_ or (),
            quarantine=quarantine_of(quarantine, quarantine_limit),
            replicates=replicates,
            decisions=decisions,
            progress=bars,
        )
    result({"out": str(out), "report": report})
    print_alerts(report)
    print_line(report["summary"])
    print_line(sentence(report["expected"]))
    print_line(f"page: {out / 'monitor.html'}")
    if any(alert["severity"] == "alert" for alert in report["alerts"]):
        raise typer.Exit(ALERT)


def print_alerts(report: Mapping[str, Any]) -> None:
    """Print one line per alert or warning; lines are never wrapped, so that they can be piped."""
    for alert in report["alerts"]:
        about = f" of {alert['feature']}" if alert["feature"] else ""
        before = "" if alert["reference"] is None else f", reference {alert['reference']:.4g}"
        window = f"{alert['window']['start'][:10]} to {alert['window']['end'][:10]}"
        what = f"{alert['measure']}{about} {alert['value']:.4g}{before}, threshold {alert['threshold']:g}"
        print_line(f"{alert['severity']}: {what}, {window}")
